"""On a GPU: the merge of a 3B pool that is kept there, and of one that is sent; a trial, and the memory it takes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

import torch

from mergekit_optimer.evaluate import Scorer, load_model
from mergekit_optimer.merge import Ingredient, merge_yaml
from mergekit_optimer.recipe import load_recipe
from mergekit_optimer.resident import ResidentMerge
from mergekit_optimer.tasks import prepare_tasks
from mergekit_optimer.vectors import TensorFolder

from .figures import Figure, least
from .merge import COPIED_BYTES, run_merge_of, weights_of
from .models import Pool, make_pool, make_recipe
from .setting import Setting

N_VECTORS = 4


def measure(setting: Setting) -> list[Figure]:
    """Merges, transfers and trials of one pool on one GPU, in turn."""
    if not torch.cuda.is_available():
        return [Figure("cuda", None, detail="torch finds no CUDA device")]
    size = "tiny" if setting.quick else "3B"
    pool = make_pool(setting.work_dir, size, "bfloat16", N_VECTORS, device="cuda", recorded=False)
    what = f"{size} bfloat16, K={N_VECTORS}, {torch.cuda.get_device_name()}"
    weights, n = weights_of(pool), setting.repetitions
    started = time.perf_counter()
    model = load_model(pool.base_dir, "cuda")
    merge = ResidentMerge(model, pool.base_dir, pool.vector_dirs)
    loaded_s = time.perf_counter() - started
    n_bytes = (N_VECTORS + 2) * pool.n_parameters * 2

    kept_s, copied = _merge_s(merge, weights, n), _device_copy_speed(n)
    scoring = _scoring(setting, pool, model, merge, what)
    merge.let_go()
    torch.cuda.empty_cache()
    sent_s, plain_s, link = _merge_s(merge, weights, n), least(lambda: _plain_send(pool), 2), _link_speed(n)
    # Nothing of ours lies on the GPU while mergekit merges there.
    del merge, model
    torch.cuda.empty_cache()
    ingredients = {name: Ingredient(str(folder)) for name, folder in pool.vector_dirs.items()}
    text = merge_yaml(str(pool.base_dir), ingredients, weights, "bfloat16")
    to_disk = run_merge_of(text, setting, "cuda")
    to_disk()
    disk_s = least(lambda: _timed(to_disk), 2)
    shutil.rmtree(setting.fresh("run_merge"))
    read = n_bytes * (N_VECTORS + 1) / (N_VECTORS + 2)
    return [
        Figure(
            f"merge with copies kept on the GPU, {what}: share of copy_ speed there",
            n_bytes / kept_s / copied,
            detail=f"{kept_s:.4f} s for {n_bytes / 1e9:.1f} GB; copy_ {copied / 1e9:.0f} GB/s; model, base and vectors "
            f"were loaded in {loaded_s:.1f} s",
        ),
        Figure(
            f"merge with base and vectors sent, {what}: share of the link's speed from pinned memory",
            read / sent_s / link,
            detail=f"{sent_s:.3f} s for {read / 1e9:.1f} GB; pinned copy {link / 1e9:.1f} GB/s",
        ),
        Figure(
            f"merge with base and vectors sent, {what}: times faster than torch's .to of the mapped files alone",
            plain_s / sent_s,
            detail=f"{sent_s:.3f} s, sums included, against {plain_s:.3f} s",
        ),
        Figure(
            f"merge with copies kept on the GPU, {what}: times faster than with them sent",
            sent_s / kept_s,
            detail=f"{kept_s:.4f} s against {sent_s:.3f} s",
        ),
        Figure(
            f"merge with copies kept on the GPU, {what}: times faster than mergekit's run_merge on it, to disk",
            disk_s / kept_s,
            detail=f"{kept_s:.4f} s against {disk_s:.2f} s in process; sent: {disk_s / sent_s:.1f} times",
        ),
        *scoring,
    ]


def _merge_s(merge: ResidentMerge, weights: dict[str, float], n: int) -> float:
    merge.merge(weights)
    return least(lambda: _timed(lambda: merge.merge(weights)), n)


def _scoring(setting: Setting, pool: Pool, model: torch.nn.Module, merge: ResidentMerge, what: str) -> list[Figure]:
    """A whole score against its forward passes, and what scoring and slopes take beside the model and the copies."""
    from transformers import AutoTokenizer

    folder = setting.fresh("cuda")
    recipe = load_recipe(make_recipe(pool, folder, setting.n_samples, 1))
    tokenizer = AutoTokenizer.from_pretrained(pool.base_dir)
    scorer = Scorer(
        model, pool.base_dir, prepare_tasks(recipe.tasks, recipe, tokenizer, 1024, folder / "samples"), device="cuda"
    )
    scorer.score()
    scored_s = least(lambda: _timed(scorer.score), setting.repetitions)
    forward_s = least(lambda: _timed(scorer.forward_only), setting.repetitions)
    peaks = []
    shares = dict.fromkeys(recipe.tasks, 0.25)

    def slopes() -> None:
        with merge.slopes():
            scorer.backward(shares, None)

    for work in (scorer.score, slopes):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        peaks.append((torch.cuda.max_memory_allocated() - before) / 1e9)
    slopes_s = least(lambda: _timed(slopes), 2)
    detail = f"{scored_s:.3f} s against {forward_s:.3f} s, 4 tasks x {setting.n_samples} samples"
    return [
        Figure(f"scores, {what}: times their forward passes", scored_s / forward_s, at_most=1.25, detail=detail),
        Figure(
            f"value and slopes, {what}: times a score",
            slopes_s / scored_s,
            detail=f"{slopes_s:.3f} s; beside model and copies a score took {peaks[0]:.1f} GB of memory, slopes "
            f"{peaks[1]:.1f} GB",
        ),
    ]


def _device_copy_speed(n: int) -> float:
    """Bytes read and written per second by a large copy on the GPU."""
    source = torch.randint(0, 255, (4 * COPIED_BYTES,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / least(lambda: _timed(lambda: target.copy_(source)), n + 2)


def _link_speed(n: int) -> float:
    """Bytes per second from pinned memory to the GPU."""
    source = torch.ones(COPIED_BYTES, dtype=torch.uint8).pin_memory()
    target = torch.empty_like(source, device="cuda")
    return source.nbytes / least(lambda: _timed(lambda: target.copy_(source, non_blocking=True)), n + 2)


def _plain_send(pool: Pool) -> float:
    """Seconds to bring every tensor of base and vectors to the GPU by itself, as it lies in its file."""
    folders = [TensorFolder(path) for path in (pool.base_dir, *pool.vector_dirs.values())]

    def send() -> None:
        for folder in folders:
            for _, tensor in folder.items():
                tensor.to("cuda")

    return _timed(send)


def _timed(run: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - started
