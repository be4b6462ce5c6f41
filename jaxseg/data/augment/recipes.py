"""Whole augmentations that a config names with one word: nnU-Net's, a light one, for electron microscopy, for fundus.

Each is written out in order with its probabilities, so that the code is the table one would print in a paper.
"""

import math
from collections.abc import Sequence
from functools import partial

from jaxtyping import Array

from jaxseg.data.augment import intensity, spatial
from jaxseg.data.augment.compose import chain
from jaxseg.data.augment.draw import Sample, reads

LIGHT_SCALE = (1 / 1.2, 1 / 0.9)
EM_ANGLE, EM_SCALE, EM_SIGMA = math.radians(15), (0.85, 1.18), 10.0
FUNDUS_SCALE = (0.8, 1.25)


def _nnunet_input(patch_size, *, max_angle=None, dummy_2d=None, **_) -> tuple[int, ...]:
    # nnU-Net reads for scales from 0.85, though it draws from 0.7: less to read, rarely an empty corner.
    options = {"max_angle": max_angle, "dummy_2d": dummy_2d}
    return spatial.rotate_scale.input_size(patch_size, scale=(0.85, 1.25), **options)


@reads(_nnunet_input)
def nnunet(
    key: Array,
    sample: Sample,
    *,
    patch_size: Sequence[int],
    mirror_axes: Sequence[int] | None = None,
    pairs: Sequence[tuple[int, int]] = (),
    left_right_axis: int = -1,
    max_angle: float | Sequence[float] | None = None,
    scale: tuple[float, float] = (0.7, 1.4),
    dummy_2d: bool | None = None,
    interpolation: str = "linear",
) -> Sample:
    """The augmentation of nnU-Net v2 (Isensee 2021; defaults of version 2.8), 2D and 3D.

    Order: rotation and scaling in one warp, noise, blur, brightness, contrast, low resolution, gamma on the negative
    image, gamma, mirroring. Elastic deformation is off, as there. Not here: the zeroing outside of the nonzero mask,
    which needs the mask, and targets for deep supervision, which the loss makes.

    Args:
      key: random key.
      sample: one image and label of `nnunet.input_size(patch_size)`, or any other size (the centre is cut or filled).
      patch_size: the size returned.
      mirror_axes: axes that may flip, all by default; () for none.
      pairs, left_right_axis: classes that a left-right flip exchanges, see `spatial.mirror`.
      max_angle: radians; by default 3D 30°, stacks of slices and 2D 180°, long 2D patches 15°.
      scale: limits of the factor on coordinates.
      dummy_2d: turn and coarsen within slices only; by default where axis 0 is over 3 times shorter than another.
      interpolation: of labels, see `spatial.rotate_scale`.
    """
    flat = spatial.flattened(patch_size) if dummy_2d is None else dummy_2d
    warp = {"max_angle": max_angle, "scale": scale, "dummy_2d": flat, "interpolation": interpolation}
    steps = [
        partial(spatial.rotate_scale, patch_size=patch_size, probability=0.2, **warp),
        partial(intensity.gaussian_noise, probability=0.1, strength=(0.0, 0.1)),
        partial(intensity.gaussian_blur, probability=0.2, channel_probability=0.5, sigma=(0.5, 1.0)),
        partial(intensity.brightness, probability=0.15, factor=(0.75, 1.25)),
        partial(intensity.contrast, probability=0.15, factor=(0.75, 1.25)),
        partial(
            intensity.low_resolution,
            probability=0.25,
            channel_probability=0.5,
            zoom=(0.5, 1.0),
            axes=(1, 2) if flat else None,
        ),
        partial(intensity.gamma, probability=0.1, exponent=(0.7, 1.5), invert=True),
        partial(intensity.gamma, probability=0.3, exponent=(0.7, 1.5)),
        partial(spatial.mirror, probability=0.5, axes=mirror_axes, pairs=pairs, left_right_axis=left_right_axis),
    ]
    return chain(steps)(key, sample)


def _light_input(patch_size, **_) -> tuple[int, ...]:
    return spatial.input_size(patch_size, max_angle=0.0, scale=LIGHT_SCALE)


@reads(_light_input)
def light(
    key: Array,
    sample: Sample,
    *,
    patch_size: Sequence[int],
    mirror_axes: Sequence[int] | None = None,
    pairs: Sequence[tuple[int, int]] = (),
    left_right_axis: int = -1,
) -> Sample:
    """The lighter augmentation of MONAI's DynUNet pipeline: zoom 0.9-1.2, noise, blur, intensity, flips; no rotation.

    Args:
      key: random key.
      sample: one image and label.
      patch_size: the size returned.
      mirror_axes, pairs, left_right_axis: see `nnunet`.
    """
    steps = [
        # Its zoom enlarges objects above 1; our scale multiplies coordinates.
        partial(spatial.rotate_scale, patch_size=patch_size, probability=0.15, max_angle=0.0, scale=LIGHT_SCALE),
        partial(intensity.gaussian_noise, probability=0.15, strength=(0.0, 0.01)),
        partial(intensity.gaussian_blur, probability=0.15, channel_probability=1.0, sigma=(0.5, 1.15)),
        partial(intensity.brightness, probability=0.15, factor=(0.7, 1.3)),
        partial(spatial.mirror, probability=0.5, axes=mirror_axes, pairs=pairs, left_right_axis=left_right_axis),
    ]
    return chain(steps)(key, sample)


def _em_input(patch_size, **_) -> tuple[int, ...]:
    flat = len(patch_size) == 3
    turned = spatial.input_size(patch_size, max_angle=EM_ANGLE, scale=EM_SCALE, dummy_2d=flat)
    margin = 2 * math.ceil(EM_SIGMA)
    return (turned[0], *(n + margin for n in turned[1:])) if flat else tuple(n + margin for n in turned)


@reads(_em_input)
def em(
    key: Array,
    sample: Sample,
    *,
    patch_size: Sequence[int],
    elastic_sigma: float = EM_SIGMA,
    interpolation: str = "linear",
) -> Sample:
    """For electron microscopy, where no direction is special: elastic (Ronneberger 2015), turns, flips, greys.

    A 3D stack is turned and bent within its slices, which are thicker than wide; it is flipped along all axes.

    Args:
      key: random key.
      sample: one image and label.
      patch_size: the size returned.
      elastic_sigma: of the vectors on a 3 x 3 grid, in pixels.
      interpolation: of labels, see `spatial.rotate_scale`.
    """
    warp = {"max_angle": EM_ANGLE, "scale": EM_SCALE, "dummy_2d": len(patch_size) == 3, "interpolation": interpolation}
    bend = {"elastic_probability": 0.5, "elastic_sigma": elastic_sigma, "elastic_points": 3}
    steps = [
        partial(spatial.rotate_scale, patch_size=patch_size, probability=0.3, **warp, **bend),
        partial(spatial.rotate90, probability=0.75),
        partial(spatial.mirror, probability=0.5),
        partial(intensity.gaussian_noise, probability=0.15, strength=(0.0, 0.1)),
        partial(intensity.gaussian_blur, probability=0.15, channel_probability=1.0, sigma=(0.5, 1.0)),
        partial(intensity.brightness, probability=0.15, factor=(0.75, 1.25)),
        partial(intensity.contrast, probability=0.3, factor=(0.75, 1.25)),
        partial(intensity.gamma, probability=0.3, exponent=(0.7, 1.5)),
    ]
    return chain(steps)(key, sample)


def _fundus_input(patch_size, **_) -> tuple[int, ...]:
    return spatial.input_size(patch_size, max_angle=math.pi, scale=FUNDUS_SCALE)


@reads(_fundus_input)
def fundus(
    key: Array, sample: Sample, *, patch_size: Sequence[int], fill: float = 0.0, interpolation: str = "linear"
) -> Sample:
    """For colour photographs of the retina (2D, RGB): any rotation, scaling, flips, hue, saturation, light, focus.

    Args:
      key: random key.
      sample: one RGB image and label.
      patch_size: the size returned.
      fill: the value beyond the photograph, its black margin after normalisation.
      interpolation: of labels, see `spatial.rotate_scale`.
    """
    warp = {"max_angle": math.pi, "scale": FUNDUS_SCALE, "fill": fill, "interpolation": interpolation}
    steps = [
        partial(spatial.rotate_scale, patch_size=patch_size, probability=0.5, **warp),
        partial(spatial.mirror, probability=0.5),
        partial(intensity.color_jitter, probability=0.5, hue=0.1, saturation=(0.75, 1.25)),
        partial(intensity.brightness, probability=0.3, factor=(0.75, 1.25)),
        partial(intensity.contrast, probability=0.3, factor=(0.75, 1.25)),
        partial(intensity.gamma, probability=0.3, exponent=(0.7, 1.5)),
        partial(intensity.gaussian_blur, probability=0.15, channel_probability=1.0, sigma=(0.5, 1.0)),
        partial(intensity.gaussian_noise, probability=0.15, strength=(0.0, 0.05)),
    ]
    return chain(steps)(key, sample)


em.mirrors_all = fundus.mirrors_all = True  # read by `compose.mirrored_axes`
