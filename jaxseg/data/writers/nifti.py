"""NIfTI-1, NIfTI-2 and FreeSurfer MGH, through nibabel."""

import pathlib
from typing import Any

import numpy as np

from jaxseg.data import volume
from jaxseg.data.dicom.series import Series
from jaxseg.data.readers.nifti import UNITS, NiftiHeader
from jaxseg.typing import UserError, Volume

# Header fields that carry geometry; copied as stored, so that not even rounding changes.
GEOMETRY = (
    *("pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
)
MGH_TYPES = {"uint8": np.uint8, "int16": np.int16, "float32": np.float32}


def save(path: pathlib.Path, data: np.ndarray, like: Volume, *, is_label: bool) -> None:
    """Writes `(z, y, x)` labels or `(z, y, x, C)` channels with the affine, codes and units of `like`'s file.

    The mask of a DICOM series gets scanner coordinates in mm.
    Where the grid of `like` is not that of its file any more, the affine is that of the grid, and codes and units stay.
    Intensity scaling, intent, display range and extensions of the input are not copied: they describe its voxels.

    Raises:
      UserError: `like` is two-dimensional.
    """
    import nibabel

    if len(like.spacing) != 3:
        raise UserError(f"{path.name} would need three axes, but {like.path} is a 2D image; write it as .png or .tif.")
    affine, header, same = _stored(like)
    data = data.transpose(2, 1, 0, *range(3, data.ndim))  # (x, y, z) or (x, y, z, C)
    if path.name.lower().endswith((".mgh", ".mgz")):
        data = data.astype(MGH_TYPES.get(data.dtype.name, np.int32), copy=False)
        nibabel.MGHImage(data, affine).to_filename(path)
        return
    if is_label and data.shape[2] == 1 and len(header.shape) == 2:
        data = data[:, :, 0]  # a 2D file stays 2D
    fields = header.fields
    version2 = isinstance(fields, nibabel.Nifti2Header)
    image = (nibabel.Nifti2Image if version2 else nibabel.Nifti1Image)(data, affine, dtype=data.dtype)
    if isinstance(fields, nibabel.Nifti1Header):  # Nifti2Header and pairs too
        if same:
            for name in GEOMETRY:
                image.header[name] = fields[name]
        else:
            _set_codes(image.header, header, affine)
        image.header["xyzt_units"] = fields["xyzt_units"]
        # nibabel compares its own affine with the header's on writing; equal ones leave the codes alone
        image = type(image)(data, None, image.header)
    else:
        image.header.set_xyzt_units("mm")
        if isinstance(like.header, Series):
            _set_scanner(image.header, affine)
            image = type(image)(data, None, image.header)
    image.to_filename(path)


def _stored(like: Volume) -> tuple[np.ndarray, NiftiHeader, bool]:
    """Returns the `(x, y, z)` affine in the units of the input file, its header, and whether the grid is still its own.

    Where the input was no NIfTI, the header is empty and the units are mm.
    """
    header, affine = like.header, volume.reverse_columns(like.affine)
    if not isinstance(header, NiftiHeader):
        return affine, NiftiHeader(affine, None, ()), False
    unit = np.diag([UNITS[header.fields.get_xyzt_units()[0]] if header.fields is not None else 1.0] * 3 + [1.0])
    same_shape = (*header.shape, 1)[:3] == like.data.shape[2::-1]
    if same_shape and np.allclose(unit @ header.affine, affine, rtol=0, atol=1e-5):
        return header.affine, header, True
    return np.linalg.inv(unit) @ affine, header, False


def _set_scanner(fields: Any, affine: np.ndarray) -> None:
    """Marks the affine as that of the scanner, as it is for DICOM; a qform cannot hold the shear of a tilted gantry."""
    fields.set_sform(affine, code="scanner")
    fields.set_qform(affine, code="scanner")
    if not np.allclose(fields.get_qform(), affine, rtol=0, atol=1e-3):
        fields["qform_code"] = 0


def _set_codes(fields: Any, header: NiftiHeader, affine: np.ndarray) -> None:
    """Gives the two transforms of a new grid the codes that those of the input file have, in place."""
    sform, qform = int(header.fields["sform_code"]), int(header.fields["qform_code"])
    moved = affine
    if sform and qform:
        # The qform may lead to another space than the sform, which the affine stems from: both move by the same step.
        try:
            moved = header.fields.get_qform() @ np.linalg.inv(header.affine) @ affine
        except ValueError:  # a quaternion that is none, which nobody noticed beside the sform
            qform = 0
    fields.set_qform(moved, code=qform)  # the voxel size too
    fields.set_sform(affine, code=sform)
    smallest = np.linalg.norm(affine[:3, :3], axis=0).min()
    if not np.allclose(fields.get_best_affine(), affine, rtol=0, atol=1e-3 * smallest):
        fields.set_sform(affine, code="aligned")  # without an sform the header has no word for this grid
