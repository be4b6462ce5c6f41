"""Pixels of DICOM files: decompressed, in the units of the scan (rescale slope and intercept), dark to bright."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Num

from jaxseg.data.dicom.headers import Slice, group_value, open_file, opened, quiet, shown
from jaxseg.data.volume import reason
from jaxseg.typing import UserError

if TYPE_CHECKING:
    from pydicom import Dataset


def read(slices: Sequence[Slice], archive: str = "") -> Num[np.ndarray, "N y x C"]:
    """Returns the values of slices in their order; a file that holds several of them is decoded once.

    Whole numbers stay integers (int16 where they fit), others are float32. Grey values have one channel, colours three.

    Args:
      slices: of one shape.
      archive: the zip file that their sources lie in, or "".

    Raises:
      UserError: a file cannot be decoded, or its pixels are of another shape than its header says.
    """
    wanted: dict[str, list[int]] = {}
    for place, one in enumerate(slices):
        wanted.setdefault(one.source, []).append(place)
    found: dict[int, np.ndarray] = {}
    with opened(archive) as within:
        for source, places in wanted.items():
            dataset = open_file(source, within)
            frames = decoded(dataset, path=shown(source, archive))
            for place in places:
                found[place] = rescaled(frames[slices[place].frame], dataset, slices[place].frame)
    kind = np.result_type(*(array.dtype for array in found.values()))
    if kind.kind == "f":
        kind = np.dtype(np.float32)
    result = np.empty((len(slices), *found[0].shape), kind)
    for place, array in found.items():
        if array.shape != result.shape[1:]:
            raise UserError(
                f"{shown(slices[place].source, archive)} should have pixels of the shape {result.shape[1:]} as the "
                f"rest of its series, but has {array.shape}; leave it out."
            )
        result[place] = array
    return result


def decoded(dataset: "Dataset", *, path: Any, palette: bool = True) -> Num[np.ndarray, "N y x C"]:
    """Returns the frames of a file as stored: decompressed, colours as RGB.

    With `palette` False, numbers that stand for colours of a table stay numbers.

    Raises:
      UserError: the file is damaged, or compressed in a way that nothing here can undo.
    """
    from pydicom.pixels import apply_color_lut

    quiet()
    try:
        array = dataset.pixel_array
        if palette and dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
            array = apply_color_lut(array, dataset)
    except Exception as error:  # decoders raise many kinds
        raise UserError(
            f"{path} should hold pixels that can be decoded, but they cannot: {reason(error)}; "
            "copy the file again, or export it uncompressed."
        ) from error
    count, colours = max(1, int(dataset.get("NumberOfFrames") or 1)), array.shape[-1] in (3, 4) and array.ndim > 2
    colours = colours and array.shape[:-1][-2:] == (dataset.Rows, dataset.Columns)
    shape = (count, int(dataset.Rows), int(dataset.Columns))
    try:
        return array.reshape(*shape, array.shape[-1] if colours else 1)
    except ValueError as error:
        raise UserError(
            f"{path} should hold pixels of the shape {shape} (frames, rows, columns) as its header says, but holds "
            f"{array.shape}; export it again."
        ) from error


def rescaled(array: Num[np.ndarray, "y x C"], dataset: "Dataset", frame: int) -> Num[np.ndarray, "y x C"]:
    """Returns values in the units of the scan, such as Hounsfield units: slope and intercept applied, or the table.

    Where small values are meant to be bright (MONOCHROME1), they are turned round first.
    """
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1" and array.dtype.kind in "iu":
        bits, signed = int(dataset.get("BitsStored", 16)), int(dataset.get("PixelRepresentation", 0))
        total = -1 if signed else 2**bits - 1  # smallest plus largest value
        array = (total - array.astype(np.int64)).astype(array.dtype)
    if dataset.get("ModalityLUTSequence"):
        from pydicom.pixels import apply_modality_lut

        return apply_modality_lut(array, dataset)
    group = "PixelValueTransformationSequence"
    slope, intercept = (group_value(dataset, frame, group, name) for name in ("RescaleSlope", "RescaleIntercept"))
    slope, intercept = float(1 if slope is None else slope), float(0 if intercept is None else intercept)
    if (slope, intercept) == (1.0, 0.0):
        return array
    if array.dtype.kind in "iu" and slope.is_integer() and intercept.is_integer():
        whole = array.astype(np.int64) * int(slope) + int(intercept)
        small = np.iinfo(np.int16)
        fits = whole.size == 0 or (whole.min() >= small.min and whole.max() <= small.max)
        return whole.astype(np.int16 if fits else np.int32)
    return (array.astype(np.float64) * slope + intercept).astype(np.float32)
