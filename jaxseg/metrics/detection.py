"""COCO average precision and recall of instances, boxes or masks (arrays or run lengths). Host numpy, float64.

The semantics are those of pycocotools. Every image's detections are matched greedily by falling score, at ten
thresholds of intersection over union. Crowd objects and objects outside the size range are ignored: what matches them
counts neither way. Precision is made non-increasing, sampled at 101 recalls and averaged over thresholds and over
classes that have objects.
Source: Lin et al., ECCV 2014; methods.md, section 12.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxseg.ops import run_length
from jaxseg.typing import Instances

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = (1, 10, 100)  # detections kept an image and class
SIZES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
Image = Mapping[str, Any] | Instances
Entries = Mapping[str, Any]


class _Matches(NamedTuple):
    """One image, class and size range; T thresholds, D detections by falling score."""

    scores: Float[np.ndarray, " D"]
    matched: Bool[np.ndarray, "T D"]
    ignored: Bool[np.ndarray, "T D"]
    objects: int  # that count


class _Pair(NamedTuple):
    """One image's detections and objects of one class."""

    overlaps: Float[np.ndarray, "D G"]
    scores: Float[np.ndarray, " D"]
    areas: Float[np.ndarray, " D"]
    true_areas: Float[np.ndarray, " G"]
    crowd: Bool[np.ndarray, " G"]


def coco_average_precision(
    predictions: Sequence[Image], truths: Sequence[Image], *, kind: Literal["mask", "box"] = "mask"
) -> dict[str, float]:
    """Returns the twelve COCO figures: AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl; -1 without any object.

    Args:
      predictions: one `Instances` an image, or one dict: "scores" `(N,)`, "labels" `(N,)`, and "boxes" `(N, 4)` xyxy
        in pixels (pixel i covers `[i, i + 1)`) or "masks" `(N, H, W)` bool. With kind="box" and no boxes, the masks'
        own are taken.
      truths: one `Instances` an image in the same order, or one dict: "labels", "boxes" or "masks" likewise, and
        optionally "crowd" `(N,)` bool and "area" `(N,)` in pixels, the size that small, medium and large go by
        (default: of the mask or the box).
      kind: what overlaps are taken of.

    Raises:
      ValueError: the lists have different lengths, or an entry is missing or of the wrong length.
    """
    pairs = _pairs(predictions, truths, kind, MOST[-1])
    figures = {size: _figures(pairs, limits, THRESHOLDS, MOST) for size, limits in SIZES.items()}
    precisions, recalls = figures["all"]
    result = {
        "AP": _mean(precisions),
        "AP50": _mean(precisions[:, 0]),
        "AP75": _mean(precisions[:, 5]),
        "APs": _mean(figures["small"][0]),
        "APm": _mean(figures["medium"][0]),
        "APl": _mean(figures["large"][0]),
    }
    result |= {f"AR{most}": _mean(recalls[:, place]) for place, most in enumerate(MOST)}
    return result | {f"AR{size[0]}": _mean(figures[size][1][:, -1]) for size in ("small", "medium", "large")}


def average_precision_at(
    predictions: Sequence[Image],
    truths: Sequence[Image],
    *,
    threshold: float = 0.5,
    kind: Literal["mask", "box"] = "mask",
    most: int | None = MOST[-1],
) -> float:
    """Returns the average precision at one overlap (101 recalls), the mean over classes; -1 without any object.

    Args:
      predictions, truths, kind: as in `coco_average_precision`.
      threshold: least intersection over union of a match, above 0.
      most: detections kept an image and class, those of the highest scores; COCO's 100 caps the recall of images with
        more objects. None: all.

    Raises:
      ValueError: as `coco_average_precision`; or an option is out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold should lie above 0 and at most at 1, not at {threshold}.")
    if most is not None and most < 1:
        raise ValueError(f"most should be 1 or more, or None for all, not {most}.")
    pairs = _pairs(predictions, truths, kind, most)
    return _mean(_figures(pairs, SIZES["all"], np.array([threshold]), (most,))[0])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else -1.0


def _pairs(
    predictions: Sequence[Image], truths: Sequence[Image], kind: str, most: int | None
) -> dict[int, list[_Pair]]:
    """Returns by class the images in which it was predicted or is present; `most` detections an image."""
    if kind not in ("mask", "box"):
        raise ValueError(f'kind should be "mask" or "box", not {kind!r}.')
    if len(predictions) != len(truths):
        raise ValueError(f"There should be one prediction an image: {len(predictions)} for {len(truths)} truths.")
    pairs: dict[int, list[_Pair]] = {}
    for number, (pred, true) in enumerate(zip(map(_entries, predictions), map(_entries, truths))):
        for name, image, keys in (("prediction", pred, ("labels", "scores")), ("truth", true, ("labels",))):
            _check(image, keys, kind, f"{name} {number}")
        pred_labels, true_labels = np.asarray(pred["labels"]), np.asarray(true["labels"])
        crowd = np.asarray(true.get("crowd", np.zeros(len(true_labels))), bool)
        scores = np.asarray(pred["scores"], np.float64)
        for label in np.union1d(pred_labels, true_labels):
            chosen, objects = np.flatnonzero(pred_labels == label), np.flatnonzero(true_labels == label)
            chosen = chosen[np.argsort(-scores[chosen], kind="stable")][:most]
            overlaps, areas, true_areas = _overlap(pred, true, chosen, objects, crowd[objects], kind)
            if "area" in true:
                true_areas = np.asarray(true["area"], np.float64)[objects]
            pair = _Pair(overlaps, scores[chosen], areas, true_areas, crowd[objects])
            pairs.setdefault(int(label), []).append(pair)
    return pairs


def _entries(image: Image) -> Entries:
    if not isinstance(image, Instances):
        return image
    return {key: value for key, value in image._asdict().items() if value is not None}


def _check(image: Entries, keys: tuple[str, ...], kind: str, where: str) -> None:
    shapes = ("masks",) if kind == "mask" else ("boxes", "masks")
    found = [key for key in shapes if image.get(key) is not None]
    missing = [key for key in keys if key not in image]
    if missing or not found:
        raise ValueError(f"{where} should have {', '.join(keys)} and {' or '.join(shapes)}; it has {sorted(image)}.")
    number = len(image["labels"])
    for key in (*keys, found[0], *(key for key in ("crowd", "area") if key in image)):
        if len(image[key]) != number:
            raise ValueError(f"{where}: {key} should have one entry a label, {number}, not {len(image[key])}.")


def _overlap(
    pred: Entries, true: Entries, chosen: np.ndarray, objects: np.ndarray, crowd: np.ndarray, kind: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the overlaps (D, G) and both sides' areas; over a crowd, of the detection's own area only."""
    if kind == "mask" and (_is_encoded(pred) or _is_encoded(true)):
        return _encoded_overlap(_encoded(pred, chosen), _encoded(true, objects), crowd)
    if kind == "mask":
        shared, areas, true_areas = _shared_mask(_masks(pred, chosen), _masks(true, objects))
    else:
        shared, areas, true_areas = _shared_box(_boxes(pred, chosen), _boxes(true, objects))
    union = np.where(crowd[None], areas[:, None], areas[:, None] + true_areas[None] - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0), areas, true_areas


def _is_encoded(image: Entries) -> bool:
    """Whether the masks are run lengths; without any it makes no difference."""
    return len(image["masks"]) > 0 and isinstance(image["masks"][0], Mapping)


def _encoded(image: Entries, rows: np.ndarray) -> list[run_length.RunLength]:
    masks = image["masks"]
    return [masks[row] if _is_encoded(image) else run_length.encode(np.asarray(masks[row], bool)) for row in rows]


def _encoded_overlap(
    pred: list[run_length.RunLength], true: list[run_length.RunLength], crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sizes = {tuple(mask["size"]) for mask in (*pred, *true)}
    if len(sizes) > 1:
        raise ValueError(f"Masks of an image should have one size; these have {sorted(sizes)}.")
    return run_length.overlaps(pred, true, crowd=crowd), run_length.areas(pred), run_length.areas(true)


def _masks(image: Entries, rows: np.ndarray) -> Bool[np.ndarray, "N P"]:
    masks = np.asarray(image["masks"], bool)
    return masks[rows].reshape(len(rows), int(np.prod(masks.shape[1:])))


def _boxes(image: Entries, rows: np.ndarray) -> Float[np.ndarray, "N 4"]:
    if image.get("boxes") is not None:
        return np.asarray(image["boxes"], np.float64).reshape(-1, 4)[rows]
    if _is_encoded(image) or not len(image["masks"]):
        return run_length.boxes(_encoded(image, rows))
    return mask_boxes(np.asarray(image["masks"], bool)[rows])


def mask_boxes(masks: Bool[np.ndarray, "N H W"]) -> Float[np.ndarray, "N 4"]:
    """Returns the bounding box of each mask as xyxy, both ends of a pixel included; zeros for an empty mask."""
    boxes = np.zeros((len(masks), 4))
    for row, mask in enumerate(masks):
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if ys.size:
            boxes[row] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
    return boxes


def _shared_mask(pred: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if len(pred) and len(true) and pred.shape[1] != true.shape[1]:
        raise ValueError(f"Masks should have one size; predicted have {pred.shape[1]} pixels, true {true.shape[1]}.")
    areas, true_areas = pred.sum(axis=1, dtype=np.float64), true.sum(axis=1, dtype=np.float64)
    if not len(pred) or not len(true):
        return np.zeros((len(pred), len(true))), areas, true_areas
    exact: type[np.floating] = np.float32 if pred.shape[1] < 2**24 else np.float64  # float32 counts to 2^24 exactly
    return (pred.astype(exact) @ true.astype(exact).T).astype(np.float64), areas, true_areas


def _shared_box(pred: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low = np.maximum(pred[:, None, :2], true[None, :, :2])
    high = np.minimum(pred[:, None, 2:], true[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    return shared, np.prod(pred[:, 2:] - pred[:, :2], axis=-1), np.prod(true[:, 2:] - true[:, :2], axis=-1)


def _match(pair: _Pair, limits: tuple[float, float], thresholds: Float[np.ndarray, " T"]) -> _Matches:
    """Matches one image: a detection takes the free object it overlaps most, those that count before ignored ones."""
    low, high = limits
    ignored_object = pair.crowd | (pair.true_areas < low) | (pair.true_areas > high)
    order = np.argsort(ignored_object, kind="stable")
    ignored_object, crowd, overlaps = ignored_object[order], pair.crowd[order], pair.overlaps[:, order]
    outside = (pair.areas < low) | (pair.areas > high)
    matched = np.zeros((len(thresholds), len(pair.scores)), bool)
    ignored = np.zeros_like(matched)
    for row, threshold in enumerate(thresholds):
        taken = np.zeros(len(order), bool)
        for column, overlap in enumerate(overlaps):
            free = (~taken | crowd) & (overlap >= min(threshold, 1 - 1e-10))
            best = _best(overlap, free & ~ignored_object)
            best = _best(overlap, free & ignored_object) if best is None else best
            if best is None:
                ignored[row, column] = outside[column]
                continue
            taken[best] = matched[row, column] = True
            ignored[row, column] = ignored_object[best]
    return _Matches(pair.scores, matched, ignored, int(np.count_nonzero(~ignored_object)))


def _best(overlap: np.ndarray, allowed: np.ndarray) -> int | None:
    """Returns the place of the largest overlap among the allowed, the last of equals as in pycocotools."""
    places = np.flatnonzero(allowed)
    if not places.size:
        return None
    return int(places[places.size - 1 - np.argmax(overlap[places][::-1])])


def _figures(
    pairs: dict[int, list[_Pair]],
    limits: tuple[float, float],
    thresholds: Float[np.ndarray, " T"],
    mosts: tuple[int | None, ...],
) -> tuple[Float[np.ndarray, "K T R"], Float[np.ndarray, "K M T"]]:
    """Returns the sampled precisions (at the last of `mosts`) and final recalls of the classes that have objects."""
    precisions, recalls = [], []
    for label in sorted(pairs):
        matches = [_match(pair, limits, thresholds) for pair in pairs[label]]
        if not sum(match.objects for match in matches):
            continue
        curves = [_curve(matches, most) for most in mosts]
        precisions.append(curves[-1][0])
        recalls.append([recall for _, recall in curves])
    shape = (len(precisions), len(thresholds), len(RECALLS))
    return np.array(precisions).reshape(shape), np.array(recalls).reshape(len(recalls), len(mosts), len(thresholds))


def _curve(matches: list[_Matches], most: int | None) -> tuple[Float[np.ndarray, "T R"], Float[np.ndarray, " T"]]:
    """Returns precision at the 101 recalls, and the final recall, at each threshold; `most` detections an image."""
    scores = np.concatenate([match.scores[:most] for match in matches])
    order = np.argsort(-scores, kind="stable")
    matched = np.concatenate([match.matched[:, :most] for match in matches], axis=1)[:, order]
    ignored = np.concatenate([match.ignored[:, :most] for match in matches], axis=1)[:, order]
    objects = sum(match.objects for match in matches)
    sampled, final = np.zeros((len(matched), len(RECALLS))), np.zeros(len(matched))
    right = np.cumsum(matched & ~ignored, axis=1, dtype=np.float64)
    wrong = np.cumsum(~matched & ~ignored, axis=1, dtype=np.float64)
    for row in range(len(matched) if order.size else 0):
        recall = right[row] / objects
        precision = right[row] / (right[row] + wrong[row] + np.spacing(1))  # 0 / 0 of ignored detections is 0
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(recall, RECALLS, side="left")
        reached = places < recall.size
        sampled[row, reached] = precision[places[reached]]
        final[row] = recall[-1]
    return sampled, final
