"""Scores cases one at a time and keeps pictures of the worst and the best, whatever the number of cases."""

import bisect
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg import metrics, paths
from jaxseg.evaluate.files import number
from jaxseg.typing import IGNORE, UserError
from jaxseg.viz import case_panel, png_bytes

Row = dict[str, Any]


class CaseResult(NamedTuple):
    """One predicted case with its truth, on the grid of the user's file.

    Attributes:
      name: the case's name.
      image: intensities `(*S, C)`, for the picture only.
      true: class ids `(*S)`, with IGNORE where nothing counts.
      pred: class ids `(*S)`.
      spacing_mm: in array order.
      roi: `(*S)` bool, outside which nothing counts, or None.
      probabilities: `(*S, K)` with the background, `(*S, K - 1)` without, or None.
      uncertainty: `(*S)` from 0 to 1, drawn over the image, or None.
      axes: directions that the axes of a volume increase towards; None where unknown: no letters in the picture.
    """

    name: str
    image: np.ndarray
    true: np.ndarray
    pred: np.ndarray
    spacing_mm: tuple[float, ...]
    roi: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    axes: str | None = "SAR"


def evaluate_cases(
    pairs: Iterable[CaseResult],
    *,
    classes: Sequence[str],
    score: Callable[..., list[Row]] | None = None,
    regions: Mapping[str, Sequence[int]] | None = None,
    areas: bool = False,
    progress: Callable[[int, str], None] | None = None,
    overlay_folder: str | paths.Path | None = None,
    overlay_count: int = 4,
) -> list[Row]:
    """Scores every case; holds one case in memory at a time, and the finished pictures of a few.

    Args:
      pairs: the cases; an iterator that predicts one when asked for the next keeps memory bounded.
      classes: class names by id, background first.
      score: `(pred, true, *, classes, spacing_mm, roi) -> rows`, one row a foreground class; None stands for
        `metrics.case_rows`, and `functools.partial` sets its tolerance or leaves the surfaces out.
      regions: region name -> class ids; rows and areas are then of regions; channel i of the probabilities
        is region i.
      areas: whether to add "roc_area" and "precision_recall_area"; NaN for cases without probabilities.
      progress: called with (cases done, name) after each case.
      overlay_folder: where to put worst_01_<case>.png and best_01_<case>.png (by mean Dice over the classes); those of
        an earlier evaluation are removed. None draws nothing.
      overlay_count: how many of each, at most; no case is drawn twice.

    Returns:
      One row a case and foreground class, "case" first.

    Raises:
      UserError: there is no case, a name comes twice, or truth and prediction differ in shape.
    """
    scored = score_cases(
        pairs,
        classes=classes,
        score=score,
        regions=regions,
        areas=areas,
        progress=progress,
        overlay_count=overlay_count if overlay_folder is not None else 0,
    )
    whole = merge([scored])
    if overlay_folder is not None:
        whole.gallery.write(paths.path(overlay_folder))
    return whole.rows()


def score_cases(
    pairs: Iterable[CaseResult],
    *,
    classes: Sequence[str],
    score: Callable[..., list[Row]] | None = None,
    regions: Mapping[str, Sequence[int]] | None = None,
    areas: bool = False,
    progress: Callable[[int, str], None] | None = None,
    overlay_count: int = 4,
) -> "Scored":
    """What `evaluate_cases` finds, before it is written: one part of it where several processes share the cases."""
    score = score or metrics.case_rows
    options = {"classes": classes} if regions is None else {"classes": classes, "regions": regions}
    gallery = Gallery(overlay_count)
    groups: list[list[Row]] = []
    seen: set[str] = set()
    for done, case in enumerate(pairs, start=1):
        _check(case, seen)
        seen.add(case.name)
        found = score(case.pred, case.true, spacing_mm=case.spacing_mm, roi=case.roi, **options)
        if areas:
            measured = _areas(case, classes, regions)
            found = [{**row, **measured[row["class"]]} for row in found]
        groups.append([{"case": case.name, **row} for row in found])
        gallery.offer(case, classes, {row["class"]: float(row["dice"]) for row in found})
        if progress is not None:
            progress(done, case.name)
    return Scored(groups, gallery)


def merge(parts: Sequence["Scored"]) -> "Scored":
    """Puts together what n processes found, of which process i scored the cases i, i + n, ...

    Raises:
      UserError: there is no case at all, or a name comes twice.
    """
    groups = interleave([part.groups for part in parts])
    if not groups:
        raise UserError("There is no labelled case to evaluate; give a folder or a fold that holds images with labels.")
    seen: set[str] = set()
    for name in (group[0]["case"] for group in groups if group):
        _check_name(name, seen)
        seen.add(name)
    return Scored(groups, merge_galleries([part.gallery for part in parts]))


def interleave(parts: Sequence[Sequence[Any]]) -> list:
    """Returns the first of each part, then the second of each, and so on to the end of the longest."""
    missing = object()
    return [item for row in itertools.zip_longest(*parts, fillvalue=missing) for item in row if item is not missing]


def _check_name(name: str, seen: set[str]) -> None:
    if name in seen:
        raise UserError(f"The case name {name!r} comes twice; give every case its own name.")


def _check(case: CaseResult, seen: set[str]) -> None:
    _check_name(case.name, seen)
    for what, shape in (("prediction", case.pred.shape), ("image", case.image.shape[:-1])):
        if shape != case.true.shape:
            raise UserError(
                f"Case {case.name!r}: the {what} has shape {shape} and the label {case.true.shape}; "
                "they should be on the same grid, so check that the label belongs to this image."
            )


def _areas(case: CaseResult, classes: Sequence[str], regions: Mapping[str, Sequence[int]] | None) -> dict[str, Row]:
    """Returns class or region name -> the areas under its ROC and precision-recall curves, over the scored voxels."""
    named = {name: (index,) for index, name in enumerate(classes) if index} if regions is None else regions
    if case.probabilities is None:
        return {name: {"roc_area": math.nan, "precision_recall_area": math.nan} for name in named}
    offset = case.probabilities.shape[-1] - len(named)  # 1 with a background channel, 0 without
    if offset not in (0, 1):
        raise ValueError(f"{case.probabilities.shape[-1]} channels of probabilities do not fit {', '.join(named)}.")
    scored = case.true != IGNORE
    if case.roi is not None:
        scored &= case.roi.astype(bool)
    found = {}
    for channel, (name, ids) in enumerate(named.items(), start=offset):
        scores, truth = case.probabilities[..., channel][scored], np.isin(case.true[scored], ids)
        found[name] = {
            "roc_area": metrics.roc_area(scores, truth),
            "precision_recall_area": metrics.precision_recall_area(scores, truth),
        }
    return found


class Gallery:
    """The pictures of the lowest and the highest score so far; a case is drawn only while it belongs there."""

    def __init__(self, count: int):
        self.count = count
        self.order: list[tuple[float, str]] = []  # every case, lowest score first
        self.pictures: dict[str, bytes] = {}

    def places(self) -> tuple[list[str], list[str]]:
        """Returns the names of the worst, worst first, and of the best, best first; no name stands in both."""
        names = [name for _, name in self.order]
        worst = names[: min(self.count, (len(names) + 1) // 2)]
        return worst, [name for name in reversed(names[len(worst) :])][: self.count]

    def offer(self, case: CaseResult, classes: Sequence[str], dice: dict[str, float]) -> None:
        """Draws the case if it is now among the worst or the best, and drops the pictures that no longer are."""
        finite = [value for value in dice.values() if math.isfinite(value)]
        if finite:  # else nothing was to find and nothing was found: there is no rank to give
            # Which end a case stays at is known only later; the slice with most errors tells most at either.
            self.rank(case.name, sum(finite) / len(finite), lambda: draw_case(case, classes=classes, dice=dice))

    def rank(self, name: str, score: float, draw: Callable[[], np.ndarray]) -> None:
        """Gives a case its place, and calls `draw` for its picture if it is now among the worst or the best."""
        if not self.count:
            return
        bisect.insort(self.order, (score, name))
        worst, best = self.places()
        if name in worst or name in best:
            self.pictures[name] = png_bytes(draw())
        self.pictures = {name: self.pictures[name] for name in (*worst, *best) if name in self.pictures}

    def write(self, folder: paths.Path) -> None:
        """Writes the pictures and removes those of an earlier evaluation."""
        folder.mkdir(parents=True, exist_ok=True)
        worst, best = self.places()
        wanted: dict[str, str] = {}
        for kind, names in (("worst", worst), ("best", best)):
            wanted |= {f"{kind}_{rank:02d}_{file_stem(name)}.png": name for rank, name in enumerate(names, start=1)}
        for file, name in wanted.items():
            paths.write_bytes(folder / file, self.pictures[name])
        for old in (*folder.glob("worst_*.png"), *folder.glob("best_*.png")):
            if old.name not in wanted:
                old.unlink()


class Scored(NamedTuple):
    """Rows, one list a case, and the pictures of the worst and the best."""

    groups: list[list[Row]]
    gallery: Gallery

    def rows(self) -> list[Row]:
        """Returns the rows of all cases in one list."""
        return [row for group in self.groups for row in group]


def merge_galleries(galleries: Sequence[Gallery]) -> Gallery:
    """Returns the worst and the best of all: each of them is among the worst or the best of its own gallery."""
    whole = Gallery(galleries[0].count)
    whole.order = sorted(entry for gallery in galleries for entry in gallery.order)
    worst, best = whole.places()
    pictures = {name: picture for gallery in galleries for name, picture in gallery.pictures.items()}
    whole.pictures = {name: pictures[name] for name in (*worst, *best)}
    return whole


def file_stem(name: str) -> str:
    """Returns a case name that every file system takes: what is no letter, digit, dot, dash or underscore becomes _."""
    return re.sub(r"[^\w.\-]", "_", name)[:120]


def draw_case(case: CaseResult, *, classes: Sequence[str], dice: dict[str, float]) -> np.ndarray:
    """Returns the picture of a scored case, `(H, W, 3)` bytes; see `viz.case_panel`."""
    unknown = case.true.ndim == 2 and all(step == 1.0 for step in case.spacing_mm)  # a flat image without a scale
    title = case.name
    if not set(dice) <= set(classes):  # regions: no colour stands for one of them
        title += "   " + ", ".join(f"{name} Dice {number(value)}" for name, value in dice.items())
    return case_panel(
        case.image,
        classes=classes,
        true=case.true,
        pred=case.pred,
        roi=case.roi,
        spacing_mm=None if unknown else case.spacing_mm,
        scores=dice if set(dice) <= set(classes) else None,
        title=title,
        axes=case.axes if case.true.ndim == 3 else None,
        focus="error",
        uncertainty=case.uncertainty,
    )
