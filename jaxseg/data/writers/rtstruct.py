"""DICOM RT Structure Sets: each class as closed contours along the edges of its pixels, slice by slice."""

import datetime
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Integer

from jaxseg.data.dicom import described, source
from jaxseg.data.dicom.described import Description, Label
from jaxseg.data.dicom.outlines import outlines
from jaxseg.data.writers import replacing
from jaxseg.terms import Code
from jaxseg.typing import Volume

if TYPE_CHECKING:
    from pydicom import Dataset

SERIES_NUMBER = 9002
_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY = "1.2.840.10008.3.1.2.3.1"  # the class of studies, which the standard asks for though it is retired


def write(
    path: pathlib.Path,
    labels: Integer[np.ndarray, "D H W"],
    volume: Volume,
    *,
    description: Description,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes class ids as the structure set of the series that `volume` was read from; returns the path.

    A region of interest is a class that occurs; where nothing occurs all classes are, without contours. A hole is a
    closed contour of its own within its region's: a point belongs to a region where an odd number of its contours
    surround it. Contours run along the edges of pixels, so pixel centres are inside or outside, never on them.

    Args:
      path: of the file, whose folder is made.
      labels: class ids on the grid of `volume`, 0 for the background.
      volume: was read from DICOM: its header is a `Series`.
      description: of the classes and of what has found them.
      overwrite: replace a file that exists.

    Raises:
      Unfit: the volume was not read from DICOM, or its series lacks what a reference needs.
      UserError: the file exists, or cannot be written.
      ValueError: a class id without a label.
    """
    origin = source.of_volume(volume)
    shown = described.found(description, labels)
    with source.quiet(), replacing(path, overwrite=overwrite) as partial:
        try:
            dataset = _object(labels, shown, origin, description)
            # Long contours need the 32-bit lengths that only the implicit encoding has for numbers as text.
            dataset.save_as(partial, implicit_vr=True, little_endian=True, enforce_file_format=True)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            # pydicom's own words may quote the header, so the sentence has none of them
            raise source.Unfit(
                f"{volume.path} has a DICOM header of which no structure set can be made ({type(error).__name__}); "
                "set predict.format=nifti."
            ) from error
    return path


def _object(labels: np.ndarray, shown: Sequence[Label], origin: source.Source, description: Description) -> "Dataset":
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian, generate_uid

    dataset = source.identity(origin)
    dataset.SpecificCharacterSet = source.character_set(origin, [label.name for label in shown])
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = _STRUCTURE_SET, generate_uid()
    dataset.Modality, dataset.SeriesInstanceUID = "RTSTRUCT", generate_uid()
    dataset.SeriesNumber, dataset.InstanceNumber = SERIES_NUMBER, 1
    dataset.SeriesDescription, dataset.OperatorsName = described.SERIES, None
    dataset.Manufacturer = dataset.ManufacturerModelName = described.NAME
    dataset.SoftwareVersions, dataset.DeviceSerialNumber = description.version, description.digest
    now = datetime.datetime.now()
    for name in ("InstanceCreation", "StructureSet", "Series"):
        setattr(dataset, f"{name}Date", now.strftime("%Y%m%d"))
        setattr(dataset, f"{name}Time", now.strftime("%H%M%S"))
    dataset.StructureSetLabel = "SEGMENTATION"
    dataset.StructureSetName, dataset.StructureSetDescription = described.SERIES, described.NOTICE
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.FrameOfReferenceUID = origin.images[0].FrameOfReferenceUID
    dataset.PositionReferenceIndicator = None
    dataset.ReferencedFrameOfReferenceSequence = [_frame_of_reference(origin)]
    dataset.StructureSetROISequence = [_region(label, origin, description) for label in shown]
    dataset.ROIContourSequence = [_contours(labels == label.number, label, origin) for label in shown]
    dataset.RTROIObservationsSequence = [_observation(label) for label in shown]
    return dataset


def _frame_of_reference(origin: source.Source) -> "Dataset":
    """Returns the item that names the frame of reference, the study, the series and all its images."""
    from pydicom import Dataset

    first = origin.images[0]
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ContourImageSequence = [source.reference(origin, place) for place in range(len(origin.positions))]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY, first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _region(label: Label, origin: source.Source, description: Description) -> "Dataset":
    from pydicom import Dataset

    item = Dataset()
    item.ROINumber = label.number
    item.ReferencedFrameOfReferenceUID = origin.images[0].FrameOfReferenceUID
    item.ROIName = described.short(label.name)
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = described.short(f"{described.NAME} {description.version} {description.digest}")
    return item


def _observation(label: Label) -> "Dataset":
    from pydicom import Dataset

    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = label.number
    item.RTROIIdentificationCodeSequence = [_code(label.term.kind)]
    item.RTROIInterpretedType, item.ROIInterpreter = "", None
    return item


def _code(code: Code) -> "Dataset":
    from pydicom import Dataset

    item = Dataset()
    item.CodingSchemeDesignator, item.CodeValue, item.CodeMeaning = code
    return item


def _contours(mask: np.ndarray, label: Label, origin: source.Source) -> "Dataset":
    from pydicom import DataElement, Dataset

    item = Dataset()
    item.ReferencedROINumber, item.ROIDisplayColor = label.number, list(label.color)
    found: list[Dataset] = []
    for place in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        image = DataElement("ContourImageSequence", "SQ", [source.reference(origin, place)])
        for polygon in outlines(mask[place]):
            contour = Dataset()
            contour.add(image)
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(polygon)
            contour.ContourNumber = len(found) + 1
            # The text as it will be stored: making and checking each number anew takes most of the time of writing.
            text = _text(source.points(origin, place, polygon))
            contour.add(DataElement("ContourData", "DS", text, already_converted=True))
            found.append(contour)
    if found:
        item.ContourSequence = found
    return item


def _text(points: Float[np.ndarray, "N 3"]) -> str:
    """Numbers of at most 16 letters, as DICOM wants them: to a nanometre, within ten metres."""
    return "\\".join(f"{value:.6f}".rstrip("0").rstrip(".") for value in points.ravel().tolist())
