"""DICOM segmentations (SEG) as label maps on the grid of their image: binary, fractional and label-map objects."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int32, Num

from jaxseg.data.dicom import geometry, labels, pixels
from jaxseg.data.dicom.headers import group_value, numbers
from jaxseg.data.dicom.labels import Choice
from jaxseg.data.dicom.series import Series
from jaxseg.data.dicom.series import headers as headers_of
from jaxseg.typing import UserError, Volume

if TYPE_CHECKING:
    from pydicom import Dataset

OFF = 0.25  # voxels that a frame's pixel may lie off a voxel of the image
LABELMAP = "LABELMAP"


def read(dataset: "Dataset", image: Volume, *, path: Any, choice: Choice) -> Int32[np.ndarray, "z y x"]:
    """Returns the label map of a segmentation: each frame goes where its position says, or the slice it refers to.

    Frames that were left out because they are empty stay background. A fractional segmentation counts from one half on.

    Args:
      dataset: of the SEG file.
      image: gives the grid; frames may cover a part of it, or run along other axes of it.
      path: of the SEG file, for messages.
      choice: which segment gets which value; segments without a class of their name get their number if no name fits.

    Raises:
      UserError: the segmentation is of another image, does not lie on its grid, or has overlapping segments.
    """
    labels.check_reference(dataset, image, path=path)
    names = {
        int(item.SegmentNumber): str(item.get("SegmentLabel", "")) for item in dataset.get("SegmentSequence") or ()
    }
    if not names:
        raise UserError(f"{path} should describe its segments, but names none (SegmentSequence); export it again.")
    chosen = labels.values(names, choice.classes) or {number: number for number in names}
    frames = pixels.decoded(dataset, path=path, palette=False)[..., 0]
    result = np.full(image.data.shape[:3], choice.background, np.int32)
    parts = _labelmap(dataset, frames) if _is_labelmap(dataset) else _binary(dataset, frames, path)
    slice_of = _references(dataset, image, path)
    for number in labels.in_order(chosen, choice):
        for frame, mask in parts.get(number, ()):
            where = _voxels(dataset, image, frame, mask, slice_of, path)
            labels.paint(result, where, chosen[number], choice, path=path)
    return result


def _is_labelmap(dataset: "Dataset") -> bool:
    return str(dataset.get("SegmentationType", "")) == LABELMAP


def _binary(dataset: "Dataset", frames: Num[np.ndarray, "N y x"], path: Any) -> dict[int, list[tuple[int, np.ndarray]]]:
    """Returns frame number and mask of the frames of each segment."""
    half = 0.5
    if str(dataset.get("SegmentationType", "")) == "FRACTIONAL":
        half = 0.5 * float(dataset.get("MaximumFractionalValue", 255))
    result: dict[int, list[tuple[int, np.ndarray]]] = {}
    for place, frame in enumerate(frames):
        number = group_value(dataset, place, "SegmentIdentificationSequence", "ReferencedSegmentNumber")
        if number is None:
            raise UserError(f"{path} should say which segment frame {place + 1} shows, but does not; export it again.")
        result.setdefault(int(number), []).append((place, frame >= half))
    return result


def _labelmap(dataset: "Dataset", frames: Num[np.ndarray, "N y x"]) -> dict[int, list[tuple[int, np.ndarray]]]:
    """As `_binary`, where each pixel holds the number of its segment; 0 and the padding value are none."""
    padding = dataset.get("PixelPaddingValue")
    result: dict[int, list[tuple[int, np.ndarray]]] = {}
    for place, frame in enumerate(frames):
        for number in np.unique(frame).tolist():
            if number not in (0, padding):
                result.setdefault(int(number), []).append((place, frame == number))
    return result


def _voxels(
    dataset: "Dataset",
    image: Volume,
    frame: int,
    mask: Bool[np.ndarray, "y x"],
    slice_of: Callable[[int], int],
    path: Any,
) -> tuple[np.ndarray, ...]:
    """Returns the indices of the voxels that a frame's mask covers."""
    rows, columns = np.nonzero(mask)
    steps = _steps(dataset, image, frame, slice_of)
    corners = steps @ np.array([[0, 0, 1], [mask.shape[0] - 1, mask.shape[1] - 1, 1]]).T
    turn = np.rint(steps[:, :2])
    right = (np.abs(turn).sum(0) == 1).all() and (np.abs(turn).sum(1) <= 1).all()
    if not right or np.abs(corners - np.rint(corners)).max() > OFF:
        raise UserError(
            f"{path} should lie on the grid of {image.path}, but frame {frame + 1} lies between its voxels or has "
            "other ones; resample it onto the image's grid."
        )
    start = np.rint(corners[:, 0])
    found = (turn @ np.stack([rows, columns]) + start[:, None]).astype(np.int64)
    outside = ((found < 0) | (found >= np.array(image.data.shape[:3])[:, None])).any(0)
    if outside.any():
        raise UserError(
            f"{path} should lie within {image.path}, but {int(outside.sum())} voxels of frame {frame + 1} lie outside; "
            "is the image complete?"
        )
    return tuple(found)


def _steps(dataset: "Dataset", image: Volume, frame: int, slice_of: Callable[[int], int]) -> Float[np.ndarray, "3 3"]:
    """Returns the matrix that takes (row, column, 1) of a frame to `(z, y, x)` indices of the image."""
    position = numbers(group_value(dataset, frame, "PlanePositionSequence", "ImagePositionPatient"), 3)
    turned = numbers(group_value(dataset, frame, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    spacing = numbers(group_value(dataset, frame, "PixelMeasuresSequence", "PixelSpacing"), 2)
    if position is None or turned is None or spacing is None:
        return np.array([[0, 0, slice_of(frame)], [1, 0, 0], [0, 1, 0]], np.float64)
    place = np.zeros((4, 3))
    place[:3, 0] = np.multiply(turned[3:], spacing[0])
    place[:3, 1] = np.multiply(turned[:3], spacing[1])
    place[:, 2] = (*position, 1.0)
    return (np.linalg.inv(image.affine) @ geometry.LPS_TO_RAS @ place)[:3]


def _references(dataset: "Dataset", image: Volume, path: Any) -> Callable[[int], int]:
    """Returns what finds the slice of the image that a frame refers to; the image's headers are read at the first call.

    The UserError of that function: the frame refers to no slice of the image.
    """
    slices = functools.cache(lambda: slices_by_uid(image.header) if isinstance(image.header, Series) else {})

    def slice_of(frame: int) -> int:
        for item in group_value(dataset, frame, "DerivationImageSequence", "SourceImageSequence") or ():
            key = str(item.get("ReferencedSOPInstanceUID")), int(item.get("ReferencedFrameNumber") or 1) - 1
            if key in slices():
                return slices()[key]
        raise UserError(
            f"{path} should say where each frame lies, but frame {frame + 1} has neither a position nor a slice of "
            f"{image.path} that it refers to; export it again."
        )

    return slice_of


def slices_by_uid(series: Series) -> dict[tuple[str, int], int]:
    """Returns the place in the volume of each slice of a series, by SOPInstanceUID and frame from 0."""
    names = list(dict.fromkeys(series.files))
    uids = dict(zip(names, (str(header.SOPInstanceUID) for header in headers_of(series)), strict=True))
    return {
        (uids[file], frame): place for place, (file, frame) in enumerate(zip(series.files, series.frames, strict=True))
    }
