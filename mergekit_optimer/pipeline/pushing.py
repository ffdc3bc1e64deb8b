"""Push what a run made: checkpoints, vectors with their pool, the merged model. Checked whole, shown, then sent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mergekit_optimer import hub
from mergekit_optimer.cards import base_models
from mergekit_optimer.errors import HubError
from mergekit_optimer.files import read_json
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.pipeline.paging import is_compared
from mergekit_optimer.pipeline.pushed import Pushed, note_pushed
from mergekit_optimer.pipeline.reporting import write_card, write_report
from mergekit_optimer.pipeline.uploads import (
    check_license,
    checkpoint_uploads,
    forbidden_texts,
    model_upload,
    pool_upload,
    vector_uploads,
)
from mergekit_optimer.pipeline.vector_sources import make_vectors
from mergekit_optimer.recipe import DATA_MIXTURE
from mergekit_optimer.report import ReportData
from mergekit_optimer.runs import RunDir
from mergekit_optimer.vectors import PoolMember

log = logging.getLogger(__name__)

# Shows what would be sent; False where it is not to be.
Accept = Callable[[Sequence[hub.PushPlan]], bool]

# Stands for the commit of a vector that is not pushed yet, in a pool.json that is only planned.
_NOT_YET = "0" * 40


def push_checkpoints(job: Job, datasets: list[str], prefix: str | None, private: bool, accept: Accept) -> list[str]:
    """Push CPT checkpoints, one repository each.

    Args:
        prefix: What a dataset's name is appended to, as org/cpt-; None for the recipe's.

    Returns:
        Each as repo@sha; none where ``accept`` says no.

    Raises:
        HubError: The Hub refuses, cannot be had, or licence or prefix are not set. Nothing was sent by halves.
    """
    check_license(job.recipe.publish.license)
    prefix = _wanted(prefix or job.recipe.publish.checkpoints, "publish.checkpoints", "org/cpt-")
    uploads = checkpoint_uploads(job, datasets, prefix, private)
    sent = _send(list(uploads.values()), accept, _options(job.run.root, job.recipe.folder))
    for name, pushed in zip(uploads, sent, strict=False):
        content = job.checkpoint_content(name)
        note_pushed(job.run, "checkpoints", name, Pushed(pushed.repo, pushed.revision, content))
    _refresh_report(job)
    return [f"{pushed.repo}@{pushed.revision}" for pushed in sent]


def push_trained(job: Job, what: str, datasets: list[str], mixture: bool, private: bool, accept: Accept) -> list[str]:
    """Push what a training made: "checkpoints" of the given datasets (of all where none are), or the pool's "vectors".

    Raises:
        HubError: As push_checkpoints.
    """
    if what == "vectors":
        make_vectors(job)
        return push_pool(job, None, None, private, accept)
    section = job.recipe.train
    pool = sorted({spec.dataset for spec in job.recipe.pool.values() if spec.dataset})
    has_mixture = mixture or (not datasets and section is not None and section.mixture is not None)
    names = ([] if mixture else datasets or pool) + ([DATA_MIXTURE] if has_mixture else [])
    return push_checkpoints(job, names, None, private, accept)


def push_pool(job: Job, prefix: str | None, pool_repo: str | None, private: bool, accept: Accept) -> list[str]:
    """Push the vectors made here, one repository each, then the pool's manifest, which names all of them by commit.

    Args:
        prefix: What a vector's name is appended to, as org/dv-; None for the recipe's.
        pool_repo: Repository of the manifest; None for the recipe's, else <prefix>pool.

    Returns:
        Each as repo@sha, the pool last; none where ``accept`` says no.

    Raises:
        HubError: As push_checkpoints.
        VectorError: A vector is not made yet, or does not fit.
    """
    check_license(job.recipe.publish.license)
    prefix = _wanted(prefix or job.recipe.publish.vectors, "publish.vectors", "org/dv-")
    pool_repo = pool_repo or job.recipe.publish.pool or f"{prefix}pool"
    uploads = vector_uploads(job, prefix, private, pool_repo)
    if pool_repo in {upload.repo for upload in uploads.values()}:
        raise HubError(f"{pool_repo} would be a vector and the pool; give the pool another name with --pool.")
    places = {name: _place(job, name) for name in job.pool.names if name not in uploads}
    options = _options(job.run.root, job.recipe.folder)
    plans = hub.plan_push(list(uploads.values()), options)
    planned = places | {name: _planned(plan) for name, plan in zip(uploads, plans, strict=True)}
    if not accept(plans + hub.plan_push([pool_upload(job, pool_repo, private, planned)], options)):
        return []
    sent = hub.send(plans, options)
    for name, pushed in zip(uploads, sent, strict=True):
        places[name] = PoolMember(pushed.repo, pushed.revision)
        note_pushed(job.run, "vectors", name, Pushed(pushed.repo, pushed.revision, job.vector_content(name)))
    # Vectors that can be seen belong to a pool that can be seen: not before its manifest names them.
    pool_plans = hub.plan_push([pool_upload(job, pool_repo, private, places)], options)
    sent += hub.send(pool_plans, options)
    hub.make_public([*plans, *pool_plans], options)
    _refresh_report(job)
    return [f"{pushed.repo}@{pushed.revision}" for pushed in sent]


def push_model(run: RunDir, repo: str | None, public: bool, accept: Accept) -> list[str]:
    """Push a run's merged model with its card.

    Args:
        repo: Where to; None for what the report names.

    Raises:
        HubError: As push_checkpoints.
        RunFolderError: The run has no merged model or no report.
    """
    report = ReportData.from_json(read_json(run.report_path))
    check_license(report.license, is_reported=True)
    repo = repo or report.repo
    if repo is None:
        raise HubError(
            "It is not said where to publish; give --repo owner/name, or set publish.repo in the recipe and run "
            "`mergekit-optimer card` with it."
        )
    private, options = report.private and not public, _options(run.root)
    if not private:
        _say_what_is_hidden(report, repo, options)
    sent = _send([model_upload(run, repo, private)], accept, options)
    return [f"{pushed.repo}@{pushed.revision}" for pushed in sent]


def check_push(job: Job, what: str) -> None:
    """Check before a training what can be checked of the push after it: licence, names and login.

    Args:
        what: "checkpoints" or "vectors".

    Raises:
        HubError: As push_checkpoints.
    """
    publish = job.recipe.publish
    check_license(publish.license)
    prefix = publish.checkpoints if what == "checkpoints" else publish.vectors
    hub.check_login([_wanted(prefix, f"publish.{what}", "org/cpt-" if what == "checkpoints" else "org/dv-") + "a"])


def _say_what_is_hidden(report: ReportData, repo: str, options: hub.PushOptions) -> None:
    """Warn where a model that everybody sees is made of parts that not everybody sees."""
    parts = [part for part in base_models(report) if part != repo]
    hidden = hub.hidden_ones(parts, options)
    if hidden:
        log.warning("%s would be public, and not everybody can see %s: nobody else could make the merge again",
                    repo, ", ".join(hidden))  # fmt: skip


def _send(uploads: list[hub.Upload], accept: Accept, options: hub.PushOptions) -> list[hub.Pushed]:
    plans = hub.plan_push(uploads, options)
    return hub.push(plans, options) if accept(plans) else []


def _options(*folders: Path) -> hub.PushOptions:
    return replace(hub.PushOptions(), forbidden_texts=forbidden_texts(*folders))


def _wanted(prefix: str | None, key: str, example: str) -> str:
    if prefix is None:
        raise HubError(f"It is not said where to push; set {key} in the recipe, as {example}.")
    if prefix.count("/") != 1 or prefix.startswith("/"):
        raise HubError(f"{prefix!r} is no beginning of a repository's name; write it as {example}.")
    return prefix


def _planned(plan: hub.PushPlan) -> PoolMember:
    """Where a vector will be: at the commit that is there, where nothing of it is to be sent."""
    stays = plan.head is not None and not plan.sent and not plan.removed
    return PoolMember(plan.upload.repo, str(plan.head) if stays else _NOT_YET)


def _place(job: Job, name: str) -> PoolMember:
    vector = job.vector(name)
    return PoolMember(str(vector.repo), str(vector.revision))


def _refresh_report(job: Job) -> None:
    """Write report and card again, where there are any: they say where each part lies."""
    # A run that is not finished, or has gone on since, has none of its own.
    if job.run.report_path.exists() and is_compared(job.run):
        write_report(job)
        write_card(job)
