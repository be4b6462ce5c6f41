"""Objects as one mask file each (2018 Data Science Bowl), or as one label image a case that numbers its objects."""

import functools
import glob
import hashlib
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int16, Integer

from jaxseg.data import readers
from jaxseg.data.datasets import layouts, objects
from jaxseg.data.datasets.inputs import image_files
from jaxseg.data.datasets.objects import CLASS, STEM, find_files
from jaxseg.typing import IGNORE, Case, DataSet, Objects, Sample, UserError

BORDER_CLASSES = ("background", "inside", "border")


class Rule(NamedTuple):
    """How the masks of a case are found and read; plain values, so that it can go to another process.

    Attributes:
      root: the data set's folder.
      labels: pattern of the masks.
      channels: how many channels each image gets.
      border_width: None for an object map, else the width of the border in a class map.
      classes: names, background first; those of the objects stand for {class} in `labels`.
      threshold: None, or: values above it are inside, and every file is one object.
    """

    root: str
    labels: str
    channels: int
    border_width: int | None
    classes: tuple[str, ...] = ("background", "object")
    threshold: float | None = None


def load(
    *,
    root: Any,
    images: str = "{stem}/images/*",
    labels: str = "{stem}/masks/*",
    label_threshold: float | None = None,
    classes: Sequence[str] = ("background", "object"),
    channels: Sequence[str] | None = None,
    roi: str | None = None,
    subjects: str | None = None,
    target: str = "objects",
    border_width: int = 1,
) -> DataSet:
    """Lists images with the masks of their objects, in the arrangement of the 2018 Data Science Bowl unless told else.

    An object is what one mask file marks with values above 0, even in several pieces; objects may overlap. Where a
    single file matches and holds several values above 0, each value is an object (a label image). An empty folder of
    masks is a case without objects, and so is a label image of zeros where `labels` has no `*`.

    Args:
      root: the folder that the patterns are relative to.
      images: pattern of the images, exactly one a case; {stem} is the case's name, `*` any text.
      labels: pattern of the masks, such as "masks/{stem}/*", or "labels/{stem}.png" for label images. {class} in it is
        the name of a mask's class, as in "{stem}/{class}/*".
      label_threshold: values above it are inside, for masks with blurred edges; every file is one object then.
      classes: names of background and object, or of several kinds of objects where `labels` has {class}; "border" has
        its own.
      channels: names; None: "red, green, blue" if one of the first 20 images is in colour, else "grey". Grey images are
        repeated to three channels, and colours become luminance where the data set is grey.
      roi: pattern with {stem} of masks outside which nothing is trained or scored.
      subjects: a table with the columns case and subject; None takes root/subjects.csv where there is one.
      target: "objects", or "border": a class map for a semantic network, see `border_map`.
      border_width: pixels of the border.

    Raises:
      UserError: an option does not fit, nothing matches, or a case has no image, several, or no place for masks.
    """
    root = layouts.folder(root, layout="instance_masks")
    _check_options(images, labels, classes, target, border_width)
    kinds = tuple(classes)
    cases = _cases(root, images, labels, kinds)
    names = objects.choose_channels(channels, cases)
    width = border_width if target == "border" else None
    rule = Rule(str(root), labels, len(names), width, kinds, label_threshold)
    return objects.make(
        layouts.find_subjects(objects.find_regions(cases, root, roi), root, subjects),
        channels=names,
        classes=BORDER_CLASSES if target == "border" else classes,
        load=functools.partial(load_case, rule=rule),
        digest=functools.partial(digest_case, rule=rule),
    )


def load_case(case: Case, *, rule: Rule) -> Sample:
    """Reads an image and the masks of its objects.

    Raises:
      UserError: the image cannot be used, or a mask cannot be read, is empty or of another shape (up to ten are named).
    """
    image = objects.read_image(case, channels=rule.channels)
    masks: list[objects.Mask] = []
    classes: list[int] = []
    problems: list[str] = []
    for number, files in _by_class(pathlib.Path(rule.root), rule.labels, rule.classes, case.name):
        for file in files:
            found, wrong = _read_masks(file, image.data.shape[:2], rule=rule, alone=len(files) == 1)
            masks += found
            classes += [number] * len(found)
            problems += wrong
    objects.refuse(problems, what=f"The masks of {image.path} cannot be used")
    sample = objects.to_sample(image, masks, classes=classes, path=case.label or "")
    if rule.border_width is not None and sample.label is not None and sample.objects is not None:
        values = border_map(sample.label.data, sample.objects, width=rule.border_width)
        sample = Sample(image, sample.label._replace(data=values))
    return objects.keep_region(sample, case.roi)


def load_label_image(case: Case, *, channels: int) -> Sample:
    """Reads an image and its label image, in which each value above 0 is an object, all of one kind.

    Raises:
      UserError: the image cannot be used, or the label image cannot be read or is of another shape.
    """
    image = objects.read_image(case, channels=channels)
    values = readers.read_label(str(case.label)).data
    if values.shape != image.data.shape[:2]:
        raise UserError(
            f"{case.label} should have the shape {image.data.shape[:2]} of {image.path}, but has {values.shape}; "
            "export it again."
        )
    masks = _split(values) if values.max() > 0 else []
    return objects.to_sample(image, masks, classes=[1] * len(masks), path=str(case.label))


def digest_case(case: Case, *, rule: Rule) -> str:
    """Returns the sha256 of the bytes of a case's image and masks and of what changes how they are read.

    Raises:
      UserError: a file cannot be read.
    """
    found = _by_class(pathlib.Path(rule.root), rule.labels, rule.classes, case.name)
    files = [str(file) for _, masks in found for file in masks]
    plain = layouts.LabelRule((0, 1), ("background", "object"), rule.channels)
    content = layouts.digest_case(Case(case.name, (*case.images, *files), roi=case.roi), rule=plain)
    counts = [(number, len(masks)) for number, masks in found]
    options = (content, counts, rule.channels, rule.border_width, rule.threshold, "*" in rule.labels)
    return hashlib.sha256(repr(options).encode()).hexdigest()


def border_map(values: Integer[np.ndarray, "H W"], objects: Objects, *, width: int) -> Int16[np.ndarray, "H W"]:
    """Returns 0 outside all objects, 1 inside and 2 on the border of one, so that touching objects are parted.

    The border of an object is what an erosion by `width` with the 3x3 square takes from it; outside the image counts
    as background. A pixel on the border of one object and inside another is border, and so is background of one or two
    pixels between one object and another, along a row, a column or a diagonal. IGNORE stays.

    Args:
      values: object map of `instances.object_map`.
      objects: what its values mean.
      width: pixels.
    """
    from scipy import ndimage

    result = np.zeros(values.shape, np.int16)
    boxes = ndimage.find_objects(np.maximum(values, 0))
    rows_of: list[list[int]] = [[] for _ in objects.classes]
    for row in range(1, len(boxes) + 1):
        if boxes[row - 1] is not None:
            for number in objects.members[row][objects.members[row] > 0]:
                rows_of[number - 1].append(row)
    for rows in filter(None, rows_of):
        (top, bottom), (left, right) = (
            (min(boxes[row - 1][axis].start for row in rows), max(boxes[row - 1][axis].stop for row in rows))
            for axis in (0, 1)
        )
        mask = np.isin(values[top:bottom, left:right], rows)
        core = ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=width)
        part = result[top:bottom, left:right]
        np.maximum(part, np.where(core, np.int16(1), np.int16(2)), out=part, where=mask)
    result[_gaps(values)] = 2
    return np.where(values == IGNORE, np.int16(IGNORE), result)


def _gaps(values: Integer[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Returns the background of one or two pixels between different objects."""
    height, width = values.shape
    padded = np.pad(np.maximum(values, 0), 2)
    result = np.zeros(values.shape, bool)
    for y, x in ((0, 1), (1, 0), (1, 1), (1, -1)):
        # What lies two pixels before, one before, one after and two after.
        far, near, next_, last = (
            padded[2 + n * y : 2 + n * y + height, 2 + n * x : 2 + n * x + width] for n in (-2, -1, 1, 2)
        )
        before, after = np.where(near > 0, near, far), np.where(next_ > 0, next_, last)
        narrow = (near > 0) | (next_ > 0)
        result |= narrow & (before > 0) & (after > 0) & (before != after)
    return result & (values == 0)


def _check_options(images: str, labels: str, classes: Sequence[str], target: str, border_width: int) -> None:
    for role, place in (("images", images), ("labels", labels)):
        if STEM not in place:
            raise UserError(
                f"data.{role} should be a pattern with {STEM} for the name of the case, but is {place!r}; "
                f"write for example {STEM}/{role}/*."
            )
    if isinstance(classes, str) or len(classes) < 2 or len(set(classes)) < len(classes):
        raise UserError(f"data.classes should name the background and then kinds of objects, but is {classes!r}.")
    if target not in ("objects", "border"):
        raise UserError(f"data.target should be objects or border, but is {target!r}.")
    if len(classes) > 2 and target == "border":
        raise UserError(f"data.target=border is for one kind of object, but data.classes is {classes!r}; name one.")
    if len(classes) > 2 and CLASS not in labels:
        raise UserError(
            f"data.labels should have {CLASS} where data.classes names several kinds of objects, but is {labels!r}; "
            f"write for example {STEM}/{CLASS}/*, or name one kind."
        )
    if isinstance(border_width, bool) or not isinstance(border_width, int) or border_width < 1:
        raise UserError(f"data.border_width should be a whole number of pixels from 1 on, but is {border_width!r}.")


def _by_class(
    root: pathlib.Path, labels: str, classes: Sequence[str], stem: str
) -> list[tuple[int, list[pathlib.Path]]]:
    """Returns the class ids with the mask files of each for one case."""
    names = classes[1:] if CLASS in labels else classes[1:2]
    return [(number, find_files(root, labels, stem, name)) for number, name in enumerate(names, start=1)]


def _read_masks(
    file: pathlib.Path, shape: tuple[int, int], *, rule: Rule, alone: bool
) -> tuple[list[objects.Mask], list[str]]:
    """Returns the masks of one file, several where it is a label image, and what is wrong with it."""
    try:
        values = readers.read_label(file).data
    except UserError as error:
        return [], [str(error).rstrip(".")]
    if values.shape != shape:
        return [], [f"{file} has the shape {values.shape} and its image {shape}, export it again"]
    if rule.threshold is not None:
        values = (values > rule.threshold).astype(np.uint8)
    if values.max() <= 0:
        above = "" if rule.threshold is None else f" above data.label_threshold ({rule.threshold:g})"
        return [], [f"{file} marks no pixel{above}, delete it"] if "*" in rule.labels else []
    return (_split(values) if alone else [objects.cut(values)]), []


def _stems(root: pathlib.Path, place: str) -> list[str]:
    """Returns the names of the cases: of folders where a folder of the pattern holds {stem}, else of files."""
    parts = pathlib.PurePosixPath(place).parts
    depth = next(number for number, part in enumerate(parts, start=1) if STEM in part)
    head = str(pathlib.PurePosixPath(*parts[:depth]))
    pieces = [re.escape(text).replace(r"\*", "[^/]*") for text in head.split(STEM)]
    expression = re.compile(pieces[0] + "([^/]+)" + pieces[1] + "".join(r"\1" + piece for piece in pieces[2:]))
    found = set()
    for name in glob.glob("*".join(glob.escape(text) for text in head.replace(STEM, "*").split("*")), root_dir=root):
        match = expression.fullmatch(pathlib.PurePath(name).as_posix())
        fits = (root / name).is_dir() if depth < len(parts) else bool(readers.suffix(name))
        if match and fits and not match[1].startswith("."):
            found.add(match[1])
    return sorted(found)


def _cases(root: pathlib.Path, images: str, labels: str, classes: Sequence[str]) -> list[Case]:
    """Pairs each image with the place of its masks; all that is missing is reported together."""
    cases, problems, owner, pictures = [], [], dict[pathlib.Path, str](), set[pathlib.Path]()
    stems = _stems(root, images)
    for stem in stems:
        found, masks = find_files(root, images, stem), _by_class(root, labels, classes, stem)
        if len(found) != 1:
            several = f"{len(found)} ({', '.join(file.name for file in found[:3])}), keep one" if found else "none"
            problems.append(f"{stem} should have one image at {images.replace(STEM, stem)}, but has {several}")
        pictures |= set(found)
        for number, files in masks:
            mine = f"{stem} ({classes[number]})" if CLASS in labels else stem
            problems += [f"{file} belongs to both {owner[file]} and {mine}" for file in files if file in owner]
            problems += [f"{file} is both image and mask of {stem}" for file in files if file in found]
            owner |= dict.fromkeys(files, mine)
        place, missing = _place_of_classes(root, labels, classes, stem, [files for _, files in masks])
        problems += missing
        cases += [Case(stem, tuple(map(str, found[:1])), str(place))]
    for stem in stems if CLASS in labels else ():
        others = set(find_files(root, labels.replace(CLASS, "*"), stem)) - set(owner) - pictures
        problems += [f"{file} is of none of the classes {', '.join(classes[1:])}" for file in sorted(others)]
        owner |= dict.fromkeys(others, stem)
    every = find_files(root, labels.replace(STEM, "*").replace(CLASS, "*"), "")
    problems += [f"{file} has no image" for file in every if file not in owner and file not in pictures]
    layouts.refuse(problems, what=f"Images and masks in {root} do not match")
    if not cases:
        there = ", ".join(sorted(entry.name for entry in root.iterdir())[:10])
        raise UserError(
            f"data.images ({root / images}) matches no case; {root} holds {there}; correct data.root or the pattern."
        )
    return cases


def _place_of_classes(
    root: pathlib.Path, labels: str, classes: Sequence[str], stem: str, masks: Sequence[Sequence[pathlib.Path]]
) -> tuple[pathlib.Path, list[str]]:
    """Returns the first place of masks in order, or what is wrong where no class has one."""
    names = classes[1 : 1 + len(masks)]
    places = [_place(root, labels.replace(CLASS, name), stem, f) for name, f in zip(names, masks, strict=True)]
    if len(places) == 1:
        return places[0]
    sound = [place for place, missing in places if not missing]
    if sound:
        return sound[0], []
    return places[0][0], [f"{stem} has no masks at {labels.replace(STEM, stem)} for any of {', '.join(names)}"]


def _place(root: pathlib.Path, labels: str, stem: str, masks: Sequence[pathlib.Path]) -> tuple[pathlib.Path, list[str]]:
    """Returns the label image or the folder of the masks, and what is wrong with it.

    That no file matches is right only in a folder of the case's own that holds no other images.
    """
    if "*" not in labels:
        file = root / labels.replace(STEM, stem)
        return file, [] if masks else [f"{stem} has no label image {file}"]
    head = pathlib.PurePosixPath(labels.split("*")[0] + "*").parent  # what stands before the first part with a star
    folder = root / str(head).replace(STEM, stem)
    if not folder.is_dir():
        return folder, [f"{stem} has no folder of masks {folder}, make an empty one where there are no objects"]
    if not masks and (STEM not in str(head) or image_files(folder)):
        return folder, [f"{stem} has no mask that matches {labels.replace(STEM, stem)}"]
    return folder, []


def _split(values: Integer[np.ndarray, "H W"]) -> list[objects.Mask]:
    """Returns one mask for each value above 0."""
    from scipy import ndimage

    _, numbers = np.unique(np.maximum(values, 0), return_inverse=True)
    numbers = numbers.reshape(values.shape) + (0 if values.min() <= 0 else 1)
    boxes = ndimage.find_objects(numbers)
    return [
        ((int(box[0].start), int(box[1].start)), numbers[box] == number)
        for number, box in enumerate(boxes, start=1)
        if box is not None
    ]
