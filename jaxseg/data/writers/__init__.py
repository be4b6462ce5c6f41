"""`Volume`s to files: the format follows the suffix, the geometry follows the input, nothing half-written stays.

To add a format: one file with `save(path, data, like, *, is_label)` and one line a suffix in `TABLE`. `is_label` says
that the data have no channel axis.
"""

import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from jaxseg.data.readers import output_name, stem, suffix
from jaxseg.registry import resolve
from jaxseg.typing import UserError, Volume

__all__ = ["eight_bits", "label_dtype", "output_name", "replacing", "write", "write_image"]
_NIFTI, _IMAGE, _NRRD = "jaxseg.data.writers.nifti", "jaxseg.data.writers.image", "jaxseg.data.writers.nrrd"
# Suffix (lower case) -> module with save.
TABLE = {
    ".nii": _NIFTI,
    ".nii.gz": _NIFTI,
    ".mgh": _NIFTI,
    ".mgz": _NIFTI,
    ".png": _IMAGE,
    ".tif": _IMAGE,
    ".tiff": _IMAGE,
    ".nrrd": _NRRD,
}


def label_dtype(data: Integer[np.ndarray, "*S"]) -> np.dtype:
    """Returns the smallest of uint8, int16, uint16 and int32 that holds all values.

    Raises:
      ValueError: a value needs more than 32 bits.
    """
    low, high = (int(data.min()), int(data.max())) if data.size else (0, 0)
    for kind in (np.uint8, np.int16, np.uint16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    raise ValueError(f"Label values should fit in 32 bits, but reach from {low} to {high}.")


@contextlib.contextmanager
def replacing(path: Any, *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """Gives a temporary name in the folder of `path`; on success it becomes `path`, on any failure it goes.

    A process that is killed leaves at most a hidden file `.NAME.<random>.partial<suffix>`, never a half `path`.

    Raises:
      UserError: `path` exists and `overwrite` is False, or its folder cannot be written.
    """
    path = pathlib.Path(path)
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already and would be overwritten; remove it or choose another output folder.")
    kind = suffix(path) or path.suffix
    partial = path.with_name(f".{stem(path)}.{uuid.uuid4().hex[:8]}.partial{kind}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}; choose a folder with space and write access.") from error


def write(
    path: Any,
    data: Integer[np.ndarray, "*S"] | Float[np.ndarray, "*S C"] | Float[np.ndarray, "*S"],
    like: Volume,
    *,
    overwrite: bool = False,
    scalar: bool = False,
) -> pathlib.Path:
    """Writes a label map, or probabilities with a last channel axis, on the grid of `like`; returns the path.

    With `scalar` the data are a map of one floating-point number a voxel, such as an uncertainty.

    The suffix of `path` names the format (`output_name` gives the one that fits an input). NIfTI and NRRD get the
    geometry, units and codes of `like`'s own file. Labels take the smallest integer type that holds them,
    probabilities float32: a fourth axis in NIfTI, a vector axis in NRRD, samples of a pixel in TIFF.

    Raises:
      UserError: the file exists (and `overwrite` is False), the folder is not writable, the suffix has no writer, or
        the format cannot hold such data (a volume as PNG, probabilities as PNG).
      ValueError: `data` does not have the spatial shape of `like`.
    """
    path, data = pathlib.Path(path), np.asarray(data)
    ndim = len(like.spacing)
    is_label = data.ndim == ndim
    if data.shape[:ndim] != like.data.shape[:ndim] or data.ndim not in (ndim, ndim + 1):
        raise ValueError(f"Expected data on the grid {like.data.shape[:ndim]}, but the shape is {data.shape}.")
    if is_label and data.dtype.kind not in ("f" if scalar else "iub"):
        what = "A map of numbers should hold fractions" if scalar else "A label map should hold integers"
        raise ValueError(f"{what}, but holds {data.dtype}.")
    data = data.astype(label_dtype(data) if is_label and not scalar else np.float32, copy=False)
    return _save(path, data, like, is_label=is_label, overwrite=overwrite)


def write_image(path: Any, image: Volume, *, like: Volume | None = None, overwrite: bool = False) -> pathlib.Path:
    """Writes an image `(*S, C)` with its own geometry; returns the path.

    The suffix of `path` names the format. Fractions are stored as float32, integers in the smallest type that holds
    them; one channel without a channel axis. NIfTI keeps the units and codes of the header whatever grid the image has
    now. PNG and TIFF hold no geometry.

    Args:
      path: its folder is made.
      image: spacing and affine are those of `data`; the header is that of the file it was made of, or None.
      like: the input. Where that is a picture of 8 bits, PNG and TIFF in one channel or three are too: values are
        rounded and cut to 0 to 255. It also lends its header to an image without one.
      overwrite: replace a file that exists.

    Raises:
      UserError: the file exists (and `overwrite` is False), the folder is not writable, the suffix has no writer, or
        the format cannot hold such data (a volume or fractions as PNG).
      ValueError: `data` has no channel axis, or holds something else than real numbers.
    """
    path, data = pathlib.Path(path), image.data
    if data.ndim != len(image.spacing) + 1 or data.dtype.kind not in "fiub":
        raise ValueError(f"Expected real numbers of the shape (*S, C), got {data.dtype} of {data.shape}.")
    if TABLE.get(suffix(path)) == _IMAGE and eight_bits(image, like=like):
        data = np.clip(np.rint(data), 0, 255).astype(np.uint8)
    data = data.astype(np.float32 if data.dtype.kind == "f" else label_dtype(data), copy=False)
    if image.header is None and like is not None:
        image = image._replace(header=like.header)
    single = data.shape[-1] == 1
    return _save(path, data[..., 0] if single else data, image, is_label=single, overwrite=overwrite)


def eight_bits(image: Volume, *, like: Volume | None) -> bool:
    """Tells whether pictures of `image` have 8 bits as their input `like` has: one channel or three."""
    return like is not None and like.data.dtype == np.uint8 and image.data.shape[-1] in (1, 3)


def _save(path: pathlib.Path, data: np.ndarray, like: Volume, *, is_label: bool, overwrite: bool) -> pathlib.Path:
    kind = suffix(path)
    if kind not in TABLE:
        raise UserError(f"{path} should end in one of {', '.join(sorted(TABLE))}, the formats that can be written.")
    save = resolve(kind, {kind: f"{TABLE[kind]}:save"}, kind="writer")
    with replacing(path, overwrite=overwrite) as partial:
        save(partial, data, like, is_label=is_label)
    return path
