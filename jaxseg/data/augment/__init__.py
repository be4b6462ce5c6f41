"""Augmentation on the device: plain functions of one sample, recipes made of them, and pipelines named in a config.

    augment = jaxseg.data.augment.from_string("nnunet|bias_field(probability=0.3)", patch_size=(40, 56, 40))
    batch = augment(key, batch)                                     # inside jit
    sample = jaxseg.data.augment.gamma(key, sample, probability=1)  # one sample, by hand

To add one: write `fn(key, sample, *, options) -> sample` (see `draw`) and its line in `TABLE`.
`differentiable_augment` stands outside it: a GAN's step calls it on real and generated images alike.
"""

from collections.abc import Sequence

from jaxseg.data.augment import compose, previous
from jaxseg.data.augment.compose import batched, chain, none
from jaxseg.data.augment.differentiable import differentiable_augment
from jaxseg.data.augment.intensity import (
    bias_field,
    brightness,
    color_jitter,
    contrast,
    gamma,
    gaussian_blur,
    gaussian_noise,
    inverted_gamma,
    low_resolution,
)
from jaxseg.data.augment.recipes import em, fundus, light, nnunet
from jaxseg.data.augment.spatial import (
    center_crop,
    cutout,
    elastic,
    input_size,
    mirror,
    random_crop,
    rotate90,
    rotate_scale,
)
from jaxseg.typing import AugmentFn

TABLE = {
    "none": "jaxseg.data.augment.compose:none",
    "nnunet": "jaxseg.data.augment.recipes:nnunet",
    "light": "jaxseg.data.augment.recipes:light",
    "em": "jaxseg.data.augment.recipes:em",
    "fundus": "jaxseg.data.augment.recipes:fundus",
    "rotate_scale": "jaxseg.data.augment.spatial:rotate_scale",
    "elastic": "jaxseg.data.augment.spatial:elastic",
    "mirror": "jaxseg.data.augment.spatial:mirror",
    "rotate90": "jaxseg.data.augment.spatial:rotate90",
    "center_crop": "jaxseg.data.augment.spatial:center_crop",
    "random_crop": "jaxseg.data.augment.spatial:random_crop",
    "cutout": "jaxseg.data.augment.spatial:cutout",
    "gaussian_noise": "jaxseg.data.augment.intensity:gaussian_noise",
    "gaussian_blur": "jaxseg.data.augment.intensity:gaussian_blur",
    "brightness": "jaxseg.data.augment.intensity:brightness",
    "contrast": "jaxseg.data.augment.intensity:contrast",
    "low_resolution": "jaxseg.data.augment.intensity:low_resolution",
    "gamma": "jaxseg.data.augment.intensity:gamma",
    "inverted_gamma": "jaxseg.data.augment.intensity:inverted_gamma",
    "bias_field": "jaxseg.data.augment.intensity:bias_field",
    "color_jitter": "jaxseg.data.augment.intensity:color_jitter",
}

__all__ = [
    "TABLE",
    "batched",
    "bias_field",
    "brightness",
    "center_crop",
    "chain",
    "color_jitter",
    "contrast",
    "cutout",
    "differentiable_augment",
    "elastic",
    "em",
    "from_string",
    "fundus",
    "gamma",
    "gaussian_blur",
    "gaussian_noise",
    "input_size",
    "inverted_gamma",
    "light",
    "low_resolution",
    "mirror",
    "mirror_axes",
    "names",
    "nnunet",
    "none",
    "random_crop",
    "raw_patch_size",
    "rotate90",
    "rotate_scale",
]


def names() -> tuple[str, ...]:
    """Returns the names that a config may use."""
    return tuple(TABLE)


def from_string(
    text: str,
    *,
    patch_size: Sequence[int],
    flip_pairs: Sequence[tuple[int, int]] = (),
    num_classes: int | None = None,
    with_previous: bool = False,
) -> AugmentFn:
    """Returns the `(key, batch) -> batch` of a pipeline such as "rotate_scale(max_angle_degrees=15)|mirror|gamma".

    Functions run from left to right on each sample. Functions that take `patch_size`, `pairs` or `num_classes`, and are
    not given them in the text, get the values given here. Names outside the table read "package.module:function".

    Args:
      text: the pipeline, or "none". Angles are in radians; any option `x` in radians can be given as `x_degrees`.
      patch_size: the size of what comes out. What goes in is best of `raw_patch_size(text, patch_size)`.
      flip_pairs: pairs of class ids that a left-right flip exchanges.
      num_classes: for functions that need it.
      with_previous: the batch has the class map of a previous stage, "previous", which becomes channels of the image
        (see `previous.with_previous`).

    Raises:
      UserError: a name or an option is unknown, or an option without a default is missing.
    """
    pairs = tuple((first, second) for first, second in flip_pairs)
    if with_previous and num_classes is not None:
        pairs = previous.packed_pairs(pairs, num_classes=num_classes)
    defaults = {"pairs": pairs, "num_classes": num_classes}
    function = compose.pipeline(text, TABLE, patch_size=patch_size, defaults=defaults)[0]
    if with_previous and num_classes is not None:
        return previous.with_previous(function, num_classes=num_classes)
    return batched(function)


def raw_patch_size(text: str, patch_size: Sequence[int]) -> tuple[int, ...]:
    """Returns the patch that the loader should read, so that rotations and scalings seldom reach beyond it.

    Raises:
      UserError: as `from_string`.
    """
    return compose.pipeline(text, TABLE, patch_size=patch_size, defaults={"pairs": (), "num_classes": None})[1]


def mirror_axes(text: str, *, ndim: int) -> tuple[int, ...]:
    """Returns the spatial axes that the pipeline may flip: those that averaging over flips may use at test time.

    Raises:
      UserError: as `from_string`.
    """
    return compose.mirrored_axes(text, TABLE, ndim=ndim)
