"""Several networks as one, and what their differences say: bagging, boosting, stacking, averages, certainty."""

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

__all__ = [
    "Logistic",
    "Sampled",
    "as_params",
    "fit_conv",
    "fit_logistic",
    "member_features",
    "member_weights",
    "out_of_fold",
    "sample",
    "stacked",
]
