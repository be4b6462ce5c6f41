"""What the layouts of objects share: 2D images brought to one number of channels, masks to an object map, regions."""

import glob
import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Num, Shaped

from jaxseg.data import instances, readers, volume
from jaxseg.data.datasets import layouts
from jaxseg.data.datasets.inputs import check_names, read_case
from jaxseg.typing import IGNORE, Case, DataSet, Sample, UserError, Volume

STEM, CLASS = "{stem}", "{class}"
LOOKED_AT = 20  # images whose headers tell whether a data set is in colour
COLOURS = ("RGB", "RGBA", "CMYK", "YCbCr")  # Pillow's modes
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601: what each of red, green and blue adds to grey
Mask = tuple[tuple[int, int], np.ndarray]  # ((top, left), bool (h, w) of the object's own box)


def make(
    cases: Iterable[Case],
    *,
    channels: Sequence[str],
    classes: Sequence[str],
    load: Callable[[Case], Sample],
    digest: Callable[[Case], str],
) -> DataSet:
    """Returns the `DataSet` of cases whose classes are 0, 1, 2, ... and exclude each other.

    Raises:
      UserError: case names are used twice.
    """
    return DataSet(
        cases=check_names(tuple(cases)),
        channels=tuple(channels),
        classes=tuple(classes),
        label_values=tuple(range(len(classes))),
        flip_pairs=(),
        regions=None,
        load=load,
        digest=digest,
    )


def refuse(problems: Sequence[str], *, what: str) -> None:
    """Raises one UserError that lists up to ten problems, each with its fix; nothing where there are none."""
    if problems:
        more = f" ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise UserError(f"{what}: {'; '.join(problems[:10])}{more}.")


def find_files(root: pathlib.Path, place: str, stem: str, kind: str = "") -> list[pathlib.Path]:
    """Returns the files of a known format that a pattern matches for one case (and class), by name."""
    pieces = (glob.escape(text.replace(STEM, stem).replace(CLASS, kind)) for text in place.split("*"))
    names = sorted(glob.glob("*".join(pieces), root_dir=root))
    return [root / name for name in names if readers.suffix(name) and (root / name).is_file()]


def find_regions(cases: Sequence[Case], root: pathlib.Path, roi: str | None) -> list[Case]:
    """Returns the cases with the mask that a pattern with {stem} names for each; None: as they are.

    Raises:
      UserError: the pattern has no {stem}, or does not match exactly one file a case.
    """
    if roi is None:
        return list(cases)
    if STEM not in roi:
        raise UserError(f"data.roi should be a pattern with {STEM} for the name of the case, but is {roi!r}.")
    found = [find_files(root, roi, case.name) for case in cases]
    problems = [
        f"{case.name} should have one mask at {root / roi.replace(STEM, case.name)}, but has {len(files)}"
        for case, files in zip(cases, found, strict=True)
        if len(files) != 1
    ]
    layouts.refuse(problems, what=f"Images and regions of interest in {root} do not match")
    return [case._replace(roi=str(files[0])) for case, files in zip(cases, found, strict=True)]


def choose_channels(channels: Sequence[str] | None, cases: Sequence[Case]) -> tuple[str, ...]:
    """Returns the names as given, else those that fit the first image, or colours if one of the first 20 has them.

    Raises:
      UserError: the first image cannot be read.
    """
    if channels:
        return tuple(channels)
    count = readers.read(cases[0].images[0]).data.shape[-1]
    if count == 1 and any(_in_colour(case.images[0]) for case in cases[1:LOOKED_AT]):
        count = 3
    return layouts.channel_names(count)


def _in_colour(path: str) -> bool:
    """Tells whether an image is in colour, by its header alone where there is no palette."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            mode = picture.mode
        return mode in COLOURS or (mode in ("P", "PA") and readers.read(path).data.shape[-1] == 3)
    except (UserError, OSError, SyntaxError, Image.DecompressionBombError):
        return False  # a damaged file, which is named when it is loaded, or none of Pillow's formats


def read_image(case: Case, *, channels: int) -> Volume:
    """Reads a 2D image `(y, x, C)`; grey is repeated to three channels, colour becomes grey, as the data set has it.

    Raises:
      UserError: as `read_case`; also for a stack, or a number of channels that cannot be converted.
    """
    image = read_case(case)
    if image.data.ndim != 3:
        raise UserError(
            f"{image.path} should be a 2D image, but has the shape {image.data.shape}; save its slices as single files."
        )
    found = image.data.shape[-1]
    if found == channels:
        return image
    if (found, channels) == (1, 3):
        return image._replace(data=np.repeat(image.data, 3, axis=-1))
    if (found, channels) == (3, 1):
        return image._replace(data=to_grey(image.data))
    raise UserError(
        f"{image.path} should have {channels} channel(s) as the data set says, but has {found}; convert it, or correct "
        "the channel names."
    )


def to_grey(colours: Num[np.ndarray, "H W 3"]) -> Num[np.ndarray, "H W 1"]:
    """Returns the luminance in the type of the image, integers rounded."""
    grey = (colours @ np.array(LUMINANCE))[..., None]
    return (np.rint(grey) if colours.dtype.kind in "iu" else grey).astype(colours.dtype)


def cut(mask: Shaped[np.ndarray, "H W"]) -> Mask:
    """Returns the part of a mask that is set (above 0), with its place; the mask may not be empty."""
    inside = mask > 0
    rows = np.flatnonzero(inside.any(axis=1))
    inside = inside[rows[0] : rows[-1] + 1]
    columns = np.flatnonzero(inside.any(axis=0))
    return (int(rows[0]), int(columns[0])), inside[:, columns[0] : columns[-1] + 1].copy()


def to_sample(
    image: Volume, masks: Sequence[Mask], *, classes: Sequence[int], path: str, crowd: Sequence[bool] | None = None
) -> Sample:
    """Returns the image with the object map of its masks.

    Args:
      image: `(y, x, C)`.
      masks: as `instances.object_map` takes them.
      classes: class id of each.
      path: where the masks came from, for messages.
      crowd: which are crowd regions; None: none.
    """
    height, width = image.data.shape[:2]
    values, objects = instances.object_map(masks, shape=(height, width), classes=classes, crowd=crowd, where=image.path)
    return Sample(image, image._replace(data=values, header=None, path=path), objects)


def keep_region(sample: Sample, roi: str | None) -> Sample:
    """Returns the sample with IGNORE outside the mask of a file; None: as it is.

    Raises:
      UserError: the mask cannot be read, is empty or of another shape.
    """
    if roi is None or sample.label is None:
        return sample
    mask = readers.read_label(roi)
    volume.check_same_grid(sample.image, mask)
    kept = np.where(layouts.inside(mask), sample.label.data, np.int16(IGNORE))
    return sample._replace(label=sample.label._replace(data=kept))
