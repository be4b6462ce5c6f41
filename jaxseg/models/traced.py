"""What a network does with shapes, found by tracing it without computing anything."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.models import layers
from jaxseg.typing import UserError

SIZE = 64  # a side that most networks take


def transposed_strides(model: nn.Module, shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Returns the strides of every transposed convolution (ours and Flax's), by its layer's path, "decoder_0_up/conv".

    Args:
      model: the network.
      shape: of any image that it takes, `(B, *S, C)`.
    """
    found: dict[str, tuple[int, ...]] = {}

    def watch(run, arguments, options, context):
        layer = context.module
        if isinstance(layer, layers.ConvTranspose | nn.ConvTranspose):
            # Flax's own may leave its strides open, or give one number for all axes.
            axes = arguments[0].ndim - 2
            strides = layer.strides or 1
            found["/".join(layer.path)] = (strides,) * axes if isinstance(strides, int) else tuple(strides)
        return run(*arguments, **options)

    with nn.intercept_methods(watch):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(tuple(shape), jnp.float32))
    return found


def input_channels(model: nn.Module, variables: Mapping[str, Any]) -> int:
    """Returns the number of channels of the images that the network's variables were made for.

    Raises:
      UserError: no number that any of its kernels has fits.
    """
    kernels = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim >= 4]
    ndim = getattr(model, "ndim", max((kernel.ndim - 2 for kernel in kernels), default=2))
    steps = getattr(model, "divisor", (1,) * ndim)
    size = [math.ceil(SIZE / step) * step for step in steps]
    candidates = sorted({kernel.shape[-2] for kernel in kernels})
    for channels in candidates:
        image = jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)
        try:
            jax.eval_shape(model.apply, variables, image)
        except (flax.errors.FlaxError, ValueError, TypeError):
            continue
        return channels
    raise UserError(
        f"{type(model).__name__} takes no image of {size} with one of {candidates} channels, which its kernels read; "
        "the image it was made for cannot be told."
    )
