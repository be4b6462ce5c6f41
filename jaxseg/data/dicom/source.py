"""The series that a label map belongs to: where each of its slices lies, and whose it is."""

import contextlib
import itertools
import logging
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxseg.data.dicom.headers import group_value
from jaxseg.data.dicom.series import Series, headers
from jaxseg.typing import UserError, Volume

if TYPE_CHECKING:
    from pydicom import Dataset

TOLERANCE_MM = 0.1  # how far a voxel may lie from where the series has it
# Patient and study, as each object of a study repeats them. The first ones must be there, if only empty.
REQUIRED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
)
OPTIONAL = (
    *("IssuerOfPatientID", "OtherPatientIDsSequence", "PatientBirthTime", "EthnicGroup", "PatientComments"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    *("StudyDescription", "PatientAge", "PatientSize", "PatientWeight", "AdmissionID"),
    *("LongitudinalTemporalInformationModified", "ClinicalTrialSponsorName", "ClinicalTrialProtocolID"),
    *("ClinicalTrialSubjectID", "ClinicalTrialTimePointID"),
)


class Unfit(UserError):
    """A volume of whose series no label object can be made, though its voxels may be fine."""


class Source(NamedTuple):
    """The images behind the slices of a volume, first slice first, with their geometry (LPS, mm).

    Attributes:
      images: headers: one a slice, or a single multi-frame object.
      frames: for each slice the number of its frame from 0; empty for single-frame images.
      positions: centre of the first pixel of each slice.
      orientation: unit vectors along a row and along a column.
      spacing: distance of rows, and of columns.
    """

    images: "tuple[Dataset, ...]"
    frames: tuple[int, ...]
    positions: Float[np.ndarray, "D 3"]
    orientation: Float[np.ndarray, "2 3"]
    spacing: Float[np.ndarray, "2"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the DICOM packages from warning: their texts quote values, which may be a patient's name."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)  # which holds for the loggers of their modules too
            yield
        finally:
            for logger, level in zip(loggers, before):
                logger.setLevel(level)


def of_volume(volume: Volume) -> Source:
    """Returns the images that a volume was read from, after a look whether its voxels still lie as theirs.

    Raises:
      Unfit: the volume was not read from DICOM, the files have gone or changed, or lack what places them.
    """
    series = volume.header
    if not isinstance(series, Series):
        raise Unfit(
            f"{volume.path or 'The input'} is not DICOM: there is no series to refer to; set predict.format=nifti or "
            "give the DICOM series."
        )
    if len(volume.spacing) != 3:
        raise Unfit(f"{volume.path} is read as a picture of two axes, which a label object has no place for.")
    try:
        with quiet():
            found = _source(tuple(headers(series)), series)
    except Unfit:
        raise  # is a ValueError too
    except (OSError, KeyError, AttributeError, ValueError, IndexError, TypeError) as error:
        raise Unfit(
            f"{volume.path} cannot be read again to refer to its series ({type(error).__name__}); leave its files in "
            "place, or set predict.format=nifti."
        ) from error
    with quiet():
        _check(found, volume)
    return found


def reference(source: Source, place: int) -> "Dataset":
    """Returns the item that names the image of a slice, and the frame where the image has several."""
    from pydicom import Dataset

    item, image = Dataset(), source.images[0 if source.frames else place]
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    if source.frames:
        item.ReferencedFrameNumber = source.frames[place] + 1
    return item


def identity(source: Source) -> "Dataset":
    """Returns patient and study of a source: what brings an object to its place in an archive.

    A date, a time or a sex that is none, as careless anonymisation leaves them, is left empty; so is what is missing.
    Nothing of it belongs in a log, the name of a file or a report.
    """
    from pydicom import Dataset

    first, result = source.images[0], Dataset()
    result.StudyInstanceUID = first.StudyInstanceUID
    for name in REQUIRED:
        value = first.get(name)
        setattr(result, name, value if _is_valid(name, value) else None)
    for name in OPTIONAL:
        if name in first:
            setattr(result, name, first[name].value)
    return result


def character_set(source: Source, texts: Iterable[str]) -> str:
    """Returns the character set of an object that takes over a source's texts and adds these.

    It is the source's own where that is one plain set that DICOM knows and the texts need no more than ASCII; else
    UTF-8, for which pydicom encodes a patient's name anew.
    """
    from pydicom.charset import python_encoding

    own = source.images[0].get("SpecificCharacterSet")
    plain = isinstance(own, str) and own.startswith("ISO_IR ") and own in python_encoding
    return own if plain and all(text.isascii() for text in texts) else "ISO_IR 192"


def _is_valid(name: str, value: Any) -> bool:
    from pydicom.valuerep import DA, TM

    if name == "PatientSex":
        return value in ("M", "F", "O")
    if not name.endswith(("Date", "Time")):
        return True
    try:
        return bool((DA if name.endswith("Date") else TM)(value))
    except (ValueError, TypeError):
        return False


def points(source: Source, place: int, pixels: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 3"]:
    """Returns where points `(row, column)` of a slice, counted from the centre of its first pixel, lie (LPS, mm)."""
    down, along = source.orientation[1] * source.spacing[0], source.orientation[0] * source.spacing[1]
    return source.positions[place] + pixels[:, :1] * down + pixels[:, 1:] * along


def _source(images: "tuple[Dataset, ...]", series: Series) -> Source:
    several = "NumberOfFrames" in images[0] and int(images[0].NumberOfFrames) >= 1 and _groups(images[0]) is not None
    if several and len(images) > 1:
        raise Unfit(
            "The series has several multi-frame objects, and a label object refers to one; set predict.format=nifti."
        )
    geometry = [_placed(images[0], at) for at in series.frames] if several else [_placed(one, 0) for one in images]
    first = geometry[0]
    return Source(
        images=images,
        frames=series.frames if several else (),
        positions=np.array([position for position, _, _ in geometry]),
        orientation=first[1].reshape(2, 3),
        spacing=first[2],
    )


def _groups(image: "Dataset"):
    return image.get("PerFrameFunctionalGroupsSequence")


def _placed(image: "Dataset", frame: int) -> list[np.ndarray]:
    """Position, orientation and spacing of a frame, found where the reader finds them.

    Raises:
      KeyError: one is missing.
    """
    places = (
        ("PlanePositionSequence", "ImagePositionPatient"),
        ("PlaneOrientationSequence", "ImageOrientationPatient"),
        ("PixelMeasuresSequence", "PixelSpacing"),
    )
    values = {name: group_value(image, frame, group, name) for group, name in places}
    if missing := [name for name, value in values.items() if value is None]:
        raise KeyError(missing[0])
    return [np.array(value, np.float64) for value in values.values()]


def _check(source: Source, volume: Volume) -> None:
    """Refuses a series that the label objects cannot refer to, or on which the voxels do not lie."""
    if not source.images[0].get("FrameOfReferenceUID"):
        raise Unfit(
            f"{volume.path} lacks the FrameOfReferenceUID that a label object needs to lie in the same place; set "
            "predict.format=nifti."
        )
    depth, rows, columns = volume.data.shape[:3]
    sizes = {(int(image.Rows), int(image.Columns)) for image in source.images}
    apart = np.inf
    if len(source.positions) == depth and sizes == {(rows, columns)}:
        corners = np.array(list(itertools.product((0.0, rows - 1.0), (0.0, columns - 1.0))))
        to_ras = np.array([-1.0, -1.0, 1.0])
        apart = 0.0
        for place in range(depth):
            there = points(source, place, corners) * to_ras
            indices = np.column_stack([np.full(4, float(place)), corners, np.ones(4)])
            apart = max(apart, float(np.abs(there - (indices @ volume.affine.T)[:, :3]).max()))
    if not apart <= TOLERANCE_MM:
        raise Unfit(f"{volume.path} does not lie on the grid of its DICOM series any more; set predict.format=nifti.")
