"""Weights of members as shares of one."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def shares_of(
    weights: Sequence[float] | Float[np.ndarray, " M"] | None, count: int, *, name: str = "weights"
) -> Float[np.ndarray, " M"]:
    """Returns the weights of `count` members, scaled to sum to one; None weighs all alike.

    Raises:
      ValueError: another number of them, a negative one, or a sum that is not positive and finite; `name` is theirs.
    """
    shares = np.ones(count) if weights is None else np.asarray(weights, np.float64)
    if shares.shape != (count,) or (shares < 0).any() or not 0 < shares.sum() < np.inf:
        raise ValueError(f"{name} should be {count} non-negative numbers of positive sum, got {weights}.")
    return shares / shares.sum()
