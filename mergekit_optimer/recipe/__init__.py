"""What the user writes: recipe.yaml as strict, frozen models. No torch, no file but the recipe itself."""

from mergekit_optimer.recipe.load import load_recipe
from mergekit_optimer.recipe.models import (
    DATA_MIXTURE,
    DatasetSpec,
    Objective,
    Recipe,
    Rung,
    SamplerSpec,
    SearchSection,
    TrainSection,
    VectorSpec,
    WeightInterval,
)
from mergekit_optimer.recipe.sources import ModelSource, Source, TextSource
from mergekit_optimer.recipe.tasks import ChoiceTask, GenerateTask, LightevalTask, TaskSpec, TextTask

__all__ = [
    "DATA_MIXTURE",
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
