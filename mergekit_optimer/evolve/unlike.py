"""What mergekit-evolve does with a genome and a study here does not, or does in another way: one sentence each."""

from __future__ import annotations

from typing import Any


def differences(config: Any) -> list[str]:
    """Name every setting of a genome that has no counterpart, those left at mergekit's defaults too where they matter.

    Args:
        config: mergekit's EvolMergeConfiguration.
    """
    return _of_merge(config.genome) + _of_search(config)


def _of_merge(genome: Any) -> list[str]:
    method = genome.merge_method
    found = []
    if method in ("ties", "dare_ties"):
        found.append(
            f"genome.merge_method: {method} drops entries of each vector at a searched density and elects signs; here "
            "vectors are added whole, and density is not searched (ties and dare_linear stand among the baselines)"
        )
    if method == "slerp":
        found.append(
            "genome.merge_method: slerp turns between the two strongest models; here each model's difference from the "
            "base has a weight"
        )
    if method == "linear":
        found.append(
            "genome.merge_method: linear averages whole models; here each model's difference from the base has a weight"
        )
    if genome.normalize or (genome.normalize is None and method in ("linear", "ties", "dare_ties")):
        found.append("genome.normalize: weights are divided by their sum there; here they are taken as they are")
    if genome.layer_granularity > 0:
        found.append(
            f"genome.layer_granularity: {genome.layer_granularity} gives each group of so many layers its own weights; "
            "here a vector has one weight"
        )
    if genome.filters:
        found.append(
            f"genome.filters: {', '.join(genome.filters)} have weights of their own there; here a vector has one weight"
        )
    if genome.smooth:
        found.append("genome.smooth: weights are interpolated over the layers there; here a vector has one weight")
    if genome.tokenizer_source is not None:
        found.append(
            f"genome.tokenizer_source: {genome.tokenizer_source} is not taken over; the merge has the base's tokenizer"
        )
    if not genome.allow_negative_weights:
        found.append("genome.allow_negative_weights: false takes absolute values there; here the interval begins at 0")
    return found


def _of_search(config: Any) -> list[str]:
    found = []
    if config.random_init:
        found.append("random_init: the study begins with its warm starts, the baselines, and not at random weights")
    if config.shuffle:
        found.append("shuffle: samples have one order here, the same for every trial")
    if config.limit is None:
        found.append("limit: none, so each merge saw all samples; here a trial sees 100 of each task, the best 3 300")
    if config.num_fewshot is None:
        found.append("num_fewshot: none, so lm-eval gave each task its own number of examples; here it is 0")
    if config.apply_chat_template:
        found.append("apply_chat_template: prompts are given without the chat template here")
        if config.fewshot_as_multiturn:
            found.append("fewshot_as_multiturn: it belongs to the chat template, and is not taken over")
    return found
