"""Scores predicted objects case by case, and all cases together by COCO's average precision."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg import metrics, paths
from jaxseg.evaluate.evaluator import Gallery, interleave, merge_galleries
from jaxseg.predict import above
from jaxseg.typing import Instances, UserError
from jaxseg.viz import instance_panel

RANKING = "dsb_score"  # what worst and best go by


class InstanceResult(NamedTuple):
    """One case: its image `(H, W, C)` for the picture, every predicted object, and the true ones."""

    name: str
    image: np.ndarray
    pred: Instances
    true: Instances


def evaluate_instances(
    cases: Iterable[InstanceResult],
    *,
    classes: Sequence[str],
    min_score: float,
    progress: Callable[[int, str], None] | None = None,
    overlay_folder: str | paths.Path | None = None,
    overlay_count: int = 4,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns (one row a case and class, see `metrics.instance_rows`; figures of all cases together).

    Rows and pictures look at objects of at least `min_score`; average precision looks at all of them, since it weighs
    them by their score itself.

    Args:
      cases: predicted when asked for the next; masks are kept as run lengths.
      classes: names by id, background first.
      min_score: of objects that count in the rows.
      progress: called with (cases done, name) after each case.
      overlay_folder: where worst_01_<case>.png and best_01_<case>.png go, by the mean `RANKING` over classes.
      overlay_count: how many of each, at most.

    Raises:
      UserError: there is no case.
    """
    count = overlay_count if overlay_folder is not None else 0
    found = score_instances(cases, classes=classes, min_score=min_score, progress=progress, overlay_count=count)
    rows, gallery, figures = merge_instances([found])
    if overlay_folder is not None:
        gallery.write(paths.path(overlay_folder))
    return rows, figures


class ScoredInstances(NamedTuple):
    """Rows, one list a case, the pictures of the worst and the best, and the objects of each case."""

    groups: list[list[dict[str, Any]]]
    gallery: Gallery
    pred: list[Instances]
    true: list[Instances]


def score_instances(
    cases: Iterable[InstanceResult],
    *,
    classes: Sequence[str],
    min_score: float,
    progress: Callable[[int, str], None] | None = None,
    overlay_count: int = 4,
) -> ScoredInstances:
    """What `evaluate_instances` finds, before it is written: a part of it where several processes share the cases."""
    gallery = Gallery(overlay_count)
    groups: list[list[dict[str, Any]]] = []
    pred, true = [], []
    for done, case in enumerate(cases, start=1):
        kept = above(case.pred, min_score)
        found = metrics.instance_rows(kept, case.true, classes=classes)
        groups.append([{"case": case.name, **row} for row in found])
        pred.append(case.pred)
        true.append(case.true)
        scores = [row[RANKING] for row in found if math.isfinite(row[RANKING])]
        if scores:
            score = float(np.mean(scores))
            title = f"{case.name}   DSB score {score:.3f}"
            draw = functools.partial(
                instance_panel, case.image, pred=kept, true=case.true, classes=classes, title=title
            )
            gallery.rank(case.name, score, draw)
        if progress is not None:
            progress(done, case.name)
    return ScoredInstances(groups, gallery, pred, true)


def merge_instances(
    parts: Sequence[ScoredInstances],
) -> tuple[list[dict[str, Any]], Gallery, dict[str, Any]]:
    """Returns rows, pictures and common figures of what n processes found, process i in the cases i, i + n, ...

    Raises:
      UserError: there is no case at all.
    """
    groups, pred, true = (interleave(of_parts) for of_parts in list(zip(*((p.groups, p.pred, p.true) for p in parts))))
    if not groups:
        raise UserError("There is no labelled case to evaluate; give a fold that holds images with objects.")
    rows = [row for group in groups for row in group]
    return rows, merge_galleries([part.gallery for part in parts]), together(pred, true)


def together(pred: Sequence[Instances], true: Sequence[Instances]) -> dict[str, Any]:
    """Returns COCO's twelve figures for masks and for boxes, and AP50 of masks without COCO's limit of 100 objects."""
    return {
        "mask": metrics.coco_average_precision(pred, true, kind="mask"),
        "box": metrics.coco_average_precision(pred, true, kind="box"),
        "mask_AP50_unlimited": metrics.average_precision_at(pred, true, threshold=0.5, most=None),
        "images": len(pred),
        "objects": int(sum((~objects.crowd).sum() for objects in true)),
    }
