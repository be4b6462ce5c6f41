"""NRRD with attached data, through pynrrd."""

import pathlib
from typing import Any

import numpy as np

from jaxseg.data import volume
from jaxseg.data.readers.nrrd import NrrdHeader, affine_of
from jaxseg.typing import Volume

GEOMETRY = ("space", "space dimension", "space origin", "space units")  # axis-wise fields are treated apart
AXES = ("space directions", "spacings", "kinds", "units", "thicknesses", "axis mins", "axis maxs", "centers")


def _from_affine(like: Volume) -> dict[str, Any]:
    """Returns header fields for a grid that did not come from an NRRD file (3D: in LPS, as ITK writes it)."""
    if len(like.spacing) == 2:
        affine = like.affine[[1, 0, 2]][:, [1, 0, 2]]  # fastest axis first
        return {"space dimension": 2, "space directions": affine[:2, :2].T, "space origin": affine[:2, 2]}
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.reverse_columns(like.affine)
    return {
        "space": "left-posterior-superior",
        "space directions": affine[:3, :3].T,
        "space origin": affine[:3, 3],
        "kinds": ["domain"] * 3,
    }


def _of_file(header: NrrdHeader) -> dict[str, Any]:
    """Returns the geometry fields of the input file, those of its channel axis left out."""
    fields = {name: header.fields[name] for name in GEOMETRY if name in header.fields}
    for name in AXES:
        if name in header.fields:
            values = [header.fields[name][axis] for axis in header.spatial]
            fields[name] = np.array(values, np.float64) if name in ("space directions", "spacings") else values
    return fields


def _with_channel_axis(fields: dict[str, Any], ndim: int) -> dict[str, Any]:
    """Puts a vector axis before the spatial ones, as ITK does."""
    fields = dict(fields)
    for name in AXES:
        if name in fields:
            values = list(fields[name])
            blank: Any = {"kinds": "vector", "units": "", "centers": "none"}.get(name, np.nan)
            if name == "space directions":
                fields[name] = np.array([np.full(len(values[0]), np.nan), *values])
            else:
                fields[name] = [blank, *values] if isinstance(blank, str) else np.array([blank, *values], np.float64)
    return fields | {"kinds": fields.get("kinds", ["vector"] + ["domain"] * ndim)}


def _same_grid(like: Volume, header: NrrdHeader) -> bool:
    sizes = header.fields.get("sizes")
    if sizes is None or tuple(int(sizes[a]) for a in reversed(header.spatial)) != like.data.shape[: len(like.spacing)]:
        return False
    return np.allclose(affine_of(header), like.affine, rtol=0, atol=1e-5)


def save(path: pathlib.Path, data: np.ndarray, like: Volume, *, is_label: bool) -> None:
    """Writes labels, or channels as a vector axis that comes first, with the space, directions and origin of `like`.

    Where the grid of `like` is not that of its file any more, in LPS and mm.
    """
    import nrrd

    ndim = len(like.spacing)
    known = isinstance(like.header, NrrdHeader) and _same_grid(like, like.header)
    fields = _of_file(like.header) if known else _from_affine(like)
    data = data.transpose(*reversed(range(ndim))) if is_label else data.transpose(ndim, *reversed(range(ndim)))
    if not is_label:
        fields = _with_channel_axis(fields, ndim)
    nrrd.write(str(path), data, {**fields, "encoding": "gzip"}, index_order="F")
