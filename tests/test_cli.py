"""The command line as a user meets it: exit codes, one sentence per error, nothing written half."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

COMMAND = [sys.executable, "-c", "from mergekit_optimer.cli import main; main()"]
# A file of more than 40,000 bytes cannot be written: to the writer the same as a full disk.
SMALL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)); "


def call(*words: object, small_disk: bool = False) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND[:2], (SMALL_DISK if small_disk else "") + COMMAND[2]]
    return subprocess.run([*command, *map(str, words)], capture_output=True, text=True, check=False)


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_a_known_error_is_a_sentence_and_exit_1(micro_recipe: Path) -> None:
    result = call("validate", micro_recipe, "--set", "serch.n_trials=3")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "serch: unknown key; did you mean search?" in result.stderr
    assert "Traceback" not in result.stderr


def test_wrong_usage_is_exit_2(micro_recipe: Path) -> None:
    assert call("validate").returncode == 2
    assert call("run", micro_recipe, "--device", "tpu").returncode == 2
    alone = call("search", micro_recipe, "--grid", "5")
    assert alone.returncode == 2
    assert "--grid goes with --slice." in alone.stderr
    assert call("fly").returncode == 2


def test_validate_reads_everything_and_writes_nothing(micro_recipe: Path) -> None:
    before = sorted(micro_recipe.parent.rglob("*"))
    result = call("validate", micro_recipe)
    assert result.returncode == 0, result.stderr
    assert "no problems" in result.stdout
    assert sorted(micro_recipe.parent.rglob("*")) == before


def test_all_paths_that_are_not_there_are_named_at_once(micro_recipe: Path) -> None:
    result = call("validate", micro_recipe, "--set", "base_model.path=nowhere", "--set", "tasks.ja.path=none.jsonl")
    assert result.returncode == 1
    first, *lines = result.stderr.strip().splitlines()
    assert first == "error: 2 paths of the recipe do not exist (they are relative to its folder):"
    assert [line.strip().partition(": ")[0] for line in lines] == ["base_model.path", "tasks.ja.path"]
    assert lines[0].endswith("/nowhere")


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("train.datasets.ja.path=data/none.jsonl", "none.jsonl"),
        ("train.datasets.ja.text_field=body", "body"),
        ("tasks.ja.path=data/empty.jsonl", "empty.jsonl"),
        ("base_model.path=nowhere", "nowhere does not exist"),
    ],
)
def test_wrong_data_is_refused_before_any_work(micro_recipe: Path, tmp_path: Path, setting: str, sentence: str) -> None:
    (micro_recipe.parent / "data/empty.jsonl").write_text("")
    result = call("run", micro_recipe, "--run-dir", tmp_path / "run", "--set", setting)
    assert result.returncode == 1
    assert sentence in last_line(result.stderr)
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_full_disk_while_saving_leaves_nothing_half(
    base_dir: Path, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = tiny_model("cpt-full-disk", seed=1)
    words = ("vectors", "subtract", checkpoint, base_dir, tmp_path / "dv")
    result = call(*words, small_disk=True)
    assert result.returncode == 1
    assert "cannot be written: File too large" in last_line(result.stderr)
    assert list(tmp_path.iterdir()) == []
    assert call(*words).returncode == 0

    models = [{"model": str(tmp_path / "dv"), "parameters": {"weight": 0.5, "kind": "delta"}}]
    config = {"merge_method": "distribution_arithmetic", "base_model": str(base_dir), "models": models}
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump(config))
    merged = call("merge", tmp_path / "merge.yaml", tmp_path / "out", "--weight", "x=1")
    assert merged.returncode == 2
    again = call("merge", tmp_path / "merge.yaml", tmp_path / "out")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out/model.safetensors").exists()
    exists = call("merge", tmp_path / "merge.yaml", tmp_path / "out")
    assert exists.returncode == 1
    assert "exists" in exists.stderr

    config["models"][0]["model"] = "./gone"
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump(config))
    gone = call("merge", tmp_path / "merge.yaml", tmp_path / "other")
    assert gone.returncode == 1
    assert "./gone does not exist" in last_line(gone.stderr)
    assert not (tmp_path / "other").exists()


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(micro_recipe: Path, tmp_path: Path) -> None:
    words = ["run", str(micro_recipe), "--run-dir", str(tmp_path / "run"), "--set", "train.mixture=null"]
    # Whoever runs the tests in the background of a script has them, and this process, ignore it.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [*COMMAND[:2], heeding + COMMAND[2], *words]
    # Far more trials than run while the signal is on its way.
    process = subprocess.Popen([*command, "--set", "search.n_trials=500"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("trial 2/"):
            os.kill(process.pid, signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait() == 130
    assert "the same command goes on" in rest
    assert "Traceback" not in rest
    done = {path: path.read_bytes() for path in (tmp_path / "run/trials").glob("*/scores.json")}
    assert 2 <= len(done) < 500
    result = call(*words, "--set", f"search.n_trials={len(done) + 3}", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["search"]["n_trials"] == len(done) + 3
    first = min(done)
    kept = json.loads(done[first])["tasks"]
    assert (
        json.loads(first.read_text())["tasks"]["ja"]["metrics"]["bits_per_byte"]["values"][:4]
        == (kept["ja"]["metrics"]["bits_per_byte"]["values"][:4])
    )


WATCH_NETWORK = """
import socket, sys
def watch(name):
    original = getattr(socket.socket, name)
    def watched(self, address, *rest):
        if self.family != socket.AF_UNIX:
            print(f"network: {address}", file=sys.stderr)
        return original(self, address, *rest)
    setattr(socket.socket, name, watched)
watch("connect"), watch("connect_ex")
"""


def test_a_whole_run_asks_the_network_for_nothing(micro_recipe: Path, tmp_path: Path) -> None:
    words = ["run", str(micro_recipe), "--run-dir", str(tmp_path / "run"), "--set", "search.n_trials=2"]
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    command = [*COMMAND[:2], WATCH_NETWORK + COMMAND[2], *words]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "network:" not in result.stderr
    assert "Held-out scores" in result.stdout


def test_data_go_to_stdout_and_the_rest_to_stderr(micro_recipe: Path, tmp_path: Path) -> None:
    result = call("train", micro_recipe, "--run-dir", tmp_path / "run", "--dataset", "ja")
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert "train/ja: done" in result.stderr
