"""NRRD (.nrrd, and .nhdr with its data file), through pynrrd."""

import pathlib
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data import volume
from jaxseg.typing import UserError, Volume

UNITS = {"mm": 1.0, "millimeter": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "µm": 0.001, "microns": 0.001}
LETTERS = {"left": "L", "right": "R", "anterior": "A", "posterior": "P", "superior": "S", "inferior": "I"}


class NrrdHeader(NamedTuple):
    """What an NRRD writer needs to give the geometry back unchanged.

    Attributes:
      fields: the file's header.
      spatial: which stored axes are spatial, fastest first; the others are channels.
    """

    fields: Mapping[str, Any]
    spatial: tuple[int, ...]


def _load(path: pathlib.Path) -> tuple[np.ndarray, dict[str, Any]]:
    import nrrd

    try:
        data, fields = nrrd.read(str(path))
    except (nrrd.NRRDError, OSError, EOFError, ValueError, KeyError, zlib.error) as error:
        raise UserError(
            f"{path} should be a complete NRRD volume, but cannot be read: {volume.reason(error)}; "
            "copy or export it again."
        ) from error
    return data, dict(fields)


def _directions(fields: Mapping[str, Any], ndim: int) -> np.ndarray | None:
    """Returns `(axes, space dimension)` with NaN rows for axes without a direction, or None without the field."""
    directions = fields.get("space directions")
    if directions is None:
        return None
    width = max(len(row) for row in directions if row is not None)
    return np.array([np.full(width, np.nan) if row is None else row for row in directions], np.float64)[:ndim]


def _spatial_axes(fields: Mapping[str, Any], directions: np.ndarray | None, ndim: int) -> tuple[int, ...]:
    kinds = fields.get("kinds")
    if directions is not None:
        return tuple(axis for axis in range(ndim) if not np.isnan(directions[axis]).all())
    if kinds is not None:
        return tuple(axis for axis in range(ndim) if kinds[axis] in ("domain", "space", "???"))
    return tuple(range(ndim))


def to_ras(space: str, ndim: int) -> np.ndarray:
    """Returns the signs that bring a named space such as "left-posterior-superior" or "LPS" to RAS+, one an axis.

    A space without anatomical names ("scanner-xyz", none at all) is taken as RAS+.
    """
    letters = [LETTERS.get(word, "") for word in space.lower().split("-")]
    if not all(letters):
        letters = list(space.upper()) if len(space) == 3 and set(space.upper()) <= set("LRAPSI") else []
    if ndim != 3 or sorted({"L": "R", "P": "A", "I": "S"}.get(letter, letter) for letter in letters) != list("ARS"):
        return np.ones(ndim)
    return np.array([-1.0 if letter in "LPI" else 1.0 for letter in letters])


def _affine(fields: Mapping[str, Any], spatial: tuple[int, ...], directions: np.ndarray | None) -> np.ndarray:
    """Returns the affine in mm for array indices with the slowest axis first."""
    n = len(spatial)
    unit = str((fields.get("space units") or fields.get("units") or ["mm"])[0])
    scale = UNITS.get(unit.strip('"'), 1.0)
    affine = np.eye(n + 1)
    if directions is not None and directions.shape[1] == n:
        signs = to_ras(str(fields.get("space") or ""), n) * scale
        origin = np.asarray(fields.get("space origin", np.zeros(n)), np.float64)
        affine[:n, :n] = directions[list(spatial)].T * signs[:, None]
        affine[:n, n] = np.where(np.isfinite(origin), origin, 0.0) * signs
    elif directions is not None:  # a 2D slice that lies in a 3D space: only its spacing is kept
        affine[:n, :n] = np.diag(np.linalg.norm(directions[list(spatial)], axis=1) * scale)
    elif fields.get("spacings") is not None:
        spacings = np.asarray(fields["spacings"], np.float64)[list(spatial)]
        affine[:n, :n] = np.diag(np.where(np.isnan(spacings), 1.0, spacings) * scale)
    if n == 2:  # rows and columns of a 2D affine follow the array, as for every other 2D format
        return affine[[1, 0, 2]][:, [1, 0, 2]]
    return volume.reverse_columns(affine)


def affine_of(header: NrrdHeader) -> np.ndarray:
    """Returns the affine that the volume of a file with this header has: array index to mm."""
    directions = _directions(header.fields, len(header.fields["sizes"]))
    return _affine(header.fields, header.spatial, directions)


def _spatial_first(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray, NrrdHeader]:
    """Returns `(*S, C)`, affine and header."""
    data, fields = _load(path)
    directions = _directions(fields, data.ndim)
    spatial = _spatial_axes(fields, directions, data.ndim)
    others = tuple(axis for axis in range(data.ndim) if axis not in spatial)
    if len(spatial) not in (2, 3) or len(others) > 1:
        raise UserError(
            f"{path} should have 2 or 3 spatial axes and at most one for channels, but has {len(spatial)} and "
            f"{len(others)} (shape {data.shape}, fastest first); split it or correct the kinds in its header."
        )
    affine = _affine(fields, spatial, directions)
    data = data.transpose(*reversed(spatial), *others)
    return data if others else data[..., None], affine, NrrdHeader(fields, spatial)


def read(path: Any) -> Volume:
    """Reads `(z, y, x, C)` or `(y, x, C)`; an axis without a space direction is the channel axis.

    LPS and other anatomical spaces become RAS+, units become millimetres.

    Raises:
      UserError: the file is damaged, has other axes than these, complex values or no usable spacing.
    """
    path = pathlib.Path(path)
    data, affine, header = _spatial_first(path)
    return volume.make(volume.as_image(data, path=path), affine, header=header, path=path)


def read_label(path: Any) -> Volume:
    """Reads a label map `(z, y, x)` or `(y, x)` with the file's own integer values.

    Raises:
      UserError: as `read`; also when there are several channels or values that are not whole numbers.
    """
    path = pathlib.Path(path)
    data, affine, header = _spatial_first(path)
    if data.shape[-1] != 1:
        raise UserError(
            f"{path} should be one label map, but has {data.shape[-1]} channels (a Slicer segmentation with "
            "overlapping segments?); export it as one label map."
        )
    return volume.make(volume.as_label(data[..., 0], path=path), affine, header=header, path=path)
