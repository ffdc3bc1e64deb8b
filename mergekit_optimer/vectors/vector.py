"""One distribution vector on disk: tau = theta_cpt - theta_base as a folder that mergekit can read.

    model.safetensors (or shards)    tau under the base's tensor names
    config.json, tokenizer files     copied, so that mergekit accepts the folder as a model
    distribution_vector.json         what it belongs to, how it was trained, and the sha256 of each file

The folder is no model: loaded as one it produces noise.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mergekit_optimer.errors import VectorError
from mergekit_optimer.files import new_folder, read_json, write_json
from mergekit_optimer.vectors.fingerprint import (
    file_sha256,
    model_fingerprint,
    tokenizer_fingerprint,
    vocabulary_fingerprint,
)
from mergekit_optimer.vectors.record import NOT_KNOWN, OUTPUT_DTYPES, RECORD, DistributionVector, Provenance
from mergekit_optimer.vectors.stream import write_tensors
from mergekit_optimer.vectors.tensors import KINDS, TensorFolder, module_kind

if TYPE_CHECKING:
    import torch

# What a checkpoint that was trained here says of its training.
TRAINING_RECORD = "training_record.json"
# Below this applied fraction the stored model is not quite the one that was searched.
WELL_APPLIED = 0.9
_COPIED = ("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "vocab.json",
           "merges.txt", "*.model", "chat_template.jinja", "added_tokens.json")  # fmt: skip
_CODE = ("*.py",)


def extract_vector(
    name: str,
    checkpoint_dir: Path,
    base_dir: Path,
    out_dir: Path,
    base_label: str,
    dtype: str = "float32",
    provenance: Provenance = NOT_KNOWN,
    trust_remote_code: bool = False,
) -> DistributionVector:
    """Subtract a base from a CPT checkpoint and write the vector's folder, tensor by tensor.

    Memory: the largest tensor of base and checkpoint and their difference, whatever the models' size.

    Args:
        dtype: Storage dtype of the delta. The difference itself is taken in float32.
        provenance: Where base, dataset and checkpoint can be had.
        trust_remote_code: Whether code shipped with the base may run, and so is copied too: without it mergekit cannot
            read the folder's configuration.

    Raises:
        VectorError: Tensor names, shapes or tokenizers differ, or a value is not finite.
        RunFolderError: ``out_dir`` exists.

    Source: Ilharco et al. 2022, arXiv 2212.04089, section 2; OptiMer, arXiv 2603.28858.
    """
    import torch

    check_checkpoint(name, checkpoint_dir, base_dir, base_label)
    base, checkpoint = TensorFolder(base_dir), TensorFolder(checkpoint_dir)
    moments = _Moments()
    with new_folder(out_dir) as work:

        def deltas() -> Iterator[tuple[str, torch.Tensor]]:
            for tensor_name, theta in base.items():
                tau = (checkpoint.get(tensor_name).float() - theta.float()).to(getattr(torch, dtype))
                moments.add(f"vector '{name}'", tensor_name, theta, tau)
                yield tensor_name, tau

        write_tensors(deltas(), {name: base.shape(name) for name in base.names}, dtype, work)
        copy_model_files(base_dir, work, trust_remote_code)
        record = checkpoint_dir / TRAINING_RECORD
        vector = DistributionVector(
            name=name,
            base_label=base_label,
            base_fingerprint=model_fingerprint(base_dir),
            tokenizer_fingerprint=tokenizer_fingerprint(base_dir),
            dtype=dtype,
            norm=moments.norm("total"),
            base_norm=math.sqrt(moments.base_square),
            norms={kind: moments.norm(kind) for kind in KINDS if kind in moments.square},
            applied_fraction=moments.applied_fraction(),
            training=read_json(record) if record.exists() else None,
            files={file.name: file_sha256(file) for file in sorted(work.iterdir())},
            **asdict(provenance),
        )
        write_json(work / RECORD, vector.to_json())
    return vector


def check_checkpoint(name: str, checkpoint_dir: Path, base_dir: Path, base_label: str) -> None:
    """Check that a checkpoint can be subtracted from its base.

    Raises:
        VectorError: Tensor names, shapes or vocabularies differ.
    """
    check_tensors(f"checkpoint '{name}'", TensorFolder(checkpoint_dir), TensorFolder(base_dir))
    if vocabulary_fingerprint(checkpoint_dir) != vocabulary_fingerprint(base_dir):
        raise VectorError(
            f"Checkpoint '{name}' has another tokenizer than its base {base_label}; its rows mean other tokens, "
            "so it cannot be subtracted. Train it with the base's tokenizer."
        )


def check_tensors(what: str, found: TensorFolder, base: TensorFolder) -> None:
    """Check that two folders hold the same tensors; a tied output layer stored twice counts once.

    Raises:
        VectorError: A tensor is missing, too many, or of another shape.
    """
    missing = [name for name in base.names if name not in found]
    if missing:
        raise VectorError(f"{_upper(what)} lacks {missing[0]} ({len(missing)} of {len(base.names)} tensors missing).")
    extra = [name for name in found.names if name not in base and not _is_tied_copy(name, found)]
    if extra:
        raise VectorError(f"{_upper(what)} has {extra[0]}, which its base has not ({len(extra)} tensors too many).")
    for name in base.names:
        if found.shape(name) != base.shape(name):
            raise VectorError(
                f"{_upper(what)} has {name} of shape {found.shape(name)}, its base has {base.shape(name)}; "
                "it belongs to another model."
            )


def check_finite(what: str, tensor_name: str, tensor: torch.Tensor) -> None:
    """Raise VectorError where a tensor holds NaN or Inf."""
    if not bool(tensor.isfinite().all()):
        raise VectorError(f"{_upper(what)} has NaN or Inf in {tensor_name}: training diverged or a file is damaged.")


class _Moments:
    """Sums over all tensors, by module kind and in total, taken while the tensors stream by."""

    def __init__(self) -> None:
        self.square: dict[str, float] = {}
        self.applied: dict[str, dict[str, float]] = {dtype: {} for dtype in OUTPUT_DTYPES}
        self.base_square = 0.0

    def add(self, what: str, name: str, theta: torch.Tensor, tau: torch.Tensor) -> None:
        import torch

        check_finite(what, name, tau)
        check_finite("the base", name, theta)
        tau, theta = tau.float(), theta.float()
        self.base_square += _dot(theta, theta)
        square = _dot(tau, tau)
        merged = theta + tau
        for key in ("total", module_kind(name)):
            self.square[key] = self.square.get(key, 0.0) + square
            for dtype, sums in self.applied.items():
                # Beyond the range of a narrow dtype nothing is kept.
                kept = _dot((merged.to(getattr(torch, dtype)).float() - theta).nan_to_num(posinf=0.0, neginf=0.0), tau)
                sums[key] = sums.get(key, 0.0) + kept

    def norm(self, key: str) -> float:
        return math.sqrt(self.square.get(key, 0.0))

    def applied_fraction(self) -> dict[str, dict[str, float]]:
        """1 where a kind did not move: nothing was lost."""
        return {
            dtype: {key: kept / self.square[key] if self.square[key] else 1.0 for key, kept in sums.items()}
            for dtype, sums in self.applied.items()
        }


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    # Blocks keep the float64 copies small; their sums are exact enough for a norm.
    return sum(
        float((x.double() * y.double()).sum())
        for x, y in zip(a.reshape(-1).split(1 << 20), b.reshape(-1).split(1 << 20), strict=True)
    )


def model_files(folder: Path, with_code: bool = False) -> list[Path]:
    """Configuration and tokenizer files of a model folder, and the code beside them where it is trusted, sorted."""
    patterns = (*_COPIED, *(_CODE if with_code else ()))
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def copy_model_files(source: Path, target: Path, with_code: bool = False) -> None:
    """Copy what ``model_files`` lists, so that a folder of tensors passes as a model."""
    for file in model_files(source, with_code):
        shutil.copyfile(file, target / file.name)


def _is_tied_copy(name: str, folder: TensorFolder) -> bool:
    """Whether an output layer is the input embedding stored a second time, as some savers do for tied models."""
    if not name.endswith(("lm_head.weight", "embed_out.weight")):
        return False
    embeddings = [n for n in folder.names if n.endswith(("embed_tokens.weight", "wte.weight", "embed_in.weight"))]
    return any(folder.shape(n) == folder.shape(name) and folder.get(n).equal(folder.get(name)) for n in embeddings)


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
