"""Weights of one network in another: by name, with the first layer adapted to its channels and 2D inflated to 3D."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxseg.transfer import torch_layout
from jaxseg.typing import UserError

STEMS = ("sum", "repeat")
INFLATIONS = ("centre", "mean")
UP = re.compile(r"(^|_)up(_\d+)?$")  # layers that may be transposed convolutions
# The layers of our networks that read the image: nothing behind them depends on its channels.
FIRST = re.compile(
    r"(^|/)(stem|stem_0|block_1_conv_0|encoder_0_conv_0|encoder_0_skip|node_0_0_conv_0)/"
    r"|^encoder_0/(unit_0/conv|residual|conv)/"
)
TILED = re.compile(r"^encoder_0_skip/")  # V-Net's, where it does not repeat the image's channels


class Merged(NamedTuple):
    """A network's variables after weights were taken over, and what became of every name.

    Attributes:
      variables: nested dict of arrays, shaped as the target.
      copied: taken as they were.
      adapted: taken after a change of their shape (first layer's channels, or 2D to 3D).
      fresh: kept as initialised: skipped, or unknown to the source.
      unused: names of the source that the target does not have.
    """

    variables: dict[str, Any]
    copied: tuple[str, ...]
    adapted: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        total = len(self.copied) + len(self.adapted) + len(self.fresh)
        parts = [f"{len(self.copied) + len(self.adapted)} of {total} arrays taken over"]
        if self.adapted:
            parts.append(f"adapted {torch_layout.some(self.adapted)}")
        if self.fresh:
            parts.append(f"initialised {torch_layout.some(self.fresh)}")
        if self.unused:
            parts.append(f"left behind {torch_layout.some(self.unused)}")
        return "; ".join(parts)


def merge(
    target: Mapping[str, Any],
    source: Mapping[str, Any],
    *,
    skip: str | Sequence[str] = (),
    stem: str = "sum",
    stem_layer: str = "",
    inflate: str = "centre",
    strides: Mapping[str, Sequence[int]] | None = None,
) -> Merged:
    """Returns the target's variables with the source's numbers wherever a name is in both.

    Args:
      target: `{"params": ..., "batch_stats": ...}`, freshly initialised.
      source: the same of another network.
      skip: patterns (`re.search`) of paths such as "backbone/stem/conv/kernel" that stay as initialised: "^head" for
        all but the head, "^(?!backbone)" for the encoder only.
      stem: how a first layer that meets another number of channels is adapted (see `adapt_channels`).
      stem_layer: pattern of the paths of the layers that read the image, where the network is not one of ours.
      inflate: how 2D kernels become 3D ones (see `inflate_kernel`).
      strides: of every transposed convolution of the target, by its layer's path (`models.transposed_strides`); the
        others are plain convolutions. Without it layers called "up" are not inflated.

    Raises:
      UserError: a pattern is no regular expression, a shape differs in another way, a first layer is left behind, the
        stride of a kernel to inflate is unknown, or nothing at all was taken.
    """
    patterns = [_compiled(text, "init.skip") for text in ([skip] if isinstance(skip, str) else skip) if text]
    first = [FIRST, *([_compiled(stem_layer, "init.stem_layer")] if stem_layer else [])]
    fit = functools.partial(_fitted, first=first, stem=stem, inflate=inflate, strides=strides)
    wanted, given = dict(torch_layout.leaves(target)), dict(torch_layout.leaves(source))
    found: dict[str, Any] = {}
    copied: list[str] = []
    adapted: list[str] = []
    fresh: list[str] = []
    wrong: list[str] = []
    for path, leaf in wanted.items():
        name = "/".join(path[1:])
        if path not in given or any(pattern.search(name) for pattern in patterns):
            fresh.append(name)
            array = leaf
        else:
            array = np.asarray(given[path])
            if array.shape == tuple(leaf.shape):
                copied.append(name)
            else:
                changed = fit(path, array, tuple(leaf.shape))
                if changed is None:
                    wrong.append(f"{name} {array.shape} for {tuple(leaf.shape)}")
                    continue
                array = changed
                adapted.append(name)
        _put(found, path, leaf if array is leaf else jnp.asarray(array, leaf.dtype))
    if wrong:
        raise UserError(
            f"{len(wrong)} arrays do not fit (stored shape for the model's): {torch_layout.some(wrong)}; leave them "
            f'out with init.skip, such as "^{wrong[0].split("/")[0]}", give the model the same fields, or name with '
            "init.stem_layer the layers that read the image."
        )
    if not copied and not adapted:
        raise UserError(
            "None of the stored weights has a name of this model: stored "
            f"{torch_layout.some(sorted(map(_name, given)))}; model {torch_layout.some(sorted(map(_name, wanted)))}."
        )
    unused = sorted(_name(path) for path in given.keys() - wanted.keys())
    lost = [name for name in unused if TILED.search(name) and not any(pattern.search(name) for pattern in patterns)]
    if lost:
        raise UserError(
            f"The stored network reads the image through {lost[0]}, which the model leaves out, since its first level "
            "repeats the image's channels; give it model.tile_image=False, or leave the layer out with init.skip."
        )
    return Merged(found, tuple(copied), tuple(adapted), tuple(fresh), tuple(unused))


def adapt_channels(kernel: np.ndarray, channels: int, *, method: str = "sum") -> np.ndarray:
    """Returns a kernel `(*k, channels, O)` from `(*k, I, O)`, scaled so that activations keep their size.

    "sum": every channel gets the sum of the old ones over `channels`: a network of RGB images sees the channels' mean
    as grey, and one channel gives exactly what the grey image repeated in all old channels gave.
    "repeat": channel i gets old channel i mod I, times I / channels.

    Raises:
      ValueError: an unknown method.
    """
    old = kernel.shape[-2]
    if method == "sum":
        return np.repeat(kernel.sum(-2, keepdims=True) / channels, channels, axis=-2)
    if method == "repeat":
        return kernel[..., np.arange(channels) % old, :] * (old / channels)
    raise ValueError(f"The stem is adapted by {' or '.join(STEMS)}; not by {method!r}.")


def inflate_kernel(
    kernel: np.ndarray, depth: int, *, method: str = "centre", transposed_stride: int | None = None
) -> np.ndarray:
    """Returns a 3D kernel `(depth, kh, kw, I, O)`; a volume constant along depth gets the 2D kernel's response.

    "centre": the middle tap is the 2D kernel, the others are zero: exact at every slice. "mean": all taps are the 2D
    kernel over `depth` (Carreira and Zisserman 2017): exact where no padding is read. A transposed convolution of
    stride s along depth scatters: a slice of its output is reached by every s-th tap only, so each of these s phases
    has one whole tap, the one nearest the middle, or taps that add up to one.

    Args:
      kernel: `(kh, kw, I, O)`.
      depth: taps along depth.
      method: "centre" or "mean".
      transposed_stride: of a transposed convolution, along depth; None: a plain convolution of any stride.

    Raises:
      ValueError: an unknown method, or a transposed kernel that is shorter than its stride and leaves slices empty.
    """
    if method not in INFLATIONS:
        raise ValueError(f"2D weights are inflated by {' or '.join(INFLATIONS)}; not by {method!r}.")
    if transposed_stride is not None and depth < transposed_stride:
        raise ValueError(
            f"A transposed kernel of {depth} taps along depth leaves slices empty at stride {transposed_stride}; "
            f"give it {transposed_stride} or more."
        )
    if method == "mean":
        taps = _even_taps(depth, transposed_stride or 1)
    elif transposed_stride is None:
        taps = (np.arange(depth) == depth // 2).astype(float)
    else:
        taps = _nearest_taps(depth, transposed_stride)
    return (taps.reshape(-1, 1, 1, 1, 1) * kernel).astype(kernel.dtype)


def _even_taps(depth: int, stride: int) -> np.ndarray:
    """The taps of a phase share its weight of one."""
    phases = np.arange(depth) % stride
    return 1 / np.bincount(phases)[phases]


def _nearest_taps(depth: int, stride: int) -> np.ndarray:
    """One tap of each phase has all its weight, the nearest to the middle."""
    taps = np.zeros(depth)
    for phase in range(stride):
        # The later of two alike: with an odd kernel's usual padding it reaches the last slice, the earlier does not.
        own = np.arange(phase, depth, stride)[::-1]
        taps[own[np.argmin(np.abs(own - (depth - 1) / 2))]] = 1
    return taps


def _fitted(
    path: tuple[str, ...],
    array: np.ndarray,
    shape: tuple[int, ...],
    *,
    first: Sequence[re.Pattern],
    stem: str,
    inflate: str,
    strides: Mapping[str, Sequence[int]] | None,
) -> np.ndarray | None:
    """The array in another shape, or None where no rule leads there."""
    if path[-1] != "kernel" or len(shape) < 4:
        return None
    if array.ndim == len(shape) - 1 == 4:
        stride = _transposed_stride(path, shape[0], strides)
        array = inflate_kernel(array, shape[0], method=inflate, transposed_stride=stride)
    reads_the_image = any(pattern.search(_name(path)) for pattern in first)
    if array.shape[:-2] == shape[:-2] and array.shape[-1] == shape[-1] and reads_the_image:
        array = adapt_channels(array, shape[-2], method=stem)
    return array if array.shape == shape else None


def _transposed_stride(path: tuple[str, ...], depth: int, strides: Mapping[str, Sequence[int]] | None) -> int | None:
    """A transposed convolution's stride along depth, None for a plain convolution.

    Raises:
      UserError: nobody has said which of them it is, and its taps along depth depend on that.
    """
    if strides is not None:
        own = strides.get(_name(path[:-1]))
        return None if own is None else own[0]
    if depth > 1 and any(UP.search(part) for part in path[1:-1]):
        raise UserError(
            f"{_name(path)} cannot be made 3D without its stride; give merge "
            "strides=models.transposed_strides(model, image_shape), or leave the layer out with init.skip."
        )
    return None


def _put(tree: dict, path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def _name(path: tuple[str, ...]) -> str:
    return "/".join(path[1:])


def _compiled(text: str, field: str) -> re.Pattern:
    try:
        return re.compile(text)
    except re.error as error:
        raise UserError(f"{field} {text!r} is not a regular expression: {error}.") from error
