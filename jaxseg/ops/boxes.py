"""Boxes: areas, overlaps, their code relative to anchors, anchors themselves, and the pyramid level of each.

A box is xyxy float32 in pixels; pixel i covers `[i, i + 1)`. Source of code and anchors: Ren et al. 2015 (Faster R-CNN)
with the constants of torchvision 0.29.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

LARGEST_GROWTH = math.log(1000 / 16)  # of a decoded side to its anchor's, as a logarithm


def box_area(boxes: Float[Array | np.ndarray, "*N 4"]) -> Float[Array, "*N"]:
    """Returns width times height in square pixels; 0 for a box whose ends are crossed."""
    sides = jnp.maximum(jnp.asarray(boxes)[..., 2:] - jnp.asarray(boxes)[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def box_intersection(first: Float[Array | np.ndarray, "N 4"], second: Float[Array | np.ndarray, "M 4"]) -> Array:
    """Returns the shared area of every pair, `(N, M)`."""
    first, second = jnp.asarray(first), jnp.asarray(second)
    low = jnp.maximum(first[:, None, :2], second[None, :, :2])
    high = jnp.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = jnp.maximum(high - low, 0)
    return sides[..., 0] * sides[..., 1]


def box_iou(first: Float[Array | np.ndarray, "N 4"], second: Float[Array | np.ndarray, "M 4"]) -> Float[Array, "N M"]:
    """Returns intersection over union of every pair; 0 where both are empty."""
    shared = box_intersection(first, second)
    union = box_area(first)[:, None] + box_area(second)[None, :] - shared
    return jnp.where(union > 0, shared / jnp.where(union > 0, union, 1), 0)


def box_coverage(
    first: Float[Array | np.ndarray, "N 4"], second: Float[Array | np.ndarray, "M 4"]
) -> Float[Array, "N M"]:
    """Returns which share of each first box lies within each second one: how far a detection lies in a crowd."""
    area = box_area(first)[:, None]
    return jnp.where(area > 0, box_intersection(first, second) / jnp.where(area > 0, area, 1), 0)


def box_mask_share(boxes: Float[Array | np.ndarray, "N 4"], mask: Bool[Array, "H W"]) -> Float[Array, " N"]:
    """Returns which share of each box's pixels a mask holds; boxes are rounded to whole pixels and clipped.

    Four reads a box, whatever its size, from a summed-area table (Crow 1984); 0 for a box without a pixel.
    """
    height, width = mask.shape
    table = jnp.pad(jnp.cumsum(jnp.cumsum(mask.astype(jnp.int32), axis=0), axis=1), ((1, 0), (1, 0)))
    corners = jnp.clip(jnp.round(jnp.asarray(boxes)), 0, jnp.array([width, height] * 2)).astype(jnp.int32)
    left, top, right, bottom = corners.T
    inside = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
    area = jnp.maximum(right - left, 0) * jnp.maximum(bottom - top, 0)
    return jnp.where(area > 0, inside / jnp.maximum(area, 1), 0.0)


def generalized_box_iou(
    first: Float[Array | np.ndarray, "N 4"], second: Float[Array | np.ndarray, "M 4"]
) -> Float[Array, "N M"]:
    """Returns IoU minus the share of the pair's hull that neither covers (Rezatofighi et al. 2019): -1 to 1."""
    first, second = jnp.asarray(first), jnp.asarray(second)
    shared = box_intersection(first, second)
    union = box_area(first)[:, None] + box_area(second)[None, :] - shared
    hull = jnp.maximum(first[:, None, 2:], second[None, :, 2:]) - jnp.minimum(first[:, None, :2], second[None, :, :2])
    hull_area = hull[..., 0] * hull[..., 1]
    overlap = jnp.where(union > 0, shared / jnp.where(union > 0, union, 1), 0)
    return overlap - jnp.where(hull_area > 0, (hull_area - union) / jnp.where(hull_area > 0, hull_area, 1), 0)


def encode_boxes(
    boxes: Float[Array | np.ndarray, "*N 4"],
    anchors: Float[Array | np.ndarray, "*N 4"],
    *,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> Float[Array, "*N 4"]:
    """Returns the deltas (dx, dy, dw, dh) that lead from each anchor to its box, times `weights`.

    Both need sides above 0: give padding the box [0, 0, 1, 1].
    """
    boxes, anchors = jnp.asarray(boxes), jnp.asarray(anchors)
    sides, centres = anchors[..., 2:] - anchors[..., :2], (anchors[..., 2:] + anchors[..., :2]) / 2
    wanted, middle = boxes[..., 2:] - boxes[..., :2], (boxes[..., 2:] + boxes[..., :2]) / 2
    deltas = jnp.concatenate([(middle - centres) / sides, jnp.log(wanted / sides)], axis=-1)
    return deltas * jnp.asarray(weights, deltas.dtype)


def decode_boxes(
    deltas: Float[Array | np.ndarray, "*N 4"],
    anchors: Float[Array | np.ndarray, "*#N 4"],
    *,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> Float[Array, "*N 4"]:
    """The inverse of `encode_boxes`; a side grows at most by 1000 / 16."""
    deltas, anchors = jnp.asarray(deltas), jnp.asarray(anchors)
    sides, centres = anchors[..., 2:] - anchors[..., :2], (anchors[..., 2:] + anchors[..., :2]) / 2
    deltas = deltas / jnp.asarray(weights, deltas.dtype)
    middle = deltas[..., :2] * sides + centres
    half = jnp.exp(jnp.minimum(deltas[..., 2:], LARGEST_GROWTH)) * sides / 2
    return jnp.concatenate([middle - half, middle + half], axis=-1)


def clip_boxes(boxes: Float[Array | np.ndarray, "*N 4"], size: Float[Array | np.ndarray, "*#N 2"]) -> Array:
    """Returns the boxes cut to images of `size` (height, width), which broadcasts against the boxes' leading axes."""
    limit = jnp.asarray(size)[..., ::-1]
    return jnp.clip(jnp.asarray(boxes), 0, jnp.concatenate([limit, limit], axis=-1))


def make_anchors(
    image_size: tuple[int, int],
    grids: Sequence[tuple[int, int]],
    *,
    sizes: Sequence[Sequence[float] | float] = (32, 64, 128, 256, 512),
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    offset: float = 0.0,
) -> tuple[Float[np.ndarray, "_ 4"], ...]:
    """Returns the anchors of each level: host constants, row by row of its grid, innermost the shapes of a cell.

    A shape of size s and ratio r (height to width) is s / sqrt(r) wide and s * sqrt(r) high, rounded to whole pixels
    either side of the centre.

    Args:
      image_size: (height, width) in pixels.
      grids: (rows, columns) of each level.
      sizes: of each level, in pixels: one, or several.
      ratios: heights to widths.
      offset: of the centres, in strides: 0 as torchvision has it, 0.5 puts them into the middle of a cell.

    Raises:
      ValueError: not as many sizes as grids.
    """
    if len(sizes) != len(grids):
        raise ValueError(f"There should be one anchor size a level, {len(grids)}; got {len(sizes)}: {tuple(sizes)}.")
    levels = []
    for (rows, columns), size in zip(grids, sizes):
        own = np.atleast_1d(np.asarray(size, np.float32))
        root = np.sqrt(np.asarray(ratios, np.float32))
        width, height = (own[None] / root[:, None]).reshape(-1), (own[None] * root[:, None]).reshape(-1)
        cell = np.round(np.stack([-width, -height, width, height], axis=1) / 2)
        y = (np.arange(rows) + offset) * (image_size[0] // rows)
        x = (np.arange(columns) + offset) * (image_size[1] // columns)
        y, x = np.meshgrid(y, x, indexing="ij")
        centres = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
        levels.append((centres + cell[None]).reshape(-1, 4).astype(np.float32))
    return tuple(levels)


def pyramid_level(
    boxes: Float[Array | np.ndarray, "*N 4"],
    *,
    finest: int = 2,
    coarsest: int = 5,
    canonical_size: float = 224.0,
    canonical_level: int = 4,
) -> Int[Array, "*N"]:
    """Returns the level whose features describe each box (Lin et al. 2017, equation 1).

    A box of `canonical_size` pixels a side belongs to `canonical_level`, one of half the side to the level below.
    """
    side = jnp.sqrt(jnp.maximum(box_area(boxes), 1e-12))
    level = jnp.floor(canonical_level + jnp.log2(side / canonical_size) + 1e-6)
    return jnp.clip(level, finest, coarsest).astype(jnp.int32)
