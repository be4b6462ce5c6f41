"""Clicks of an annotator, simulated: each lies in the middle of what is most wrong, and becomes a hint around it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxseg import ops


class Click(NamedTuple):
    """One click.

    Attributes:
      place: index of the pixel.
      inside: for each plane whether the pixel belongs to it.
      made: False where nothing is wrong, so that there is nothing to click on.
    """

    place: Int[Array, "n"]
    inside: Bool[Array, "P"]
    made: Bool[Array, ""]


def worst(
    planes: Float[Array, "*S P"], true: Float[Array, "*S P"], seen: Float[Array, "*S 1"], hints: Float[Array, "*S H"]
) -> Click:
    """Returns a click on the pixel that lies deepest inside any region where a plane's mask is wrong.

    Missed and added regions are apart: where they touch, their border is one. The depth is the distance to the nearest
    pixel that is right, or wrong the other way, or beyond the image; of equal ones the first counts. A pixel that was
    clicked before (its hint is 1) is not clicked again, which would say nothing new.

    Source: Sofiiuk et al. 2022 (RITM), section 3.3, who take the deepest pixel of the largest such region.
    """
    mask, truth, counts = planes > 0.5, true > 0.5, seen > 0.5
    missed, added = truth & ~mask & counts, ~truth & mask & counts
    wrong = jnp.moveaxis(jnp.concatenate([missed, added], axis=-1), -1, 0)
    depth = jax.vmap(_depth)(wrong) * (hints < 1.0).all(-1)
    deepest = jnp.argmax(depth)
    _, *place = jnp.unravel_index(deepest, depth.shape)
    return Click(jnp.stack(place).astype(jnp.int32), truth[tuple(place)], depth.reshape(-1)[deepest] > 0)


def _depth(region: Bool[Array, "*S"]) -> Float[Array, "*S"]:
    inner = tuple(slice(1, -1) for _ in region.shape)
    return ops.distance_transform(jnp.pad(region, 1))[inner]


def hint(click: Click, shape: tuple[int, ...], *, scale: float) -> Float[Array, "*S H"]:
    """Returns 2 P channels: a Gaussian of height 1 around the click in those of its planes, and where it is not.

    Args:
      click: what was clicked; nothing is hinted where it was not made.
      shape: of the image.
      scale: standard deviation, pixels.
    """
    axes = jnp.meshgrid(*(jnp.arange(size) for size in shape), indexing="ij")
    squared = sum((axis - place) ** 2 for axis, place in zip(axes, click.place))
    bump = jnp.exp(-0.5 * squared / scale**2)[..., None]
    sides = jnp.concatenate([click.inside, ~click.inside]) & click.made
    return bump * sides.astype(jnp.float32)


def add(hints: Float[Array, "*S H"], click: Click, *, scale: float) -> Float[Array, "*S H"]:
    """Returns the hints with those of one click more."""
    return jnp.maximum(hints, hint(click, hints.shape[:-1], scale=scale))
