"""Numbers that YAML takes for text: to YAML 1.1, and so to PyYAML, ``1e-5`` is a word and ``1.0e-05`` a number."""

from __future__ import annotations

import math
import re

import yaml

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def number_advice(text: str, whole: bool = False) -> str | None:
    """Say how to write a number that came as text; None where the text is no number.

    Args:
        whole: Whether a whole number is wanted.
    """
    if not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        return None
    value = int(float(text)) if whole and float(text).is_integer() else float(text)
    return f"'{text}' is text in YAML; write {yaml.safe_dump(value).split()[0]} as a number"
