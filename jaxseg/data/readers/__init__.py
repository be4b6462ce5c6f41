"""Files to `Volume`s: one table of suffixes, one reader a format, every failure one sentence.

To add a format: one file with `read(path)` and `read_label(path)`, one line a suffix in `TABLE` and one in `OUTPUT`.
"""

import pathlib
from typing import Any

from jaxseg import paths
from jaxseg.registry import resolve
from jaxseg.typing import UserError, Volume

_NIFTI, _IMAGE, _NRRD = "jaxseg.data.readers.nifti", "jaxseg.data.readers.image", "jaxseg.data.readers.nrrd"
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
}
# Suffixes whose masks are written under another suffix: lossy or palette formats as PNG, pairs of files as one file.
OUTPUT = {
    ".jpg": ".png",
    ".jpeg": ".png",
    ".bmp": ".png",
    ".gif": ".png",
    ".hdr": ".nii",
    ".img": ".nii",
    ".nhdr": ".nrrd",
}


def suffix(path: Any) -> str:
    """Returns the suffix of a file name as the table spells it (".nii.gz"), or "" where no reader knows it."""
    name = pathlib.Path(path).name.lower()
    return max((known for known in TABLE if name.endswith(known) and name != known), key=len, default="")


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

    Raises:
      UserError: the file is missing, empty, of an unknown format, damaged, or holds no image.
    """
    return _call("read", path)


def read_label(path: Any) -> Volume:
    """Reads a label map as `(*S)` integers, the file's own values.

    Raises:
      UserError: as `read`; also when there are several channels or values that are not whole numbers.
    """
    return _call("read_label", path)


def _call(function: str, path: Any) -> Volume:
    path = paths.path(path)
    if not path.exists():
        raise UserError(f"{path} should be an image file, but there is no such file; check the path.")
    if not path.is_file():
        raise UserError(f"{path} should be an image file, but is a folder; name a file in it.")
    kind = suffix(path)
    if not kind:
        raise UserError(f"{path} has a suffix that no reader knows; convert it to one of {', '.join(sorted(TABLE))}.")
    reader = resolve(kind, {kind: f"{TABLE[kind]}:{function}"}, kind="reader")
    with paths.local(path) as here:
        if here.stat().st_size == 0:
            raise UserError(f"{path} should be an image file, but is empty (0 bytes); copy or export it again.")
        volume = reader(here)
    return volume._replace(path=str(path)) if paths.is_remote(path) else volume
