"""What the cards of a distribution vector and of its CPT checkpoint share: one training, in facts and as a table."""

from __future__ import annotations

from dataclasses import dataclass, field

from mergekit_optimer.report import hub_cell
from mergekit_optimer.report.numbers import format_number
from mergekit_optimer.report.tables import Table

Rows = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class TrainedFacts:
    """One CPT run on one dataset. What is None is not known and not said.

    Attributes:
        repo: Repository that the card is for.
        name: The vector's name in its pool.
        base_label: What the base model is called: repo@sha, or a folder's name.
        base_repo: Its Hub repository; None for a local folder. ``base_revision``: its commit sha.
        base_fingerprint: ``model_fingerprint`` of the base.
        dataset: Label of the data. ``dataset_repo``: its Hub repository; ``dataset_revision``: the commit sha.
        n_tokens: Tokens trained on, over all epochs.
        final_loss: Mean training loss over the last logged steps.
        dtype: Of the tensors that are stored.
        versions: Package -> version.
    """

    repo: str
    name: str
    base_label: str
    base_repo: str | None = None
    base_revision: str | None = None
    base_fingerprint: str
    dataset: str | None = None
    dataset_repo: str | None = None
    dataset_revision: str | None = None
    n_tokens: int | None = None
    n_steps: int | None = None
    learning_rate: float | None = None
    final_loss: float | None = None
    dtype: str | None = None
    license: str | None = None
    language: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)


def base_cell(facts: TrainedFacts) -> str:
    return hub_cell(facts.base_label, facts.base_repo, facts.base_revision)


def dataset_cell(facts: TrainedFacts) -> str:
    return hub_cell(facts.dataset or facts.dataset_repo or "–", facts.dataset_repo, facts.dataset_revision, "dataset")


def facts_table(facts: TrainedFacts, more: Rows) -> Table:
    """The training a fact a row, unknown ones left out, then ``more``."""
    data = [("data", dataset_cell(facts))] if facts.dataset or facts.dataset_repo else []
    numbers = {
        "tokens": facts.n_tokens,
        "steps": facts.n_steps,
        "learning rate": facts.learning_rate,
        "last training loss": facts.final_loss,
    }
    stored = [("stored in", facts.dtype)] if facts.dtype else []
    rows: Rows = [("base model", base_cell(facts)), *data, *known(numbers), *stored, *more]
    return Table(("fact", ""), tuple(rows))


def known(numbers: dict[str, float | None]) -> Rows:
    """Numbers as rows, without those that are not known."""
    return [(name, format_number(number)) for name, number in numbers.items() if number is not None]
