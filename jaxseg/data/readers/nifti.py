"""NIfTI-1, NIfTI-2, Analyze pairs and FreeSurfer MGH, through nibabel."""

import gzip
import io
import logging
import pathlib
import zlib
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data import volume
from jaxseg.typing import UserError, Volume

UNITS = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}  # to millimetres


class NiftiHeader(NamedTuple):
    """What a NIfTI writer needs to give the geometry back unchanged.

    Attributes:
      affine: `(4, 4)`, `(x, y, z)` index to the file's own units, as the file has it.
      fields: nibabel's header (sform and qform codes, units, zooms), None for formats without such fields.
      shape: spatial shape `(x, y)` or `(x, y, z)` as stored.
    """

    affine: np.ndarray
    fields: Any
    shape: tuple[int, ...]


def _open(path: pathlib.Path) -> Any:
    """Returns a nibabel image; a single-file NIfTI is unpacked by its content, not by its name."""
    import nibabel

    # nibabel logs each oddity it corrects in a header; what matters to the user is in our own messages.
    nibabel.imageglobals.logger.setLevel(logging.CRITICAL)
    if path.name.lower().endswith((".nii", ".nii.gz")):
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        if packed != path.name.lower().endswith(".gz"):
            raw = path.read_bytes()
            raw = zlib.decompress(raw, wbits=31) if packed else raw
            version2 = raw[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")  # header size 540, either byte order
            kind = nibabel.Nifti2Image if version2 else nibabel.Nifti1Image
            return kind.from_stream(io.BytesIO(raw))
    return nibabel.load(path, mmap=False)


def _load(path: pathlib.Path) -> tuple[Any, np.ndarray]:
    """Returns nibabel's image and its scaled voxels `(x, y, z, ...)`."""
    import nibabel

    partner = path.with_suffix({".hdr": ".img", ".img": ".hdr"}.get(path.suffix.lower(), path.suffix))
    if partner != path and not partner.exists() and not partner.with_suffix(partner.suffix.upper()).exists():
        raise UserError(f"{path} is half of a pair and needs {partner.name} beside it; copy that file there too.")
    damaged = (
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
        nibabel.wrapstruct.WrapStructError,
    )
    try:
        image = _open(path)
        return image, np.asanyarray(image.dataobj)
    except (*damaged, EOFError, OSError, ValueError, zlib.error) as error:
        raise UserError(
            f"{path} should be a complete volume, but cannot be read: {volume.reason(error)}; copy or export it again."
        ) from error


def _check_zooms(image: Any, path: pathlib.Path) -> None:
    """Refuses a voxel size of zero, which nibabel would silently replace by one.

    With an sform the voxel size follows from that matrix, and `volume.make` checks it.
    """
    if "pixdim" not in image.header or ("sform_code" in image.header and image.header["sform_code"] > 0):
        return
    path = path.with_suffix(".hdr") if path.suffix == ".img" else path
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as file:
        raw = type(image.header)(file.read(image.header.template_dtype.itemsize), check=False)
    zooms = [float(zoom) for zoom in raw["pixdim"][1 : 1 + min(3, len(image.shape))]]
    if not all(np.isfinite(zooms)) or 0.0 in zooms:
        raise UserError(
            f"{path} should have a positive spacing along each axis, but its header gives {zooms} (x first); correct "
            "the voxel size (pixdim) in the header."
        )


def _geometry(image: Any, path: pathlib.Path) -> tuple[np.ndarray, NiftiHeader]:
    """Returns the `(z, y, x)` affine in mm and what the writer needs."""
    _check_zooms(image, path)
    fields = image.header if hasattr(image.header, "get_xyzt_units") else None
    unit = fields.get_xyzt_units()[0] if fields is not None else "mm"
    affine = np.asarray(image.affine, np.float64)
    in_mm = np.diag([UNITS[unit]] * 3 + [1.0]) @ affine
    return volume.reverse_columns(in_mm), NiftiHeader(affine, fields, tuple(int(n) for n in image.shape[:3]))


def _spatial_first(data: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Brings `(x, y)`, `(x, y, z)`, `(x, y, z, c)` or `(x, y, z, 1, c)` to `(z, y, x, c)`."""
    if data.ndim < 2:
        raise UserError(f"{path} should be a volume, but has {data.ndim} axis; export it again.")
    data = data.reshape(data.shape + (1,) * (4 - data.ndim))
    if data.ndim > 4 and set(data.shape[3:4] + data.shape[5:]) <= {1}:
        data = data.reshape(*data.shape[:3], -1)  # NIfTI keeps vectors on the fifth axis
    if data.ndim > 4:
        raise UserError(
            f"{path} should have at most 4 axes (x, y, z, channel), but has the shape {data.shape}; split it."
        )
    return data.transpose(2, 1, 0, 3)


def read(path: Any) -> Volume:
    """Reads `(z, y, x, C)`: scl_slope and scl_inter applied, a fourth axis as channels, a 2D file as one slice.

    Units of metres and microns become millimetres. Oblique affines are kept. A file named .nii.gz that is not
    compressed (or the other way round) is read by its content.

    Raises:
      UserError: the file is damaged, colour or complex typed, has more than four axes or no usable spacing.
    """
    path = pathlib.Path(path)
    image, data = _load(path)
    affine, header = _geometry(image, path)
    data = volume.as_image(_spatial_first(data, path), path=path)
    return volume.make(data, affine, header=header, path=path)


def read_label(path: Any) -> Volume:
    """Reads a label map `(z, y, x)` with the file's own integer values; whole numbers stored as float are fine.

    Raises:
      UserError: as `read`; also when there are several channels or values that are not whole numbers.
    """
    path = pathlib.Path(path)
    image, data = _load(path)
    affine, header = _geometry(image, path)
    data = _spatial_first(data, path)
    if data.shape[-1] != 1:
        raise UserError(
            f"{path} should be one label map, but has {data.shape[-1]} channels; store the class number of each voxel."
        )
    return volume.make(volume.as_label(data[..., 0], path=path), affine, header=header, path=path)
