"""Cross-entropies: softmax, binary, focal, top-k, and the weight map of the 2015 U-Net.

All average over the counted pixels of each sample. With `batch=True` both sides of the mean are summed over the whole
batch first (over devices too, under `axis_name`), which is PyTorch's mean over a batch.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Integer

from jaxseg.losses.targets import (
    AxisName,
    Labels,
    Logits,
    Prepared,
    check_activation,
    foreground,
    pool,
    prepare,
    probabilities,
    ratio,
    weighted_mean,
)
from jaxseg.typing import UserError

Weights = Sequence[float] | Float[Array | np.ndarray, "K"] | None
PixelWeights = Float[Array | np.ndarray, "B *S"] | None


def cross_entropy(
    logits: Logits,
    labels: Labels,
    *,
    class_weights: Weights = None,
    ignore_label: int | None = None,
    label_smoothing: float = 0.0,
    pixel_weights: PixelWeights = None,
    batch: bool = False,
    axis_name: AxisName = None,
) -> Float[Array, "B"]:
    """Mean of -log softmax(logits)[label] over the counted pixels.

    Args:
      logits: K scores a pixel.
      labels: class ids `(B, *S)` or soft targets `(B, *S, K)`; see `targets.prepare`.
      class_weights: one weight a class. The sum is divided by the weights of the counted pixels' true classes.
      ignore_label: pixels of this label count nowhere; a sample without any other costs 0.
      label_smoothing: this share of the target is spread evenly over all classes.
      pixel_weights: one more weight a pixel, as from `border_weights`; a weighted mean too.
      batch: one mean over the whole batch instead of one a sample; the value is repeated.
      axis_name: the devices' axis to sum over, used with `batch`.

    Raises:
      UserError: `class_weights` has not one entry a class.
    """
    prepared = prepare(logits, labels, ignore_label=ignore_label)
    weights = _class_weights(class_weights, prepared)
    values = _entropy(prepared, weights, label_smoothing)  # carries the class weights
    place = _place(prepared, pixel_weights)
    axes = tuple(range(1, values.ndim))
    total = jnp.sum(jnp.where(place > 0, values, 0.0) * place, axis=axes)
    weight = jnp.sum(jnp.sum(prepared.target * weights, axis=-1) * place, axis=axes)
    total, weight = pool(total, weight, batch=batch, axis_name=axis_name)
    return ratio(total, weight, empty=0.0)


def binary_cross_entropy(
    logits: Logits,
    labels: Labels,
    *,
    class_weights: Weights = None,
    positive_weight: float = 1.0,
    ignore_label: int | None = None,
    label_smoothing: float = 0.0,
    pixel_weights: PixelWeights = None,
    batch: bool = False,
    axis_name: AxisName = None,
) -> Float[Array, "B"]:
    """Cross-entropy of K independent sigmoids, averaged over the counted pixels and the K channels.

    Args:
      logits: one score a region.
      labels: `(B, *S, K)`, 1 where a pixel lies in the region; or class ids `(B, *S)`, read as one-hot over the K
        channels (with K = 1, id 1 is the foreground).
      class_weights: one weight a channel, dividing too.
      positive_weight: factor on the term of the pixels inside a region; it does not divide.
      label_smoothing: targets are drawn to 1/2 by this share.
      Other arguments as in `cross_entropy`.

    Raises:
      UserError: `class_weights` has not one entry a channel.
    """
    prepared = prepare(logits, labels, ignore_label=ignore_label)
    target = prepared.target * (1.0 - label_smoothing) + 0.5 * label_smoothing
    values = _binary_entropy(prepared.logits, target, positive_weight)
    weights = _class_weights(class_weights, prepared)
    by_pixel = ratio(jnp.sum(values * weights, axis=-1), jnp.sum(weights), empty=0.0)
    return weighted_mean(by_pixel, _place(prepared, pixel_weights), batch=batch, axis_name=axis_name)


def focal_loss(
    logits: Logits,
    labels: Labels,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    ignore_background: bool = False,
    batch: bool = False,
    activation: str = "softmax",
    ignore_label: int | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "B"]:
    """(1 - p)^gamma times the cross-entropy, p the probability of the truth (Lin et al. 2017).

    Averaged over the counted pixels and over the K channels too, as in MONAI: with softmax all channels but the true
    one add 0, so the value is 1/K of a mean over pixels alone.

    Args:
      gamma: 0 is the cross-entropy; larger values turn away from easy pixels.
      alpha: with softmax a weight `1 - alpha` on the background (channel 0) and `alpha` on the other classes; with
        sigmoid `alpha` inside a region and `1 - alpha` outside. None weighs all alike.
      ignore_background: leave channel 0 out of the mean.
      activation: "softmax" or "sigmoid".
      Other arguments as in `cross_entropy`.
    """
    prepared = prepare(logits, labels, ignore_label=ignore_label)
    check_activation(activation)
    scores, target = prepared.logits, prepared.target
    if activation == "softmax":
        probs = probabilities(scores, activation=activation)
        values = _power(1.0 - probs, gamma) * _true_part(target, -jax.nn.log_softmax(scores, axis=-1))
        if alpha is not None:
            values = values * jnp.where(jnp.arange(scores.shape[-1]) == 0, 1.0 - alpha, alpha)
    else:
        # |g - p| is the probability of being wrong; from the signed score, so that it does not round to 0 too early.
        wrong = jax.nn.sigmoid(scores * (1.0 - 2.0 * target))
        values = _power(wrong, gamma) * _binary_entropy(scores, target, 1.0)
        if alpha is not None:
            values = values * (target * alpha + (1.0 - target) * (1.0 - alpha))
    (values,) = foreground(values, ignore_background=ignore_background)
    return weighted_mean(jnp.mean(values, axis=-1), prepared.mask, batch=batch, axis_name=axis_name)


def top_k_cross_entropy(
    logits: Logits,
    labels: Labels,
    *,
    fraction: float = 0.1,
    class_weights: Weights = None,
    label_smoothing: float = 0.0,
    batch: bool = False,
    ignore_label: int | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "B"]:
    """Mean of the `fraction` of counted pixels with the largest cross-entropy (nnU-Net's top-k, 10 %).

    At least one pixel is taken where any counts. Ignored pixels do not enter the number that `fraction` is of.

    Args:
      fraction: in (0, 1]; 1 is the plain mean of the (class-weighted, not divided) entropies.
      batch: the hardest pixels of the whole batch (of all devices under `axis_name`, which gathers them), as nnU-Net
        does, instead of each sample's; the value is repeated.
      Other arguments as in `cross_entropy`.

    Raises:
      UserError: `fraction` is outside (0, 1].
    """
    if not 0.0 < fraction <= 1.0:
        raise UserError(f"top_k_cross_entropy's fraction should lie in (0, 1], but is {fraction}.")
    prepared = prepare(logits, labels, ignore_label=ignore_label)
    values = _entropy(prepared, _class_weights(class_weights, prepared), label_smoothing)
    samples = values.shape[0]
    # Ignored pixels sort to the end, where no count reaches them.
    values = jnp.where(prepared.mask > 0, values, -1.0).reshape(samples, -1)
    if batch:
        if axis_name is not None:
            values = jax.lax.all_gather(values, axis_name, axis=0, tiled=True)
        values = values.reshape(1, -1)
    most = max(_share(values.shape[1], fraction), 1)  # static: what would be taken if no pixel were ignored
    hardest, _ = jax.lax.top_k(values, most)
    counted = jnp.sum(values >= 0, axis=1, keepdims=True)
    taken = jnp.clip(jnp.floor(counted * fraction + 1e-3), 1, most)
    chosen = (jnp.arange(most) < taken) & (hardest >= 0)
    loss = ratio(jnp.sum(jnp.where(chosen, hardest, 0.0), axis=1), jnp.sum(chosen, axis=1), empty=0.0)
    return jnp.broadcast_to(loss, (samples,))


def border_weights(
    instances: Integer[np.ndarray, "*S"], *, w0: float = 10.0, sigma: float = 5.0
) -> Float32[np.ndarray, "*S"]:
    """The weight map of the 2015 U-Net, on the host: 1 + w0 exp(-(d1 + d2)^2 / (2 sigma^2)) between touching objects.

    d1 and d2 are a background pixel's distances to the nearest and second nearest object (Ronneberger et al. 2015,
    equation 2, with class weight 1; balance the classes by `cross_entropy`'s `class_weights`). Pixels inside objects,
    and all pixels of an image with fewer than two objects, weigh 1.

    Args:
      instances: object numbers; 0 is background, negative numbers are ignored pixels.
      w0: height of the ridge.
      sigma: its width in pixels.
    """
    from scipy import ndimage

    instances = np.asarray(instances)
    nearest = np.full(instances.shape, np.inf, np.float32)
    second = nearest.copy()
    # Beyond this distance an object adds less than 1e-6: each one is measured in its own neighbourhood only.
    reach = int(np.ceil(sigma * np.sqrt(2.0 * np.log(max(w0, 1e-3) * 1e6)))) + 1
    _, compact = np.unique(np.where(instances > 0, instances, 0), return_inverse=True)
    compact = compact.reshape(instances.shape) + (0 if (instances <= 0).any() else 1)
    for number, box in enumerate(ndimage.find_objects(compact), start=1):
        near = tuple(slice(max(side.start - reach, 0), side.stop + reach) for side in box)
        distance = ndimage.distance_transform_edt(compact[near] != number).astype(np.float32)
        farther = np.maximum(nearest[near], distance)
        nearest[near] = np.minimum(nearest[near], distance)
        second[near] = np.minimum(second[near], farther)
    ridge = w0 * np.exp(-np.square((nearest + second) / sigma) / 2.0)
    return np.where(instances == 0, 1.0 + ridge, 1.0).astype(np.float32)


def _class_weights(class_weights: Weights, prepared: Prepared) -> Float[Array, "K"]:
    num_classes = prepared.logits.shape[-1]
    if class_weights is None:
        return jnp.ones((num_classes,), jnp.float32)
    weights = jnp.asarray(class_weights, jnp.float32)
    if weights.shape != (num_classes,):
        raise UserError(
            f"class_weights should have one entry for each of {num_classes} classes, but has {weights.shape}."
        )
    return weights


def _place(prepared: Prepared, pixel_weights: PixelWeights) -> Float[Array, "B *S"]:
    """How much each pixel counts."""
    if pixel_weights is None:
        return prepared.mask
    pixel_weights = jnp.asarray(pixel_weights)
    if pixel_weights.shape != prepared.mask.shape:
        raise ValueError(f"pixel_weights should have shape {prepared.mask.shape}, but have {pixel_weights.shape}.")
    return prepared.mask * pixel_weights.astype(jnp.float32)


def _true_part(target: Float[Array, "... K"], values: Float[Array, "... K"]) -> Float[Array, "... K"]:
    """`target * values`, and 0 where the target is 0 even if a saturated logit makes the value infinite."""
    return jnp.where(target > 0, target * values, 0.0)


def _entropy(prepared: Prepared, weights: Float[Array, "K"], label_smoothing: float) -> Float[Array, "B *S"]:
    """Each pixel's cross-entropy, class weights multiplied in."""
    target = prepared.target
    if label_smoothing:
        target = target * (1.0 - label_smoothing) + label_smoothing / target.shape[-1]
    return jnp.sum(_true_part(target * weights, -jax.nn.log_softmax(prepared.logits, axis=-1)), axis=-1)


def _binary_entropy(scores: Float[Array, "..."], target: Float[Array, "..."], positive_weight: float):
    """-g log p - (1 - g) log(1 - p) from the score, in the form that neither overflows nor subtracts large numbers."""
    inside, outside = _true_part(target, -jax.nn.log_sigmoid(scores)), -jax.nn.log_sigmoid(-scores)
    return positive_weight * inside + _true_part(1.0 - target, outside)


def _power(base: Float[Array, "..."], gamma: float) -> Float[Array, "..."]:
    """base^gamma with a finite slope at 0, where gamma < 1 would have none."""
    return jnp.power(jnp.maximum(base, 1e-7), gamma) if gamma else jnp.ones_like(base)


def _share(count: int, fraction: float) -> int:
    return int(count * fraction + 1e-3)
