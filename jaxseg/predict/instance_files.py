"""Objects as files: one label image a case, a table of its objects, and COCO JSON for all of them."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt16

from jaxseg.ops import run_length
from jaxseg.typing import Instances, UserError

MOST = np.iinfo(np.uint16).max  # objects that 16 bits can number


def label_image(instances: Instances, shape: tuple[int, int], *, overlap: str = "score") -> UInt16[np.ndarray, "H W"]:
    """Returns the objects as numbers from 1 by falling score, 0 elsewhere; crowd regions are no objects and left out.

    An object that others cover wholly keeps its number, which then no pixel bears.

    Args:
      instances: the objects.
      shape: (H, W).
      overlap: who wins the pixels that masks share: the higher "score", or the smaller "size", which keeps nested
        objects whole (of equals, the lower number).

    Raises:
      UserError: more objects than 16 bits can number, or another rule for overlaps.
      ValueError: masks of another shape.
    """
    if overlap not in ("score", "size"):
        raise UserError(f'Overlaps go by "score" or by "size", got {overlap!r}.')
    order = _numbered(instances)
    if len(order) > MOST:
        raise UserError(f"A label image holds up to {MOST} objects, got {len(order)}; write COCO JSON instead.")
    winners = list(enumerate(order, start=1))
    if overlap == "size":
        areas = run_length.areas(instances.masks)
        winners.sort(key=lambda pair: areas[pair[1]])  # stable: of equals the lower number stays first
    numbers = np.zeros(shape, np.uint16)
    for number, row in reversed(winners):
        size = tuple(instances.masks[row]["size"])
        if size != tuple(shape):
            raise ValueError(f"The masks should have the shape {tuple(shape)}, one has {size}.")
        numbers[run_length.decode(instances.masks[row])] = number
    return numbers


def _numbered(instances: Instances) -> Integer[np.ndarray, " M"]:
    """The rows of the objects 1, 2, ...: by falling score, without crowd regions."""
    order = np.argsort(-instances.scores, kind="stable")
    return order[~instances.crowd[order]]


def write_label_image(
    path: str | pathlib.Path,
    instances: Instances,
    shape: tuple[int, int] | None = None,
    *,
    overlap: str = "score",
) -> None:
    """Writes `label_image` as a 16-bit PNG or TIFF, under a temporary name first: a file that exists is whole.

    Args:
      path: of the file; its suffix names the format.
      instances: the objects.
      shape: (H, W); None: that of the masks, of which there must be one then.
      overlap: see `label_image`.

    Raises:
      UserError: another suffix, or see `label_image`.
      ValueError: neither a shape nor a mask, or see `label_image`.
    """
    if shape is None:
        if not instances.masks:
            raise ValueError("write_label_image needs the shape where there are no objects; give shape=(H, W).")
        height, width = instances.masks[0]["size"]
        shape = int(height), int(width)
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".png", ".tif", ".tiff"):
        raise UserError(f"A label image is a .png, .tif or .tiff file, got {path.name!r}.")
    numbers = label_image(instances, shape, overlap=overlap)

    def save(temporary: pathlib.Path) -> None:
        if suffix == ".png":
            from PIL import Image

            Image.fromarray(numbers).save(temporary, format="PNG")
        else:
            import tifffile

            tifffile.imwrite(temporary, numbers, photometric="minisblack", compression="zlib", metadata={"axes": "YX"})

    _write(path, save)


def coco_results(
    results: Mapping[str, tuple[Instances, str, tuple[int, int]]], *, classes: Sequence[str]
) -> dict[str, Any]:
    """Returns the objects of many images in the form of COCO's annotation files, ready for JSON.

    Each annotation bears a score too. Category ids are class ids; ids of images and annotations count from 1.

    Args:
      results: case name -> (objects, file name of the image, (H, W)).
      classes: class names by id, background first.

    Raises:
      ValueError: a class id without a name.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (case, (instances, file_name, (height, width))) in enumerate(results.items(), start=1):
        images.append(
            {"id": image_id, "file_name": file_name, "height": int(height), "width": int(width), "case": case}
        )
        for annotation in _annotations(instances):
            if not 1 <= annotation["category_id"] < len(classes):
                raise ValueError(
                    f"The labels of {case} should be 1 to {len(classes) - 1} for {len(classes)} classes, background "
                    f"first; one is {annotation['category_id']}."
                )
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
    categories = [{"id": index, "name": name} for index, name in enumerate(classes) if index]
    return {"images": images, "annotations": annotations, "categories": categories}


def _annotations(instances: Instances) -> list[dict[str, Any]]:
    """The objects of one image, without ids."""
    boxes, found = _boxes(instances), []
    for row, area in enumerate(run_length.areas(instances.masks)):
        left, top, right, bottom = boxes[row].tolist()
        counts, size = instances.masks[row]["counts"], instances.masks[row]["size"]
        found.append(
            {
                "category_id": int(instances.labels[row]),
                "segmentation": {
                    "size": [int(side) for side in size],
                    "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
                },
                "bbox": [left, top, right - left, bottom - top],
                "area": float(area),
                "score": float(instances.scores[row]),
                "iscrowd": int(instances.crowd[row]),
            }
        )
    return found


def object_table(
    instances: Instances, classes: Sequence[str], spacing_mm: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    """Returns one row an object, ready for `csv.DictWriter`; ids are the numbers of `label_image`, crowds left out.

    Args:
      instances: the objects.
      classes: class names by id, background first.
      spacing_mm: of rows and columns; None where unknown.

    Returns:
      Rows with id, class, score; area_px, and with a spacing area_mm2, of the whole mask, overlaps included;
      centroid_y and centroid_x in pixels, the middle of the first pixel at 0.5 (NaN for an empty mask); and the box
      left, top, right, bottom in pixels, where pixel i covers `[i, i + 1)`.

    Raises:
      ValueError: a class id without a name, or not two spacings.
    """
    if spacing_mm is not None and len(spacing_mm) != 2:
        raise ValueError(f"spacing_mm should be that of rows and columns, got {spacing_mm}.")
    areas, boxes, rows = run_length.areas(instances.masks), _boxes(instances), []
    for number, row in enumerate(_numbered(instances), start=1):
        label = int(instances.labels[row])
        if not 1 <= label < len(classes):
            raise ValueError(
                f"The labels should be 1 to {len(classes) - 1} for {len(classes)} classes, one is {label}."
            )
        places = np.argwhere(run_length.decode(instances.masks[row])) + 0.5
        middle = places.mean(axis=0) if len(places) else np.full(2, np.nan)
        rows.append(
            {
                "id": number,
                "class": classes[label],
                "score": float(instances.scores[row]),
                "area_px": int(areas[row]),
                **({} if spacing_mm is None else {"area_mm2": float(areas[row] * np.prod(spacing_mm))}),
                "centroid_y": float(middle[0]),
                "centroid_x": float(middle[1]),
                **dict(zip(("left", "top", "right", "bottom"), boxes[row].tolist())),
            }
        )
    return rows


def _boxes(instances: Instances) -> np.ndarray:
    """The objects' own boxes `(N, 4)`, xyxy, or those of their masks."""
    return run_length.boxes(instances.masks) if instances.boxes is None else np.asarray(instances.boxes, np.float64)


def write_coco(
    path: str | pathlib.Path,
    results: Mapping[str, tuple[Instances, str, tuple[int, int]]],
    *,
    classes: Sequence[str],
) -> None:
    """Writes `coco_results` as JSON, under a temporary name first: a file that exists is whole."""
    text = json.dumps(coco_results(results, classes=classes), allow_nan=False)
    _write(pathlib.Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _write(path: pathlib.Path, save: Callable[[pathlib.Path], object]) -> None:
    """Saves under a temporary name, then renames."""
    temporary = path.with_name(path.name + ".tmp")
    save(temporary)
    temporary.replace(path)
