"""Continual pre-training: one dataset, or a mixture of them -> one CPT checkpoint, with TRL's SFTTrainer."""

from mergekit_optimer.train.from_recipe import check_training, train_dataset, train_mixture
from mergekit_optimer.train.processes import ALONE, Processes, started_processes
from mergekit_optimer.train.record import RECORD_NAME, MixturePart, TrainingRecord, read_record
from mergekit_optimer.train.trajectory import TRAJECTORY, TrajectoryStep, read_trajectory

__all__ = [
    "ALONE",
    "RECORD_NAME",
    "TRAJECTORY",
    "MixturePart",
    "Processes",
    "TrainingRecord",
    "TrajectoryStep",
    "check_training",
    "read_record",
    "read_trajectory",
    "started_processes",
    "train_dataset",
    "train_mixture",
]
