"""Where a study looks: the warm starts, and the sampler of each proposal."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from mergekit_optimer.recipe import SamplerSpec


def warm_start_weights(vectors: Sequence[str], starts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the named weight vectors that open a study; they are baselines too. Equal ones are given once."""
    k = len(vectors)
    points: dict[str, dict[str, float]] = {}
    for start in starts:
        if start == "singles":
            for name in vectors:
                points[f"single/{name}"] = {v: float(v == name) for v in vectors}
        else:
            level = {"zero": 0.0, "uniform_average": 1.0 / k, "half": 0.5, "sum": 1.0}[start]
            points[start] = dict.fromkeys(vectors, level)
    unique: dict[str, dict[str, float]] = {}
    for name, weights in points.items():
        if weights not in unique.values():
            unique[name] = weights
    return unique


def make_sampler(spec: SamplerSpec, seed: int, n_done: int) -> Any:
    """Make the sampler of one proposal.

    It is seeded by the study's seed and the number of trials done, so that a study stopped and started again
    proposes what an uninterrupted one would have.

    Source: Bergstra et al. 2011 (TPE); Optuna, Akiba et al. 2019, arXiv 1907.10902.
    """
    import optuna

    digest = hashlib.sha256(f"{seed}/{n_done}".encode()).digest()
    derived = int.from_bytes(digest[:4], "big")
    if spec.name == "random":
        return optuna.samplers.RandomSampler(seed=derived)
    return optuna.samplers.TPESampler(
        seed=derived,
        multivariate=spec.multivariate,
        constant_liar=spec.constant_liar,
        n_startup_trials=spec.n_startup_trials,
    )
