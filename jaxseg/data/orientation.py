"""Canonical orientation: the axis permutation and flips that bring (z, y, x) nearest to (S, A, R) increasing."""

import itertools

import numpy as np

from jaxseg.typing import UserError, Volume


def canonical(affine: np.ndarray, *, path: str = "") -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Finds how a 3D array is turned to the canonical orientation without interpolation.

    Args:
      affine: `(4, 4)`, array index -> millimetres in RAS+.
      path: the file, for the message.

    Returns:
      `axes`, where new axis i is old axis `axes[i]`, and `flips`, one a new axis, to be applied after the permutation.

    Raises:
      UserError: the affine has a column of length zero or a value that is not finite.
    """
    columns = np.asarray(affine, dtype=np.float64)[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if not np.isfinite(columns).all() or (lengths == 0).any():
        raise UserError(
            f"{path or 'An image'}: the affine should have three finite axes of some length, got "
            f"{columns.tolist()}; "
            "repair the file's header or set the orientation to 'keep'."
        )
    cosines = columns / lengths  # world row, array column
    # New axis 0 follows world row 2 (S), axis 1 row 1 (A), axis 2 row 0 (R); the permutation with the largest sum of
    # |cos| is the nearest one and, unlike a choice axis by axis, never takes an axis twice in oblique scans.
    axes = max(
        itertools.permutations(range(3)), key=lambda axes: sum(abs(cosines[2 - i, a]) for i, a in enumerate(axes))
    )
    return axes, tuple(bool(cosines[2 - i, a] < 0) for i, a in enumerate(axes))


def apply(array: np.ndarray, axes: tuple[int, ...], flips: tuple[bool, ...]) -> np.ndarray:
    """Turns `array` (its leading axes; channels may follow) as `canonical` says; a view, nothing is copied."""
    n = len(axes)
    array = array.transpose(*axes, *range(n, array.ndim))
    return np.flip(array, tuple(axis for axis in range(n) if flips[axis]))


def undo(array: np.ndarray, axes: tuple[int, ...], flips: tuple[bool, ...]) -> np.ndarray:
    """Takes `apply` back; a view, nothing is copied."""
    n = len(axes)
    array = np.flip(array, tuple(axis for axis in range(n) if flips[axis]))
    return array.transpose(*np.argsort(axes), *range(n, array.ndim))


def onto(label: Volume, image: Volume) -> Volume:
    """Turns a label map `(*S)` to the axes of an image where they are the same but for their order and direction.

    Args:
      label: returned as it is where its voxels are not those of the image.
      image: 3D, as `label`.
    """
    if len(label.spacing) != 3 or len(image.spacing) != 3:
        return label
    steps = (np.linalg.inv(label.affine) @ image.affine)[:3, :3]  # image index -> label index
    turn = np.rint(steps)
    if np.abs(steps - turn).max() > 0.01 or (np.abs(turn).sum(0) != 1).any() or (np.abs(turn).sum(1) != 1).any():
        return label
    axes = tuple(int(axis) for axis in np.abs(turn).argmax(0))
    flips = tuple(bool(turn[axis, place] < 0) for place, axis in enumerate(axes))
    back = np.eye(4)
    back[:3, :3] = turn
    for axis, flip in zip(axes, flips, strict=True):
        back[axis, 3] = label.data.shape[axis] - 1 if flip else 0
    data = np.ascontiguousarray(apply(label.data, axes, flips))
    spacing = tuple(label.spacing[axis] for axis in axes)
    return label._replace(data=data, affine=label.affine @ back, spacing=spacing)


def codes(affine: np.ndarray) -> str:
    """Returns the directions that the axes of a 3D array increase towards, such as "SAR" for a canonical one."""
    axes, flips = canonical(affine)
    letters = [""] * 3
    for axis, flip, (up, down) in zip(axes, flips, (("S", "I"), ("A", "P"), ("R", "L"))):
        letters[axis] = down if flip else up
    return "".join(letters)
