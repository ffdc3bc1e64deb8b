"""Facts of a vector pool -> the card of its repository, which holds pool.json and no weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from mergekit_optimer.cards.environment import render
from mergekit_optimer.cards.metadata import PROJECT_TAG, metadata_yaml
from mergekit_optimer.cards.text import public
from mergekit_optimer.cards.yaml_text import flow_entry
from mergekit_optimer.report import hub_cell, is_pinned, is_repo
from mergekit_optimer.report.numbers import format_number
from mergekit_optimer.report.tables import Table

TAGS = (PROJECT_TAG, "distribution-vector", "task-vector", "vector-pool")


@dataclass(frozen=True)
class PoolRow:
    """One vector of the pool: its repository at a commit, the label of its data and its norm, where known."""

    name: str
    repo: str
    revision: str
    dataset: str | None = None
    norm: float | None = None


@dataclass(frozen=True, kw_only=True)
class PoolCard:
    """A vector pool in its repository.

    Attributes:
        base_label: What the base model is called: repo@sha, or a folder's name.
        base_repo: Its Hub repository; None for a local folder. ``base_revision``: its commit sha.
        base_fingerprint: ``model_fingerprint`` of the base.
        versions: Package -> version.
    """

    repo: str
    name: str
    base_label: str
    base_repo: str | None = None
    base_revision: str | None = None
    base_fingerprint: str | None = None
    license: str | None = None
    language: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    rows: tuple[PoolRow, ...]


def render_pool_card(facts: PoolCard) -> str:
    """Return README.md of a vector pool: which vectors at which commits, and the recipe that takes them.

    Raises:
        jinja2.UndefinedError: A template names a variable that it is not given.
    """
    shown = public(facts)
    return render(
        "pool.md.jinja",
        metadata_yaml(
            base_models=[facts.base_repo],
            datasets=[],
            tags=TAGS,
            library="mergekit",
            license=shown.license,
            language=shown.language,
        ),
        facts=shown,
        base=hub_cell(shown.base_label, shown.base_repo, shown.base_revision),
        table=_table(shown),
        pull=f"mergekit-optimer vectors pull {facts.repo}" if is_repo(facts.repo) else None,
        recipe=_recipe(shown),
        base_is_on_the_hub=is_pinned(facts.base_repo, facts.base_revision),
    )


def _table(facts: PoolCard) -> Table:
    rows = (
        (row.name, hub_cell(f"{row.repo}@{row.revision}", row.repo, row.revision), row.dataset or "–",
         format_number(row.norm))
        for row in sorted(facts.rows, key=lambda row: row.name)
    )  # fmt: skip
    return Table(("vector", "repository", "data", "norm"), tuple(rows))


def _recipe(facts: PoolCard) -> str:
    base = {"repo": facts.base_repo, "revision": facts.base_revision} if facts.base_repo else {"path": "path/to/base"}
    vectors = "".join(
        flow_entry(row.name, {"delta": {"repo": row.repo, "revision": row.revision}}, indent=2)
        for row in sorted(facts.rows, key=lambda row: row.name)
    )
    return flow_entry("base_model", base, indent=0) + "vectors:\n" + vectors
