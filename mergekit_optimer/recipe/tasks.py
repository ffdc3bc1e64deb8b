"""The kinds of tasks that a recipe can name for its dev and held-out sets: what each may hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mergekit_optimer.recipe.sources import Positive, Section, TextSource

# Metrics of our own kinds that are a sum of log-probabilities of given tokens, so have a gradient.
LOG_LIKELIHOODS = ("bits_per_byte", "gold_ll")


class TextTask(TextSource):
    """Bits per byte of documents, each cut to its first ``max_tokens`` tokens."""

    kind: Literal["text"]
    metric: Literal["bits_per_byte"] = "bits_per_byte"
    max_tokens: Positive = 256


class ChoiceTask(TextSource):
    """The gold continuation among distractors, from jsonl items or, with ``make_choices``, from raw text."""

    kind: Literal["choice"]
    metric: Literal["gold_ll", "gold_p", "acc", "acc_norm"] = "gold_ll"
    question_field: str = "question"
    choices_field: str = "choices"
    answer_field: str = "answer"
    make_choices: bool = False
    max_tokens: Positive = 256


class GenerateTask(TextSource):
    """Greedy generation compared with the answer's text."""

    kind: Literal["generate"]
    metric: Literal["exact_match"] = "exact_match"
    question_field: str = "question"
    answer_field: str = "answer"
    max_new_tokens: Positive = 32
    stop: list[str] = Field(default=["\n"])


class LightevalTask(Section):
    """A stock lighteval task ("gsm8k|0") or one of the user's own task file."""

    kind: Literal["lighteval"]
    task: str
    metric: str
    file: str | None = None
    higher_is_better: bool = True


TaskSpec = Annotated[TextTask | ChoiceTask | GenerateTask | LightevalTask, Field(discriminator="kind")]
