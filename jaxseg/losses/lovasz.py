"""The Lovász extension of the Jaccard loss (Berman, Rannen Triki and Blaschko 2018)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.losses.targets import AxisName, Labels, Logits, foreground, prepare, probabilities, ratio
from jaxseg.typing import UserError


def lovasz_softmax_loss(
    logits: Logits,
    labels: Labels,
    *,
    classes: str = "present",
    ignore_background: bool = False,
    batch: bool = False,
    activation: str = "softmax",
    ignore_label: int | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "B"]:
    """The convex surrogate of 1 - IoU on the errors |g - p|, averaged over the classes; equals 1 - IoU on hard maps.

    Args:
      classes: "present" averages over the classes that the truth holds (0 where it holds none), "all" over every one.
      batch: sort the pixels of the whole batch together (of all devices under `axis_name`, which gathers them) instead
        of sample by sample; the value is repeated.
      activation: "softmax", or "sigmoid" for regions (errors of the sigmoids; not the hinge of the binary paper).
      Other arguments as in `overlap.dice_loss`.

    Raises:
      UserError: `classes` is neither "present" nor "all".
    """
    if classes not in ("present", "all"):
        raise UserError(f"lovasz_softmax_loss's classes should be 'present' or 'all', but is {classes!r}.")
    prepared = prepare(logits, labels, ignore_label=ignore_label)
    probs = probabilities(prepared.logits, activation=activation)
    probs, target = foreground(probs, prepared.target, ignore_background=ignore_background)
    samples, channels = target.shape[0], target.shape[-1]
    counted = jnp.broadcast_to(prepared.mask[..., None], target.shape)
    # One row a sample (or one for all), one column a pixel: (rows, L, pixels).
    errors, target, counted = (
        _rows(value.reshape(samples, -1, channels), batch, axis_name)
        for value in (jnp.abs(target - probs), target, counted)
    )
    weights = jax.lax.stop_gradient(_weights(errors, target, counted))
    by_class = jnp.sum(errors * weights, axis=-1)
    present = jnp.sum(target, axis=-1) > 0
    averaged = present.astype(jnp.float32) if classes == "present" else jnp.ones_like(by_class)
    loss = ratio(jnp.sum(by_class * averaged, axis=-1), jnp.sum(averaged, axis=-1), empty=0.0)
    return jnp.broadcast_to(loss, (samples,))


def _rows(values: Float[Array, "B P L"], batch: bool, axis_name: AxisName) -> Float[Array, "R L Q"]:
    if batch:
        if axis_name is not None:
            values = jax.lax.all_gather(values, axis_name, axis=0, tiled=True)
        values = values.reshape(1, -1, values.shape[-1])
    return jnp.swapaxes(values, 1, 2)


def _weights(
    errors: Float[Array, "R L Q"], target: Float[Array, "R L Q"], counted: Float[Array, "R L Q"]
) -> Float[Array, "R L Q"]:
    """The gradient of the extension: how much the Jaccard loss grows when a pixel joins those of larger error."""
    # Ignored pixels go to the very end, where they change nobody else's weight, and get none themselves.
    order = jnp.argsort(jnp.where(counted > 0, -errors, 1.0), axis=-1)
    place = jnp.argsort(order, axis=-1)
    sorted_target = jnp.take_along_axis(target, order, axis=-1)
    total = jnp.sum(target, axis=-1, keepdims=True)
    intersection = total - jnp.cumsum(sorted_target, axis=-1)
    union = total + jnp.cumsum(1.0 - sorted_target, axis=-1)
    union_before = jnp.concatenate([total, union[..., :-1]], axis=-1)
    # The step of 1 - intersection / union, as one fraction: the difference of two quotients would lose its digits in
    # large images. The first error of an absent class raises the loss from 0 to 1 at once.
    step = sorted_target * union + intersection * (1.0 - sorted_target)
    growth = ratio(step, union * union_before, empty=1.0)
    return jnp.take_along_axis(growth, place, axis=-1) * counted
