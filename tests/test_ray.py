"""Workers on a Ray cluster: the same scores, a dead actor replaced, nothing left behind. Skipped where Ray is not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bowl import Bowl, trail
from bowl import make as make_alone
from crew_bowl import Made, make
from scale_runs import recipe_of, scores, unsearched
from test_pipeline import call
from test_workers import by_weights, is_gone, pids, wait_until

from mergekit_optimer.errors import WorkerError
from mergekit_optimer.runs import RunDir
from mergekit_optimer.search import SearchResult
from mergekit_optimer.vectors import file_sha256
from mergekit_optimer.workers import Crew, RayActors

pytest_plugins = ["scale_fixtures"]

ray = pytest.importorskip("ray", reason="Ray (extra: ray) is not installed")

RUNGS = [{"n_samples": 20}, {"n_samples": 60, "top": 3}]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster on this machine, of two CPUs and four GPUs that are but names, for who knows its token."""
    port, home = 26_379 + os.getpid() % 1000, Path(f"/tmp/ray-{os.getpid()}")
    # The actors import what they are made of.
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    start = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        f"--port={port}",
        "--num-cpus=2",
        "--num-gpus=4",
    ]
    options = [
        "--include-dashboard=false",
        "--object-store-memory=83886080",
        f"--temp-dir={home}",
        "--disable-usage-stats",
    ]
    begun = subprocess.run([*start, *options], capture_output=True, text=True, check=False, env=environment)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    try:
        yield f"127.0.0.1:{port}"
    finally:
        ray.shutdown()
        stop = [sys.executable, "-m", "ray.scripts.scripts", "stop", "--force"]
        subprocess.run(stop, capture_output=True, check=False)
        shutil.rmtree(home, ignore_errors=True)


def run(
    tmp_path: Path, cluster: str, search: dict[str, Any], in_flight: int | None = None, **options: Any
) -> SearchResult:
    folder = tmp_path / "workers"
    folder.mkdir(parents=True)
    RayActors.connect(cluster, 2, 0)
    actors = RayActors(Made({"folder": folder} | options), 2, 0, {"OMP_WAIT_POLICY": "passive"})
    workers = Crew(actors, "theirs", in_flight=in_flight, timeout_s=options.get("timeout_s", 60.0))
    try:
        workers.load()
        return make(tmp_path, workers, **search).run()
    finally:
        workers.close()


def test_actors_score_as_one_process_does(tmp_path: Path, cluster: str) -> None:
    search = {"n_trials": 14, "rungs": RUNGS}
    alone = make_alone(tmp_path / "alone", Bowl(), **search).run()
    shared = run(tmp_path / "shared", cluster, search, in_flight=1)
    assert trail(shared.trials) == trail(alone.trials)
    assert shared.winner.scores == alone.winner.scores
    two = run(tmp_path / "two", cluster, search)
    one, other = by_weights(alone.trials), by_weights(two.trials)
    common = one.keys() & other.keys()
    assert len(common) >= 6
    assert {w: one[w]["dev"].head(20) for w in common} == {w: other[w]["dev"].head(20) for w in common}
    assert len(pids(tmp_path / "two/workers")) == 2


@pytest.mark.parametrize("spoil", ["die", "memory"])
def test_an_actor_that_fails_costs_one_try(tmp_path: Path, cluster: str, spoil: str) -> None:
    result = run(tmp_path, cluster, {"n_trials": 10, "rungs": RUNGS}, spoil=spoil)
    assert (len(result.trials), result.n_failed) == (10, 0)
    wait_until(lambda: all(map(is_gone, pids(tmp_path / "workers"))))


def test_what_an_actor_cannot_load_is_its_own_sentence(tmp_path: Path, cluster: str) -> None:
    with pytest.raises(WorkerError, match=r"Worker \d: Vector 'ja' is not on this machine"):
        run(tmp_path, cluster, {"n_trials": 4}, spoil="load")


def test_more_workers_than_the_cluster_has_are_refused(cluster: str) -> None:
    with pytest.raises(WorkerError, match=r"3 workers of 1 CPU want more than the 2 of .* give --workers 2"):
        RayActors.connect(cluster, 3, 0)
    with pytest.raises(WorkerError, match=r"3 workers of 2 GPUs want more than the 4 of .* give --workers 2"):
        RayActors.connect(cluster, 3, 2)


def test_actors_that_want_several_gpus_have_their_own(tmp_path: Path, cluster: str) -> None:
    RayActors.connect(cluster, 2, 2)
    workers = Crew(RayActors(Made({"folder": tmp_path}), 2, 2, {}), "theirs", timeout_s=60.0)
    try:
        workers.load()
    finally:
        workers.close()
    sets = sorted(path.name.removeprefix("gpus-") for path in tmp_path.glob("gpus-*"))
    assert [len(devices.split(",")) for devices in sets] == [2, 2]
    assert sorted(",".join(sets).split(",")) == ["0", "1", "2", "3"]


DRIVER = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from crew_bowl import Made, make
from mergekit_optimer.workers import Crew, RayActors
folder = Path({path!r})
RayActors.connect({cluster!r}, 2, 0)
workers = Crew(RayActors(Made({{"folder": folder / "workers", "delay_s": 0.5}}), 2, 0, {{}}), "theirs")
workers.load()
make(folder, workers, n_trials=12).run()
"""


def test_no_actor_outlives_a_killed_driver_and_the_study_goes_on(tmp_path: Path, cluster: str) -> None:
    (tmp_path / "workers").mkdir()
    script = DRIVER.format(tests=str(Path(__file__).parent), path=str(tmp_path), cluster=cluster)
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not any((tmp_path / "run/trials").glob("*/scores.json")):
        assert driver.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    workers = pids(tmp_path / "workers")
    wait_until(lambda: all(map(is_gone, workers)))
    shutil.rmtree(tmp_path / "workers")
    result = run(tmp_path, cluster, {"n_trials": 12})
    assert (len(result.trials), result.n_failed) == (12, 0)


def test_a_real_search_over_actors_gives_the_bits_of_one_process(searched: Path, tmp_path: Path, cluster: str) -> None:
    found = unsearched(searched, tmp_path / "ray")
    words = ["--run-dir", found, "--device", "cpu", "--ray", cluster, "--workers", "2", "--in-flight", "1"]
    handler = signal.getsignal(signal.SIGTERM)
    done = call("search", recipe_of(searched), *words)
    assert done.exit_code == 0, done.output
    assert scores(found) == scores(searched)
    assert signal.getsignal(signal.SIGTERM) == handler


def test_an_actor_whose_files_are_not_the_drivers_is_told_apart(searched: Path, tmp_path: Path) -> None:
    from mergekit_optimer.pipeline import Job
    from mergekit_optimer.pipeline.driving import SentJob
    from mergekit_optimer.recipe import load_recipe

    recipe = load_recipe(recipe_of(searched))
    sent = SentJob(recipe, searched, "cpu", [], checks_files=True)
    copy, other = (unsearched(searched, tmp_path / name) for name in ("copy", "other"))
    weights, record = other / "vectors/ja/model.safetensors", other / "vectors/ja/distribution_vector.json"
    before, content = file_sha256(weights), bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    record.write_text(record.read_text().replace(before, file_sha256(weights)))
    mine, same, strange = (sent.identity(Job(recipe, RunDir(run), "cpu")) for run in (searched, copy, other))
    assert (same, strange == mine) == (mine, False)
