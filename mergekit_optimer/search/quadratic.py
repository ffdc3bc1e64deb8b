"""The quadratic surrogate: a Bayesian bowl through the scores so far. Knows numbers only: no study, no trial.

The objective is taken as y = c + b u + u A u / 2 with a normal prior on every coefficient. What that misses is taken to
grow with the depth below the best score, so deep points count little and the bowl fits where it matters. A draw from
the posterior (Thompson sampling) is maximised in a trust region around the best point the model knows.

Source: Thompson 1933; the trust region that breathes: TuRBO, Eriksson et al. 2019, arXiv 1910.01739.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

# A long study is fitted through its best points only.
MAX_POINTS = 200
# From so many points on the likelihood is summed over coefficients, of which there are fewer than points: the cost of a
# proposal then grows with the points, not with their cube.
MANY_POINTS = 80
# Scales of the prior: slopes, curvature all vectors share, interaction all pairs share, own curvature, own interaction;
# then noise, and misfit per depth. Coordinates run from -1 to 1 over the box, scores in units of the median depth.
# The data move each by about SPREAD (in logarithms).
SCALES = np.array([2.0, 3.0, 3.0, 1.0, 1.0, 0.03, 0.3])
SPREAD = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.5, 0.7])
CONSTANT, NOISE_FLOOR = 100.0, 1e-6
# How far the trust region reaches at first (1 is half the box), what a proposal that raises the best and one that does
# not make of it, and the limits.
REACH, GROW, SHRINK, REACH_MIN, REACH_MAX = 0.45, 1.4, 0.8, 0.1, 1.0
N_STARTS, N_DRAWS = 6, 8


def propose_quadratic(
    points: Sequence[Sequence[float]],
    values: Sequence[float],
    pending: Sequence[Sequence[float]],
    box: Sequence[tuple[float, float]],
    seed: int,
    *,
    own: Sequence[bool] | None = None,
    collapsed: Sequence[bool] | None = None,
) -> list[float]:
    """Return the point to try next, inside the box and none of those tried.

    A pure function: the same arguments give the same point.

    Args:
        points: Tried points, in order; at least one.
        values: Their finite scores, to be maximised.
        pending: Points being tried; taken for what the model expects there.
        box: Bounds of each coordinate.
        own: Which points were proposed here: they let the trust region breathe.
        collapsed: Which points have a score that says nothing but "far too low".
    """
    rng = np.random.default_rng(seed)
    low, high = np.array(box, dtype=float).T
    middle, half = (low + high) / 2, (high - low) / 2
    tried, score = np.array(points, dtype=float), np.array(values, dtype=float)
    waiting = np.array(pending, dtype=float).reshape(-1, len(low))
    known = np.vstack([tried, waiting])
    bowl = _fit((tried - middle) / half, score, _mask(collapsed, len(score))).believe((waiting - middle) / half)
    reach = _reach(score, _mask(own, len(score)))
    corners = np.maximum(-1.0, bowl.centre - reach), np.minimum(1.0, bowl.centre + reach)
    for _ in range(N_DRAWS):
        point = np.clip(middle + bowl.draw_maximum(rng, *corners) * half, low, high)
        if not (known == point).all(1).any():
            return [float(x) for x in point]
    # Sure of a point that was tried, as in a corner of the box: anywhere near it.
    return [float(x) for x in np.clip(middle + rng.uniform(*corners) * half, low, high)]


def _mask(flags: Sequence[bool] | None, n: int) -> np.ndarray:
    return np.zeros(n, dtype=bool) if flags is None else np.array(flags, dtype=bool)


def _reach(score: np.ndarray, own: np.ndarray) -> float:
    """How far the trust region reaches: replayed from the scores, so that nothing need be remembered."""
    reach, best = REACH, -np.inf
    for value, is_own in zip(score, own, strict=True):
        if is_own:
            reach = min(REACH_MAX, reach * GROW) if value > best else max(REACH_MIN, reach * SHRINK)
        best = max(best, value)
    return reach


def _features(u: np.ndarray) -> np.ndarray:
    """1, slopes, the curvature and the interaction that all share, own curvatures, own interactions."""
    i, j = np.triu_indices(u.shape[1], 1)
    squares, pairs = u**2 / 2, u[:, i] * u[:, j]
    shared = squares.sum(1, keepdims=True), pairs.sum(1, keepdims=True)
    return np.hstack([np.ones((len(u), 1)), u, *shared, squares, pairs])


def _groups(k: int) -> np.ndarray:
    """Which of the SCALES a coefficient has, the constant left out."""
    return np.repeat([0, 1, 2, 3, 4], [k, 1, 1, k, k * (k - 1) // 2])


@dataclass(frozen=True)
class _Bowl:
    """The bowl as far as it is known: its centre, what it is fitted to, and the variances of noise and prior."""

    centre: np.ndarray
    features: np.ndarray
    y: np.ndarray
    noise: np.ndarray
    prior: np.ndarray

    @cached_property
    def posterior(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean of the coefficients, and R with covariance = inverse(R^T R)."""
        weighted = self.features / self.noise[:, None]
        factor = np.linalg.cholesky(self.features.T @ weighted + np.diag(1.0 / self.prior)).T
        return np.linalg.solve(factor, np.linalg.solve(factor.T, weighted.T @ self.y)), factor

    def believe(self, waiting: np.ndarray) -> _Bowl:
        """Take the scores of points being tried for what the model expects."""
        if not len(waiting):
            return self
        features = _features(waiting - self.centre)
        return _Bowl(
            self.centre,
            np.vstack([self.features, features]),
            np.concatenate([self.y, features @ self.posterior[0]]),
            np.concatenate([self.noise, np.full(len(waiting), self.noise.min())]),
            self.prior,
        )

    def draw_maximum(self, rng: np.random.Generator, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Maximise one draw of the bowl between two corners."""
        from scipy.optimize import minimize

        mean, factor = self.posterior
        drawn = mean + np.linalg.solve(factor, rng.normal(size=len(mean)))
        k = len(self.centre)
        slope, (curvature, interaction) = drawn[1 : k + 1], drawn[k + 1 : k + 3]
        i, j = np.triu_indices(k, 1)
        hessian = np.diag(drawn[k + 3 : 2 * k + 3] + curvature)
        hessian[i, j] = hessian[j, i] = drawn[2 * k + 3 :] + interaction

        def fall(u: Any) -> tuple[float, np.ndarray]:
            d = u - self.centre
            return -float(slope @ d + d @ hessian @ d / 2), -(slope + hessian @ d)

        # A draw need not be concave: it may have a maximum on every side.
        starts = [self.centre, *rng.uniform(low, high, (N_STARTS - 1, k))]
        bounds = list(zip(low, high, strict=True))
        ends = [minimize(fall, start, jac=True, method="L-BFGS-B", bounds=bounds) for start in starts]
        best: np.ndarray = min(ends, key=lambda end: float(end.fun)).x
        return best


def _fit(tried: np.ndarray, score: np.ndarray, lost: np.ndarray) -> _Bowl:
    """Fit the scales by marginal likelihood; the centre is the best point by the model, not by its own lucky score."""
    if len(score) > MAX_POINTS:
        kept = np.sort(np.argsort(-score, kind="stable")[:MAX_POINTS])
        tried, score, lost = tried[kept], score[kept], lost[kept]
    depth = score.max() - score
    sound = depth[~lost & (depth > 0)]
    y = -depth / (np.median(sound) if len(sound) else 1.0)
    centre = tried[int(np.argmax(score))]
    features = _features(tried - centre)
    groups = _groups(tried.shape[1])
    variances = _likeliest(features, groups, y, lost)
    noise = _noise(variances, y, lost)
    prior = np.concatenate([[CONSTANT], variances[groups]])
    bowl = _Bowl(centre, features, y, noise, prior)
    expected = np.where(lost, -np.inf, features @ bowl.posterior[0])
    best = tried[int(np.argmax(expected))]
    return _Bowl(best, _features(tried - best), y, noise, prior)


def _noise(variances: np.ndarray, y: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Noise and misfit of each point; a collapsed one says only that it lies somewhere below."""
    return np.where(lost, y**2, variances[5] + variances[6] * y**2) + NOISE_FLOOR


def _likeliest(features: np.ndarray, groups: np.ndarray, y: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """The variances, square of SCALES, of the highest marginal likelihood times their prior."""
    from scipy.optimize import minimize

    guess = np.log(SCALES)
    likelihood = _over_coefficients if len(y) >= MANY_POINTS else _over_points
    minus_log = likelihood(features, groups, y, lost)

    def loss(scales: np.ndarray) -> tuple[float, np.ndarray]:
        variances = np.exp(2 * scales)
        value, slope = minus_log(variances)
        pull = (scales - guess) / SPREAD
        return float(value + pull @ pull / 2), variances * slope + pull / SPREAD

    bounds = list(zip(guess - 3 * SPREAD, guess + 3 * SPREAD, strict=True))
    end = minimize(loss, guess, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 30})
    likeliest: np.ndarray = np.exp(2 * end.x)
    return likeliest


# Variances -> minus the log of the marginal likelihood, and twice its slope by each of them.
_MinusLog = Callable[[np.ndarray], tuple[float, np.ndarray]]


def _over_points(features: np.ndarray, groups: np.ndarray, y: np.ndarray, lost: np.ndarray) -> _MinusLog:
    """By the covariance of the points."""
    blocks = [features[:, 1:][:, groups == group] for group in range(5)]
    grams = [block @ block.T for block in blocks]
    diagonal = np.diag_indices(len(y))

    def minus_log(variances: np.ndarray) -> tuple[float, np.ndarray]:
        covariance = CONSTANT + sum(variance * gram for variance, gram in zip(variances[:5], grams, strict=True))
        covariance[diagonal] += _noise(variances, y, lost)
        factor = np.linalg.cholesky(covariance)
        root = np.linalg.inv(factor)
        inverse = root.T @ root
        fitted = inverse @ y
        change = inverse - np.outer(fitted, fitted)
        on_diagonal = change[diagonal] * ~lost
        slope = [np.vdot(change, gram) for gram in grams] + [on_diagonal.sum(), on_diagonal @ y**2]
        return y @ fitted / 2 + np.log(factor[diagonal]).sum(), np.array(slope)

    return minus_log


def _over_coefficients(features: np.ndarray, groups: np.ndarray, y: np.ndarray, lost: np.ndarray) -> _MinusLog:
    """The same by the precision of the coefficients (Woodbury's identity)."""
    members = np.array([groups == group for group in range(5)], dtype=float)

    def minus_log(variances: np.ndarray) -> tuple[float, np.ndarray]:
        noise = _noise(variances, y, lost)
        prior = np.concatenate([[CONSTANT], variances[groups]])
        weighted = features / noise[:, None]
        gram = features.T @ weighted
        factor = np.linalg.cholesky(gram + np.diag(1.0 / prior))
        root = np.linalg.inv(factor)
        fitted = (y - features @ (root.T @ (root @ (weighted.T @ y)))) / noise
        half = root @ gram
        # Diagonals of F^T C^-1 F and of C^-1, for the covariance C = F P F^T + D of the points.
        of_coefficients = np.diag(gram) - (half**2).sum(0)
        of_points = 1.0 / noise - ((weighted @ root.T) ** 2).sum(1)
        on_groups = members @ (of_coefficients - (features.T @ fitted) ** 2)[1:]
        on_diagonal = (of_points - fitted**2) * ~lost
        determinant = np.log(noise).sum() / 2 + np.log(prior).sum() / 2 + np.log(np.diag(factor)).sum()
        return y @ fitted / 2 + determinant, np.array([*on_groups, on_diagonal.sum(), on_diagonal @ y**2])

    return minus_log
