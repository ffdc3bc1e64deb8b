"""Base and vectors as a merge reads them: mapped files, of which a GPU keeps copies while it has room. Sums nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergekit_optimer.resident.live_tensors import LiveTensor
from mergekit_optimer.vectors import TensorFolder

if TYPE_CHECKING:
    import torch

# Pinned memory through which a mapped file goes to a GPU: so many blocks of so many bytes, one filled while others
# are on their way.
_N_BLOCKS, _BLOCK_BYTES = 4, 1 << 25


@dataclass(frozen=True)
class Source:
    """One tensor of the base and of each vector, all on one device.

    Attributes:
        base: theta_0.
        deltas: tau_k by vector, in name order.
    """

    base: torch.Tensor
    deltas: dict[str, torch.Tensor]

    @property
    def size_bytes(self) -> int:
        return int(self.base.nbytes + sum(delta.nbytes for delta in self.deltas.values()))


class Sources:
    """The tensors of base and vectors, by name.

    On a CPU they are views of the mapped files, which take no memory of their own. To a GPU they are sent for each
    merge, unless copies of them are held there.
    """

    def __init__(self, base: TensorFolder, vectors: Mapping[str, TensorFolder], names: Iterable[str]) -> None:
        self._mapped = {
            name: Source(base.get(name), {vector: folder.get(name) for vector, folder in vectors.items()})
            for name in names
        }
        self._held: dict[str, Source] = {}
        self._rings: dict[torch.device, _Ring] = {}

    def __getitem__(self, name: str) -> Source:
        """The mapped tensors."""
        return self._mapped[name]

    def sizes(self, tensors: Sequence[LiveTensor]) -> dict[str, int]:
        """Bytes of each tensor that lies on a GPU in the model, base and vectors together."""
        return {t.name: self._mapped[t.name].size_bytes for t in tensors if t.view.device.type != "cpu"}

    @property
    def held_bytes(self) -> int:
        """Size of the copies on GPUs."""
        return sum(source.size_bytes for source in self._held.values())

    def hold(self, tensors: Sequence[LiveTensor], rooms: Mapping[torch.device, int]) -> None:
        """Keep copies where the live tensors lie, in their order, while there is room for all of a tensor.

        Args:
            tensors: The live tensors.
            rooms: Bytes that each device has for it; a device that is not named gets none.
        """
        left = dict(rooms)
        for tensor in tensors:
            device, source = tensor.view.device, self._mapped[tensor.name]
            if source.size_bytes <= left.get(device, 0):
                left[device] -= source.size_bytes
                self._held[tensor.name] = self.read(tensor, list(source.deltas))
        if len(self._held) == len(self._mapped):
            # Nothing is left to be sent, so its pinned memory can go.
            self._rings.clear()

    def let_go(self) -> bool:
        """Drop the copies; whether there were any."""
        held, self._held = bool(self._held), {}
        return held

    def read(self, tensor: LiveTensor, vectors: Sequence[str]) -> Source:
        """A tensor of the base and of these vectors, where the live tensor lies."""
        base = self._nearest(tensor.name).base
        return Source(self._to(base, tensor.view.device), self.deltas(tensor, vectors))

    def deltas(self, tensor: LiveTensor, vectors: Sequence[str]) -> dict[str, torch.Tensor]:
        """These vectors' parts alone, where the live tensor lies."""
        nearest = self._nearest(tensor.name).deltas
        return {vector: self._to(nearest[vector], tensor.view.device) for vector in vectors}

    def _nearest(self, name: str) -> Source:
        """The copies where they are held, else the mapped tensors."""
        return self._held.get(name, self._mapped[name])

    def _to(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        if device.type != "cuda" or tensor.device == device:
            return tensor.to(device)
        return self._rings.setdefault(device, _Ring(device)).send(tensor)


class _Ring:
    """Blocks of pinned memory: a GPU fetches from them by itself, while the next is filled from a mapped file."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._blocks: list[torch.Tensor] = []
        self._fetched: list[torch.cuda.Event] = []
        self._next = 0

    def send(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a tensor to the device; what follows there waits for it, the caller does not."""
        import torch

        target = torch.empty_like(tensor, device=self._device, memory_format=torch.contiguous_format)
        parts = (t.reshape(-1).view(torch.uint8).split(_BLOCK_BYTES) for t in (tensor, target))
        with torch.cuda.device(self._device):
            for source, into in zip(*parts, strict=True):
                with self._block() as block:
                    into.copy_(block[: len(source)].copy_(source), non_blocking=True)
        return target

    @contextmanager
    def _block(self) -> Iterator[torch.Tensor]:
        """The next block, once the device has fetched what was in it."""
        import torch

        if len(self._blocks) < _N_BLOCKS:
            self._blocks.append(torch.empty(_BLOCK_BYTES, dtype=torch.uint8, pin_memory=True))
            self._fetched.append(torch.cuda.Event())
        number, self._next = self._next, (self._next + 1) % _N_BLOCKS
        self._fetched[number].synchronize()
        yield self._blocks[number]
        self._fetched[number].record()
