"""A whole case as one picture: planes, letters, scale bar and a legend with the scores."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Integer, Shaped, UInt8

from jaxseg.typing import IGNORE
from jaxseg.viz import colors, overlay

INK, FAINT, PAPER = (235, 238, 242), (160, 168, 178), (17, 20, 24)
_DARK = (36, 38, 42)  # the sample of darkened, unscored areas
_ROOM = 72  # a side shorter than this, in pixels, has no place for letters or a bar
GAP = 10  # pixels between pictures
_OPPOSITE = {"S": "I", "I": "S", "A": "P", "P": "A", "R": "L", "L": "R"}
# Radiological display: name of the plane -> (what the rows run towards, what the columns run towards).
_VIEWS = {"axial": ("P", "L"), "coronal": ("I", "L"), "sagittal": ("I", "P")}


class Plane(NamedTuple):
    """One flat picture of a case: arrays `(H, W)`, row 0 on top; spacing in mm of rows and columns, or None."""

    image: np.ndarray
    true: np.ndarray | None
    pred: np.ndarray | None
    roi: np.ndarray | None
    spacing: tuple[float, ...] | None
    letters: str  # top, bottom, left, right; "" where unknown
    caption: str


def _turn(array: np.ndarray, axes: str, rows: str, columns: str) -> np.ndarray:
    """Brings a plane `(H, W, ...)` whose axes increase towards the two letters `axes` to the wanted directions."""
    if axes[0] in (columns, _OPPOSITE[columns]):
        array, axes = np.swapaxes(array, 0, 1), axes[::-1]
    array = array if axes[0] == rows else array[::-1]
    return array if axes[1] == columns else array[:, ::-1]


def focus_slices(
    shape: tuple[int, ...], *, true: np.ndarray | None, pred: np.ndarray | None, focus: str
) -> tuple[int, ...]:
    """Returns where to cut: the slice of the first axis with most of what `focus` names, then the others through it.

    Args:
      shape: of the volume, in voxels.
      true: class ids or None.
      pred: class ids or None.
      focus: "truth" (foreground of the truth; of the prediction if there is none) or "error" (where the two differ,
        each class by its own size, so that a missed lesion outweighs the rim of an organ; the truth if they do not
        differ). Without either the middle is shown.
    """
    weights = _error_weight(true, pred) if focus == "error" and true is not None and pred is not None else None
    for labels in (true, pred):
        if (weights is None or not weights.any()) and labels is not None:
            weights = (labels > 0).astype(np.float32)
    if weights is None or not weights.any():
        return tuple(n // 2 for n in shape)
    first = int(weights.sum(axis=(1, 2)).argmax())
    return first, int(weights[first].sum(axis=1).argmax()), int(weights[first].sum(axis=0).argmax())


def _error_weight(true: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """What each voxel costs: 1 / (voxels of the class in truth and prediction) for each class that is wrong there."""
    weights = np.zeros(true.shape, np.float32)
    wrong = (true != pred) & (true != IGNORE)
    for index in np.union1d(true[wrong], pred[wrong]):
        if index > 0:
            in_true, in_pred = true == index, pred == index
            size = np.count_nonzero(in_true) + np.count_nonzero(in_pred)
            weights += (wrong & (in_true | in_pred)) * np.float32(1 / size)
    return weights


def planes_of(
    image: Shaped[np.ndarray, "*S C"],
    *,
    true: Integer[np.ndarray, "*S"] | None = None,
    pred: Integer[np.ndarray, "*S"] | None = None,
    roi: Bool[np.ndarray, "*S"] | None = None,
    spacing_mm: Sequence[float] | None = None,
    axes: str | None = "SAR",
    focus: str = "truth",
) -> list[Plane]:
    """Cuts a case into the planes to show: the picture itself in 2D; axial, coronal and sagittal in 3D.

    Args:
      image: intensities, `(H, W, C)` or `(D, H, W, C)`.
      true: class ids or None.
      pred: class ids or None.
      roi: what is scored, or None for all.
      spacing_mm: in array order; None where unknown.
      axes: for 3D, the directions that the three axes increase towards (S I A P R L); None where unknown, then the
        planes are shown as stored and carry no letters.
      focus: which slice, see `focus_slices`.

    Raises:
      ValueError: the image is neither flat nor a volume, or `axes` is not three letters.
    """
    if image.ndim == 3:
        spacing = tuple(spacing_mm) if spacing_mm is not None else None
        return [Plane(image, true, pred, roi, spacing, "", "")]
    if image.ndim != 4:
        raise ValueError(f"image should be (H, W, C) or (D, H, W, C), it has shape {image.shape}.")
    if axes is not None and sorted(axes.translate(str.maketrans("IPL", "SAR"))) != ["A", "R", "S"]:
        raise ValueError(f"axes should name three directions such as 'SAR', it is {axes!r}.")
    places = focus_slices(image.shape[:3], true=true, pred=pred, focus=focus)
    return [_cut(axis, places[axis], image, true, pred, roi, spacing_mm, axes) for axis in _axis_order(axes)]


def _axis_order(axes: str | None) -> list[int]:
    """Returns the axes to cut across, for axial, coronal and sagittal."""
    if axes is None:
        return [0, 1, 2]
    return [next(i for i, letter in enumerate(axes) if letter in pair) for pair in ("SI", "AP", "RL")]


def _cut(axis: int, place: int, image, true, pred, roi, spacing_mm, axes: str | None) -> Plane:
    """Takes one slice across `axis`, turned as a radiologist expects it."""
    rest = [i for i in range(3) if i != axis]
    spacing = tuple(float(spacing_mm[i]) for i in rest) if spacing_mm is not None else None
    view, letters = f"axis {axis}", ""
    turn: Callable[[np.ndarray], np.ndarray] = np.asarray
    if axes is not None:
        view = "axial" if axes[axis] in "SI" else "coronal" if axes[axis] in "AP" else "sagittal"
        rows, columns = _VIEWS[view]
        stored = axes[rest[0]] + axes[rest[1]]
        turn = functools.partial(_turn, axes=stored, rows=rows, columns=columns)
        letters = _OPPOSITE[rows] + rows + _OPPOSITE[columns] + columns
        if spacing and stored[0] in (columns, _OPPOSITE[columns]):
            spacing = spacing[::-1]

    def flat(array):
        return None if array is None else turn(np.take(array, place, axis))

    caption = f"{view}, slice {place + 1} of {image.shape[axis]}"
    return Plane(flat(image), flat(true), flat(pred), flat(roi), spacing, letters, caption)


def _font(size: int, *, bold: bool = False):
    """The font that comes with matplotlib: Latin, Greek and Cyrillic on every system."""
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}", size)


def pixel_sizes(planes: Sequence[Plane], *, size: int) -> list[tuple[int, int]]:
    """Returns (height, width) in pixels: one scale in pixels a mm for all planes, the longest side `size` or more.

    The pictures never shrink below one pixel a voxel, unless a side would pass four times `size`.
    """
    spacings = [plane.spacing or (1.0, 1.0) for plane in planes]
    extents = [(p.image.shape[0] * s[0], p.image.shape[1] * s[1]) for p, s in zip(planes, spacings)]
    longest = max(max(extent) for extent in extents)
    scale = max(size / longest, 1 / max(max(s) for s in spacings))
    scale = min(scale, 4 * size / longest)
    return [(max(1, round(height * scale)), max(1, round(width * scale))) for height, width in extents]


def bar_length(extent_mm: float) -> float:
    """Returns the longest of 1, 2, 5, 10, ... mm (and their tenths) that fits a third of the extent."""
    power = 10.0 ** math.floor(math.log10(extent_mm / 3))
    return max(step * power for step in (1, 2, 5) if step * power <= extent_mm / 3 * (1 + 1e-9))


def _shadowed(draw, position, text: str, font, anchor: str) -> None:
    draw.text(position, text, font=font, fill=INK, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))


def _annotate(picture: np.ndarray, plane: Plane, *, bar: bool) -> np.ndarray:
    """Writes the direction letters and the scale bar into a picture."""
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(picture)
    draw, (height, width) = ImageDraw.Draw(canvas), picture.shape[:2]
    if plane.letters:
        places = ((width // 2, 5), (width // 2, height - 5), (6, height // 2), (width - 6, height // 2))
        room = (height, height, width, width)
        for letter, place, anchor, side in zip(plane.letters, places, ("mt", "mb", "lm", "rm"), room):
            if side >= _ROOM:
                _shadowed(draw, place, letter, _font(16, bold=True), anchor)
    if bar and plane.spacing is not None and height >= _ROOM:
        per_mm = width / (plane.image.shape[1] * plane.spacing[1])
        length = bar_length(width / per_mm)
        left, bottom, across = 12, height - 12, round(length * per_mm)
        draw.rectangle((left - 1, bottom - 4, left + across + 1, bottom + 1), fill=(0, 0, 0))
        draw.rectangle((left, bottom - 3, left + across, bottom), fill=INK)
        _shadowed(draw, (left, bottom - 8), f"{length:g} mm", _font(13), "lb")
    return np.asarray(canvas)


def _row(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Sets pictures side by side, centred in height."""
    height, width = max(p.shape[0] for p in pictures), sum(p.shape[1] + GAP for p in pictures) - GAP
    canvas, left = np.full((height, width, 3), PAPER, np.uint8), 0
    for picture in pictures:
        top = (height - picture.shape[0]) // 2
        canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        left += picture.shape[1] + GAP
    return canvas


def _stack(parts: Sequence[np.ndarray], *, width: int) -> np.ndarray:
    """Sets pictures below each other on paper of one width, with a margin."""
    height = sum(part.shape[0] + GAP for part in parts) + GAP
    canvas, top = np.full((height, width + 2 * GAP, 3), PAPER, np.uint8), GAP
    for part in parts:
        left = GAP + (width - part.shape[1]) // 2
        canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
        top += part.shape[0] + GAP
    return canvas


def _captions(planes: Sequence[Plane], widths: Sequence[int]) -> np.ndarray:
    """The line of captions above a row of pictures."""
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (sum(widths) + GAP * (len(widths) - 1), 18), PAPER)
    draw, left = ImageDraw.Draw(canvas), 0
    for plane, width in zip(planes, widths):
        draw.text((left + width // 2, 9), plane.caption, font=_font(13), fill=FAINT, anchor="mm")
        left += width + GAP
    return np.asarray(canvas)


def _sample_line(draw, left: float, middle: float, *, dashed: bool) -> None:
    steps = ((0, 8), (13, 21), (26, 34)) if dashed else ((0, 34),)
    for start, stop in steps:
        draw.line((left + start, middle, left + stop, middle), fill=INK, width=3)


def legend(
    entries: Sequence[tuple[int, str, str]],
    *,
    width: int,
    title: str = "",
    lines: Sequence[str] = ("truth", "prediction"),
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws the plate below the pictures: the title, what the lines mean, and one entry a class.

    Args:
      entries: (class id, class name, value as text).
      width: of the plate, in pixels; entries wrap.
      title: case name and the like.
      lines: the meaning of the solid line, then of the dashed one; then of darkened areas.
    """
    from PIL import Image, ImageDraw

    bold, plain = _font(16, bold=True), _font(15)
    samples = ("solid", "dashed")
    items = [(samples[i] if i < 2 else _DARK, text, "") for i, text in enumerate(lines)]
    items += [(colors.class_color(index), name, value) for index, name, value in entries]
    places, left, top = [], 0.0, 34 if title else 8
    for _, name, value in items:
        need = 44 + plain.getlength(name) + (8 + bold.getlength(value) if value else 0) + 26
        if left and left + need - 26 > width:
            left, top = 0.0, top + 26
        places.append((left, top))
        left += need
    canvas = Image.new("RGB", (width, top + 24), PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((0, 14), _shorten(title, bold, width), font=bold, fill=INK, anchor="lm")
    for (sample, name, value), (left, top) in zip(items, places):
        middle = top + 10
        if sample in samples:
            _sample_line(draw, left, middle, dashed=sample == "dashed")
        else:
            draw.rectangle((left, middle - 6, left + 34, middle + 6), fill=sample, outline=FAINT)
        draw.text((left + 42, middle), name, font=plain, fill=INK, anchor="lm")
        if value:
            draw.text((left + 50 + plain.getlength(name), middle), value, font=bold, fill=INK, anchor="lm")
    return np.asarray(canvas)


def _shorten(text: str, font, width: int) -> str:
    """Cuts the middle out of a text that is too long for the plate."""
    if font.getlength(text) <= width:
        return text
    keep = len(text)
    while keep > 2 and font.getlength(text[: keep // 2] + "…" + text[-(keep // 2) :]) > width:
        keep -= 1
    return text[: keep // 2] + "…" + text[-(keep // 2) :]


def _values(classes: Sequence[str], pred, spacing_mm, scores: Mapping[str, float] | None) -> list[tuple[int, str, str]]:
    """One legend entry a foreground class: its Dice, or the predicted volume where there is no truth."""
    entries = []
    for index, name in enumerate(classes[1:], start=1):
        if scores is not None:
            score = scores.get(name, math.nan)
            value = "Dice " + ("n/a" if math.isnan(score) else f"{score:.3f}")
        elif pred is not None and pred.ndim == 3 and spacing_mm is not None:
            value = f"{np.count_nonzero(pred == index) * math.prod(spacing_mm) / 1000:.2f} ml"
        elif pred is not None:
            value = f"{100 * np.count_nonzero(pred == index) / pred.size:.1f} % of the image"
        else:
            value = ""
        entries.append((index, name, value))
    return entries


def case_panel(
    image: Shaped[np.ndarray, "*S C"],
    *,
    classes: Sequence[str],
    true: Integer[np.ndarray, "*S"] | None = None,
    pred: Integer[np.ndarray, "*S"] | None = None,
    roi: Bool[np.ndarray, "*S"] | None = None,
    spacing_mm: Sequence[float] | None = None,
    scores: Mapping[str, float] | None = None,
    title: str = "",
    axes: str | None = "SAR",
    focus: str = "truth",
    plain: bool = True,
    size: int = 512,
    levels: tuple[float, float] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws a case: the bare image beside (2D) or above (3D) the same with contours, and a legend.

    Args:
      image: intensities `(H, W, C)` or `(D, H, W, C)`; of volumes the first channel is shown.
      classes: class names by id, background first.
      true: class ids, solid contours; None in prediction.
      pred: class ids, dashed contours (solid where there is no truth).
      roi: what is scored; the rest is darkened.
      spacing_mm: in array order, None where unknown: then square voxels and no scale bar.
      scores: class name -> Dice for the legend.
      title: the case's name.
      axes: see `planes_of`.
      focus: "truth" or "error", see `focus_slices`.
      plain: whether to show the image without contours as well.
      size: pixels of the longest side of a picture, at least.
      levels: intensities of black and white, otherwise `overlay.window(image)`.
    """
    planes = planes_of(image, true=true, pred=pred, roi=roi, spacing_mm=spacing_mm, axes=axes, focus=focus)
    flat = len(planes) == 1
    levels = levels or overlay.window(image if flat else image[..., :1])
    sizes = pixel_sizes(planes, size=size)
    shared: dict[str, Any] = {"levels": levels, "channel": None if flat else 0}
    marked, bare = [], []
    for plane, pixels in zip(planes, sizes):
        drawn = overlay.slice_overlay(
            plane.image, true=plane.true, pred=plane.pred, roi=plane.roi, size=pixels, **shared
        )
        marked.append(_annotate(drawn, plane, bar=True))
        bare.append(_annotate(overlay.slice_overlay(plane.image, size=pixels, **shared), plane, bar=False))
    rows = [_row([*(bare if plain else ()), *marked])] if flat else [*([_row(bare)] if plain else []), _row(marked)]
    if not flat:
        rows.insert(0, _captions(planes, [width for _, width in sizes]))
    width = max(max(row.shape[1] for row in rows), 480)
    lines = [name for name, array in (("truth", true), ("prediction", pred)) if array is not None]
    values = _values(classes, pred if true is None else None, spacing_mm, scores)
    if (roi is not None and not roi.all()) or (true is not None and (true == IGNORE).any()):
        lines.append("not scored")
    return _stack([*rows, legend(values, width=width, title=title, lines=lines)], width=width)
