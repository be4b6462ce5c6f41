"""What one frame of a DICOM file says about itself, without its pixels: where it lies and which series it is of."""

import contextlib
import io
import os
import pathlib
import warnings
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxseg.data.volume import reason
from jaxseg.typing import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # binary or fractional; label map
STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
DIRECTORY = "1.2.840.10008.1.3.10"
DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
# JPEG baseline and extended, JPEG-LS near-lossless; others may be either, and say so in LossyImageCompression
LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81")
CAPTURES = "1.2.840.10008.5.1.4.1.1.7"  # and what starts with it and a dot
# Pictures of one plane: they have no place in the patient, and each file is an image of its own.
PICTURES = ("CR", "DX", "MG", "IO", "PX", "RG", "RF", "XA", "US", "ES", "XC", "GM", "OP")
# What tells stacks apart that cover the same positions, in the order in which it is asked: keyword, functional group.
MARKS = (
    ("ImageType", None),
    ("FrameType", "MRImageFrameTypeSequence"),
    ("FrameType", "CTImageFrameTypeSequence"),
    ("StackID", "FrameContentSequence"),
    ("EchoNumbers", None),
    ("EchoTime", None),
    ("EffectiveEchoTime", "MREchoSequence"),
    ("TemporalPositionIdentifier", None),
    ("TemporalPositionIndex", "FrameContentSequence"),
    ("AcquisitionNumber", None),
    ("FrameAcquisitionNumber", "FrameContentSequence"),
    ("DiffusionBValue", "MRDiffusionSequence"),
    ("DiffusionBValue", None),
    ("TriggerTime", None),
    ("NominalCardiacTriggerDelayTime", "CardiacSynchronizationSequence"),
    ("AcquisitionTime", None),
    ("FrameAcquisitionDateTime", "FrameContentSequence"),
)


class Slice(NamedTuple):
    """One frame of a file.

    Attributes:
      source: path of the file, or its name in an archive.
      frame: its place in that file, from 0.
      uid: SOPInstanceUID of the file.
      series: what names the series: SeriesInstanceUID and, for data sets whose UIDs were made anew carelessly,
        PatientID.
      number: SeriesNumber, or None.
      modality: "CT", "MR", ...
      shape: rows and columns.
      position: centre of the first pixel in mm, LPS, or None where the file does not say it.
      orientation: direction along a row, then along a column, LPS; or None.
      spacing: mm between rows, then between columns; or None.
      thickness: mm from slice to slice as the header says, or None; only a single slice needs it.
      marks: what it says of each of MARKS; "" where nothing.
      lossy: whether it was compressed with loss.
    """

    source: str
    frame: int
    uid: str
    series: tuple[str, str]
    number: int | None
    modality: str
    shape: tuple[int, int]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None
    marks: tuple[str, ...]
    lossy: bool


class Skipped(NamedTuple):
    """A DICOM file that is no image to segment.

    Attributes:
      source: as in `Slice`.
      why: a clause such as "is a localiser".
      refers: of a segmentation or a structure set the SeriesInstanceUIDs that it was drawn on; None for others.
    """

    source: str
    why: str
    refers: tuple[str, ...] | None = None


def quiet() -> None:
    """Keeps pydicom from printing values of headers, which may be a patient's name, when they break a rule."""
    import pydicom.config

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", category=UserWarning, module="pydicom")


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether a file starts as DICOM files do. Some exports lack that start; their suffix tells what they are."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


@contextlib.contextmanager
def opened(archive: str) -> Iterator["str | zipfile.ZipFile"]:
    """Gives a zip archive for many calls of `open_file`, each of which would look for its files anew; "" as it is.

    Raises:
      UserError: it cannot be read.
    """
    if not archive:
        yield archive
        return
    try:
        file = zipfile.ZipFile(archive)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive} should be a zip archive, but cannot be read: {reason(error)}.") from error
    with file:
        yield file


def open_file(source: str, archive: "str | zipfile.ZipFile" = "", *, pixels: bool = True) -> "Dataset":
    """Returns the content of a DICOM file, which may lie in a zip archive; with `pixels` False all but those.

    Args:
      source: as in `Slice`.
      archive: its path, or what `opened` gives.
      pixels: see above.

    Raises:
      UserError: it cannot be read.
    """
    import pydicom

    quiet()
    try:
        place: Any = source
        if isinstance(archive, zipfile.ZipFile):
            place = io.BytesIO(archive.read(source))
        elif archive:
            with zipfile.ZipFile(archive) as file:
                place = io.BytesIO(file.read(source))
        # force: a file without the preamble is read too; what is no DICOM then has no SOPClassUID
        dataset = pydicom.dcmread(place, stop_before_pixels=not pixels, force=True)
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise UserError(
            f"{shown(source, archive)} should be a complete DICOM file, but cannot be read: {reason(error)}; "
            "export it again."
        ) from error
    return dataset


def slices(source: str, dataset: "Dataset") -> tuple[Slice, ...] | Skipped:
    """Returns the frames of a file, or why it holds none that could be segmented.

    Args:
      source: as in `Slice`.
      dataset: the header.
    """
    kind, modality = str(dataset.get("SOPClassUID", "")), str(dataset.get("Modality", ""))
    if not kind and "Rows" not in dataset:
        return Skipped(source, "is no complete DICOM file")
    named = refers(dataset) if kind in SEGMENTATIONS or kind == STRUCTURES else None
    if kind in SEGMENTATIONS:
        return Skipped(source, "is a segmentation (SEG), which can be a label but no image", named)
    if kind == STRUCTURES:
        return Skipped(source, "is a structure set (RTSTRUCT), which can be a label but no image", named)
    if kind == DIRECTORY or "DirectoryRecordSequence" in dataset:
        return Skipped(source, "is a directory of other files (DICOMDIR)")
    if kind == DOSE:
        return Skipped(source, "is a dose (RTDOSE)")
    if not dataset.get("Rows") or not dataset.get("Columns"):
        return Skipped(source, f"holds no image (modality {modality or 'unknown'})")
    found = tuple(_frames(source, dataset))
    placed = found[0].position is not None and found[0].orientation is not None
    types = {part.upper() for mark in found[0].marks[:3] for part in mark.split("\\")}
    if types & {"LOCALIZER", "SCOUT"}:
        return Skipped(source, "is a localiser")
    if placed:
        return found
    if (kind + ".").startswith(CAPTURES + ".") and modality not in PICTURES:
        return Skipped(source, "is a secondary capture without a place in the patient")
    if len(found) > 1:
        return Skipped(source, f"is a film of {len(found)} frames without places in the patient")
    if modality not in PICTURES:
        return Skipped(source, "does not say where it lies (ImagePositionPatient, ImageOrientationPatient)")
    return found


def _frames(source: str, dataset: "Dataset") -> Iterator[Slice]:
    count = max(1, _integer(dataset.get("NumberOfFrames")) or 1)
    series = tuple(str(dataset.get(name, "")) for name in ("SeriesInstanceUID", "PatientID"))
    for frame in range(count):
        spacing = numbers(group_value(dataset, frame, "PixelMeasuresSequence", "PixelSpacing"), 2)
        if spacing is None and str(dataset.get("Modality", "")) in PICTURES:
            spacing = numbers(dataset.get("ImagerPixelSpacing"), 2)
        between = numbers(group_value(dataset, frame, "PixelMeasuresSequence", "SpacingBetweenSlices"), 1)
        thick = numbers(group_value(dataset, frame, "PixelMeasuresSequence", "SliceThickness"), 1)
        yield Slice(
            source=source,
            frame=frame,
            uid=str(dataset.get("SOPInstanceUID", "")),
            series=(series[0], series[1]),
            number=_integer(dataset.get("SeriesNumber")),
            modality=str(dataset.get("Modality", "")),
            shape=(int(dataset.Rows), int(dataset.Columns)),
            position=_position(dataset, frame, count),
            orientation=numbers(group_value(dataset, frame, "PlaneOrientationSequence", "ImageOrientationPatient"), 6),
            spacing=spacing,
            thickness=next((abs(value[0]) for value in (between, thick) if value and value[0]), None),
            marks=tuple(_mark(dataset, frame, keyword, group) for keyword, group in MARKS),
            lossy=_is_lossy(dataset),
        )


def group_value(dataset: "Dataset", frame: int, group: str, keyword: str) -> Any:
    """Returns a value of one frame: from its own functional group, the shared one, or the file's top level."""
    for sequence, place in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items: Any = dataset.get(sequence) or ()
        if place < len(items):
            parts: Any = items[place].get(group) or ()
            if len(parts) and parts[0].get(keyword) is not None:
                return parts[0].get(keyword)
    return dataset.get(keyword)


def _position(dataset: "Dataset", frame: int, count: int) -> tuple[float, ...] | None:
    """The position of a frame; only an enhanced object says it frame by frame, in an older one all would be equal."""
    if count > 1 and not dataset.get("PerFrameFunctionalGroupsSequence"):
        return None
    return numbers(group_value(dataset, frame, "PlanePositionSequence", "ImagePositionPatient"), 3)


def _is_lossy(dataset: "Dataset") -> bool:
    meta = getattr(dataset, "file_meta", None) or {}
    return str(dataset.get("LossyImageCompression", "")) == "01" or str(meta.get("TransferSyntaxUID", "")) in LOSSY


def _mark(dataset: "Dataset", frame: int, keyword: str, group: str | None) -> str:
    value = dataset.get(keyword) if group is None else group_value(dataset, frame, group, keyword)
    if value is None:
        return ""
    several = not isinstance(value, str | bytes) and hasattr(value, "__iter__")
    return "\\".join(str(item) for item in value) if several else str(value)


def numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """Returns so many finite numbers, or None where the header does not give them."""
    values = value if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    try:
        result = tuple(float(item) for item in values)
    except (TypeError, ValueError):
        return None
    return result if len(result) == count and all(abs(item) < float("inf") for item in result) else None


def _integer(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def refers(dataset: "Dataset") -> tuple[str, ...]:
    """Returns the SeriesInstanceUIDs that a segmentation or a structure set names."""
    found: list = [item.get("SeriesInstanceUID") for item in dataset.get("ReferencedSeriesSequence") or ()]
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            found += [item.get("SeriesInstanceUID") for item in study.get("RTReferencedSeriesSequence") or ()]
    return tuple(dict.fromkeys(str(uid) for uid in found if uid))


def shown(source: str, archive: "str | zipfile.ZipFile" = "") -> str:
    """Returns how messages call a file."""
    name = archive.filename if isinstance(archive, zipfile.ZipFile) else archive
    return f"{pathlib.Path(source).name} of {name}" if name else source
