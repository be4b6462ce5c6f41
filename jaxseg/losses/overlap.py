"""Losses of overlapping regions: Dice, Jaccard, generalised Dice, Tversky and focal Tversky.

All are computed class by class from sums over the pixels, and averaged over the classes. With `batch=True` the sums run
over the whole batch (over devices too, under `axis_name`) before the ratio is taken, as nnU-Net's batch Dice.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.losses.targets import AxisName, Labels, Logits, foreground, pool, prepare, probabilities, ratio, spatial_sum

_ALMOST_NOTHING = 1e-6  # below this (in pixels, or in 1 - index) a class is absent, a power is replaced by a line


def dice_loss(
    logits: Logits,
    labels: Labels,
    *,
    ignore_background: bool = False,
    batch: bool = False,
    squared: bool = False,
    smooth: float = 1e-5,
    activation: str = "softmax",
    ignore_label: int | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "B"]:
    """1 - (2 sum(p g) + smooth) / (sum(p) + sum(g) + smooth), averaged over the classes (Milletari et al. 2016).

    A class that is neither there nor predicted costs 0.

    Args:
      logits: scores; `activation` makes them probabilities p.
      labels: class ids `(B, *S)` or soft targets `(B, *S, K)`; see `targets.prepare`.
      ignore_background: leave channel 0 out of the mean.
      batch: one ratio for the whole batch instead of one a sample; the value is repeated.
      squared: p and g are squared in the denominator, as in V-Net.
      smooth: added above and below the line.
      activation: "softmax" (exclusive classes) or "sigmoid" (regions).
      ignore_label: pixels of this label count nowhere.
      axis_name: the devices' axis to sum over, used with `batch`.

    Raises:
      UserError: unknown `activation`, or `ignore_background` of a single channel.
    """
    both, predicted, true = _sums(
        logits, labels, ignore_background, batch, squared, activation, ignore_label, axis_name
    )
    return jnp.mean(1.0 - ratio(2.0 * both + smooth, predicted + true + smooth, empty=1.0), axis=-1)


def jaccard_loss(
    logits: Logits,
    labels: Labels,
    *,
    ignore_background: bool = False,
    batch: bool = False,
    squared: bool = False,
    smooth: float = 1e-5,
    activation: str = "softmax",
    ignore_label: int | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "B"]:
    """1 - (2 I + smooth) / (2 U + smooth) with U = sum(p) + sum(g) - I, averaged over the classes.

    Options as in `dice_loss`. (Both sides carry the 2 so that `smooth` means the same as in Dice, as in MONAI.)
    """
    both, predicted, true = _sums(
        logits, labels, ignore_background, batch, squared, activation, ignore_label, axis_name
    )
    return jnp.mean(1.0 - ratio(2.0 * both + smooth, 2.0 * (predicted + true - both) + smooth, empty=1.0), axis=-1)


def generalized_dice_loss(
    logits: Logits,
    labels: Labels,
    *,
    ignore_background: bool = False,
    batch: bool = False,
    smooth: float = 1e-5,
    activation: str = "softmax",
    ignore_label: int | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "B"]:
    """Dice over all classes at once, each weighted by 1 / (its true volume)^2 (Sudre et al. 2017).

    An absent class gets the sample's largest finite weight. `smooth` stands beside sums of order 1 / volume: choose it
    far below 1 / (the smallest class's volume in voxels). Options as in `dice_loss`.
    """
    both, predicted, true = _sums(logits, labels, ignore_background, batch, False, activation, ignore_label, axis_name)
    present = true > _ALMOST_NOTHING
    weights = jnp.where(present, 1.0 / jnp.square(jnp.where(present, true, 1.0)), 0.0)
    weights = jnp.where(present, weights, jnp.max(weights, axis=-1, keepdims=True))
    numerator = 2.0 * jnp.sum(weights * both, axis=-1) + smooth
    return 1.0 - ratio(numerator, jnp.sum(weights * (predicted + true), axis=-1) + smooth, empty=1.0)


def tversky_loss(
    logits: Logits,
    labels: Labels,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    ignore_background: bool = False,
    batch: bool = False,
    smooth: float = 1e-5,
    activation: str = "softmax",
    ignore_label: int | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "B"]:
    """1 - Tversky index, averaged over the classes (Salehi et al. 2017).

    Args:
      alpha: weight of false positives.
      beta: weight of false negatives; `alpha = beta = 0.5` is Dice.
      Other options as in `dice_loss`.
    """
    sums = _sums(logits, labels, ignore_background, batch, False, activation, ignore_label, axis_name)
    return jnp.mean(1.0 - _tversky_index(*sums, alpha=alpha, beta=beta, smooth=smooth), axis=-1)


def focal_tversky_loss(
    logits: Logits,
    labels: Labels,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 4.0 / 3.0,
    ignore_background: bool = False,
    batch: bool = False,
    smooth: float = 1e-5,
    activation: str = "softmax",
    ignore_label: int | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "B"]:
    """(1 - Tversky index)^(1 / gamma) by class, averaged over the classes (Abraham and Khan 2019).

    Where an index is within 1e-6 of 1 the power continues as a straight line to 0, so that its slope stays finite.

    Args:
      gamma: 4/3 in the paper; above 1 it turns the attention to classes that overlap badly.
      Other options as in `tversky_loss`.
    """
    sums = _sums(logits, labels, ignore_background, batch, False, activation, ignore_label, axis_name)
    miss = 1.0 - _tversky_index(*sums, alpha=alpha, beta=beta, smooth=smooth)
    power, line = 1.0 / gamma, _ALMOST_NOTHING
    curved = jnp.power(jnp.maximum(miss, line), power)
    return jnp.mean(jnp.where(miss > line, curved, miss * line ** (power - 1.0)), axis=-1)


def _sums(
    logits: Logits,
    labels: Labels,
    ignore_background: bool,
    batch: bool,
    squared: bool,
    activation: str,
    ignore_label: int | None,
    axis_name: AxisName,
) -> tuple[Float[Array, "B L"], Float[Array, "B L"], Float[Array, "B L"]]:
    """Sums of p g, p and g (or of their squares) by sample and class, over counted pixels, pooled where asked."""
    prepared = prepare(logits, labels, ignore_label=ignore_label)
    predicted = probabilities(prepared.logits, activation=activation) * prepared.mask[..., None]
    predicted, true = foreground(predicted, prepared.target, ignore_background=ignore_background)
    order = 2 if squared else 1
    sums = (spatial_sum(predicted * true), spatial_sum(predicted**order), spatial_sum(true**order))
    both, predicted, true = pool(*sums, batch=batch, axis_name=axis_name)
    return both, predicted, true


def _tversky_index(both, predicted, true, *, alpha: float, beta: float, smooth: float) -> Float[Array, "B L"]:
    """TP / (TP + alpha FP + beta FN) from the three sums; 1 where a class is neither there nor predicted."""
    wrong = alpha * (predicted - both) + beta * (true - both)
    return ratio(both + smooth, both + wrong + smooth, empty=1.0)
