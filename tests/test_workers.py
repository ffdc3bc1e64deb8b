"""Workers of one machine: scores that do not depend on who scores, and a study that outlives each of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bowl import VECTORS, Bowl, bits, trail
from bowl import make as make_alone
from crew_bowl import crew, make

from mergekit_optimer.errors import DiskError, InfrastructureError, WorkerError
from mergekit_optimer.search import Request, SearchResult, TrialRecord
from mergekit_optimer.workers import Crew
from mergekit_optimer.workers.service import plain

RUNGS = [{"n_samples": 20}, {"n_samples": 60, "top": 3}]


def run(
    tmp_path: Path, n_workers: int, *, in_flight: int | None = None, search: dict[str, Any], **spoil: Any
) -> SearchResult:
    workers = crew(tmp_path / "workers", n_workers, in_flight=in_flight, **spoil)
    try:
        workers.load()
        return make(tmp_path, workers, **search).run()
    finally:
        workers.close()


def by_weights(records: list[TrialRecord]) -> dict[tuple[float, ...], Any]:
    return {tuple(record.weights.values()): record.scores for record in records}


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def pids(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("pid-")) for path in folder.glob("pid-*")]


def wait_until(is_so: Callable[[], bool], patience_s: float = 30.0) -> None:
    end = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def test_scores_of_given_weights_are_the_same_whoever_scores_them(tmp_path: Path) -> None:
    search = {"n_trials": 16, "rungs": RUNGS}
    alone = make_alone(tmp_path / "alone", Bowl(), **search).run()
    many = run(tmp_path / "many", 3, search=search)
    assert len(many.trials) == 16
    one, other = by_weights(alone.trials), by_weights(many.trials)
    shared = one.keys() & other.keys()
    assert len(shared) >= 6
    assert {weights: one[weights]["dev"].head(20) for weights in shared} == {
        weights: other[weights]["dev"].head(20) for weights in shared
    }
    assert len(pids(tmp_path / "many/workers")) == 3


def test_workers_that_share_each_weight_vector_search_as_one_does(tmp_path: Path) -> None:
    search = {"n_trials": 14, "rungs": RUNGS}
    alone = make_alone(tmp_path / "alone", Bowl(), **search).run()
    shared = run(tmp_path / "shared", 3, in_flight=1, search=search)
    assert trail(shared.trials) == trail(alone.trials)
    assert shared.winner.scores == alone.winner.scores
    assert len(pids(tmp_path / "shared/workers")) == 3


def test_more_workers_than_eight_share_weight_vectors() -> None:
    class Twenty:
        n_workers = 20

    assert Crew(Twenty(), "x").n_places == 8  # type: ignore[arg-type]
    assert Crew(Twenty(), "x", in_flight=20).n_places == 20  # type: ignore[arg-type]
    assert sorted(len(group.members) for group in Crew(Twenty(), "x")._groups) == [2, 2, 2, 2, 3, 3, 3, 3]  # type: ignore[arg-type]


def test_two_trials_in_the_air_are_not_drawn_alike(tmp_path: Path) -> None:
    result = run(tmp_path, 2, search={"n_trials": 20, "warm_starts": ["zero"]})
    drawn = [tuple(record.weights.values()) for record in result.trials]
    assert len(set(drawn)) == 20


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("die", "InfrastructureError: worker [01] was killed; where nobody did, the system ran out of memory"),
        ("memory", "MemoryError: no room"),
        ("device", "InfrastructureError: The device failed"),
        ("hang", "InfrastructureError: worker [01] did not answer within 1 s and was ended"),
    ],
)
def test_a_worker_that_fails_costs_one_try(
    tmp_path: Path, spoil: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    result = run(tmp_path, 2, timeout_s=1.0, spoil=spoil, search={"n_trials": 10, "rungs": RUNGS})
    assert (len(result.trials), result.n_failed) == (10, 0)
    half = next(record for record in result.trials if record.weights == dict.fromkeys(VECTORS, 0.5))
    assert half.scores["dev"].metrics["bits_per_byte"].values[:20] == pytest.approx(
        [bits(half.weights, sample) for sample in range(20)]
    )
    import re

    assert [m for m in caplog.messages if re.search(rf"trial #2 FAILED \({reason}", m)], caplog.text


def test_weights_that_kill_every_worker_are_given_up(tmp_path: Path) -> None:
    result = run(tmp_path, 2, spoil="die always", search={"n_trials": 8})
    assert (len(result.trials), result.n_failed) == (7, 1)


def test_a_full_disk_in_a_worker_stops_the_study(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"The disk is full"):
        run(tmp_path, 2, spoil="disk", search={"n_trials": 8})
    assert len(run(tmp_path, 2, search={"n_trials": 8}).trials) == 8


def test_a_bug_in_a_worker_is_shown_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"in worker \d:\n(.*\n)+.*ZeroDivisionError: a bug"):
        run(tmp_path, 2, spoil="bug", search={"n_trials": 8})


def test_a_worker_that_cannot_load_says_why_before_the_first_trial(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"Worker \d: Vector 'ja' is not on this machine"):
        run(tmp_path, 2, spoil="load", search={"n_trials": 8})
    assert not (tmp_path / "run/trials").exists()


def test_a_worker_with_other_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="has another base or pool"):
        run(tmp_path, 2, identity="another's", search={"n_trials": 8})


def test_the_same_trials_climb_whatever_the_order_in_which_they_end(tmp_path: Path) -> None:
    search: dict[str, Any] = {"n_trials": 12, "warm_starts": ["zero", "half", "singles"], "sampler": {"name": "qmc"}}
    search["rungs"] = [{"n_samples": 20}, {"n_samples": 60, "top": 4}]
    quick, slow = (
        run(tmp_path / str(delay_s), 3, delay_s=delay_s, search=search, timeout_s=30.0) for delay_s in (0.0, 0.03)
    )
    assert {*by_weights(quick.trials)} == {*by_weights(slow.trials)}
    climbed = [{tuple(r.weights.values()) for r in result.trials if r.n_samples == 60} for result in (quick, slow)]
    assert climbed[0] == climbed[1]
    assert len(climbed[0]) == 4
    assert quick.winner.weights == slow.winner.weights


def test_a_race_goes_on_over_workers_chunk_by_chunk(tmp_path: Path) -> None:
    search: dict[str, Any] = {"n_trials": 14, "race": True, "rungs": [{"n_samples": 250}]}
    alone = make_alone(tmp_path / "alone", Bowl(), **search).run()
    shared = run(tmp_path / "shared", 2, in_flight=1, search=search)
    assert [(r.weights, r.n_samples, r.stopped) for r in shared.trials] == [
        (r.weights, r.n_samples, r.stopped) for r in alone.trials
    ]
    two = run(tmp_path / "two", 2, search=search)
    assert {record.stopped for record in two.trials} == {None, "race"}
    assert {record.n_samples for record in two.trials if record.stopped is None} == {250}
    assert two.winner.value == max(record.value for record in two.trials if record.stopped is None)


def test_a_worker_that_dies_on_a_later_rung_is_replaced(tmp_path: Path) -> None:
    short = run(tmp_path, 2, search={"n_trials": 6, "warm_starts": ["zero", "half"], "rungs": RUNGS})
    assert {record.n_samples for record in short.trials} == {20, 60}
    rungs = [*RUNGS[:1], {"n_samples": 100, "top": 6}]
    fresh = tmp_path / "fresh"
    run(fresh, 2, search={"n_trials": 3, "warm_starts": ["zero", "half"], "rungs": rungs[:1]})
    workers = crew(fresh / "workers", 2, spoil="die")
    (fresh / "other").mkdir()
    try:
        workers.load()
        result = make(fresh / "other", workers, n_trials=3, warm_starts=["zero", "half"], rungs=rungs).run()
    finally:
        workers.close()
    assert {record.n_samples for record in result.trials} == {100}


def test_slopes_come_from_a_worker_while_others_score(tmp_path: Path) -> None:
    search = {"n_trials": 14, "warm_starts": ["zero", "uniform_average", "half", "gradient"]}
    result = run(tmp_path, 2, search=search, delay_s=0.05)
    assert result.gradient is not None
    climbed = [record for record in result.trials if record.source.startswith("warm_start/gradient")]
    assert climbed
    assert max(record.value for record in climbed) == pytest.approx(max(r.value for r in result.trials), abs=0.05)


def test_slopes_of_a_worker_that_dies_are_asked_of_its_successor(tmp_path: Path) -> None:
    workers = crew(tmp_path / "workers", 1)
    try:
        workers.load()
        (pid,) = [child for child in _children(os.getpid()) if _is_worker(child)]
        os.kill(pid, signal.SIGKILL)
        value, slopes = workers.slopes(dict.fromkeys(VECTORS, 0.1), 4)
        assert value < -2.0
        assert slopes["code"] == pytest.approx(1.2)
        workers.submit(7, Request(dict.fromkeys(VECTORS, 0.1), tmp_path, 0, 4))
        ended = workers.wait()
        assert ended is not None
        assert ended[0] == 7
        assert not isinstance(ended[1], BaseException)
    finally:
        workers.close()


def test_a_gradient_beside_groups_of_workers_takes_none_of_their_members(tmp_path: Path) -> None:
    search = {"n_trials": 14, "warm_starts": ["zero", "uniform_average", "half", "gradient"]}
    result = run(tmp_path, 4, search=search, in_flight=2, delay_s=0.03)
    assert (len(result.trials), result.n_failed) == (14, 0)
    assert result.gradient is not None
    assert any(record.source.startswith("warm_start/gradient") for record in result.trials)


def test_an_idle_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    workers = crew(tmp_path / "workers", 3, in_flight=1)
    try:
        workers.load()
        weights = dict.fromkeys(VECTORS, 0.1)
        for pid in [child for child in _children(os.getpid()) if _is_worker(child)][1:]:
            os.kill(pid, signal.SIGKILL)
        scored = []
        for ticket in range(3):
            workers.submit(ticket, Request(weights, tmp_path, 0, 6))
            ended = workers.wait()
            assert ended is not None
            scored.append(ended[1])
        assert not isinstance(scored[-1], BaseException)
        assert len([child for child in _children(os.getpid()) if _is_worker(child)]) == 3
    finally:
        workers.close()


def test_any_fault_can_be_sent() -> None:
    import pickle

    class PeculiarError(MemoryError):
        def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
            super().__init__(f"no room for {shape} of {dtype}")

    for error, kind in (
        (PeculiarError((3, 4), "float32"), MemoryError),
        (DiskError("full"), DiskError),
        (InfrastructureError("gone"), InfrastructureError),
        (OSError(28, "No space left on device", "x"), OSError),
    ):
        sent = pickle.loads(pickle.dumps(plain(error)))
        assert type(sent) is kind
        assert str(sent) == str(error)


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_worker(pid: int) -> bool:
    return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()


DRIVER = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from crew_bowl import crew, make
if __name__ == "__main__":
    folder = Path({path!r})
    workers = crew(folder / "workers", 2, delay_s={delay})
    workers.load()
    make(folder, workers, n_trials=12).run()
    workers.close()
"""


def start_driver(tmp_path: Path, delay_s: float) -> subprocess.Popen[bytes]:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(tests=str(Path(__file__).parent), path=str(tmp_path), delay=delay_s))
    return subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE)


def test_no_worker_outlives_a_killed_driver_and_the_study_goes_on(tmp_path: Path) -> None:
    driver = start_driver(tmp_path, delay_s=0.5)
    wait_until(lambda: len(pids(tmp_path / "workers")) == 2)
    wait_until(lambda: any((tmp_path / "run/trials").glob("*/scores.json")))
    driver.kill()
    driver.wait()
    workers = pids(tmp_path / "workers")
    wait_until(lambda: all(map(is_gone, workers)), 5.0)
    result = run(tmp_path, 2, search={"n_trials": 12})
    assert (len(result.trials), result.n_failed) == (12, 0)
    assert len({tuple(record.weights.values()) for record in result.trials}) == 12


def test_workers_end_with_the_crew(tmp_path: Path) -> None:
    run(tmp_path, 2, search={"n_trials": 8})
    assert len(pids(tmp_path / "workers")) == 2
    assert all(map(is_gone, pids(tmp_path / "workers")))
