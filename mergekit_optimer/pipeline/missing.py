"""What a run has nothing of yet, as the commands that make it. Reads the run's manifest, runs nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mergekit_optimer.runs import RunDir

_FIRST = "After the search:"
_RUN_OF_ITS_OWN = "Needs train.keep_checkpoints in the recipe, and so a run of its own:"


@dataclass(frozen=True)
class Missing:
    """Commands by what they make, under the names of the page's gaps.

    Attributes:
        reasons: What else must be for a command; none where nothing must.
    """

    commands: dict[str, str]
    reasons: dict[str, str]


@dataclass(frozen=True)
class _Call:
    """How the run was called: the words before its options, and the options, which each other verb takes too."""

    recipe: str
    options: tuple[str, ...]
    source: tuple[str, ...]

    @classmethod
    def of(cls, command: str) -> _Call:
        # mergekit-optimer VERB RECIPE, then options; --from is for the search only.
        words = shlex.split(command)
        options = list(words[3:])
        source: tuple[str, ...] = ()
        if "--from" in options:
            at = options.index("--from")
            source = tuple(options[at : at + 2])
            del options[at : at + 2]
        return cls(words[2] if len(words) > 2 else "recipe.yaml", tuple(options), source)

    def command(self, *verb: str, more: tuple[str, ...] = (), place: tuple[str, ...] = ()) -> str:
        return shlex.join(["mergekit-optimer", *verb, self.recipe, *more, *self.options, *place])


def command_of(run: RunDir, *verb: str) -> str:
    """A verb's command for this very run, to be copied."""
    called = run.manifest()["command"] if run.manifest_path.exists() else ""
    return _Call.of(called).command(*verb, place=("--run-dir", str(run.root)))


def missing_commands(
    manifest: Mapping[str, Any], weights: Mapping[str, float], n_run: int | None, root: str
) -> Missing:
    """The commands for all that a run of this recipe can have.

    Args:
        weights: The winner's; empty while there is none.
        n_run: Trials that the study ran itself; None while that is not known.
        root: The run folder, as a command is to name it.
    """
    recipe, call = manifest["recipe"], _Call.of(manifest["command"])
    place = () if root == f"runs/{recipe['name']}" else ("--run-dir", root)
    names = _vectors(recipe, weights)
    # A search that began with another's trials goes on with them.
    search = call.command("search", more=call.source, place=place) if call.source else call.command("run", place=place)
    commands = {
        "search": search,
        "compare": call.command("compare", place=place),
        "geometry": call.command("vectors", "show", more=("--figures",), place=place),
        "attribution": call.command("compare", more=("--attribution",), place=place),
        "objectives": _objectives(recipe, call, root),
    }
    if names:
        commands["landscape"] = call.command("search", more=("--slice", ",".join(names[:2])), place=place)
    if _is_trained(recipe):
        commands["mixture"] = call.command("mixture", place=place)
    if n_run != 0:
        commands["cost"] = call.command("cost", place=place)
    reasons = {}
    if not weights:
        reasons = {name: _FIRST for name in commands if name != "search"}
    if _is_trained(recipe) and recipe["train"].get("keep_checkpoints"):
        commands["trajectory"] = commands["geometry"]
        reasons |= {"trajectory": _FIRST} if not weights else {}
    elif _is_trained(recipe):
        kept = ("--set", "train.keep_checkpoints=8", "--run-dir", f"{root}-kept")
        commands["trajectory"] = call.command("run", place=kept)
        reasons["trajectory"] = _RUN_OF_ITS_OWN
    return Missing(commands, reasons)


def _vectors(recipe: Mapping[str, Any], weights: Mapping[str, float]) -> list[str]:
    """The pool's vectors, those first that the winner has most of."""
    named = recipe.get("vectors") or (recipe.get("train") or {}).get("datasets") or weights
    return sorted(named, key=lambda name: (-abs(weights.get(name, 0.0)), name))


def _is_trained(recipe: Mapping[str, Any]) -> bool:
    """Whether a vector of the pool is trained in the run."""
    vectors = recipe.get("vectors")
    return bool(recipe.get("train")) and (vectors is None or any(spec.get("dataset") for spec in vectors.values()))


def _objectives(recipe: Mapping[str, Any], call: _Call, root: str) -> str:
    """Another search over the pool, for a task that this one is not all about, and the table of both."""
    objective = recipe["search"]["objective"]
    asked = {name for form in ("mean", "weighted", "pareto") for name in objective.get(form) or ()}
    task = next((name for name in sorted(recipe["tasks"]) if {name} != asked), sorted(recipe["tasks"])[0])
    other = f"runs/{recipe['name']}-for-{task}"
    again = call.command("search", place=("--objective", f"{{mean: [{task}]}}", "--from", root))
    return "\n".join([again, shlex.join(["mergekit-optimer", "objectives", root, other])])
