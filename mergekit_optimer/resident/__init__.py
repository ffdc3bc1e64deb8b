"""The merge straight into the parameters of a live model: no file is written, no second copy of the model is made."""

from mergekit_optimer.resident.memory import check_memory, is_spread
from mergekit_optimer.resident.merge import ResidentMerge

__all__ = ["ResidentMerge", "check_memory", "is_spread"]
