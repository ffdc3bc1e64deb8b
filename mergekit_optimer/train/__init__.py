"""Continual pre-training: one dataset, or a mixture of them -> one CPT checkpoint, with TRL's SFTTrainer."""

from mergekit_optimer.train.from_recipe import check_training, train_dataset, train_mixture
from mergekit_optimer.train.record import RECORD_NAME, MixturePart, TrainingRecord, read_record
from mergekit_optimer.train.trajectory import TRAJECTORY, TrajectoryStep, read_trajectory

__all__ = [
    "RECORD_NAME",
    "TRAJECTORY",
    "MixturePart",
    "TrainingRecord",
    "TrajectoryStep",
    "check_training",
    "read_record",
    "read_trajectory",
    "train_dataset",
    "train_mixture",
]
