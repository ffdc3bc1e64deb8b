"""A finished run in numbers: built from scores and facts, kept as report.json, shown as a terminal table."""

from mergekit_optimer.report.build import bound_reached, build_report, primary_score
from mergekit_optimer.report.data import (
    BaseModelFacts,
    GradientFacts,
    ReportData,
    RungFacts,
    SearchFacts,
    TaskFacts,
    TrialFacts,
    VectorFacts,
)
from mergekit_optimer.report.gains import relative_gains, tasks_of_both
from mergekit_optimer.report.links import Linked, hub_cell, is_pinned, is_repo, repo_link
from mergekit_optimer.report.numbers import format_size
from mergekit_optimer.report.terminal import render_table
from mergekit_optimer.report.words import verdict_sentence

__all__ = [
    "BaseModelFacts",
    "GradientFacts",
    "Linked",
    "ReportData",
    "RungFacts",
    "SearchFacts",
    "TaskFacts",
    "TrialFacts",
    "VectorFacts",
    "bound_reached",
    "build_report",
    "format_size",
    "hub_cell",
    "is_pinned",
    "is_repo",
    "primary_score",
    "relative_gains",
    "render_table",
    "repo_link",
    "tasks_of_both",
    "verdict_sentence",
]
