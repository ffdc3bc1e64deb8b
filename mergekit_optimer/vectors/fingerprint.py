"""What makes two model folders the same base: tensors by content, and the tokenizer by what it does to text."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mergekit_optimer.errors import VectorError
from mergekit_optimer.vectors.tensors import TensorFolder

# Spaces, digits, case, Japanese, Chinese, an emoji and code: where tokenizers of one size part ways.
_PROBE = "The  quick-brown fox, 3.14159 x 2026?\n\tdef f(x): return x**2\n私は学生です。第六条 规定 🙂 naïve"

_seen: dict[tuple[tuple[str, int, int], ...], str] = {}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(content: Path | bytes) -> str:
    """SHA-256 of a file or of what would be one, in hex."""
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else file_sha256(content)


def model_fingerprint(model_dir: Path) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor: equal for the same weights however sharded.

    Raises:
        VectorError: The folder holds no readable safetensors.
    """
    import torch

    folder = TensorFolder(model_dir)
    key = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in folder.files)
    if key not in _seen:
        digest = hashlib.sha256()
        for name, tensor in folder.items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy()))
        _seen[key] = digest.hexdigest()
    return _seen[key]


def load_tokenizer(model_dir: Path, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of a model folder.

    Raises:
        VectorError: The folder holds no tokenizer that transformers can load.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model_dir, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise VectorError(f"{model_dir} holds no tokenizer; save it there with save_pretrained.") from error


def vocabulary_fingerprint(model_dir: Path) -> str:
    """SHA-256 over the vocabulary with its ids and the ids of a probe text: equal where rows mean the same tokens.

    Which of them are special is left out: instruction-tuned models end turns with another token than their base.

    Raises:
        VectorError: The folder holds no tokenizer that transformers can load.
    """
    tokenizer = load_tokenizer(model_dir)
    content = [
        sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]),
        tokenizer(_PROBE, add_special_tokens=False)["input_ids"],
    ]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def tokenizer_fingerprint(model_dir: Path) -> str:
    """SHA-256 over the vocabulary with its ids, the special tokens, and the ids of a probe text.

    Raises:
        VectorError: The folder holds no tokenizer that transformers can load.
    """
    tokenizer = load_tokenizer(model_dir)
    content = [
        sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]),
        sorted(tokenizer.all_special_tokens),
        tokenizer(_PROBE)["input_ids"],
    ]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()
