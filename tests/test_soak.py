"""`make soak`, short: a training and two studies killed a few times; 50 kills are for ten minutes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from soak import moments, whole


def test_a_few_kills_lose_nothing() -> None:
    command = [sys.executable, "-m", "tests.soak", "--kills", "6", "--seed", "4"]
    soak = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    assert soak.returncode == 0, soak.stdout + soak.stderr
    assert soak.stdout.splitlines()[-1].startswith("6 kills (")
    assert ", 0 problems, " in soak.stdout


def test_every_moment_can_be_armed() -> None:
    assert set(moments.SEARCH) | set(moments.TRAINING) == set(moments._ARMS)


def test_what_is_lost_or_half_written_is_seen(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    journal.write_text(
        '{"op_code": 4, "state": 0}\n{"op_code": 4, "state": 0}\n{"op_code": 6, "trial_id": 0, "state": 1'
    )
    assert [trial["state"] for trial in whole.trials(tmp_path)] == [0, 0]
    (tmp_path / "winner.json").write_text('{"winner": ')
    (tmp_path / ".tmp-winner.json.abc").write_text("{")
    assert [problem.rpartition("/")[2] for problem in whole.damage(tmp_path, is_finished=True)] == [
        "winner.json is half-written",
        ".tmp-winner.json.abc is left over",
        "trial 0 has no end",
        "trial 1 has no end",
    ]
    (tmp_path / "winner.json").unlink()
    (tmp_path / ".ja.training/checkpoint-4").mkdir(parents=True)
    (tmp_path / ".ja.training/checkpoint-4/trainer_state.json").write_text('{"step": ')
    assert whole.damage(tmp_path, is_finished=False) == []
