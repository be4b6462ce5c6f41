"""New label maps out of a few given ones: what a generator of images needs where patients are scarce.

    draw = label_samplers.from_string("recombine|elastic(magnitude=6.0)", labels)
    label = draw(seed=3)

Everything is numpy on the host and a pure function of its seed. Values and shape are the given ones'. All-background
maps are allowed and give background. See `shape_model` for the statistical sampler.
Source: methods.md, section 14.5.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.ndimage
from jaxtyping import Float, Integer

from jaxseg import registry
from jaxseg.data.shape_model import Label, Seed, check_maps
from jaxseg.typing import UserError

LabelFn = Callable[..., Any]  # makes a label map, or a function that does
# Functions of one map take `label`; those of all maps take `labels`.
TABLE = {
    "elastic": "jaxseg.data.label_samplers:elastic",
    "affine": "jaxseg.data.label_samplers:affine",
    "recombine": "jaxseg.data.label_samplers:recombine",
    "shape_model": "jaxseg.data.shape_model:shape_sampler",
}


def elastic(
    label: Label, *, seed: Seed, magnitude: float | Sequence[float] = 4.0, sigma: float | Sequence[float] = 12.0
) -> Label:
    """Returns the map bent by a smooth random field, nearest neighbour; outside, the edge's label continues.

    The field is white noise under a Gaussian, scaled to the magnitude. Its slopes have the deviation magnitude /
    (sqrt(2) sigma): with a sigma of three magnitudes or more the field hardly ever folds, and structures keep their
    topology but for parts a voxel or two thin. With a sigma near the image's size most of a field is a shift.
    Source: Simard et al., ICDAR 2003, section 2.

    Args:
      label: 2D or 3D.
      seed: of the field.
      magnitude: standard deviation of the displacements in voxels, one number or one an axis; 0 keeps an axis still.
      sigma: of the Gaussian in voxels, one number or one an axis.

    Raises:
      UserError: the map is neither 2D nor 3D, magnitude is negative, or sigma not positive.
    """
    _check_map(label)
    sizes = _per_axis("magnitude", magnitude, label.ndim, least=0.0)
    widths = _per_axis("sigma", sigma, label.ndim, least=1e-3)
    draw = np.random.default_rng(seed)
    coordinates = np.indices(label.shape, np.float32)
    for axis, size in enumerate(sizes):
        noise = draw.standard_normal(label.shape, np.float32)
        if size:
            # Periodic, so that the field is as strong at the border as inside; mirrored, it would be stronger there.
            field = scipy.ndimage.gaussian_filter(noise, widths, mode="wrap")
            coordinates[axis] += size / _strength(label.shape, widths) * field
    return _nearest(label, coordinates)


def _strength(shape: tuple[int, ...], widths: Sequence[float]) -> float:
    """Returns the standard deviation of white noise after the periodic Gaussian."""
    product = 1.0
    for size, width in zip(shape, widths):
        response = scipy.ndimage.gaussian_filter1d(np.eye(1, size)[0], width, mode="wrap")
        product *= float(np.sqrt(np.square(response).sum()))
    return product


def affine(
    label: Label,
    *,
    seed: Seed,
    max_angle: float = math.radians(10),
    scale: tuple[float, float] = (0.9, 1.1),
    max_shift: float = 0.05,
    spacing: Sequence[float] | None = None,
) -> Label:
    """Returns the map turned, scaled and shifted, nearest neighbour; outside, the edge's label continues.

    Args:
      label: 2D or 3D.
      seed: of all draws.
      max_angle: radians; the angle (in 3D one for each plane of axes) is uniform within plus and minus it.
      scale: limits of the one factor of size, log-uniform; above 1 objects grow.
      max_shift: largest shift as a fraction of each axis.
      spacing: voxel size along each axis, so that turns are rigid in space; 1 by default.

    Raises:
      UserError: the map is neither 2D nor 3D, or an option is out of range.
    """
    _check_map(label)
    low, high = scale
    if not 0 < low <= high < np.inf:
        raise UserError(f"The limits of scale should be positive and rising, not {scale}.")
    if not (0 <= max_angle < np.inf and 0 <= max_shift < 1):
        raise UserError(f"max_angle should be 0 or more and max_shift in 0..1, not {max_angle} and {max_shift}.")
    steps = np.array(_per_axis("spacing", 1.0 if spacing is None else spacing, label.ndim, least=1e-9))
    draw = np.random.default_rng(seed)
    matrix = np.eye(label.ndim)
    for first in range(label.ndim):
        for second in range(first + 1, label.ndim):
            matrix = _turn(label.ndim, first, second, draw.uniform(-max_angle, max_angle)) @ matrix
    factor = math.exp(draw.uniform(math.log(low), math.log(high)))
    matrix = matrix * steps / steps[:, None] / factor  # voxels to space, turned, and back
    shift = draw.uniform(-max_shift, max_shift, label.ndim) * label.shape
    middle = (np.array(label.shape) - 1) / 2
    offset = np.moveaxis(np.indices(label.shape, np.float32), 0, -1) - middle - shift
    return _nearest(label, np.moveaxis(offset @ matrix.T + middle, -1, 0))


def _turn(ndim: int, first: int, second: int, angle: float) -> Float[np.ndarray, "n n"]:
    matrix = np.eye(ndim)
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[first, second], matrix[second, first] = -math.sin(angle), math.sin(angle)
    return matrix


def recombine(labels: Sequence[Label], *, seed: Seed, max_shift: int = 0) -> Label:
    """Returns a map whose connected components come from two of the maps, drawn at random.

    Of every class the new map gets as many components as one of the two has, drawn from those of both: a single organ
    comes from one patient or the other and is never doubled. Corners connect. Where components collide the higher class
    id wins, as tumours lie in organs; what they cover is lost. Each stays at its place, or moves with its bounding box
    inside the image. With few components the draw may well be one of the given maps: let `elastic` follow.

    Args:
      labels: two or more maps of one shape, 2D or 3D, values of 0 and above; 0 is background. Two empty ones give an
        empty map.
      seed: of all draws.
      max_shift: largest move along each axis in voxels, the same for no two components.

    Raises:
      UserError: fewer than two maps, other shapes or negative values, or max_shift is negative.
    """
    labels = [np.asarray(label) for label in labels]
    check_maps(labels, at_least=2, why="recombine mixes the components of two")
    if max_shift < 0:
        raise UserError(f"max_shift should be 0 or more voxels, not {max_shift}.")
    draw = np.random.default_rng(seed)
    pair = [labels[index] for index in draw.choice(len(labels), 2, replace=False)]
    parts = [_components(label) for label in pair]
    made = np.zeros_like(pair[0])
    for value in sorted({value for found in parts for value in found}):  # rising: higher ids are painted over lower
        choices = [part for found in parts for part in found.get(value, [])]
        count = len(parts[draw.integers(2)].get(value, []))
        for chosen in sorted(draw.choice(len(choices), count, replace=False)):
            corner, mask = choices[chosen]
            place = [
                slice(moved, moved + length)
                for moved, length in zip(_moved(draw, corner, mask.shape, made.shape, max_shift), mask.shape)
            ]
            made[tuple(place)][mask] = value
    return made


def _components(label: Label) -> dict[int, list[tuple[tuple[int, ...], np.ndarray]]]:
    """Returns each class's components as (first corner of the bounding box, mask inside it); background left out."""
    import cc3d

    numbers = cc3d.connected_components(label.astype(np.int32, order="C"), connectivity=8 if label.ndim == 2 else 26)
    found: dict[int, list] = {}
    for number, box in enumerate(scipy.ndimage.find_objects(numbers), start=1):
        mask = numbers[box] == number
        value = int(label[box][mask][0])
        found.setdefault(value, []).append((tuple(side.start for side in box), mask))
    return found


def _moved(draw, corner: Sequence[int], size: Sequence[int], shape: Sequence[int], max_shift: int) -> list[int]:
    """Returns a corner at most `max_shift` away, such that the box stays inside the image."""
    return [
        int(draw.integers(max(start - max_shift, 0), min(start + max_shift, whole - length) + 1))
        for start, length, whole in zip(corner, size, shape)
    ]


def names() -> tuple[str, ...]:
    """Returns the names that a config may use."""
    return tuple(TABLE)


def from_string(text: str, labels: Sequence[Label]) -> Callable[..., Label]:
    """Returns `(*, seed) -> label map` of a pipeline such as "elastic(magnitude=8.0)|recombine".

    Steps run from left to right. "elastic" and "affine" change single maps; "recombine" and "shape_model" make one of
    all, so at most one of them may stand in a pipeline. Steps before "recombine" change every given map at each draw,
    steps after it only the new one, which is cheaper; "shape_model" stands first and is fitted once, here. Without
    either, one of the given maps is drawn first. The same seed gives the same map.

    Args:
      text: the pipeline. Angles are in radians; `max_angle_degrees` is in degrees. Names outside the table read
        "package.module:function".
      labels: the given maps, one or more.

    Raises:
      UserError: a name or an option is unknown, steps do not go together, or the maps do not suit a step.
    """
    steps, joining = _steps(text)
    labels = [np.asarray(label) for label in labels]
    check_maps(labels, at_least=1, why="new ones are made of those")
    start = joining[0] if joining else 0
    before, after = steps[:start], steps[start + len(joining) :]
    source = _source(text, labels, before, steps[start][1]) if joining else functools.partial(_choose, labels)

    def sample(*, seed: int) -> Label:
        # numpy fills short seeds with zeros, so [s] and [s, 0] are the same: each use starts with another number.
        return _each([source(seed=[seed, 1])], after, [seed, 2])[0]

    return sample


def check(text: str) -> None:
    """Raises the UserError that `from_string` would raise of the text alone, whatever the maps."""
    _steps(text)


def _steps(text: str) -> tuple[list[tuple[bool, LabelFn]], list[int]]:
    """Returns the steps of a pipeline, each as `_step` gives it, and the places of those that take all maps."""
    parts = registry.split(text, "|")
    if not all(parts):
        raise UserError(f"The sampler {text!r} should read name|name(option=value)|...")
    steps = [_step(part) for part in parts]
    joining = [place for place, (of_all, _) in enumerate(steps) if of_all]
    if len(joining) > 1:
        raise UserError(f"The sampler {text!r} should hold one of recombine and shape_model, as each makes one map.")
    return steps, joining


def _source(text: str, labels: Sequence[Label], before: Sequence[tuple[bool, LabelFn]], function: LabelFn) -> LabelFn:
    """Returns `(*, seed) -> label map` of a step that makes one map of all."""
    if "seed" not in inspect.signature(function).parameters:
        if before:
            raise UserError(f"In {text!r} shape_model should stand first: it learns from the maps as they are given.")
        return function(labels)
    check_maps(labels, at_least=2, why="recombine mixes the components of two")
    return lambda *, seed: function(_each(labels, before, [*seed, 1]), seed=[*seed, 2])


def _step(part: str) -> tuple[bool, LabelFn]:
    """Returns whether a step takes all maps at once, and the function with its options."""
    name, given = registry.parse_call(part)
    function = registry.resolve(name, TABLE, kind="label sampler")
    first, *others = inspect.signature(function).parameters
    known = [other for other in others if other != "seed"]
    options: dict[str, Any] = {}
    for word, value in given.items():
        bare = word.removesuffix("_degrees")
        if bare not in known and word not in known:
            raise UserError(f"The label sampler {name!r} has no option {word!r}; it has {', '.join(known)}.")
        if word in known:
            options[word] = value
        else:
            options[bare] = math.radians(value)
    return first == "labels", functools.partial(function, **options)


def _each(labels: Sequence[Label], steps: Sequence[tuple[bool, LabelFn]], seed: Sequence[int]) -> list[Label]:
    """Runs steps of one map over every map, each with a seed of its own."""
    made = list(labels)
    for place, (_, function) in enumerate(steps):
        made = [function(label, seed=[*seed, place, index]) for index, label in enumerate(made)]
    return made


def _choose(labels: Sequence[Label], *, seed: Seed) -> Label:
    return labels[int(np.random.default_rng(seed).integers(len(labels)))].copy()


def _check_map(label: Integer[np.ndarray, "..."]) -> None:
    if label.ndim not in (2, 3) or not label.size:
        raise UserError(f"A label map should be 2D or 3D and have pixels, but its shape is {label.shape}.")


def _per_axis(name: str, value: float | Sequence[float], ndim: int, *, least: float) -> tuple[float, ...]:
    numbers = (float(value),) * ndim if isinstance(value, (int, float)) else tuple(float(v) for v in value)
    if len(numbers) != ndim or not all(least <= number < np.inf for number in numbers):
        raise UserError(f"{name} should be one number or {ndim}, each {least:g} or more, not {value}.")
    return numbers


def _nearest(label: Label, coordinates: Float[np.ndarray, "n *S"]) -> Label:
    index = [np.clip(np.rint(along), 0, size - 1).astype(np.intp) for along, size in zip(coordinates, label.shape)]
    return label[tuple(index)]
