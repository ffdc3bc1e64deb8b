"""A finished run in numbers: built from scores and facts, kept as report.json, shown as a terminal table."""

from mergekit_optimer.report.build import bound_reached, build_report, primary_score
from mergekit_optimer.report.data import (
    BaseModelFacts,
    GradientFacts,
    ReportData,
    RungFacts,
    SearchFacts,
    TaskFacts,
    VectorFacts,
)
from mergekit_optimer.report.terminal import render_table
from mergekit_optimer.report.words import verdict_sentence

__all__ = [
    "BaseModelFacts",
    "GradientFacts",
    "ReportData",
    "RungFacts",
    "SearchFacts",
    "TaskFacts",
    "VectorFacts",
    "bound_reached",
    "build_report",
    "primary_score",
    "render_table",
    "verdict_sentence",
]
