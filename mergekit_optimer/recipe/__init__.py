"""What the user writes: recipe.yaml as strict, frozen models. No torch, no file but the recipe itself."""

from mergekit_optimer.recipe.load import load_recipe
from mergekit_optimer.recipe.models import (
    DATA_MIXTURE,
    OPTIMISED_MIXTURE,
    REPO,
    DatasetSpec,
    MixtureSpec,
    Recipe,
    TrainSection,
    VectorSpec,
)
from mergekit_optimer.recipe.search import RACE_FROM, Objective, Rung, SamplerSpec, SearchSection, WeightInterval
from mergekit_optimer.recipe.sources import ModelSource, Name, Section, Source, TextSource, is_name
from mergekit_optimer.recipe.tasks import ChoiceTask, GenerateTask, LightevalTask, TaskSpec, TextTask

__all__ = [
    "DATA_MIXTURE",
    "OPTIMISED_MIXTURE",
    "RACE_FROM",
    "REPO",
    "ChoiceTask",
    "DatasetSpec",
    "GenerateTask",
    "LightevalTask",
    "MixtureSpec",
    "ModelSource",
    "Name",
    "Objective",
    "Recipe",
    "Rung",
    "SamplerSpec",
    "SearchSection",
    "Section",
    "Source",
    "TaskSpec",
    "TextSource",
    "TextTask",
    "TrainSection",
    "VectorSpec",
    "WeightInterval",
    "is_name",
    "load_recipe",
]
