"""Weights of one network in another: by name, with the first layer adapted to its channels and 2D inflated to 3D."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxseg.transfer import torch_layout
from jaxseg.typing import UserError

STEMS = ("sum", "repeat")
INFLATIONS = ("centre", "mean")
UP = re.compile(r"(^|_)up(_\d+)?$")  # layers that are transposed convolutions


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
    inflate: str = "centre",
) -> Merged:
    """Returns the target's variables with the source's numbers wherever a name is in both.

    Args:
      target: `{"params": ..., "batch_stats": ...}`, freshly initialised.
      source: the same of another network.
      skip: patterns (`re.search`) of paths such as "backbone/stem/conv/kernel" that stay as initialised: "^head" for
        all but the head, "^(?!backbone)" for the encoder only.
      stem: how a first layer that meets another number of channels is adapted (see `adapt_channels`).
      inflate: how 2D kernels become 3D ones (see `inflate_kernel`).

    Raises:
      UserError: a pattern is no regular expression, a shape differs in another way, or nothing at all was taken.
    """
    patterns = [_compiled(text) for text in ([skip] if isinstance(skip, str) else skip) if text]
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
                changed = _fitted(path, array, tuple(leaf.shape), stem=stem, inflate=inflate)
                if changed is None:
                    wrong.append(f"{name} {array.shape} for {tuple(leaf.shape)}")
                    continue
                array = changed
                adapted.append(name)
        _put(found, path, leaf if array is leaf else jnp.asarray(array, leaf.dtype))
    if wrong:
        raise UserError(
            f"{len(wrong)} arrays do not fit (stored shape for the model's): {torch_layout.some(wrong)}; leave them "
            f'out with init.skip, such as "^{wrong[0].split("/")[0]}", or give the model the same fields.'
        )
    if not copied and not adapted:
        raise UserError(
            "None of the stored weights has a name of this model: stored "
            f"{torch_layout.some(sorted(map(_name, given)))}; model {torch_layout.some(sorted(map(_name, wanted)))}."
        )
    unused = sorted(_name(path) for path in given.keys() - wanted.keys())
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


def inflate_kernel(kernel: np.ndarray, depth: int, *, method: str = "centre", transposed: bool = False) -> np.ndarray:
    """Returns a 3D kernel `(depth, kh, kw, I, O)`; a volume constant along depth gets the 2D kernel's response.

    "centre": the middle tap is the 2D kernel, the others are zero: exact at every slice. "mean": all taps are the 2D
    kernel over `depth` (Carreira and Zisserman 2017): exact where no padding is read. A transposed convolution
    scatters: each of its taps is the 2D kernel.

    Raises:
      ValueError: an unknown method.
    """
    if method not in INFLATIONS:
        raise ValueError(f"2D weights are inflated by {' or '.join(INFLATIONS)}; not by {method!r}.")
    if transposed:
        return np.repeat(kernel[None], depth, axis=0)
    if method == "mean":
        return np.repeat(kernel[None] / depth, depth, axis=0)
    wide = np.zeros((depth, *kernel.shape), kernel.dtype)
    wide[depth // 2] = kernel
    return wide


def _fitted(
    path: tuple[str, ...], array: np.ndarray, shape: tuple[int, ...], *, stem: str, inflate: str
) -> np.ndarray | None:
    """The array in another shape, or None where no rule leads there."""
    if path[-1] != "kernel" or len(shape) < 4:
        return None
    if array.ndim == len(shape) - 1 == 4:
        array = inflate_kernel(array, shape[0], method=inflate, transposed=bool(UP.search(path[-2])))
    if array.shape[:-2] == shape[:-2] and array.shape[-1] == shape[-1] and _reads_the_image(path):
        array = adapt_channels(array, shape[-2], method=stem)
    return array if array.shape == shape else None


def _reads_the_image(path: tuple[str, ...]) -> bool:
    """Whether a layer stands first in one of our networks; nothing behind it depends on the image's channels."""
    first = ("stem", "stem_0", "block_1_conv_0", "encoder_0_conv_0", "node_0_0_conv_0")
    return any(part in first for part in path[:-1])


def _put(tree: dict, path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def _name(path: tuple[str, ...]) -> str:
    return "/".join(path[1:])


def _compiled(text: str) -> re.Pattern:
    try:
        return re.compile(text)
    except re.error as error:
        raise UserError(f"init.skip {text!r} is not a regular expression: {error}.") from error
