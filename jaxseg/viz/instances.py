"""Objects as a picture: the truth beside the prediction, each object in a colour of its own, errors in dashed red.

An object that was found bears one colour on both sides, so that the eye can pair them; what was missed or invented is
not filled.
"""

import colorsys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from jaxseg import metrics
from jaxseg.ops import run_length
from jaxseg.typing import Instances
from jaxseg.viz import colors, overlay, panels
from jaxseg.viz.planes import Plane

FEW = 30  # up to so many objects a side bear boxes and names
IOU = 0.5  # from here on a true and a predicted object of one class are the same
ERROR, CROWD = (255, 45, 45), (170, 174, 180)
_FILL = 0.25  # opacity inside an object
_LONGEST = 4  # times the wanted shorter side: what the longer side of a picture has at most
_NEAR = 8  # pixels between boxes
_APART, _TRIED = 0.15, 24  # hues, of a circle of 1; colours looked at for an object
_GOLDEN_RATIO = 0.618033988749895


class _Mark(NamedTuple):
    """How one object is drawn."""

    color: colors.Color
    wrong: bool
    text: str


def object_color(number: int) -> colors.Color:
    """Returns the colour with this number: hues a golden ratio apart, without the red of errors."""
    red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(float(_hue(number)), 0.68, 1.0))
    return red, green, blue


def _hue(number: int | Int[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return np.asarray(0.07 + 0.84 * ((number * _GOLDEN_RATIO) % 1.0))


def object_colors(boxes: Float[np.ndarray, "N 4"]) -> list[colors.Color]:
    """Returns the colour of each object: one that differs from those of the objects near it.

    The colours are those of `object_color`; an object takes that of its own number, or the first later one whose hue
    is `_APART` from all near it, or of the next `_TRIED` the one farthest from them.

    Args:
      boxes: of the objects, xyxy in pixels; those within `_NEAR` pixels of each other are near.
    """
    numbers = np.zeros(len(boxes), int)
    for row, box in enumerate(boxes):
        gaps = np.maximum(boxes[:row, :2] - box[2:], box[:2] - boxes[:row, 2:])
        taken = _hue(numbers[:row][(gaps < _NEAR).all(axis=1)])
        tried = row + np.arange(_TRIED)
        away = np.abs(_hue(tried)[:, None] - taken[None]).min(axis=1, initial=1.0)
        numbers[row] = tried[int(np.argmax(np.minimum(away, _APART)))]
    return [object_color(int(number)) for number in numbers]


def match(pred: Instances, true: Instances) -> tuple[Int[np.ndarray, " D"], Bool[np.ndarray, " D"]]:
    """Pairs objects of one class as `metrics.instances.match` does, so that pictures show what the figures count.

    Returns:
      For each prediction the row of its true object, or -1; and which predictions lie by more than half in a crowd
      region of their class, so that they count neither way.
    """
    shares = run_length.overlaps(pred.masks, true.masks, crowd=true.crowd)
    shares = np.where(pred.labels[:, None] == true.labels[None, :], shares, 0.0)
    excused = (shares[:, true.crowd] > 0.5).any(axis=1)
    rows, columns = metrics.match_instances(np.where(true.crowd, 0.0, shares), threshold=IOU)
    found = np.full(len(pred.masks), -1)
    found[rows] = columns
    return found, excused & (found < 0)


def _names(instances: Instances, classes: Sequence[str], *, scored: bool) -> list[str]:
    """What the plates say: "name 0.93", without the score in the truth."""
    names = [classes[label] for label in instances.labels]
    if not scored:
        return [name + (", crowd" if crowd else "") for name, crowd in zip(names, instances.crowd)]
    return [f"{name} {score:.2f}" for name, score in zip(names, instances.scores)]


def _marks(
    pred: Instances | None, true: Instances | None, classes: Sequence[str]
) -> tuple[list[_Mark] | None, list[_Mark] | None]:
    """Returns how the objects of the prediction and of the truth are drawn; None for the side that is not there."""
    if pred is None or true is None:
        alone = pred if pred is not None else true
        assert alone is not None
        names, tones = _names(alone, classes, scored=true is None), object_colors(_boxes(alone))
        marks = [_Mark(CROWD if crowd else tone, False, name) for crowd, name, tone in zip(alone.crowd, names, tones)]
        return (marks, None) if true is None else (None, marks)
    found, excused = match(pred, true)
    tones = object_colors(_boxes(true))
    hit = np.isin(np.arange(len(true.masks)), found)
    true_marks = [
        _Mark(CROWD if true.crowd[row] else tones[row] if hit[row] else ERROR, not (hit[row] or crowd), name)
        for row, (crowd, name) in enumerate(zip(true.crowd, _names(true, classes, scored=False)))
    ]
    pred_marks = []
    for row, name in enumerate(_names(pred, classes, scored=True)):
        neutral = bool(excused[row] or pred.crowd[row])
        if found[row] >= 0:
            pred_marks.append(_Mark(tones[found[row]], False, name))
        else:
            pred_marks.append(_Mark(CROWD if neutral else ERROR, not neutral, name))
    return pred_marks, true_marks


def _boxes(instances: Instances) -> Float[np.ndarray, "N 4"]:
    """The objects' own boxes, xyxy, or those of their masks."""
    boxes = run_length.boxes(instances.masks) if instances.boxes is None else instances.boxes
    return np.asarray(boxes, np.float64).reshape(-1, 4)


def _sides(picture: np.ndarray, instances: Instances, marks: Sequence[_Mark], *, boxes: bool) -> np.ndarray:
    """Draws the objects of one side into an enlarged picture: fills, then contours, then boxes and names."""
    size = picture.shape[:2]
    height, width = instances.masks[0]["size"] if instances.masks else size
    scale = np.array([size[1] / width, size[0] / height])
    tint, inside = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    lines, tight = [], run_length.boxes(instances.masks).astype(int)
    for row in np.argsort(-run_length.areas(instances.masks), kind="stable"):  # small objects lie on top of large ones
        left, top, right, bottom = tight[row]
        part = slice(top, bottom), slice(left, right)
        mask = run_length.decode(instances.masks[row])[part]
        if not marks[row].wrong:
            tint[part][mask], inside[part][mask] = marks[row].color, 1
        for line in overlay.contours(mask):
            points = np.add(line, (left, top)) * scale * overlay._SUPERSAMPLE
            on, off = 5 * overlay._SUPERSAMPLE, 4 * overlay._SUPERSAMPLE
            pieces = overlay.dashes(points, on=on, off=off) if marks[row].wrong else [points]
            lines += [(int(row), piece) for piece in pieces]
    tint, inside = (overlay._resize(array, size, nearest=True) for array in (tint, inside))
    mixed = np.where(inside[..., None] > 0, picture * (1 - _FILL) + tint * _FILL, picture)
    drawn = np.rint(mixed).astype(np.uint8)
    for wrong, thick in ((False, 1.4), (True, 2.2)):  # errors lie on top
        some = [line for line in lines if marks[line[0]].wrong == wrong]
        drawn = overlay._draw(drawn, some, width=thick, tone=lambda row: marks[row].color) if some else drawn
    return _label(drawn, _boxes(instances) * np.tile(scale, 2), marks) if boxes else drawn


def _label(picture: np.ndarray, boxes: Float[np.ndarray, "N 4"], marks: Sequence[_Mark]) -> np.ndarray:
    """Draws boxes (in pixels of the picture) and a plate with the name beside each, where it hides least."""
    from PIL import Image, ImageDraw

    canvas, font = Image.fromarray(picture), panels._font(12)
    draw = ImageDraw.Draw(canvas)
    height, width = picture.shape[:2]
    for box, mark in zip(boxes, marks):
        left, top = np.clip(np.rint(box[:2]), 0, (width - 1, height - 1))
        right, bottom = np.clip(np.rint(box[2:]) - 1, (left, top), (width - 1, height - 1))
        draw.rectangle((left, top, right, bottom), outline=mark.color, width=1)
    texts = [panels._shorten(mark.text, font, max(1, width - 6)) for mark in marks]
    sizes = [(int(np.ceil(font.getlength(text))) + 6, 16) for text in texts]
    for place, mark, text in zip(_places(boxes, sizes, (width, height)), marks, texts):
        draw.rectangle(tuple(place - (0, 0, 1, 1)), fill=mark.color)
        ink = (0, 0, 0) if np.dot(mark.color, (0.299, 0.587, 0.114)) > 110 else (255, 255, 255)
        draw.text((place[0] + 3, place[1] + 8), text, font=font, fill=ink, anchor="lm")
    return np.asarray(canvas)


def _places(
    boxes: Float[np.ndarray, "N 4"], sizes: Sequence[tuple[int, int]], room: tuple[int, int]
) -> Int[np.ndarray, "N 4"]:
    """Returns the plate of each box, xyxy, inside the picture: above, below, or in it, where it covers least.

    Args:
      boxes: xyxy in pixels.
      sizes: (width, height) of the plates.
      room: (width, height) of the picture.
    """
    placed = np.zeros((len(boxes), 4), int)
    for row, ((left, top, right, bottom), (across, tall)) in enumerate(zip(boxes, sizes)):
        corners = [
            (x, y) for y in (top - tall, bottom, top, bottom - tall) for x in (left, right - across)
        ]  # the order in which equals are preferred
        starts = np.clip(np.rint(corners), 0, np.maximum(0, np.subtract(room, (across, tall)))).astype(int)
        candidates = np.concatenate([starts, np.minimum(np.add(starts, (across, tall)), room)], axis=1)
        # a hidden name is worse than a hidden object, which the other side of the picture shows too
        covered = [10 * _shared(place, placed[:row]) + _shared(place, boxes) for place in candidates]
        placed[row] = candidates[int(np.argmin(covered))]
    return placed


def _shared(box: np.ndarray, others: np.ndarray) -> float:
    """The area that a box shares with others, summed."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(np.maximum(sides, 0).prod(axis=1).sum())


def _counts(sides: Sequence[tuple[str, Instances | None, Sequence[_Mark] | None]], classes: Sequence[str]) -> list[str]:
    """Returns "nucleus: 87 found, 91 true" for each class that occurs (for all of up to four); grey ones do not count.

    Args:
      sides: (word for the number, objects, how they are drawn) of each side.
      classes: class names by id, background first.
    """
    entries = []
    for index, name in enumerate(classes[1:], start=1):
        counts = [
            (sum(mark.color != CROWD for mark, label in zip(marks, side.labels) if label == index), word)
            for word, side, marks in sides
            if side is not None and marks is not None
        ]
        if any(count for count, _ in counts) or len(classes) <= 5:
            entries.append(f"{name}: " + ", ".join(f"{count} {word}" for count, word in counts))
    return entries or ["no objects"]


def _legend(title: str, lines: Sequence[str], signs: Sequence[tuple[str, str]], *, width: int) -> np.ndarray:
    """The plate below the pictures: title, counts, and the meaning of the signs; all wrap within the width."""
    from PIL import Image, ImageDraw

    bold, plain = panels._font(16, bold=True), panels._font(15)
    items = [("", line) for line in lines] + list(signs)
    places, left, top = [], 0.0, 34 if title else 8
    for sign, text in items:
        need = (42 if sign else 0) + plain.getlength(text)
        if left and left + need > width:
            left, top = 0.0, top + 26
        places.append((left, top))
        left += need + 26
    canvas = Image.new("RGB", (width, top + 24), panels.PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((0, 14), panels._shorten(title, bold, width), font=bold, fill=panels.INK, anchor="lm")
    for (sign, text), (left, top) in zip(items, places):
        middle = top + 10
        if sign == "wrong":
            for start in (0, 13, 26):
                draw.line((left + start, middle, left + start + 8, middle), fill=ERROR, width=3)
        elif sign:
            draw.rectangle((left, middle - 6, left + 34, middle + 6), fill=CROWD)
        draw.text((left + (42 if sign else 0), middle), text, font=plain, fill=panels.INK, anchor="lm")
    return np.asarray(canvas)


def _check(name: str, instances: Instances | None, shape: tuple[int, ...], classes: Sequence[str]) -> None:
    """Raises ValueError for masks of another shape or class ids without a name."""
    if instances is None:
        return
    sizes = {tuple(mask["size"]) for mask in instances.masks} - {shape}
    if sizes:
        raise ValueError(f"The masks of {name} should have the image's shape {shape}, some have {sorted(sizes)[0]}.")
    strange = set(instances.labels.tolist()) - set(range(1, len(classes)))
    if strange:
        raise ValueError(
            f"The labels of {name} should be 1 to {len(classes) - 1} for {len(classes)} classes, background first; "
            f"they hold {min(strange)}."
        )


def instance_panel(
    image: Shaped[np.ndarray, "H W C"],
    *,
    pred: Instances | None,
    true: Instances | None,
    classes: Sequence[str],
    title: str = "",
    scores: Mapping[str, float] | None = None,
    size: int = 512,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws the objects of an image: left the truth, right the prediction, below their number.

    Objects of one class whose masks agree (IoU of at least `IOU`) share a colour. True objects that were missed and
    predictions that were invented are outlined in dashed red; crowd regions, and what was found in them, are grey.
    Up to `FEW` objects a side bear boxes and names. Small images are enlarged; very large or long ones shrink.

    Args:
      image: intensities; colour if there are three channels that differ, else the first channel in grey.
      pred: the predicted objects, or None.
      true: the true ones, or None.
      classes: class names by id, background first.
      title: the case's name.
      scores: name of a figure (as "PQ") -> its value for this image; stands below the pictures, NaN as "n/a".
      size: pixels that the shorter side has at least, as long as the longer one stays within four times as many.

    Raises:
      ValueError: neither side is given, masks of another shape than the image, or a class id without a name.
    """
    if pred is None and true is None:
        raise ValueError("instance_panel needs the objects of pred or of true, both are None.")
    for name, instances in (("pred", pred), ("true", true)):
        _check(name, instances, image.shape[:2], classes)
    if image.shape[-1] == 3 and (image == image[..., :1]).all():
        image = image[..., :1]  # grey stored as colour: it may be windowed
    scale = min(max(1.0, size / min(image.shape[:2])), _LONGEST * size / max(image.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    bare = overlay._resize(overlay.to_rgb(image, overlay.window(image)), (height, width), nearest=False)
    bare = np.rint(bare * overlay.DIM).astype(np.uint8)
    pred_marks, true_marks = _marks(pred, true, classes)
    few = max(len(side.masks) for side in (pred, true) if side is not None) <= FEW
    shown = [
        (caption, _sides(bare, side, marks, boxes=few))
        for caption, side, marks in (("truth", true, true_marks), ("prediction", pred, pred_marks))
        if side is not None and marks is not None
    ]
    planes = [Plane(image, None, None, None, None, "", caption) for caption, _ in shown]
    rows = [panels._captions(planes, [width] * len(shown)), panels._row([picture for _, picture in shown])]
    missed, invented = (sum(mark.wrong for mark in marks or ()) for marks in (true_marks, pred_marks))
    crowds = any(mark.color == CROWD for mark in [*(true_marks or ()), *(pred_marks or ())])
    signs = [("wrong", f"{missed} missed, {invented} invented")] * bool(missed or invented)
    signs += [("crowd", "crowd, not counted")] * crowds
    counts = _counts((("found", pred, pred_marks), ("true", true, true_marks)), classes)
    for name, value in (scores or {}).items():
        counts.append(f"{name} " + ("n/a" if np.isnan(value) else f"{value:.3f}"))
    across = max(rows[1].shape[1], 480)
    return panels._stack([*rows, _legend(title, counts, signs, width=across)], width=across)
