"""What happens around a study while it runs, disks, clocks and signals, and what is left of it afterwards."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from bowl import Bowl, make, trail

from mergekit_optimer.errors import SearchError
from mergekit_optimer.files import read_json
from mergekit_optimer.search import Measured

SEARCH = {"n_trials": 30, "rungs": [{"n_samples": 20}, {"n_samples": 60, "top": 3}]}


def mount(*options: str) -> bool:
    """Whether a mount worked: it wants root and a system that lets it."""
    return subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.getuid() != 0 or not mount("-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)):
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    assert mount("-o", f"remount,{options}", str(folder))


def half_written(folder: Path) -> list[Path]:
    """Files that cannot be read; raises where one is no JSON."""
    for path in folder.rglob("scores.json"):
        read_json(path)
    return list(folder.rglob(".tmp-*"))


def test_a_study_on_a_full_disk_goes_on_when_there_is_room(tmp_path: Path, small_disk: Path) -> None:
    with pytest.raises(OSError, match=r"No space left|File too large") as stopped:
        make(small_disk, Bowl(), **SEARCH).run()
    assert stopped.value.errno == errno.ENOSPC
    assert half_written(small_disk) == []
    remount(small_disk, "size=20m")
    parts = make(small_disk, Bowl(), **SEARCH).run()
    assert trail(parts.trials) == trail(make(tmp_path / "whole", Bowl(), **SEARCH).run().trials)


def test_a_run_folder_that_became_read_only_stops_the_study_and_nothing_else(tmp_path: Path, small_disk: Path) -> None:
    remount(small_disk, "size=20m")

    class Locking(Bowl):
        def __call__(self, weights: Mapping[str, float], _trial_dir: Path, start: int, stop: int) -> Measured:
            if len(self.asked) == 5:
                remount(small_disk, "ro")
            return super().__call__(weights, tmp_path / "elsewhere", start, stop)

    with pytest.raises(OSError, match="Read-only"):
        make(small_disk, Locking(), **SEARCH).run()
    remount(small_disk, "rw")
    bowl = Bowl()
    parts = make(small_disk, bowl, **SEARCH).run()
    assert len([1 for _, start, _ in bowl.asked if start == 0]) == 25
    assert trail(parts.trials) == trail(make(tmp_path / "whole", Bowl(), **SEARCH).run().trials)


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0])
def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    whole = make(tmp_path / "whole", Bowl(), **SEARCH).run()
    jumps = iter(range(10_000))
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + (jump_s if next(jumps) % 2 else 0.0))
    jumping = make(tmp_path / "jumping", Bowl(), **SEARCH).run()
    assert trail(jumping.trials) == trail(whole.trials)
    assert jumping.winner.weights == whole.winner.weights


@pytest.mark.parametrize(
    "line",
    [b'{"op_code": 5, "worker_id": "x", "tri', b"\x00\x00\x00\x00\x00\x00\x00\x00\n", b"not json at all\n", b"\n"],
    ids=["torn", "zeros", "words", "empty"],
)
def test_a_damaged_last_line_is_kept_aside_and_the_study_goes_on(tmp_path: Path, line: bytes) -> None:
    make(tmp_path, Bowl(), n_trials=7).run()
    with (tmp_path / "run/study.journal").open("ab") as file:
        file.write(line)
    parts = make(tmp_path, Bowl(), n_trials=12).run()
    assert trail(parts.trials) == trail(make(tmp_path / "whole", Bowl(), n_trials=12).run().trials)
    assert (tmp_path / "run/study.journal.torn").read_bytes().startswith(line)


def test_damage_before_reported_trials_is_refused_and_nothing_is_cut(tmp_path: Path) -> None:
    make(tmp_path, Bowl(), n_trials=7).run()
    journal = tmp_path / "run/study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    reports = [number for number, line in enumerate(lines) if b'"state":1' in line]
    damaged = b"".join([*lines[: reports[3]], lines[reports[3]][:9] + b"\n", *lines[reports[3] + 1 :]])
    journal.write_bytes(damaged)
    with pytest.raises(
        SearchError, match=rf"Line {reports[3] + 1} of .* is damaged, and 3 reported trials stand after it"
    ):
        make(tmp_path, Bowl(), n_trials=7)
    assert journal.read_bytes() == damaged


def test_a_journal_of_another_version_is_a_sentence(tmp_path: Path) -> None:
    make(tmp_path, Bowl(), n_trials=2).run()
    with (tmp_path / "run/study.journal").open("ab") as file:
        file.write(b'{"op_code": 99, "worker_id": "x"}\n')
    with pytest.raises(SearchError, match="another version of Optuna may have written it"):
        make(tmp_path, Bowl(), n_trials=3)


def test_two_interruptions_at_once_still_give_the_weights_back(tmp_path: Path) -> None:
    def stop(n: int) -> Callable[[int, Mapping[str, float]], None]:
        def spoil(call: int, _weights: Mapping[str, float]) -> None:
            if call == n:
                raise KeyboardInterrupt

        return spoil

    search = make(tmp_path, Bowl(stop(4)), n_trials=9)
    failing = search._place
    # The second comes while the first is being written down.
    failing.end = lambda _number: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        search.run()
    assert trail(make(tmp_path, Bowl(), n_trials=9).run().trials) == trail(
        make(tmp_path / "whole", Bowl(), n_trials=9).run().trials
    )
