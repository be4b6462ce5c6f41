"""Greedy non-maximum suppression of a fixed number of boxes: no data-dependent shape, no loop over boxes.

The greedy result is the only fixed point of "a box stays unless a better box that stays overlaps it". Applying that
rule to all boxes at once settles box k after k rounds at the latest, in practice all of them in four to eight.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxseg.ops.boxes import box_iou


def nms(
    boxes: Float[Array | np.ndarray, "N 4"],
    scores: Float[Array | np.ndarray, " N"],
    *,
    threshold: float,
    valid: Bool[Array | np.ndarray, " N"] | None = None,
    max_output: int | None = None,
) -> tuple[Int[Array, " K"], Bool[Array, " K"]]:
    """Returns (indices by falling score, which of them count): boxes without a better one of larger IoU beside them.

    Args:
      boxes: xyxy.
      scores: higher is better; of equals the first is.
      threshold: boxes are suppressed above this IoU, not at it.
      valid: which boxes there are; None: all.
      max_output: K; None: N.
    """
    return batched_nms(
        boxes,
        scores,
        jnp.zeros(len(scores), jnp.int32),
        threshold=threshold,
        valid=valid,
        max_output=max_output,
    )


def batched_nms(
    boxes: Float[Array | np.ndarray, "N 4"],
    scores: Float[Array | np.ndarray, " N"],
    groups: Int[Array | np.ndarray, " N"],
    *,
    threshold: float,
    valid: Bool[Array | np.ndarray, " N"] | None = None,
    max_output: int | None = None,
) -> tuple[Int[Array, " K"], Bool[Array, " K"]]:
    """`nms` in which only boxes of one group (class, pyramid level) suppress each other."""
    boxes, scores, groups = jnp.asarray(boxes), jnp.asarray(scores), jnp.asarray(groups)
    present = jnp.ones(len(scores), bool) if valid is None else jnp.asarray(valid)
    order = jnp.argsort(jnp.where(present, -scores, jnp.inf), stable=True)
    keep = _settle(boxes[order], groups[order], present[order], threshold)
    # A stable sort moves what stays to the front and leaves its order.
    front = jnp.argsort(~keep, stable=True)[:max_output]
    return order[front].astype(jnp.int32), keep[front]


def _settle(boxes: Array, groups: Array, present: Array, threshold: float) -> Array:
    """Which of the boxes, best first, stay."""
    number = len(boxes)
    better = jnp.arange(number)[:, None] < jnp.arange(number)[None, :]
    rivals = (box_iou(boxes, boxes) > threshold) & better & (groups[:, None] == groups[None, :])

    def round_(state):
        keep, _ = state
        after = present & ~(rivals & keep[:, None]).any(axis=0)
        return after, (after != keep).any()

    keep, _ = jax.lax.while_loop(lambda state: state[1], round_, (present, jnp.array(True)))
    return keep
