"""Continual pre-training: one dataset, or a mixture of them -> one CPT checkpoint, with TRL's SFTTrainer."""

from mergekit_optimer.train.from_recipe import check_training, train_dataset, train_mixture
from mergekit_optimer.train.record import RECORD_NAME, MixturePart, TrainingRecord, read_record

__all__ = [
    "RECORD_NAME",
    "MixturePart",
    "TrainingRecord",
    "check_training",
    "read_record",
    "train_dataset",
    "train_mixture",
]
