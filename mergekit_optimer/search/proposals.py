"""Where a study looks: the warm starts, and whose proposal comes next, the surrogate's or Optuna's sampler's."""

from __future__ import annotations

import hashlib
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_optimer.recipe import SamplerSpec
from mergekit_optimer.recipe.search import SearchSection
from mergekit_optimer.search.quadratic import propose_quadratic

# Of this many proposals after the warm starts one is the sampler's own: it looks where the surrogate is too sure.
CYCLE = 4


@dataclass(frozen=True)
class Point:
    """A finished trial as a proposal sees it.

    Attributes:
        value: What the sampler was told: the objective, or a race's estimate of it.
        source: As in the trial's record: "warm_start/<name>", "surrogate" or "sampler".
        collapsed: Whether the model collapsed, so that ``value`` holds floored scores.
    """

    weights: dict[str, float]
    value: float
    source: str
    collapsed: bool


def propose(
    spec: SearchSection,
    vectors: Sequence[str],
    done: Sequence[Point],
    pending: Sequence[Mapping[str, float]],
    seed: int,
    n_done: int,
) -> dict[str, float] | None:
    """Return the surrogate's next weights, or None where Optuna's sampler proposes.

    A pure function of its arguments, so that a study stopped and started again proposes what an uninterrupted one
    would have. To be called after the warm starts.

    Args:
        done: Finished trials in order.
        pending: Weights of the trials still running.
        seed: The study's seed.
        n_done: Trials done, those given up included.
    """
    if spec.sampler.assist != "quadratic":
        return None
    own = sum(not point.source.startswith("warm_start/") for point in done) + len(pending)
    finite = [point for point in done if math.isfinite(point.value)]
    if own % CYCLE == CYCLE - 1 or len(finite) < len(vectors) + 2:
        return None
    intervals = [spec.interval(name) for name in vectors]
    found = propose_quadratic(
        [[point.weights[name] for name in vectors] for point in finite],
        [point.value for point in finite],
        [[weights[name] for name in vectors] for weights in pending],
        [(interval.low, interval.high) for interval in intervals],
        _derived_seed(seed, n_done + len(pending)),
        own=[point.source == "surrogate" for point in finite],
        collapsed=[point.collapsed for point in finite],
    )
    return dict(zip(vectors, found, strict=True))


def warm_start_weights(vectors: Sequence[str], starts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the named weight vectors that open a study; they are baselines too. Equal ones are given once.

    The start "gradient" is no fixed point (``gradient.climb_gradient`` finds it) and gives none here.
    """
    k = len(vectors)
    points: dict[str, dict[str, float]] = {}
    for start in starts:
        if start == "singles":
            for name in vectors:
                points[f"single/{name}"] = {v: float(v == name) for v in vectors}
        elif start != "gradient":
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
    proposes what an uninterrupted one would have. Only QMC keeps one seed: its points are a sequence, whose place
    the study holds; CMA-ES keeps its state in the study too.

    Source: Bergstra et al. 2011 (TPE); Optuna, Akiba et al. 2019, arXiv 1907.10902.
    """
    import optuna

    derived = _derived_seed(seed, n_done)
    match spec.name:
        case "random":
            return optuna.samplers.RandomSampler(seed=derived)
        case "gp":
            # It says once that it would be a little faster with greenlet.
            logging.getLogger("optuna._gp.batched_lbfgsb").setLevel(logging.ERROR)
            return optuna.samplers.GPSampler(seed=derived, n_startup_trials=spec.n_startup_trials)
        case "cmaes":
            return optuna.samplers.CmaEsSampler(seed=derived)
        case "qmc":
            with warnings.catch_warnings():
                # The version is pinned; that the class may change in another is no news for the user.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return optuna.samplers.QMCSampler(seed=_derived_seed(seed, 0), scramble=True)
        case "tpe":
            return optuna.samplers.TPESampler(
                seed=derived,
                multivariate=spec.multivariate,
                constant_liar=spec.constant_liar,
                n_startup_trials=spec.n_startup_trials,
            )


def _derived_seed(seed: int, n_done: int) -> int:
    digest = hashlib.sha256(f"{seed}/{n_done}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
