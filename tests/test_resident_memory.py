"""Whether a live model fits, what a GPU keeps beside it, and what a process may take of a machine."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from merge_pool import WEIGHTS, Pool, same

from mergekit_optimer import machine
from mergekit_optimer.errors import InfrastructureError
from mergekit_optimer.evaluate import load_model
from mergekit_optimer.resident import check_memory, is_spread, memory


def test_a_model_that_does_not_fit_is_refused_with_the_sum(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "WORKING_BYTES", {"cpu": 0, "cuda": 0})
    size = (pool.base / "model.safetensors").stat().st_size
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: size - 1)
    with pytest.raises(InfrastructureError, match=r"base 0.0 GB \+ 2 vectors 0.0 GB mapped .* 0.0 GB are free"):
        check_memory(pool.base, pool.vectors, "cpu")
    with caplog.at_level(logging.WARNING):
        monkeypatch.setattr(memory, "available_memory_bytes", lambda: 100 * size)
        check_memory(pool.base, pool.vectors, "cpu")
        monkeypatch.setattr(memory, "available_memory_bytes", lambda: None)
        check_memory(pool.base, pool.vectors, "cpu")
        assert not caplog.records
        monkeypatch.setattr(memory, "available_memory_bytes", lambda: 2 * size)
        check_memory(pool.base, pool.vectors, "cpu")
    assert "reads from disk again" in caplog.text


def test_where_the_room_is_gone_before_the_copies_come_none_are_kept(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mergekit_optimer.resident import sources

    def sizes(_self: Any, tensors: Any) -> dict[str, int]:
        return dict.fromkeys((tensor.name for tensor in tensors), 1)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sources.Sources, "sizes", sizes)
    monkeypatch.setattr(sources.Sources, "hold", full)
    with caplog.at_level(logging.INFO):
        resident = pool.resident()
    assert resident.kept_bytes == 0
    assert "0.0 of the" in caplog.text
    resident.merge(WEIGHTS[0])


def test_what_torch_keeps_for_itself_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (10, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 60)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 15)
    assert memory._free_on(torch.device("cuda", 0)) == 55


def test_a_model_larger_than_one_gpu_is_spread_and_all_gpus_count(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (pool.base / "model.safetensors").stat().st_size
    monkeypatch.setattr(memory, "WORKING_BYTES", {"cpu": 0, "cuda": 0})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (size - 1, size))
    assert is_spread(pool.base, "cuda")
    assert not is_spread(pool.base, "cuda:0")
    # Two halves hold the model, its two vectors' tensors on their way do not fit beside it.
    with pytest.raises(InfrastructureError, match="does not fit into cuda: base"):
        check_memory(pool.base, pool.vectors, "cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (4 * size, 4 * size))
    assert not is_spread(pool.base, "cuda")
    check_memory(pool.base, pool.vectors, "cuda")


@pytest.mark.parametrize(
    ("line", "folder", "files", "left"),
    [
        ("0::/job", "job", {"memory.max": "3000000", "memory.current": "2000000", "memory.stat": ""}, 1_000_000),
        ("0::/", "", {"memory.max": "max", "memory.current": "2000000", "memory.stat": ""}, 8_192_000),
        ("0::/a/b", "a", {"memory.max": "30000", "memory.current": "5000", "memory.stat": "inactive_file 7"}, 25_007),
        (
            "4:cpu,memory:/job",
            "memory/job",
            {
                "memory.limit_in_bytes": "3000000",
                "memory.usage_in_bytes": "2500000",
                "memory.stat": "inactive_file 1\ntotal_inactive_file 100",
            },
            500_100,
        ),
    ],
)  # fmt: skip
def test_a_containers_limit_counts_where_it_is_lower(
    tmp_path: Path, line: str, folder: str, files: dict[str, str], left: int
) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text(f"1:name=systemd:/x\n{line}\n")
    group = tmp_path / "cgroup" / folder
    group.mkdir(parents=True)
    for name, text in files.items():
        (group / name).write_text(text)
    assert machine.available_memory_bytes(tmp_path / "proc", tmp_path / "cgroup") == left
    assert machine.available_memory_bytes(tmp_path / "nowhere", tmp_path / "cgroup") is None


def test_what_is_kept_beside_the_model_changes_no_bit_and_can_be_let_go(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = pool.resident()
    assert resident.kept_bytes == 0
    assert not resident.let_go()

    def copied(tensor: torch.Tensor, _device: torch.device) -> torch.Tensor:
        return tensor.clone()

    # As to another device: a CPU would be given the mapped tensors themselves.
    monkeypatch.setattr(resident._sources, "_to", copied)
    whole = sum(parameter.nbytes for parameter in pool.model.parameters())
    # Two vectors, one of them in half the base's bytes: not all of it.
    for room, kept_all in ((whole, False), (3 * whole, True)):
        resident._sources.hold(resident._tensors, {torch.device("cpu"): room})
        assert 0 < resident.kept_bytes <= room
        assert (resident.kept_bytes == 2.5 * whole) is kept_all
        resident.merge(WEIGHTS[0])
        assert same(pool.model, pool.merged(WEIGHTS[0], tmp_path / str(room), "float32"))
        # The copies are what is merged.
        held = resident._sources._held["model.norm.weight"]
        held.base.add_(1.0)
        resident.merge(WEIGHTS[0])
        assert not same(pool.model, load_model(tmp_path / str(room), "cpu"))
        assert resident.let_go()
        assert resident.kept_bytes == 0
        resident.merge(dict.fromkeys(pool.vectors, 0.0))


def test_the_room_on_a_gpu_is_what_scoring_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [torch.device("cuda", 0), torch.device("cuda", 1)]
    free = {gpus[0]: 40 << 30, gpus[1]: 8 << 30}
    monkeypatch.setattr(memory, "_free_on", lambda device: free[device])
    rooms = memory.rooms_on_gpus([*gpus, torch.device("cpu")], 1 << 30)
    assert rooms == {gpus[0]: (40 - 8 - 4 - 1) << 30, gpus[1]: 0}
