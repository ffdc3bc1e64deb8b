"""Weights that are there as pickle only -> safetensors in the user's cache, where the recipe allows to read them.

Read with torch's weights_only unpickler, which makes tensors and runs nothing; what holds more than that is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_optimer.errors import DiskError, HubError, RunFolderError
from mergekit_optimer.files import discard, new_folder, read_json, write_json
from mergekit_optimer.machine import user_cache_dir

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_INDEX = "pytorch_model.bin.index.json"
_ADAPTER = "adapter_model.bin"
# Which files of a repository are weights; optimizer.pt and training_args.bin are not.
PICKLED_WEIGHTS = ("pytorch_model*.bin", _ADAPTER)
# Names of an output layer, which a tied model shares with its embeddings and does not store.
_OUTPUTS = ("lm_head.weight", "embed_out.weight")
_RECORD = "converted_from.json"

_seen: dict[tuple[tuple[str, int, int], ...], str] = {}


def pickled_weights(folder: Path) -> list[Path]:
    """The pickles of a model or adapter folder that has no safetensors, sorted; none for any other folder."""
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return []
    whole = folder / "pytorch_model.bin"
    # Beside a whole file, shards would be the same tensors again.
    patterns = (whole.name, _ADAPTER) if whole.exists() else PICKLED_WEIGHTS
    return sorted(file for pattern in patterns for file in folder.glob(pattern))


def without_pickles(folder: Path, name: str, kept: tuple[str, ...], cache_dir: Path | None = None) -> Path:
    """Return a folder with the same weights as safetensors: the folder itself where it has them.

    A folder is converted once; who asks again gets the same one.

    Args:
        folder: Of a model or an adapter.
        name: What it is called, for sentences.
        kept: Shell patterns of the other files that belong to it.
        cache_dir: Where converted folders are kept; None for the user's cache.

    Raises:
        HubError: A pickle holds more than tensors, is damaged, or is not all that its index names.
        DiskError: The cache cannot be written.
    """
    pickles = pickled_weights(folder)
    if not pickles:
        return folder
    others = sorted(file for file in folder.iterdir() if file.is_file() and _is_kept(file.name, kept))
    target = (cache_dir or user_cache_dir() / "converted") / _content_hash([*pickles, *others])
    if _is_whole(target):
        return target
    try:
        discard(target)
        with new_folder(target) as work:
            for file in others:
                shutil.copyfile(file, work / file.name)
            _convert(folder, pickles, name, work)
            sizes = {file.name: file.stat().st_size for file in sorted(work.glob("*.safetensors"))}
            write_json(work / _RECORD, {"name": name, "sizes": sizes})
    except (RunFolderError, OSError) as error:
        # Another process may have made it meanwhile.
        if not _is_whole(target):
            raise DiskError(f"{target} cannot be written ({error}); free some room, or set XDG_CACHE_HOME.") from error
    log.info("%s: its pickle is now safetensors, in %s", name, target)
    return target


def _is_kept(file: str, kept: tuple[str, ...]) -> bool:
    return file != _INDEX and any(fnmatch(file, pattern) for pattern in kept)


def _is_whole(target: Path) -> bool:
    try:
        sizes = read_json(target / _RECORD)["sizes"]
        return bool(sizes) and all((target / file).stat().st_size == size for file, size in sizes.items())
    except (RunFolderError, OSError, KeyError, TypeError, AttributeError):
        return False


def _content_hash(files: list[Path]) -> str:
    key = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    if key not in _seen:
        digest = hashlib.sha256()
        for file in files:
            with file.open("rb") as stream:
                digest.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
        _seen[key] = digest.hexdigest()
    return _seen[key]


def _convert(folder: Path, pickles: list[Path], name: str, work: Path) -> None:
    from safetensors.torch import save_file

    tied = _is_tied(folder)
    weight_map: dict[str, str] = {}
    for file in pickles:
        target = file.name.replace("pytorch_model", "model").removesuffix(".bin") + ".safetensors"
        tensors = _without_shared(_read(file, name), tied)
        try:
            save_file(tensors, work / target, {"format": "pt"})
        except ValueError as error:
            raise HubError(f"{file.name} of {name} holds a tensor that safetensors does not know: {error}.") from error
        weight_map |= dict.fromkeys(tensors, target)
    if (folder / _INDEX).exists():
        _check_index(folder / _INDEX, set(weight_map), {file.name for file in pickles}, name)
    if len(pickles) > 1:
        (work / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _read(file: Path, name: str) -> dict[str, torch.Tensor]:
    import pickle

    import torch

    def read(mmap: bool) -> Any:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)

    try:
        try:
            state = read(mmap=True)
        except RuntimeError:
            # Files of torch before 1.6 cannot be mapped.
            state = read(mmap=False)
    except pickle.UnpicklingError as error:
        raise HubError(
            f"{file.name} of {name} holds more than tensors, which could run code, or is damaged; it is not read. Name "
            "a revision with safetensors."
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        # The unpickler walks through whatever the bytes say, and fails in whatever way they lead to.
        raise HubError(f"{file.name} of {name} is damaged or no file of torch; fetch it again.") from error
    if not isinstance(state, dict) or not state or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):  # fmt: skip
        raise HubError(f"{file.name} of {name} is no mapping of names to tensors; name a revision with safetensors.")
    return dict(state)


def _without_shared(state: dict[str, torch.Tensor], is_tied: bool) -> dict[str, torch.Tensor]:
    """Tensors that share no memory, as safetensors wants them; the output layer of a tied model is left out."""
    places: dict[tuple[int, tuple[int, ...]], str] = {}
    found: dict[str, torch.Tensor] = {}
    # Embeddings come first, so that of two names for one tensor theirs stays.
    for key in sorted(state, key=lambda key: (key.endswith(_OUTPUTS), key)):
        tensor = state[key]
        place = (tensor.data_ptr(), tuple(tensor.shape))
        if is_tied and key.endswith(_OUTPUTS) and place in places:
            continue
        places.setdefault(place, key)
        found[key] = tensor.contiguous()
    by_storage: dict[int, int] = {}
    for tensor in found.values():
        by_storage[tensor.untyped_storage().data_ptr()] = by_storage.get(tensor.untyped_storage().data_ptr(), 0) + 1
    return {
        key: tensor.clone() if by_storage[tensor.untyped_storage().data_ptr()] > 1 else tensor
        for key, tensor in found.items()
    }


def _is_tied(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get("tie_word_embeddings", False))


def _check_index(path: Path, found: set[str], files: set[str], name: str) -> None:
    try:
        weight_map = dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HubError(f"{path.name} of {name} is no index of weights; fetch it again.") from error
    if missing := sorted({str(file) for file in weight_map.values()} - files):
        raise HubError(f"{name} lacks {missing[0]}, which its index names; fetch it again.")
    if missing := sorted(key for key in set(weight_map) - found if not key.endswith(_OUTPUTS)):
        raise HubError(f"{name} lacks the tensor {missing[0]}, which its index names; fetch it again.")
