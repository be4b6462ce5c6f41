"""Enlarge whole cases window by window: `predict_array` for networks that give more voxels than they are given."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxseg.predict.array import predict_array
from jaxseg.predict.sliding_window import Weight
from jaxseg.typing import PredictFn


def enlarge_array(
    predict_fn: PredictFn,
    image: Float[np.ndarray, "*S C"],
    *,
    ndim: int,
    window: Sequence[int] | None,
    factors: Sequence[int],
    overlap: float = 0.5,
    weight: Weight = "gaussian",
    batch_size: int = 1,
    flip_axes: Sequence[int] = (),
    divisor: int | Sequence[int] = 1,
) -> Float[np.ndarray, "*T K"]:
    """Returns a whole case with `factors` times more voxels along the axes that the network sees.

    Voxel i of an axis becomes the voxels `i * factor` to `i * factor + factor - 1`, so the outputs of windows lie on
    one grid whatever voxel a window begins at. They are blended by the importance of their own, longer window.

    Args:
      predict_fn: `(B, *window, C) -> (B, *(window * factors), K)`, jitted; it sees windows of one shape only.
      image: one preprocessed case.
      ndim: spatial axes that the network sees. A 3D image with `ndim=2` is taken slice by slice along its first axis,
        which keeps its length.
      window: voxels along each of the `ndim` axes, before they are enlarged; None takes the whole image.
      factors: how many times longer each of the `ndim` axes becomes.
      overlap, weight, batch_size, flip_axes, divisor: see `predict_array`.

    Returns:
      float32; `*T` is `*S` times the factors.

    Raises:
      ValueError: the network's output has another shape, or as `predict_array`.
    """
    return predict_array(
        predict_fn,
        image,
        ndim=ndim,
        window=window,
        overlap=overlap,
        weight=weight,
        batch_size=batch_size,
        flip_axes=flip_axes,
        divisor=divisor,
        factors=factors,
    )
