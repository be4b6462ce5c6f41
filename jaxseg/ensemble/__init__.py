"""Several networks as one, and what their differences say: bagging, boosting, stacking, averages, certainty."""

from jaxseg.ensemble.averages import Staple, majority_vote, staple
from jaxseg.ensemble.bagging import Bag, Bagged, bagging, bootstrap, members_without
from jaxseg.ensemble.boosting import Boosted, Record, Round, adaboost_r2, boost, samme, vote_probabilities
from jaxseg.ensemble.certainty import Certainty, Spread, predictive_entropy
from jaxseg.ensemble.certainty import add as add_member
from jaxseg.ensemble.certainty import finish as finish_spread
from jaxseg.ensemble.certainty import start as start_spread
from jaxseg.ensemble.quality import agreement, expected_dice, mean_entropy_inside, pairwise_dice
from jaxseg.ensemble.stacking import (
    Logistic,
    Sampled,
    as_params,
    fit_conv,
    fit_logistic,
    member_features,
    member_weights,
    out_of_fold,
    sample,
    stacked,
)
from jaxseg.ensemble.temperature import PixelSample, apply_temperature, as_logits, fit_temperature, sample_pixels
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
    "Bag",
    "Bagged",
    "Boosted",
    "Certainty",
    "InterpolationPath",
    "Logistic",
    "PixelSample",
    "Record",
    "Round",
    "RunningWeights",
    "Sampled",
    "Soup",
    "Spread",
    "Staple",
    "adaboost_r2",
    "add_member",
    "agreement",
    "apply_temperature",
    "as_logits",
    "as_params",
    "average_weights",
    "bagging",
    "boost",
    "bootstrap",
    "expected_dice",
    "finish_running",
    "finish_spread",
    "fit_conv",
    "fit_logistic",
    "fit_temperature",
    "greedy_soup",
    "interpolation_path",
    "majority_vote",
    "mean_entropy_inside",
    "member_features",
    "member_weights",
    "members_without",
    "out_of_fold",
    "pairwise_dice",
    "predictive_entropy",
    "samme",
    "sample",
    "sample_pixels",
    "stacked",
    "staple",
    "start_running",
    "start_spread",
    "update_running",
    "vote_probabilities",
]
