"""Medical Segmentation Decathlon: a dataset.json that lists pairs of image and label."""

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
    values, classes = _labels(content.get("labels"), path)
    rule = layouts.LabelRule(values, classes, len(channels), ignore_value, None, affine_tolerance_mm)
    cases = layouts.find_subjects(_cases(root, content.get("training"), path), root, subjects)
    return layouts.make(cases, channels=channels, rule=rule, flip_pairs=flip_pairs)


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
    pairs = [pair for pair in pairs if not pathlib.Path(pair["image"]).name.startswith("._")]  # macOS leftovers
    missing = [
        f"{root / pair[role]} ({role})"
        for pair in pairs
        for role in ("image", "label")
        if not (root / pair[role]).is_file()
    ]
    layouts.refuse(missing, what=f"{path} lists {len(missing)} files that are not there")
    return [Case(readers.stem(p["image"]), (str(root / p["image"]),), str(root / p["label"])) for p in pairs]
