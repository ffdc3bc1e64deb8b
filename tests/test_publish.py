"""A pool and a merged model published by one user and made again by another, with nothing but their names.

One story over one Hub, told step by step: ann, who may write, trains, searches and publishes; ben has a read token and
an empty cache.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from loopback_repos import ANN, BEN
from publish_story import Reader, Story

from mergekit_optimer.errors import HubError
from mergekit_optimer.pipeline.uploads import check_license

pytest_plugins = ["publish_fixtures"]


def test_every_step_ends_well(story: Story) -> None:
    wrong = {name: said for name, said in story.said.items() if "repos" not in said and said.get("status") != 0}
    assert not wrong, [said.get("err") or said.get("text") for said in wrong.values()]


def test_a_dry_run_shows_files_sizes_visibility_and_card_and_sends_nothing(story: Story) -> None:
    out = story.said["dry publish"]["out"]
    assert re.search(r"^org/merged  private, new: \d+ of \d+ files to send, [\d.]+ [kM]B$", out, re.M)
    assert re.search(r"^  \+ model.safetensors  [\d.]+ [kM]B$", out, re.M)
    assert "base_model_relation: merge" in out
    assert "Nothing was sent" in out
    checkpoints = ["org/cpt-data_mixture", "org/cpt-ja", "org/cpt-math"]
    vectors = ["org/dv-ja", "org/dv-math", "org/dv-pool"]
    assert story.said["before"]["repos"] == ["org/base", *checkpoints, "org/texts-ja"]
    assert story.said["after the dry publish"]["repos"] == ["org/base", *checkpoints, *vectors, "org/texts-ja"]


def test_what_is_pushed_is_private_and_whole_and_nothing_else(story: Story) -> None:
    assert all(repo.private for (_, name), repo in story.hub.state.repos.items() if name != "org/base")
    model = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert set(story.files("org/cpt-ja")) == model | {".gitattributes", "README.md", "training_record.json"}
    assert set(story.files("org/dv-ja")) == model | {".gitattributes", "README.md", "distribution_vector.json"}
    assert set(story.files("org/dv-pool")) == {".gitattributes", "README.md", "pool.json"}
    more = {"mergekit_config.yaml", "merge.portable.yaml", "search.png"}
    assert set(story.files("org/merged")) - model == more | {".gitattributes", "README.md"}


def test_the_pool_names_each_vector_and_the_base_by_commit(story: Story) -> None:
    pool = json.loads(story.files("org/dv-pool")["pool.json"])
    assert pool["vectors"] == {
        name: {"repo": f"org/dv-{name}", "revision": story.head(f"org/dv-{name}")} for name in ("ja", "math")
    }
    assert (pool["base"]["repo"], pool["base"]["revision"]) == ("org/base", story.base_revision)
    record = json.loads(story.files("org/dv-ja")["distribution_vector.json"])
    assert record["dataset_repo"] == "org/texts-ja"
    assert record["dataset_revision"] == story.hub.state.repos["dataset", "org/texts-ja"].head


def test_the_configuration_names_everything_by_commit(story: Story) -> None:
    config = yaml.safe_load(story.files("org/merged")["mergekit_config.yaml"])
    assert config["base_model"] == f"org/base@{story.base_revision}"
    assert [model["model"] for model in config["models"]] == [
        f"org/dv-{name}@{story.head(f'org/dv-{name}')}" for name in ("ja", "math")
    ]
    twin = yaml.safe_load(story.files("org/merged")["merge.portable.yaml"])
    assert {model["model"] for model in twin["models"]} == {
        f"org/cpt-{name}@{story.head(f'org/cpt-{name}')}" for name in ("ja", "math")
    }


def test_a_second_push_makes_no_commit_and_sends_nothing(story: Story) -> None:
    heads = {name: repo.head for name, repo in story.hub.state.repos.items()}
    story.hub.state.requests.clear()
    common = ("recipe.yaml", "--run-dir", "run", "--device", "cpu")
    for words in (("train", *common, "--push"), ("vectors", "push", *common), ("publish", "run")):
        answer = story.call(*words)
        assert answer["status"] == 0, answer
        plans = [line for line in answer["err"].splitlines() if line.startswith("org/")]
        assert plans
        assert all("private, as it is there: 0 of" in line for line in plans), plans
    assert {name: repo.head for name, repo in story.hub.state.repos.items()} == heads
    assert not [str(seen) for seen in story.hub.state.requests if seen.method in ("PUT", "DELETE")]


def test_nothing_of_this_machine_leaves_it_and_the_token_is_nowhere(story: Story) -> None:
    for (_, name), repo in story.hub.state.repos.items():
        for path, file in repo.commits[repo.head].files.items():
            for text in (str(story.folder), str(Path.home()), ANN):
                assert text.encode() not in file.content or path == "tokenizer.json", (name, path)
    for path in story.folder.rglob("*"):
        if path.is_file():
            assert ANN.encode() not in path.read_bytes(), path
    assert not [line for said in story.said.values() for line in said.get("log", []) if ANN in line]
    assert not [said for said in story.said.values() if ANN in said.get("out", "") + said.get("err", "")]


def tensor_hashes(content: bytes) -> dict[str, str]:
    """SHA-256 of each tensor of a safetensors file, by name."""
    from safetensors.numpy import load

    return {name: hashlib.sha256(tensor.tobytes()).hexdigest() for name, tensor in load(content).items()}


def test_another_user_makes_the_published_model_again_bit_for_bit(story: Story, ben: Reader) -> None:
    pulled = ben.call("vectors", "pull", "org/dv-pool")
    assert pulled["status"] == 0, pulled
    assert yaml.safe_load(pulled["out"]) == {
        "base_model": {"repo": "org/base", "revision": story.base_revision},
        "vectors": {
            name: {"delta": {"repo": f"org/dv-{name}", "revision": story.head(f"org/dv-{name}")}}
            for name in ("ja", "math")
        },
    }
    card = story.files("org/merged")["README.md"].decode()
    command = next(line for line in card.splitlines() if line.startswith("mergekit-optimer merge "))
    made = ben.call(*command.split()[1:])
    assert made["status"] == 0, made
    published = story.files("org/merged")
    folder = ben.folder / command.split()[-1]
    assert (folder / "model.safetensors").read_bytes() == published["model.safetensors"]
    assert (folder / "mergekit_config.yaml").read_bytes() == published["mergekit_config.yaml"]
    # What mergekit writes itself names folders of this machine.
    assert not [file.name for file in folder.iterdir() if str(ben.folder).encode() in file.read_bytes()]
    assert not (folder / "mergekit_config.yml").exists()


@pytest.mark.parametrize("repo", ["org/merged", "org/cpt-ja"])
def test_transformers_loads_from_the_hub_the_very_tensors_that_were_pushed(
    story: Story, ben: Reader, repo: str
) -> None:
    hashes = "{n: hashlib.sha256(t.contiguous().numpy().tobytes()).hexdigest() for n, t in model.state_dict().items()}"
    model = f"__import__('transformers').AutoModelForCausalLM.from_pretrained({repo!r})"
    found = ben.evaluate(f"(lambda hashlib, model: {hashes})(__import__('hashlib'), {model})")
    pushed = tensor_hashes(story.files(repo)["model.safetensors"])
    assert {name: found.get(name) for name in pushed} == pushed
    # A tied output layer is the embedding.
    assert set(found) - set(pushed) <= {"lm_head.weight"}


def test_who_may_only_read_publishes_nothing(story: Story, ben: Reader) -> None:
    refused = ben.call("publish", str(story.run), "--repo", "org/mine")
    assert refused["status"] == 1
    assert "read" in refused["err"]
    assert ("model", "org/mine") not in story.hub.state.repos


def test_the_readers_token_is_nowhere_either(story: Story, ben: Reader) -> None:
    assert ben.call("vectors", "pull", "org/dv-pool")["status"] == 0
    assert not [path for path in ben.folder.rglob("*") if path.is_file() and BEN.encode() in path.read_bytes()]
    for said in ben.said:
        assert BEN not in json.dumps(said)
    assert {seen.token for seen in story.hub.storage.requests} == {None}


def test_a_branch_that_moves_is_noticed_and_not_followed(story: Story) -> None:
    base = story.hub.state.repos["model", "org/base"]
    moved = base.commit({"config.json": b"{}"}, "breaks everything")
    try:
        answer = story.call("vectors", "extract", "recipe.yaml", "--run-dir", "run", "--device", "cpu")
    finally:
        base.branches["main"] = story.base_revision
    assert answer["status"] == 0, answer
    assert any(f"org/base has moved to {moved}; this run stays at {story.base_revision}" in x for x in answer["log"])


def test_a_run_goes_on_at_its_commits_while_the_hub_is_down_and_gives_no_false_advice(story: Story) -> None:
    story.hub.state.fail("GET", "/revision/", 503, times=99)
    try:
        answer = story.call("vectors", "extract", "recipe.yaml", "--run-dir", "run", "--device", "cpu")
    finally:
        story.hub.state.faults.clear()
    assert answer["status"] == 0, answer
    said = next(line for line in answer["log"] if f"org/base stays at {story.base_revision}" in line)
    assert said.endswith("whether it has moved cannot be asked: 1 tries failed, the last with 503 Service "
                         "Unavailable: planned 503")  # fmt: skip


def test_without_an_answer_to_the_question_nothing_becomes_public(story: Story) -> None:
    for said in ("n\n", ""):
        answer = story.call("publish", "run", "--repo", "org/open", "--public", input=said)
        assert answer["status"] == 1
        assert "Where there is nobody to ask, say --yes" in answer["err"]
    assert ("model", "org/open") not in story.hub.state.repos
    answer = story.call("publish", "run", "--repo", "org/open", "--public", "--yes")
    assert answer["status"] == 0, answer
    assert not story.hub.state.repos["model", "org/open"].private


@pytest.mark.parametrize("status", [403, 503])
@pytest.mark.parametrize("place", ["create", "commit"])
def test_vectors_become_public_only_when_their_pool_is_there(story: Story, place: str, status: int) -> None:
    prefix, run = f"org/open-{place}-{status}-", f"run-{place}-{status}"
    names = [prefix + name for name in ("ja", "math", "pool")]
    shutil.copytree(story.run, story.folder / run)
    words = ("vectors", "push", "recipe.yaml", prefix, "--run-dir", run, "--device", "cpu", "--public", "--yes")
    # The vectors' repositories are made before the pool's.
    path, nth = ("/repos/create", 3) if place == "create" else (f"/{names[-1]}/commit/", 1)
    story.hub.state.fail("POST", path, status, nth=nth, times=99)
    try:
        answer = story.call(*words)
    finally:
        story.hub.state.faults.clear()
    assert answer["status"] == 1, answer
    assert f"planned {status}" in answer["err"]
    assert [line.startswith("error: ") for line in answer["err"].splitlines()][-2:] == [False, True]
    assert answer["waits"] == ([1.0, 2.0, 4.0] if status == 503 else [])
    there = {name: repo for (_, name), repo in story.hub.state.repos.items() if name in names}
    assert all(repo.private for repo in there.values())
    assert sorted(there) == (names if place == "commit" else names[:2])
    heads = {name: there[name].head for name in names[:2]}
    answer = story.call(*words)
    assert answer["status"] == 0, answer
    assert {name: story.head(name) for name in names[:2]} == heads
    assert not any(story.hub.state.repos["model", name].private for name in names)
    pool = json.loads(story.files(names[-1])["pool.json"])
    assert {member["repo"]: member["revision"] for member in pool["vectors"].values()} == heads


def test_a_collection_of_vectors_is_a_pool_and_what_is_no_vector_is_left_out(story: Story) -> None:
    items = [
        {"id": f"org/{name}", "type": "model", "_id": name, "position": number}
        for number, name in enumerate(("dv-math", "cpt-ja", "old", "dv-ja"))
    ]
    story.hub.state.collections["org/mine-0123456789abcdef01234567"] = {"title": "mine", "items": items}
    story.hub.state.add_repo("org/old", {"config.json": b"{}", "pytorch_model.bin": b"x"}, private=True)
    try:
        answer = story.call("vectors", "pull", "collections/org/mine-0123456789abcdef01234567")
    finally:
        del story.hub.state.repos["model", "org/old"]
    assert answer["status"] == 0, answer
    found = yaml.safe_load(answer["out"])
    assert {name: source["delta"]["repo"] for name, source in found["vectors"].items()} == {
        "ja": "org/dv-ja", "math": "org/dv-math",
    }  # fmt: skip
    assert found["base_model"] == {"repo": "org/base", "revision": story.base_revision}
    assert all(any(f"org/{name} of collection" in line for line in answer["log"]) for name in ("cpt-ja", "old"))


def test_a_recipe_over_a_pulled_pool_trains_nothing_and_holds_no_second_copy(story: Story) -> None:
    recipe = yaml.safe_load((story.folder / "recipe.yaml").read_text())
    pool = yaml.safe_load(story.call("vectors", "pull", "org/dv-pool")["out"])
    del recipe["train"]
    (story.folder / "pulled.yaml").write_text(yaml.safe_dump(recipe | pool | {"name": "pulled"}))
    answer = story.call("search", "pulled.yaml", "--device", "cpu")
    assert answer["status"] == 0, answer
    run = story.folder / "runs/pulled"
    assert not list((run / "vectors").rglob("*.safetensors"))
    assert not (run / "checkpoints").exists()
    first = hashlib.sha256((story.run / "best/model/model.safetensors").read_bytes()).hexdigest()
    assert hashlib.sha256((run / "best/model/model.safetensors").read_bytes()).hexdigest() == first


def test_a_stored_vector_goes_into_a_pool_without_the_folders_that_its_record_names(story: Story) -> None:
    stored = story.folder / "dv-stored"
    shutil.copytree(story.run / "vectors/ja", stored)
    record = json.loads((stored / "distribution_vector.json").read_text())
    record |= {"base_label": "/srv/bob/base", "source": "/srv/bob/cpt", "dataset": "/srv/bob/ja.jsonl"}
    (stored / "distribution_vector.json").write_text(json.dumps(record))
    recipe = yaml.safe_load((story.folder / "recipe.yaml").read_text())
    del recipe["train"]
    recipe |= {
        "name": "stored",
        "vectors": {"ja": {"delta": {"path": "dv-stored"}},
                    "math": {"delta": {"repo": "org/dv-math", "revision": story.head("org/dv-math")}}},
    }  # fmt: skip
    (story.folder / "stored.yaml").write_text(yaml.safe_dump(recipe))
    assert story.call("vectors", "extract", "stored.yaml", "--device", "cpu")["status"] == 0
    answer = story.call("vectors", "push", "stored.yaml", "org/st-", "--device", "cpu")
    assert answer["status"] == 0, answer
    assert json.loads(story.files("org/st-pool")["pool.json"])["vectors"] == {
        "ja": {"repo": "org/st-ja", "revision": story.head("org/st-ja")},
        "math": {"repo": "org/dv-math", "revision": story.head("org/dv-math")},
    }
    assert b"/srv" not in b"".join(story.files("org/st-ja").values())
    head = story.head("org/st-pool")
    assert story.call("vectors", "push", "stored.yaml", "org/st-", "--device", "cpu")["status"] == 0
    assert story.head("org/st-pool") == head


def test_a_base_of_its_own_is_pulled_for_a_mergekit_yaml(story: Story) -> None:
    models = [
        {"model": "org/cpt-ja", "parameters": {"weight": 0.5, "base": "org/cpt-math"}},
        {"model": "org/cpt-math", "parameters": {"weight": 0, "kind": "reference"}},
    ]
    config = {"merge_method": "distribution_arithmetic", "base_model": "org/base", "models": models}
    (story.folder / "own.yaml").write_text(yaml.safe_dump(config))
    answer = story.call("merge", "own.yaml", "own-merged")
    assert answer["status"] == 0, answer


@pytest.mark.parametrize(
    "place",
    [
        {"tokenizer_source": "org/old"},
        {"tokenizer": {"source": "org/old"}},
        {"base_model": "org/base+org/old"},
        {"base_model": {"model": {"path": "org/old", "revision": "main"}}},
        {"base_model": {"model": {"path": "org/base"}, "lora": {"path": "org/old"}}},
    ],
)
def test_nothing_is_left_for_mergekit_to_fetch(story: Story, place: dict[str, Any]) -> None:
    models = [{"model": "org/cpt-ja", "parameters": {"weight": 1.0}}]
    config = {"merge_method": "task_arithmetic", "base_model": "org/base", "models": models} | place
    (story.folder / "other.yaml").write_text(yaml.safe_dump(config))
    story.hub.state.add_repo("org/old", {"config.json": b"{}", "pytorch_model.bin": b"x"}, private=True)
    try:
        answer = story.call("merge", "other.yaml", "other-merged")
    finally:
        del story.hub.state.repos["model", "org/old"]
    assert answer["status"] == 1, answer
    assert "has its weights as pickle only" in answer["err"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("vectors", "pull", "org/merged"), "org/merged"),
        (("vectors", "pull", "no pool at all"), "names no pool; write owner/name"),
        (("vectors", "pull", "org/nothing"), "org/nothing does not exist or is private"),
        (("merge", "org/dv-ja", "out"), "has no mergekit_config.yaml: it does not say what it was merged from"),
        (("publish", "run", "--repo", "other/merged"), "other"),
        (("publish", "run", "--repo", "org/dv-ja"), "org/dv-ja holds"),
        (("publish", "data"), "holds no run; `mergekit-optimer run` makes one"),
        (("vectors", "push", "recipe.yaml", "nowhere", "--run-dir", "run"), "no beginning of a repository's name"),
    ],
)
def test_a_wrong_name_is_refused_in_a_sentence(story: Story, words: tuple[str, ...], sentence: str) -> None:
    repos = set(story.hub.state.repos)
    answer = story.call(*words)
    assert answer["status"] == 1, answer
    assert sentence in answer["err"]
    assert len(answer["err"].strip().splitlines()) == 1, answer["err"]
    assert set(story.hub.state.repos) == repos


def test_without_a_licence_nothing_is_sent(story: Story) -> None:
    common = ("recipe.yaml", "--run-dir", "run", "--device", "cpu", "--set", "publish.license=other")
    answer = story.call("vectors", "push", *common)
    assert answer["status"] == 1
    assert "No licence is set" in answer["err"]
    # The report's licence follows the recipe's only with another report.
    with pytest.raises(HubError, match="then run `mergekit-optimer card` with it, and publish again"):
        check_license("other", is_reported=True)


def test_a_public_model_of_private_parts_is_said(story: Story) -> None:
    answer = story.call("publish", "run", "--repo", "org/open-too", "--public", "--dry-run")
    assert answer["status"] == 0, answer
    line = next(line for line in answer["log"] if "would be public" in line)
    assert "org/dv-ja, org/dv-math: nobody else could make the merge again" in line
    assert "org/base" not in line


def test_what_would_stop_a_push_is_told_before_the_training(story: Story) -> None:
    common = ("recipe.yaml", "--run-dir", "new", "--device", "cpu", "--push")
    for override, sentence in (
        ("publish.license=other", "No licence is set"),
        ("publish.checkpoints=stranger/cpt-", "no member of stranger"),
    ):
        answer = story.call("train", *common, "--set", override)
        assert answer["status"] == 1, answer
        assert sentence in answer["err"]
        shutil.rmtree(story.folder / "new")
