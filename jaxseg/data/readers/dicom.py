"""DICOM: series of slices as volumes, SEG and RTSTRUCT as label maps, through pydicom."""

import os
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxseg.data import volume
from jaxseg.data.dicom import contours, find, geometry, headers, pixels, segmentation
from jaxseg.data.dicom.find import Stack
from jaxseg.data.dicom.headers import Slice
from jaxseg.data.dicom.labels import Choice
from jaxseg.typing import UserError, Volume

BY_NUMBER = Choice()


def split_path(path: str | os.PathLike) -> tuple[pathlib.Path, str]:
    """Parts FOLDER#KEY into folder and key; a path that exists as it is has no key."""
    path = pathlib.Path(path)
    if path.exists() or find.MARK not in path.name:
        return path, ""
    name, _, key = path.name.rpartition(find.MARK)
    return path.with_name(name) if name else path.parent, key


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether a path names DICOM: a file with or without a suffix, a folder or zip archive with some, or FOLDER#KEY."""
    place, _ = split_path(path)
    return place.exists() and find.holds_dicom(place)


def stack_of(path: str | os.PathLike) -> Stack:
    """Returns the stack that a path names; nothing but headers is read.

    Raises:
      UserError: there is none, or there are several and the path does not say which.
    """
    place, key = split_path(path)
    return find.pick(find.find(place), key, place=place)


def files(path: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the files on disk that the content of a path depends on, by name."""
    place, _ = split_path(path)
    if place.is_file():
        return [place]
    return [pathlib.Path(source) for source in sorted({one.source for one in stack_of(path).slices})]


def read(path: Any) -> Volume:
    """Reads a series as `(z, y, x, C)`: rescaled to its units, slices sorted by their positions.

    The first axis runs along the normal of the slices, the second down a column, the third along a row. The header is a
    `Series`. One file of a series is read alone, as a volume of one slice; a multi-frame file has all of its own.

    Args:
      path: a folder, a zip archive or a file with one series; or FOLDER#KEY, where KEY is a stack's key
        ("s3-1a2b3c4d"), SeriesNumber or SeriesInstanceUID.

    Raises:
      UserError: there is no series or several, slices are missing or differ, or a file is damaged.
    """
    stack = stack_of(path)
    planes = geometry.planes(stack.slices, path=path)
    slices = [_single(group, stack.archive, path) for group in planes]
    affine = geometry.affine(slices, path=path)
    data = volume.as_image(pixels.read(slices, stack.archive), path=path)
    return volume.make(data, affine, header=find.series_of(stack, slices), path=path)


def _single(group: Sequence[Slice], archive: str, path: Any) -> Slice:
    """Returns the one slice of a position; copies of it are let go.

    Raises:
      UserError: their pixels differ.
    """
    if len(group) == 1:
        return group[0]
    first, *others = pixels.read(group, archive)
    different = sum(not np.array_equal(first, other) for other in others)
    if different:
        raise UserError(
            f"{path} should have one slice at each position, but {headers.shown(group[0].source)} and {different} "
            "other(s) lie at the same one and differ; split the series into one folder a volume."
        )
    return group[0]


def read_label(path: Any, *, like: Volume | None = None, choice: Choice = BY_NUMBER) -> Volume:
    """Reads a segmentation (SEG) or a structure set (RTSTRUCT) on the grid of its image, or a series as a label map.

    Args:
      path: of the file; or as in `read`.
      like: the image; SEG and RTSTRUCT need it.
      choice: name and value of each class. Where segments or regions bear such names (upper or lower case), these alone
        are read, each with its class's value. Without any, a segment's value is its number, and that of the only region
        of a structure set is 1.

    Raises:
      UserError: the file does not fit the image or the classes, classes overlap, or the file is damaged.
    """
    place, key = split_path(path)
    found = find.find(place)
    objects = [one.source for one in found.skipped if one.refers is not None]
    if key or found.stacks or len(objects) != 1:
        return _series_as_label(path)
    dataset = headers.open_file(objects[0], str(place) if zipfile.is_zipfile(place) else "")
    kind = str(dataset.get("SOPClassUID", ""))
    reads = {**dict.fromkeys(headers.SEGMENTATIONS, segmentation.read), headers.STRUCTURES: contours.read}
    if kind not in reads:
        raise UserError(f"{path} should be a segmentation or a structure set, but is neither; name another file.")
    if like is None:
        raise UserError(f"{path} can only be read together with its image; give the image as well.")
    data = reads[kind](dataset, like, path=path, choice=choice)
    return volume.make(data, like.affine, header=like.header, path=path)


def _series_as_label(path: Any) -> Volume:
    image = read(path)
    if image.data.shape[-1] != 1:
        raise UserError(
            f"{path} should be one label map, but has {image.data.shape[-1]} channels; store the class number of each "
            "voxel."
        )
    return image._replace(data=volume.as_label(image.data[..., 0], path=path))
