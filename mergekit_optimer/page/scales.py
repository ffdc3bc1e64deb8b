"""Numbers to places on a chart: a scale, and ticks that a reader would have chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """From values ``low``..``high`` to places ``start``..``end``, which may run either way."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        share = 0.5 if span == 0 else (value - self.low) / span
        return self.start + share * (self.end - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """About so many round values within the scale."""
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        rough = span / max(1, wanted)
        power: float = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
        low, high = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(low, high + 1)]


def tick_text(value: float, ticks: list[float]) -> str:
    """A tick's text: as many decimals as the step needs, large numbers with k, M, G, T, P, E."""
    size = max((abs(tick) for tick in ticks), default=0.0)
    if size >= 1e4:
        return short(value)
    step = min((b - a for a, b in itertools.pairwise(ticks)), default=abs(value) or 1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    if abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:
        decimals += 1
    text = f"{value:.{min(decimals, 6)}f}"
    return "0" if float(text) == 0 else text


def short(value: float, gap: str = "") -> str:
    """Three significant digits, with a unit of thousands after the gap."""
    for unit, word in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{gap}{word}"
    return f"{value:.3g}{gap}"


def extent(values: Iterable[float], margin: float = 0.06) -> tuple[float, float]:
    """The least and the greatest value with a margin; a range around a single one."""
    found = list(values)
    low, high = min(found, default=0.0), max(found, default=1.0)
    room = margin * (high - low) or abs(high) * 0.1 or 1.0
    return low - room, high + room
