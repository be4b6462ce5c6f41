"""Detections of fixed number from what the heads of Mask R-CNN say: pure functions of one image, for jit and vmap.

A list of boxes is `(boxes, scores, ..., valid)`; what is not valid holds the harmless box [0, 0, 1, 1].
Source: Ren et al. 2015; torchvision 0.29's constants; methods.md, sections 10.5 and 10.10.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxseg import ops

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the second stage's deltas
SMALLEST_PROPOSAL, SMALLEST_DETECTION = 1e-3, 1e-2  # pixels a side
HARMLESS = (0.0, 0.0, 1.0, 1.0)


class Proposals(NamedTuple):
    """Boxes that may hold an object, best first."""

    boxes: Float[Array, "*B P 4"]
    scores: Float[Array, "*B P"]
    valid: Bool[Array, "*B P"]


class Detections(NamedTuple):
    """Objects found, best first; `overflow` tells that more passed the score threshold than suppression looked at."""

    boxes: Float[Array, "*B D 4"]
    scores: Float[Array, "*B D"]
    labels: Int[Array, "*B D"]
    valid: Bool[Array, "*B D"]
    overflow: Bool[Array, "*B"]


def harmless(boxes: Float[Array, "*N 4"], valid: Bool[Array, "*N"]) -> Float[Array, "*N 4"]:
    """Returns the boxes with [0, 0, 1, 1] where they are not valid: no division by a side of 0 later."""
    return jnp.where(valid[..., None], boxes, jnp.asarray(HARMLESS, boxes.dtype))


def propose(
    objectness: Sequence[Float[Array, " _"]],
    deltas: Sequence[Float[Array, "_ 4"]],
    anchors: Sequence[Float[Array | np.ndarray, "_ 4"]],
    size: Float[Array, " 2"],
    *,
    before: int,
    after: int,
    threshold: float = 0.7,
) -> Proposals:
    """Returns the `after` best boxes of all levels.

    Of each level the `before` anchors of the highest logits are decoded, clipped and thinned by suppression within
    their level.

    Args:
      objectness: logits of each level's anchors.
      deltas: their box deltas.
      anchors: xyxy.
      size: (height, width) of the image, without its padding.
      before, after: how many go into suppression a level, and come out of all levels.
      threshold: IoU of suppression.
    """
    boxes, logits, valid = [], [], []
    for level_logits, level_deltas, level_anchors in zip(objectness, deltas, anchors):
        best, rows = jax.lax.top_k(level_logits, min(before, len(level_logits)))
        found = ops.clip_boxes(ops.decode_boxes(level_deltas[rows], jnp.asarray(level_anchors)[rows]), size)
        large = ((found[:, 2:] - found[:, :2]) >= SMALLEST_PROPOSAL).all(-1)
        index, kept = ops.nms(found, best, threshold=threshold, valid=large)
        boxes.append(found[index])
        logits.append(best[index])
        valid.append(kept)
    every, present = jnp.concatenate(logits), jnp.concatenate(valid)
    ranked, rows = jax.lax.top_k(jnp.where(present, every, -jnp.inf), min(after, len(every)))
    present = jnp.isfinite(ranked)
    return Proposals(
        harmless(jnp.concatenate(boxes)[rows], present), jax.nn.sigmoid(jnp.where(present, ranked, -1e4)), present
    )


def detect(
    logits: Float[Array, "P K"],
    deltas: Float[Array, "P K 4"],
    proposals: Float[Array, "P 4"],
    valid: Bool[Array, " P"],
    size: Float[Array, " 2"],
    *,
    score_threshold: float,
    threshold: float,
    most: int,
    before: int = 1000,
) -> Detections:
    """Returns the `most` best objects of one image, suppressed class by class.

    Args:
      logits: of K classes, background first.
      deltas: of each class's box.
      proposals: what they refine.
      valid: which proposals there are.
      size: (height, width) of the image, without its padding.
      score_threshold: least probability.
      threshold: IoU of suppression.
      most: D.
      before: how many boxes go into suppression.
    """
    foreground = logits.shape[-1] - 1
    scores = jax.nn.softmax(logits, axis=-1)[:, 1:].reshape(-1)
    boxes = ops.decode_boxes(deltas[:, 1:], proposals[:, None], weights=BOX_WEIGHTS).reshape(-1, 4)
    boxes = ops.clip_boxes(boxes, size)
    labels = jnp.tile(jnp.arange(1, foreground + 1, dtype=jnp.int32), len(logits))
    large = ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST_DETECTION).all(-1)
    passed = jnp.repeat(valid, foreground) & (scores > score_threshold) & large
    best, rows = jax.lax.top_k(jnp.where(passed, scores, -1.0), min(before, len(scores)))
    index, kept = ops.batched_nms(
        boxes[rows], best, labels[rows], threshold=threshold, valid=best > 0, max_output=min(most, len(best))
    )
    rows = rows[index]
    return Detections(
        harmless(boxes[rows], kept),
        jnp.where(kept, scores[rows], 0.0),
        jnp.where(kept, labels[rows], 0),
        kept,
        passed.sum() > len(best),
    )
