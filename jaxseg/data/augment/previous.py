"""The class map of a previous stage as further input channels (nnU-Net's cascade), with the mistakes it may have.

While samples are turned and mirrored, label and previous map travel as one integer map, so every spatial augmentation
moves both alike and needs to know of neither.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxseg.data.augment.compose import batched, chain
from jaxseg.data.augment.draw import Sample, chance, uniform
from jaxseg.ops import connected_components, distance_transform
from jaxseg.typing import IGNORE, AugmentFn

RADIUS = (1.0, 8.0)  # voxels
LARGEST_PART = 0.15  # of the patch: a part that is smaller may be removed
EACH = 0.5  # with this probability a class is changed, where any is


def packed_pairs(pairs: Sequence[tuple[int, int]], *, num_classes: int) -> tuple[tuple[int, int], ...]:
    """Returns the values of the one map that a left-right flip exchanges, where `pairs` are those of either map."""
    other = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    found = set()
    for previous in range(num_classes):
        for label in range(num_classes + 1):  # the last stands for IGNORE
            value = _joined(label, previous, num_classes)
            turned = _joined(other.get(label, label), other.get(previous, previous), num_classes)
            if value < turned:
                found.add((value, turned))
    return tuple(sorted(found))


def with_previous(
    function: Callable[[Array, Sample], Sample],
    *,
    num_classes: int,
    morphology_probability: float = 0.4,
    removal_probability: float = 0.2,
) -> AugmentFn:
    """Returns `(key, batch) -> batch` that also moves `batch["previous"]`, then makes channels of the image of it.

    The batch that comes out has C + num_classes - 1 channels and no "previous".

    Args:
      function: of one sample, as `batched` takes it; where it exchanges classes, those of `packed_pairs`.
      num_classes: with background, of the label and of the previous map alike.
      morphology_probability, removal_probability: see `corrupt`.

    Source: nnU-Net v2, nnUNetTrainer.get_training_transforms, is_cascaded.
    """

    def split(key: Array, sample: Sample) -> Sample:
        label, previous = jnp.mod(sample["label"], num_classes + 1), sample["label"] // (num_classes + 1)
        outside = (label == num_classes) | (sample["label"] < 0)  # a transform may fill with IGNORE
        previous = corrupt(
            key,
            jnp.maximum(previous, 0),
            num_classes=num_classes,
            morphology_probability=morphology_probability,
            removal_probability=removal_probability,
        )
        image = append(sample["image"], previous, num_classes=num_classes)
        return {"image": image, "label": jnp.where(outside, IGNORE, label)}

    run = batched(chain([function, split]))

    def augment(key: Array, batch: Mapping[str, Any]) -> dict[str, Any]:
        rest = {name: value for name, value in batch.items() if name != "previous"}
        label = jnp.where(batch["label"] == IGNORE, num_classes, batch["label"])
        return run(key, {**rest, "label": _joined(label, batch["previous"], num_classes)})

    return augment


def append(
    image: Float[Array | np.ndarray, "*S C"], previous: Int[Array | np.ndarray, "*S"], *, num_classes: int
) -> Float[Array | np.ndarray, "*S D"]:
    """Returns the image with one channel more for each class above 0: 1 where the previous map has it, 0 elsewhere."""
    here = np if isinstance(image, np.ndarray) else jnp  # whole volumes stay on the host
    planes = [previous == number for number in range(1, num_classes)]
    return here.concatenate([image, here.stack(planes, axis=-1).astype(image.dtype)], axis=-1)


def corrupt(
    key: Array,
    previous: Int[Array, "*S"],
    *,
    num_classes: int,
    morphology_probability: float = 0.4,
    removal_probability: float = 0.2,
) -> Int[Array, "*S"]:
    """Puts mistakes into a class map, so that a network learns not to copy it (nnU-Net's cascade).

    With the first probability classes, in random order and each with probability 1/2, are dilated, eroded, closed or
    opened by a ball of a random radius from 1 to 8 voxels; what a class gains is taken from the others, what it loses
    becomes background. With the second one part of a class, each with probability 1/2, is removed, among those that
    fill less than 15 % of the patch.

    Args:
      key: random key.
      previous: class ids.
      num_classes: with background.
      morphology_probability, removal_probability: for all classes together.

    Source: batchgeneratorsv2, ApplyRandomBinaryOperatorTransform and RemoveRandomConnectedComponent...Transform.
    """
    steps = ((_reshape, morphology_probability), (_remove_part, removal_probability))
    for place, (change, probability) in enumerate(steps):
        when, order, how = jax.random.split(jax.random.fold_in(key, place), 3)
        classes = jax.random.permutation(order, jnp.arange(1, num_classes))
        all_classes = functools.partial(_each, change, how, classes)
        previous = jax.lax.cond(chance(when, probability), all_classes, lambda same: same, previous)
    return previous


def _each(change: Callable, key: Array, classes: Int[Array, " n"], previous: Int[Array, "*S"]) -> Int[Array, "*S"]:
    """Changes some of the classes, one after the other."""

    def one(place, current):
        when, how = jax.random.split(jax.random.fold_in(key, place))
        changed = functools.partial(change, how, number=classes[place])
        return jax.lax.cond(chance(when, EACH), changed, lambda same: same, current)

    return jax.lax.fori_loop(0, len(classes), one, previous)


def _joined(label, previous, num_classes: int):
    """One value for both; 0 is background of both, which is what transforms fill with."""
    return label + (num_classes + 1) * previous


def _reshape(key: Array, previous: Int[Array, "*S"], *, number: Int[Array, ""]) -> Int[Array, "*S"]:
    which, size = jax.random.split(key)
    radius = uniform(size, RADIUS)

    def grow(mask):  # by a ball: every voxel within the radius of the mask
        return distance_transform(~mask) <= radius

    def shrink(mask):
        return distance_transform(mask) > radius

    mask = previous == number
    choices = [grow, shrink, lambda mask: grow(shrink(mask)), lambda mask: shrink(grow(mask))]
    changed = jax.lax.switch(jax.random.randint(which, (), 0, len(choices)), choices, mask)
    return jnp.where(changed, number, jnp.where(mask, 0, previous)).astype(previous.dtype)


def _remove_part(key: Array, previous: Int[Array, "*S"], *, number: Int[Array, ""]) -> Int[Array, "*S"]:
    parts = connected_components(previous == number, connectivity=previous.ndim)
    sizes = jnp.zeros(previous.size + 1, jnp.int32).at[parts.reshape(-1)].add(1).at[0].set(0)
    small = (sizes > 0) & (sizes < LARGEST_PART * previous.size)
    chosen = jax.random.categorical(key, jnp.where(small, 0.0, -jnp.inf))
    return jnp.where(small.any() & (parts == chosen), 0, previous)
