"""Generate arithmetic word problems in English, with worked steps and one integer answer. Writes no file.

A template is a function that draws names, things and numbers and tells one story. The templates are in
problems_to_learn.py and problems_to_score.py, each registered for exactly one role (base, train, dev or held_out), so
that a model is never scored on a story that it was trained on.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Role = Literal["base", "train", "dev", "held_out"]

NAMES = """
Aiko Amir Anna Ben Carlos Chloe Dana David Elif Emma Farah Felix Grace Hana Hugo Ines Ivan Jack Jin Julia
Kenji Lara Leo Lin Lucy Maria Max Mei Mina Nadia Nina Noah Omar Owen Paula Peter Priya Rosa Ruth Sam Sara
Sofia Tara Tim Tom Uma Victor Wei Yara Yusuf Zoe
"""
THINGS = """
apples badges balloons beads books bottles buttons candles cards coins cookies crayons erasers flowers lemons
marbles muffins notebooks oranges pears pencils pens plums ribbons shells stamps stickers stones tickets toys
"""
PLACES = """
bakery bookshop cafe club college farm garden library market museum park school shop station theatre zoo
"""
DAYS = """
Monday Tuesday Wednesday Thursday Friday Saturday Sunday
"""


@dataclass(frozen=True)
class Problem:
    """One word problem. `steps` are whole sentences that end in the answer; the answer is a non-negative integer."""

    question: str
    steps: tuple[str, ...]
    answer: int

    def text(self, with_steps: bool) -> str:
        """The problem as one training document; without steps it has the form of a multiple-choice prompt."""
        body = " ".join(self.steps) + "\n" if with_steps else ""
        return f"Question: {self.question}\n{body}Answer: {self.answer}"

    def prompt(self) -> str:
        """The text before a choice; the reader joins prompt and choice with one space."""
        return f"Question: {self.question}\nAnswer:"


class Draw:
    """Random material for one problem: no name or thing comes twice."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._names = rng.sample(NAMES.split(), 4)
        self._things = rng.sample(THINGS.split(), 4)

    def name(self) -> str:
        return self._names.pop()

    def things(self) -> str:
        return self._things.pop()

    def place(self) -> str:
        return self._rng.choice(PLACES.split())

    def day(self) -> str:
        return self._rng.choice(DAYS.split())

    def int(self, low: int, high: int, step: int = 1) -> int:
        """An integer of low, low + step, ... up to and including high."""
        return self._rng.randrange(low, high + 1, step)

    def pick(self, *options: str) -> str:
        return self._rng.choice(options)


Template = Callable[[Draw], Problem]
TEMPLATES: dict[Role, list[Template]] = {"base": [], "train": [], "dev": [], "held_out": []}


def template(role: Role) -> Callable[[Template], Template]:
    """Register a template for the one role whose files may contain it."""

    def register(function: Template) -> Template:
        TEMPLATES[role].append(function)
        return function

    return register


def generate(role: Role, n: int, seed: int) -> list[tuple[str, Problem]]:
    """Draw n problems with different questions, templates in turn.

    Returns:
        Pairs (template name, problem), in an order that is fixed by the seed.

    Raises:
        ValueError: A template wrote a negative answer.
    """
    rng = random.Random(f"{seed}/{role}")
    seen: set[str] = set()
    drawn: list[tuple[str, Problem]] = []
    while len(drawn) < n:
        function = TEMPLATES[role][len(drawn) % len(TEMPLATES[role])]
        problem = function(Draw(rng))
        if problem.answer < 0:
            raise ValueError(f"Template {function.__name__!r} wrote the answer {problem.answer}; narrow its ranges.")
        if problem.question not in seen:
            seen.add(problem.question)
            drawn.append((function.__name__, problem))
    rng.shuffle(drawn)
    return drawn


def choices(problem: Problem, rng: random.Random) -> tuple[list[str], int]:
    """Four different answers, one of them right, and its index.

    The wrong ones are likely slips: off by a little or by tens, swapped digits, a number of the story or of a middle
    step. All four have the same number of digits, for any model finds a shorter number likelier than a longer one.
    """
    answer = problem.answer
    words = re.findall(r"\d+", " ".join((problem.question, *problem.steps)))
    slips = [answer + off for off in (-100, -20, -10, -2, -1, 1, 2, 10, 20, 100)] + [int(str(answer)[::-1])]
    candidates = {number for number in (*map(int, words), *slips) if number >= 0 and number != answer}
    wrong = sorted(number for number in candidates if len(str(number)) == len(str(answer)))
    options = [answer, *rng.sample(wrong, 3)]
    rng.shuffle(options)
    return [str(option) for option in options], options.index(answer)
