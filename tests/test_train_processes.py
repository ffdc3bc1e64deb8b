"""Trainings of several processes, as torchrun starts them, and several trainings side by side in one run folder."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier
from typing import Any

import psutil
import pytest
import yaml
from click.testing import CliRunner, Result
from conftest import write_micro_recipe
from loopback_hub import LoopbackHub, running_hub
from loopback_repos import ANN, User

from mergekit_optimer import pipeline
from mergekit_optimer.cli import cli
from mergekit_optimer.errors import InfrastructureError, RunFolderError
from mergekit_optimer.files import read_json
from mergekit_optimer.recipe import Recipe, load_recipe
from mergekit_optimer.runs import RunDir, open_run
from mergekit_optimer.train import Processes, read_record, started_processes

BIN = Path(sys.executable).parent
TORCHRUN = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2", "--no-python"]
# On CPUs alone it starts one process, whatever number it is given.
ACCELERATE = [str(BIN / "accelerate"), "launch", "--cpu", "--num_processes", "2"]
COMMAND = str(BIN / "mergekit-optimer")
N_STEPS = 60


@dataclass
class Start:
    """One start of the command: what it left and what it said."""

    status: int
    out: str
    err: str

    def count(self, text: str) -> int:
        return sum(text in line for line in self.err.splitlines())


@dataclass
class Story:
    """One training of two processes with --push: killed, started again, started once more.

    Attributes:
        commits: Of org/cpt-ja after each start that ended.
    """

    folder: Path
    hub: LoopbackHub
    starts: dict[str, Start] = field(default_factory=dict)
    commits: list[int] = field(default_factory=list)
    there_when_killed: list[str] = field(default_factory=list)

    @property
    def run(self) -> RunDir:
        return RunDir(self.folder / "run")


def wait_for(is_there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not is_there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill_all(process: subprocess.Popen[str]) -> Start:
    """kill -9: torchrun's processes are sessions of their own, which its end does not reach."""
    group = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in group:
        one.kill()
    psutil.wait_procs(group[1:])
    return ended(process)


def ended(process: subprocess.Popen[str]) -> Start:
    out, err = process.communicate(timeout=240)
    return Start(process.returncode, out, err)


@pytest.fixture(scope="module")
def story(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("two_processes")
    path = write_micro_recipe(folder, base_dir)
    recipe = yaml.safe_load(path.read_text())
    recipe["train"]["defaults"] |= {"max_steps": N_STEPS, "save_steps": 10, "logging_steps": 10}
    recipe["publish"] |= {"checkpoints": "org/cpt-"}
    path.write_text(yaml.safe_dump(recipe))
    words = ["train", str(path), "--run-dir", str(folder / "run"), "--device", "cpu", "--dataset", "ja", "--push"]
    with running_hub() as hub:
        hub.state.users[ANN] = User("ann", orgs=("org",))
        environment = os.environ | {
            "HF_ENDPOINT": hub.url, "HF_TOKEN": ANN, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip

        def start() -> subprocess.Popen[str]:
            return subprocess.Popen(
                [*TORCHRUN, COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
            )

        tale = Story(folder, hub)
        killed = start()
        training = folder / "run/checkpoints/.ja.training"
        wait_for((training / "trainer/checkpoint-10/whole.json").exists, killed)
        tale.starts["killed"] = kill_all(killed)
        tale.there_when_killed = sorted(file.name for file in (training / "trainer/checkpoint-10").iterdir())
        for name in ("again", "done"):
            tale.starts[name] = ended(start())
            repo = hub.state.repos.get(("model", "org/cpt-ja"))
            tale.commits.append(len(repo.commits) if repo else 0)
        yield tale


def test_killed_processes_go_on_after_their_last_whole_checkpoint(story: Story) -> None:
    assert story.starts["killed"].count(f"step 10/{N_STEPS}") == 1
    assert story.starts["killed"].count(f"step {N_STEPS}/") == 0
    assert {"rng_state_0.pth", "rng_state_1.pth", "optimizer.pt"} <= set(story.there_when_killed)
    again = story.starts["again"]
    assert again.status == 0, again.err
    assert again.count("going on after checkpoint of step") == 1
    assert again.count(f"step 10/{N_STEPS}") == 0


def test_two_processes_leave_one_checkpoint_one_record_and_one_stage(story: Story) -> None:
    assert [path.name for path in story.run.root.glob("checkpoints/*")] == ["ja"]
    assert [path.name for path in story.run.root.glob("checkpoints/.*")] == []
    record = read_record(story.run.checkpoint_dir("ja"))
    assert record.n_steps == N_STEPS
    # Rows at the end of an epoch are short; one process would not come that far.
    assert N_STEPS * 4 * 32 * 1.9 < record.n_tokens_trained <= N_STEPS * 4 * 32 * 2
    stages = story.run.manifest()["stages"]
    assert list(stages) == ["train/ja"]
    assert stages["train/ja"]["inputs"] == stages["train/ja"]["begun_with"]
    assert not list(story.run.root.rglob(".tmp-*"))


def test_only_the_first_process_speaks_and_pushes(story: Story) -> None:
    again = story.starts["again"]
    assert (again.count("train/ja: done in"), again.count(f"step {N_STEPS}/{N_STEPS}")) == (1, 1)
    head = story.hub.state.repos["model", "org/cpt-ja"].head
    assert again.out == f"org/cpt-ja@{head}\n"


def test_started_once_more_all_find_it_done_before(story: Story) -> None:
    done = story.starts["done"]
    assert done.status == 0, done.err
    assert done.count("train/ja: done before, nothing changed") == 1
    assert done.count("none lost") == 0
    assert done.out == story.starts["again"].out
    assert story.commits[0] == story.commits[1] > 0


def test_a_wrong_recipe_ends_all_processes_with_one_sentence(micro_recipe: Path, tmp_path: Path) -> None:
    words = ["train", micro_recipe, "--run-dir", tmp_path / "run", "--device", "cpu", "--dataset", "fr"]
    done = subprocess.run([*TORCHRUN, COMMAND, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        "error: The recipe trains ja, math, not fr."
    ]


def test_datasets_train_side_by_side_in_a_folder_that_is_not_there_yet(
    micro_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path / "run")
    common = [str(micro_recipe), "--run-dir", str(run.root), "--device", "cpu"]

    def start(launcher: list[str], name: str) -> subprocess.Popen[str]:
        words = [*launcher, COMMAND, "train", *common, "--dataset", name]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def call(verb: str, *words: str) -> Result:
        return CliRunner().invoke(cli, [verb, *common, *words])

    both = {"ja": start([], "ja"), "math": start(ACCELERATE, "math")}
    for name, process in both.items():
        wait_for((run.root / f".lock.{name}").exists, process)
    refused = call("train", "--dataset", "ja")
    assert isinstance(refused.exception, RunFolderError)
    assert str(refused.exception).startswith(f"'ja' is being trained in {run.root} by another process")
    monkeypatch.setattr(pipeline, "check_push", lambda *_: None)
    for words in (("search",), ("train",), ("train", "--dataset", "ja", "--push=vectors")):
        whole = call(*words)
        assert f"{run.root} is in use by another process; wait for it or stop it." in str(whole.exception), words
    for process in both.values():
        done = ended(process)
        assert done.status == 0, done.err
    stages = run.manifest()["stages"]
    assert sorted(stages) == ["train/ja", "train/math"]
    assert all(stage["inputs"] for stage in stages.values())
    assert sorted(path.name for path in run.root.glob("checkpoints/*")) == ["ja", "math"]


def test_while_the_folder_is_held_whole_no_dataset_trains(micro_recipe: Path, tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", load_recipe(micro_recipe))
    with run.locked(), pytest.raises(RunFolderError, match="in use by another process"), run.locked(["ja"]):
        pass
    with run.locked(["ja"]), run.locked(["math", "data_mixture"]):
        pass


def test_a_training_sweeps_what_it_left_and_nothing_of_its_neighbours(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    others = {"checkpoints/.tmp-ja.x.abc_efgh", "checkpoints/.tmp-math.abc_efgh", ".tmp-manifest.json.abc_efgh"}
    for name in (*others, "checkpoints/.tmp-ja.abc_efgh"):
        (tmp_path / name).mkdir(parents=True)
    with run.locked(["ja"]):
        assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob(".tmp-*")} == others
    with run.locked():
        assert not list(tmp_path.rglob(".tmp-*"))


def at_once(work: Callable[[int], Any], n: int) -> list[Any]:
    barrier = Barrier(n)

    def begin(number: int) -> Any:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(begin, range(n)))


def test_a_folder_made_by_many_at_once_is_made_once_and_keeps_what_each_records(
    micro_recipe: Path, tmp_path: Path
) -> None:
    recipe: Recipe = load_recipe(micro_recipe)
    created = at_once(lambda _: open_run(tmp_path / "run", recipe).manifest()["created"], 8)
    assert len(set(created)) == 1
    run = open_run(tmp_path / "run", recipe)
    at_once(lambda number: run.record(f"train/{number}", "inputs", 1.0, is_done=True), 8)
    assert sorted(run.manifest()["stages"]) == [f"train/{number}" for number in range(8)]
    longer = load_recipe(micro_recipe, ("search.n_trials=9",))
    at_once(lambda _: open_run(tmp_path / "run", longer), 8)
    assert read_json(run.manifest_path)["recipe"]["search"]["n_trials"] == 9
    assert len(run.manifest()["stages"]) == 8


def test_a_process_is_one_of_several_only_where_torchrun_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (started_processes().rank, started_processes().n) == (0, 1)
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert (started_processes().rank, started_processes().n, started_processes().is_first) == (5, 8, False)


def test_processes_share_what_the_first_says_and_miss_it_when_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port, "RANK": 1, "WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    first, second = Processes(0, 2), Processes(1, 2)
    values = at_once(lambda number: [one.share(number + k) for one in [(first, second)[number]] for k in (10, 20)], 2)
    assert values == [[10, 20], [10, 20]]
    at_once(lambda number: (first, second)[number].leave(), 2)
    del store
    monkeypatch.setattr("mergekit_optimer.train.processes.time.sleep", lambda _: None)
    monkeypatch.setattr(logging.getLogger("mergekit_optimer"), "level", logging.INFO)
    with pytest.raises(InfrastructureError, match="Another process of this training has ended"), second.as_one():
        second.share(None)


def test_what_another_than_the_first_has_to_say_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("mergekit_optimer.train.processes.time.sleep", waits.append)
    log = logging.getLogger("mergekit_optimer")
    monkeypatch.setattr(log, "level", log.level)

    def fail(processes: Processes) -> None:
        with processes.as_one():
            assert log.isEnabledFor(logging.WARNING) == processes.is_first
            raise RunFolderError("gone")

    with pytest.raises(RunFolderError):
        fail(Processes(0, 2))
    assert waits == []
    with pytest.raises(RunFolderError):
        fail(Processes(1, 2))
    assert len(waits) == 1
