"""Distribution vectors tau = theta_cpt - theta_base: extract, save, load, check, measure. Trains and merges nothing.

vector          a checkpoint less its base -> the vector's folder
adapters        a LoRA adapter over its base -> the same
kept            vectors made before, in the user's cache
record          what a vector says of itself, and whether its files are those
pool            vectors over one base, checked against it; norms and cosines
manifest        pool.json: a pool as repositories of the Hub
fingerprint     what makes two folders the same model
tensors, stream, inside     safetensors read and written one at a time; names and links that stay in their folder
"""

from mergekit_optimer.vectors.adapter_files import adapter_fingerprint
from mergekit_optimer.vectors.adapters import check_adapter, extract_adapter
from mergekit_optimer.vectors.fingerprint import (
    file_sha256,
    load_tokenizer,
    model_fingerprint,
    sha256_of,
    tokenizer_fingerprint,
)
from mergekit_optimer.vectors.kept import make_or_link, vector_key
from mergekit_optimer.vectors.manifest import POOL, BaseReference, PoolManifest, PoolMember, read_manifest
from mergekit_optimer.vectors.pool import Gram, VectorPool, cosines, gram_matrices, load_pool, pool_table
from mergekit_optimer.vectors.record import NOT_KNOWN, RECORD, DistributionVector, Provenance, check_files, load_vector
from mergekit_optimer.vectors.tensors import TensorFolder, dtype_name, layer_of, module_kind
from mergekit_optimer.vectors.vector import WELL_APPLIED, check_checkpoint, check_finite, extract_vector

__all__ = [
    "NOT_KNOWN",
    "POOL",
    "RECORD",
    "WELL_APPLIED",
    "BaseReference",
    "DistributionVector",
    "Gram",
    "PoolManifest",
    "PoolMember",
    "Provenance",
    "TensorFolder",
    "VectorPool",
    "adapter_fingerprint",
    "check_adapter",
    "check_checkpoint",
    "check_files",
    "check_finite",
    "cosines",
    "dtype_name",
    "extract_adapter",
    "extract_vector",
    "file_sha256",
    "gram_matrices",
    "layer_of",
    "load_pool",
    "load_tokenizer",
    "load_vector",
    "make_or_link",
    "model_fingerprint",
    "module_kind",
    "pool_table",
    "read_manifest",
    "sha256_of",
    "tokenizer_fingerprint",
    "vector_key",
]
