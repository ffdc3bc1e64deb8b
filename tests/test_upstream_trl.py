"""What training leans on in TRL, transformers and datasets; each failure text says what to change in this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def test_wrapped_packing_keeps_every_token_and_cuts_each_batch_of_1000_documents_alone() -> None:
    from datasets import Dataset
    from trl import pack_dataset

    documents = Dataset.from_dict({"input_ids": [[number] * 3 for number in range(1500)]})
    rows = list(pack_dataset(documents, 64, "wrapped")["input_ids"])
    assert [token for row in rows for token in row] == [n for n in range(1500) for _ in range(3)], (
        "packing_strategy 'wrapped' no longer keeps tokens and order: see train.options.LOSSLESS_PACKING"
    )
    assert len(rows) == -(-3000 // 64) + -(-1500 // 64), "train.mixture.run_size counts rows per 1000 documents"


def test_the_default_packing_loses_tokens() -> None:
    from datasets import Dataset
    from trl import SFTConfig, pack_dataset

    default = SFTConfig.__dataclass_fields__["packing_strategy"].default
    documents = Dataset.from_dict({"input_ids": [list(range(100))]})
    kept = {
        strategy: sum(len(row) for row in pack_dataset(documents, 64, strategy)["input_ids"])
        for strategy in (default, "bfd_split", "wrapped")
    }
    assert kept == {"bfd": 64, "bfd_split": 100, "wrapped": 100}, (
        "packing strategies changed: train.options.LOSSLESS_PACKING lists those that keep every token"
    )


def test_trl_still_defaults_to_bfloat16_and_checkpointed_activations_on_a_cpu(tmp_path: Path) -> None:
    from trl import SFTConfig

    config = SFTConfig(output_dir=str(tmp_path), use_cpu=True, gradient_checkpointing=None)
    defaults = {name: field.default for name, field in SFTConfig.__dataclass_fields__.items()}
    assert config.bf16, "TRL no longer trains in bfloat16 on a CPU: train.options.ON_CPU need not say so"
    assert defaults["gradient_checkpointing"] is True, "train.options.ON_CPU may drop activation_checkpointing"


def test_steps_below_one_are_shares_of_the_run(tmp_path: Path) -> None:
    from trl import SFTConfig

    config = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, warmup_steps=0.05, save_steps=0.1,
                       activation_checkpointing=False)  # fmt: skip
    assert (config.get_warmup_steps(400), config.save_steps) == (20, 0.1), (
        "warmup_steps or save_steps below 1 is no share any more: see train.options.FOR_CPT"
    )


def test_what_we_switch_off_in_the_trainer_is_still_there_to_be_switched_off() -> None:
    from trl import SFTTrainer

    for method in ("create_model_card", "_send_telemetry"):
        assert callable(getattr(SFTTrainer, method, None)), f"train.cpt overrides {method}, which TRL no longer calls"


@pytest.fixture(scope="module")
def trainer(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """SFTTrainer after two steps on three documents, saving at each, with what it told a callback."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Watch(TrainerCallback):  # type: ignore[misc]
        saved: list[list[str]]

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self.saved.append(sorted(file.name for file in folder.iterdir()))

    config = SFTConfig(
        output_dir=str(tmp_path_factory.mktemp("trainer")), packing=True, packing_strategy="wrapped", max_length=16,
        use_cpu=True, bf16=False, activation_checkpointing=False, max_steps=2, save_steps=1, report_to="none",
        include_num_input_tokens_seen="non_padding", disable_tqdm=True, per_device_train_batch_size=4,
    )  # fmt: skip
    documents = Dataset.from_dict({"text": ["abc", "def<|endoftext|>", "x" * 40]})
    watch = Watch()
    watch.saved = []
    model = AutoModelForCausalLM.from_pretrained(base_dir)
    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    made = SFTTrainer(model, args=config, train_dataset=documents, processing_class=tokenizer, callbacks=[watch])
    made.watch = watch
    made.train()
    return made


def test_the_trainer_ends_each_document_once_and_learns_every_token(trainer: Any) -> None:
    tokenizer = trainer.processing_class
    rows = list(trainer.train_dataset)
    ids = [token for row in rows for token in row["input_ids"]]
    expected = [token for text in ("abc", "def", "x" * 40) for token in [*tokenizer(text)["input_ids"], 0]]
    assert ids == expected, "TRL ends or tokenises documents otherwise: see train.options.document_lengths"
    assert [row["labels"] for row in rows] == [row["input_ids"] for row in rows], "not every token is learnt any more"


def test_the_trainer_counts_tokens_without_padding(trainer: Any) -> None:
    n_tokens = sum(len(row["input_ids"]) for row in trainer.train_dataset)
    assert trainer.state.num_input_tokens_seen == 2 * n_tokens, (
        "include_num_input_tokens_seen counts otherwise: see counting in train.options.make_config"
    )


def test_a_callback_hears_of_a_save_when_all_its_files_are_written(trainer: Any) -> None:
    needed = {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
    assert all(needed <= set(files) for files in trainer.watch.saved), (
        "on_save comes before the files: train.progress marks checkpoints as whole there"
    )
    assert len(trainer.watch.saved) == 2


def test_interleaving_without_replacement_gives_every_row_once() -> None:
    from datasets import Dataset, interleave_datasets

    parts = [Dataset.from_dict({"n": list(range(10))}), Dataset.from_dict({"n": list(range(10, 40))})]
    mixed = interleave_datasets(
        parts, probabilities=[0.25, 0.75], seed=0, stopping_strategy="all_exhausted_without_replacement"
    )
    assert sorted(mixed["n"]) == list(range(40)), "train.mixture.mix fixes the documents and leaves only the order open"
    assert list(mixed["n"]) != list(range(40))


def test_what_is_mapped_from_a_dataset_on_disk_stays_beside_it(tmp_path: Path) -> None:
    from datasets import Dataset, load_from_disk

    Dataset.from_dict({"n": [1, 2]}).save_to_disk(tmp_path / "text")
    mapped = load_from_disk(tmp_path / "text").map(lambda row: {"n": row["n"] + 1})
    assert [Path(file["filename"]).parent for file in mapped.cache_files] == [tmp_path / "text"], (
        "datasets caches elsewhere: train.cpt relies on its working folder for tokenised documents"
    )
