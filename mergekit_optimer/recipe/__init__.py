"""What the user writes: recipe.yaml as strict, frozen models. No torch, no file but the recipe itself."""

from mergekit_optimer.recipe.load import load_recipe
from mergekit_optimer.recipe.models import (
    ChoiceTask,
    DatasetSpec,
    GenerateTask,
    LightevalTask,
    ModelSource,
    Objective,
    Recipe,
    Rung,
    SamplerSpec,
    SearchSection,
    Source,
    TaskSpec,
    TextSource,
    TextTask,
    VectorSpec,
    WeightInterval,
)

__all__ = [
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
    "VectorSpec",
    "WeightInterval",
    "load_recipe",
]
