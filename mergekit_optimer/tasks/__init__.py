"""Dev and held-out tasks: recipe sections -> samples on disk, in one fixed order. Scores nothing, loads no model."""

from mergekit_optimer.tasks.prepare import prepare_tasks, read_max_length, sample_texts
from mergekit_optimer.tasks.prepared import METRICS, MetricKind, PreparedTask

__all__ = ["METRICS", "MetricKind", "PreparedTask", "prepare_tasks", "read_max_length", "sample_texts"]
