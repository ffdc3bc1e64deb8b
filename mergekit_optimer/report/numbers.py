"""How a number is written: the only place that rounds, shared by the terminal table and the card."""

from __future__ import annotations

from mergekit_optimer.compare import Interval
from mergekit_optimer.scores import Score

# Where no error says how many decimals mean something.
_DECIMALS = 4
_MOST_DECIMALS = 8


def format_score(score: Score) -> str:
    """Value ± standard error: the error to two significant digits, the value to the same decimals."""
    if score.stderr == 0:
        return f"{_fixed(score.value, _DECIMALS)} ± 0"
    decimals = _decimals(score.stderr)
    return f"{_fixed(score.value, decimals)} ± {_fixed(score.stderr, decimals)}"


def rounded_score(score: Score) -> float:
    """The value as ``format_score`` writes it, for a reader that wants a number."""
    return float(format_score(score).partition(" ")[0])


def format_interval(interval: Interval) -> str:
    """Signed difference with its interval, to the decimals of a standard error of the interval's width.

    An end that is not zero is not written as zero: "better" beside "+0.000" would be read as a mistake.
    """
    numbers = (interval.difference, interval.low, interval.high)
    # A 95 % interval is about four standard errors wide.
    width = (interval.high - interval.low) / 4
    decimals = _decimals(width) if width > 0 else _DECIMALS
    while decimals < _MOST_DECIMALS and any(x != 0 and float(_fixed(x, decimals)) == 0 for x in numbers[1:]):
        decimals += 1
    difference, low, high = (_signed(number, decimals) for number in numbers)
    return f"{difference} ({low} to {high})"


def format_difference(value: float, stderr: float) -> str:
    """Signed difference ± standard error, rounded as a score."""
    text = format_score(Score(value, stderr, 0))
    return text if text.startswith("-") else f"+{text}"


def format_weight(weight: float) -> str:
    """A merge weight, always with its sign."""
    return _signed(weight, _DECIMALS)


def format_number(value: float | None) -> str:
    """A count with thousands separators, another number to four significant digits, nothing as a dash."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def format_size(size_bytes: int) -> str:
    """Bytes as B, kB, MB or GB of a thousand each, as the Hub counts them."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    size, units = size_bytes / 1000, iter(("kB", "MB", "GB", "TB"))
    unit = next(units)
    # What would be rounded to 1000.0 is 1.0 of the next.
    while size >= 999.95 and unit != "TB":
        size, unit = size / 1000, next(units)
    return f"{size:.1f} {unit}"


def format_duration(seconds: float) -> str:
    """Seconds below two minutes with one decimal; hours, minutes and whole seconds above."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _decimals(error: float) -> int:
    """Decimals that show a positive error with two significant digits, after rounding (0.0996 is 0.10)."""
    exponent = int(f"{error:.1e}".partition("e")[2])
    return max(0, 1 - exponent)


def _fixed(value: float, decimals: int) -> str:
    """Fixed decimals without a negative zero."""
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _signed(value: float, decimals: int) -> str:
    text = _fixed(value, decimals)
    return text if text.startswith("-") or float(text) == 0 else f"+{text}"
