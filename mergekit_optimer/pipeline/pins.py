"""Repositories of a recipe at one commit for a whole run: resolved once, kept in the manifest, not followed after.

A branch that moves while a run is made, or between two sessions of it, would mix two states of a model or a dataset.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from mergekit_optimer import hub
from mergekit_optimer.errors import HubError
from mergekit_optimer.recipe import Recipe, Section, Source, TextSource
from mergekit_optimer.runs import RunDir

log = logging.getLogger(__name__)

KEY = "pins"
# A pinned commit is enough to go on with, so whether the branch has moved is asked once and not waited for.
_BRIEF = hub.PullOptions(hub.Patience(n_tries=1))

T = TypeVar("T")


def pin_recipe(recipe: Recipe, run: RunDir, source_dir: Path | None = None) -> Recipe:
    """Return the recipe with a commit in place of every branch, tag or missing revision, the same in each session.

    Args:
        source_dir: A run whose trials this one takes over, and so its commits.

    Raises:
        HubError: A revision that was never resolved cannot be now.
    """
    manifest = run.manifest()
    known = (RunDir(source_dir.resolve()).manifest().get(KEY, {}) if source_dir else {}) | manifest.get(KEY, {})
    pins: dict[str, str] = {}
    for key, source in _loose_sources(recipe).items():
        pins[key] = _stay(source, known[key]) if key in known else _resolve(source)
    if pins != manifest.get(KEY, {}):
        with run.changed_manifest() as changed:
            changed[KEY] = pins
    return apply_pins(recipe, pins)


def read_pins(recipe: Recipe, run: RunDir) -> Recipe:
    """Return the recipe with the commits that its run was made with; nothing is asked, nothing written."""
    return apply_pins(recipe, run.manifest().get(KEY, {}))


def apply_pins(recipe: Recipe, pins: Mapping[str, str]) -> Recipe:
    """Return the recipe with these commits put in."""
    return _replaced(recipe, pins) if pins else recipe


def _resolve(source: Source) -> str:
    commit = hub.resolve(str(source.repo), source.revision, _kind(source))
    log.info("%s is at %s, and stays there for this run", source, commit)
    return commit


def _stay(source: Source, commit: str) -> str:
    """Keep a pinned commit, and say so where the branch is elsewhere by now or cannot be asked about."""
    try:
        now = hub.resolve(str(source.repo), source.revision, _kind(source), _BRIEF)
    except HubError as error:
        # Without the advice for those who have no commit yet.
        log.warning(
            "%s stays at %s; whether it has moved cannot be asked: %s", source, commit, error.__cause__ or error
        )
    else:
        if now != commit:
            log.warning(
                "%s has moved to %s; this run stays at %s, a new --run-dir would follow it", source, now, commit
            )
    return commit


def _kind(source: Source) -> hub.Kind:
    return "dataset" if isinstance(source, TextSource) else "model"


def _key(source: Source) -> str:
    return f"{_kind(source)} {source}"


def _loose_sources(value: Any) -> dict[str, Source]:
    """Every repository in the recipe that is not at a commit, by what a pin is called."""
    if isinstance(value, Source) and value.repo is not None and not hub.is_commit(value.revision):
        return {_key(value): value}
    found: dict[str, Source] = {}
    for child in _children(value).values():
        found |= _loose_sources(child)
    return dict(sorted(found.items()))


def _replaced(value: T, pins: Mapping[str, str]) -> T:
    if isinstance(value, Source) and value.repo is not None and _key(value) in pins:
        return value.model_copy(update={"revision": pins[_key(value)]})
    children = {name: _replaced(child, pins) for name, child in _children(value).items()}
    if isinstance(value, dict):
        return children  # type: ignore[return-value]
    if isinstance(value, Section):
        return value.model_copy(update=children)
    return value


def _children(value: Any) -> dict[str, Any]:
    """The parts of a section or a dictionary that may hold sources."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Section):
        parts = {name: getattr(value, name) for name in type(value).model_fields}
        return {name: part for name, part in parts.items() if isinstance(part, Section | dict)}
    return {}
