"""Losses of two players: what generator and discriminator minimise, and what keeps them steady.

Pure functions of the discriminator's logits `(B, *S, 1)`, one a patch, or of a list of them, one a scale: the mean over
patches, averaged over scales, one value a sample, in float32. They compare no labels and so are no entries of `TABLE`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxseg.losses.targets import AxisName
from jaxseg.typing import UserError

KINDS = ("hinge", "least_squares", "logistic", "relativistic")
Scale = Float[Array | np.ndarray, "B ..."]
Scales = Scale | Sequence[Scale]


def generator_loss(
    fake_logits: Scales,
    *,
    kind: str = "hinge",
    real_logits: Scales | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "B"]:
    """What the generator minimises: that its images are taken for real.

    With f the logits of fakes, r of real images, E their average over the batch and s = softplus: "hinge" -f (Lim and
    Ye 2017), "least_squares" (f - 1)**2 (Mao 2017), "logistic" s(-f) (Goodfellow 2014, the form that does not
    saturate), "relativistic" (s(-(f - E r)) + s(r - E f)) / 2 (Jolicoeur-Martineau 2019, as in ESRGAN).

    Args:
      fake_logits: of generated images; the gradient passes through them.
      kind: one of `KINDS`.
      real_logits: of real images, for "relativistic" only.
      axis_name: the devices' axis over which the averages E are taken.

    Raises:
      UserError: an unknown kind, or real logits missing or of other scales.
    """
    _check(kind)
    fakes = _scales(fake_logits)
    if kind == "relativistic":
        if real_logits is None:
            raise UserError("The relativistic generator loss compares with real images: give real_logits.")
        pairs = _paired(_scales(real_logits), fakes)
        return _mean([_relativistic(fake, real, axis_name) for real, fake in pairs])
    cost: dict[str, Callable] = {
        "hinge": lambda f: -f,
        "least_squares": lambda f: jnp.square(f - 1),
        "logistic": lambda f: jax.nn.softplus(-f),
    }
    return _mean([_of_samples(cost[kind](fake)) for fake in fakes])


def discriminator_loss(
    real_logits: Scales, fake_logits: Scales, *, kind: str = "hinge", axis_name: AxisName = None
) -> Float[Array, "B"]:
    """What the discriminator minimises: that it tells fakes from real images. Sources as `generator_loss`.

    "hinge" relu(1 - r) + relu(1 + f), the sum as in SPADE; the others half the sum, as in pix2pix, CycleGAN and ESRGAN:
    "least_squares" ((r - 1)**2 + f**2) / 2, "logistic" (s(-r) + s(f)) / 2, "relativistic"
    (s(-(r - E f)) + s(f - E r)) / 2. At logits of 0 these are 2, 1/2, ln 2 and ln 2.

    Args:
      real_logits: of real images.
      fake_logits: of generated images; the caller stops the gradient at them (or at the images).
      kind: one of `KINDS`.
      axis_name: the devices' axis over which the averages E of "relativistic" are taken.

    Raises:
      UserError: an unknown kind, or logits of other scales.
    """
    _check(kind)
    pairs = _paired(_scales(real_logits), _scales(fake_logits))
    if kind == "relativistic":
        return _mean([_relativistic(real, fake, axis_name) for real, fake in pairs])
    cost: dict[str, Callable] = {
        "hinge": lambda r, f: jax.nn.relu(1 - r) + jax.nn.relu(1 + f),
        "least_squares": lambda r, f: (jnp.square(r - 1) + jnp.square(f)) / 2,
        "logistic": lambda r, f: (jax.nn.softplus(-r) + jax.nn.softplus(f)) / 2,
    }
    return _mean([_of_samples(cost[kind](real, fake)) for real, fake in pairs])


def feature_matching(real_features: Sequence, fake_features: Sequence) -> Float[Array, "B"]:
    """Mean absolute difference of the discriminator's features, summed over layers, averaged over scales.

    The sum is that of SPADE, whose weight for it is 10 (Wang et al. 2018; Park et al. 2019). Real features are targets:
    no gradient passes through them.

    Args:
      real_features: a list of arrays `(B, *S, C)`, one a layer, or a list of such lists, one a scale: a
        discriminator's `aux["features"]`.
      fake_features: alike, of generated images.

    Raises:
      UserError: the lists are empty or of different lengths or shapes.
    """
    reals, fakes = (_layers(features) for features in (real_features, fake_features))
    if [len(scale) for scale in reals] != [len(scale) for scale in fakes] or not reals or not all(map(len, reals)):
        raise UserError(
            f"feature_matching takes as many real as fake features a scale, one or more; it got "
            f"{[len(scale) for scale in reals]} and {[len(scale) for scale in fakes]}."
        )
    scales = []
    for real_scale, fake_scale in zip(reals, fakes):
        total = jnp.zeros(len(real_scale[0]), jnp.float32)
        for real, fake in zip(real_scale, fake_scale):
            if real.shape != fake.shape:
                raise UserError(f"feature_matching compares equal shapes; it got {real.shape} and {fake.shape}.")
            total = total + _of_samples(jnp.abs(jax.lax.stop_gradient(_float32(real)) - _float32(fake)))
        scales.append(total)
    return _mean(scales)


def gradient_penalty_r1(
    apply: Callable[[Array], Scales], real: Float[Array | np.ndarray, "B *S C"], *, gamma: float
) -> Float[Array, "B"]:
    """gamma / 2 times the squared norm of the discriminator's gradient by its real images (Mescheder et al. 2018).

    The discriminator's answer is its mean over patches and scales, as in the other losses. Each sample must be judged
    by itself (no batch norm). Given every n-th step only, multiply by n.

    Args:
      apply: image -> logits, or a list of them; closed over the variables, without changing any.
      real: real images, with their condition as further channels where there is one.
      gamma: weight; 0 costs nothing.

    Raises:
      UserError: gamma is negative.
    """
    if gamma < 0:
        raise UserError(f"gamma of the gradient penalty should be 0 or more; it is {gamma}.")

    def total(images):
        return jnp.sum(_mean([_of_samples(logits) for logits in _scales(apply(images))]))

    gradient = jax.grad(total)(jnp.asarray(real).astype(jnp.float32))
    return gamma / 2 * jnp.sum(jnp.square(gradient), axis=tuple(range(1, gradient.ndim)))


def _relativistic(favoured: Array, other: Array, axis_name: AxisName) -> Array:
    """The favoured should look more real than the others on average, and the others less."""
    expected_favoured, expected_other = (_expectation(logits, axis_name) for logits in (favoured, other))
    cost = jax.nn.softplus(expected_other - favoured) + jax.nn.softplus(other - expected_favoured)
    return _of_samples(cost) / 2


def _expectation(logits: Array, axis_name: AxisName) -> Array:
    mean = jnp.mean(logits)
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise UserError(f"The kind of an adversarial loss should be one of {', '.join(KINDS)}; it is {kind!r}.")


def _scales(logits: Scales) -> list[Array]:
    given = [logits] if isinstance(logits, jax.Array | np.ndarray) else list(logits)
    if not given:
        raise UserError("An adversarial loss needs logits of one scale or more; the list is empty.")
    return [_float32(scale) for scale in given]


def _paired(reals: list[Array], fakes: list[Array]) -> list[tuple[Array, Array]]:
    shapes = [[scale.shape for scale in scales] for scales in (reals, fakes)]
    if shapes[0] != shapes[1]:
        raise UserError(f"Logits of real and fake images should be of equal shapes; they are {shapes[0]}, {shapes[1]}.")
    return list(zip(reals, fakes))


def _layers(features: Sequence) -> list[list[Any]]:
    if not features:
        return []
    nested = not isinstance(features[0], jax.Array | np.ndarray)
    return [list(scale) for scale in features] if nested else [list(features)]


def _float32(x: Array | np.ndarray) -> Array:
    return jnp.asarray(x).astype(jnp.float32)


def _of_samples(values: Array) -> Float[Array, "B"]:
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))


def _mean(values: Sequence[Float[Array, "B"]]) -> Float[Array, "B"]:
    return jnp.mean(jnp.stack(list(values)), axis=0)
