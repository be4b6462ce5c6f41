"""Files to `Volume`s: one table of suffixes, one reader a format, every failure one sentence.

To add a format: one file with `read(path)` and `read_label(path)`, one line a suffix in `TABLE` and one in `OUTPUT`.
"""

import pathlib
from typing import Any

from jaxseg import paths
from jaxseg.data import orientation
from jaxseg.data.dicom.labels import Choice
from jaxseg.data.dicom.series import Series
from jaxseg.registry import resolve
from jaxseg.typing import UserError, Volume

_NIFTI, _IMAGE, _NRRD = "jaxseg.data.readers.nifti", "jaxseg.data.readers.image", "jaxseg.data.readers.nrrd"
_DICOM = "jaxseg.data.readers.dicom"
# Suffix (lower case) -> module with read and read_label.
TABLE = {
    ".nii": _NIFTI,
    ".nii.gz": _NIFTI,
    ".hdr": _NIFTI,
    ".img": _NIFTI,
    ".mgh": _NIFTI,
    ".mgz": _NIFTI,
    ".png": _IMAGE,
    ".jpg": _IMAGE,
    ".jpeg": _IMAGE,
    ".bmp": _IMAGE,
    ".gif": _IMAGE,
    ".tif": _IMAGE,
    ".tiff": _IMAGE,
    ".nrrd": _NRRD,
    ".nhdr": _NRRD,
    ".dcm": _DICOM,
    ".dicom": _DICOM,
    ".ima": _DICOM,
}
# Suffixes whose masks are written under another suffix: lossy or palette formats as PNG, pairs of files as one file,
# series of DICOM slices as one volume.
OUTPUT = {
    ".jpg": ".png",
    ".jpeg": ".png",
    ".bmp": ".png",
    ".gif": ".png",
    ".hdr": ".nii",
    ".img": ".nii",
    ".nhdr": ".nrrd",
    ".dcm": ".nii.gz",
    ".dicom": ".nii.gz",
    ".ima": ".nii.gz",
}


_OF_DICOM = tuple(known for known, module in TABLE.items() if module == _DICOM)


def suffix(path: Any) -> str:
    """Returns the suffix of a file name as the table spells it (".nii.gz"), or "" where no reader knows it."""
    name = pathlib.Path(path).name.lower()
    return max((known for known in TABLE if name.endswith(known) and name != known), key=len, default="")


def kind(path: Any) -> str:
    """Returns what a path holds as a suffix of the table: by its name, or ".dcm" for DICOM whose name does not tell.

    That is a file without a suffix, a folder or a zip archive with DICOM files, or FOLDER#SERIES.
    """
    from jaxseg.data.readers import dicom

    known, path = suffix(path), paths.path(path)
    if paths.is_remote(path) or (known and not path.is_dir()):
        return known
    return ".dcm" if dicom.is_dicom(path) else known


def is_there(path: Any) -> bool:
    """Whether a path exists, or names a series of a folder of DICOM that does."""
    path = paths.path(path)
    return path.exists() or (not suffix(path) and bool(kind(path)))


def stem(path: Any) -> str:
    """Returns the file name without its folder and its known suffix: "a/x.nii.gz" -> "x"."""
    name = pathlib.Path(path).name
    return name[: len(name) - len(suffix(name))]


def output_name(path: Any, *, probabilities: bool = False, numbers: str = "") -> str:
    """Returns the file name that predict writes for an input file.

    "x.nii.gz" stays "x.nii.gz", "x.jpg" becomes "x.png"; pairs (.hdr with .img) become one file. Probabilities get
    "_probabilities" after the stem, and other floating-point maps the name in `numbers`; those of a 2D input are a
    float32 TIFF, since PNG holds no floats.
    """
    numbers = "probabilities" if probabilities else numbers
    old = suffix(path)
    new = OUTPUT.get(old, old)
    if not numbers:
        return stem(path) + new
    return f"{stem(path)}_{numbers}" + (".tif" if new == ".png" else new)


def read(path: Any) -> Volume:
    """Reads an image as `(*S, C)`, integers in their own type, everything else as float32.

    `*S` is `(z, y, x)` or `(y, x)`. The affine maps array indices to millimetres (3D: RAS+).

    Args:
      path: of a file; of DICOM also a folder, a zip archive or FOLDER#SERIES.

    Raises:
      UserError: the file is missing, empty, of an unknown format, damaged, or holds no image.
    """
    return _call("read", path)


def read_label(path: Any, *, like: Volume | None = None, choice: Choice | None = None) -> Volume:
    """Reads a label map as `(*S)` integers, the file's own values.

    Args:
      path: as in `read`; also a DICOM segmentation (SEG) or structure set (RTSTRUCT), which need both of the others.
      like: the image. A label beside a DICOM series is turned to its axes, which converters to other formats reverse.
      choice: which segment or region of DICOM has which value; None: segments have their numbers.

    Raises:
      UserError: as `read`; also when there are several channels or values that are not whole numbers, or a DICOM label
        does not fit its image.
    """
    if kind(path) in _OF_DICOM:
        return _call("read_label", path, like=like, **({} if choice is None else {"choice": choice}))
    label = _call("read_label", path)
    return orientation.onto(label, like) if like is not None and isinstance(like.header, Series) else label


def _call(function: str, path: Any, **options: Any) -> Volume:
    path, known = paths.path(path), kind(path)
    if not is_there(path):
        raise UserError(f"{path} should be an image file, but there is no such file; check the path.")
    if path.is_dir() and known not in _OF_DICOM:
        raise UserError(f"{path} should be an image file, but is a folder; name a file in it.")
    if not known:
        raise UserError(f"{path} has a suffix that no reader knows; convert it to one of {', '.join(sorted(TABLE))}.")
    reader = resolve(known, {known: f"{TABLE[known]}:{function}"}, kind="reader")
    if not path.is_file():  # a folder of DICOM, or one of its series
        return reader(path, **options)
    with paths.local(path) as here:
        if here.stat().st_size == 0:
            raise UserError(f"{path} should be an image file, but is empty (0 bytes); copy or export it again.")
        volume = reader(here, **options)
    return volume._replace(path=str(path)) if paths.is_remote(path) else volume
