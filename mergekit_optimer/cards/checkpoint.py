"""Facts of a CPT checkpoint -> the card of its repository. Reads nothing and measures nothing."""

from __future__ import annotations

from dataclasses import dataclass

from mergekit_optimer.cards.environment import render
from mergekit_optimer.cards.metadata import PROJECT_TAG, metadata_yaml
from mergekit_optimer.cards.text import public
from mergekit_optimer.cards.trained import TrainedFacts, base_cell, dataset_cell, facts_table
from mergekit_optimer.recipe import DATA_MIXTURE
from mergekit_optimer.report import is_repo

TAGS = (PROJECT_TAG, "continual-pre-training", "trl")


@dataclass(frozen=True, kw_only=True)
class CheckpointCard(TrainedFacts):
    """A CPT checkpoint in its repository.

    Attributes:
        vector_repo: Repository of the distribution vector made from it.
    """

    vector_repo: str | None = None


def render_checkpoint_card(facts: CheckpointCard) -> str:
    """Return README.md of a CPT checkpoint: what it was trained on, how it is loaded, and what it is for.

    Raises:
        jinja2.UndefinedError: A template names a variable that it is not given.
    """
    shown = public(facts)
    return render(
        "checkpoint.md.jinja",
        metadata_yaml(
            base_models=[facts.base_repo],
            datasets=[facts.dataset_repo],
            tags=TAGS,
            library="transformers",
            license=shown.license,
            language=shown.language,
            relation="finetune",
            pipeline_tag="text-generation",
        ),
        facts=shown,
        base=base_cell(shown),
        dataset=dataset_cell(shown) if shown.dataset or shown.dataset_repo else None,
        table=facts_table(shown, []),
        is_mixture=_is_mixture(shown),
        vector_repo=shown.vector_repo if is_repo(facts.vector_repo) else None,
        limits=_limits(shown),
    )


def _is_mixture(facts: CheckpointCard) -> bool:
    # No dataset may have that name.
    return facts.name == DATA_MIXTURE


def _limits(facts: CheckpointCard) -> list[str]:
    alone = "It was trained on the mixed data of several datasets as a baseline"
    if not _is_mixture(facts):
        alone = "It was trained on one kind of text alone, to be merged"
    found = [
        f"{alone}: it may have lost other languages and abilities, and nothing here says how much.",
        "It continues text. It was not tuned to follow instructions, and nothing was done about bias or safety.",
    ]
    if not is_repo(facts.base_repo):
        found.append("Its base model is not on the Hub.")
    if facts.dataset and not is_repo(facts.dataset_repo) and not _is_mixture(facts):
        found.append("Its data are not on the Hub: nobody else can train it again.")
    return found
