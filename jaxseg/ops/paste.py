"""Masks predicted on a grid of their box, put back at the size of the image."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def paste_masks(
    masks: Float[Array | np.ndarray, "N m m"],
    boxes: Float[Array | np.ndarray, "N 4"],
    *,
    size: tuple[int, int],
    method: Literal["grid", "torchvision"] = "grid",
) -> Float[Array, "N H W"]:
    """Returns the masks' values at every pixel of an image, 0 outside their boxes.

    Args:
      masks: probabilities on a square grid over each box.
      boxes: xyxy in pixels.
      size: (H, W).
      method: "grid" samples each mask at the pixels' centres (detectron2's); "torchvision" rounds the box to whole
        pixels and resizes the mask to it, as torchvision does.

    Raises:
      ValueError: an unknown method.
    """
    if method not in ("grid", "torchvision"):
        raise ValueError(f'method should be "grid" or "torchvision", not {method!r}.')
    masks, boxes = jnp.asarray(masks), jnp.asarray(boxes)
    if method == "torchvision":
        masks, boxes = _expand(masks, boxes)
    weights = _sampled if method == "grid" else _resized
    rows = weights(boxes[:, 1], boxes[:, 3], masks.shape[-2], size[0])
    columns = weights(boxes[:, 0], boxes[:, 2], masks.shape[-1], size[1])
    return jnp.einsum("nij,nhi,nwj->nhw", masks, rows, columns)


def _sampled(low: Array, high: Array, cells: int, extent: int) -> Float[Array, "N n m"]:
    """Linear interpolation between the centres of the cells, towards 0 beyond the outermost."""
    pixel = jnp.arange(extent, dtype=jnp.float32) + 0.5
    length = jnp.maximum(high - low, 1e-6)[:, None]
    return _hat((pixel - low[:, None]) / length * cells - 0.5, cells)


def _hat(where: Float[Array, "N n"], cells: int) -> Float[Array, "N n m"]:
    return jnp.maximum(0.0, 1.0 - jnp.abs(where[..., None] - jnp.arange(cells, dtype=jnp.float32)))


def _expand(masks: Array, boxes: Array) -> tuple[Array, Array]:
    """One row of zeros around each mask, boxes grown alike and cut to whole pixels."""
    cells = masks.shape[-1]
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * (cells + 2) / cells
    grown = jnp.concatenate([centre - half, centre + half], axis=1)
    return jnp.pad(masks, ((0, 0), (1, 1), (1, 1))), jnp.trunc(grown)


def _resized(low: Array, high: Array, cells: int, extent: int) -> Float[Array, "N n m"]:
    """Bilinear resizing of the mask to the whole pixels from low to high, both included."""
    length = jnp.maximum(high - low + 1, 1.0)[:, None]
    place = jnp.arange(extent, dtype=jnp.float32) - low[:, None]
    where = jnp.clip((place + 0.5) * cells / length - 0.5, 0.0, cells - 1.0)
    return jnp.where(((place >= 0) & (place < length))[..., None], _hat(where, cells), 0.0)
