"""Medical Segmentation Decathlon: a dataset.json that lists pairs of image and label, or images alone."""

import pathlib
from collections.abc import Sequence
from typing import Any

from jaxseg import paths
from jaxseg.data import readers
from jaxseg.data.datasets import layouts
from jaxseg.typing import Case, DataSet, UserError


def load(
    *,
    root: Any,
    subjects: str | None = None,
    flip_pairs: Sequence[Sequence[str]] | None = None,
    ignore_value: int | None = None,
    affine_tolerance_mm: float = 0.1,
) -> DataSet:
    """Lists a Decathlon folder: `training` pairs, `modality` as channels (the fourth axis), `labels` as classes.

    Where dataset.json names no labels and `training` lists images alone, as "./imagesTr/x.nii.gz" or
    {"image": "./imagesTr/x.nii.gz"}, the data set is one without labels.

    Args:
      root: the folder with dataset.json.
      subjects: a table with the columns case and subject; None takes root/subjects.csv where there is one.
      flip_pairs: pairs of class names that a left-right flip exchanges; None finds them by "left" and "right".
      ignore_value: raw label value of voxels that may not count.
      affine_tolerance_mm: how far image and label grids may lie apart.

    Raises:
      UserError: dataset.json is missing or incomplete, files are missing, or names are used twice.
    """
    root = layouts.folder(root, layout="msd")
    content, path = layouts.read_json(root, layout="msd"), root / "dataset.json"
    channels = layouts.in_order(content.get("modality", content.get("channel_names")), field="modality", path=path)
    if _is_unlabelled(content):
        rule, found = layouts.unlabelled(len(channels)), _images(root, content["training"], path)
    else:
        values, classes = _labels(content.get("labels"), path)
        rule = layouts.LabelRule(values, classes, len(channels), ignore_value, None, affine_tolerance_mm)
        found = _cases(root, content.get("training"), path)
    cases = layouts.find_subjects(found, root, subjects)
    return layouts.make(cases, channels=channels, rule=rule, flip_pairs=flip_pairs)


def _is_unlabelled(content: dict[str, Any]) -> bool:
    training = content.get("training")
    if content.get("labels") or not isinstance(training, list) or not training:
        return False
    return all(isinstance(entry, str) or (isinstance(entry, dict) and set(entry) == {"image"}) for entry in training)


def _labels(labels: Any, path: paths.Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Returns raw values in ascending order and their names; gaps between values are allowed."""
    try:
        table = {int(value): str(name) for value, name in labels.items()}
    except (AttributeError, ValueError) as error:
        raise UserError(
            f'{path} should name its labels as "labels": {{"0": "background", "1": "tumour"}}, but has {labels!r}.'
        ) from error
    if 0 not in table or len(table) < 2 or min(table) < 0:
        raise UserError(f"{path} should name the label 0 (background) and at least one more, but names {labels!r}.")
    return tuple(sorted(table)), tuple(table[value] for value in sorted(table))


def _cases(root: paths.Path, training: Any, path: paths.Path) -> list[Case]:
    pairs = training if isinstance(training, list) else []
    if not pairs or not all(isinstance(pair, dict) and {"image", "label"} <= set(pair) for pair in pairs):
        raise UserError(
            f'{path} should list its cases as "training": [{{"image": "./imagesTr/x.nii.gz", "label": '
            '"./labelsTr/x.nii.gz"}, ...], but does not; write that list.'
        )
    return _listed(root, pairs, path, roles=("image", "label"))


def _images(root: paths.Path, training: list[Any], path: paths.Path) -> list[Case]:
    entries = [{"image": entry} if isinstance(entry, str) else entry for entry in training]
    return _listed(root, entries, path, roles=("image",))


def _is_there(path: paths.Path) -> bool:
    """Whether a path is a file, or a folder of DICOM."""
    return path.is_file() or (readers.is_there(path) and readers.kind(path) == ".dcm")


def _listed(root: paths.Path, entries: list[dict], path: paths.Path, *, roles: Sequence[str]) -> list[Case]:
    entries = [entry for entry in entries if not pathlib.Path(entry["image"]).name.startswith("._")]  # macOS leftovers
    missing = [
        f"{root / entry[role]} ({role})" for entry in entries for role in roles if not _is_there(root / entry[role])
    ]
    layouts.refuse(missing, what=f"{path} lists {len(missing)} files that are not there")
    return [
        Case(
            readers.stem(entry["image"]),
            (str(root / entry["image"]),),
            str(root / entry["label"]) if "label" in roles else None,
        )
        for entry in entries
    ]
