"""Where a study looks: the warm starts, and whose proposal comes next, ours or Optuna's sampler's."""

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
from mergekit_optimer.search.cma import propose_cma
from mergekit_optimer.search.quadratic import propose_quadratic
from mergekit_optimer.search.records import is_warm_start

# Of this many proposals after the warm starts one is the sampler's own: it looks where the surrogate is too sure.
CYCLE = 4


@dataclass(frozen=True)
class Point:
    """A finished trial as a proposal sees it.

    Attributes:
        value: The objective, or a race's estimate of it; less where ``keep`` rejects it.
        source: As in the trial's record: "warm_start/<name>", "surrogate" or "sampler".
        collapsed: Whether the model collapsed, so that ``value`` holds floored scores.
        is_own: Whether this study ran it; False where it was taken over from another.
    """

    weights: dict[str, float]
    value: float
    source: str
    collapsed: bool
    is_own: bool = True


def propose(
    spec: SearchSection,
    vectors: Sequence[str],
    done: Sequence[Point],
    pending: Sequence[Mapping[str, float]],
    seed: int,
    n_done: int,
) -> dict[str, float] | None:
    """Return the next weights of the surrogate or of CMA-ES, or None where Optuna's sampler proposes.

    A pure function of its arguments, so that a study stopped and started again proposes what an uninterrupted one
    would have. To be called after the warm starts.

    Args:
        done: Finished trials in order.
        pending: Weights of the trials still running.
        seed: The study's seed.
        n_done: Trials done, those given up included.
    """
    intervals = [spec.interval(name) for name in vectors]
    box = [(interval.low, interval.high) for interval in intervals]
    draw_seed = _derived_seed(seed, n_done + len(pending))
    if spec.sampler.name == "cmaes":
        drawn = [point for point in done if point.is_own and point.source == "sampler"]
        told = [([point.weights[name] for name in vectors], point.value) for point in drawn]
        return dict(zip(vectors, propose_cma(told, box, draw_seed), strict=True))
    if spec.sampler.assist != "quadratic":
        return None
    own = sum(not is_warm_start(point.source) for point in done) + len(pending)
    finite = [point for point in done if math.isfinite(point.value)]
    if own % CYCLE == CYCLE - 1 or len(finite) < len(vectors) + 2:
        return None
    found = propose_quadratic(
        [[point.weights[name] for name in vectors] for point in finite],
        [point.value for point in finite],
        [[weights[name] for name in vectors] for weights in pending],
        box,
        draw_seed,
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


def make_sampler(spec: SamplerSpec, seed: int, n_begun: int, others_run: bool = False) -> Any:
    """Make Optuna's sampler of one proposal; for CMA-ES, whose proposals ``propose`` makes, any will do.

    It is seeded by the study's seed and the number of trials begun, so that a study stopped and started again
    proposes what an uninterrupted one would have. Only QMC keeps one seed: its points are a sequence, whose place
    the study holds.

    Args:
        n_begun: Trials done, and those on their way.
        others_run: Whether trials are on their way: TPE then takes them for bad ones, so as not to draw them again.

    Source: Bergstra et al. 2011 (TPE); Optuna, Akiba et al. 2019, arXiv 1907.10902.
    """
    import optuna

    derived = _derived_seed(seed, n_begun)
    match spec.name:
        case "random" | "cmaes":
            return optuna.samplers.RandomSampler(seed=derived)
        case "gp":
            # It says once that it would be a little faster with greenlet.
            logging.getLogger("optuna._gp.batched_lbfgsb").setLevel(logging.ERROR)
            return optuna.samplers.GPSampler(seed=derived, n_startup_trials=spec.n_startup_trials)
        case "qmc":
            with warnings.catch_warnings():
                # The version is pinned; that the class may change in another is no news for the user.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return optuna.samplers.QMCSampler(seed=_derived_seed(seed, 0), scramble=True)
        case "tpe":
            return optuna.samplers.TPESampler(
                seed=derived,
                multivariate=spec.multivariate,
                constant_liar=spec.constant_liar or others_run,
                n_startup_trials=spec.n_startup_trials,
            )


def _derived_seed(seed: int, n_done: int) -> int:
    digest = hashlib.sha256(f"{seed}/{n_done}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
