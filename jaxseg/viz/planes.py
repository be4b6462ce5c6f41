"""Which slices of a case to show, and how a radiologist expects them to be turned."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

from jaxseg.typing import IGNORE

_OPPOSITE = {"S": "I", "I": "S", "A": "P", "P": "A", "R": "L", "L": "R"}
# Radiological display: name of the plane -> (what the rows run towards, what the columns run towards).
_VIEWS = {"axial": ("P", "L"), "coronal": ("I", "L"), "sagittal": ("I", "P")}


class Plane(NamedTuple):
    """One flat picture of a case: arrays `(H, W)`, row 0 on top; spacing in mm of rows and columns, or None."""

    image: np.ndarray
    true: np.ndarray | None
    pred: np.ndarray | None
    roi: np.ndarray | None
    spacing: tuple[float, ...] | None
    letters: str  # top, bottom, left, right; "" where unknown
    caption: str
    uncertainty: np.ndarray | None = None


def _turn(array: np.ndarray, axes: str, rows: str, columns: str) -> np.ndarray:
    """Brings a plane `(H, W, ...)` whose axes increase towards the two letters `axes` to the wanted directions."""
    if axes[0] in (columns, _OPPOSITE[columns]):
        array, axes = np.swapaxes(array, 0, 1), axes[::-1]
    array = array if axes[0] == rows else array[::-1]
    return array if axes[1] == columns else array[:, ::-1]


def focus_slices(
    shape: tuple[int, ...], *, true: np.ndarray | None, pred: np.ndarray | None, focus: str
) -> tuple[int, ...]:
    """Returns where to cut: the slice of the first axis with most of what `focus` names, then the others through it.

    Args:
      shape: of the volume, in voxels.
      true: class ids or None.
      pred: class ids or None.
      focus: "truth" (foreground of the truth; of the prediction if there is none) or "error" (where the two differ,
        each class by its own size, so that a missed lesion outweighs the rim of an organ; the truth if they do not
        differ). Without either the middle is shown.
    """
    weights = _error_weight(true, pred) if focus == "error" and true is not None and pred is not None else None
    for labels in (true, pred):
        if (weights is None or not weights.any()) and labels is not None:
            weights = (labels > 0).astype(np.float32)
    if weights is None or not weights.any():
        return tuple(n // 2 for n in shape)
    first = int(weights.sum(axis=(1, 2)).argmax())
    return first, int(weights[first].sum(axis=1).argmax()), int(weights[first].sum(axis=0).argmax())


def _error_weight(true: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """What each voxel costs: 1 / (voxels of the class in truth and prediction) for each class that is wrong there."""
    weights = np.zeros(true.shape, np.float32)
    wrong = (true != pred) & (true != IGNORE)
    for index in np.union1d(true[wrong], pred[wrong]):
        if index > 0:
            in_true, in_pred = true == index, pred == index
            size = np.count_nonzero(in_true) + np.count_nonzero(in_pred)
            weights += (wrong & (in_true | in_pred)) * np.float32(1 / size)
    return weights


def planes_of(
    image: Shaped[np.ndarray, "*S C"],
    *,
    true: Integer[np.ndarray, "*S"] | None = None,
    pred: Integer[np.ndarray, "*S"] | None = None,
    roi: Bool[np.ndarray, "*S"] | None = None,
    uncertainty: Float[np.ndarray, "*S"] | None = None,
    spacing_mm: Sequence[float] | None = None,
    axes: str | None = "SAR",
    focus: str = "truth",
) -> list[Plane]:
    """Cuts a case into the planes to show: the picture itself in 2D; axial, coronal and sagittal in 3D.

    Args:
      image: intensities, `(H, W, C)` or `(D, H, W, C)`.
      true: class ids or None.
      pred: class ids or None.
      roi: what is scored, or None for all.
      uncertainty: from 0 to 1, or None; it is cut like the rest and has no say in where.
      spacing_mm: in array order; None where unknown.
      axes: for 3D, the directions that the three axes increase towards (S I A P R L); None where unknown, then the
        planes are shown as stored and carry no letters.
      focus: which slice, see `focus_slices`.

    Raises:
      ValueError: the image is neither flat nor a volume, or `axes` is not three letters.
    """
    if image.ndim == 3:
        spacing = tuple(spacing_mm) if spacing_mm is not None else None
        return [Plane(image, true, pred, roi, spacing, "", "", uncertainty)]
    if image.ndim != 4:
        raise ValueError(f"image should be (H, W, C) or (D, H, W, C), it has shape {image.shape}.")
    if axes is not None and sorted(axes.translate(str.maketrans("IPL", "SAR"))) != ["A", "R", "S"]:
        raise ValueError(f"axes should name three directions such as 'SAR', it is {axes!r}.")
    places = focus_slices(image.shape[:3], true=true, pred=pred, focus=focus)
    arrays = (image, true, pred, roi, uncertainty)
    return [_cut(axis, places[axis], arrays, spacing_mm, axes) for axis in _axis_order(axes)]


def _axis_order(axes: str | None) -> list[int]:
    """Returns the axes to cut across, for axial, coronal and sagittal."""
    if axes is None:
        return [0, 1, 2]
    return [next(i for i, letter in enumerate(axes) if letter in pair) for pair in ("SI", "AP", "RL")]


def _cut(axis: int, place: int, arrays: Sequence[Any], spacing_mm, axes: str | None) -> Plane:
    """Takes one slice of image, truth, prediction, roi and uncertainty, turned as a radiologist expects it."""
    rest = [i for i in range(3) if i != axis]
    spacing = tuple(float(spacing_mm[i]) for i in rest) if spacing_mm is not None else None
    view, letters = f"axis {axis}", ""
    turn: Callable[[np.ndarray], np.ndarray] = np.asarray
    if axes is not None:
        view = "axial" if axes[axis] in "SI" else "coronal" if axes[axis] in "AP" else "sagittal"
        rows, columns = _VIEWS[view]
        stored = axes[rest[0]] + axes[rest[1]]
        turn = functools.partial(_turn, axes=stored, rows=rows, columns=columns)
        letters = _OPPOSITE[rows] + rows + _OPPOSITE[columns] + columns
        if spacing and stored[0] in (columns, _OPPOSITE[columns]):
            spacing = spacing[::-1]

    def flat(array):
        return None if array is None else turn(np.take(array, place, axis))

    caption = f"{view}, slice {place + 1} of {arrays[0].shape[axis]}"
    image, true, pred, roi, uncertainty = map(flat, arrays)
    return Plane(image, true, pred, roi, spacing, letters, caption, uncertainty)
