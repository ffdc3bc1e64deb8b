"""What every stage works on: one recipe, its run folder, the base model and the vector pool."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mergekit_optimer.errors import VectorError
from mergekit_optimer.hub import Located, locate
from mergekit_optimer.merge import Ingredient
from mergekit_optimer.recipe import Recipe, VectorSpec
from mergekit_optimer.runs import RunDir
from mergekit_optimer.vectors import TensorFolder, VectorPool, dtype_name, load_pool, model_fingerprint

log = logging.getLogger(__name__)

MIXTURE = "data_mixture"


@dataclass(frozen=True)
class Job:
    """One recipe in one run folder on one device.

    Attributes:
        command: How to make this run again, for report and card.
    """

    recipe: Recipe
    run: RunDir
    device: str
    command: str

    @cached_property
    def base(self) -> Located:
        """The base model's folder."""
        return locate(self.recipe.base_model, self.recipe, "model")

    @cached_property
    def base_fingerprint(self) -> str:
        return model_fingerprint(self.base.path)

    @cached_property
    def dtype(self) -> str:
        """Storage dtype of the base, and so of every merged model."""
        return dtype_name(TensorFolder(self.base.path).dtype)

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.base.path)

    @cached_property
    def pool(self) -> VectorPool:
        """The vector pool, checked against the base.

        Raises:
            VectorError: A vector is not there yet, or does not fit.
        """
        folders = {name: self.vector_folder(name) for name in self.recipe.pool}
        missing = [name for name, folder in folders.items() if not folder.exists()]
        if missing:
            raise VectorError(
                f"Vector '{missing[0]}' is not made yet; run `mergekit-optimer train` and `vectors extract` first."
            )
        own_bases = frozenset(name for name, spec in self.recipe.pool.items() if spec.base is not None)
        return load_pool(self.base.path, folders, own_bases)

    def vector_folder(self, name: str) -> Path:
        """Folder of a vector: where the recipe says it lies, else in the run folder."""
        spec = self.recipe.pool[name]
        return locate(spec.delta, self.recipe, "model").path if spec.delta else self.run.vector_dir(name)

    def checkpoint(self, name: str) -> Located | None:
        """The CPT checkpoint a vector is made from; None for a vector that came as a delta."""
        spec = self.recipe.pool[name]
        if spec.dataset is not None:
            return Located(self.run.checkpoint_dir(spec.dataset))
        return locate(spec.checkpoint, self.recipe, "model") if spec.checkpoint else None

    def own_base(self, spec: VectorSpec) -> Located | None:
        """The base a vector was trained from, where that is another than the recipe's."""
        return locate(spec.base, self.recipe, "model") if spec.base else None

    def ingredients(self, label: Callable[[Path], str] = str) -> dict[str, Ingredient]:
        """The pool as mergekit is to read it; ``label`` turns a path into what the YAML says."""
        found = {}
        for name, spec in self.recipe.pool.items():
            checkpoint, own_base = self.checkpoint(name), self.own_base(spec)
            found[name] = Ingredient(
                delta=label(self.vector_folder(name)),
                checkpoint=label(checkpoint.path) if checkpoint else None,
                base=label(own_base.path) if own_base else None,
            )
        return found

    def public_label(self, path: Path) -> str:
        """What a published YAML calls a folder: repo@sha, or its place relative to run folder or recipe."""
        for source in self._sources():
            if source.path == path and source.repo is not None:
                return source.label
        for root in (self.run.root, self.recipe.folder):
            if path.is_relative_to(root):
                return path.relative_to(root).as_posix()
        return path.name

    def _sources(self) -> Iterator[Located]:
        yield self.base
        for spec in self.recipe.pool.values():
            for source in (spec.checkpoint, spec.delta, spec.base):
                if source is not None:
                    yield locate(source, self.recipe, "model")

    @contextmanager
    def stage(self, name: str, inputs: str) -> Iterator[bool]:
        """Run a stage unless it is done: yields whether it is to be run, and records its time afterwards."""
        if self.run.is_done(name, inputs):
            log.info("%s: done before, nothing changed", name)
            yield False
            return
        started = time.monotonic()
        yield True
        elapsed_s = time.monotonic() - started
        self.run.mark_done(name, inputs, elapsed_s)
        log.info("%s: done in %.1f s", name, elapsed_s)
