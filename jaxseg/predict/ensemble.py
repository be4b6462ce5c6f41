"""Several predictors as one: the mean of their probabilities."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float

from jaxseg.typing import PredictFn


def average(predict_fns: Sequence[PredictFn], *, weights: Sequence[float] | None = None) -> PredictFn:
    """Returns a predictor that gives the weighted mean of several: folds, checkpoints or whole sliding windows.

    Args:
      predict_fns: each `(B, *S, C) -> (B, *S, K)`, with the same K in the same order.
      weights: one non-negative number each, scaled to sum to one; None weighs all alike.

    Raises:
      ValueError: no predictor, or weights that do not fit; when called, predictors that disagree in shape.
    """
    predict_fns = tuple(predict_fns)
    if not predict_fns:
        raise ValueError("average needs at least one predictor, got none.")
    shares = np.ones(len(predict_fns)) if weights is None else np.asarray(weights, float)
    if shares.shape != (len(predict_fns),) or (shares < 0).any() or not 0 < shares.sum() < np.inf:
        raise ValueError(f"weights should be {len(predict_fns)} non-negative numbers of positive sum, got {weights}.")
    shares = (shares / shares.sum()).tolist()

    def predict(image: Float[Array | np.ndarray, "B *S C"]) -> Float[Array, "B *S K"]:
        total = shares[0] * predict_fns[0](image)
        for share, predict_fn in zip(shares[1:], predict_fns[1:]):
            probs = share * predict_fn(image)
            if total.shape != probs.shape:
                raise ValueError(f"All predictors should give one shape, got {total.shape} and {probs.shape}.")
            total = total + probs
        return total

    return predict
