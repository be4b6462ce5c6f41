"""Objects as COCO writes them: one JSON file with images, categories and annotations (polygons or run lengths)."""

import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data import readers
from jaxseg.data.datasets import layouts, objects
from jaxseg.typing import Case, DataSet, Sample, UserError

BACKGROUND = "background"
FARTHEST = 100_000  # pycocotools walks along the edges of a polygon, so that one stray coordinate can fill the memory


class Annotation(NamedTuple):
    """One object of one image.

    Attributes:
      name: its id, for messages.
      class_id: 1 and above.
      crowd: whether it is a region of objects that are not told apart.
      segmentation: list of polygons [x, y, ...], or {"size": [H, W], "counts": ...}.
    """

    name: str
    class_id: int
    crowd: bool
    segmentation: Any


class Entry(NamedTuple):
    """What the file says about one image: its size (H, W), None where it does not say, and its objects."""

    size: tuple[int, int] | None
    annotations: tuple[Annotation, ...]


def load(
    *,
    root: Any,
    labels: str | None = None,
    images: str | None = None,
    classes: Sequence[str] | None = None,
    channels: Sequence[str] | None = None,
    roi: str | None = None,
    subjects: str | None = None,
) -> DataSet:
    """Lists the images that a COCO file names; those without annotations are cases without objects.

    Polygons are drawn as pycocotools does and cut off at the image's edge; objects may overlap. Annotations that cover
    no pixel (wholly outside the image, or without area), of which real files hold some, are left out, and so are those
    of a category "background".
    A case is named as its file without suffix, with _ for the folders.

    Args:
      root: the folder that the others are relative to.
      labels: the annotation file; None takes the only *.json in root or root/annotations.
      images: folder of the images; None takes "images" where there is such a folder, else root.
      classes: background and the categories that count, in this order; None takes all, in the order of their ids.
      channels: names; None: "red, green, blue" if one of the first 20 images is in colour, else "grey". Grey images are
        repeated to three channels, and colours become luminance where the data set is grey.
      roi: pattern with {stem} for the case's name, of masks outside which nothing is trained or scored.
      subjects: a table with the columns case and subject; None takes root/subjects.csv where there is one.

    Raises:
      UserError: the file is missing, no JSON or incomplete; images are missing; annotations name unknown images or
        categories, or have no valid mask; `classes` names an unknown category.
    """
    root = layouts.folder(root, layout="coco")
    path = _annotation_file(root, labels)
    content = _read(path)
    folder = root / (images if images is not None else "images" if (root / "images").is_dir() else "")
    categories = _categories(content["categories"], path)
    names = _choose_classes(classes, categories, path)
    cases, entries = _entries(content, categories, names, folder=folder, path=path)
    channels = objects.choose_channels(channels, cases)
    return objects.make(
        layouts.find_subjects(objects.find_regions(cases, root, roi), root, subjects),
        channels=channels,
        classes=names,
        load=functools.partial(load_case, entries=entries, channels=len(channels)),
        digest=functools.partial(digest_case, entries=entries, channels=len(channels)),
    )


def load_case(case: Case, *, entries: Mapping[str, Entry], channels: int) -> Sample:
    """Reads an image and draws its objects.

    Raises:
      UserError: the image cannot be used or has another size than the file says, or a run length does not fit it.
    """
    image = objects.read_image(case, channels=channels)
    size, annotations = entries[case.name]
    height, width = image.data.shape[:2]
    if size is not None and size != (height, width):
        raise UserError(
            f"{image.path} should have the size {size} (height, width) that {case.label} gives, but has "
            f"{(height, width)}; put the annotated image there, or correct the size."
        )
    masks, kept, problems = [], [], []
    for annotation in annotations:
        try:
            mask = cut(runs(annotation.segmentation, height, width), height)
        except ValueError as error:
            problems.append(f"annotation {annotation.name} {error}, correct or remove it")
            continue
        if mask is not None:
            masks.append(mask)
            kept.append(annotation)
    objects.refuse(problems, what=f"The masks of {image.path} in {case.label} cannot be used")
    sample = objects.to_sample(
        image,
        masks,
        classes=[annotation.class_id for annotation in kept],
        crowd=[annotation.crowd for annotation in kept],
        path=case.label or "",
    )
    return objects.keep_region(sample, case.roi)


def digest_case(case: Case, *, entries: Mapping[str, Entry], channels: int) -> str:
    """Returns the sha256 of the bytes of a case's image, of its annotations and of what changes how they are read.

    Raises:
      UserError: the image cannot be read.
    """
    plain = layouts.LabelRule((0,), (BACKGROUND,), channels)
    content = layouts.digest_case(case._replace(label=None), rule=plain)
    return hashlib.sha256(json.dumps([content, channels, entries[case.name]]).encode()).hexdigest()


def runs(segmentation: Any, height: int, width: int) -> list[int]:
    """Returns the pixels outside, inside, outside, ... column by column, of joined polygons or any run lengths.

    Raises:
      ValueError: run lengths of another size, or that do not fill it; the text completes "annotation 7 ...".
    """
    from pycocotools import mask as coco

    if isinstance(segmentation, list):
        polygons = [[float(value) for value in polygon] for polygon in segmentation]
        return unpack(coco.merge(coco.frPyObjects(polygons, height, width))["counts"].decode())
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"has the size {list(segmentation['size'])} in an image of {[height, width]}")
    counts = segmentation["counts"]
    counts = unpack(counts) if isinstance(counts, str) else counts
    if not all(type(count) is int and count >= 0 for count in counts) or sum(counts) != height * width:
        raise ValueError(f"has run lengths that do not add up to the {height * width} pixels of its image")
    return counts


def unpack(text: str) -> list[int]:
    """Returns the counts of a compressed run length: five bits a letter, from the fourth on added to the last but one.

    Raises:
      ValueError: the text breaks off or holds other letters; the text completes "annotation 7 ...".
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"has compressed run lengths with the unknown letter {letter!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # another letter follows
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("has compressed run lengths that break off")
    return counts


def cut(counts: Sequence[int], height: int) -> objects.Mask | None:
    """Returns the mask of run lengths in its own box, None where no pixel is inside.

    Only the columns of the object are laid out: thousands of objects in a large image would take long otherwise.
    """
    ends = np.cumsum(counts, dtype=np.int64)
    filled = 2 * np.flatnonzero(counts[1::2]) + 1
    if not len(filled):
        return None
    left, right = int(ends[filled[0] - 1]) // height, (int(ends[filled[-1]]) - 1) // height + 1
    lengths = np.diff(np.clip(np.concatenate([[0], ends]), left * height, right * height))
    columns = np.repeat(np.arange(len(counts)) % 2 == 1, lengths).reshape(right - left, height)  # (x, y)
    rows = np.flatnonzero(columns.any(axis=0))
    return (int(rows[0]), left), columns.T[rows[0] : rows[-1] + 1]


def _annotation_file(root: pathlib.Path, labels: str | None) -> pathlib.Path:
    if labels is not None:
        if not (root / labels).is_file():
            raise UserError(f"data.labels should be a COCO file, but there is no {root / labels}; correct the name.")
        return root / labels
    found = [*sorted(root.glob("*.json")), *sorted((root / "annotations").glob("*.json"))]
    if len(found) != 1:
        listed = ", ".join(file.relative_to(root).as_posix() for file in found[:10]) or "none"
        raise UserError(
            f"The data layout 'coco' expects one annotation file (*.json) in {root} or its folder annotations, but "
            f"finds {listed}; name it as data.labels."
        )
    return found[0]


def _read(path: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the file's lists of images, annotations and categories."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} should be JSON, but cannot be parsed: {error}; export it again.") from error
    for name in ("images", "annotations", "categories"):
        rows = content.get(name) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(
                f"{path} should be a COCO file with a list {name!r} of objects, but has none; export it again."
            )
    return content


def _categories(rows: Sequence[dict[str, Any]], path: pathlib.Path) -> dict[int, str]:
    """Returns the names by id, in the order of the ids."""
    table: dict[int, str] = {}
    for row in rows:
        number, name = row.get("id"), row.get("name")
        if type(number) is not int or not isinstance(name, str) or number in table or name in table.values():
            raise UserError(f"{path} should give each category an id and a name of its own, but has {row}; correct it.")
        table[number] = name
    return dict(sorted(table.items()))


def _choose_classes(
    classes: Sequence[str] | None, categories: Mapping[int, str], path: pathlib.Path
) -> tuple[str, ...]:
    known = [name for name in categories.values() if name != BACKGROUND]
    chosen = (BACKGROUND, *known) if classes is None else (classes,) if isinstance(classes, str) else tuple(classes)
    if len(chosen) < 2 or len(set(chosen)) < len(chosen) or chosen[0] in known or not set(chosen[1:]) <= set(known):
        raise UserError(
            f"data.classes should name the background and then categories of {path} ({', '.join(known) or 'none'}), "
            f"each once, but is {', '.join(chosen)}."
        )
    return chosen


def _entries(
    content: Mapping[str, list[dict[str, Any]]],
    categories: Mapping[int, str],
    classes: Sequence[str],
    *,
    folder: pathlib.Path,
    path: pathlib.Path,
) -> tuple[list[Case], dict[str, Entry]]:
    """Returns the cases, and by name what belongs to each; all that is wrong is reported together."""
    cases, sizes, problems = _images(content["images"], folder, path)
    chosen = {number: classes.index(name) for number, name in categories.items() if name in classes[1:]}
    rows: dict[int | str, list[Annotation]] = {number: [] for number in cases}
    for order, row in enumerate(content["annotations"], start=1):
        name, image, category = str(row.get("id", f"number {order}")), row.get("image_id"), row.get("category_id")
        wrong = ""
        if type(image) not in (int, str) or image not in rows:
            wrong = f"names the unknown image {image}"
        elif type(category) is not int or category not in categories:
            wrong = f"names the unknown category {category}"
        elif category in chosen:
            crowd, segmentation = bool(row.get("iscrowd", 0)), row.get("segmentation")
            wrong = _fault(segmentation)
            rows[image].append(Annotation(name, chosen[category], crowd, segmentation))
        problems += [f"annotation {name} {wrong}, correct or remove it"] if wrong else []
    objects.refuse(problems, what=f"{path} and its images in {folder} do not match")
    if not cases:
        raise UserError(f"{path} should list images, but lists none; choose another file as data.labels.")
    entries = {case.name: Entry(sizes[number], tuple(rows[number])) for number, case in cases.items()}
    return list(cases.values()), entries


def _images(
    rows: Sequence[dict[str, Any]], folder: pathlib.Path, path: pathlib.Path
) -> tuple[dict[int | str, Case], dict[int | str, tuple[int, int] | None], list[str]]:
    """Returns the cases and their sizes by image id, and what is wrong with them."""
    cases: dict[int | str, Case] = {}
    sizes: dict[int | str, tuple[int, int] | None] = {}
    problems = []
    for row in rows:
        number, place = row.get("id"), pathlib.PurePath(str(row.get("file_name") or ""))
        if not isinstance(number, (int, str)) or number in cases or not place.name:
            problems.append(f"the image {row} has no id of its own or no file_name, correct it")
            continue
        file = folder / place
        if not file.is_file():
            problems.append(f"the image {file} is missing, add it")
        name = place.with_name(readers.stem(file)).as_posix().replace("/", "_")
        cases[number] = Case(name, (str(file),), str(path))
        height, width = row.get("height"), row.get("width")
        sizes[number] = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return cases, sizes, problems


def _fault(segmentation: Any) -> str:
    """Returns what is wrong with a segmentation, "" where nothing is; run lengths are read with their image."""
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        fits = isinstance(size, list) and len(size) == 2 and isinstance(counts, (list, str))
        return "" if fits else "has a run length without size [height, width] and counts"
    if not isinstance(segmentation, list) or not segmentation or not all(isinstance(p, list) for p in segmentation):
        return "has no segmentation of polygons [[x, y, ...], ...] or run lengths"
    for polygon in segmentation:
        if len(polygon) % 2:
            return f"has a polygon with an odd number of coordinates ({len(polygon)})"
        if len(polygon) < 6:
            return f"has a polygon of {len(polygon) // 2} points, which needs 3"
        if not all(type(value) in (int, float) for value in polygon) or not np.abs(polygon).max() <= FARTHEST:
            return f"has a polygon with a coordinate that is no number up to {FARTHEST}"
    return ""
