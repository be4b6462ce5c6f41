"""A whole case as one picture: planes, letters, scale bar and a legend with the scores."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped, UInt8

from jaxseg.typing import IGNORE
from jaxseg.viz import colors, overlay
from jaxseg.viz.planes import Plane, planes_of

INK, FAINT, PAPER = (235, 238, 242), (160, 168, 178), (17, 20, 24)
_DARK = (36, 38, 42)  # the sample of darkened, unscored areas
_ROOM = 72  # a side shorter than this, in pixels, has no place for letters or a bar
GAP = 10  # pixels between pictures


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


def _heat_scale(name: str, *, width: int, below: int) -> np.ndarray:
    """The line that names the heat map and shows its colours from 0 to 1, as they look on grey tissue.

    Args:
      name: of what is shown.
      width: of the line, in pixels.
      below: width of the picture at its right end below which it is centred, if there is room.
    """
    from PIL import Image, ImageDraw

    plain, bar = _font(13), 150
    ramp = np.tile(np.linspace(0, 1, bar, dtype=np.float32), (12, 1))
    colored = overlay.uncertainty_overlay(np.full((12, bar), 96, np.uint8), ramp, levels=(0.0, 255.0))
    canvas = Image.new("RGB", (width, 20), PAPER)
    draw = ImageDraw.Draw(canvas)
    name = _shorten(name, plain, width - bar - 60)
    need = round(plain.getlength(name)) + bar + 50
    left = width - (below + need) // 2 if need <= below else (width - need) // 2
    draw.text((left, 10), name, font=plain, fill=FAINT, anchor="lm")
    left += round(plain.getlength(name)) + 30
    canvas.paste(Image.fromarray(colored), (left, 4))
    draw.text((left - 6, 10), "0", font=plain, fill=FAINT, anchor="rm")
    draw.text((left + bar + 6, 10), "1", font=plain, fill=FAINT, anchor="lm")
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
    uncertainty: Float[np.ndarray, "*S"] | None = None,
    uncertainty_name: str = "uncertainty (entropy, 0 to 1)",
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
      uncertainty: from 0 to 1; adds the image under a heat map of fixed scale, of the same slices.
      uncertainty_name: what it is, above its picture.
      spacing_mm: in array order, None where unknown: then square voxels and no scale bar.
      scores: class name -> Dice for the legend.
      title: the case's name.
      axes: see `planes_of`.
      focus: "truth" or "error", see `focus_slices`.
      plain: whether to show the image without contours as well.
      size: pixels of the longest side of a picture, at least.
      levels: intensities of black and white, otherwise `overlay.window(image)`.

    Raises:
      ValueError: the image is no picture or volume, another array has another shape, or an uncertainty is not in 0..1.
    """
    if uncertainty is not None and uncertainty.shape != image.shape[:-1]:
        raise ValueError(f"uncertainty should have the shape {image.shape[:-1]}, it has {uncertainty.shape}.")
    maps = {"true": true, "pred": pred, "roi": roi, "uncertainty": uncertainty}
    planes = planes_of(image, **maps, spacing_mm=spacing_mm, axes=axes, focus=focus)
    flat = len(planes) == 1
    levels = levels or overlay.window(image if flat else image[..., :1])
    sizes = pixel_sizes(planes, size=size)
    shared: dict[str, Any] = {"levels": levels, "channel": None if flat else 0}
    marked, bare, heat = [], [], []
    for plane, pixels in zip(planes, sizes):
        drawn = overlay.slice_overlay(
            plane.image, true=plane.true, pred=plane.pred, roi=plane.roi, size=pixels, **shared
        )
        marked.append(_annotate(drawn, plane, bar=True))
        bare.append(_annotate(overlay.slice_overlay(plane.image, size=pixels, **shared), plane, bar=False))
        if plane.uncertainty is not None:
            warm = overlay.uncertainty_overlay(plane.image, plane.uncertainty, size=pixels, **shared)
            heat.append(_annotate(warm, plane, bar=False))
    rows = (
        [_row([*(bare if plain else ()), *marked, *heat])] if flat else [*([_row(bare)] if plain else []), _row(marked)]
    )
    if not flat:
        rows.insert(0, _captions(planes, [width for _, width in sizes]))
    width = max(max(row.shape[1] for row in rows), 480)
    if heat:
        rows.append(_heat_scale(uncertainty_name, width=width, below=heat[0].shape[1] if flat else width))
        rows += [] if flat else [_row(heat)]
    lines = [name for name, array in (("truth", true), ("prediction", pred)) if array is not None]
    values = _values(classes, pred if true is None else None, spacing_mm, scores)
    if (roi is not None and not roi.all()) or (true is not None and (true == IGNORE).any()):
        lines.append("not scored")
    return _stack([*rows, legend(values, width=width, title=title, lines=lines)], width=width)
