"""What is known of one DICOM series: where its slices lie. It is the header of a `Volume` that was read from DICOM."""

import io
import zipfile
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pydicom import Dataset


class Series(NamedTuple):
    """A stack of slices, in the order of the first axis of the volume that they make up.

    Attributes:
      uid: SeriesInstanceUID.
      modality: "CT", "MR", ...
      files: for each slice the file that holds it; a multi-frame object is named once a slice.
      frames: for each slice the place of its frame in that file, from 0.
      archive: the zip file in which `files` are names; "": they are paths.
    """

    uid: str
    modality: str
    files: tuple[str, ...]
    frames: tuple[int, ...]
    archive: str = ""


def headers(series: Series) -> "list[Dataset]":
    """Returns the header of each file of a series once, without pixels, in the order of its slices."""
    from pydicom import dcmread

    names = list(dict.fromkeys(series.files))
    if not series.archive:
        return [dcmread(name, stop_before_pixels=True, force=True) for name in names]
    with zipfile.ZipFile(series.archive) as archive:
        return [dcmread(io.BytesIO(archive.read(name)), stop_before_pixels=True, force=True) for name in names]
