"""What a pool and a search over it cost, against searching data mixtures by training each. Tokens and times come in.

FLOPs are estimated: 6 N for each token trained on (forward and backward) and 2 N for each token scored, with N the
parameters that a token is multiplied by. That is all of them less the input embeddings, which are looked up; a tied
output layer is counted. Attention over the context, merging (2 N a vector and trial) and, in a mixture of experts, that
only some of them run, are left out.

Source: Kaplan et al. 2020, arXiv 2001.08361, section 2.1.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from mergekit_optimer.vectors import TensorFolder

TRAINING_FACTOR = 6
SCORING_FACTOR = 2
# Reported in arXiv 2603.28858, for Gemma 3 27B with 1B tokens a dataset and 100 trials.
REPORTED = "15 to 35 times, as reported in arXiv 2603.28858"

FORMULA = (
    "FLOPs = 6 N x tokens trained + 2 N x tokens scored (6 N where a gradient is taken), N = parameters without input "
    "embeddings, a tied output layer counted; attention over the context and merging left out. Searching mixtures = "
    "as many trainings at the pool's tokens, each scored as a trial is."
)
_OUTPUT = ("lm_head.weight", "embed_out.weight")
_TOKENS_IN = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
_POSITIONS_IN = ("wpe.weight", "embed_positions.weight", "position_embeddings.weight")


@dataclass(frozen=True)
class Spent:
    """What something took: tokens run through the model, seconds as measured, FLOPs as estimated."""

    tokens: int
    seconds: float
    flops: float

    def plus(self, other: Spent) -> Spent:
        return Spent(self.tokens + other.tokens, self.seconds + other.seconds, self.flops + other.flops)

    def times(self, factor: float) -> Spent:
        return Spent(round(self.tokens * factor), self.seconds * factor, self.flops * factor)


@dataclass(frozen=True)
class Ratio:
    """How many times more the searched mixtures take."""

    seconds: float | None
    flops: float | None


@dataclass(frozen=True)
class SearchCost:
    """The three costs and their ratio.

    Attributes:
        pool: Training one checkpoint per dataset.
        search: All trials that this study ran, gradients included.
        mixture: One training on the mixed data; None where there is none, and the pool's own cost stands for it.
        mixtures_searched: How many mixtures would be trained: as many as the study ran trials.
        mixtures_total: Training and scoring all of them.
        ratio_seconds: ``mixtures_total`` over pool and search; None where a part is not known. ``ratio_flops`` alike.
        next_objective: The same ratio where the pool is there already, as for another objective.
        parameters: N of the formula.
        unknown: What is left out of the numbers, in words; a ratio that it would flatter is None.
    """

    pool: Spent
    search: Spent
    mixture: Spent | None
    mixtures_searched: int
    mixtures_total: Spent
    ratio_seconds: float | None
    ratio_flops: float | None
    next_objective: Ratio
    parameters: int
    unknown: list[str]
    formula: str
    reported: str
    sentence: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def rows(self) -> list[dict[str, Any]]:
        """One row a part."""
        parts = {
            "pool": self.pool,
            "search": self.search,
            "pool and search": self.pool.plus(self.search),
            "one mixture": self.mixture,
            f"{self.mixtures_searched} mixtures searched": self.mixtures_total,
        }
        return [{"part": name} | asdict(spent) for name, spent in parts.items() if spent is not None]


def counted_parameters(base: TensorFolder) -> int:
    """N of the formula: the parameters that a token is multiplied by."""
    sizes = {name: math.prod(base.shape(name)) for name in base.names}
    has_output_layer = any(name.endswith(_OUTPUT) for name in sizes)
    looked_up = _POSITIONS_IN + (_TOKENS_IN if has_output_layer else ())
    return sum(size for name, size in sizes.items() if not name.endswith(looked_up))


def training_cost(n_tokens: int, seconds: float, parameters: int) -> Spent:
    return Spent(n_tokens, seconds, float(TRAINING_FACTOR * parameters * n_tokens))


def scoring_cost(n_tokens: int, n_gradient_tokens: int, seconds: float, parameters: int) -> Spent:
    """The cost of trials.

    Args:
        n_gradient_tokens: Tokens run forward and backward, besides ``n_tokens`` that were run forward only.
    """
    flops = parameters * (SCORING_FACTOR * n_tokens + TRAINING_FACTOR * n_gradient_tokens)
    return Spent(n_tokens + n_gradient_tokens, seconds, float(flops))


def search_cost(
    pool: Spent, search: Spent, mixture: Spent | None, n_trials: int, trial: Spent, parameters: int, unknown: list[str]
) -> SearchCost:
    """Set pool and search against as many mixtures as the study had trials, each trained and scored once.

    Args:
        n_trials: Trials the study ran, at least one.
        trial: What scoring one of them took.
        unknown: What is not in the numbers.
    """
    one = (mixture or pool).plus(trial)
    total, ours = one.times(n_trials), pool.plus(search)
    # What is missing would be missing on our side: no ratio is better than a flattering one.
    seconds = total.seconds / ours.seconds if ours.seconds and not unknown else None
    flops = total.flops / ours.flops if ours.flops and not unknown else None
    again = Ratio(
        total.seconds / search.seconds if search.seconds and not unknown else None,
        total.flops / search.flops if search.flops and not unknown else None,
    )
    return SearchCost(
        pool=pool,
        search=search,
        mixture=mixture,
        mixtures_searched=n_trials,
        mixtures_total=total,
        ratio_seconds=seconds,
        ratio_flops=flops,
        next_objective=again,
        parameters=parameters,
        unknown=unknown,
        formula=FORMULA,
        reported=REPORTED,
        sentence=_sentence(ours, total, n_trials, mixture is not None, seconds, flops, again, unknown),
    )


def _sentence(
    ours: Spent,
    total: Spent,
    n_trials: int,
    is_measured: bool,
    seconds: float | None,
    flops: float | None,
    again: Ratio,
    unknown: list[str],
) -> str:
    taken = "as long as the one trained here" if is_measured else "as long as the pool"
    text = (
        f"Pool and search took {ours.seconds:,.0f} s and {ours.flops:.2g} FLOPs; searching {n_trials} mixtures by "
        f"training each, {taken}, would take {total.seconds:,.0f} s and {total.flops:.2g} FLOPs"
    )
    if seconds is None or flops is None:
        return f"{text}; no ratio is given, for not all is known: {'; '.join(unknown) or 'nothing was timed'}."
    text += f": {seconds:.0f} times the seconds and {flops:.0f} times the FLOPs ({REPORTED})."
    if again.seconds is not None:
        text += f" Another objective over the same pool: {again.seconds:.0f} times the seconds."
    return text
