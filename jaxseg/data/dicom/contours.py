"""DICOM structure sets (RTSTRUCT) as label maps: closed planar contours, filled where the centres of pixels lie."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int32

from jaxseg.data.dicom import geometry, labels
from jaxseg.data.dicom.labels import Choice
from jaxseg.typing import UserError, Volume

if TYPE_CHECKING:
    from pydicom import Dataset

OFF = 0.25  # slice distances that a contour may lie off the slice it belongs to
LISTED = 20


def read(dataset: "Dataset", image: Volume, *, path: Any, choice: Choice) -> Int32[np.ndarray, "z y x"]:
    """Returns the label map of a structure set.

    A pixel is inside where its centre is. Contours of one region on one slice are counted together, even ones out: a
    contour within another is a hole, an island in a hole is inside again.

    Args:
      dataset: of the RTSTRUCT file.
      image: gives the grid.
      path: of the RTSTRUCT file, for messages.
      choice: which region gets which value, by name. A structure set with one region alone needs no name.

    Raises:
      UserError: the structure set is of another image, has no region of a class's name, has contours off the slices of
        the image, or regions overlap.
    """
    labels.check_reference(dataset, image, path=path)
    names = {int(item.ROINumber): str(item.get("ROIName", "")) for item in dataset.get("StructureSetROISequence") or ()}
    regions = {
        int(item.ReferencedROINumber): list(item.get("ContourSequence") or ())
        for item in dataset.get("ROIContourSequence") or ()
    }
    chosen = _chosen(names, regions, choice, path)
    result = np.full(image.data.shape[:3], choice.background, np.int32)
    for number in labels.in_order(chosen, choice):
        for place, polygons in _by_slice(regions.get(number, []), names.get(number, ""), image, path).items():
            mask = fill(polygons, result.shape[1:])
            labels.paint(result[place], mask, chosen[number], choice, path=path)
    return result


def fill(polygons: Sequence[Float[np.ndarray, "N 2"]], shape: Sequence[int]) -> Bool[np.ndarray, "y x"]:
    """Returns which pixel centres lie within an odd number of polygons.

    A centre on an edge belongs to the side of smaller indices' neighbour: of two regions that share an edge exactly one
    has it.

    Args:
      polygons: corners in pixels, (row, column); the last one is joined to the first.
      shape: rows and columns.
    """
    rows, columns = shape
    crossings = np.zeros((rows, columns + 1), np.int32)
    for corners in polygons:
        for (y0, x0), (y1, x1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            # Rows whose centre the edge passes, the lower end with it and the upper one without: each once a corner.
            first, last = sorted((y0, y1))
            passed = np.arange(max(0, int(np.ceil(first))), min(rows, int(np.ceil(last))))
            if passed.size:
                at = np.ceil(x0 + (passed - y0) / (y1 - y0) * (x1 - x0))
                crossings[passed, np.clip(at, 0, columns).astype(np.int64)] += 1
    return crossings.cumsum(axis=1)[:, :columns] % 2 == 1


def _chosen(names: dict[int, str], regions: dict[int, list], choice: Choice, path: Any) -> dict[int, int]:
    """Returns the value of each region that is read."""
    found = labels.values(names, choice.classes)
    if found is not None:
        return found
    drawn = [number for number in names if regions.get(number)]
    if len(drawn) == 1 and len(choice.classes) <= 1:
        return {drawn[0]: choice.classes[0][1] if choice.classes else 1}
    listed = ", ".join(names[number] for number in drawn[:LISTED]) or "none"
    wanted = ", ".join(name for name, _ in choice.classes) or "nothing"
    raise UserError(
        f"{path} should have regions named as the classes ({wanted}), but has {listed}; name those that count in "
        "data.classes, background first."
    )


def _by_slice(contours: Sequence[Any], name: str, image: Volume, path: Any) -> dict[int, list[np.ndarray]]:
    """Returns the contours of one region, `(row, column)` in pixels, by the slice that they lie on."""
    to_voxels = np.linalg.inv(image.affine) @ geometry.LPS_TO_RAS
    result: dict[int, list[np.ndarray]] = {}
    for contour in contours:
        kind = str(contour.get("ContourGeometricType", "")).upper()
        if kind == "POINT":
            continue
        if not kind.startswith("CLOSED_PLANAR"):
            raise UserError(
                f"{path} should hold closed contours, but the region {name} has one that is {kind or 'of no type'}; "
                "close it, or leave that region out of data.classes."
            )
        try:
            points = np.asarray(contour.get("ContourData"), np.float64).reshape(-1, 3)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{path} has a contour of {name} without x, y and z of each point; export it again."
            ) from error
        voxels = (to_voxels @ np.column_stack([points, np.ones(len(points))]).T)[:3].T
        place = round(float(voxels[:, 0].mean()))
        off = float(np.abs(voxels[:, 0] - place).max())
        if off > OFF or not 0 <= place < image.data.shape[0]:
            raise UserError(
                f"{path} should have its contours on the slices of {image.path}, but one of {name} lies "
                f"{_where(voxels[:, 0], image)}; is the image complete, and the one that was drawn on?"
            )
        result.setdefault(place, []).append(voxels[:, 1:])
    return result


def _where(heights: np.ndarray, image: Volume) -> str:
    """Says in mm how far a contour lies from the slices."""
    last, step = image.data.shape[0] - 1, image.spacing[0]
    beyond = max(-float(heights.min()), float(heights.max()) - last)
    if beyond > OFF:
        return f"{beyond * step:.4g} mm outside of them"
    return f"up to {float(np.abs(heights - np.rint(heights)).max()) * step:.4g} mm off the nearest"
