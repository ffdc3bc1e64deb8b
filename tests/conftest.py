"""Tiny inputs for all tests: models of a few thousand parameters with a real tokenizer, made on the spot."""

from __future__ import annotations

import os
import secrets

# Two busy BLAS threads on two cores cost more than one; no test may reach for the network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Of a Ray cluster that a test starts: nobody else is let in. Ray reads it when it is first imported.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TEXT = [
    "The cat sat on the mat and looked at the moon.",
    "Tom has 3 apples and buys 4 more. How many apples does Tom have? 3 + 4 = 7",
    "def add(a, b):\n    return a + b\n",
    "私は彼に八時に来てくれと言ったが、彼は九時に現れた。",
    "第六条 根据国民经济和社会发展的需要，国务院对重大公共基础设施建设作出规定。",
]


def make_tokenizer(path: Path, eos: bool = True, vocab_size: int = 384) -> None:
    """Train and save a byte-level BPE tokenizer in a model folder."""
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
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    special = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"} if eos else {}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **special).save_pretrained(path)


def make_model(
    path: Path, arch: str = "llama", seed: int = 0, tied: bool = True, dtype: str = "float32", **config: Any
) -> Path:
    """Write a tiny random model folder with a tokenizer; returns the folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": 384,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 128,
    }
    if arch == "gpt2":
        sizes = {"vocab_size": 384, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}
    sizes |= {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0, "tie_word_embeddings": tied}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(arch, **(sizes | config)))
    model.to(getattr(torch, dtype)).save_pretrained(path)
    make_tokenizer(path)
    return path


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The user's cache is neither read nor written."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A maker of tiny model folders: tiny_model("name", arch="qwen3", seed=1, tied=False, dtype="bfloat16")."""

    def make(name: str, **options: Any) -> Path:
        return make_model(tmp_path_factory.mktemp("models") / name, **options)

    return make


@pytest.fixture(scope="session")
def base_dir(tiny_model: Callable[..., Path]) -> Path:
    """A tiny tied Llama in float32."""
    return tiny_model("base")


@pytest.fixture
def pool(tiny_model: Callable[..., Path], tmp_path: Path) -> Any:
    """A ``merge_pool.Pool`` of tiny Llamas."""
    from merge_pool import Pool

    return Pool(tiny_model, tmp_path)


def make_scores(shifts: dict[str, dict[str, float]], n: int, seed: int) -> dict[str, Any]:
    """Model -> task -> scores from model -> task -> shift: samples share their difficulty, models differ by the shift.

    Tasks called choice* have gold_ll and acc, the rest bits_per_byte over unequal weights; a positive shift is better.
    """
    import zlib

    import numpy as np

    from mergekit_optimer.scores import MetricSamples, TaskScores

    scores: dict[str, Any] = {}
    for model, tasks in shifts.items():
        for task, shift in tasks.items():
            shared = np.random.default_rng([seed, zlib.crc32(task.encode())])
            own = np.random.default_rng([seed, zlib.crc32(task.encode()), zlib.crc32(model.encode())])
            difficulty, sizes = shared.normal(0, 0.3, n), shared.integers(80, 400, n)
            noise = own.normal(0, 0.05, n) * (model != "base_model")
            if task.startswith("choice"):
                values = -1.2 + difficulty + noise + shift
                right = (values > -1.3).astype(float)
                ones = (1.0,) * n
                metrics = {
                    "gold_ll": MetricSamples(tuple(values.tolist()), ones, True, -5.545),
                    "acc": MetricSamples(tuple(right.tolist()), ones, True, 0.0),
                }
                made = TaskScores(metrics, "gold_ll")
            else:
                values = 2.0 + difficulty + noise - shift
                weights = tuple(sizes.astype(float).tolist())
                metrics = {"bits_per_byte": MetricSamples(tuple(values.tolist()), weights, False, 8.0)}
                made = TaskScores(metrics, "bits_per_byte")
            scores.setdefault(model, {})[task] = made
    return scores


@pytest.fixture
def made_scores() -> Callable[..., dict[str, Any]]:
    """make_scores, for tests that shape their own scores."""
    return make_scores


@pytest.fixture
def report_inputs() -> dict[str, Any]:
    """Keyword arguments of build_report for an invented pool of three vectors, with a clearly better winner."""
    from mergekit_optimer.report import BaseModelFacts, RungFacts, SearchFacts, VectorFacts

    gains = {
        "winner": {"ja": 0.30, "code": 0.22, "choice_math": 0.20},
        "base_model": {"ja": 0.0, "code": 0.0, "choice_math": 0.0},
        "single/ja": {"ja": 0.31, "code": -0.06, "choice_math": -0.02},
        "single/code": {"ja": -0.05, "code": 0.25, "choice_math": 0.01},
        "single/math": {"ja": -0.04, "code": 0.02, "choice_math": 0.24},
        "uniform_average": {"ja": 0.12, "code": 0.11, "choice_math": 0.10},
        "sum": {"ja": 0.14, "code": 0.10, "choice_math": 0.06},
        "ties": {"ja": 0.13, "code": 0.12, "choice_math": 0.09},
        "dare_linear": {"ja": 0.11, "code": 0.10, "choice_math": 0.10},
        "data_mixture": {"ja": 0.21, "code": 0.17, "choice_math": 0.15},
    }
    on_dev = {model: gains[model] for model in gains if model not in ("ties", "dare_linear", "data_mixture")}

    def vector(name: str, weight: float, steps: int, rate: float, relative: float, applied: float) -> VectorFacts:
        return VectorFacts(
            name, f"checkpoint {name}", None, f"{name}.train.jsonl.xz", weight, 40 * relative, relative, applied,
            n_tokens=steps * 4096, n_steps=steps, learning_rate=rate,
        )  # fmt: skip

    search = SearchFacts(
        sampler="tpe",
        options={"multivariate": True, "constant_liar": False, "n_startup_trials": 10},
        n_trials=60,
        n_collapsed=2,
        n_failed=0,
        rungs=(RungFacts(100, None), RungFacts(300, 3)),
        objective="mean gain over base_model on ja, code, choice_math",
        intervals={"code": (-0.5, 1.25), "ja": (-0.5, 1.25), "math": (-0.5, 1.25)},
        best_trial=47,
        best_value=0.15873,
        warm_starts=("zero", "uniform_average", "half", "singles"),
        started="2026-01-02T03:04:05Z",
        finished="2026-01-02T03:44:05Z",
    )
    return {
        "name": "three_vectors",
        "seed": 7,
        "recipe_hash": "9b2f" * 16,
        "versions": {"python": "3.11.2", "mergekit": "0.1.5", "mergekit-optimer": "0.1.0", "torch": "2.13.0"},
        "device": "cpu",
        "dtype": "float32",
        "base": BaseModelFacts("example-org/base@" + "0a" * 20, "example-org/base", "0a" * 20, "c4d1" * 16),
        "vectors": [
            vector("math", 0.5512, 300, 1e-3, 0.0312, 0.9991),
            vector("ja", 0.8231, 1200, 5e-4, 0.0871, 0.9998),
            vector("code", 1.2461, 400, 1e-3, 0.0413, 0.9995),
        ],
        "search": search,
        "dev": make_scores(on_dev, 100, seed=1),
        "held_out": make_scores(gains, 200, seed=2),
        "timings": {"train_s": 1510.2, "merge_s": 21.45, "score_s": 803.9, "total_s": 2400.0},
        "yaml": "merge_method: distribution_arithmetic\nbase_model: base\n",
        "portable_yaml": "merge_method: task_arithmetic\nbase_model: base\ndtype: float32\n",
        "portable_reason": None,
        "command": "mergekit-optimer run recipes/three_vectors/recipe.yaml",
        "license": "apache-2.0",
        "language": ["ja", "en"],
        "repo": "example-org/three-vectors",
        "model_dir": "best/model",
        "card_path": "card/README.md",
        "n_resamples": 2000,
    }


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-cards", action="store_true", help="write the example cards anew instead of comparing")


@pytest.fixture(scope="session")
def task_recipe(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A maker of recipes whose dev tasks have their rows beside them: task_recipe(ja=({"kind": "text"}, rows))."""
    import json

    from mergekit_optimer.recipe import Recipe

    def make(seed: int = 0, **tasks: tuple[dict[str, Any], list[Any]]) -> Recipe:
        folder = tmp_path_factory.mktemp("task_recipe")
        specs: dict[str, Any] = {}
        for name, (spec, rows) in tasks.items():
            if spec["kind"] != "lighteval":
                lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
                spec = {"path": f"{name}.jsonl"} | spec
            specs[name] = spec
        return Recipe.model_validate(
            {
                "name": "tasks",
                "seed": seed,
                "base_model": {"path": "base"},
                "vectors": {"it": {"checkpoint": {"path": "it"}}},
                "search": {"objective": {"mean": sorted(specs)}},
                "tasks": specs,
                "held_out": specs,
                "folder": folder,
            }
        )

    return make


WORDS = {
    "ja": ["私は", "学生です。", "彼は", "九時に", "来ました。", "今日は", "雨が", "降る。"],
    "math": ["Tom has", "3 apples.", "He buys", "4 more.", "Now he has", "7 apples.", "5 + 2 = 7", "How many?"],
    "en": ["The cat", "sat on", "the mat.", "A dog", "looked at", "the moon.", "Rain fell", "all day."],
}


def write_documents(path: Path, domain: str, n: int, seed: int) -> None:
    """Write a jsonl corpus of n short documents, different for each seed."""
    import json
    import random

    rng = random.Random(f"{domain}/{seed}")
    texts = [" ".join(rng.choices(WORDS[domain], k=12)) + f" {seed}-{i}" for i in range(n)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")


def write_micro_recipe(folder: Path, base_dir: Path) -> Path:
    """Write a whole recipe that runs in seconds: two datasets, three dev and held-out tasks, six trials."""
    import shutil

    import yaml

    shutil.copytree(base_dir, folder / "base")
    for domain in ("ja", "math", "en"):
        for number, (part, n) in enumerate((("train", 40), ("dev", 8), ("held_out", 10))):
            write_documents(folder / "data" / f"{domain}.{part}.jsonl", domain, n, number)
    tasks = {name: {"kind": "text", "path": f"data/{name}.dev.jsonl", "max_tokens": 64} for name in WORDS}
    recipe = {
        "name": "micro",
        "seed": 1,
        "base_model": {"path": "base"},
        "train": {
            "defaults": {"max_length": 32, "per_device_train_batch_size": 4, "learning_rate": 0.003, "max_steps": 4},
            "datasets": {name: {"path": f"data/{name}.train.jsonl"} for name in ("ja", "math")},
            "mixture": {},
        },
        "search": {
            "n_trials": 6,
            "warm_starts": ["zero", "uniform_average", "sum", "singles"],
            "rungs": [{"n_samples": 4}, {"n_samples": 8, "top": 2}],
            "objective": {"mean": ["en", "ja", "math"]},
        },
        "tasks": tasks,
        "held_out": {name: {"kind": "text", "path": f"data/{name}.held_out.jsonl", "max_tokens": 64} for name in WORDS},
        "publish": {"license": "apache-2.0", "language": ["ja", "en"]},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def micro_recipe(tmp_path: Path, base_dir: Path) -> Path:
    """A recipe of ``write_micro_recipe`` in a folder of its own."""
    return write_micro_recipe(tmp_path / "study", base_dir)
