"""The resident merge against the speed of memory and against mergekit's merge to disk, without any start-up."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable
from typing import Any

import yaml

from mergekit_optimer.evaluate import load_model
from mergekit_optimer.merge import Ingredient, merge_yaml, portable_yaml
from mergekit_optimer.method import register
from mergekit_optimer.resident import ResidentMerge

from .figures import Figure, least
from .models import Pool, make_pool
from .setting import Setting

AT_LEAST = {"bfloat16": 0.40, "float32": 0.60}
# Two tensors of this size are far beyond any cache.
COPIED_BYTES = 1 << 29


def measure_bandwidth(setting: Setting) -> list[Figure]:
    """Bytes that a merge must move ((K + 1) reads and 1 write) per second, as a share of torch's own large copy."""
    figures = []
    for size, n_vectors in ((setting.large, 4), (setting.small, 4), (setting.small, 8)):
        for dtype, at_least in AT_LEAST.items():
            pool = make_pool(setting.work_dir, size, dtype, n_vectors)
            copied, merged, n_bytes = _speeds(pool, setting.repetitions)
            is_asked = size == setting.large
            figures.append(
                Figure(
                    f"resident merge, {size} {dtype}, K={n_vectors}: share of copy_ speed",
                    merged / copied,
                    at_least=at_least if is_asked else None,
                    detail=f"{n_bytes / merged:.3f} s for {n_bytes / 1e9:.2f} GB: {merged / 1e9:.1f} GB/s; "
                    f"copy_ {copied / 1e9:.1f} GB/s",
                )
            )
    return figures


def _speeds(pool: Pool, n: int) -> tuple[float, float, int]:
    """Bytes per second of a large copy and of a merge, and the bytes a merge moves; the best of n, taken in turn."""
    import torch

    merge = _resident(pool)
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8).view(getattr(torch, pool.dtype))
    target = torch.zeros_like(source)
    # The first merge reads the files; the first copy touches the pages.
    merge()
    target.copy_(source)
    copies, merges = [], []
    for _ in range(n):
        copies.append(_timed(lambda: target.copy_(source)))
        merges.append(_timed(merge))
    n_bytes = (pool.n_vectors + 2) * pool.n_parameters * source.element_size()
    return 2 * COPIED_BYTES / min(copies), n_bytes / min(merges), n_bytes


def measure_mergekit(setting: Setting) -> list[Figure]:
    """The same weights by mergekit's run_merge, files warm: the trial's own YAML, and a stock one that rounds once."""
    figures = []
    for size in (setting.large, setting.small):
        pool = make_pool(setting.work_dir, size, "bfloat16", 4, checkpoints=True)
        resident = _resident(pool)
        resident()
        resident_s = least(lambda run=resident: _timed(run), setting.repetitions)
        del resident
        gc.collect()
        weights = weights_of(pool)
        ingredients = {n: Ingredient(str(pool.vector_dirs[n]), str(pool.checkpoint_dirs[n])) for n in pool.names}
        own = merge_yaml(str(pool.base_dir), ingredients, weights, "bfloat16")
        stock = portable_yaml(str(pool.base_dir), ingredients, weights, "bfloat16")
        rows = (("the trial's own YAML", own, 5), ("stock task_arithmetic, float32 sums", stock, 12))
        for name, text, at_least in rows:
            run_merge = run_merge_of(text, setting)
            run_merge()
            disk_s = least(lambda run=run_merge: _timed(run), min(3, setting.repetitions))
            figures.append(
                Figure(
                    f"resident merge, {size} bfloat16, K=4: times faster than run_merge of {name}",
                    disk_s / resident_s,
                    at_least=at_least if size == setting.large else None,
                    detail=f"{resident_s:.3f} s against {disk_s:.2f} s to disk, in process (mergekit's import, some "
                    "7 s, is not counted)",
                )
            )
    return figures


def _resident(pool: Pool) -> Callable[[], None]:
    """A merge at fixed weights into a live model."""
    model = load_model(pool.base_dir, "cpu")
    merge, weights = ResidentMerge(model, pool.base_dir, pool.vector_dirs), weights_of(pool)
    return lambda: merge.merge(weights)


def run_merge_of(text: str, setting: Setting, device: str = "cpu") -> Callable[[], None]:
    """mergekit's own merge of a YAML to a folder, in this process."""
    from mergekit.config import MergeConfiguration
    from mergekit.io.tasks import LoaderCache
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    register()
    out_dir = setting.fresh("run_merge") / "model"
    options = MergeOptions(device=device, quiet=True, write_model_card=False, copy_tokenizer=True)
    config: dict[str, Any] = yaml.safe_load(text)

    def run() -> None:
        shutil.rmtree(out_dir, ignore_errors=True)
        run_merge(MergeConfiguration.model_validate(config), str(out_dir), options, config_source=text)
        LoaderCache().loaders.clear()

    return run


def weights_of(pool: Pool) -> dict[str, float]:
    """Neither 0 nor 1, which would be less work."""
    return {name: 0.3 + 0.07 * number for number, name in enumerate(pool.names)}


def _timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
