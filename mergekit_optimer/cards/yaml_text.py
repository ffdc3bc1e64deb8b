"""YAML that cards show to be copied: dumped from data, so that a name in it stays a name."""

from __future__ import annotations

from typing import Any

import yaml

# What a reader is to put in: the card is part of the commit, whose sha is not known before.
COMMIT = "<commit sha>"
_WIDE = 10_000


def dump(value: Any) -> str:
    """Data as block YAML, keys in the order given."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=_WIDE)


def flow_entry(name: str, value: Any, indent: int) -> str:
    """One entry of a mapping on a line of its own, its value in braces, as recipes write a source."""
    line = yaml.safe_dump({name: value}, sort_keys=False, allow_unicode=True, width=_WIDE, default_flow_style=True)
    # Without the braces of the mapping itself.
    return " " * indent + line.strip().removeprefix("{").removesuffix("}") + "\n"
