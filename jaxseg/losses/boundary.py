"""Losses of distances to the boundary, with the distance maps computed on the device inside the step.

No gradient passes through a distance map. Ignored pixels count as background when the maps are drawn, and nowhere else.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxseg.losses.targets import AxisName, Labels, Logits, foreground, prepare, probabilities, weighted_mean
from jaxseg.ops.distance import distance_transform

Spacing = Sequence[float] | None


def boundary_loss(
    logits: Logits,
    labels: Labels,
    *,
    spacing: Spacing = None,
    ignore_background: bool | None = None,
    batch: bool = False,
    activation: str = "softmax",
    ignore_label: int | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "B"]:
    """Mean over pixels and classes of probability times signed distance to the true region (Kervadec et al. 2019).

    The distance is positive outside the region and, one voxel less, negative inside, so the loss is smallest (negative)
    when all probability lies within. Add it to an overlap loss: alone it has a trivial minimum for small regions.
    A class that is absent, or that fills the image, has no boundary and adds 0.

    Args:
      labels: class ids, or soft targets whose regions are taken at 0.5.
      spacing: voxel size along each spatial axis; distances have its unit, voxels where None.
      ignore_background: leave channel 0 out; None does so with softmax, not with sigmoid.
      batch: one mean over all counted pixels of the batch; the value is repeated.
      activation, ignore_label, axis_name: as in `overlap.dice_loss`.
    """
    prepared = prepare(logits, labels, ignore_label=ignore_label)
    probs = probabilities(prepared.logits, activation=activation)
    probs, target = foreground(probs, prepared.target, ignore_background=_choice(ignore_background, activation))
    maps = jax.lax.stop_gradient(_by_channel(_signed_distance, target > 0.5, spacing))
    return weighted_mean(jnp.mean(probs * maps, axis=-1), prepared.mask, batch=batch, axis_name=axis_name)


def hausdorff_dt_loss(
    logits: Logits,
    labels: Labels,
    *,
    alpha: float = 2.0,
    spacing: Spacing = None,
    ignore_background: bool | None = None,
    batch: bool = False,
    activation: str = "softmax",
    ignore_label: int | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "B"]:
    """Mean of (p - g)^2 (d_p^alpha + d_g^alpha), d the distance to each boundary (Karimi and Salcudean 2019).

    d_p and d_g are distances to the edge of the predicted (p > 0.5) and of the true region, from either side. A region
    that is empty or fills the image has none, and a distance of 0.

    Args:
      alpha: 2 in the paper; larger values look more at the farthest errors.
      Other arguments as in `boundary_loss`.
    """
    prepared = prepare(logits, labels, ignore_label=ignore_label)
    probs = probabilities(prepared.logits, activation=activation)
    probs, target = foreground(probs, prepared.target, ignore_background=_choice(ignore_background, activation))
    predicted = (probs > 0.5) & (prepared.mask[..., None] > 0)
    distances = [_by_channel(_edge_distance, region, spacing) for region in (predicted, target > 0.5)]
    weights = jax.lax.stop_gradient(sum(distance**alpha for distance in distances))
    errors = jnp.mean(jnp.square(probs - target) * weights, axis=-1)
    return weighted_mean(errors, prepared.mask, batch=batch, axis_name=axis_name)


def _choice(ignore_background: bool | None, activation: str) -> bool:
    return activation == "softmax" if ignore_background is None else ignore_background


def _by_channel(function, regions: Bool[Array, "B *S L"], spacing: Spacing) -> Float[Array, "B *S L"]:
    """Maps `function(region, spacing)` over samples and channels."""
    one_sample = jax.vmap(lambda region: function(region, spacing), in_axes=-1, out_axes=-1)
    return jax.vmap(one_sample)(regions)


def _has_edge(region: Bool[Array, "*S"]) -> Bool[Array, ""]:
    return jnp.any(region) & ~jnp.all(region)


def _edge_distance(region: Bool[Array, "*S"], spacing: Spacing) -> Float[Array, "*S"]:
    """Distance to the nearest voxel of the other side; 0 everywhere where there is only one side."""
    both_sides = distance_transform(region, spacing=spacing) + distance_transform(~region, spacing=spacing)
    return jnp.where(_has_edge(region), both_sides, 0.0)


def _signed_distance(region: Bool[Array, "*S"], spacing: Spacing) -> Float[Array, "*S"]:
    """Positive outside; inside minus the distance, less one (smallest) voxel, so that the rim itself has 0."""
    outside = distance_transform(~region, spacing=spacing)
    inside = distance_transform(region, spacing=spacing)
    voxel = 1.0 if spacing is None else float(min(spacing))
    return jnp.where(_has_edge(region), jnp.where(region, voxel - inside, outside), 0.0)
