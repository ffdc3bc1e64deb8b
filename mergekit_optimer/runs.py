"""The run folder: every path of a run in one place, and which stages are done.

Nothing here knows what a stage computes.
"""

from __future__ import annotations

import fcntl
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from mergekit_optimer.errors import RunFolderError
from mergekit_optimer.files import TEMPORARY, discard, read_json, write_json, write_text
from mergekit_optimer.recipe import Recipe

# Keys whose change keeps what a run has done: a study may be made longer, a baseline added, the card may say something
# else.
EXTENDABLE = ("search.n_trials", "publish", "train.mixture.optimised")
PACKAGES = ("mergekit-optimer", "mergekit", "torch", "transformers", "trl", "datasets", "safetensors", "optuna",
            "huggingface_hub", "lighteval")  # fmt: skip


_LOCK, _MANIFEST_LOCK = ".lock", ".manifest.lock"


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as dotted keys; lists and empty sections stay values."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    return {
        dotted: leaf
        for key, child in value.items()
        for dotted, leaf in flatten(child, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


@dataclass(frozen=True)
class RunDir:
    """The paths of one run. Only these names are ever written under ``root``."""

    root: Path

    @property
    def recipe_path(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def manifest_path(self) -> Path:
        return self.root / "manifest.json"

    @property
    def journal_path(self) -> Path:
        return self.root / "study.journal"

    @property
    def storage_path(self) -> Path:
        """Where the study is, when it is kept in a database."""
        return self.root / "study.storage.json"

    @property
    def adopted_path(self) -> Path:
        """Trials taken over from a finished study."""
        return self.root / "adopted.json"

    @property
    def pushed_path(self) -> Path:
        """What of this run lies on the Hub, and at which commit."""
        return self.root / "pushed.json"

    @property
    def best_dir(self) -> Path:
        return self.root / "best"

    @property
    def winner_path(self) -> Path:
        return self.best_dir / "winner.json"

    @property
    def model_dir(self) -> Path:
        return self.best_dir / "model"

    @property
    def held_out_path(self) -> Path:
        return self.root / "held_out.json"

    @property
    def report_path(self) -> Path:
        return self.root / "report" / "report.json"

    @property
    def page_path(self) -> Path:
        """The report as a page to look at."""
        return self.root / "report" / "index.html"

    @property
    def figure_path(self) -> Path:
        """The figure of the search, which the card shows."""
        return self.root / "report" / "figures" / "search.png"

    def analysis_path(self, name: str) -> Path:
        """Numbers of one analysis; a table of the same numbers lies beside it as .csv."""
        return self.root / "analysis" / f"{name}.json"

    @property
    def card_path(self) -> Path:
        return self.root / "card" / "README.md"

    @property
    def mixture_recipe_path(self) -> Path:
        """A recipe that trains the data mixture which the winner's weights stand for."""
        return self.root / "mixture.yaml"

    def checkpoint_dir(self, name: str) -> Path:
        """Checkpoint of a dataset or of a baseline trained on the mixed data, as data_mixture/optimised."""
        return self.root / "checkpoints" / name.replace("/", "_")

    def vector_dir(self, vector: str) -> Path:
        return self.root / "vectors" / vector

    def trial_dir(self, number: int) -> Path:
        return self.root / "trials" / f"{number:04d}"

    def samples_dir(self, part: str) -> Path:
        """Folder of the prepared samples of ``dev`` or ``held_out``."""
        return self.root / "samples" / part

    def manifest(self) -> dict[str, Any]:
        data: dict[str, Any] = read_json(self.manifest_path)
        return data

    def is_done(self, stage: str, inputs: str) -> bool:
        """Whether a stage finished with the same inputs (a hash)."""
        return bool(self.manifest()["stages"].get(stage, {}).get("inputs") == inputs)

    def record(self, stage: str, inputs: str, elapsed_s: float, is_done: bool) -> None:
        """Record the time a stage took, added to what it took before with the same inputs, and whether it is done."""
        with self.changed_manifest() as manifest:
            before = manifest["stages"].get(stage, {})
            spent_s = before.get("elapsed_s", 0.0) if before.get("begun_with") == inputs else 0.0
            manifest["stages"][stage] = {
                "begun_with": inputs,
                "inputs": inputs if is_done else None,
                "elapsed_s": round(spent_s + elapsed_s, 3),
                "at": time.time(),
            }

    @contextmanager
    def changed_manifest(self) -> Iterator[dict[str, Any]]:
        """Yield the manifest to be changed, and write it; another process that changes it waits until then."""
        with self._held(_MANIFEST_LOCK):
            manifest = self.manifest()
            yield manifest
            write_json(self.manifest_path, manifest)

    @contextmanager
    def locked(self, parts: Sequence[str] = ()) -> Iterator[None]:
        """Hold the run folder, or some of its trainings, against others; the kernel lets go when the process dies.

        Who holds the folder is alone in it; trainings of different parts go on side by side.

        Args:
            parts: Datasets to be trained, or ``data_mixture``; none for the whole folder.

        Raises:
            RunFolderError: Another process holds the folder, or one of the parts.
        """
        with ExitStack() as stack:
            stack.enter_context(self._held(_LOCK, self._in_use, is_shared=bool(parts)))
            for part in sorted(set(parts)):
                in_use = f"'{part}' is being trained in {self.root} by another process; wait for it or stop it."
                stack.enter_context(self._held(f"{_LOCK}.{part}", in_use))
            self._sweep(parts)
            yield

    @contextmanager
    def pushing(self) -> Iterator[None]:
        """Wait until no other process of this run pushes, then be the one that does."""
        with self._held(".push.lock"):
            yield

    @property
    def _in_use(self) -> str:
        return f"{self.root} is in use by another process; wait for it or stop it."

    @contextmanager
    def _held(self, name: str, in_use: str | None = None, *, is_shared: bool = False) -> Iterator[None]:
        """Hold a lock file; where another process does, raise RunFolderError with a sentence, or without one wait."""
        # Open for both: on a network file system a shared lock is one of reading, an exclusive one of writing.
        with (self.root / name).open("a+") as file:
            kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
            try:
                fcntl.flock(file, kind if in_use is None else kind | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunFolderError(str(in_use)) from error
            yield

    def _sweep(self, parts: Sequence[str]) -> None:
        """Delete what killed processes left half made: all of it, or what is of these parts and so no neighbour's."""
        folders = [self.checkpoint_dir(part) for part in parts]
        # A temporary name ends in eight letters that tell it from others.
        found = [left for folder in folders for left in folder.parent.glob(f"{TEMPORARY}{folder.name}.{'?' * 8}")]
        # Whoever writes the manifest may hold nothing else of the folder yet.
        with self._held(_MANIFEST_LOCK):
            for left in sorted(found if parts else self.root.rglob(f"{TEMPORARY}*")):
                discard(left)


def open_run(
    root: Path, recipe: Recipe, *, command: str = "", device: str = "cpu", overrides: tuple[str, ...] = ()
) -> RunDir:
    """Make a run folder, or enter one made with the same recipe.

    Args:
        command: How to make the run again; kept with the recipe.

    Raises:
        RunFolderError: The folder holds another recipe's run; the message names the keys that differ.
    """
    run = RunDir(root.resolve())
    recipe_now = recipe.canonical()
    is_strange = run.root.exists() and any(not _is_left_of_a_start(path) for path in run.root.iterdir())
    # Asked last: a process that was started together with this one may just have made the folder.
    if is_strange and not run.manifest_path.exists():
        raise RunFolderError(f"{run.root} exists and is no run folder; give another --run-dir.")
    run.root.mkdir(parents=True, exist_ok=True)
    now = {"recipe": recipe_now, "recipe_hash": recipe.hash, "command": command, "overrides": list(overrides)}
    # Of several processes started together the first makes or changes it, and the others find it so.
    with run._held(_MANIFEST_LOCK):
        if not run.manifest_path.exists():
            facts = {"versions": package_versions(), "device": device, "created": time.time(), "stages": {}}
            write_json(run.manifest_path, now | facts)
        elif _changed_keys(run, recipe_now):
            with run._held(_LOCK, run._in_use):
                write_json(run.manifest_path, run.manifest() | now)
        # A copy to read; what counts is the manifest.
        text = yaml.safe_dump(run.manifest()["recipe"], sort_keys=False, allow_unicode=True)
        if not run.recipe_path.exists() or run.recipe_path.read_text(encoding="utf-8") != text:
            write_text(run.recipe_path, text)
    return run


def _is_left_of_a_start(path: Path) -> bool:
    """Whether a file is what a process killed while it made a run folder leaves."""
    return path.name in ("recipe.yaml", _LOCK, _MANIFEST_LOCK) or path.name.startswith(TEMPORARY)


def read_run(root: Path, recipe: Recipe) -> RunDir:
    """Enter a run folder only to read it: nothing of it is changed.

    Raises:
        RunFolderError: There is no run, or it is another recipe's.
    """
    run = enter_run(root)
    _changed_keys(run, recipe.canonical())
    return run


def enter_run(root: Path) -> RunDir:
    """Enter a run folder that is there, whatever recipe it was made with.

    Raises:
        RunFolderError: There is no run.
    """
    run = RunDir(root.resolve())
    if not run.manifest_path.exists():
        raise RunFolderError(f"{run.root} holds no run; `mergekit-optimer run` makes one.")
    return run


def has_same_recipe(run: RunDir, recipe: Recipe) -> bool:
    """Whether a run can go on with a recipe: what differs is none of what decided what it has done."""
    try:
        _changed_keys(run, recipe.canonical())
    except RunFolderError:
        return False
    return True


def _changed_keys(run: RunDir, recipe_now: dict[str, Any]) -> list[str]:
    """The keys, all of EXTENDABLE, in which a recipe differs from the run's."""
    before, now = flatten(run.manifest()["recipe"]), flatten(recipe_now)
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    fixed = [key for key in changed if not key.startswith(EXTENDABLE)]
    if fixed:
        shown = ", ".join(f"{key} ({before.get(key)} -> {now.get(key)})" for key in fixed[:4])
        more = f" and {len(fixed) - 4} more" if len(fixed) > 4 else ""
        raise RunFolderError(
            f"{run.root} was made with another recipe: {shown}{more}. Give another --run-dir, or restore the recipe."
        )
    return changed
