"""A recipe that names everything by repository, pulled and searched by ben with an empty cache; and code in one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from loopback_repos import Repo
from publish_story import Reader, Story

pytest_plugins = ["publish_fixtures"]

Maker = Callable[..., Path]
NAMES = {"base": "org/start", "ck": "org/ck", "it": "org/lora", "dev": "org/dev-rows", "held_out": "org/held-out-rows"}


def adapter_files() -> dict[str, bytes]:
    """A LoRA adapter of the tiny Llama's query projections."""
    import torch
    from safetensors.torch import save

    torch.manual_seed(3)
    place = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    tensors = {place.format(layer, part): 0.2 * torch.randn(4, 32) for layer in (0, 1) for part in "AB"}
    tensors = {name: tensor.T.contiguous() if "lora_B" in name else tensor for name, tensor in tensors.items()}
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    return {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": save(tensors)}


def model_files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def recipe(**changes: Any) -> dict[str, Any]:
    plain = {
        "search": {"n_trials": 4, "warm_starts": ["zero", "singles"], "rungs": [{"n_samples": 2}],
                   "objective": {"mean": ["en"]}},
        "tasks": {"en": {"kind": "text", "repo": NAMES["dev"], "max_tokens": 32}},
        "held_out": {"en": {"kind": "text", "repo": NAMES["held_out"], "max_tokens": 32}},
    }  # fmt: skip
    return plain | changes


@pytest.fixture(scope="module")
def repos(story: Story, base_dir: Path, tiny_model: Maker) -> dict[str, Repo]:
    """What the recipe names, each private and at its first commit."""
    add, rows = story.hub.state.add_repo, '{{"text": "a text of {}"}}\n'
    return {
        "base": add(NAMES["base"], model_files(base_dir), private=True),
        "ck": add(NAMES["ck"], model_files(tiny_model("ck", seed=7)), private=True),
        "it": add(NAMES["it"], adapter_files(), private=True),
        "dev": add(NAMES["dev"], {"train.jsonl": rows.format("dev").encode() * 3}, "dataset", private=True),
        "held_out": add(NAMES["held_out"], {"train.jsonl": rows.format("held").encode() * 3}, "dataset", private=True),
    }


@pytest.fixture(scope="module")
def pulled(story: Story, ben: Reader, repos: dict[str, Repo]) -> dict[str, Any]:
    """What `vectors pull` answered; afterwards every branch has moved."""
    vectors = {"ck": {"checkpoint": {"repo": "org/ck"}}, "it": {"adapter": {"repo": "org/lora"}},
               "math": {"delta": {"repo": "org/dv-math"}}}  # fmt: skip
    text = yaml.safe_dump(recipe(name="pulled", base_model={"repo": "org/start"}, vectors=vectors))
    (ben.folder / "pulled.yaml").write_text(text)
    first = {name: repo.head for name, repo in repos.items()} | {"math": story.head("org/dv-math")}
    answer = ben.call("vectors", "pull", "pulled.yaml", "--device", "cpu")
    again = ben.call("vectors", "pull", "pulled.yaml", "--device", "cpu", "--run-dir", "runs/again")
    for repo in repos.values():
        repo.commit(dict.fromkeys(repo.commits[repo.head].files, b"{}"), "something else")
    return answer | {"first": first, "again": again}


def test_a_recipe_of_repositories_is_pulled_and_its_vectors_are_made(ben: Reader, pulled: dict[str, Any]) -> None:
    assert pulled["status"] == 0, pulled
    lines = [line.split("  ") for line in pulled["out"].splitlines()]
    assert {name: label for name, label, _ in lines} == {
        "base": f"org/start@{pulled['first']['base']}",
        "vectors/ck": f"org/ck@{pulled['first']['ck']}",
        "vectors/it": f"org/lora@{pulled['first']['it']}",
        "vectors/math": f"org/dv-math@{pulled['first']['math']}",
    }
    assert all(Path(path).is_dir() for _, _, path in lines)
    record = json.loads((ben.folder / "runs/pulled/vectors/ck/distribution_vector.json").read_text())
    assert (record["source"], record["base_repo"]) == (f"org/ck@{pulled['first']['ck']}", "org/start")


def test_a_second_pull_of_it_links_what_was_made(pulled: dict[str, Any]) -> None:
    assert pulled["again"]["status"] == 0, pulled["again"]
    made_before = [line for line in pulled["again"]["log"] if "made before, linked from" in line]
    assert len(made_before) == 2


def test_a_pull_writes_the_commits_of_all_that_the_recipe_names(ben: Reader, pulled: dict[str, Any]) -> None:
    pins = json.loads((ben.folder / "runs/pulled/manifest.json").read_text())["pins"]
    kinds = {"dev": "dataset", "held_out": "dataset"}
    assert pins == {
        f"{kinds.get(name, 'model')} {repo}": pulled["first"][name]
        for name, repo in (NAMES | {"math": "org/dv-math"}).items()
    }


def test_it_is_searched_at_the_commits_of_the_pull_though_all_branches_have_moved(
    ben: Reader, repos: dict[str, Repo], pulled: dict[str, Any]
) -> None:
    answer = ben.call("search", "pulled.yaml", "--device", "cpu")
    assert answer["status"] == 0, answer
    for name, repo in repos.items():
        words = f"{NAMES[name]} has moved to {repo.head}; this run stays at {pulled['first'][name]}"
        assert any(words in line for line in answer["log"]), words
    merged = ben.folder / "runs/pulled/best/model/model.safetensors"
    assert merged.stat().st_size > 1000
    labels = (ben.folder / "runs/pulled/best/winner.json").read_text()
    assert {"ck", "it", "math"} == set(json.loads(labels)["winner"]["weights"])


def test_a_search_makes_the_vectors_that_no_pull_has_made(ben: Reader, pulled: dict[str, Any]) -> None:
    first = pulled["first"]
    vectors = {"ck": {"checkpoint": {"repo": "org/ck", "revision": first["ck"]}},
               "it": {"adapter": {"repo": "org/lora", "revision": first["it"]}}}  # fmt: skip
    parts = recipe(name="straight", base_model={"repo": "org/start", "revision": first["base"]}, vectors=vectors)
    for part, name in (("tasks", "dev"), ("held_out", "held_out")):
        parts[part]["en"]["revision"] = first[name]
    (ben.folder / "straight.yaml").write_text(yaml.safe_dump(parts))
    answer = ben.call("search", "straight.yaml", "--device", "cpu")
    assert answer["status"] == 0, answer
    again = ben.call("search", "straight.yaml", "--device", "cpu")
    assert not [line for line in again["log"] if "vectors/" in line], "what is there was looked at again"


def test_a_set_or_a_run_folder_beside_a_pool_is_wrong_usage(story: Story, ben: Reader) -> None:
    assert ben.call("vectors", "pull", "org/dv-pool", "--run-dir", "x")["status"] == 2
    missing = ben.call("vectors", "pull", "my/recipe.yaml")
    assert missing["status"] == 1
    assert "my/recipe.yaml" in missing["err"]
    assert not [str(seen) for seen in story.hub.state.requests if "my/recipe" in seen.path]


CODE = """
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

Path({marker!r}).write_text("ran")


class OwnConfig(LlamaConfig):
    model_type = "own_llama"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture(scope="module")
def coded(story: Story, tiny_model: Maker, ben: Reader) -> dict[str, Repo]:
    """A base and a checkpoint of a class of their own, whose code leaves a mark where it runs."""
    found = {}
    for seed, name in enumerate(("org/coded", "org/coded-ck")):
        files = model_files(tiny_model(name.partition("/")[2], seed=seed))
        own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
        config = json.loads(files["config.json"])
        config |= {"model_type": "own_llama", "architectures": ["OwnForCausalLM"], "auto_map": own}
        code = CODE.format(marker=str(ben.folder / "mark")).encode()
        files |= {"config.json": json.dumps(config).encode(), "own.py": code}
        found[name] = story.hub.state.add_repo(name, files, private=True)
    return found


@pytest.mark.parametrize("trusts", [False, True])
def test_code_of_a_base_runs_only_where_the_recipe_trusts_it_at_a_commit(
    ben: Reader, coded: dict[str, Repo], trusts: bool
) -> None:
    def source(name: str) -> dict[str, Any]:
        return {"repo": name, "revision": coded[name].head} | ({"trust_remote_code": True} if trusts else {})

    rows = {name: f'{{"text": "a text of {name}"}}\n' * 3 for name in ("dev", "held_out")}
    for name, text in rows.items():
        (ben.folder / f"{name}.jsonl").write_text(text)
    tasks = {part: {"en": {"kind": "text", "path": f"{name}.jsonl", "max_tokens": 32}}
             for part, name in (("tasks", "dev"), ("held_out", "held_out"))}  # fmt: skip
    vectors = {"ck": {"checkpoint": source("org/coded-ck")}}
    name = f"coded-{'on' if trusts else 'off'}"
    text = yaml.safe_dump(recipe(name=name, base_model=source("org/coded"), vectors=vectors, **tasks))
    (ben.folder / f"{name}.yaml").write_text(text)
    (ben.folder / "mark").unlink(missing_ok=True)
    assert ben.call("vectors", "pull", f"{name}.yaml", "--device", "cpu")["status"] == 0
    answer = ben.call("search", f"{name}.yaml", "--device", "cpu")
    is_fetched = bool(list((ben.folder / "home/hf/hub/models--org--coded/snapshots").rglob("*.py")))
    if trusts:
        assert answer["status"] == 0, answer
        assert (ben.folder / "mark").exists()
        assert is_fetched
        return
    assert answer["status"] == 1, answer
    (sentence,) = [line for line in answer["err"].splitlines() if line.startswith("error: ")]
    assert "contains custom code" in sentence
    assert answer["err"].endswith(f"{sentence}\n")
    assert not (ben.folder / "mark").exists()
    assert not is_fetched
