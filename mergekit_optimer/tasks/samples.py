"""Rows of the user's data -> samples, one function a kind of task. Reads and writes no file."""

from __future__ import annotations

import logging
import random
import unicodedata
from dataclasses import dataclass
from typing import Any

from mergekit_optimer.errors import DataError, TaskError
from mergekit_optimer.recipe import ChoiceTask, GenerateTask, TextTask
from mergekit_optimer.tasks.boundaries import cut_to_tokens, first_cut, tokenize

log = logging.getLogger(__name__)

Row = dict[str, Any]
N_DISTRACTORS = 3
# Continuations looked at to find the distractors of one document.
N_DRAWN = 12


@dataclass(frozen=True)
class Setting:
    """What samples are made for: the task's name, and the tokenizer and length of the model that will see them."""

    task: str
    tokenizer: Any
    max_length: int
    seed: int

    def sample(self, number: int) -> str:
        """How an error names a sample; numbers count from 1 in the order of the data."""
        return f"Sample {number + 1} of task '{self.task}'"

    def check_max_tokens(self, max_tokens: int) -> None:
        """Refuse documents longer than the model takes.

        Raises:
            TaskError: ``max_tokens`` and the tokenizer's special tokens exceed the model's length.
        """
        n_special = len(self.tokenizer("", verbose=False)["input_ids"])
        if max_tokens + n_special > self.max_length:
            raise TaskError(
                f"Task '{self.task}' takes max_tokens {max_tokens}, the model {self.max_length} tokens"
                f"{f', {n_special} of them special' if n_special else ''}; "
                f"set max_tokens to {self.max_length - n_special} or less."
            )


def text_samples(rows: list[Row], spec: TextTask, setting: Setting) -> list[Row]:
    """Documents for bits per byte: the first token or tokens are given, every later byte is scored.

    Each sample holds context, target and n_context_tokens; the model is shown the tokens of context + target as one
    text, so that what is scored is what the tokenizer gives for the document.
    """
    setting.check_max_tokens(spec.max_tokens)
    samples = []
    for number, row in enumerate(rows):
        text = text_of(row, spec.text_field, setting.sample(number))
        cut = cut_to_tokens(setting.tokenizer, text, spec.max_tokens) or ""
        tokens = tokenize(setting.tokenizer, cut)
        k = first_cut(setting.tokenizer, cut, tokens, range(1, len(tokens.ids)))
        if k is not None:
            end = tokens.ends[k - 1]
            samples.append({"context": cut[:end], "target": cut[end:], "n_context_tokens": k})
    _say_left_out(setting, len(rows) - len(samples), "too short to be cut into a context and a target")
    return samples


def choice_samples(rows: list[Row], spec: ChoiceTask, setting: Setting) -> list[Row]:
    """Questions with a gold choice among others.

    A space is put between question and choices unless one of them brings white space or the question ends in a wide
    (East Asian) character, where no space is written.
    """
    samples = []
    for number, row in enumerate(rows):
        where = setting.sample(number)
        question = _question_of(row, spec.question_field, where)
        choices = _field(row, spec.choices_field, where)
        if not isinstance(choices, list) or not all(isinstance(choice, str) and choice.strip() for choice in choices):
            raise DataError(f"{where}: {spec.choices_field} must be a list of texts that are not blank.")
        if len(choices) < 2:
            raise DataError(f"{where} has {len(choices)} of the 2 or more {spec.choices_field} it needs.")
        answer = _field(row, spec.answer_field, where)
        if isinstance(answer, bool) or not isinstance(answer, int):
            raise DataError(f"{where}: {spec.answer_field} must be the gold choice's number from 0, not {answer!r}.")
        if not 0 <= answer < len(choices):
            raise DataError(
                f"{where}: {spec.answer_field} is {answer}, but {len(choices)} {spec.choices_field} count from 0 "
                f"to {len(choices) - 1}."
            )
        space = _space_after(question)
        choices = [choice if choice[0].isspace() else space + choice for choice in choices]
        for choice in choices:
            _check_fits(choice, where, setting)
        samples.append({"question": question, "choices": choices, "answer": answer})
    return samples


def continuation_samples(rows: list[Row], spec: ChoiceTask, setting: Setting) -> list[Row]:
    """Choices made from raw text: which of four is this document's second half?

    The distractors are second halves of other documents of the same data, cut to the gold one's number of tokens.
    """
    setting.check_max_tokens(spec.max_tokens)
    halves = []
    for number, row in enumerate(rows):
        text = text_of(row, spec.text_field, setting.sample(number))
        cut = cut_to_tokens(setting.tokenizer, text, spec.max_tokens) or ""
        tokens = tokenize(setting.tokenizer, cut)
        k = first_cut(setting.tokenizer, cut, tokens, range(len(tokens.ids) // 2, 0, -1))
        if k is not None and cut[tokens.ends[k - 1] :].strip():
            halves.append((cut[: tokens.ends[k - 1]], cut[tokens.ends[k - 1] :], len(tokens.ids) - k))
    _say_left_out(setting, len(rows) - len(halves), "too short to be cut in two")
    length_of = {continuation: n_tokens for _, continuation, n_tokens in halves}
    distinct = sorted(length_of)
    if len(distinct) <= N_DISTRACTORS:
        raise DataError(
            f"Task '{setting.task}' has {len(distinct)} documents with different second halves; make_choices needs "
            f"{N_DISTRACTORS + 1} or more."
        )
    samples = []
    for number, (question, gold, n_tokens) in enumerate(halves):
        draw = random.Random(f"{setting.seed}/{setting.task}/{number}")
        choices = [gold]
        drawn = draw.sample(distinct, min(N_DRAWN, len(distinct)))
        # First those that can be cut to the gold one's length: a shorter one is likelier for being short.
        for text in sorted(drawn, key=lambda text: -min(length_of[text], n_tokens)):
            # Different texts may be the same once cut to the gold one's length.
            choice = cut_to_tokens(setting.tokenizer, text, n_tokens) or text
            if choice not in choices and len(choices) <= N_DISTRACTORS:
                choices.append(choice)
        if len(choices) > N_DISTRACTORS:
            answer = draw.randrange(N_DISTRACTORS + 1)
            choices.insert(answer, choices.pop(0))
            samples.append({"question": question, "choices": choices, "answer": answer})
    _say_left_out(setting, len(halves) - len(samples), "too like the others to be told apart")
    return samples


def generate_samples(rows: list[Row], spec: GenerateTask, setting: Setting) -> list[Row]:
    """Questions with the text, or any of the texts, that the model should write."""
    if setting.tokenizer.eos_token is None:
        raise TaskError(f"Task '{setting.task}' generates, but the tokenizer has no end-of-text token to stop at.")
    samples = []
    for number, row in enumerate(rows):
        where = setting.sample(number)
        question = _question_of(row, spec.question_field, where)
        answer = _field(row, spec.answer_field, where)
        answers = answer if isinstance(answer, list) else [answer]
        if not answers or not all(isinstance(text, str) and text.strip() for text in answers):
            raise DataError(f"{where}: {spec.answer_field} must be a text or a list of texts, not {answer!r}.")
        n_tokens = len(setting.tokenizer(question, verbose=False)["input_ids"])
        if n_tokens + spec.max_new_tokens > setting.max_length:
            raise TaskError(
                f"{where} has {n_tokens} tokens and may get {spec.max_new_tokens} new ones, but the model takes "
                f"{setting.max_length}; shorten the question or max_new_tokens."
            )
        samples.append({"question": question, "answers": answers})
    return samples


def text_of(row: Row, field: str, where: str) -> str:
    """Return a row's text.

    Raises:
        DataError: The field is missing, or holds no text, or one that cannot be written as UTF-8.
    """
    text = _field(row, field, where)
    if not isinstance(text, str):
        raise DataError(f"{where}: {field} holds {type(text).__name__}, not text.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: character {error.start} of {field} is half of a surrogate pair.") from error
    return text


def _question_of(row: Row, field: str, where: str) -> str:
    question = text_of(row, field, where)
    if not question.strip():
        raise DataError(f"{where}: {field} is blank; remove the sample.")
    return question


def _field(row: Row, field: str, where: str) -> Any:
    if field not in row:
        raise DataError(f"{where} has no field '{field}', only {', '.join(sorted(map(str, row))) or 'nothing'}.")
    return row[field]


def _space_after(question: str) -> str:
    last = question[-1]
    return "" if last.isspace() or unicodedata.east_asian_width(last) in ("W", "F") else " "


def _check_fits(choice: str, where: str, setting: Setting) -> None:
    n_tokens = len(setting.tokenizer(choice, add_special_tokens=False, verbose=False)["input_ids"])
    if n_tokens >= setting.max_length:
        raise TaskError(
            f"{where} has a choice of {n_tokens} tokens, but the model takes {setting.max_length} with at least one "
            "before it; remove the sample."
        )


def _say_left_out(setting: Setting, n: int, why: str) -> None:
    if n:
        log.warning("task %s: %d documents are %s and left out", setting.task, n, why)
