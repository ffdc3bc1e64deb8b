"""A real search over several workers: the same bits as one gives, and what a user meets who asks for too much."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from scale_runs import recipe_of, scores, unsearched
from test_pipeline import call

from mergekit_optimer.files import read_json
from mergekit_optimer.runs import RunDir

pytest_plugins = ["scale_fixtures"]

COMMAND = [sys.executable, "-c", "from mergekit_optimer.cli import main; main()"]
N_CORES = len(os.sched_getaffinity(0))


def test_two_workers_score_as_one_process_does_bit_for_bit(searched: Path, tmp_path: Path) -> None:
    run = unsearched(searched, tmp_path / "two")
    done = call("search", recipe_of(searched), "--run-dir", run, "--device", "cpu", "--workers", "2")
    assert done.exit_code == 0, done.output
    one, two = scores(searched), scores(run)
    shared = one.keys() & two.keys()
    assert len(shared) >= 4
    for weights in shared:
        for task, measured in one[weights].items():
            values, others = (m["metrics"]["bits_per_byte"]["values"] for m in (measured, two[weights][task]))
            assert values[:4] == others[:4]
    yamls = {path.parent.name: path.read_text() for path in (run / "trials").glob("*/merge.yaml")}
    assert len(yamls) == 6


def test_two_workers_that_share_each_trial_search_as_one_process_does(searched: Path, tmp_path: Path) -> None:
    run = unsearched(searched, tmp_path / "shared")
    done = call(
        "search",
        recipe_of(searched),
        "--run-dir",
        run,
        "--device",
        "cpu",
        "--workers",
        "2",
        "--in-flight",
        "1",
        "--json",
    )
    assert done.exit_code == 0, done.output
    assert scores(run) == scores(searched)
    for part in ("winner.json", "merge.yaml"):
        assert _without_times(run / "best" / part) == _without_times(searched / "best" / part)
    model = "best/model/model.safetensors"
    assert (run / model).read_bytes() == (searched / model).read_bytes()


def _without_times(path: Path) -> Any:
    if path.suffix != ".json":
        return path.read_text().replace(str(path.parents[1]), "RUN")
    return {
        key: value for key, value in read_json(path).items() if key not in ("merge_s", "score_s", "started", "finished")
    }


def test_sigterm_queues_the_trial_again_and_says_so(searched: Path, tmp_path: Path) -> None:
    run = unsearched(searched, tmp_path / "stopped")
    words = [
        "search",
        str(recipe_of(searched)),
        "--run-dir",
        str(run),
        "--device",
        "cpu",
        "--set",
        "search.n_trials=100000",
    ]
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as search:
        end = time.monotonic() + 120
        while not (run / "trials/0006/scores.json").exists():
            assert search.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        search.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        _, stderr = search.communicate(timeout=60)
        assert time.monotonic() - asked < 10
    assert search.returncode == 143, stderr
    assert stderr.splitlines()[-1] == (
        "stopped by SIGTERM; the same command goes on, and does again what was not finished"
    )
    assert "Traceback" not in stderr
    from optuna.trial import TrialState

    assert TrialState.RUNNING not in {trial.state for trial in _study(run).trials}


def _study(run: Path) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(run / "study.journal")))
    return optuna.load_study(study_name="micro", storage=storage)


def test_a_reader_who_goes_away_costs_nothing(searched: Path) -> None:
    words = ["search", str(recipe_of(searched)), "--run-dir", str(searched), "--device", "cpu", "--json"]
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as search:
        assert search.stdout is not None
        search.stdout.close()
        assert search.stderr is not None
        stderr = search.stderr.read()
    assert search.returncode == 1
    assert "Traceback" not in stderr
    assert "BrokenPipe" not in stderr
    assert (searched / "best/winner.json").exists()


def test_a_second_driver_on_a_run_folder_is_refused(searched: Path) -> None:
    with RunDir(searched).locked():
        words = ["search", str(recipe_of(searched)), "--run-dir", str(searched), "--device", "cpu"]
        second = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert second.stderr.strip().endswith("is in use by another process; wait for it or stop it.")


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["--workers", "0"], 2, "0 is not in the range x>=1"),
        (["--gpus-per-worker", "0"], 2, "0 is not in the range x>=1"),
        (["--trial-timeout", "0"], 2, "0.0 is not in the range x>0"),
        (
            ["--workers", "10000"],
            1,
            f"has {N_CORES}. Give --workers {N_CORES}",
        ),
        (["--gpus-per-worker", "2"], 1, "--gpus-per-worker wants GPUs, and the search runs on the CPU"),
        (["--in-flight", "4"], 1, "--in-flight 4 wants as many workers; give --workers 4."),
        (["--storage", "mysql://host/db"], 1, "--storage mysql:// is not known; give postgresql://"),
        (["--storage", "somewhere"], 1, "--storage is no URL; give postgresql://"),
        (["--ray", "127.0.0.1:1", "--workers", "2"], 1, "No Ray cluster answers at '127.0.0.1:1' (Connection refused)"),
        (
            ["--ray", "auto"],
            1,
            "answers at 'auto' (none runs on this machine, and RAY_ADDRESS names none)",
        ),
        (["--ray", "nowhere"], 1, "No Ray cluster answers at 'nowhere' (it is neither auto nor host:port)"),
    ],
)
def test_means_that_cannot_be_had_are_said_before_any_run_is_made(
    micro_recipe: Path, tmp_path: Path, words: list[str], status: int, sentence: str
) -> None:
    run = tmp_path / "run"
    asked = ["search", str(micro_recipe), "--run-dir", str(run), "--device", "cpu", *words]
    result = subprocess.run([*COMMAND, *asked], capture_output=True, text=True, check=False)
    assert result.returncode == status
    assert sentence in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not run.exists()


def test_without_ray_the_sentence_has_its_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from mergekit_optimer.errors import WorkerError
    from mergekit_optimer.workers import RayActors

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(WorkerError, match=r"Ray is not installed: pip install 'mergekit-optimer\[ray\]'"):
        RayActors.connect("auto", 2, 0)


def test_on_a_machine_of_several_gpus_the_command_that_trains_on_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from mergekit_optimer.cli.options import launch_command

    words = ["train", "my recipe.yaml", "--dataset", "ja"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,4")
    launch = "accelerate launch --multi_gpu --num_processes 3 --no_python mergekit-optimer"
    assert launch_command("cuda", words) == f"{launch} train 'my recipe.yaml' --dataset ja"
    assert launch_command("cpu", words) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert launch_command("cuda", words) is None


def test_each_worker_of_this_machine_has_devices_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from mergekit_optimer.errors import WorkerError
    from mergekit_optimer.pipeline.means import Means, check_means, worker_environments

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,4,GPU-5")
    two = worker_environments(Means(n_workers=2, gpus_per_worker=2), "cuda")
    assert [one["CUDA_VISIBLE_DEVICES"] for one in two] == ["0,1", "4,GPU-5"]
    check_means(Means(n_workers=4), "cuda")
    with pytest.raises(WorkerError, match=r"3 workers want 6 GPUs; this machine has 4\. Give --workers 2"):
        check_means(Means(n_workers=3, gpus_per_worker=2), "cuda")
    assert {one["OMP_NUM_THREADS"] for one in worker_environments(Means(n_workers=N_CORES), "cpu")} == {"1"}
