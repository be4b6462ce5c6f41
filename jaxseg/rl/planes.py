"""A segmentation as yes-or-no maps that agents change: one for two classes, one each for more or for regions."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseg.tasks.semantic import read_outputs
from jaxseg.typing import IGNORE


class Planes(NamedTuple):
    """How probabilities `(B, *S, K)` become P planes `(B, *S, P)`, each the probability of yes, and back.

    Attributes:
      number: P: 1 for two exclusive classes (the second one), K for more of them and for overlapping regions.
      outputs: K.
      of: probabilities -> planes.
      back: planes -> probabilities; those of exclusive classes sum to 1 again.
      true: labels `(B, *S)` -> planes of 0 and 1; 0 where the label is IGNORE.
    """

    number: int
    outputs: int
    of: Callable[[Float[Array, "B *S K"]], Float[Array, "B *S P"]]
    back: Callable[[Float[Array, "B *S P"]], Float[Array, "B *S K"]]
    true: Callable[[Int[Array, "B *S"]], Float[Array, "B *S P"]]


def read_planes(*, num_classes: int, regions: Sequence[Sequence[int]] | None = None) -> Planes:
    """Returns the planes of exclusive classes (`regions` None, background among them), or one a region."""
    outputs = read_outputs(num_classes=num_classes, regions=regions)
    if regions:
        return Planes(len(regions), len(regions), of=_same, back=_same, true=outputs.planes)
    if num_classes == 2:
        return Planes(
            1,
            2,
            of=lambda probabilities: probabilities[..., 1:],
            back=lambda planes: jnp.concatenate([1.0 - planes, planes], axis=-1),
            true=lambda labels: outputs.planes(labels)[..., 1:],
        )
    return Planes(num_classes, num_classes, of=_same, back=_normalized, true=outputs.planes)


def seen(labels: Int[Array, "B *S"]) -> Float[Array, "B *S 1"]:
    """Returns 1 where a label counts, 0 where it is IGNORE."""
    return (labels != IGNORE)[..., None].astype(jnp.float32)


def _same(planes: Float[Array, "B *S P"]) -> Float[Array, "B *S P"]:
    return planes


def _normalized(planes: Float[Array, "B *S K"]) -> Float[Array, "B *S K"]:
    return planes / jnp.maximum(planes.sum(-1, keepdims=True), 1e-6)
