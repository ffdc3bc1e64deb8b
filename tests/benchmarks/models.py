"""Random models, checkpoints, vectors, tasks and recipes to measure with, made once per folder. Measures nothing."""

from __future__ import annotations

import json
import lzma
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mergekit_optimer.vectors import (
    DistributionVector,
    TensorFolder,
    file_sha256,
    model_fingerprint,
    tokenizer_fingerprint,
)
from mergekit_optimer.vectors.stream import write_tensors

if TYPE_CHECKING:
    import torch

DATA = Path(__file__).resolve().parents[2] / "recipes" / "demo" / "data"
DOMAINS = ("code", "en", "ja", "math", "zh")
N_CHOICES = 4
MAX_TOKENS = 32
QUESTION_BYTES, CHOICE_BYTES = 90, 15


@dataclass(frozen=True)
class Size:
    """A Llama's measures, its vocabulary that of a tokenizer trained on the demo's text."""

    hidden: int
    intermediate: int
    n_layers: int
    n_heads: int
    vocab: int


SIZES = {
    "tiny": Size(64, 128, 2, 2, 1024),
    "50M": Size(512, 1536, 12, 8, 16384),
    "300M": Size(1024, 3072, 22, 16, 16384),
    "3B": Size(3072, 8192, 28, 24, 16384),
}


@dataclass(frozen=True)
class Pool:
    """A base with its checkpoints and vectors in one folder."""

    root: Path
    n_vectors: int
    dtype: str

    @property
    def base_dir(self) -> Path:
        return self.root / "base"

    @property
    def names(self) -> list[str]:
        return [f"v{number}" for number in range(self.n_vectors)]

    @property
    def vector_dirs(self) -> dict[str, Path]:
        return {name: self.root / "vectors" / name for name in self.names}

    @property
    def checkpoint_dirs(self) -> dict[str, Path]:
        return {name: self.root / "checkpoints" / name for name in self.names}

    @property
    def n_parameters(self) -> int:
        return sum(tensor.numel() for _, tensor in TensorFolder(self.base_dir).items())


def make_pool(
    work_dir: Path,
    size: str,
    dtype: str,
    n_vectors: int,
    checkpoints: bool = False,
    device: str = "cpu",
    recorded: bool = True,
) -> Pool:
    """Make a random base and vectors over it of 3 % of its size, all in one dtype; what is there is kept.

    Args:
        work_dir: Where.
        size: One of ``SIZES``.
        dtype: Of base and vectors.
        n_vectors: How many.
        checkpoints: Whether the base plus each vector is wanted too, as plain mergekit needs it.
        device: Where the base's numbers are drawn.
        recorded: Whether the vectors get their record, for which every file is hashed.
    """
    pool = Pool(work_dir / "models" / f"{size}-{dtype}", n_vectors, dtype)
    if not pool.base_dir.exists():
        _make_base(pool.base_dir, work_dir / "tokenizers", SIZES[size], dtype, device)
    for number, name in enumerate(pool.names):
        if not pool.vector_dirs[name].exists():
            _make_vector(pool, name, number, recorded)
        if checkpoints and not pool.checkpoint_dirs[name].exists():
            _make_checkpoint(pool, name)
    return pool


def _make_vector(pool: Pool, name: str, number: int, recorded: bool) -> None:
    """Write a vector, with its record where one is wanted; norms, which take minutes, are not computed."""
    import torch

    base = TensorFolder(pool.base_dir)
    # Repeated over the tensors: drawing as many numbers as there are parameters takes longer than what is measured.
    noise = torch.randn(1_000_003, generator=torch.Generator().manual_seed(1000 + number))

    def deltas() -> Iterator[tuple[str, torch.Tensor]]:
        for tensor_name, theta in base.items():
            # By the tensor's size, not by its spread: the norms' weights are all 1.
            scale = 0.03 * float(theta.float().square().mean().sqrt())
            n = theta.numel()
            yield tensor_name, noise.mul(scale).to(theta.dtype).repeat(n // len(noise) + 1)[:n].reshape(theta.shape)

    making = pool.vector_dirs[name].with_name(f"making-{name}")
    _write(deltas(), base, pool, making)
    if recorded:
        _write_record(pool, name, making)
    making.rename(pool.vector_dirs[name])


def _write_record(pool: Pool, name: str, making: Path) -> None:
    record = DistributionVector(
        name=name,
        base_label="base",
        base_fingerprint=model_fingerprint(pool.base_dir),
        tokenizer_fingerprint=tokenizer_fingerprint(pool.base_dir),
        dtype=pool.dtype,
        norm=1.0,
        base_norm=1.0,
        norms={},
        applied_fraction={out_dtype: {"total": 1.0} for out_dtype in ("bfloat16", "float16", "float32")},
        files={file.name: file_sha256(file) for file in sorted(making.iterdir())},
    )
    (making / "distribution_vector.json").write_text(json.dumps(asdict(record)), encoding="utf-8")


def _make_checkpoint(pool: Pool, name: str) -> None:
    base, vector = TensorFolder(pool.base_dir), TensorFolder(pool.vector_dirs[name])
    moved = ((tensor, (theta.float() + vector.get(tensor).float()).to(theta.dtype)) for tensor, theta in base.items())
    making = pool.checkpoint_dirs[name].with_name(f"making-{name}")
    _write(moved, base, pool, making)
    making.rename(pool.checkpoint_dirs[name])


def _write(tensors: Iterator[tuple[str, torch.Tensor]], base: TensorFolder, pool: Pool, making: Path) -> None:
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    write_tensors(tensors, {name: base.shape(name) for name in base.names}, pool.dtype, making)
    for file in pool.base_dir.glob("*.json"):
        if "safetensors" not in file.name:
            shutil.copyfile(file, making / file.name)


def _make_base(folder: Path, tokenizers_dir: Path, size: Size, dtype: str, device: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    tokenizer_dir = tokenizers_dir / str(size.vocab)
    if not tokenizer_dir.exists():
        _make_tokenizer(tokenizer_dir, size.vocab)
    config = LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.n_layers,
        num_attention_heads=size.n_heads,
        num_key_value_heads=size.n_heads,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        tie_word_embeddings=True,
        # Random weights of the usual spread give every token the same logit; a wider one makes scores that differ.
        initializer_range=0.05,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
    making = folder.with_name("making-base")
    shutil.rmtree(making, ignore_errors=True)
    model.save_pretrained(making)
    shutil.copytree(tokenizer_dir, making, dirs_exist_ok=True)
    making.rename(folder)


def _make_tokenizer(folder: Path, vocab_size: int) -> None:
    """Train a byte-level BPE on the demo's training text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts("base"), trainer)
    special = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=1024, **special).save_pretrained(folder)


def _texts(name: str) -> list[str]:
    with lzma.open(DATA / f"{name}.jsonl.xz", "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def make_recipe(pool: Pool, folder: Path, n_samples: int, n_trials: int) -> Path:
    """Write a recipe over a pool: two text and two choice tasks of n dev samples each, all of a sentence's length.

    Texts have 32 tokens, questions some 25 and their four choices 2 to 6. Short samples flatter no ratio to forward
    passes: the work around a sample does not shrink with it. Held-out tasks are the next samples, which the search
    does not open.
    """
    folder.mkdir(parents=True, exist_ok=True)
    specs: dict[str, dict[str, Any]] = {"dev": {}, "held_out": {}}
    for number, kind in enumerate(("text", "text", "choice", "choice")):
        domain = DOMAINS[number % len(DOMAINS)]
        name = f"{kind}_{domain}"
        texts = _texts(f"{domain}.held_out")
        rows = [{"text": text} for text in texts] if kind == "text" else _questions(texts)
        for part, start in (("dev", 0), ("held_out", n_samples)):
            path = folder / f"{name}.{part}.jsonl"
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows[start : start + n_samples])
            path.write_text("".join(lines), encoding="utf-8")
            specs[part][name] = {"kind": kind, "path": path.name} | (
                {"max_tokens": MAX_TOKENS} if kind == "text" else {}
            )
    recipe = {
        "name": "bench",
        "seed": 0,
        "base_model": {"path": str(pool.base_dir)},
        "vectors": {name: {"delta": {"path": str(path)}} for name, path in pool.vector_dirs.items()},
        "search": {
            "n_trials": n_trials,
            "rungs": [{"n_samples": n_samples}],
            "objective": {"mean": sorted(specs["dev"])},
        },
        "tasks": specs["dev"],
        "held_out": specs["held_out"],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def _questions(texts: list[str]) -> list[dict[str, Any]]:
    """Which of four short continuations is this text's?"""
    halves = []
    for text in texts:
        data = text.encode()
        head = data[:QUESTION_BYTES].decode(errors="ignore")
        halves.append((head, text[len(head) :].encode()[:CHOICE_BYTES].decode(errors="ignore")))
    questions: list[dict[str, Any]] = []
    for number, (head, tail) in enumerate(halves):
        others = [halves[(number + step) % len(halves)][1] for step in range(1, 40)]
        distinct = [other for other in dict.fromkeys(others) if other.strip() and other != tail]
        if tail.strip():
            answer, choices = number % N_CHOICES, distinct[: N_CHOICES - 1]
            choices.insert(answer, tail)
            questions.append({"question": head, "choices": choices, "answer": answer})
    return questions
