"""With what a study is run: workers, and the study's place. Decides how fast, not what comes out."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mergekit_optimer.errors import WorkerError
from mergekit_optimer.search import check_storage
from mergekit_optimer.workers import RayActors

TRIAL_TIMEOUT_S = 3600.0
# Set in each worker before torch loads, as in this process.
WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "MKL_CBWR": "AUTO,STRICT", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Means:
    """What the options of a search say of workers and storage.

    Attributes:
        n_workers: Processes that score.
        gpus_per_worker: GPUs of each, for a model that one has no room for.
        in_flight: Weight vectors scored at once; None: one a worker, up to 8.
        ray: Address of a Ray cluster; None: workers are processes of this machine.
        storage: URL of the study's database; None: a journal file in the run folder.
        timeout_s: Seconds after which a worker that does not answer is replaced; None: an hour, of a worker that is a
            process of its own.
    """

    n_workers: int = 1
    gpus_per_worker: int = 1
    in_flight: int | None = None
    ray: str | None = None
    storage: str | None = None
    timeout_s: float | None = None

    @property
    def is_alone(self) -> bool:
        """Whether this process scores itself; it cannot end itself where it hangs."""
        is_one = self.n_workers == 1 and self.gpus_per_worker == 1 and self.ray is None
        return is_one and self.timeout_s is None

    @property
    def patience_s(self) -> float:
        """Seconds that a trial may take."""
        return TRIAL_TIMEOUT_S if self.timeout_s is None else self.timeout_s


def check_means(means: Means, device: str) -> None:
    """Check before any model loads that the workers have devices and the database lets us in.

    Raises:
        WorkerError: There are fewer devices than workers want, or Ray cannot be had.
        SearchError: The storage cannot be used.
    """
    if means.storage is not None:
        check_storage(means.storage)
    on_gpu = device.startswith("cuda")
    if means.gpus_per_worker > 1 and not on_gpu:
        raise WorkerError("--gpus-per-worker wants GPUs, and the search runs on the CPU; leave it out.")
    if means.in_flight is not None and means.in_flight > means.n_workers:
        raise WorkerError(f"--in-flight {means.in_flight} wants as many workers; give --workers {means.in_flight}.")
    if means.ray is not None:
        RayActors.connect(means.ray, means.n_workers, means.gpus_per_worker if on_gpu else 0)
    elif not means.is_alone:
        n_devices, each = (len(visible_gpus()), means.gpus_per_worker) if on_gpu else (n_cores(), 1)
        if means.n_workers * each > n_devices:
            raise WorkerError(
                f"{means.n_workers} workers want {means.n_workers * each} {'GPUs' if on_gpu else 'CPU cores'}; this "
                f"machine has {n_devices}. Give --workers {max(1, n_devices // each)}, or a cluster's address as --ray."
            )


def n_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def visible_gpus() -> list[str]:
    """The GPUs of this machine as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    numbers = [name for name in named.split(",") if name] if named else map(str, range(torch.cuda.device_count()))
    return list(numbers)


def worker_environments(means: Means, device: str) -> list[dict[str, str]]:
    """What is set in each worker of this machine: its GPUs, or its share of the cores."""
    if not device.startswith("cuda"):
        threads = str(max(1, n_cores() // means.n_workers))
        return [WORKER_ENVIRONMENT | {"OMP_NUM_THREADS": threads}] * means.n_workers
    gpus, each = visible_gpus(), means.gpus_per_worker
    parts = [gpus[worker * each : (worker + 1) * each] for worker in range(means.n_workers)]
    return [WORKER_ENVIRONMENT | {"CUDA_VISIBLE_DEVICES": ",".join(part)} for part in parts]
