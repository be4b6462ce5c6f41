"""Convolutions with PyTorch's geometry: accelerators get XLA's own, CPUs the forms measured as faster there.

What the CPU form does (2 cores, float32; `benchmarks/conv.py` prints the ratios):
- a 3D convolution becomes 2D ones with depth folded into the batch: one a depth tap, or, for three taps at stride 1,
  minimal filtering F(2, 3) along depth (Winograd 1980; Lavin and Gray 2016): four half-depth 2D convolutions for six;
- the weight gradient is a sum over pieces of the batch and of rows that stay in the cache: on large images it takes
  half the time of XLA's single convolution (`benchmarks/weight_gradient.py`; docs/measurements.md has what was tried);
- 1x1 kernels are matrix products, depthwise kernels shifted multiply-adds.
All forms differentiate in both modes, vmap and jit.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Pairs = tuple[tuple[int, int], ...]
WINOGRAD_POSITIONS = 1000  # below so many outputs a product, transforming the kernel costs more than it saves
PIECE_VALUES = 2**20  # of the input or the gradient in one piece of a weight gradient; 4 MiB of float32 each


class Geometry(NamedTuple):
    """Static settings of a convolution: one entry a spatial axis; `padding` holds (before, after)."""

    strides: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    groups: int


def conv(
    x: Float[Array | np.ndarray, "B *S C"],
    kernel: Float[Array | np.ndarray, "*k I O"],
    *,
    strides: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] | Sequence[tuple[int, int]] = "same",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Float[Array, "B *T O"]:
    """Convolves (cross-correlates) a 2D or 3D image as PyTorch's `conv2d`, `conv3d` do, channels last.

    Args:
      x: batch of images.
      kernel: `(*k, C / groups, O)`.
      strides: one number, or one a spatial axis.
      padding: "same" is `dilation * (k - 1) // 2` on both sides at every stride (not XLA's SAME, which shifts strided
        outputs); "tensorflow" is XLA's and TensorFlow's SAME (the size over the stride, rounded up; an odd zero at the
        end); "valid" is none; else zeros on both sides: a number, a number an axis, or (before, after) an axis.
      dilation: distance of the kernel's taps, one number or one an axis.
      groups: number of channel groups; `groups == C` is a depthwise convolution.

    Raises:
      ValueError: the ranks, channels or settings do not fit together.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    geometry = _geometry(x, kernel, strides, padding, dilation, groups)
    on_cpu = functools.partial(_conv_cpu, geometry=geometry)
    elsewhere = functools.partial(_conv_xla, geometry=geometry)
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=elsewhere)


def conv_transpose(
    x: Float[Array | np.ndarray, "B *S C"],
    kernel: Float[Array | np.ndarray, "*k C O"],
    *,
    strides: int | Sequence[int],
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
) -> Float[Array, "B *T O"]:
    """Transposed convolution, as PyTorch's `conv_transpose2d`, `conv_transpose3d` do, channels last.

    Input `i` scatters `x[i] @ kernel[t]` to output `s * i + t - padding`. With kernel = stride, windows do not overlap:
    one matrix product a voxel and depth-to-space. Longer kernels are cut into blocks of the stride's size: a
    convolution over blocks, whose outputs are again sorted by depth-to-space, so that no zeros are multiplied.
    PyTorch's weight `(C, O, *k)` becomes the kernel by moving its first two axes last, no flip.

    Args:
      x: batch of images.
      kernel: `(*k, C, O)`.
      strides: one number, or one a spatial axis.
      padding: how much is cut off both ends of each axis.
      output_padding: how much longer the far end becomes (below the stride).

    Raises:
      ValueError: the ranks or channels differ, the kernel is smaller than its stride, or nothing is left.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    n = x.ndim - 2
    strides = _per_axis(strides, n, "strides")
    padding, output_padding = (_per_axis(value, n, "padding", least=0) for value in (padding, output_padding))
    size = kernel.shape[:-2]
    if kernel.ndim != x.ndim or any(k < s for k, s in zip(size, strides)):
        raise ValueError(f"conv_transpose needs a kernel of at least {strides}, its strides; it got {size}.")
    if kernel.shape[-2] != x.shape[-1]:
        raise ValueError(f"The kernel takes {kernel.shape[-2]} channels, the image has {x.shape[-1]}.")
    if any(extra >= s for extra, s in zip(output_padding, strides)):
        raise ValueError(f"output_padding must be below the strides {strides}; it is {output_padding}.")
    if size == strides:
        y = _scatter(jnp.dot(x, _blocks(kernel, strides)[(0,) * n]), strides)
    else:
        blocks = _blocks(kernel, strides)  # (*k / s, C, s1 * s2 * O)
        flipped = jnp.flip(blocks, axis=tuple(range(n)))
        y = _scatter(conv(x, flipped, padding=[count - 1 for count in blocks.shape[:n]]), strides)
    for axis, (length, k, s, p, extra) in enumerate(zip(x.shape[1:-1], size, strides, padding, output_padding), 1):
        target = (length - 1) * s + k - 2 * p + extra
        if target < 1:
            raise ValueError(f"conv_transpose with padding {padding} leaves nothing of an image {x.shape[1:-1]}.")
        missing = p + target - y.shape[axis]
        if missing > 0:  # output_padding reaches beyond what any input scatters to
            y = jnp.pad(y, [(0, missing if i == axis else 0) for i in range(y.ndim)])
        y = lax.slice_in_dim(y, p, p + target, axis=axis)
    return y


def _blocks(kernel: Array, strides: tuple[int, ...]) -> Array:
    """`(*k, C, O)` -> `(*blocks, C, s1 * s2 * O)`: the kernel in pieces of the stride's size, zeros at the far end."""
    n = len(strides)
    *size, channels, outputs = kernel.shape
    counts = [-(-k // s) for k, s in zip(size, strides)]
    kernel = jnp.pad(kernel, [(0, c * s - k) for c, s, k in zip(counts, strides, size)] + [(0, 0), (0, 0)])
    kernel = kernel.reshape(*itertools.chain.from_iterable(zip(counts, strides)), channels, outputs)
    kernel = kernel.transpose(*range(0, 2 * n, 2), 2 * n, *range(1, 2 * n, 2), 2 * n + 1)
    return kernel.reshape(*counts, channels, -1)


def _scatter(y: Array, strides: tuple[int, ...]) -> Array:
    """Depth to space: `(B, S1, S2, s1 * s2 * O)` -> `(B, S1 * s1, S2 * s2, O)`."""
    n = len(strides)
    batch, *size, _ = y.shape
    y = y.reshape(batch, *size, *strides, -1)
    interleaved = itertools.chain.from_iterable((1 + i, 1 + n + i) for i in range(n))
    y = y.transpose(0, *interleaved, 2 * n + 1)  # (B, S1, s1, S2, s2, ..., O)
    return y.reshape(batch, *(length * stride for length, stride in zip(size, strides)), y.shape[-1])


def _per_axis(value: int | Sequence[int], n: int, name: str, *, least: int = 1) -> tuple[int, ...]:
    values = (int(value),) * n if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) != n or min(values) < least:
        raise ValueError(f"{name} should be one number from {least} up, or {n} of them; it is {value}.")
    return values


def _pairs(padding, size: Sequence[int], dilation: Sequence[int]) -> Pairs:
    n = len(size)
    if padding == "same":
        padding = [d * (k - 1) // 2 for d, k in zip(dilation, size)]
    elif padding == "valid":
        padding = 0
    elif isinstance(padding, str):
        raise ValueError(f"padding should be 'same', 'tensorflow', 'valid', numbers or pairs; it is {padding!r}.")
    sides = [padding] * n if isinstance(padding, int) else list(padding)
    pairs = tuple((int(p), int(p)) if isinstance(p, int) else (int(p[0]), int(p[1])) for p in sides)
    if len(pairs) != n or min(map(min, pairs)) < 0:
        raise ValueError(f"padding should be zero or more, one entry for each of {n} axes; it is {padding}.")
    return pairs


def _tensorflow_pairs(size, kernel, strides, dilation) -> Pairs:
    totals = [max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n) for n, k, s, d in zip(size, kernel, strides, dilation)]
    return tuple((total // 2, total - total // 2) for total in totals)


def _geometry(x, kernel, strides, padding, dilation, groups: int) -> Geometry:
    n = x.ndim - 2
    if n not in (2, 3) or kernel.ndim != x.ndim:
        raise ValueError(
            f"conv takes (B, *S, C) with 2 or 3 spatial axes and a kernel of that rank; "
            f"it got {x.shape} and {kernel.shape}."
        )
    if x.shape[-1] != kernel.shape[-2] * groups or kernel.shape[-1] % groups:
        raise ValueError(
            f"A kernel {kernel.shape} in {groups} groups takes {kernel.shape[-2] * groups} channels and gives a "
            f"multiple of {groups}; the image has {x.shape[-1]} channels."
        )
    dilation, strides = _per_axis(dilation, n, "dilation"), _per_axis(strides, n, "strides")
    if isinstance(padding, str) and padding == "tensorflow":
        padding = _tensorflow_pairs(x.shape[1:-1], kernel.shape[:-2], strides, dilation)
    geometry = Geometry(strides, _pairs(padding, kernel.shape[:-2], dilation), dilation, groups)
    if min(_output_size(x.shape[1:-1], kernel.shape[:-2], geometry)) < 1:
        raise ValueError(f"An image of size {x.shape[1:-1]} is smaller than the kernel {kernel.shape[:-2]} allows.")
    return geometry


def _output_size(size: Sequence[int], kernel: Sequence[int], geometry: Geometry) -> tuple[int, ...]:
    axes = zip(size, kernel, geometry.strides, geometry.padding, geometry.dilation)
    return tuple((length + sum(pad) - d * (k - 1) - 1) // s + 1 for length, k, s, pad, d in axes)


def _conv_xla(x: Array, kernel: Array, geometry: Geometry) -> Array:
    axes = "DHW"[-(x.ndim - 2) :]
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=geometry.strides,
        padding=geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
        feature_group_count=geometry.groups,
    )


def _conv_cpu(x: Array, kernel: Array, geometry: Geometry) -> Array:
    channels = x.shape[-1]
    if math.prod(kernel.shape[:-2]) == 1 and geometry.groups == 1:
        return _pointwise(x, kernel, geometry)
    if geometry.groups == channels and channels > 1:
        return _depthwise(x, kernel, geometry)
    if x.ndim == 5:
        return _conv_by_depth(x, kernel, geometry)
    return _conv2d(x, kernel, geometry)


def _pad(x: Array, pairs: Sequence[tuple[int, int]]) -> Array:
    return jnp.pad(x, ((0, 0), *pairs, *((0, 0),) * (x.ndim - 1 - len(pairs)))) if any(map(any, pairs)) else x


def _window(x: Array, offsets: Sequence[int], size: Sequence[int], strides: Sequence[int]) -> Array:
    """Reads `size` positions from each spatial axis (as many as are given), `strides` apart from `offsets` on."""
    for axis, (start, count, stride) in enumerate(zip(offsets, size, strides), start=1):
        x = lax.slice_in_dim(x, start, start + stride * (count - 1) + 1, stride, axis)
    return x


def _pointwise(x: Array, kernel: Array, geometry: Geometry) -> Array:
    size = _output_size(x.shape[1:-1], kernel.shape[:-2], geometry)
    x = _window(_pad(x, geometry.padding), (0,) * len(size), size, geometry.strides)
    return jnp.dot(x, kernel.reshape(kernel.shape[-2:]))


def _depthwise(x: Array, kernel: Array, geometry: Geometry) -> Array:
    *taps, _, outputs = kernel.shape
    size = _output_size(x.shape[1:-1], taps, geometry)
    x = jnp.repeat(_pad(x, geometry.padding), outputs // x.shape[-1], axis=-1)
    total = jnp.zeros((), x.dtype)
    for tap in itertools.product(*map(range, taps)):
        offsets = [t * d for t, d in zip(tap, geometry.dilation)]
        total = total + _window(x, offsets, size, geometry.strides) * kernel[tap][0]
    return total


def _conv_by_depth(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """A 3D convolution as 2D ones with depth folded into the batch."""
    depth = _output_size(x.shape[1:-1], kernel.shape[:-2], geometry)[0]
    flat = Geometry(geometry.strides[1:], geometry.padding[1:], geometry.dilation[1:], geometry.groups)
    channels, taps = x.shape[-1], kernel.shape[0]
    (stride, *_), (pad, *_), (dilation, *_) = geometry.strides, geometry.padding, geometry.dilation
    positions = x.shape[0] * (depth // 2) * math.prod(x.shape[2:-1]) // math.prod(flat.strides)
    simple = (taps, stride, dilation, geometry.groups) == (3, 1, 1, 1)
    # F(2, 3) adds inputs before it multiplies: exact enough in float32, not in bfloat16.
    if simple and x.dtype == jnp.float32 and depth >= 4 and channels >= 8 and positions >= WINOGRAD_POSITIONS:
        # Only x and the kernel are kept for the gradient: it makes the sums of inputs again, but no convolution.
        return jax.checkpoint(functools.partial(_winograd_depth, pad=pad, depth=depth, flat=flat))(x, kernel)
    length = x.shape[1]
    x = _pad(x, (pad,))
    reads = [t for t in range(taps) if any(0 <= t * dilation + stride * i - pad[0] < length for i in range(depth))]
    slices = [_window(x, (t * dilation,), (depth,), (stride,)) for t in reads]
    if channels * len(slices) <= 16 and geometry.groups == 1 and len(slices) > 1:
        # A grey image: one convolution of three channels beats three of one.
        joined = jnp.concatenate([kernel[t] for t in reads], axis=-2)
        return _folded(jnp.concatenate(slices, axis=-1), joined, flat)
    if not slices:
        return _folded(_window(x, (0,), (depth,), (stride,)), kernel[0], flat)
    return functools.reduce(jnp.add, (_folded(part, kernel[t], flat) for t, part in zip(reads, slices)))


def _folded(x: Array, kernel: Array, flat: Geometry) -> Array:
    y = _conv2d(x.reshape(-1, *x.shape[2:]), kernel, flat)
    return y.reshape(*x.shape[:2], *y.shape[1:])


def _winograd_depth(x: Array, kernel: Array, *, pad: tuple[int, int], depth: int, flat: Geometry) -> Array:
    """F(2, 3) along depth: two outputs of a three-tap filter from four products instead of six."""
    pairs = -(-depth // 2)
    x = _pad(x, ((pad[0], pad[1] + 2 * pairs - depth),))
    a, b, c, d = (_window(x, (start,), (pairs,), (2,)) for start in range(4))
    near, middle, far = kernel
    even, odd = (near + far + middle) * 0.5, (near + far - middle) * 0.5
    p, q, r, s = (_folded(part, u, flat) for part, u in ((a - c, near), (b + c, even), (c - b, odd), (b - d, far)))
    y = jnp.stack([p + q + r, q - r - s], axis=2)
    return y.reshape(y.shape[0], 2 * pairs, *y.shape[3:])[:, :depth]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _conv2d(x: Array, kernel: Array, geometry: Geometry) -> Array:
    return _conv_xla(x, kernel, geometry)


def _conv2d_jvp(geometry: Geometry, primals, tangents):
    """The tangent by the kernel is written so that its transpose, the weight gradient, is a sum over pieces."""
    (x, kernel), (dx, dkernel) = primals, tangents
    zero = jax.custom_derivatives.SymbolicZero
    y = _conv2d(x, kernel, geometry)
    out = jnp.zeros_like(y)
    if not isinstance(dx, zero):
        out = out + _conv2d(dx, kernel, geometry)
    if not isinstance(dkernel, zero):
        # checkpoint: keep x for the gradient, not copies of its pieces; nothing in the forward pass could be shared.
        in_pieces = jax.checkpoint(functools.partial(_conv2d_in_pieces, geometry=geometry), prevent_cse=False)
        out = out + in_pieces(x, dkernel)
    return y, out


_conv2d.defjvp(_conv2d_jvp, symbolic_zeros=True)


def _conv2d_in_pieces(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """The same convolution, some images or some rows of one image at a time."""
    rows, columns = _output_size(x.shape[1:-1], kernel.shape[:2], geometry)
    values = max(math.prod(x.shape[1:]), rows * columns * kernel.shape[-1])  # of one image
    images = max(1, min(x.shape[0], PIECE_VALUES // values))
    high = -(-rows // max(1, -(-values // PIECE_VALUES)))
    if images == x.shape[0] and high == rows:
        return _conv_xla(x, kernel, geometry)
    reach, stride = geometry.dilation[0] * (kernel.shape[0] - 1) + 1, geometry.strides[0]
    x, inner = _pad(x, geometry.padding[:1]), geometry._replace(padding=((0, 0), geometry.padding[1]))

    def piece(first: int, top: int) -> Array:
        bottom = min(top + high, rows)
        return _conv_xla(x[first : first + images, top * stride : (bottom - 1) * stride + reach], kernel, inner)

    batches = [[piece(first, top) for top in range(0, rows, high)] for first in range(0, x.shape[0], images)]
    return jnp.concatenate([jnp.concatenate(strips, axis=1) for strips in batches], axis=0)
