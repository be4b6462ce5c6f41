"""DICOM Segmentation objects, through highdicom: one binary segment a class, or a fractional one."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Integer

from jaxseg.data.dicom import described, source
from jaxseg.data.dicom.described import Description, Label
from jaxseg.data.writers import replacing
from jaxseg.terms import Code
from jaxseg.typing import Volume

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from pydicom import Dataset

SERIES_NUMBER = 9001
_LIBRARY_ERRORS = (ValueError, TypeError, AttributeError, KeyError, IndexError)


def write(
    path: pathlib.Path,
    labels: Integer[np.ndarray, "D H W"],
    volume: Volume,
    *,
    description: Description,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes class ids as a BINARY segmentation of the series that `volume` was read from; returns the path.

    A segment is a class that occurs, numbered from 1 by class id, and its frames are the slices that show it, in the
    order of their places. Where nothing occurs all classes are segments, each with an empty frame a slice.

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
    numbers = np.zeros(max(label.number for label in shown) + 1, np.uint8 if len(shown) < 256 else np.uint16)
    numbers[[label.number for label in shown]] = np.arange(1, len(shown) + 1)
    return _write(path, numbers[labels], "BINARY", shown, origin, volume, description, overwrite=overwrite)


def write_probabilities(
    path: pathlib.Path,
    probabilities: Float[np.ndarray, "D H W K"],
    volume: Volume,
    *,
    description: Description,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes a probability for each label as a FRACTIONAL segmentation, in steps of 1/255; returns the path.

    Args:
      path: of the file, whose folder is made.
      probabilities: 0 to 1, one channel a label of `description`, in their order.
      volume, description, overwrite: as in `write`.

    Raises:
      Unfit, UserError: as in `write`.
      ValueError: there are not as many channels as labels.
    """
    if probabilities.shape[-1] != len(description.labels):
        raise ValueError(f"{len(description.labels)} labels need as many channels, got {probabilities.shape[-1]}.")
    origin = source.of_volume(volume)
    values = np.clip(probabilities, 0, 1)
    return _write(path, values, "FRACTIONAL", description.labels, origin, volume, description, overwrite=overwrite)


def _write(
    path: pathlib.Path,
    pixels: np.ndarray,
    kind: str,
    shown: Sequence[Label],
    origin: source.Source,
    volume: Volume,
    description: Description,
    *,
    overwrite: bool,
) -> pathlib.Path:
    with source.quiet(), replacing(path, overwrite=overwrite) as partial:
        try:
            _object(pixels, kind, shown, origin, volume, description).save_as(partial)
        except _LIBRARY_ERRORS as error:
            # highdicom's own words may quote the header, so the sentence has none of them
            raise source.Unfit(
                f"{volume.path} has a DICOM header of which no segmentation can be made ({type(error).__name__}); "
                "set predict.format=nifti."
            ) from error
    return path


def _object(
    pixels: np.ndarray,
    kind: str,
    shown: Sequence[Label],
    origin: source.Source,
    volume: Volume,
    description: Description,
) -> "Dataset":
    import highdicom

    images = _complete(origin, volume)
    thickness = images[0].get("SliceThickness")
    found = highdicom.seg.Segmentation(
        source_images=images,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=[_segment(place, label, description) for place, label in enumerate(shown, start=1)],
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=described.NAME,
        manufacturer_model_name=described.NAME,
        software_versions=description.version,
        device_serial_number=description.digest,
        content_label="SEGMENTATION" if kind == "BINARY" else "PROBABILITIES",
        content_description=described.NOTICE,
        content_creator_name=described.NAME,
        series_description=described.SERIES,
        pixel_measures=highdicom.PixelMeasuresSequence(
            pixel_spacing=origin.spacing.tolist(),
            slice_thickness=None if thickness is None else float(thickness),
            spacing_between_slices=volume.spacing[0] if len(pixels) > 1 else None,
        ),
        plane_orientation=highdicom.PlaneOrientationSequence("PATIENT", origin.orientation.ravel().tolist()),
        plane_positions=[highdicom.PlanePositionSequence("PATIENT", one.tolist()) for one in origin.positions],
        specific_character_set=source.character_set(origin, [label.name for label in shown]),
    )
    for place, label in enumerate(shown):
        found.SegmentSequence[place].SegmentDescription = f"class id {label.number}"
    return found


def _segment(number: int, label: Label, description: Description) -> "SegmentDescription":
    import highdicom

    codes = highdicom.sr.CodedConcept
    family = Code("DCM", "123110", "Artificial Intelligence")
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=described.NAME,
        family=codes(family.value, family.scheme, family.meaning),
        version=description.version,
        source=described.NAME,
        parameters={"run": description.digest},
    )
    category, kind = label.term
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=described.short(label.name),
        segmented_property_category=codes(category.value, category.scheme, category.meaning),
        segmented_property_type=codes(kind.value, kind.scheme, kind.meaning),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        display_color=highdicom.color.CIELabColor.from_rgb(*label.color),
    )


def _complete(origin: source.Source, volume: Volume) -> "list[Dataset]":
    """Returns the headers with empty values for what a stricter reader of headers than ours asks for."""
    import copy

    from pydicom import Dataset

    result, identity = [], source.identity(origin)
    for image in origin.images:
        image = copy.copy(image)
        image.update(identity)
        if not origin.frames and image.get("SliceThickness") is None:
            image.SliceThickness = volume.spacing[0]
        if origin.frames and "PixelMeasuresSequence" not in image.SharedFunctionalGroupsSequence[0]:
            shared, measures = copy.copy(image.SharedFunctionalGroupsSequence[0]), Dataset()
            measures.PixelSpacing = origin.spacing.tolist()
            measures.SliceThickness = volume.spacing[0]
            shared.PixelMeasuresSequence = [measures]
            image.SharedFunctionalGroupsSequence = [shared]
        result.append(image)
    return result
