"""A folder of made images with labels, to train on beside a real data set: of --mode synthesize, or of another tool.

FOLDER/images/NAME.png       or any other format that a reader knows; FOLDER/labels/NAME.png has the label values of the
FOLDER/provenance.json       real data set; what the images were made by and for, where --mode synthesize wrote them
"""

import json
import os
from collections.abc import Collection, Sequence
from typing import Any

from jaxseg import paths
from jaxseg.data.datasets import image_mask
from jaxseg.data.datasets.inputs import image_files
from jaxseg.typing import DataSet, UserError

PROVENANCE = "provenance.json"
IMAGES, LABELS = "images", "labels"
_SAME = {"classes": "classes", "label_values": "label values", "channels": "channels"}  # as those of the real data


def load_made(folder: str | os.PathLike, *, like: DataSet, taken: Collection[str] = ()) -> DataSet:
    """Lists a folder of made images as a data set of the same channels and classes as a real one.

    Args:
      folder: with images/ and labels/ of equal names.
      like: the real data set; what the folder does not say is as there.
      taken: names of cases of other folders. A case is named made_<folder>_<file>, with a number after "made" where
        that is the name of another case already.

    Raises:
      UserError: the folder, or images or labels in it, are missing; its provenance cannot be read, or tells of other
        classes, label values or channels; an image has no label; the first one does not fit the real data set.
    """
    place = paths.path(folder)
    _check_folder(place)
    found = provenance(place)
    if found is not None:
        _check_provenance(found, like, place / PROVENANCE)
    dataset = image_mask.load(
        root=place,
        images=IMAGES,
        labels=LABELS,
        label_values=like.label_values,
        classes=like.classes,
        channels=like.channels,
        flip_pairs=(),
        ignore_value=like.ignore_value,
    )
    names = _names([case.name for case in dataset.cases], place, {*taken, *(case.name for case in like.cases)})
    cases = tuple(case._replace(name=name, subject=name) for case, name in zip(dataset.cases, names, strict=True))
    dataset = dataset._replace(cases=cases, flip_pairs=like.flip_pairs, regions=like.regions)
    dataset.load(cases[0])  # tells other channels or label values at once, not after the real data were prepared
    return dataset


def provenance(folder: paths.Path) -> dict[str, Any] | None:
    """Returns what is written about the images of a folder; None where nothing is.

    Raises:
      UserError: the file cannot be read, or holds no JSON object.
    """
    path = folder / PROVENANCE
    if not path.is_file():
        return None
    remedy = "restore it, or remove it where the images are of another tool"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:  # both of JSON and of its encoding are ValueErrors
        raise UserError(f"{path} should be JSON, but cannot be read ({error}); {remedy}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold a JSON object with classes and channels, got {content!r:.60}; {remedy}.")
    return content


def _check_folder(place: paths.Path) -> None:
    if not place.is_dir():
        what = "is a file" if place.exists() else "does not exist"
        raise UserError(f"data.extra should name folders of made images, but {place} {what}; correct the path.")
    for part in (IMAGES, LABELS):
        if not (place / part).is_dir():
            there = ", ".join(sorted(entry.name for entry in place.iterdir())[:10]) or "nothing"
            raise UserError(
                f"data.extra names {place}, which should hold the folders {IMAGES} and {LABELS}, but holds {there}; "
                "name the folder that --mode synthesize has written."
            )
        if not image_files(place / part):
            raise UserError(f"data.extra names {place}, but its folder {part} holds no image file; leave it out.")


def _check_provenance(found: dict[str, Any], like: DataSet, path: paths.Path) -> None:
    for field, called in _SAME.items():
        theirs, ours = found.get(field), list(getattr(like, field))
        if not isinstance(theirs, Sequence) or isinstance(theirs, str):
            raise UserError(
                f"{path} should name the {called} of its images as a list {field!r}, got {theirs!r}; restore it, or "
                "remove it where the images are of another tool."
            )
        if list(theirs) != ours:
            raise UserError(
                f"The images of {path.parent} were made with the {called} {_words(theirs)}, but the data set has "
                f"{_words(ours)}; name in data.extra what was made after the same data set."
            )


def _words(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values[:10])) + (" ..." if len(values) > 10 else "")


def _names(stems: Sequence[str], place: paths.Path, taken: Collection[str]) -> list[str]:
    """Returns names that no other case has."""
    number = 1
    while True:
        prefix = f"made{'' if number == 1 else number}_{paths.absolute(place).name}_"
        names = [prefix + stem for stem in stems]
        if not set(names) & set(taken):
            return names
        number += 1
