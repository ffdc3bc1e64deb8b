"""Tasks: what is scored is what the tokenizer gives for the document, in one order, and bad data are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TEXT

from mergekit_optimer.errors import DataError, TaskError
from mergekit_optimer.tasks import PreparedTask, prepare_tasks, read_max_length, sample_texts

Maker = Callable[..., Any]
QUESTIONS = [
    {"question": f"Question: {a} + 1 = ?\nAnswer:", "choices": [str(a), str(a + 1)], "answer": 1} for a in range(6)
]


@pytest.fixture(scope="module")
def tokenizer(base_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_dir)


def texts(n: int = 10) -> list[dict[str, str]]:
    return [{"text": f"{TEXT[number % len(TEXT)]} ({number})"} for number in range(n)]


def prepare(recipe: Any, tokenizer: Any, out_dir: Path, max_length: int = 128) -> list[PreparedTask]:
    return prepare_tasks(recipe.tasks, recipe, tokenizer, max_length, out_dir)


def problem(recipe: Any, tokenizer: Any, out_dir: Path, kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        prepare(recipe, tokenizer, out_dir)
    return str(caught.value)


def test_text_samples_hold_whole_short_documents(task_recipe: Maker, tokenizer: Any, tmp_path: Path) -> None:
    recipe = task_recipe(ja=({"kind": "text", "max_tokens": 120}, texts()))
    (task,) = prepare(recipe, tokenizer, tmp_path)
    whole = sorted(sample["context"] + sample["target"] for sample in task.samples())
    assert whole == sorted(row["text"] for row in texts())
    assert (task.name, task.kind, task.primary, task.n_samples) == ("ja", "text", "bits_per_byte", 10)


@pytest.mark.parametrize("max_tokens", [2, 3, 7, 12])
def test_a_cut_document_has_the_first_tokens_of_the_whole_one(
    task_recipe: Maker, tokenizer: Any, tmp_path: Path, max_tokens: int
) -> None:
    recipe = task_recipe(ja=({"kind": "text", "max_tokens": max_tokens}, texts()))
    whole = {row["text"]: tokenizer(row["text"])["input_ids"] for row in texts()}
    (task,) = prepare(recipe, tokenizer, tmp_path)
    for sample in task.samples():
        cut = sample["context"] + sample["target"]
        (ids,) = [ids for text, ids in whole.items() if text.startswith(cut)][:1]
        mine = tokenizer(cut)["input_ids"]
        assert len(mine) <= max_tokens
        assert ids[: len(mine)] == mine
        assert tokenizer(sample["context"])["input_ids"] == mine[: sample["n_context_tokens"]]


def test_no_character_is_cut_in_two(task_recipe: Maker, tokenizer: Any, tmp_path: Path) -> None:
    # The tiny tokenizer has one token a byte for these, three or four a character.
    rows = [{"text": "龘麤鱻" * 5}, {"text": "😀😃😄" * 4}]
    (task,) = prepare(task_recipe(rare=({"kind": "text", "max_tokens": 8}, rows)), tokenizer, tmp_path)
    found = sorted((sample["context"], sample["target"]) for sample in task.samples())
    assert found == [("龘", "麤"), ("😀", "😃")]


def test_the_order_is_fixed_by_the_seed_and_samples_are_the_same(
    task_recipe: Maker, tokenizer: Any, tmp_path: Path
) -> None:
    def samples(seed: int, folder: str) -> list[dict[str, Any]]:
        recipe = task_recipe(seed=seed, ja=({"kind": "text", "max_tokens": 60}, texts()))
        return prepare(recipe, tokenizer, tmp_path / folder)[0].samples()

    first, again, other = samples(1, "a"), samples(1, "b"), samples(2, "c")
    assert first == again
    assert first != other
    assert sorted(map(str, first)) == sorted(map(str, other))


def test_the_content_hash_follows_data_and_settings(task_recipe: Maker, tokenizer: Any, tmp_path: Path) -> None:
    def content_hash(folder: str, rows: list[Any], **spec: Any) -> str:
        recipe = task_recipe(q=({"kind": "choice"} | spec, rows))
        return prepare(recipe, tokenizer, tmp_path / folder)[0].content_hash

    hashes = {
        content_hash("a", QUESTIONS),
        content_hash("b", QUESTIONS),
        content_hash("c", QUESTIONS[:-1]),
        content_hash("d", QUESTIONS, metric="acc"),
    }
    assert len(hashes) == 3


def test_a_space_joins_question_and_choices_but_not_in_east_asian_text(
    task_recipe: Maker, tokenizer: Any, tmp_path: Path
) -> None:
    rows = [
        {"question": "Answer:", "choices": ["4", " 5"], "answer": 0},
        {"question": "Answer:\n", "choices": ["4", "5"], "answer": 0},
        {"question": "答えは", "choices": ["四", "五"], "answer": 0},
    ]
    (task,) = prepare(task_recipe(q=({"kind": "choice"}, rows)), tokenizer, tmp_path)
    found = {sample["question"]: sample["choices"] for sample in task.samples()}
    assert found == {"Answer:": [" 4", " 5"], "Answer:\n": ["4", "5"], "答えは": ["四", "五"]}


def test_made_choices_hold_the_document_and_three_other_continuations(
    task_recipe: Maker, tokenizer: Any, tmp_path: Path
) -> None:
    spec = {"kind": "choice", "make_choices": True, "max_tokens": 60}
    (task,) = prepare(task_recipe(ja=(spec, texts())), tokenizer, tmp_path / "a")
    documents = [row["text"] for row in texts()]
    answers = set()
    for sample in task.samples():
        gold = sample["choices"][sample["answer"]]
        assert any(document.startswith(sample["question"] + gold) for document in documents)
        assert len(set(sample["choices"])) == 4
        n_gold = len(tokenizer(gold)["input_ids"])
        assert all(len(tokenizer(choice)["input_ids"]) <= n_gold for choice in sample["choices"])
        answers.add(sample["answer"])
    assert len(answers) > 1
    (again,) = prepare(task_recipe(ja=(spec, texts())), tokenizer, tmp_path / "b")
    assert again.samples() == task.samples()


def test_generate_takes_one_answer_or_several(task_recipe: Maker, tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"question": "2 + 2 =", "answer": "4"}, {"question": "yes?", "answer": ["yes", "Yes"]}]
    (task,) = prepare(task_recipe(q=({"kind": "generate", "max_new_tokens": 4}, rows)), tokenizer, tmp_path)
    assert {sample["question"]: sample["answers"] for sample in task.samples()} == {
        "2 + 2 =": ["4"],
        "yes?": ["yes", "Yes"],
    }


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "a", "choices": ["x", "y"], "answer": 2}, "answer is 2, but 2 choices count from 0 to 1"),
        ({"question": "a", "choices": ["x", "y"], "answer": -1}, "answer is -1"),
        ({"question": "a", "choices": ["x", "y"], "answer": True}, "not True"),
        ({"question": "a", "choices": ["x", "y"], "answer": "x"}, "number from 0, not 'x'"),
        ({"question": "a", "choices": ["x"], "answer": 0}, "has 1 of the 2 or more choices"),
        ({"question": "a", "choices": ["x", " "], "answer": 0}, "not blank"),
        ({"question": " ", "choices": ["x", "y"], "answer": 0}, "question is blank"),
        ({"q": "a", "choices": ["x", "y"], "answer": 0}, "has no field 'question', only answer, choices, q"),
        ({"question": 3, "choices": ["x", "y"], "answer": 0}, "question holds int, not text"),
    ],
)
def test_a_malformed_question_is_named(
    task_recipe: Maker, tokenizer: Any, tmp_path: Path, row: dict[str, Any], words: str
) -> None:
    message = problem(task_recipe(q=({"kind": "choice"}, [*QUESTIONS, row])), tokenizer, tmp_path, DataError)
    assert message.startswith("Sample 7 of task 'q'")
    assert words in message


def test_a_choice_longer_than_the_model_takes_is_refused(task_recipe: Maker, tokenizer: Any, tmp_path: Path) -> None:
    row = {"question": "a", "choices": ["x", "龘" * 50], "answer": 0}
    message = problem(task_recipe(q=({"kind": "choice"}, [*QUESTIONS, row])), tokenizer, tmp_path, TaskError)
    assert "Sample 7 of task 'q' has a choice of 151 tokens, but the model takes 128" in message


def test_documents_longer_than_the_model_are_refused(task_recipe: Maker, tokenizer: Any, tmp_path: Path) -> None:
    message = problem(task_recipe(ja=({"kind": "text", "max_tokens": 129}, texts())), tokenizer, tmp_path, TaskError)
    assert message == "Task 'ja' takes max_tokens 129, the model 128 tokens; set max_tokens to 128 or less."


def test_a_prompt_without_room_for_an_answer_is_refused(task_recipe: Maker, tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"question": "龘" * 40, "answer": "4"}] * 2
    message = problem(task_recipe(q=({"kind": "generate"}, rows)), tokenizer, tmp_path, TaskError)
    assert "has 120 tokens and may get 32 new ones, but the model takes 128" in message


def test_fewer_than_two_samples_are_refused(task_recipe: Maker, tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"text": "Two words or more."}, {"text": "a"}]
    message = problem(task_recipe(ja=({"kind": "text", "max_tokens": 60}, rows)), tokenizer, tmp_path, DataError)
    assert message == "Task 'ja' has 1 samples from ja.jsonl; needs 2 or more, for a standard error."


def test_choices_need_four_different_documents(task_recipe: Maker, tokenizer: Any, tmp_path: Path) -> None:
    spec = {"kind": "choice", "make_choices": True, "max_tokens": 60}
    message = problem(task_recipe(ja=(spec, texts(3) * 5)), tokenizer, tmp_path, DataError)
    assert message == "Task 'ja' has 3 documents with different second halves; make_choices needs 4 or more."


def test_text_that_is_not_unicode_is_named(task_recipe: Maker, tokenizer: Any, tmp_path: Path) -> None:
    recipe = task_recipe(ja=({"kind": "text", "max_tokens": 60}, texts()))
    (recipe.folder / "ja.jsonl").write_text('{"text": "a\\ud800b"}\n')
    message = problem(recipe, tokenizer, tmp_path, DataError)
    assert message == "Sample 1 of task 'ja': character 1 of text is half of a surrogate pair."


def test_a_missing_lighteval_task_file_is_named(task_recipe: Maker, tokenizer: Any, tmp_path: Path) -> None:
    spec = {"kind": "lighteval", "task": "mine|0", "metric": "acc", "file": "my_tasks.py"}
    message = problem(task_recipe(mine=(spec, [])), tokenizer, tmp_path, DataError)
    assert "my_tasks.py, which is not there" in message


def test_sample_texts_are_the_whole_documents(task_recipe: Maker) -> None:
    recipe = task_recipe(ja=({"kind": "text", "max_tokens": 4}, texts()), q=({"kind": "choice"}, QUESTIONS))
    assert sample_texts(recipe.tasks["ja"], recipe) == [row["text"] for row in texts()]
    assert sample_texts(recipe.tasks["q"], recipe)[0] == "Question: 0 + 1 = ?\nAnswer:"


def test_the_length_of_a_model_is_read_from_its_config(base_dir: Path, tiny_model: Maker, tmp_path: Path) -> None:
    assert read_max_length(base_dir) == 128
    assert read_max_length(tiny_model("gpt", arch="gpt2")) == 128
    (tmp_path / "config.json").write_text('{"text_config": {"max_position_embeddings": 64}}')
    assert read_max_length(tmp_path) == 64
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TaskError, match="no max_position_embeddings"):
        read_max_length(tmp_path)
