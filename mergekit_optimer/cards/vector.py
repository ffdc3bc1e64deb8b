"""Facts of a distribution vector -> the card of its repository. Reads nothing and measures nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mergekit_optimer.cards.environment import render
from mergekit_optimer.cards.metadata import PROJECT_TAG, metadata_yaml
from mergekit_optimer.cards.text import public
from mergekit_optimer.cards.trained import TrainedFacts, base_cell, dataset_cell, facts_table, known
from mergekit_optimer.cards.yaml_text import COMMIT, dump, flow_entry
from mergekit_optimer.report import is_repo
from mergekit_optimer.report.numbers import format_number
from mergekit_optimer.vectors import WELL_APPLIED

TAGS = (PROJECT_TAG, "distribution-vector", "task-vector")


@dataclass(frozen=True, kw_only=True)
class VectorCard(TrainedFacts):
    """A distribution vector in its repository.

    Attributes:
        norm: Euclidean norm over all tensors; ``relative_norm``: over the base model's norm.
        applied_fraction: Part of the vector that survives rounding to the base model's storage dtype.
        source: What it was made from where it was not trained here: repo@sha of a checkpoint or an adapter.
        pool_repo: Repository of the pool that it belongs to.
    """

    norm: float | None = None
    relative_norm: float | None = None
    applied_fraction: float | None = None
    source: str | None = None
    pool_repo: str | None = None


def render_vector_card(facts: VectorCard) -> str:
    """Return README.md of a distribution vector: what it is, how it is added to a pool, and what it is not good for.

    Raises:
        jinja2.UndefinedError: A template names a variable that it is not given.
    """
    shown = public(facts)
    made_from = [("made from", shown.source)] if shown.source else []
    numbers = known({"norm": shown.norm, "relative norm": shown.relative_norm, "applied": shown.applied_fraction})
    return render(
        "vector.md.jinja",
        metadata_yaml(
            base_models=[facts.base_repo],
            datasets=[facts.dataset_repo],
            tags=TAGS,
            library="mergekit",
            license=shown.license,
            language=shown.language,
        ),
        facts=shown,
        base=base_cell(shown),
        dataset=dataset_cell(shown) if shown.dataset or shown.dataset_repo else None,
        table=facts_table(shown, [*made_from, *numbers]),
        recipe=_recipe(shown),
        merge=_merge(shown),
        limits=_limits(shown),
        pool_repo=shown.pool_repo if is_repo(facts.pool_repo) else None,
    )


def _recipe(facts: VectorCard) -> str:
    return "vectors:\n" + flow_entry(facts.name, {"delta": {"repo": facts.repo, "revision": COMMIT}}, indent=2)


def _merge(facts: VectorCard) -> str:
    base = facts.base_repo or facts.base_label
    if facts.base_repo and facts.base_revision:
        base = f"{facts.base_repo}@{facts.base_revision}"
    model: dict[str, Any] = {"model": f"{facts.repo}@{COMMIT}", "parameters": {"weight": 0.5, "kind": "delta"}}
    return dump({"merge_method": "distribution_arithmetic", "base_model": base, "models": [model]})


def _limits(facts: VectorCard) -> list[str]:
    found = [
        f"It fits {facts.base_label} only: added to any other model, of the same architecture too, it is noise.",
        "It is what one training run changed, with one seed. What it does to other languages and abilities is not "
        "known before it is measured in a merge.",
    ]
    if facts.applied_fraction is not None and facts.applied_fraction < WELL_APPLIED:
        found.append(
            f"A merge stored as the base model is keeps {format_number(facts.applied_fraction)} of it at weight 1, and "
            "less at smaller weights."
        )
    if not is_repo(facts.base_repo):
        found.append("Its base model is not on the Hub: only who has it can use this vector.")
    if facts.dataset and not is_repo(facts.dataset_repo):
        found.append("Its data are not on the Hub: nobody else can train it again.")
    return found
