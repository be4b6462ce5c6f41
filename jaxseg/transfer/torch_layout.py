"""From PyTorch's names and layouts to ours: what every converter shares."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.typing import UserError

Path = tuple[str, ...]  # collection, layers, leaf: ("params", "encoder_0_conv_0", "conv", "kernel")
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
SHOWN = 6  # names a message lists of each side


def conv_kernel(weight: np.ndarray) -> np.ndarray:
    """`(O, I / groups, *k)` -> `(*k, I / groups, O)`."""
    return np.moveaxis(weight, (1, 0), (-2, -1))


def conv_transpose_kernel(weight: np.ndarray) -> np.ndarray:
    """`(I, O, *k)` -> `(*k, I, O)`, the kernel of `ops.conv_transpose` (no flip: it scatters, as PyTorch does)."""
    return np.moveaxis(weight, (0, 1), (-2, -1))


def dense_kernel(weight: np.ndarray) -> np.ndarray:
    """`(O, I)` -> `(I, O)`."""
    return weight.T


def flattened_kernel(weight: np.ndarray) -> np.ndarray:
    """`(O, C * 7 * 7)` -> `(7 * 7 * C, O)`: the first dense layer after a 7x7 grid (VGG's, Mask R-CNN's box head).

    Theirs reads the grid flattened as channels, rows, columns; ours as rows, columns, channels.
    """
    outputs = weight.shape[0]
    return weight.reshape(outputs, -1, 7, 7).transpose(2, 3, 1, 0).reshape(-1, outputs)


def layout(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The function that brings a leaf of convolutions and normalisations into our layout."""
    return conv_kernel if path[-1] == "kernel" else lambda array: array


def require(state_dict: Mapping[str, np.ndarray], names: Iterable[str], source: str) -> None:
    """Raises UserError unless the names by which a source is known are all there."""
    missing = [name for name in names if name not in state_dict]
    if missing:
        raise UserError(
            f"The state dict is not that of {source}: missing {some(missing)}; it has {some(list(state_dict))}."
        )


def channels(stem: np.ndarray, asked: int | None, source: str) -> int:
    """Returns the number of input channels that the first convolution's weight `(O, I, *k)` shows.

    Raises:
      UserError: another number was asked for.
    """
    found = stem.shape[1]
    if asked not in (None, found):
        raise UserError(f"{source} has {found} input channels in the state dict; in_channels is {asked}.")
    return found


def convert(
    model: Any,
    state_dict: Mapping[str, np.ndarray],
    *,
    in_channels: int,
    size: tuple[int, ...],
    name_of: Callable[[Path], str],
    layout_of: Callable[[Path], Callable[[np.ndarray], np.ndarray]] = layout,
    source: str,
) -> dict:
    """Returns the model's variables, filled from a state dict; `size` is any image size that the model takes.

    Raises:
      UserError: as `fill`.
    """
    image = jax.ShapeDtypeStruct((1, *size, in_channels), jnp.float32)
    expected = jax.eval_shape(model.init, jax.random.key(0), image)
    return fill(expected, state_dict, name_of=name_of, layout_of=layout_of, source=source)


def fill(
    expected: Mapping[str, Any],
    state_dict: Mapping[str, np.ndarray],
    *,
    name_of: Callable[[Path], str],
    layout_of: Callable[[Path], Callable[[np.ndarray], np.ndarray]],
    source: str,
) -> dict:
    """Fills a tree of variables from a state dict, one name a leaf, none left over.

    Args:
      expected: nested dict of shapes (`jax.eval_shape` of the model's init).
      state_dict: parameter name -> array, without aliases.
      name_of: a leaf's path -> its name in the state dict.
      layout_of: a leaf's path -> the function that brings the array into our layout.
      source: for messages.

    Raises:
      UserError: names are missing or unused, or a shape differs; both sides are listed.
    """
    wanted = dict(leaves(expected))
    names = {path: name_of(path) for path in wanted}
    given = {name for name in state_dict if not name.endswith("num_batches_tracked")}
    missing, unused = sorted(set(names.values()) - given), sorted(given - set(names.values()))
    if missing or unused:
        shapes = {names[path]: tuple(leaf.shape) for path, leaf in wanted.items()}
        lacking = [f"{name} {shapes[name]}" for name in missing]
        left = [f"{name} {np.shape(state_dict[name])}" for name in unused]
        raise UserError(
            f"The state dict is not that of {source} with these fields: missing {some(lacking)} (in our layout); "
            f"unused {some(left)}; give the trained network's fields (features, kernels, strides, convs, blocks)."
        )
    arrays = {path: np.asarray(layout_of(path)(np.asarray(state_dict[name]))) for path, name in names.items()}
    wrong = [
        f"{names[path]} has {array.shape} for {tuple(wanted[path].shape)}"
        for path, array in arrays.items()
        if array.shape != tuple(wanted[path].shape)
    ]
    if wrong:
        raise UserError(f"Shapes of {source} differ (theirs in our layout, then ours): {some(wrong)}.")
    variables: dict = {}
    for path, array in arrays.items():
        branch = variables
        for part in path[:-1]:
            branch = branch.setdefault(part, {})
        branch[path[-1]] = jnp.asarray(array, wanted[path].dtype)
    return variables


def leaves(tree: Mapping[str, Any], path: Path = ()) -> Iterable[tuple[Path, Any]]:
    """Yields (path, array) of nested dicts."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def numbers(pattern: str, layer: str) -> tuple[int, ...]:
    """The numbers in a layer's name, such as (2, 0) of "decoder_2_conv_0".

    Raises:
      ValueError: the name is not of the pattern, so the converter does not know the network.
    """
    match = re.fullmatch(pattern, layer)
    if match is None:
        raise ValueError(f"The layer {layer!r} should be called like {pattern}.")
    return tuple(int(number) for number in match.groups())


def some(names: Sequence[str]) -> str:
    """The first names of a list, for a message."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "nothing") + more
