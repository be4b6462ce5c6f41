"""Several networks as one, and what their differences say: bagging, boosting, stacking, averages, certainty."""

from jaxseg.ensemble.averages import Staple, majority_vote, staple
from jaxseg.ensemble.weights import (
    InterpolationPath,
    RunningWeights,
    Soup,
    average_weights,
    greedy_soup,
    interpolation_path,
)
from jaxseg.ensemble.weights import finish as finish_running
from jaxseg.ensemble.weights import start as start_running
from jaxseg.ensemble.weights import update as update_running

__all__ = [
    "InterpolationPath",
    "RunningWeights",
    "Soup",
    "Staple",
    "average_weights",
    "finish_running",
    "greedy_soup",
    "interpolation_path",
    "majority_vote",
    "staple",
    "start_running",
    "update_running",
]
