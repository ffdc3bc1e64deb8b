"""The merge of a pool into one live model, as often as a search asks for it. Reads no score and writes no file."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mergekit_optimer.errors import InfrastructureError, MergeError, NotFiniteError
from mergekit_optimer.kernel import Term, add_vectors
from mergekit_optimer.machine import memory_named, out_of_memory
from mergekit_optimer.resident.live_tensors import LiveTensor, check_in_memory, find_live_tensors, some
from mergekit_optimer.resident.memory import rooms_on_gpus
from mergekit_optimer.resident.slopes import watch_slopes
from mergekit_optimer.resident.sources import Sources
from mergekit_optimer.vectors import TensorFolder

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


class ResidentMerge:
    """theta_0 + sum_k w_k tau_k in the parameters of a live model: bit for bit what mergekit writes for the same YAML.

    Base and vectors stay memory-mapped files, whose pages processes on one machine share. A GPU keeps copies of as many
    of their tensors as it has room for, and is sent the others for each merge. A merge always starts from the base, so
    nothing is carried over from the merge before.
    """

    def __init__(self, model: torch.nn.Module, base_dir: Path, vector_dirs: Mapping[str, Path]) -> None:
        """Find the base's tensors in the model, and the vectors' beside them. Changes nothing.

        Args:
            model: Loaded from ``base_dir`` and not changed since, in any dtype, on one device or on several.
            base_dir: Folder of the base model.
            vector_dirs: Folder of each vector's deltas.

        Raises:
            MergeError: The model's parameters, the base's tensors and the vectors' do not match.
        """
        check_in_memory(model)
        self._base = TensorFolder(base_dir)
        self._vectors = {name: TensorFolder(vector_dirs[name]) for name in sorted(vector_dirs)}
        self._check_vectors()
        self._tensors, copies = find_live_tensors(model, self._base)
        self._check_copies(copies)
        self._sources = Sources(self._base, self._vectors, [tensor.name for tensor in self._tensors])
        self._bounds: dict[str, tuple[float, dict[str, float]]] = {}
        self._hold()

    @property
    def names(self) -> list[str]:
        """The vectors' names, sorted."""
        return list(self._vectors)

    @property
    def size_bytes(self) -> int:
        """Size of the live tensors that a merge overwrites."""
        return sum(tensor.view.numel() * tensor.view.element_size() for tensor in self._tensors)

    @property
    def kept_bytes(self) -> int:
        """Size of the copies of base and vectors that GPUs keep."""
        return self._sources.held_bytes

    def _hold(self) -> None:
        """Have GPUs keep copies of what they have room for, beside what scoring takes."""
        sizes = self._sources.sizes(self._tensors)
        if not sizes:
            return
        rooms = rooms_on_gpus({tensor.view.device for tensor in self._tensors}, max(sizes.values()))
        try:
            with memory_named("sending base and vectors to the GPU"):
                self._sources.hold(self._tensors, rooms)
        except InfrastructureError as error:
            # Somebody else took it meanwhile; a merge can do without.
            if not out_of_memory(error):
                raise
            self.let_go()
        held, total = self.kept_bytes, sum(sizes.values())
        rest = "" if held == total else "; the rest is sent for each trial"
        log.info("%.1f of the %.1f GB of base and vectors are kept on the GPU%s", held / 1e9, total / 1e9, rest)

    def let_go(self) -> bool:
        """Drop the copies that GPUs keep, for somebody who needs the room; merges are slower then, and the same.

        Returns:
            Whether there were any.
        """
        return self._sources.let_go()

    def merge(self, weights: Mapping[str, float]) -> None:
        """Overwrite the live parameters with the merge at these weights, summed in float32 and rounded once.

        Raises:
            MergeError: The weights do not name the vectors, or one is not finite; the model is as it was.
            NotFiniteError: The result holds NaN or Inf; the model then holds no merge until the next one.
            InfrastructureError: Memory gave out.
        """
        import torch

        self._check_weights(weights)
        live = {name: float(weights[name]) for name in self._vectors if weights[name] != 0.0}
        with torch.no_grad(), memory_named("merging into the live model"):
            for tensor in self._tensors:
                self._merge_tensor(tensor, live)
            for device in {tensor.view.device for tensor in self._tensors if tensor.view.device.type == "cuda"}:
                torch.cuda.synchronize(device)

    @contextmanager
    def slopes(self) -> Iterator[dict[str, float]]:
        """Within it every backward pass adds dL/dw_k = <dL/dtheta, tau_k> to the yielded sums, one for each vector.

        Gradients are used and dropped parameter by parameter as they come, so a whole one is never held; buffers have
        no slope. Which parameters require a gradient, and the gradients they hold, are as before at the end.
        """
        with watch_slopes(self._tensors, self.names, self._sources) as sums:
            yield sums

    def _merge_tensor(self, tensor: LiveTensor, live: dict[str, float]) -> None:
        # First, because it may read all vectors' tensors, which must be gone before these come.
        is_finite = self._surely_finite(tensor, live)
        view, source = tensor.view, self._sources.read(tensor, list(live))
        base, terms = source.base, [Term(weight, source.deltas[name]) for name, weight in live.items()]
        if view.dtype == base.dtype:
            add_vectors(base, terms, out=view)
        else:
            # As saving in the base's dtype and loading in the model's would.
            view.copy_(add_vectors(base, terms))
        if not is_finite and not bool(view.isfinite().all()):
            raise NotFiniteError(
                f"The merge gives NaN or Inf in {tensor.name}; the weights are too large for {base.dtype}."
            )

    def _surely_finite(self, tensor: LiveTensor, live: dict[str, float]) -> bool:
        """Whether the sizes of base and vectors alone rule out NaN and Inf; looking costs a pass over the result."""
        import torch

        stored = self._sources[tensor.name].base
        if tensor.name not in self._bounds:
            # All of them, whatever the weights: this is asked once.
            whole = self._sources.read(tensor, self.names)
            largest = {name: _largest(delta) for name, delta in whole.deltas.items()}
            self._bounds[tensor.name] = _largest(whole.base), largest
        base, largest = self._bounds[tensor.name]
        bound = base + sum(abs(weight) * largest[name] for name, weight in live.items())
        limits = (torch.finfo(stored.dtype).max, torch.finfo(tensor.view.dtype).max)
        # The margin is for the roundings of the sum. NaN compares as false.
        return bool(bound < 0.99 * min(limits))

    def _check_weights(self, weights: Mapping[str, float]) -> None:
        if set(weights) != set(self._vectors):
            raise MergeError(f"Weights for {sorted(weights)}, but the pool holds {self.names}.")
        wrong = [name for name, weight in sorted(weights.items()) if not math.isfinite(weight)]
        if wrong:
            raise MergeError(f"The weight of '{wrong[0]}' is {weights[wrong[0]]}; weights must be finite numbers.")

    def _check_vectors(self) -> None:
        for vector, folder in self._vectors.items():
            wrong = [
                name for name in self._base.names if name not in folder or folder.shape(name) != self._base.shape(name)
            ]
            if wrong:
                raise MergeError(
                    f"Vector '{vector}' lacks {some(wrong)}, or has them in another shape than {self._base.folder}; "
                    "extract it again from this base."
                )

    def _check_copies(self, copies: dict[str, str]) -> None:
        """Refuse what one tied parameter cannot hold: two stored tensors that the vectors move apart."""
        for copy, name in sorted(copies.items()):
            for vector, folder in self._vectors.items():
                if not folder.get(copy).equal(folder.get(name)):
                    raise MergeError(
                        f"Vector '{vector}' moves {copy} and {name} apart, but the model holds them as one tied "
                        "parameter. Extract it from a checkpoint that ties them, or untie the base."
                    )


def _largest(tensor: torch.Tensor) -> float:
    """Return the largest absolute value; NaN where there is one."""
    if not tensor.numel():
        return 0.0
    low, high = tensor.aminmax()
    return math.nan if math.isnan(float(low)) else max(-float(low), float(high))
