"""The sum of task arithmetic, in float32 and rounded once. Knows tensors and weights, not models or mergekit."""

from mergekit_optimer.kernel.blocks import Term
from mergekit_optimer.kernel.sums import add_vectors

__all__ = ["Term", "add_vectors"]
