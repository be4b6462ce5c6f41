"""What the heads of a detector should say, and how far they are from it: pure functions of one image, fixed shapes.

Objects are padded: `valid` tells which rows are there, and the others hold a harmless box. Sums and their normalisers
are returned apart, so that a batch divides once. Source: Ren et al. 2015, He et al. 2017; torchvision 0.29's constants.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxseg import ops

NEUTRAL = 0.5  # a box with a larger share within a crowd region or ignored pixels is no negative
SMOOTH = 1 / 9  # where the box loss turns from a square to a line


class Matches(NamedTuple):
    """For each box: positive, negative, or neither; and the row of its object, which counts where it is positive."""

    positive: Bool[Array, " A"]
    negative: Bool[Array, " A"]
    row: Int[Array, " A"]


class Samples(NamedTuple):
    """K boxes to train on: positives first.

    Attributes:
      chosen: rows of the boxes that were drawn from.
      positive: an object's box, by its overlap.
      counts: drawn, and not there to fill up.
      row: the object of each.
    """

    chosen: Int[Array, " K"]
    positive: Bool[Array, " K"]
    counts: Bool[Array, " K"]
    row: Int[Array, " K"]


def match(
    overlaps: Float[Array, "G A"],
    valid: Bool[Array, " G"],
    *,
    high: float,
    low: float,
    keep_best: bool = False,
    neutral: Bool[Array, " A"] | None = None,
) -> Matches:
    """Gives each of A boxes the object that it overlaps most.

    Args:
      overlaps: intersection over union of objects and boxes.
      valid: which objects there are.
      high: boxes from this overlap on are positive.
      low: boxes below this are negative; between the two they are neither.
      keep_best: the boxes that overlap an object most are positive, however little that is (with the object that they
        themselves overlap most, as torchvision has it).
      neutral: boxes that are never negative.
    """
    known = jnp.where(valid[:, None], overlaps, -1.0)
    best, row = known.max(axis=0), known.argmax(axis=0).astype(jnp.int32)
    positive = best >= high
    if keep_best:
        most = known.max(axis=1, keepdims=True)
        positive = positive | ((known == most) & (most > 0)).any(axis=0)
    negative = ~positive & (best < low)
    if neutral is not None:
        negative = negative & ~neutral
    return Matches(positive, negative, row)


def draw(key: Array, matches: Matches, *, number: int, positive_share: float) -> tuple[Array, Array]:
    """Returns which positives and which negatives are drawn: `number` in all, at most that share of them positive."""
    most = int(number * positive_share)
    first, second = jax.random.split(key)
    size = matches.positive.shape[0]

    def ranks(key, chosen):
        """Places in a random order of the chosen ones."""
        order = jnp.argsort(jnp.where(chosen, jax.random.uniform(key, (size,)), 2.0))
        return jnp.zeros(size, jnp.int32).at[order].set(jnp.arange(size, dtype=jnp.int32))

    positive = matches.positive & (ranks(first, matches.positive) < most)
    negative = matches.negative & (ranks(second, matches.negative) < number - positive.sum())
    return positive, negative


def sample(key: Array, matches: Matches, *, number: int, positive_share: float = 0.25) -> Samples:
    """Returns K = `number` boxes: positives, negatives, then what fills up, each kind in random order."""
    first, second = jax.random.split(key)
    positive, negative = draw(first, matches, number=number, positive_share=positive_share)
    rank = jnp.where(positive, 2, 0) + jnp.where(negative, 1, 0) + jax.random.uniform(second, positive.shape)
    _, index = jax.lax.top_k(rank, number)
    return Samples(index.astype(jnp.int32), positive[index], (positive | negative)[index], matches.row[index])


def smooth_l1(found: Float[Array, "*N 4"], wanted: Float[Array, "*N 4"], *, beta: float = SMOOTH) -> Float[Array, "*N"]:
    """Returns the box loss: a square below `beta`, a line above it, summed over the four deltas."""
    away = jnp.abs(found - wanted)
    return jnp.where(away < beta, 0.5 * away**2 / beta, away - 0.5 * beta).sum(-1)


def proposal_losses(
    logits: Float[Array, " A"],
    deltas: Float[Array, "A 4"],
    anchors: Float[Array | np.ndarray, "A 4"],
    matches: Matches,
    positive: Bool[Array, " A"],
    negative: Bool[Array, " A"],
    boxes: Float[Array, "G 4"],
) -> tuple[Array, Array, Array]:
    """Returns (sum of the objectness loss, sum of the box loss, number of drawn anchors)."""
    drawn = positive | negative
    objectness = optax.sigmoid_binary_cross_entropy(logits, positive.astype(jnp.float32))
    wanted = ops.encode_boxes(boxes[matches.row], jnp.asarray(anchors))
    moved = smooth_l1(deltas, jnp.where(positive[:, None], wanted, 0.0))
    return (objectness * drawn).sum(), (moved * positive).sum(), drawn.sum().astype(jnp.float32)


def box_losses(
    logits: Float[Array, "K C"],
    deltas: Float[Array, "K C 4"],
    rois: Float[Array, "K 4"],
    samples: Samples,
    boxes: Float[Array, "G 4"],
    labels: Int[Array, " G"],
    *,
    weights: tuple[float, ...],
) -> tuple[Array, Array, Array]:
    """Returns (sum of the class loss, sum of the box loss, number of drawn boxes); class 0 is the background."""
    target = jnp.where(samples.positive, labels[samples.row], 0)
    classes = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    own = jnp.take_along_axis(deltas, target[:, None, None], axis=1)[:, 0]
    wanted = ops.encode_boxes(boxes[samples.row], rois, weights=weights)
    moved = smooth_l1(own, jnp.where(samples.positive[:, None], wanted, 0.0))
    counts = samples.counts.astype(jnp.float32)
    return (classes * counts).sum(), (moved * samples.positive).sum(), counts.sum()


def mask_loss(
    logits: Float[Array, "K m m C"],
    target: Float[Array, "K m m"],
    labels: Int[Array, " K"],
    positive: Bool[Array, " K"],
) -> tuple[Array, Array]:
    """Returns (sum over positives of the mean cross-entropy of their class's mask, number of positives)."""
    own = jnp.take_along_axis(logits, labels[:, None, None, None], axis=-1)[..., 0]
    values = optax.sigmoid_binary_cross_entropy(own, target).mean(axis=(1, 2))
    return (values * positive).sum(), positive.sum().astype(jnp.float32)
