"""What a run gives to the Hub: files and card of each checkpoint, of each vector, of the pool and of the merged model.

Builds, sends nothing. Only what is named here leaves the machine: weights as safetensors, configurations, tokenizer,
records and cards, each without paths of this machine. Trials, logs, journals and the trainer's own files stay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mergekit_optimer import hub
from mergekit_optimer.cards import (
    CheckpointCard,
    PoolCard,
    PoolRow,
    VectorCard,
    eval_results_files,
    render_checkpoint_card,
    render_model_card,
    render_pool_card,
    render_vector_card,
    without_secrets,
)
from mergekit_optimer.errors import HubError, RunFolderError
from mergekit_optimer.files import read_json, to_json_text
from mergekit_optimer.pipeline.job import Job
from mergekit_optimer.recipe import Recipe
from mergekit_optimer.report import ReportData
from mergekit_optimer.runs import RunDir, package_versions
from mergekit_optimer.train import RECORD_NAME, TrainingRecord, read_record
from mergekit_optimer.vectors import (
    POOL,
    RECORD,
    BaseReference,
    DistributionVector,
    PoolManifest,
    PoolMember,
    TensorFolder,
    sha256_of,
)

MERGE_CONFIG = "mergekit_config.yaml"
PORTABLE_CONFIG = "merge.portable.yaml"
CARD = "README.md"
_MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer*",
                "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "*.model",
                "chat_template.jinja")  # fmt: skip
# Where transformers notes the folder that a model or tokenizer was loaded from.
_ORIGINS = ("_name_or_path", "name_or_path")


def check_license(license: str, is_reported: bool = False) -> None:
    """Check that a licence is set before anything is sent.

    Args:
        is_reported: Whether it is the report's, which follows the recipe only when it is written again.

    Raises:
        HubError: It is not: "other" tells nobody what is allowed.
    """
    if license == "other":
        then = "; then run `mergekit-optimer card` with it, and publish again" if is_reported else ""
        raise HubError(
            "No licence is set, and what is pushed needs one: set publish.license in the recipe, as apache-2.0 or what "
            f"the base model's licence asks for{then}."
        )


def is_private(recipe: Recipe, public: bool) -> bool:
    """Private unless the recipe or the command line says public."""
    return recipe.publish.private and not public


def checkpoint_uploads(job: Job, datasets: list[str], prefix: str, private: bool) -> dict[str, hub.Upload]:
    """The repository of each dataset's CPT checkpoint.

    Raises:
        RunFolderError: A checkpoint is not trained yet.
    """
    uploads = {}
    for name in datasets:
        folder = job.run.checkpoint_dir(name)
        record = read_record(folder)
        repo = prefix + name
        facts = _training_facts(job, record) | _dataset_facts(job, name)
        dtypes = " and ".join(TensorFolder(folder).dtypes)
        card = CheckpointCard(repo=repo, name=name, dtype=dtypes, **_base_facts(job), **facts)
        files = _model_files(folder) | {
            RECORD_NAME: _json_bytes(without_secrets(record.to_json())),
            CARD: render_checkpoint_card(card).encode(),
        }
        uploads[name] = hub.Upload(repo, files, f"CPT checkpoint {name}", private, RECORD_NAME)
    return uploads


def vector_uploads(job: Job, prefix: str, private: bool, pool_repo: str | None) -> dict[str, hub.Upload]:
    """The repository of each vector that is no repository already.

    Raises:
        VectorError: A vector is not made yet, or does not fit.
    """
    uploads = {}
    for name, vector in job.pool.vectors.items():
        spec = job.recipe.pool[name]
        if spec.delta is not None and spec.delta.repo is not None:
            continue
        repo = prefix + name
        files = _model_files(job.vector(name).path)
        # What the record says of the files must be true of those that are sent.
        hashes = {file: sha256_of(content) for file, content in files.items()}
        texts = {key: without_secrets(getattr(vector, key)) for key in ("base_label", "dataset", "source", "training")}
        public = replace(vector, files=hashes, **texts)
        card = _vector_card(job, repo, name, public, pool_repo)
        files |= {RECORD: _json_bytes(asdict(public)), CARD: render_vector_card(card).encode()}
        uploads[name] = hub.Upload(repo, files, f"distribution vector {name}", private, RECORD)
    return uploads


def pool_upload(job: Job, repo: str, private: bool, places: Mapping[str, PoolMember]) -> hub.Upload:
    """The repository of the pool's manifest.

    Args:
        places: Repository and commit of each vector.
    """
    base = BaseReference(job.base.label, job.base.repo, job.base.revision, job.base_fingerprint)
    manifest = PoolManifest(repo.partition("/")[2], base, dict(places), job.recipe.publish.license)
    rows = tuple(
        PoolRow(name, place.repo, place.revision, job.pool.vectors[name].dataset, job.pool.vectors[name].norm)
        for name, place in sorted(places.items())
    )
    card = PoolCard(repo=repo, name=manifest.name, rows=rows, **_base_facts(job), **_publish_facts(job))
    files = {POOL: _json_bytes(manifest.to_json()), CARD: render_pool_card(card).encode()}
    return hub.Upload(repo, files, "vector pool", private, POOL)


def model_upload(run: RunDir, repo: str, private: bool) -> hub.Upload:
    """The repository of the merged model: weights, tokenizer, both configurations, figure, results and card.

    Raises:
        RunFolderError: The run has no merged model or no report, or they are of two winners.
    """
    report = ReportData.from_json(read_json(run.report_path))
    if not run.model_dir.exists():
        raise RunFolderError(f"{run.root} holds no merged model; `mergekit-optimer search` makes it.")
    if read_json(run.winner_path)["winner"]["number"] != report.search.best_trial:
        raise RunFolderError(
            f"The report of {run.root} is of another winner than its model; run `mergekit-optimer compare` again."
        )
    report = replace(report, repo=repo)
    files = _model_files(run.model_dir) | {
        MERGE_CONFIG: without_secrets(report.yaml).encode(),
        CARD: render_model_card(report).encode(),
    }
    if report.portable_yaml is not None:
        files[PORTABLE_CONFIG] = without_secrets(report.portable_yaml).encode()
    if run.figure_path.exists():
        files[run.figure_path.name] = run.figure_path
    files |= {path: text.encode() for path, text in eval_results_files(report).items()}
    return hub.Upload(repo, files, f"merged model {report.name}", private, MERGE_CONFIG)


def forbidden_texts(*folders: Path) -> tuple[str, ...]:
    """Paths of this machine that nothing sent may hold; hub adds its home and working folder."""
    paths = {str(path) for folder in folders for path in (folder.absolute(), folder.resolve())}
    # A short one is the beginning of many words.
    return tuple(sorted(path for path in paths if path.count("/") > 1))


def _vector_card(job: Job, repo: str, name: str, vector: DistributionVector, pool_repo: str | None) -> VectorCard:
    training = vector.training or {}
    curve = training.get("loss_curve") or [(0, None)]
    return VectorCard(
        repo=repo,
        name=name,
        base_label=vector.base_label,
        base_repo=vector.base_repo,
        base_revision=vector.base_revision,
        base_fingerprint=vector.base_fingerprint,
        dataset=vector.dataset,
        dataset_repo=vector.dataset_repo,
        dataset_revision=vector.dataset_revision,
        source=vector.source,
        n_tokens=training.get("n_tokens_trained"),
        n_steps=training.get("n_steps"),
        learning_rate=training.get("learning_rate"),
        final_loss=curve[-1][1],
        norm=vector.norm,
        relative_norm=vector.relative_norm,
        dtype=vector.dtype,
        applied_fraction=vector.applied_fraction[job.dtype]["total"],
        pool_repo=pool_repo,
        **_publish_facts(job),
    )


def _base_facts(job: Job) -> dict[str, Any]:
    return {"base_label": job.base.label, "base_repo": job.base.repo, "base_revision": job.base.revision,
            "base_fingerprint": job.base_fingerprint}  # fmt: skip


def _publish_facts(job: Job) -> dict[str, Any]:
    publish = job.recipe.publish
    return {"license": publish.license, "language": tuple(publish.language), "versions": package_versions()}


def _training_facts(job: Job, record: TrainingRecord) -> dict[str, Any]:
    facts = {
        "n_tokens": record.n_tokens_trained,
        "n_steps": record.n_steps,
        "learning_rate": record.learning_rate,
        "final_loss": record.loss_curve[-1][1] if record.loss_curve else None,
    }
    return facts | _publish_facts(job) | {"versions": record.versions}


def _dataset_facts(job: Job, name: str) -> dict[str, Any]:
    source = job.recipe.train.datasets.get(name) if job.recipe.train else None
    if source is None:
        return {"dataset": name, "dataset_repo": None, "dataset_revision": None}
    label = str(source) if source.repo is not None else Path(str(source.path)).name
    return {"dataset": label, "dataset_repo": source.repo, "dataset_revision": source.revision}


def _model_files(folder: Path) -> dict[str, Path | bytes]:
    """The files of a model folder that others need, by name."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    wanted = [name for name in names if any(fnmatch(name, pattern) for pattern in _MODEL_FILES)]
    return {name: _without_origin(folder / name) for name in wanted}


def _without_origin(path: Path) -> Path | bytes:
    """A configuration without the local folder that it names; any other file as it is."""
    if path.name not in ("config.json", "tokenizer_config.json"):
        return path
    data = json.loads(path.read_text(encoding="utf-8"))
    origins = {key for key in _ORIGINS if Path(str(data.get(key) or "")).is_absolute()}
    return _json_bytes({key: value for key, value in data.items() if key not in origins}) if origins else path


def _json_bytes(data: Any) -> bytes:
    return to_json_text(data).encode()
