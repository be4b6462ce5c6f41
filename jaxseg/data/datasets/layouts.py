"""What every layout shares: label rules, one function that loads a case and checks it, subjects, left-right pairs."""

import csv
import functools
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int16, Integer

from jaxseg import paths
from jaxseg.data import readers, volume
from jaxseg.data.datasets.inputs import check_names, read_case
from jaxseg.data.dicom.labels import Choice
from jaxseg.typing import IGNORE, Case, DataSet, Sample, UserError, Volume


class LabelRule(NamedTuple):
    """How raw label values become class ids; plain values, so that it can go to another process.

    Attributes:
      values: the raw value of each class id.
      classes: class names, for messages.
      channels: how many channels each image must have.
      ignore: the raw value of pixels that may not count, or None.
      threshold: None, or: values above it are class 1, the others class 0, and `values` is only what predict writes.
      tolerance_mm: how far image and label grids may lie apart.
      later_wins: where regions of a DICOM label overlap, the class that comes later is taken; else they are refused.
    """

    values: tuple[int, ...]
    classes: tuple[str, ...]
    channels: int
    ignore: int | None = None
    threshold: float | None = None
    tolerance_mm: float = 0.1
    later_wins: bool = False


def choice(rule: LabelRule) -> Choice:
    """Returns which region of a DICOM label has which raw value."""
    return Choice(tuple(zip(rule.classes[1:], rule.values[1:])), (*rule.values, 0)[0], rule.later_wins)


def later_wins(overlap: str | None) -> bool:
    """Reads the option `data.overlap`.

    Raises:
      UserError: it is neither "refuse" nor "later".
    """
    if overlap not in (None, "refuse", "later"):
        raise UserError(f"data.overlap should be refuse or later (the class that comes later wins), got {overlap!r}.")
    return overlap == "later"


def unlabelled(channels: int) -> LabelRule:
    """Returns the rule of a data set without labels: background is its only class."""
    return LabelRule((0,), ("background",), channels)


def is_labelled(dataset: DataSet) -> bool:
    """Whether a data set has labels: one without them has no class but the background."""
    return len(dataset.classes) > 1


def make(
    cases: Iterable[Case],
    *,
    channels: Sequence[str],
    rule: LabelRule,
    flip_pairs: Sequence[Sequence[str]] | None = None,
    regions: tuple[tuple[int, ...], ...] | None = None,
) -> DataSet:
    """Returns the `DataSet` of cases that lie in files.

    Raises:
      UserError: case names are used twice, or `flip_pairs` names unknown classes.
    """
    return DataSet(
        cases=check_names(tuple(cases)),
        channels=tuple(channels),
        classes=rule.classes,
        label_values=rule.values,
        flip_pairs=find_flip_pairs(rule.classes, flip_pairs),
        regions=regions,
        load=functools.partial(load_case, rule=rule),
        digest=functools.partial(digest_case, rule=rule),
        ignore_value=rule.ignore,
    )


def load_case(case: Case, *, rule: LabelRule) -> Sample:
    """Reads one case and checks it; pixels outside the region of interest get IGNORE.

    Raises:
      UserError: a file cannot be read; the number of channels, shapes, grids or label values are not as they should be;
        the image is NaN or constant.
    """
    image = read_case(case)
    label = None if case.label is None else readers.read_label(case.label, like=image, choice=choice(rule))
    roi = None if case.roi is None else readers.read_label(case.roi, like=image)
    return finish(image, label, roi, rule=rule)


def finish(image: Volume, label: Volume | None, roi: Volume | None, *, rule: LabelRule) -> Sample:
    """Checks what was read and turns raw label values into class ids, int16 with IGNORE; see `load_case`."""
    if image.data.shape[-1] != rule.channels:
        raise UserError(
            f"{image.path} should have {rule.channels} channel(s) as the data set says, but has "
            f"{image.data.shape[-1]}; convert it, or correct the channel names."
        )
    if label is None:
        return Sample(image, None)
    volume.check_same_grid(image, label, tolerance_mm=rule.tolerance_mm)
    ids = class_ids(label.data, rule=rule, path=label.path)
    if roi is not None:
        volume.check_same_grid(image, roi, tolerance_mm=rule.tolerance_mm)
        ids = np.where(inside(roi), ids, np.int16(IGNORE))
    return Sample(image, label._replace(data=ids))


def class_ids(data: Integer[np.ndarray, "*S"], *, rule: LabelRule, path: str) -> Int16[np.ndarray, "*S"]:
    """Turns raw label values into class ids and IGNORE.

    Raises:
      UserError: a value stands for no class; up to ten of them are listed.
    """
    if rule.threshold is not None:
        ids = (data > rule.threshold).astype(np.int16)
        return ids if rule.ignore is None else np.where(data == rule.ignore, np.int16(IGNORE), ids)
    table = {value: number for number, value in enumerate(rule.values)}
    if rule.ignore is not None:
        table[rule.ignore] = IGNORE
    known = np.array(sorted(table), np.int64)
    ids = np.array([table[value] for value in known.tolist()], np.int16)
    place = np.searchsorted(known, data).clip(max=len(known) - 1)
    wrong = known[place] != data
    if wrong.any():
        found = np.unique(data[wrong])
        more = f" and {len(found) - 10} more" if len(found) > 10 else ""
        expected = ", ".join(f"{value} ({name})" for value, name in zip(rule.values[:10], rule.classes, strict=False))
        raise UserError(
            f"{path} should hold only the label values {expected}{' ...' if len(rule.values) > 10 else ''}"
            f"{'' if rule.ignore is None else f' and {rule.ignore} (ignore)'}, but also holds "
            f"{', '.join(map(str, found[:10].tolist()))}{more} in {int(wrong.sum())} voxels; correct the mask or name "
            "these values among the classes."
        )
    return ids[place]


def inside(roi: Volume) -> Bool[np.ndarray, "*S"]:
    """Returns where a region-of-interest mask is set: above half its maximum, so that 0/1, 0/255 and lossy masks do.

    Raises:
      UserError: the mask is empty.
    """
    highest = int(roi.data.max())
    if highest <= 0:
        raise UserError(f"{roi.path} should mark a region of interest, but is empty; remove it or draw the region.")
    return roi.data.astype(np.int64) * 2 > highest


def digest_case(case: Case, *, rule: LabelRule) -> str:
    """Returns the sha256 of the bytes of a case's files and of what changes how their labels are read.

    Raises:
      UserError: a file cannot be read.
    """
    total = hashlib.sha256(repr((rule.values, rule.ignore, rule.threshold)).encode())
    files = [*(("image", path) for path in case.images), ("label", case.label), ("roi", case.roi)]
    for role, path in files:
        if path is None:
            continue
        total.update(role.encode())
        if role == "label" and readers.kind(path) == ".dcm":  # its regions are found by name
            total.update(repr(choice(rule)).encode())
        for file in _parts(paths.path(path)):
            total.update(_file_digest(file))
    return total.hexdigest()


def _parts(path: paths.Path) -> list[paths.Path]:
    """Returns the file, with its other half where it is one of a pair; of a DICOM series all files."""
    if not path.is_file():
        from jaxseg.data.readers import dicom

        return list(dicom.files(path)) if readers.kind(path) == ".dcm" else [path]
    other = path.with_suffix({".hdr": ".img", ".img": ".hdr"}.get(path.suffix.lower(), path.suffix))
    return [path, other] if other != path and other.exists() else [path]


def _file_digest(path: paths.Path) -> bytes:
    try:
        if paths.is_remote(path):
            return hashlib.sha256(path.read_bytes()).digest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check the path and its permissions.") from error


def folder(root: Any, *, layout: str) -> paths.Path:
    """Returns `root` as a folder.

    Raises:
      UserError: it is not given, missing, a file or empty.
    """
    if not root:
        raise UserError(f"The data layout {layout!r} needs data.root, the folder of the data set; it is not set.")
    root = paths.path(root)
    if not root.is_dir():
        what = "is a file" if root.is_file() else "does not exist"
        raise UserError(f"data.root should be the folder of a data set, but {root} {what}; check the path.")
    if not any(root.iterdir()):
        raise UserError(f"data.root should be the folder of a data set, but {root} is empty; check the path.")
    return root


def read_json(root: paths.Path, *, layout: str) -> dict[str, Any]:
    """Returns the content of `root/dataset.json`.

    Raises:
      UserError: the file is missing (what is there is listed) or no JSON object.
    """
    path = root / "dataset.json"
    if not path.is_file():
        there = ", ".join(sorted(entry.name for entry in root.iterdir())[:10])
        raise UserError(
            f"The data layout {layout!r} expects {path}, but {root} holds only {there}; point data.root at the folder "
            "with dataset.json, or choose another data.name."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} should be JSON, but cannot be parsed: {error}; correct it there.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold a JSON object with labels and channels, but holds a list or a value.")
    return content


def in_order(names: Any, *, field: str, path: Any) -> tuple[str, ...]:
    """Returns channel names of {"0": "T1", "1": "T2"}, or of a list, in order.

    Raises:
      UserError: the keys are not 0, 1, 2, ...
    """
    if isinstance(names, (list, tuple)):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, dict) or not names or set(names) != {str(i) for i in range(len(names))}:
        raise UserError(f'{path} should name its channels as "{field}": {{"0": "T1", "1": "T2"}}, but has {names!r}.')
    return tuple(str(names[str(i)]) for i in range(len(names)))


def find_subjects(cases: Sequence[Case], root: paths.Path, subjects: str | None) -> tuple[Case, ...]:
    """Returns the cases with their subject from a table with the columns `case` and `subject`.

    Args:
      cases: their own `subject` stays where there is no table.
      root: the data set's folder.
      subjects: file name relative to `root` (or absolute); None takes `root/subjects.csv` where there is one.

    Raises:
      UserError: the named table is missing, has not these columns, or leaves a case out.
    """
    path = root / (subjects or "subjects.csv")
    if subjects is None and not path.is_file():
        return tuple(cases)
    if not path.is_file():
        raise UserError(f"data.subjects names {path}, but there is no such file; correct it or leave it unset.")
    rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))
    if not rows or not {"case", "subject"} <= set(rows[0]):
        columns = ", ".join(map(str, rows[0])) if rows else "no rows"
        raise UserError(f"{path} should be a table with the columns case and subject, but has {columns}.")
    table = {row["case"]: row["subject"] for row in rows}
    without = [case.name for case in cases if not table.get(case.name)]
    if without:
        raise UserError(
            f"{path} should name the subject of every case, but leaves {len(without)} out: {', '.join(without[:10])}; "
            "add them."
        )
    return tuple(case._replace(subject=table[case.name]) for case in cases)


def find_flip_pairs(
    classes: Sequence[str], pairs: Sequence[Sequence[str]] | None = None
) -> tuple[tuple[int, int], ...]:
    """Returns the pairs of class ids that a left-right flip exchanges.

    Args:
      classes: names by id.
      pairs: pairs of names; None finds names that differ only by "left" and "right", () means no pairs.

    Raises:
      UserError: a pair names an unknown class, or is no pair.
    """
    if pairs is None:
        swapped = {name.lower(): number for number, name in enumerate(classes)}
        found = ((number, swapped.get(_mirror(name.lower()), -1)) for number, name in enumerate(classes))
        return tuple((a, b) for a, b in found if 0 <= a < b)
    result = []
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2 or not set(pair) <= set(classes) or pair[0] == pair[1]:
            raise UserError(
                f"data.flip_pairs should hold pairs of class names, but has {pair!r}; classes: {', '.join(classes)}."
            )
        result.append((classes.index(pair[0]), classes.index(pair[1])))
    return tuple(result)


def _mirror(name: str) -> str:
    return re.sub("left|right", lambda match: "right" if match[0] == "left" else "left", name)


def refuse(problems: Sequence[str], *, what: str) -> None:
    """Raises one UserError that lists up to ten problems of a folder; nothing where there are none."""
    if problems:
        more = f" ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise UserError(f"{what}: {'; '.join(problems[:10])}{more}. Add the missing files or remove their partners.")


def choose_values(
    values: Sequence[int] | None,
    threshold: float | None,
    classes: Sequence[str] | None,
    *,
    layout: str,
    first: Callable[[], Volume],
) -> tuple[int, ...]:
    """Returns the raw label value of each class for layouts whose files do not say it.

    Args:
      values: as the user gave them; a threshold alone means (0, 255), class names alone 0, 1, 2, ...
      threshold: values above it are class 1.
      classes: class names.
      layout: for messages.
      first: reads the first label map, whose values are listed where nothing was given.

    Raises:
      UserError: nothing was given, a value is used twice, or a threshold has not two classes.
    """
    if values is not None:
        chosen = tuple(int(value) for value in values)
    elif threshold is not None:
        chosen = (0, 255)
    elif classes is not None:
        chosen = tuple(range(len(classes)))
    else:
        found = np.unique(first().data).tolist()
        listed = ", ".join(map(str, found[:10])) + (" ..." if len(found) > 10 else "")
        raise UserError(
            f"The layout {layout!r} needs data.label_values (such as 0,255), or data.label_threshold (such as 127) for "
            f"masks with blurred edges; {first().path} holds the values {listed}."
        )
    if len(set(chosen)) != len(chosen) or len(chosen) < 2 or (threshold is not None and len(chosen) != 2):
        wanted = "two values" if threshold is not None else "a value of its own for each class, background first"
        raise UserError(f"data.label_values (or data.classes) should give {wanted}, but there are {chosen}.")
    return chosen


def class_names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Returns `count` class names; missing ones become "background", "class_1", ...

    Raises:
      UserError: there are more names than label values.
    """
    names = tuple(names or ())
    if len(names) > count:
        raise UserError(f"data.classes names {len(names)} classes, but there are {count} label values; name {count}.")
    return (*names, *("background" if i == 0 else f"class_{i}" for i in range(len(names), count)))


def channel_names(count: int) -> tuple[str, ...]:
    """Returns names for channels that nobody named: "grey", "red, green, blue", or numbers."""
    return {1: ("grey",), 3: ("red", "green", "blue")}.get(count, tuple(f"channel_{i}" for i in range(count)))
