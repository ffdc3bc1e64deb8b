"""What every stage works on: one recipe, its run folder, the base model and the vector pool."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import Any

from mergekit_optimer.corpora import Corpus, read_corpus
from mergekit_optimer.errors import MergeError, VectorError
from mergekit_optimer.files import content_hash
from mergekit_optimer.hub import ADAPTER_FILES, Located, locate
from mergekit_optimer.merge import Ingredient
from mergekit_optimer.pipeline.missing import command_of
from mergekit_optimer.pipeline.pushed import read_pushed
from mergekit_optimer.recipe import Recipe, VectorSpec
from mergekit_optimer.runs import RunDir
from mergekit_optimer.train import RECORD_NAME
from mergekit_optimer.vectors import (
    TensorFolder,
    VectorPool,
    file_sha256,
    load_pool,
    load_tokenizer,
    load_vector,
    model_fingerprint,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One recipe in one run folder on one device."""

    recipe: Recipe
    run: RunDir
    device: str

    @cached_property
    def base(self) -> Located:
        """The base model's folder."""
        return locate(self.recipe.base_model, self.recipe, "model")

    @cached_property
    def base_fingerprint(self) -> str:
        return model_fingerprint(self.base.path)

    @cached_property
    def dtype(self) -> str:
        """Storage dtype of the base, and so of every merged model.

        Raises:
            MergeError: The base is stored in several dtypes, which one output dtype cannot give back.
        """
        dtypes = TensorFolder(self.base.path).dtypes
        if len(dtypes) != 1:
            raise MergeError(
                f"Base model {self.base.label} is stored in {' and '.join(dtypes) or 'no floats'}; a merge has one "
                "dtype. Load it with that dtype, save it with save_pretrained, and name the saved folder."
            )
        return dtypes[0]

    @cached_property
    def tokenizer(self) -> Any:
        """The base model's tokenizer.

        Raises:
            VectorError: The folder holds none.
        """
        return load_tokenizer(self.base.path, self.recipe.base_model.trust_remote_code)

    @cached_property
    def pool(self) -> VectorPool:
        """The vector pool, checked against the base.

        Raises:
            VectorError: A vector is not there yet, or does not fit.
        """
        folders = {name: self.vector(name).path for name in self.recipe.pool}
        missing = [name for name, folder in folders.items() if not folder.exists()]
        if missing:
            train = self.recipe.pool[missing[0]].dataset is not None
            commands = [*(["train"] if train else []), "vectors extract"]
            shown = " and ".join(f"`{command_of(self.run, *command.split())}`" for command in commands)
            raise VectorError(f"Vector '{missing[0]}' is not made yet; run {shown} first.")
        own_bases = frozenset(name for name, spec in self.recipe.pool.items() if spec.base is not None)
        return load_pool(self.base.path, folders, own_bases)

    @cached_property
    def pool_files(self) -> dict[str, dict[str, str]]:
        """sha256 of each file of each vector: what the pool is, for the stages' inputs."""
        return {name: vector.files for name, vector in self.pool.vectors.items()}

    @cached_property
    def _data_fingerprints(self) -> dict[str, str]:
        return {}

    def corpus(self, dataset: str) -> Corpus:
        """Read a training dataset of the recipe; its fingerprint is remembered, its texts are not."""
        assert self.recipe.train is not None
        corpus = read_corpus(self.recipe.train.datasets[dataset], self.recipe)
        if dataset not in self._data_fingerprints:
            log.info("dataset %s: %d documents, %d bytes", dataset, corpus.n_documents, corpus.size_bytes)
        self._data_fingerprints[dataset] = corpus.fingerprint
        return corpus

    def data_fingerprint(self, dataset: str) -> str:
        """Fingerprint of a training dataset, read once."""
        if dataset not in self._data_fingerprints:
            self.corpus(dataset)
        return self._data_fingerprints[dataset]

    def vector(self, name: str) -> Located:
        """Where a vector lies: where the recipe says, else in the run folder."""
        return self._pushed("vectors", name, self._local_vector(name), self.vector_content)

    def vector_content(self, name: str) -> str:
        """What a vector holds, as a hash of its files' hashes."""
        return content_hash(load_vector(self._local_vector(name).path).files)

    def _local_vector(self, name: str) -> Located:
        spec = self.recipe.pool[name]
        return locate(spec.delta, self.recipe, "model") if spec.delta else Located(self.run.vector_dir(name))

    def checkpoint_content(self, dataset: str) -> str:
        """Which training a checkpoint that was made here is of, as its record's hash."""
        return file_sha256(self.run.checkpoint_dir(dataset) / RECORD_NAME)

    def _pushed(self, part: str, name: str, found: Located, content: Callable[[str], str]) -> Located:
        """A local folder, with its place on the Hub where it was pushed as it is; a repository stays what it is."""
        there = read_pushed(self.run, part, name) if found.repo is None else None
        if there is None or not found.path.exists() or there.content != content(name):
            return found
        return Located(found.path, there.repo, there.revision)

    def checkpoint(self, name: str) -> Located | None:
        """The checkpoint a vector is made from; None for a vector that came as a delta or an adapter."""
        spec = self.recipe.pool[name]
        if spec.dataset is not None:
            found = Located(self.run.checkpoint_dir(spec.dataset))
            return self._pushed("checkpoints", spec.dataset, found, self.checkpoint_content)
        return locate(spec.checkpoint, self.recipe, "model") if spec.checkpoint else None

    def adapter(self, name: str) -> Located | None:
        """The LoRA adapter a vector is made from, where it is made from one."""
        spec = self.recipe.pool[name]
        return locate(spec.adapter, self.recipe, "model", files=ADAPTER_FILES) if spec.adapter else None

    def source(self, name: str) -> Located:
        """What a vector is made from or came as: checkpoint, adapter or stored delta."""
        return self.checkpoint(name) or self.adapter(name) or self.vector(name)

    def own_base(self, spec: VectorSpec) -> Located | None:
        """The base a vector was trained from, where that is another than the recipe's."""
        return locate(spec.base, self.recipe, "model") if spec.base else None

    @cached_property
    def ingredients(self) -> dict[str, Ingredient]:
        """The pool as mergekit is to read it, by paths."""
        found = {}
        for name, spec in self.recipe.pool.items():
            checkpoint, own_base = self.checkpoint(name), self.own_base(spec)
            found[name] = Ingredient(
                delta=str(self.vector(name).path),
                checkpoint=str(checkpoint.path) if checkpoint else None,
                base=str(own_base.path) if own_base else None,
            )
        return found

    @cached_property
    def labels(self) -> dict[str, str]:
        """What a published text calls each folder of the merge, by its path: no two folders share a label.

        A repository is repo@sha; a folder under run folder or recipe has its place there; any other the name of what
        it is used for, as checkpoints/ja.
        """
        sources = [("base", self.base)]
        for name, spec in self.recipe.pool.items():
            checkpoint, own_base = self.checkpoint(name), self.own_base(spec)
            sources.append((f"vectors/{name}", self.vector(name)))
            adapter = self.adapter(name)
            sources += [(f"checkpoints/{name}", checkpoint)] if checkpoint else []
            sources += [(f"adapters/{name}", adapter)] if adapter else []
            sources += [(f"bases/{name}", own_base)] if own_base else []
        labels: dict[str, str] = {}
        for use, source in sources:
            label = source.label if source.repo is not None else self._place(source.origin or source.path) or use
            names = chain((label, use), (f"{use}-{number}" for number in count(2)))
            labels.setdefault(str(source.path), next(name for name in names if name not in labels.values()))
        return labels

    def _place(self, path: Path) -> str | None:
        for root in (self.run.root, self.recipe.folder):
            if path.is_relative_to(root):
                return path.relative_to(root).as_posix()
        return None

    @contextmanager
    def stage(self, name: str, inputs: str, output: Path) -> Iterator[bool]:
        """Run a stage unless it is done and its output is there: yields whether it is to be run, and keeps its time."""
        if self.run.is_done(name, inputs) and output.exists():
            log.info("%s: done before, nothing changed", name)
            yield False
            return
        started = time.monotonic()
        is_done = False
        try:
            yield True
            is_done = True
        finally:
            elapsed_s = time.monotonic() - started
            self.run.record(name, inputs, elapsed_s, is_done)
        log.info("%s: done in %.1f s", name, elapsed_s)
