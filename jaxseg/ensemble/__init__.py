"""Several networks as one, and what their differences say: bagging, boosting, stacking, averages, certainty."""

from jaxseg.ensemble.bagging import Bag, Bagged, bagging, bootstrap, members_without
from jaxseg.ensemble.boosting import Boosted, Record, Round, adaboost_r2, boost, samme, vote_probabilities

__all__ = [
    "Bag",
    "Bagged",
    "Boosted",
    "Record",
    "Round",
    "adaboost_r2",
    "bagging",
    "boost",
    "bootstrap",
    "members_without",
    "samme",
    "vote_probabilities",
]
