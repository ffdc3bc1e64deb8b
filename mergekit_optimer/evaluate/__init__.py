"""Scores of a live model, per sample, from lighteval. The one place with lighteval's work-arounds."""

from mergekit_optimer.evaluate.models import load_model
from mergekit_optimer.evaluate.parts import PartScores
from mergekit_optimer.evaluate.scorer import Scorer, check_tasks

__all__ = ["PartScores", "Scorer", "check_tasks", "load_model"]
