"""Geometry of a `Volume` and the checks that hold for every image and label map, whatever its format."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Num, Shaped

from jaxseg.typing import UserError, Volume

WHOLE = 1e-4  # a label stored as float may be this far from an integer (scaled integers are not exact)


def identity_affine(ndim: int) -> Float[np.ndarray, "{ndim}+1 {ndim}+1"]:
    """Returns the affine of a file without geometry: 1 mm voxels, no shift.

    In 3D array axes `(z, y, x)` become world axes `(S, A, R)`, so that such a stack counts as canonical.
    """
    if ndim == 2:
        return np.eye(3)
    affine = np.zeros((4, 4))
    affine[[0, 1, 2, 3], [2, 1, 0, 3]] = 1.0
    return affine


def reverse_columns(affine: Float[np.ndarray, "m m"]) -> Float[np.ndarray, "m m"]:
    """Turns an affine for `(x, y, z)` indices into one for `(z, y, x)`, and back: the world axes stay."""
    affine = np.asarray(affine, np.float64)
    return np.concatenate([affine[:, -2::-1], affine[:, -1:]], axis=1)


def finer_affine(affine: Float[np.ndarray, "m m"], factors: Sequence[int]) -> Float[np.ndarray, "m m"]:
    """Returns the affine of a grid over the same extent with `factors` times more voxels along each array axis.

    Voxel i becomes `factor` voxels that lie within it, so the first centre moves by `(1 - factor) / (2 factor)` of the
    old voxels.
    """
    shares = 1 / np.asarray(factors, np.float64)
    step = np.diag([*shares, 1.0])
    step[:-1, -1] = (shares - 1) / 2
    return np.asarray(affine, np.float64) @ step


def make(data: Num[np.ndarray, "..."], affine: Any, *, header: Any, path: Any) -> Volume:
    """Returns a `Volume` in native byte order whose spacing (mm) is the length of each column of `affine`.

    Raises:
      UserError: the array is empty, the spacing is zero or not finite, or the axes of the grid are not independent.
    """
    affine = np.asarray(affine, np.float64)
    ndim = affine.shape[0] - 1
    if data.size == 0:
        raise UserError(f"{path} has the shape {data.shape}, which holds no voxel; export the file again.")
    spacing = tuple(float(length) for length in np.linalg.norm(affine[:ndim, :ndim], axis=0))
    if not np.isfinite(affine).all() or min(spacing) <= 0:
        raise UserError(
            f"{path} should have a positive spacing along each axis, but its header gives {_round(spacing)} mm "
            "(slowest axis first); correct the spacing in the header."
        )
    if abs(np.linalg.det(affine[:ndim, :ndim])) < 1e-6 * np.prod(spacing):
        raise UserError(f"{path} has an affine whose axes are not independent; correct the affine in the header.")
    if not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    return Volume(np.ascontiguousarray(data), spacing, affine, header, str(path))


def reason(error: BaseException) -> str:
    """Returns a library's error message on one line without a full stop, for use within a sentence of ours."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _round(values: Any) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)


def as_image(data: Shaped[np.ndarray, "*S C"], *, path: Any) -> Num[np.ndarray, "*S C"]:
    """Returns image values in a plain number type: integers as they are, every float as float32.

    Raises:
      UserError: the voxels are structured (RGB, RGBA), complex or not numbers.
    """
    if data.dtype.names:
        raise UserError(
            f"{path} should hold one number a voxel, but holds colours ({''.join(data.dtype.names)}); "
            "export the scan itself, or the colours as separate channels."
        )
    if data.dtype.kind not in "iufb":
        raise UserError(
            f"{path} should hold real numbers, but holds {data.dtype}; export the magnitude image of a complex scan."
        )
    if data.dtype.kind == "b":
        return data.astype(np.uint8)
    return data.astype(np.float32) if data.dtype.kind == "f" else data


def as_label(data: Num[np.ndarray, "*S"], *, path: Any) -> Num[np.ndarray, "*S"]:
    """Returns label values as integers; floats that are whole numbers (to 1e-4) are accepted.

    Raises:
      UserError: a value is not a whole number; up to five of them are listed.
    """
    data = as_image(data, path=path)
    if data.dtype.kind in "iu":
        return data
    whole = np.round(data)
    wrong = ~(np.abs(data - whole) <= WHOLE)  # written so that NaN counts as wrong
    if wrong.any():
        raise UserError(
            f"{path} should hold whole numbers, one a class, but {int(wrong.sum())} voxels do not, such as "
            f"{', '.join(f'{value:.6g}' for value in np.unique(data[wrong])[:5])}; "
            "was it resampled with interpolation? Use nearest neighbour, or give label_threshold where it applies."
        )
    if np.abs(whole).max() >= 2**31:
        raise UserError(f"{path} should hold class numbers, but holds values up to {np.abs(whole).max():.4g}.")
    return whole.astype(np.int32)


def check_finite(image: Volume) -> None:
    """Refuses voxels that are NaN or infinite.

    Raises:
      UserError: names the file and the number of such values.
    """
    if image.data.dtype.kind != "f":
        return
    bad = image.data.size - int(np.isfinite(image.data).sum())
    if bad:
        raise UserError(
            f"{image.path} should hold finite numbers, but {bad} of {image.data.size} values are NaN or infinite; "
            "replace them (often by 0, the value outside the body) and save the file again."
        )


def check_image(image: Volume) -> None:
    """Refuses an image that a network cannot use. One constant channel among others is allowed.

    Raises:
      UserError: a value is NaN or infinite, or each channel is constant.
    """
    check_finite(image)
    first = image.data[(0,) * (image.data.ndim - 1)]
    if (image.data == first).all():
        values = ", ".join(f"{value:.6g}" for value in first.tolist())
        raise UserError(
            f"{image.path} is constant: every voxel holds {values}; check the export, or leave the case out."
        )


def check_same_grid(image: Volume, label: Volume, *, tolerance_mm: float = 0.1) -> None:
    """Refuses a label map (or a second channel) that does not lie on the image's grid.

    Args:
      image: its data is `(*S, C)`.
      label: its data is `(*S)` or `(*S, C)`.
      tolerance_mm: how far apart a corner of the two grids may lie.

    Raises:
      UserError: shapes differ, or a corner voxel of the grids lies further apart than `tolerance_mm`.
    """
    ndim = len(image.spacing)
    shape, other = image.data.shape[:ndim], label.data.shape[: len(label.spacing)]
    if shape != other:
        raise UserError(
            f"{label.path} should have the shape {shape} of its image {image.path}, but has {other} "
            "(slowest axis first); resample it onto the image's grid, or pair the files anew."
        )
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, size - 1) for size in shape))], np.float64)
    apart = float(np.linalg.norm(corners @ (image.affine - label.affine).T, axis=1).max())
    if not apart <= tolerance_mm:
        raise UserError(
            f"{label.path} should lie on the grid of {image.path}, but the grids are up to {apart:.4g} mm apart "
            f"(allowed: {tolerance_mm:g} mm); resample it onto the image's grid, or, if the arrays do fit, copy the "
            "image's affine into it or raise data.affine_tolerance_mm."
        )
