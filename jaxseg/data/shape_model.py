"""A statistical shape model of label maps: signed distances, their mean and main modes, and new maps drawn from it."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

from jaxseg.typing import UserError

Label = Integer[np.ndarray, "*S"]
Seed = int | Sequence[int]
CLIP = 3.0  # standard deviations that a mode may go from the mean; farther out shapes fall apart


class ShapeModel(NamedTuple):
    """What the given label maps have in common, and how they differ.

    Attributes:
      values: the K class ids, rising, background (0) first.
      mean: signed distance to the border of each class, background too; mean over the maps, negative inside.
      modes: directions of variation, of unit length each, strongest first; M may be 0.
      deviations: the standard deviation of the maps along each mode, in the unit of the distances.
      dtype: of the label maps.
    """

    values: Integer[np.ndarray, " K"]
    mean: Float[np.ndarray, "K *S"]
    modes: Float[np.ndarray, "M K *S"]
    deviations: Float[np.ndarray, " M"]
    dtype: np.dtype


def shape_model(
    labels: Sequence[Label],
    *,
    modes: int | None = None,
    limit: float | None = None,
    spacing: Sequence[float] | None = None,
) -> ShapeModel:
    """Returns the principal components of the signed distance maps of aligned label maps, all classes together.

    Classes vary together, so that neighbours stay neighbours. Distances are cut off at `limit`: what is far from every
    border would otherwise dominate the modes, and a class that a map lacks would have no distance at all (it has
    `limit` everywhere). Memory: maps x classes x voxels x 4 bytes, twice. Sources: Leventon et al., CVPR 2000, section
    2; Tsai et al., IEEE TMI 22 (2003), sections II.A and II.B (several shapes coupled).

    Args:
      labels: two or more maps of one shape, 2D or 3D, aligned: the same structure lies at about the same place. Values
        of 0 and above; 0 is background. Some may be all background, but not all.
      modes: how many to keep; by default all that vary, at most one less than maps.
      limit: largest distance kept, in the unit of `spacing`; by default how deep the deepest foreground voxel lies.
      spacing: voxel size along each axis; 1 by default.

    Raises:
      UserError: fewer than two maps, other shapes or negative values, no foreground at all, or an option out of range.
    """
    labels = [np.asarray(label) for label in labels]
    check_maps(labels, at_least=2, why="a shape model learns from their differences; deform one map with elastic")
    values = np.unique(np.concatenate([[0], *(np.unique(label) for label in labels)]))
    if len(values) == 1:
        raise UserError("A shape model needs foreground in at least one label map, and all are background.")
    if modes is not None and modes < 0:
        raise UserError(f"modes should be 0 or more, not {modes}.")
    if limit is not None and not 0 < limit < np.inf:
        raise UserError(f"limit should be a positive distance, not {limit}.")
    steps = _spacing(spacing, labels[0].ndim)
    distances = np.stack([np.stack([_signed(label == value, steps) for value in values]) for label in labels])
    limit = _deepest(distances[:, 1:]) if limit is None else limit
    return _principal(np.clip(distances, -limit, limit), values, modes, labels[0].dtype)


def _principal(
    distances: Float[np.ndarray, "N K *S"], values: Integer[np.ndarray, " K"], modes: int | None, dtype: np.dtype
) -> ShapeModel:
    mean = distances.mean(axis=0, dtype=np.float64).astype(np.float32)
    count = len(distances)
    rows = (distances - mean).reshape(count, -1)
    # The few maps span all modes: the eigenvectors of the (N, N) products give those of the huge covariance.
    variances, mixtures = np.linalg.eigh(rows.astype(np.float64) @ rows.T.astype(np.float64) / (count - 1))
    variances, mixtures = variances[::-1].clip(0), mixtures[:, ::-1]
    varying = int(np.count_nonzero(variances > 1e-6 * max(variances[0], 1e-6)))  # below lies rounding
    kept = min(varying, count - 1) if modes is None else min(modes, varying, count - 1)
    deviations = np.sqrt(variances[:kept])
    directions = (mixtures[:, :kept] / (deviations * np.sqrt(count - 1))).T.astype(np.float32) @ rows
    shape = (kept, *mean.shape)
    return ShapeModel(values, mean, directions.reshape(shape), deviations.astype(np.float32), np.dtype(dtype))


def sample_shape(model: ShapeModel, *, seed: Seed, scale: float = 1.0) -> Label:
    """Returns a new label map: each mode's share is normal with the maps' standard deviation, cut at 3 of them.

    A voxel gets the class whose border it lies deepest inside of, or least outside of. Background takes part like the
    others: if it took all that lies outside the rest, classes that touch would come apart in many draws. With one
    foreground class the two rules are the same. A draw may leave a class out, as sums of distances need not be
    distances.

    Args:
      model: of `shape_model`.
      seed: of the draw; the same seed gives the same map.
      scale: factor on all deviations; 0 gives the mean shape.

    Raises:
      UserError: scale is negative or not finite.
    """
    if not 0 <= scale < np.inf:
        raise UserError(f"The scale of a sampled shape should be 0 or more, not {scale}.")
    draw = np.random.default_rng(seed).standard_normal(len(model.deviations)).clip(-CLIP, CLIP)
    shares = (scale * draw * model.deviations).astype(np.float32)
    distances = model.mean + np.tensordot(shares, model.modes, axes=1)
    return model.values[distances.argmin(axis=0)].astype(model.dtype)


def shape_sampler(
    labels: Sequence[Label],
    *,
    modes: int | None = None,
    limit: float | None = None,
    spacing: Sequence[float] | None = None,
    scale: float = 1.0,
) -> Callable[..., Label]:
    """Returns `(*, seed) -> label map`, with the model fitted once; options as `shape_model` and `sample_shape`."""
    model = shape_model(labels, modes=modes, limit=limit, spacing=spacing)
    return functools.partial(sample_shape, model, scale=scale)


def check_maps(labels: Sequence[np.ndarray], *, at_least: int, why: str) -> None:
    """Checks that label maps go together.

    Raises:
      UserError: too few of them (`why` says what for), other shapes, no integers, or negative values.
    """
    if len(labels) < at_least:
        raise UserError(f"{at_least} or more label maps are needed, not {len(labels)}: {why}.")
    shapes = sorted({label.shape for label in labels})
    if len(shapes) > 1:
        raise UserError(f"The label maps should have one shape, not {shapes[0]} and {shapes[1]}: crop or pad them.")
    if labels[0].ndim not in (2, 3) or not labels[0].size:
        raise UserError(f"Label maps should be 2D or 3D and have pixels, but their shape is {labels[0].shape}.")
    if not all(np.issubdtype(label.dtype, np.integer) for label in labels):
        raise UserError(f"Label maps should hold integers, not {labels[0].dtype}: convert them first.")
    least = min(int(label.min()) for label in labels)
    if least < 0:
        raise UserError(f"Label maps to sample from should hold class ids of 0 and above, but hold {least}: fill it.")


def _spacing(spacing: Sequence[float] | None, ndim: int) -> tuple[float, ...]:
    steps = (1.0,) * ndim if spacing is None else tuple(float(step) for step in spacing)
    if len(steps) != ndim or not all(0 < step < np.inf for step in steps):
        raise UserError(f"spacing should be {ndim} positive numbers, one an axis, not {steps}.")
    return steps


def _signed(mask: Bool[np.ndarray, "*S"], spacing: tuple[float, ...]) -> Float[np.ndarray, "*S"]:
    """Returns the distance to the nearest voxel of the other side, negative inside; infinite where there is none."""
    import edt

    if mask.all() or not mask.any():
        return np.full(mask.shape, -np.inf if mask.all() else np.inf, np.float32)
    inside = np.ascontiguousarray(mask)
    options = {"anisotropy": spacing, "black_border": False, "parallel": 1}
    return edt.edt(~inside, **options) - edt.edt(inside, **options)


def _deepest(distances: Float[np.ndarray, "N K *S"]) -> float:
    """Returns the largest finite distance inside of any class, 1 if there is none (classes that fill their maps)."""
    depths = -distances[np.isfinite(distances)]
    return max(float(depths.max(initial=0.0)), 1.0)
