"""From PyTorch's names and layouts to ours: what every converter shares."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

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
    leaves = dict(_leaves(expected))
    names = {path: name_of(path) for path in leaves}
    given = {name for name in state_dict if not name.endswith("num_batches_tracked")}
    missing, unused = sorted(set(names.values()) - given), sorted(given - set(names.values()))
    if missing or unused:
        raise UserError(
            f"The state dict is not that of {source} with these fields: missing {_some(missing)}; "
            f"unused {_some(unused)}; give the trained network's fields (features, kernels, strides, convs, blocks)."
        )
    arrays = {path: np.asarray(layout_of(path)(np.asarray(state_dict[name]))) for path, name in names.items()}
    wrong = [
        f"{names[path]} has {array.shape} for {tuple(leaves[path].shape)}"
        for path, array in arrays.items()
        if array.shape != tuple(leaves[path].shape)
    ]
    if wrong:
        raise UserError(f"Shapes of {source} differ (theirs in our layout, then ours): {_some(wrong)}.")
    variables: dict = {}
    for path, array in arrays.items():
        branch = variables
        for part in path[:-1]:
            branch = branch.setdefault(part, {})
        branch[path[-1]] = jnp.asarray(array, leaves[path].dtype)
    return variables


def _leaves(tree: Mapping[str, Any], path: Path = ()) -> Iterable[tuple[Path, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "nothing") + more
