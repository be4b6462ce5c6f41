"""Objects of any image from a detector of fixed size: tiles, flips, masks at full size, duplicates merged."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxseg.ops import run_length
from jaxseg.predict.sliding_window import window_starts
from jaxseg.typing import Instances

DetectFn = Callable[[Any, Any], dict[str, Any]]  # (image (B, h, w, C), size (B, 2)) -> detections, batched
DUPLICATE = 0.5  # share of the smaller of two objects of one class that both cover


class _Found(NamedTuple):
    """One object at full size; `cut` tells that it touches an edge of its tile within the image."""

    mask: run_length.RunLength
    box: Float[np.ndarray, " 4"]
    score: float
    label: int
    cut: bool


def predict_instances(
    detect: DetectFn,
    image: Float[np.ndarray, "H W C"],
    *,
    window: Sequence[int],
    overlap: float = 0.25,
    batch_size: int = 1,
    flip_axes: Sequence[int] = (),
    min_score: float = 0.05,
    mask_threshold: float = 0.5,
    min_size: int = 1,
) -> Instances:
    """Returns the objects of an image, by falling score.

    Every tile and flip goes through the detector at one size, so that one compiled program serves all images. Of
    objects that are found several times (in overlapping tiles, in flips) one stays: rather one that no tile's edge
    cuts, then that of the higher score.

    Args:
      detect: `(image, size) -> {"boxes", "scores", "labels", "valid", "masks"}`, as `tasks.instance(...).predict`.
      image: prepared as for training.
      window: (h, w) of the tiles; smaller images are padded with zeros below and to the right.
      overlap: of neighbouring tiles, a fraction; objects should fit into it.
      batch_size: tiles at a time.
      flip_axes: also predict the image flipped along each combination of these axes (0 rows, 1 columns).
      min_score: weaker objects are left out.
      mask_threshold: probability from which a pixel belongs to the object.
      min_size: pixels that a mask needs.
    """
    shape = image.shape[:2]
    flips = [axes for n in range(len(flip_axes) + 1) for axes in itertools.combinations(flip_axes, n)]
    starts = [window_starts(max(size, w), w, overlap=overlap) for size, w in zip(shape, window)]
    views = [(corner, axes) for corner in itertools.product(*starts) for axes in flips]
    found: list[_Found] = []
    for first in range(0, len(views), batch_size):
        chosen = views[first : first + batch_size]
        # the last batch is made as large as the others
        filled = chosen + chosen[-1:] * (batch_size - len(chosen))
        tiles = [_tile(image, corner, axes, window) for corner, axes in filled]
        sizes = np.array([size for _, size in tiles], np.float32)
        result = detect(np.stack([tile for tile, _ in tiles]), sizes)
        result = {name: np.asarray(value) for name, value in result.items()}
        for row, (corner, axes) in enumerate(chosen):
            own = {name: value[row] for name, value in result.items()}
            size = tuple(int(n) for n in sizes[row])
            found += _objects(own, corner, axes, size, shape, min_score, mask_threshold, min_size)
    return _merge(found)


def _tile(image, corner, axes, window) -> tuple[np.ndarray, tuple[int, int]]:
    """Returns the tile, flipped within its own pixels and padded to the window, and its size without the padding."""
    part = image[tuple(slice(start, start + size) for start, size in zip(corner, window))]
    size = part.shape[:2]
    part = np.flip(part, axes) if axes else part
    missing = [(0, length - have) for length, have in zip(window, size)]
    return np.pad(part, [*missing, (0, 0)]), size


def _objects(own, corner, axes, size, shape, min_score, mask_threshold, min_size) -> list[_Found]:
    found = []
    height, width = size
    for row in np.flatnonzero(own["valid"] & (own["scores"] >= min_score)):
        box, mask = own["boxes"][row].astype(np.float64), own["masks"][row]
        if 0 in axes:
            box, mask = np.array([box[0], height - box[3], box[2], height - box[1]]), mask[::-1]
        if 1 in axes:
            box, mask = np.array([width - box[2], box[1], width - box[0], box[3]]), mask[:, ::-1]
        # an edge of the tile that is also the image's cuts nothing
        inner = (corner[1] > 0, corner[0] > 0, corner[1] + width < shape[1], corner[0] + height < shape[0])
        near = (box[0] < 1, box[1] < 1, box[2] > width - 1, box[3] > height - 1)
        box = box + np.array([corner[1], corner[0]] * 2)
        pixels = paste(mask, box, shape) > mask_threshold
        if pixels.sum() >= max(min_size, 1):
            cut = any(a and b for a, b in zip(inner, near))
            found.append(
                _Found(run_length.encode(pixels), box, float(own["scores"][row]), int(own["labels"][row]), cut)
            )
    return found


def paste(
    mask: Float[np.ndarray, "m m"], box: Float[np.ndarray, " 4"], shape: tuple[int, int]
) -> Float[np.ndarray, "H W"]:
    """Returns one mask at full size, as `ops.paste_masks(method="grid")`; only the box's own pixels are computed."""
    result = np.zeros(shape, np.float32)
    spans, weights = [], []
    for low, high, extent, cells in (
        (box[1], box[3], shape[0], mask.shape[0]),
        (box[0], box[2], shape[1], mask.shape[1]),
    ):
        margin = (high - low) / cells  # the outermost cells fade over half a cell
        span = slice(max(int(np.floor(low - margin)), 0), min(int(np.ceil(high + margin)), extent))
        pixel = np.arange(span.start, max(span.stop, span.start)) + 0.5
        where = (pixel - low) / max(high - low, 1e-6) * cells - 0.5
        weights.append(np.maximum(0.0, 1.0 - np.abs(where[:, None] - np.arange(cells))))
        spans.append(span)
    result[tuple(spans)] = weights[0] @ mask @ weights[1].T
    return result


def _merge(found: Sequence[_Found]) -> Instances:
    """Keeps one of each set of duplicates, whole ones first."""
    order = sorted(found, key=lambda one: (one.cut, -one.score))
    shared = _covered([one.mask for one in order])
    kept: list[int] = []
    for place, one in enumerate(order):
        if not any(shared[place, other] > DUPLICATE for other in kept if order[other].label == one.label):
            kept.append(place)
    chosen = sorted((order[place] for place in kept), key=lambda one: -one.score)
    return Instances(
        masks=tuple(one.mask for one in chosen),
        labels=np.array([one.label for one in chosen], np.int32),
        scores=np.array([one.score for one in chosen], np.float32),
        crowd=np.zeros(len(chosen), bool),
        boxes=np.array([one.box for one in chosen], np.float64).reshape(-1, 4),
    )


def _covered(masks: Sequence[run_length.RunLength]) -> Float[np.ndarray, "N N"]:
    """Returns which share of the smaller of each pair both cover."""
    every: Bool[np.ndarray, " N"] = np.ones(len(masks), bool)
    inside = run_length.overlaps(masks, masks, crowd=every)  # of each row's own mask
    return np.maximum(inside, inside.T)


def above(instances: Instances, score: float) -> Instances:
    """Returns the objects of at least that score."""
    rows = np.flatnonzero(instances.scores >= score)
    boxes = None if instances.boxes is None else instances.boxes[rows]
    masks = tuple(instances.masks[row] for row in rows)
    return Instances(masks, instances.labels[rows], instances.scores[rows], instances.crowd[rows], boxes)
