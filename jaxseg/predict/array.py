"""Predict whole cases from the host: one compiled program for cases of any size, sums kept in float32 outside of it."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxseg.predict.planes import layout, predict_planes
from jaxseg.predict.planes import whole_window as whole_window  # stands beside the layout that it is part of
from jaxseg.predict.sliding_window import Placement, Weight
from jaxseg.typing import PredictFn


def predict_array(
    predict_fn: PredictFn,
    image: Float[np.ndarray, "*S C"],
    *,
    ndim: int,
    window: Sequence[int] | None,
    overlap: float = 0.5,
    weight: Weight = "gaussian",
    placement: Placement = "even",
    batch_size: int = 1,
    flip_axes: Sequence[int] = (),
    flip_pairs: Sequence[tuple[int, int]] = (),
    divisor: int | Sequence[int] = 1,
    factors: Sequence[int] | None = None,
) -> Float[np.ndarray, "*T K"]:
    """Returns the probabilities of a whole case, the same as `sliding_window` gives, with the loop on the host.

    `predict_fn` always sees `(batch_size, *window, C)` (the last batch is filled with zeros), so a jitted one compiles
    once for all cases. Hand in one and the same jitted function, or a `partial` of it over the parameters:
    `partial(jax.jit(task.predict), variables)`. The host holds the image, `(*S, K)` and `(*S)` in float32, and while
    it adds one batch up the device works on the next; `predict_planes` holds less. Outputs are averaged whatever they
    mean: probabilities, logits or intensities.

    Args:
      predict_fn: `(B, *window, C) -> (B, *window, K)`, jitted.
      image: one preprocessed case; float32 (another type is converted window by window).
      ndim: spatial axes that the predictor sees. A 3D image with `ndim=2` is taken slice by slice along its first axis.
      window: voxels along each of the `ndim` axes; shorter images are padded with zeros and cropped back. None
        takes the whole image, padded to the next multiple of `divisor`: one compilation for each padded shape.
      overlap: fraction of a window shared with its neighbour, in [0, 1).
      weight: "gaussian", "constant" or "nnunet", see `sliding_window`.
      placement: "even" or "border", see `window_starts`.
      batch_size: windows in one call.
      flip_axes: axes among the `ndim` for `flip_tta`; `predict_fn` itself is called once a flip, and stays one program.
      flip_pairs: output channels that a flip of the last axis exchanges.
      divisor: for `window=None`, one number or one an axis (`models.divisor`).
      factors: along each of the `ndim` axes, how many times longer than its window an output is; None: as long. The
        outputs of overlapping windows are then blended by the weights of the longer window.

    Raises:
      ValueError: the image has no axes for `ndim`, or an option is out of its range.

    Source: Isensee et al., nnU-Net, Nature Methods 2021, inference.
    """
    place = layout(
        image.shape[:-1],
        ndim=ndim,
        window=window,
        overlap=overlap,
        weight=weight,
        placement=placement,
        divisor=divisor,
    )
    pieces = predict_planes(
        predict_fn,
        image,
        place,
        batch_size=batch_size,
        flip_axes=flip_axes,
        flip_pairs=flip_pairs,
        factors=factors,
        planes=image.shape[0] * max(factors or (1,)),  # all of them, so that they come in one piece
    )
    return next(pieces)[1]
