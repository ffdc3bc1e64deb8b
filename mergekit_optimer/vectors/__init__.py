"""Distribution vectors tau = theta_cpt - theta_base: extract, save, load, check, measure. Trains and merges nothing."""

from mergekit_optimer.vectors.fingerprint import file_sha256, load_tokenizer, model_fingerprint, tokenizer_fingerprint
from mergekit_optimer.vectors.pool import VectorPool, cosines, load_pool, pool_table
from mergekit_optimer.vectors.tensors import TensorFolder, dtype_name, module_kind
from mergekit_optimer.vectors.vector import (
    WELL_APPLIED,
    DistributionVector,
    check_checkpoint,
    check_finite,
    extract_vector,
    load_vector,
)

__all__ = [
    "WELL_APPLIED",
    "DistributionVector",
    "TensorFolder",
    "VectorPool",
    "check_checkpoint",
    "check_finite",
    "cosines",
    "dtype_name",
    "extract_vector",
    "file_sha256",
    "load_pool",
    "load_tokenizer",
    "load_vector",
    "model_fingerprint",
    "module_kind",
    "pool_table",
    "tokenizer_fingerprint",
]
