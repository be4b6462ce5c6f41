"""Test-time augmentation: predict the flipped images too and average."""

import functools
import itertools
import operator
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxseg.typing import PredictFn


def flip_tta(
    predict_fn: PredictFn,
    *,
    axes: Sequence[int],
    pairs: Sequence[tuple[int, int]] = (),
    pair_axis: int = -1,
) -> PredictFn:
    """Returns a predictor that averages over all `2^d` combinations of flips, each flipped back.

    Args:
      predict_fn: `(B, *S, C) -> (B, *S, K)`, or `(B, *T, K)` with longer axes.
      axes: spatial axes to flip, counted over `*S` from 0; negative ones count from the last. None gives `predict_fn`.
      pairs: output channels that a flip of `pair_axis` exchanges, such as the left and the right kidney.
      pair_axis: the patient's left-right axis among `*S`: the last one of a canonical volume.

    Returns:
      A predictor with the same shapes; pure, to be jitted as a whole or around a jitted `predict_fn`.

    Raises:
      ValueError: an axis or a channel named twice; when called, an axis or channel that the image does not have.
    """
    axes = tuple(int(axis) for axis in axes)
    members = [channel for pair in pairs for channel in pair]
    if len(set(members)) != len(members):
        raise ValueError(f"Each channel should stand in one pair at most, got {tuple(pairs)}.")
    if len(set(axes)) != len(axes):
        raise ValueError(f"Each flip axis should be named once, got {axes}.")
    if not axes:
        return predict_fn

    def predict(image: Float[Array | np.ndarray, "B *S C"]) -> Float[Array, "B *T K"]:
        spatial = image.ndim - 2
        places = [_place(axis, spatial) for axis in axes]
        if len(set(places)) != len(places):
            raise ValueError(f"Each flip axis should be named once, got {axes} for {spatial} spatial axes.")

        def look(chosen: tuple[bool, ...]) -> Float[Array, "B *T K"]:
            flipped = tuple(place for place, flip in zip(places, chosen) if flip)
            probs = jnp.flip(predict_fn(jnp.flip(image, flipped)), flipped)
            if pairs and _place(pair_axis, spatial) in flipped:
                probs = probs[..., exchange(pairs, probs.shape[-1])]
            return probs

        total = functools.reduce(operator.add, map(look, itertools.product((False, True), repeat=len(places))))
        return total / 2 ** len(places)

    return predict


def _place(axis: int, spatial: int) -> int:
    """The axis of `(B, *S, C)` that the spatial axis is."""
    if not -spatial <= axis < spatial:
        raise ValueError(f"A flip axis of an image with {spatial} spatial axes is below {spatial}, got {axis}.")
    return axis % spatial + 1


def exchange(pairs: Sequence[tuple[int, int]], channels: int) -> jnp.ndarray:
    """Returns the order of channels after a left-right flip.

    Raises:
      ValueError: a pair names a channel that is not there.
    """
    order = list(range(channels))
    for first, second in pairs:
        if not (0 <= first < channels and 0 <= second < channels):
            raise ValueError(f"The pair ({first}, {second}) names a channel that {channels} channels do not have.")
        order[first], order[second] = second, first
    return jnp.array(order)
