"""Where a text may be cut so that its tokens stay what they are. A cut elsewhere would score tokens no text has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# Text is tokenised this many characters per wanted token at a time: a book need not be read for its first page.
_CHARACTERS_PER_TOKEN = 32


@dataclass(frozen=True)
class Tokens:
    """A text's tokens without special tokens; token i covers the characters ``starts[i]`` to ``ends[i]``."""

    ids: list[int]
    starts: list[int]
    ends: list[int]


def tokenize(tokenizer: Any, text: str) -> Tokens:
    """Tokenise with character offsets; needs a fast tokenizer."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = encoded["offset_mapping"]
    return Tokens(list(encoded["input_ids"]), [start for start, _ in offsets], [end for _, end in offsets])


def first_cut(tokenizer: Any, text: str, tokens: Tokens, counts: Iterable[int]) -> int | None:
    """Return the first of ``counts`` at which the text can be cut, None where there is none.

    A cut after k tokens is clean if it splits no character and if the prefix, tokenised by itself, gives the same k
    tokens. A prefix that ends in white space is no clean cut: lighteval moves that space into the continuation.
    """
    for k in counts:
        if not 0 < k < len(tokens.ids) or tokens.starts[k] < tokens.ends[k - 1]:
            continue
        prefix = text[: tokens.ends[k - 1]]
        if not prefix or prefix[-1].isspace() or not text[len(prefix) :]:
            continue
        if tokenize(tokenizer, prefix).ids == tokens.ids[:k]:
            return k
    return None


def cut_to_tokens(tokenizer: Any, text: str, max_tokens: int) -> str | None:
    """Return the longest clean prefix of at most ``max_tokens`` tokens; None where there is none.

    The prefix' own tokens are the first tokens of the text.
    """
    head = text[: _CHARACTERS_PER_TOKEN * max_tokens]
    tokens = tokenize(tokenizer, head)
    if len(head) < len(text) and len(tokens.ids) <= max_tokens:
        head, tokens = text, tokenize(tokenizer, text)
    if len(tokens.ids) <= max_tokens:
        return head
    k = first_cut(tokenizer, head, tokens, range(max_tokens, 0, -1))
    return None if k is None else head[: tokens.ends[k - 1]]
