"""What every loss does first and last: bring logits and labels to one form, and average without dividing by zero."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, Num

from jaxseg.typing import UserError

ACTIVATIONS = ("softmax", "sigmoid")
AxisName = str | tuple[str, ...] | None
Logits = Num[Array | np.ndarray, "B *S K"]
SoftTargets = Num[Array | np.ndarray, "B *S K"] | Bool[Array | np.ndarray, "B *S K"]
Labels = Integer[Array | np.ndarray, "B *S"] | Bool[Array | np.ndarray, "B *S"] | SoftTargets


class Prepared(NamedTuple):
    """Logits and truth in one form.

    Attributes:
      logits: float32, 0 where the pixel is ignored, so that nothing that stands there reaches a sum or a gradient.
      target: float32 truth by class: one-hot, or the soft targets as given; 0 where the pixel is ignored.
      mask: 1 where the pixel counts, 0 where it is ignored.
    """

    logits: Float[Array, "B *S K"]
    target: Float[Array, "B *S K"]
    mask: Float[Array, "B *S"]


def prepare(logits: Logits, labels: Labels, *, ignore_label: int | None = None) -> Prepared:
    """Brings logits and labels of any kind to float32 arrays of one shape.

    Args:
      logits: K scores a pixel.
      labels: class ids `(B, *S)`, or soft targets `(B, *S, K)` (one-hot, multi-hot for sigmoid heads, mixtures). With
        one logit a pixel (K = 1) the id 1 is the foreground. An id outside 0..K-1 has an empty target.
      ignore_label: pixels of this id count nowhere. In soft targets a pixel is ignored if any of its K entries equals
        this value (write it into all of them).

    Raises:
      ValueError: the shapes of logits and labels do not fit.
    """
    logits, labels = jnp.asarray(logits).astype(jnp.float32), jnp.asarray(labels)
    num_classes = logits.shape[-1]
    if labels.shape == logits.shape:
        target = labels.astype(jnp.float32)
        ignored = jnp.zeros(labels.shape[:-1], bool)
        if ignore_label is not None:
            ignored = jnp.any(target == ignore_label, axis=-1)
    elif labels.shape == logits.shape[:-1]:
        if not (jnp.issubdtype(labels.dtype, jnp.integer) or labels.dtype == jnp.bool_):
            raise ValueError(f"Labels of shape {labels.shape} should be integer class ids, but are {labels.dtype}.")
        ids = labels.astype(jnp.int32)
        ignored = jnp.zeros(ids.shape, bool) if ignore_label is None else ids == ignore_label
        classes = jnp.arange(1, 2) if num_classes == 1 else jnp.arange(num_classes)
        target = (ids[..., None] == classes).astype(jnp.float32)
    else:
        raise ValueError(
            f"Labels should have shape {logits.shape[:-1]} (class ids) or {logits.shape} (soft targets) for logits of "
            f"shape {logits.shape}, but have {labels.shape}."
        )
    counted = ~ignored[..., None]
    return Prepared(jnp.where(counted, logits, 0.0), jnp.where(counted, target, 0.0), (~ignored).astype(jnp.float32))


def probabilities(logits: Float[Array, "B *S K"], *, activation: str) -> Float[Array, "B *S K"]:
    """Softmax over the classes, or one sigmoid a class.

    Raises:
      UserError: `activation` is neither "softmax" nor "sigmoid".
    """
    check_activation(activation)
    return jax.nn.softmax(logits, axis=-1) if activation == "softmax" else jax.nn.sigmoid(logits)


def check_activation(activation: str) -> None:
    """Raises UserError unless `activation` is one we have."""
    if activation not in ACTIVATIONS:
        raise UserError(f"A loss's activation should be one of {' or '.join(ACTIVATIONS)}, but is {activation!r}.")


def foreground(*arrays: Float[Array, "... K"], ignore_background: bool) -> tuple[Float[Array, "... L"], ...]:
    """Drops channel 0 of each array if asked to.

    Raises:
      UserError: there is only one channel, so that nothing would be left.
    """
    if not ignore_background:
        return arrays
    if arrays[0].shape[-1] < 2:
        raise UserError(
            "ignore_background=True leaves no class of a one-channel output: a sigmoid head has no background channel, "
            "set ignore_background=False."
        )
    return tuple(array[..., 1:] for array in arrays)


def spatial_sum(values: Float[Array, "B *S K"]) -> Float[Array, "B K"]:
    """Sums over the pixels of each sample and class."""
    return jnp.sum(values, axis=tuple(range(1, values.ndim - 1)))


def pool(*sums: Float[Array, "B ..."], batch: bool, axis_name: AxisName = None) -> tuple[Float[Array, "B ..."], ...]:
    """Where `batch`, replaces each sample's sums by those of the whole batch, and of all devices under `axis_name`."""
    if not batch:
        return sums
    totals = tuple(jnp.sum(value, axis=0, keepdims=True) for value in sums)
    if axis_name is not None:
        totals = jax.lax.psum(totals, axis_name)
    return tuple(jnp.broadcast_to(total, value.shape) for total, value in zip(totals, sums))


def ratio(numerator: Array, denominator: Array, *, empty: float) -> Array:
    """`numerator / denominator`, and `empty` where the denominator is 0, with finite gradients there too."""
    some = denominator > 0
    return jnp.where(some, numerator / jnp.where(some, denominator, 1.0), empty)


def weighted_mean(
    values: Float[Array, "B *S"], weights: Float[Array, "B *S"], *, batch: bool = False, axis_name: AxisName = None
) -> Float[Array, "B"]:
    """Each sample's weighted mean over its pixels (of the pooled batch where `batch`); 0 where no pixel counts."""
    axes = tuple(range(1, values.ndim))
    # A weight of 0 silences an infinite value as well.
    total = jnp.sum(jnp.where(weights > 0, values, 0.0) * weights, axis=axes)
    total, weight = pool(total, jnp.sum(weights, axis=axes), batch=batch, axis_name=axis_name)
    return ratio(total, weight, empty=0.0)
