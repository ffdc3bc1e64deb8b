"""The mergekit merge method ``distribution_arithmetic``: signed task arithmetic over distribution vectors.

    merge_method: distribution_arithmetic
    base_model: org/base
    out_dtype: bfloat16
    parameters: {lambda: 1.0}
    models:
      - {model: ./dv-ja,      parameters: {weight: 0.6, kind: delta}}
      - {model: org/cpt-math, parameters: {weight: [{filter: mlp, value: [0.1, 0.9]}, {value: -0.2}]}}
      - {model: org/other-it, parameters: {weight: 0.4, base: org/other}}     # own base, listed below
      - {model: org/other,    parameters: {weight: 0, kind: reference}}

mergekit has no plugin discovery: ``register()`` must have been called in the process, which
``mergekit-optimer merge`` does. Nothing is registered at import.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mergekit_optimer.errors import MergeError
from mergekit_optimer.kernel import Term, add_vectors

if TYPE_CHECKING:
    import torch

METHOD = "distribution_arithmetic"
VECTOR_PARAMETERS = ("weight", "kind", "base", "name")
SHARED_PARAMETERS = ("lambda",)
KINDS = ("checkpoint", "delta", "reference")


def register() -> None:
    """Put the method into mergekit's registry; a second call changes nothing.

    Raises:
        MergeError: The installed mergekit has another plugin interface.
    """
    try:
        from mergekit import merge_methods
        from mergekit.merge_methods import register as register_method
    except ImportError as error:
        raise MergeError("mergekit 0.1.5 or newer is needed: pip install 'mergekit>=0.1.5,<0.2'.") from error
    if METHOD not in (method.spec.name for method in merge_methods.registered_methods()):
        register_method(_make_method())


def check_parameters(config: dict[str, Any]) -> None:
    """Check a mergekit configuration that uses this method for what mergekit would ignore or misread.

    Raises:
        MergeError: A key is unknown, or a weight is no finite number; with the place where it stands.
    """
    from mergekit.config import MergeConfiguration
    from pydantic import ValidationError

    if config.get("merge_method") != METHOD:
        return
    try:
        MergeConfiguration.model_validate(config)
    except (ValidationError, RuntimeError) as error:
        reason = " ".join(str(error).split("\n  For further")[0].split())
        raise MergeError(f"mergekit does not take this configuration: {reason}") from error
    problems = _unknown("", config, tuple(MergeConfiguration.model_fields))
    problems += _unknown("parameters.", config.get("parameters"), SHARED_PARAMETERS + VECTOR_PARAMETERS)
    slices = config.get("slices") or []
    entries = [("models", entry) for entry in config.get("models") or []]
    entries += [("slices.sources", entry) for part in slices for entry in part.get("sources") or []]
    for place, entry in entries:
        problems += _unknown(f"{place}.", entry, ("model", "parameters", "layer_range"))
        problems += _unknown(f"{place}.parameters.", entry.get("parameters"), VECTOR_PARAMETERS)
    if problems:
        raise MergeError(f"mergekit would ignore {', '.join(problems)}; correct the spelling or remove it.")
    for _, entry in entries:
        kind = (entry.get("parameters") or {}).get("kind", "checkpoint")
        if kind not in KINDS:
            raise MergeError(f"The kind of {entry.get('model')} is {kind!r}; it must be one of {', '.join(KINDS)}.")
    shared = config.get("parameters") or {}
    numbers = [("weight", shared.get("weight")), ("lambda", shared.get("lambda"))]
    numbers += [(f"weight of {e.get('model')}", (e.get("parameters") or {}).get("weight")) for _, e in entries]
    for what, setting in numbers:
        for number in _scalars(setting):
            if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
                raise MergeError(f"The {what} is {number!r}; it must be a finite number, as 0.5 or 1.0e-3.")


def _scalars(setting: Any) -> list[Any]:
    """Return the scalars of a mergekit parameter: one, a gradient, or conditions with a filter."""
    if isinstance(setting, list):
        return [number for part in setting for number in _scalars(part)]
    if isinstance(setting, dict):
        return _scalars(setting.get("value"))
    return [] if setting is None else [setting]


def _unknown(prefix: str, found: dict[str, Any] | None, known: tuple[str, ...]) -> list[str]:
    return [f"{prefix}{key}" for key in sorted(found or {}) if key not in known]


def _make_method() -> Any:
    from typing import Annotated, Literal

    from mergekit.common import ModelReference
    from mergekit.merge_methods import (
        BasePolicy,
        GroupMergeMethod,
        InputContract,
        MergeMethodSpec,
        ParameterScope,
        TensorGroup,
    )
    from mergekit.merge_methods.base import ParameterSpec
    from pydantic import Field

    finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
    kinds = Literal["checkpoint", "delta", "reference"]

    class DistributionArithmetic(GroupMergeMethod):  # type: ignore[misc]
        """theta = theta_0 + lambda * sum_i w_i tau_i with tau_i a delta, or a checkpoint minus its base."""

        spec = MergeMethodSpec(
            name=METHOD,
            pretty_name="Distribution arithmetic (OptiMer)",
            reference_url="https://arxiv.org/abs/2603.28858",
            contract=InputContract(base=BasePolicy.REQUIRED, min_inputs=2),
            parameters=(
                ParameterSpec("weight", finite, ParameterScope.NON_BASE),
                ParameterSpec("kind", kinds, ParameterScope.NON_BASE, default="checkpoint"),
                ParameterSpec("base", str | None, ParameterScope.NON_BASE, default=None),
                ParameterSpec("name", str | None, ParameterScope.NON_BASE, default=None),
                ParameterSpec("lambda", finite, ParameterScope.SHARED, default=1.0),
            ),
        )

        def merge_group(self, group: TensorGroup, /, **parameters: Any) -> torch.Tensor:
            tensors = {entry.id: entry.tensor for entry in group.entries}
            base, where = group.base.tensor, group.metadata.name
            named_terms = []
            for entry in group.non_base:
                kind, own_base = parameters["kind"][entry.id], parameters["base"][entry.id]
                if kind == "reference":
                    continue
                if not bool(entry.tensor.isfinite().all()):
                    raise MergeError(f"{entry.id} has NaN or Inf in {where}; fetch or train it again.")
                reference = base if kind == "checkpoint" else None
                if own_base is not None:
                    key = ModelReference.model_validate(own_base)
                    if kind != "checkpoint" or key not in tensors:
                        raise MergeError(
                            f"base: {own_base} of {entry.id} must be listed under models with weight 0 and "
                            "kind: reference, and belongs to a checkpoint, not to a delta."
                        )
                    reference = tensors[key]
                weight = parameters["lambda"] * parameters["weight"][entry.id]
                # Name order makes the float sum independent of the order in the file.
                name = parameters["name"][entry.id] or str(entry.id)
                named_terms.append((name, Term(weight, entry.tensor, reference)))
            return add_vectors(base, [term for _, term in sorted(named_terms, key=lambda item: item[0])])

    return DistributionArithmetic()
