"""nnU-Net v2 raw data: imagesTr/CASE_0000.ext (one file a channel), labelsTr/CASE.ext, dataset.json."""

import re
from collections.abc import Sequence
from typing import Any

from jaxseg import paths
from jaxseg.data import readers
from jaxseg.data.datasets import layouts
from jaxseg.typing import Case, DataSet, UserError

OF_DICOM = ".dcm"  # the file_ending of folders, archives and files of DICOM


def load(
    *,
    root: Any,
    subjects: str | None = None,
    flip_pairs: Sequence[Sequence[str]] | None = None,
    affine_tolerance_mm: float = 0.1,
    overlap: str | None = None,
) -> DataSet:
    """Lists an nnU-Net raw folder (DatasetXXX_Name), by its dataset.json.

    `labels` maps names to integers; "ignore" marks voxels that may not count. Lists of integers are regions (sigmoid
    heads): the first id of each tuple in `DataSet.regions` is the one a prediction writes for that region
    (`regions_class_order`), and that class bears the region's name. A "dataset" entry with explicit paths is followed.
    With the "file_ending" ".dcm" an image is a folder of DICOM CASE_0000, a zip archive CASE_0000.zip or a file
    CASE_0000.dcm, and a label CASE.dcm (SEG or RTSTRUCT) or CASE with the ending of any other format.
    Without "labels" in dataset.json and without label files the data set is one of images alone.

    Args:
      root: the folder with dataset.json.
      subjects: a table with the columns case and subject; None takes root/subjects.csv where there is one.
      flip_pairs: pairs of class names that a left-right flip exchanges; None finds them by "left" and "right".
      affine_tolerance_mm: how far image and label grids may lie apart.
      overlap: where regions of a DICOM label overlap: "refuse" (also None) or "later", the class that comes later.

    Raises:
      UserError: dataset.json is missing or incomplete, an image, channel or label is missing, or names are used twice.
    """
    root = layouts.folder(root, layout="nnunet_raw")
    content, path = layouts.read_json(root, layout="nnunet_raw"), root / "dataset.json"
    channels = layouts.in_order(content.get("channel_names", content.get("modality")), field="channel_names", path=path)
    labelled, rule, regions = _has_labels(root, content), layouts.unlabelled(len(channels)), None
    if labelled:
        order = content.get("regions_class_order")
        values, classes, ignore, regions = parse_labels(content.get("labels"), order, path)
        rule = layouts.LabelRule(
            values, classes, len(channels), ignore, None, affine_tolerance_mm, layouts.later_wins(overlap)
        )
    if "dataset" in content:
        cases = _listed(root, content["dataset"], len(channels), path, labelled=labelled)
    else:
        cases = _found(root, content.get("file_ending"), len(channels), path, labelled=labelled)
    return layouts.make(
        layouts.find_subjects(cases, root, subjects),
        channels=channels,
        rule=rule,
        flip_pairs=flip_pairs,
        regions=regions,
    )


def _has_labels(root: paths.Path, content: dict[str, Any]) -> bool:
    """Whether dataset.json names labels, or label files are there that it should name."""
    if content.get("labels"):
        return True
    listed = content.get("dataset")
    if isinstance(listed, dict) and listed:
        return any(isinstance(entry, dict) and entry.get("label") is not None for entry in listed.values())
    folder = root / "labelsTr"
    return folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir())


def parse_labels(labels: Any, order: Any, path: Any) -> tuple[tuple, tuple, int | None, tuple | None]:
    """Returns raw values, class names, the ignore value (or None) and regions as tuples of class ids (or None).

    Raises:
      UserError: the entry is no table of names, has no background 0, or its regions do not fit `regions_class_order`.
    """
    fix = f'"labels": {{"background": 0, "tumour": 1}} in {path}'
    if not isinstance(labels, dict) or not labels:
        raise UserError(f"Expected {fix}, but the entry is {labels!r}.")
    table = {name: value if isinstance(value, list) else [value] for name, value in labels.items()}
    if not all(type(v) is int and v >= 0 for value in table.values() for v in value) or not all(table.values()):
        raise UserError(f"Expected {fix}, with whole numbers from 0 or lists of them, but the entry is {labels!r}.")
    ignore = table.pop("ignore", [None])[0]
    values = tuple(sorted({v for value in table.values() for v in value}))
    if [0] not in table.values() or len(values) < 2 or ignore in values:
        raise UserError(
            f"Expected {fix}: a background 0, another class, and a value of its own for ignore; got {labels!r}."
        )
    if not any(isinstance(value, list) for name, value in labels.items() if name != "ignore"):
        names = {value[0]: name for name, value in table.items()}
        if len(names) != len(table):
            raise UserError(f"Expected {fix} with one name a value, but a value is named twice: {labels!r}.")
        return values, tuple(names[value] for value in values), ignore, None
    regions = [(name, value) for name, value in table.items() if value != [0]]
    painted = list(order or [])
    if len(painted) != len(regions) or any(p not in value for p, (_, value) in zip(painted, regions, strict=True)):
        raise UserError(
            f"{path} has regions and should give regions_class_order, one label value of each region in their order "
            f"({', '.join(name for name, _ in regions)}), but has {order!r}."
        )
    if len(set(painted)) != len(painted):
        raise UserError(f"{path} should give each region a value of its own in regions_class_order, but has {order!r}.")
    names = {0: "background"} | {p: name for p, (name, _) in zip(painted, regions, strict=True)}
    ids = {value: number for number, value in enumerate(values)}
    tuples = (
        tuple(ids[v] for v in [p, *sorted(set(value) - {p})]) for p, (_, value) in zip(painted, regions, strict=True)
    )
    return values, tuple(names.get(value, f"label_{value}") for value in values), ignore, tuple(tuples)


def _found(root: paths.Path, ending: Any, channels: int, path: paths.Path, *, labelled: bool) -> list[Case]:
    """Lists imagesTr and, where there are labels, labelsTr, and pairs them by name."""
    if not isinstance(ending, str) or not ending.startswith("."):
        raise UserError(f'{path} should give "file_ending", such as ".nii.gz", but has {ending!r}.')
    for name in ("imagesTr", "labelsTr") if labelled else ("imagesTr",):
        if not (root / name).is_dir():
            raise UserError(
                f"The data layout 'nnunet_raw' expects the folder {root / name}, but there is none; add it."
            )
    pattern = re.compile(rf"(.+)_(\d{{4}}){re.escape(ending)}")
    files = {_plain_name(f, ending): f for f in sorted((root / "imagesTr").iterdir()) if not f.name.startswith(".")}
    found = {name: match for name in files if (match := pattern.fullmatch(name))}
    if not found:
        there = ", ".join(list(files)[:5]) or "nothing"
        raise UserError(f"{root / 'imagesTr'} should hold files named CASE_0000{ending}, but holds {there}.")
    names = sorted({match[1] for match in found.values()})
    labels = _labels(root / "labelsTr", ending) if labelled else {}
    problems = _unpaired(labels, names) if labelled else []
    cases = []
    for name in names:
        expected = [f"{name}_{number:04d}{ending}" for number in range(channels)]
        problems += [f"the channel {file} is missing" for file in expected if file not in files]
        have = sum(match[1] == name for match in found.values())
        if have > channels:
            problems.append(f"{name} has {have} channel files, but {channels} channel name(s)")
        images = tuple(str(files.get(file, file)) for file in expected)
        cases.append(Case(name, images, str(labels.get(name, "")) if labelled else None))
    layouts.refuse(problems, what=f"The files in {root} do not match its dataset.json")
    return cases


def _plain_name(file: paths.Path, ending: str) -> str:
    """Returns the name of a file; of DICOM a folder and a zip archive are named as a file would be."""
    if ending != OF_DICOM or file.name.endswith(ending):
        return file.name
    return file.name.removesuffix(".zip") + ending if file.is_dir() or file.name.endswith(".zip") else file.name


def _labels(folder: paths.Path, ending: str) -> dict[str, paths.Path]:
    """Returns the label files by case; beside images of DICOM they may be of any format."""
    files = [file for file in sorted(folder.iterdir()) if not file.name.startswith(".")]
    if ending == OF_DICOM:
        return {readers.stem(file): file for file in files if readers.suffix(file)}
    return {file.name[: -len(ending)]: file for file in files if file.name.endswith(ending)}


def _unpaired(labels: dict[str, paths.Path], names: list[str]) -> list[str]:
    """Tells the cases that have no label, and the labels of no case."""
    problems = [f"{name} has no label" for name in names if name not in labels]
    return problems + [f"the label {labels[name].name} has no image" for name in sorted(labels.keys() - set(names))]


def _listed(root: paths.Path, dataset: Any, channels: int, path: paths.Path, *, labelled: bool) -> list[Case]:
    """Follows explicit paths: {"dataset": {CASE: {"images": [...], "label": ...}}}, relative to `root`."""
    try:
        cases = [
            Case(
                name,
                tuple(str(root / image) for image in entry["images"]),
                str(root / entry["label"]) if labelled else None,
            )
            for name, entry in dataset.items()
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f'{path} should list "dataset": {{CASE: {{"images": [...], "label": ...}}}}, but has not.'
        ) from error
    problems = [f"{case.name} lists {len(case.images)} images" for case in cases if len(case.images) != channels]
    problems += [
        f"{f} is missing"
        for case in cases
        for f in (*case.images, case.label)
        if f and not paths.path(f).is_file() and not (readers.is_there(f) and readers.kind(f) == ".dcm")
    ]
    layouts.refuse(problems, what=f"The files listed in {path} ({channels} channels a case) do not match")
    return cases
