"""Between the intensities that preprocessing gives and the range from -1 to 1 that generators of images work in."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxseg.typing import UserError

# Normalisation -> whether its values are standard deviations; the others go from 0 to 1.
IN_DEVIATIONS = {"zscore": True, "zscore_mask": True, "ct": True, "unit": False, "rgb": False}
CLIP = 3.0  # standard deviations that become 1: methods.md, section 14.1

Image = Float[Array | np.ndarray, "... C"]


def encode(image: Image, kinds: Sequence[str], *, clip: float = CLIP) -> Float[Array, "... C"]:
    """Returns normalised intensities as numbers from -1 to 1; what lies outside is cut off.

    Args:
      image: of `preprocess.forward`, channels last.
      kinds: the normalisation of each channel, one of `IN_DEVIATIONS`.
      clip: standard deviations that become 1, for the kinds whose values are such.

    Raises:
      UserError: a kind without a known range.
      ValueError: not as many kinds as channels.
    """
    scale, offset = scales(kinds, image.shape[-1], clip=clip)
    return jnp.clip((jnp.asarray(image) - offset) / scale, -1.0, 1.0)


def decode(image: Image, kinds: Sequence[str], *, clip: float = CLIP) -> Float[Array, "... C"]:
    """The inverse of `encode`, but for what was cut off."""
    scale, offset = scales(kinds, image.shape[-1], clip=clip)
    return jnp.asarray(image) * scale + offset


def scales(
    kinds: Sequence[str], channels: int, *, clip: float = CLIP
) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
    """Returns (scale, offset) of each channel: normalised = encoded * scale + offset. Raises as `encode`."""
    unknown = sorted(set(kinds) - set(IN_DEVIATIONS))
    if unknown:
        raise UserError(
            f"Images are made from -1 to 1, which needs a normalisation of known range "
            f"({', '.join(IN_DEVIATIONS)}), not {', '.join(unknown)}; set data.normalize."
        )
    if len(kinds) != channels:
        raise ValueError(f"There should be one normalisation a channel, got {len(kinds)} for {channels}.")
    if not clip > 0:
        raise UserError(f"The standard deviations at which intensities end should be positive, got {clip}.")
    scale = [clip if IN_DEVIATIONS[kind] else 0.5 for kind in kinds]
    offset = [0.0 if IN_DEVIATIONS[kind] else 0.5 for kind in kinds]
    return np.array(scale, np.float32), np.array(offset, np.float32)
