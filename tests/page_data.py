"""An invented run with everything that a page can show, for the tests of the page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from conftest import make_scores

from mergekit_optimer.page import PageData, read_analyses
from mergekit_optimer.report import TrialFacts, build_report

VECTORS = ("code", "ja", "math")
# Held-out scores of a mixture at the weights' shares: 0.03 worse than the uniform one's everywhere.
OPTIMISED = make_scores({"data_mixture/optimised": {"ja": 0.18, "code": 0.14, "choice_math": 0.12}}, 200, seed=2)[
    "data_mixture/optimised"
]
WEIGHTS = {"code": 1.2461, "ja": 0.8231, "math": 0.5512}


def effect(difference: float) -> dict[str, float]:
    return {"difference": difference, "low": difference - 0.01, "high": difference + 0.01}


def spent(times: float) -> dict[str, float]:
    return {"tokens": 500_000 * times, "seconds": 100 * times, "flops": 4e12 * times}


def analyses(names: tuple[str, ...] = VECTORS) -> dict[str, Any]:
    """What the files of all analyses hold, for vectors of these names."""
    weights = dict(zip(names, WEIGHTS.values(), strict=True))
    cosines = {a: {b: 1.0 if a == b else round(0.1 * (i - j) ** 2 - 0.2, 3) for j, b in enumerate(names)}
               for i, a in enumerate(names)}  # fmt: skip
    points = [
        {"step": step, "tokens": 100 * step, "cosine": 1 - 0.2 * (1 - step / 4), "projection": (step / 4) ** 0.5,
         "residual": 0.1}
        for step in (1, 2, 3, 4)
    ]  # fmt: skip
    trials = [
        {"number": n, "weights": weights, "values": {"ja": 2.0 + 0.01 * n, "math": 1.9 - 0.02 * (n % 3)}}
        for n in range(6)
    ]
    held_out = {"ja": {"value": 2.01, "stderr": 0.02, "n": 200}, "math": {"value": 1.81, "stderr": 0.02, "n": 200}}
    rows = [
        {"name": name, "objective": f"mean of {name}", "weights": weights, "dev": 0.2, "held_out": held_out,
         "n_adopted": 10, "n_run": 20}
        for name in ("study", "study-for-ja")
    ]  # fmt: skip
    grid = [-0.5, 0.0, 0.5, 1.0]
    return {
        "geometry": {
            "vectors": {
                name: {"norm": 4.0 + i, "relative_norm": 0.05, "norms": {}, "applied_fraction": 0.99}
                for i, name in enumerate(names)
            },
            "cosines": {"total": cosines, "mlp": cosines},
            "cosines_by_layer": {str(layer): cosines for layer in range(3)},
            "norms_by_layer": {"0": dict.fromkeys(names, 1.0)},
            "sentence": "A key that the page does not know.",
        },
        "trajectory": {
            "vectors": {name: {"points": points} for name in names},
            "meaning": {name: {"slope": 1.1, "sentence": f"A weight of 0.5 for {name} is 30 %."} for name in names},
        },
        "landscape": {
            "slices": {
                name: {"weights": grid, "objective": [0.1, 0.15, 0.16, 0.12], "stderr": [0.01, 0.01, 0.0, 0.01]}
                for name in names
            },
            "plane": {"x": names[0], "y": names[1], "weights_x": grid, "weights_y": grid[:3],
                      "objective": [[0.1 * i + 0.01 * j for i in range(4)] for j in range(3)]},
            "winner": weights,
            "sharpness": {name: {"low": 0.2, "high": None} for name in names},
            "n_samples": 100,
            "objective_words": "mean of ja, math",
        },
        "attribution": {
            "vectors": {
                name: {"weight": weights[name], "tasks": {"ja": effect(0.02)}, "mean": effect(0.03 * (i - 1))}
                for i, name in enumerate(names)
            },
            "importances": dict.fromkeys(names, 0.3),
            "importances_method": "PED-ANOVA over 60 trials",
            "n_resamples": 10_000,
        },
        "objectives": {
            "rows": rows,
            "tasks": {task: {"metric": "bits_per_byte", "higher_is_better": False} for task in ("ja", "math")},
        },
        "pareto": {"tasks": ["ja", "math"], "directions": {"ja": "min", "math": "min"}, "front": trials[:3],
                   "trials": trials},
        "cost": {"pool": spent(1), "search": spent(0.5), "mixture": spent(1), "mixtures_searched": 60,
                 "mixtures_total": spent(60), "ratio_seconds": 40.0, "ratio_flops": 40.0, "formula": "FLOPs = 6 N D.",
                 "parameters": 1_000_000},
        "mixture": {
            "shares": {names[0]: 0.6, names[1]: 0.4},
            "left_out": {names[2]: {"weight": -0.1, "meaning": "the merge takes its direction away."}},
            "tokens": dict.fromkeys(names, 1000),
            "recipe": "mixture.yaml",
        },
    }  # fmt: skip


def trials(names: tuple[str, ...] = VECTORS) -> tuple[TrialFacts, ...]:
    """Twenty trials, the first of them baselines, with one of each fate."""

    def weights(n: int) -> dict[str, float]:
        return {name: round(0.1 * ((n + 3 * i) % 11) - 0.2, 3) for i, name in enumerate(names)}

    found = [TrialFacts(0, 0.0, "warm_start", "scored", dict.fromkeys(names, 0.0), 0.0, "base_model")]
    found += [
        TrialFacts(1 + i, 0.05 + 0.01 * i, "warm_start", "scored", {v: float(v == name) for v in names}, 0.01,
                   f"single/{name}")
        for i, name in enumerate(names)
    ]  # fmt: skip
    found += [TrialFacts(n, 0.08 + 0.004 * n, "surrogate", "scored", weights(n), 0.01) for n in range(4, 17)]
    found += [
        TrialFacts(17, 0.3, "sampler", "rejected", weights(17), 0.01),
        TrialFacts(18, 0.1, "sampler", "stopped", weights(18)),
        TrialFacts(19, -4.0, "sampler", "collapsed", weights(19)),
    ]
    return tuple(found)


def page_data(report_inputs: dict[str, Any], **changes: Any) -> PageData:
    """A finished run with every analysis; keyword arguments replace parts of it."""
    held_out = report_inputs["held_out"] | {"data_mixture/optimised": OPTIMISED}
    search = replace(report_inputs["search"], best_trial=16, base_value=0.0)
    report = build_report(**report_inputs | {"search": search, "trials": trials(), "held_out": held_out})
    data = PageData(
        name="three_vectors", report=report, trials=trials(), objective="mean of ja, math", n_samples=100,
        base_value=0.0, winner=16, weights=WEIGHTS, analyses=read_analyses(analyses()), stages={"search": 12.0},
        commands={"landscape": "mergekit-optimer search recipe.yaml --slice code,ja"},
    )  # fmt: skip
    return replace(data, **changes)
