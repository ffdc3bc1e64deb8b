"""The front matter of a card: what the Hub reads of it. Dumped as YAML from data and never pasted together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mergekit_optimer.cards.text import one_line
from mergekit_optimer.report import is_repo

PROJECT_TAG = "mergekit-optimer"


def hub_repos(candidates: Iterable[str | None]) -> list[str]:
    """The repositories among names, each once, in order.

    No local folder is among them: the Hub would link its name to whatever repository is called so.
    """
    return [repo for repo in dict.fromkeys(candidates) if is_repo(repo)]


def metadata_yaml(
    *,
    base_models: Sequence[str | None],
    datasets: Sequence[str | None],
    tags: Sequence[str],
    library: str,
    license: str | None,
    language: Sequence[str],
    relation: str | None = None,
    pipeline_tag: str | None = None,
    model_name: str | None = None,
    eval_results: Sequence[Any] = (),
) -> str:
    """Return the front matter, without its fences.

    Args:
        base_models: What the repository is made of; only Hub repositories are listed.
        datasets: What it was trained on, alike.
        relation: What the repository is to its base models; left out where none is on the Hub.
        eval_results: huggingface_hub's EvalResult of ``model_name``, for the model-index.
    """
    from huggingface_hub import ModelCardData

    bases = hub_repos(base_models)
    related = {"base_model_relation": relation} if bases and relation else {}
    data = ModelCardData(
        base_model=bases or None,
        datasets=hub_repos(datasets) or None,
        license=one_line(license) if license else None,
        language=[one_line(one) for one in language] or None,
        library_name=library,
        pipeline_tag=pipeline_tag,
        tags=list(tags),
        model_name=one_line(model_name) if model_name and eval_results else None,
        eval_results=list(eval_results) or None,
        **related,
    )
    return str(data.to_yaml())
