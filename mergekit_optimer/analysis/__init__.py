"""What the paper shows, as numbers of one's own pool and study: vectors, trainings, attribution, cost. Runs no model.

geometry        norms and cosines of the vectors, by kind and layer
trajectory      how straight each training went, and what a weight means in training time
attribution     what the winner loses without a vector; the study's importances
cost            pool and search against searching mixtures by training
tables          an analysis as JSON and CSV
figures         the same as PNG
"""

from mergekit_optimer.analysis.attribution import Attribution, Difference, attribute, study_importances
from mergekit_optimer.analysis.cost import (
    SearchCost,
    Spent,
    counted_parameters,
    scoring_cost,
    search_cost,
    training_cost,
)
from mergekit_optimer.analysis.figures import geometry_figures, trajectory_figure
from mergekit_optimer.analysis.geometry import Geometry, pool_geometry
from mergekit_optimer.analysis.tables import write_analysis
from mergekit_optimer.analysis.trajectory import (
    Trajectory,
    TrajectoryPoint,
    linearity_sentence,
    measure_trajectory,
    share_at,
)
from mergekit_optimer.analysis.trajectory import rows as trajectory_rows
from mergekit_optimer.analysis.trajectory import to_json as trajectory_json

__all__ = [
    "Attribution",
    "Difference",
    "Geometry",
    "SearchCost",
    "Spent",
    "Trajectory",
    "TrajectoryPoint",
    "attribute",
    "counted_parameters",
    "geometry_figures",
    "linearity_sentence",
    "measure_trajectory",
    "pool_geometry",
    "scoring_cost",
    "search_cost",
    "share_at",
    "study_importances",
    "training_cost",
    "trajectory_figure",
    "trajectory_json",
    "trajectory_rows",
    "write_analysis",
]
