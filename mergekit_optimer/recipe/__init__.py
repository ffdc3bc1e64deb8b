"""What the user writes: recipe.yaml as strict, frozen models. No torch, no file but the recipe itself."""

from mergekit_optimer.recipe.load import load_recipe
from mergekit_optimer.recipe.models import (
    DATA_MIXTURE,
    DatasetSpec,
    Recipe,
    TrainSection,
    VectorSpec,
)
from mergekit_optimer.recipe.search import RACE_FROM, Objective, Rung, SamplerSpec, SearchSection, WeightInterval
from mergekit_optimer.recipe.sources import ModelSource, Source, TextSource
from mergekit_optimer.recipe.tasks import ChoiceTask, GenerateTask, LightevalTask, TaskSpec, TextTask

__all__ = [
    "DATA_MIXTURE",
    "RACE_FROM",
    "ChoiceTask",
    "DatasetSpec",
    "GenerateTask",
    "LightevalTask",
    "ModelSource",
    "Objective",
    "Recipe",
    "Rung",
    "SamplerSpec",
    "SearchSection",
    "Source",
    "TaskSpec",
    "TextSource",
    "TextTask",
    "TrainSection",
    "VectorSpec",
    "WeightInterval",
    "load_recipe",
]
