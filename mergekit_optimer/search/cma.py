"""CMA-ES without a state of its own: replayed from the finished trials for every proposal.

Optuna's sampler keeps its state on the trials and draws by their numbers, which an interrupted trial shifts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Of the box's width, about its middle, as Optuna begins.
SIGMA = 1 / 6


def propose_cma(
    told: Sequence[tuple[Sequence[float], float]], box: Sequence[tuple[float, float]], seed: int
) -> list[float]:
    """Draw the next point from the distribution that the whole generations so far have led to.

    A pure function of its arguments.

    Args:
        told: Points that it drew before and their values, more being better, in order.
        box: Lower and upper bound of each coordinate.
        seed: Of this draw.

    Source: Hansen 2016, arXiv 1604.00772; the cmaes package, Nomura and Shibata 2024, arXiv 2402.01373.
    """
    from cmaes import CMA

    low, high = np.array(box).T
    k = len(box)
    unit_box = np.array([(0.0, 1.0)] * k)
    cma = CMA(mean=np.full(k, 0.5), sigma=SIGMA, bounds=unit_box, seed=seed, n_max_resampling=10 * k)
    scaled = [((np.array(point) - low) / (high - low), -value) for point, value in told]
    size = cma.population_size
    for begin in range(0, len(scaled) - size + 1, size):
        cma.tell(scaled[begin : begin + size])
    drawn: list[float] = np.clip(low + cma.ask() * (high - low), low, high).tolist()
    return drawn
