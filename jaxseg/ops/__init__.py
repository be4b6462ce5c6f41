"""Operations on arrays: pure functions of jax.numpy, channels last, with no Flax, config or files."""

from jaxseg.ops.components import connected_components
from jaxseg.ops.conv import conv, conv_transpose
from jaxseg.ops.distance import distance_transform
from jaxseg.ops.morphology import border, close, dilate, erode, open
from jaxseg.ops.pool import average_pool, max_pool, max_pool_indices, max_unpool
from jaxseg.ops.resize import resize
from jaxseg.ops.warp import affine_matrix, sample
from jaxseg.ops.windows import gaussian_window

__all__ = [
    "affine_matrix",
    "average_pool",
    "border",
    "close",
    "connected_components",
    "conv",
    "conv_transpose",
    "dilate",
    "distance_transform",
    "erode",
    "gaussian_window",
    "max_pool",
    "max_pool_indices",
    "max_unpool",
    "open",
    "resize",
    "sample",
]
