"""NIfTI-1, NIfTI-2 and FreeSurfer MGH, through nibabel."""

import pathlib
from typing import Any

import numpy as np

from jaxseg.data import volume
from jaxseg.data.readers.nifti import UNITS, NiftiHeader
from jaxseg.typing import UserError, Volume

# Header fields that carry geometry; copied as stored, so that not even rounding changes.
GEOMETRY = (
    *("pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
)
MGH_TYPES = {"uint8": np.uint8, "int16": np.int16, "float32": np.float32}


def _stored(like: Volume) -> tuple[np.ndarray, Any, tuple[int, ...] | None]:
    """Returns the `(x, y, z)` affine, nibabel's fields and the spatial shape as the input file stores them.

    Where the grid is not that of the input file any more, or the input was no NIfTI, there are no fields.
    """
    header = like.header
    affine = volume.reverse_columns(like.affine)
    if not isinstance(header, NiftiHeader):
        return affine, None, None
    unit = UNITS[header.fields.get_xyzt_units()[0]] if header.fields is not None else 1.0
    same_shape = (*header.shape, 1)[:3] == like.data.shape[2::-1]
    if not same_shape or not np.allclose(np.diag([unit] * 3 + [1.0]) @ header.affine, affine, rtol=0, atol=1e-5):
        return affine, None, None
    return header.affine, header.fields, header.shape


def save(path: pathlib.Path, data: np.ndarray, like: Volume, *, is_label: bool) -> None:
    """Writes `(z, y, x)` labels or `(z, y, x, C)` probabilities with the affine, codes and units of `like`'s file.

    Intensity scaling, intent, display range and extensions of the input are not copied: they describe its voxels.

    Raises:
      UserError: `like` is two-dimensional.
    """
    import nibabel

    if len(like.spacing) != 3:
        raise UserError(f"{path.name} would need three axes, but {like.path} is a 2D image; write it as .png or .tif.")
    affine, fields, shape = _stored(like)
    data = data.transpose(2, 1, 0, *range(3, data.ndim))  # (x, y, z) or (x, y, z, C)
    if path.name.lower().endswith((".mgh", ".mgz")):
        data = data.astype(MGH_TYPES.get(data.dtype.name, np.int32), copy=False)
        nibabel.MGHImage(data, affine).to_filename(path)
        return
    if is_label and shape is not None:
        data = data.reshape(shape)  # a 2D file stays 2D
    version2 = isinstance(fields, nibabel.Nifti2Header)
    image = (nibabel.Nifti2Image if version2 else nibabel.Nifti1Image)(data, affine, dtype=data.dtype)
    if isinstance(fields, nibabel.Nifti1Header):  # Nifti2Header and pairs too
        for name in GEOMETRY:
            image.header[name] = fields[name]
        image.header["xyzt_units"] = fields["xyzt_units"]
        # nibabel compares its own affine with the header's on writing; equal ones leave the codes alone
        image = type(image)(data, None, image.header)
    else:
        image.header.set_xyzt_units("mm")
    image.to_filename(path)
