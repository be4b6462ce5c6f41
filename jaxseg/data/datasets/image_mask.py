"""Images, with masks or alone, in folders or by patterns with {stem}: 2D pictures, stacks, volumes of known formats."""

import glob
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from jaxseg.data import readers
from jaxseg.data.datasets import dicom_cases, layouts
from jaxseg.data.datasets.inputs import image_files
from jaxseg.typing import Case, DataSet, UserError

STEM = "{stem}"
BETWEEN = ";"  # the folders or patterns of several channels
OF_LABELS = ("roi", "label_values", "label_threshold", "classes", "ignore_value", "overlap")  # how to read labels


def load(
    *,
    root: Any,
    images: str,
    labels: str | None = None,
    roi: str | None = None,
    label_values: Sequence[int] | None = None,
    label_threshold: float | None = None,
    classes: Sequence[str] | None = None,
    channels: Sequence[str] | None = None,
    subjects: str | None = None,
    flip_pairs: Sequence[Sequence[str]] | None = None,
    ignore_value: int | None = None,
    affine_tolerance_mm: float = 0.1,
    overlap: str | None = None,
) -> DataSet:
    """Lists images with the mask of the same stem, or images alone.

    A folder ("images") pairs by file name without suffix. A pattern such as "training/images/{stem}_training.tif" says
    which part of a name is the stem, which is also the case's name; `*` stands for any text.

    Args:
      root: the folder that the others are relative to.
      images: folder or pattern; or several with ";" between, one file a channel in the order of `channels`, such as
        "{stem}/T1.nii.gz;{stem}/T2.nii.gz".
      labels: folder or pattern of the masks; None: there are none, and the data set has no class but the background.
      roi: folder or pattern of masks outside which nothing is trained or scored.
      label_values: the mask's value for each class, background first, such as (0, 255).
      label_threshold: instead: values above it are class 1; predictions then carry `label_values` or (0, 255).
      classes: names, background first; missing ones become "background", "class_1", ...
      channels: names; None: "grey", "red, green, blue" or "channel_0", ... by the first image (not with several
        patterns).
      subjects: a table with the columns case and subject; None takes root/subjects.csv where there is one.
      flip_pairs: pairs of class names that a left-right flip exchanges; None finds them by "left" and "right".
      ignore_value: mask value of pixels that may not count.
      affine_tolerance_mm: how far image and label grids may lie apart.
      overlap: where regions of a DICOM label overlap: "refuse" (also None) or "later", the class that comes later.

    Raises:
      UserError: nothing matches, an image has no mask or lacks a channel, one stem fits several files, or the label
        options or channel names do not fit.
    """
    root = layouts.folder(root, layout="image_mask")
    given = dict(zip(OF_LABELS, (roi, label_values, label_threshold, classes, ignore_value, overlap), strict=True))
    if labels is None:
        _refuse_options([name for name, value in given.items() if value is not None])
    cases = _pair(root, _by_channel(images, channels), labels, roi)
    count = readers.read(cases[0].images[0]).data.shape[-1]
    channels = tuple(channels) if channels else layouts.channel_names(count)
    if labels is None:
        rule = layouts.unlabelled(len(channels))
    else:
        values = layouts.choose_values(
            label_values,
            label_threshold,
            classes,
            layout="image_mask",
            first=lambda: readers.read_label(cases[0].label, like=readers.read(cases[0].images[0])),
        )
        names = layouts.class_names(classes, len(values))
        later = layouts.later_wins(overlap)
        rule = layouts.LabelRule(
            values, names, len(channels), ignore_value, label_threshold, affine_tolerance_mm, later
        )
    return layouts.make(
        layouts.find_subjects(_numbered(cases), root, subjects), channels=channels, rule=rule, flip_pairs=flip_pairs
    )


def _refuse_options(names: Sequence[str]) -> None:
    """Refuses options of labels where there are none: more likely their place was forgotten."""
    if names:
        raise UserError(
            f"data.labels is not set, but {', '.join(f'data.{name}' for name in names)} would say how to read labels; "
            "set data.labels to the folder or pattern of the masks, or leave these unset where images are alone."
        )


def _by_channel(images: str, channels: Sequence[str] | None) -> dict[str, str]:
    """Returns the folders or patterns by what messages call them: the only one "images", several by their channel."""
    places = [place.strip() for place in images.split(BETWEEN)]
    if len(places) == 1:
        return {"images": images}
    names = tuple(channels or ())
    if not all(places) or len(names) != len(places) or len(set(names)) != len(names):
        raise UserError(
            f"data.images gives {len(places)} folders or patterns with {BETWEEN!r} between, one a channel, which need "
            f"as many names in data.channels, such as ('T1', 'T2'), but that is {names or 'not set'}; name each "
            "channel once, or correct data.images."
        )
    return {f"{place}, the channel {name}": place for name, place in zip(names, places, strict=True)}


def _list(root: pathlib.Path, place: str, *, role: str) -> dict[str, list[pathlib.Path]]:
    """Returns the files of a folder or pattern by stem."""
    if STEM in place or "*" in place:
        pieces = (glob.escape(text).replace("[*]", "*") for text in place.split(STEM))
        matches = [(root / f, _stem_of(f, place)) for f in glob.glob("*".join(pieces), root_dir=root, recursive=True)]
        files = [(file, stem) for file, stem in sorted(matches) if stem and readers.kind(file)]
    elif (root / place).is_dir():
        files = [(file, readers.stem(file)) for file in image_files(root / place)]
        found = dicom_cases.images(root / place).cases
        found += () if role == "images" else dicom_cases.labels(root / place)
        files += [(pathlib.Path(case.images[0]), case.name) for case in found]
    else:
        raise UserError(
            f"data.{role} should be a folder in {root} or a pattern with {STEM}, but {root / place} is no folder; "
            f"there are {', '.join(sorted(f.name for f in root.iterdir())[:10])}."
        )
    if not files:
        raise UserError(
            f"data.{role} ({root / place}) matches no image file; known suffixes: {', '.join(readers.TABLE)}."
        )
    by_stem: dict[str, list[pathlib.Path]] = {}
    for file, stem in files:
        by_stem.setdefault(stem, []).append(file)
    return by_stem


def _stem_of(file: str, pattern: str) -> str | None:
    """Returns the text of `file` at {stem}; every {stem} of the pattern must hold the same one."""
    file = pathlib.PurePath(file).as_posix()
    if STEM not in pattern:
        return readers.stem(file)
    parts = [re.escape(text).replace(r"\*", "[^/]*") for text in pattern.split(STEM)]
    expression = parts[0] + "([^/]+)" + parts[1] + "".join(r"\1" + part for part in parts[2:])
    match = re.fullmatch(expression, file)
    return match[1] if match and not match[1].startswith(".") else None


def _pair(root: pathlib.Path, images: dict[str, str], labels: str | None, roi: str | None) -> list[Case]:
    """Pairs the images of every channel with each other and with masks and regions, by stem."""
    channels = {called: _list(root, place, role="images") for called, place in images.items()}
    others = {
        role: _list(root, place, role=role) for role, place in (("labels", labels), ("roi", roi)) if place is not None
    }
    first: dict[str, pathlib.Path] = {}  # a file of each stem, to name it by
    for table in channels.values():
        first = {stem: files[0] for stem, files in table.items()} | first
    problems = []
    for role, table in (channels | others).items():
        several = [(stem, files) for stem, files in table.items() if len(files) > 1]
        problems += [f"{stem} is the stem of {', '.join(f.name for f in files)} ({role})" for stem, files in several]
        problems += [f"{file} has no file in {role}" for stem, file in first.items() if stem not in table]
    masks, regions = others.get("labels", {}), others.get("roi", {})
    problems += [f"{files[0]} has no image" for stem, files in masks.items() if stem not in first]
    layouts.refuse(problems, what=f"{'Images and masks' if others else 'Images'} in {root} do not match")
    return [
        Case(
            stem,
            tuple(str(table[stem][0]) for table in channels.values()),
            str(masks[stem][0]) if masks else None,
            roi=str(regions[stem][0]) if regions else None,
        )
        for stem in sorted(first)
    ]


def _numbered(cases: Sequence[Case]) -> list[Case]:
    """Gives numbers of unequal length (9, 10) zero-padded subjects, so that a split by blocks keeps neighbours."""
    width = max(len(case.name) for case in cases)
    if not all(case.name.isdigit() for case in cases) or all(len(case.name) == width for case in cases):
        return list(cases)
    return [case._replace(subject=case.name.zfill(width)) for case in cases]
