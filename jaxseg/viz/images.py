"""Made images beside real ones: what one case became, with its error, and examples to watch a training by."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Integer, Shaped, UInt8

from jaxseg.viz import colors
from jaxseg.viz.panels import FAINT, GAP, INK, PAPER, _annotate, _font, _shorten, legend
from jaxseg.viz.planes import Plane, focus_slices, planes_of

Picture = UInt8[np.ndarray, "H W 3"]
Range = tuple[float, float]
LARGEST = 768  # pixels of a picture's longest side; larger images are shrunk
_NARROWEST = 132  # pixels of a column: room for a title
_EMPTY = (30, 33, 38)  # the background of a label map
_BAR, _BAR_ROOM = 14, 66  # pixels of the colour bar, and of it with its numbers
_TITLE, _CAPTION, _HEADING, _NOTE = 22, 18, 28, 18  # pixels of lines of text


class _Column(NamedTuple):
    """Pictures below each other, None where there is none, under a title and a fainter line."""

    title: str
    caption: str
    pictures: Sequence[np.ndarray | None]


def image_panel(
    columns: Mapping[str, Shaped[np.ndarray, "..."]],
    *,
    value_range: Range = (-1.0, 1.0),
    difference_to: str | None = None,
    difference_of: str | None = None,
    difference_range: float | None = None,
    captions: Mapping[str, str] | None = None,
    mask: Bool[np.ndarray, "*S"] | None = None,
    spacing_mm: Sequence[float] | None = None,
    axes: str | None = None,
    title: str = "",
    size: int = 256,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws images of one case side by side, in one grey scale and one size.

    A flat image is one row; of a volume the middle slices across its three axes are rows below each other. Pixels stay
    visible: nothing is smoothed when an image is enlarged. Three channels of a flat image are red, green and blue; of
    any other number the first is shown. Integers are a label map `(*S)` and are drawn in the colours of the classes.

    Args:
      columns: title -> image `(*S, C)`. One of another resolution (the input of super-resolution) is drawn in the size
        of the others, which is that of `difference_to` or else of the last one.
      value_range: the values that are black and white in every picture.
      difference_to: title of the true image; adds a column with the absolute difference to it (the mean over the
        channels that are shown) and a colour bar.
      difference_of: title of the image that is compared; the first other one of the same shape by default.
      difference_range: the difference with the brightest colour, a quarter of the value range by default. It is the
        same for every case, so that pictures of several cases can be compared.
      captions: title -> a line below the title, such as its figures.
      mask: `(*S)`; outside nothing is scored, and no difference is drawn.
      spacing_mm: in array order; None: square pixels and no scale bar.
      axes: for volumes the directions that the axes increase towards, such as "SAR", see `planes_of`; None: as stored.
      title: of the whole picture.
      size: pixels of the longest side of a picture, about: images are enlarged by whole numbers.

    Raises:
      ValueError: there is no image, a title is none of the columns', a range is empty, or shapes do not fit.
    """
    _check(columns, value_range)
    reference = difference_to or list(columns)[-1]
    for name in (reference, difference_of):
        if name is not None and name not in columns:
            raise ValueError(f"{name!r} should be the title of an image: {', '.join(columns)}.")
    ndim, shape = _ndim(columns[reference]), _spatial(columns[reference])
    wrong = [name for name, image in columns.items() if _ndim(image) != ndim]
    if wrong:
        raise ValueError(f"All images should have {ndim} axes beside the channels; {', '.join(wrong)} has others.")
    options: dict[str, Any] = {"spacing_mm": spacing_mm, "axes": axes if ndim == 3 else None}
    grid = planes_of(np.zeros((*shape, 1), np.uint8), roi=mask, **options)
    sizes = _sizes(grid, size)
    shown: list[_Column] = []
    for place, (name, image) in enumerate(columns.items()):
        pictures = _pictures(image, sizes, value_range, options)
        if place == 0:
            pictures = [_annotate(p, q, bar=spacing_mm is not None) for p, q in zip(pictures, grid)]
        shown.append(_Column(name, (captions or {}).get(name, ""), pictures))
    bar = None
    if difference_to is not None:
        limit = difference_range or (value_range[1] - value_range[0]) / 4
        compared = difference_of or _first_like(columns, difference_to)
        heat = _difference(columns[compared], columns[difference_to], grid, sizes, limit, options)
        shown.append(_Column(f"|{compared} - {difference_to}|", "", heat))
        bar = _bar(limit, height=max(heat[0].shape[0], 80))
    notes = [plane.caption for plane in grid] if ndim == 3 else []
    return _sheet(shown, title=title, notes=notes, beside=bar)


def grid_panel(
    rows: Sequence[Mapping[str, Shaped[np.ndarray, "..."]]],
    *,
    value_range: Range = (-1.0, 1.0),
    classes: Sequence[str] = (),
    title: str = "",
    size: int = 192,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws several examples below each other, each a row such as label map | made | real.

    Of a volume one slice of the first axis is shown: the one with most of the label map, or the middle one. The same
    examples give the same slices, so that pictures of several steps can be compared.

    Args:
      rows: one mapping an example, title -> image `(*S, C)`, or label map `(*S)` of integers. A title that a row lacks
        leaves a gap.
      value_range: the values that are black and white in every picture.
      classes: names by id, background first, for a legend below; none, or no label map: no legend.
      title: of the whole picture, such as "step 250".
      size: pixels of the longest side of a picture, about: images are enlarged by whole numbers.

    Raises:
      ValueError: there is no example, a row has no image, or the range is empty.
    """
    if not rows:
        raise ValueError("grid_panel needs at least one example.")
    titles = list(dict.fromkeys(name for row in rows for name in row))
    lines = []
    for row in rows:
        _check(row, value_range)
        flat = _slices(row)
        last = list(flat.values())[-1]
        plane = planes_of(np.zeros((*_spatial(last), 1), np.uint8))
        sizes = _sizes(plane, size)
        lines.append({name: _pictures(image, sizes, value_range, {})[0] for name, image in flat.items()})
    columns = [_Column(name, "", [line.get(name) for line in lines]) for name in titles]
    below = None
    if len(classes) > 1 and any(_is_labels(image) for row in rows for image in row.values()):
        width = sum(max(_NARROWEST, *(p.shape[1] for p in c.pictures if p is not None)) + GAP for c in columns) - GAP
        below = legend([(index, name, "") for index, name in enumerate(classes) if index], width=width, lines=())
    return _sheet(columns, title=title, below=below)


def _check(columns: Mapping[str, np.ndarray], value_range: Range) -> None:
    if not columns:
        raise ValueError("There should be at least one image to draw.")
    if not value_range[0] < value_range[1]:
        raise ValueError(f"value_range should be (black, white) with black below white, not {value_range}.")
    for name, image in columns.items():
        if _ndim(image) not in (2, 3) or image.size == 0:
            raise ValueError(f"{name!r} should be a picture or a volume with pixels, its shape is {image.shape}.")


def _is_labels(image: np.ndarray) -> bool:
    return image.dtype.kind in "iub"


def _ndim(image: np.ndarray) -> int:
    return image.ndim - (not _is_labels(image))


def _spatial(image: np.ndarray) -> tuple[int, ...]:
    return image.shape[: _ndim(image)]


def _first_like(columns: Mapping[str, np.ndarray], name: str) -> str:
    """The title of the first image that can be compared with the one of this title."""
    for other, image in columns.items():
        if other != name and image.shape == columns[name].shape:
            return other
    raise ValueError(f"No image has the shape of {name!r}, {columns[name].shape}, so that there is no difference.")


def _sizes(planes: Sequence[Plane], size: int) -> list[tuple[int, int]]:
    """Returns (height, width) in pixels: one scale for all planes, a whole number of pixels for the finest voxel side.

    The longest side comes near `size`; only one above LARGEST is shrunk.
    """
    spacings = [plane.spacing or (1.0, 1.0) for plane in planes]
    extents = [(p.image.shape[0] * s[0], p.image.shape[1] * s[1]) for p, s in zip(planes, spacings)]
    longest, finest = max(max(extent) for extent in extents), min(min(s) for s in spacings)
    scale = max(1, round(size * finest / longest)) / finest
    scale = min(scale, LARGEST / longest)
    return [(max(1, round(height * scale)), max(1, round(width * scale))) for height, width in extents]


def _pictures(
    image: np.ndarray, sizes: Sequence[tuple[int, int]], value_range: Range, options: Mapping[str, Any]
) -> list[Picture]:
    """Returns the pictures of one image: one of a flat one, three of a volume."""
    labels = _is_labels(image)
    planes = planes_of(image[..., None] if labels else image, **{"axes": None, **options, "spacing_mm": None})
    color = not labels and image.ndim == 3 and image.shape[-1] == 3
    pictures = [
        _label_colors(plane.image[..., 0]) if labels else _bytes(plane.image, value_range, color=color)
        for plane in planes
    ]
    return [_resized(picture, pixels) for picture, pixels in zip(pictures, sizes)]


def _bytes(image: Shaped[np.ndarray, "H W C"], value_range: Range, *, color: bool) -> Picture:
    low, high = value_range
    shown = image if color else np.repeat(image[..., :1], 3, axis=-1)
    finite = np.nan_to_num(shown.astype(np.float64), nan=low, posinf=high, neginf=low)
    return np.clip(np.rint((finite - low) * (255 / (high - low))), 0, 255).astype(np.uint8)


def _label_colors(labels: Integer[np.ndarray, "H W"] | Bool[np.ndarray, "H W"]) -> Picture:
    """Returns a label map in the colours of its classes; the background is nearly black, what is ignored grey."""
    ids, place = np.unique(labels.astype(np.int64), return_inverse=True)
    table = [_EMPTY if index == 0 else colors.class_color(int(index)) for index in ids]
    return np.array(table, np.uint8)[place.reshape(labels.shape)]


def _resized(picture: Picture, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Enlarges by repeating pixels, shrinks by averaging them."""
    from PIL import Image

    larger = size[0] >= picture.shape[0] and size[1] >= picture.shape[1]
    method = Image.Resampling.NEAREST if larger else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), method))


def _difference(
    made: np.ndarray,
    true: np.ndarray,
    grid: Sequence[Plane],
    sizes: Sequence[tuple[int, int]],
    limit: float,
    options: Mapping[str, Any],
) -> list[Picture]:
    """Returns the absolute difference as a heat map, 0 where nothing is scored."""
    if made.shape != true.shape or _is_labels(made) or _is_labels(true):
        raise ValueError(f"A difference needs two images of one shape, not {made.shape} and {true.shape}.")
    channels = 3 if true.ndim == 3 and true.shape[-1] == 3 else 1
    gap = np.abs(made[..., :channels].astype(np.float64) - true[..., :channels].astype(np.float64))
    gap = np.nan_to_num(gap.mean(axis=-1, keepdims=True), nan=limit, posinf=limit)
    pictures = []
    for plane, where, pixels in zip(planes_of(gap, **{**options, "spacing_mm": None}), grid, sizes):
        share = np.clip(plane.image[..., 0] / limit, 0, 1)
        share = share if where.roi is None else np.where(where.roi, share, 0)
        pictures.append(_resized(colors.heat(share), pixels))
    return pictures


def _slices(row: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the images of a row as flat ones: of volumes the slice with most labels, or the middle one."""
    volumes = [image for image in row.values() if _ndim(image) == 3]
    if not volumes:
        return dict(row)
    labels = next((image for image in volumes if _is_labels(image)), None)
    shape = _spatial(volumes[-1] if labels is None else labels)
    place = focus_slices(shape, true=None if labels is None else labels.astype(np.int32), pred=None, focus="truth")[0]
    share = (place + 0.5) / shape[0]  # of another resolution the slice at the same place
    return {
        name: image[int(share * image.shape[0])] if _ndim(image) == 3 else image  # (*S, C) -> (H, W, C)
        for name, image in row.items()
    }


def _bar(limit: float, *, height: int) -> Picture:
    """The colour bar of the differences, 0 at the bottom, with its numbers at the right."""
    from PIL import Image, ImageDraw

    ramp = np.linspace(1, 0, height)
    canvas = Image.new("RGB", (_BAR_ROOM, height), PAPER)
    canvas.paste(Image.fromarray(np.repeat(colors.heat(ramp)[:, None], _BAR, axis=1)), (0, 0))
    draw, font = ImageDraw.Draw(canvas), _font(12)
    marks = ((1, f"≥ {limit:.2g}", "lt"), (height // 2, f"{limit / 2:.2g}", "lm"), (height - 2, "0", "lb"))
    for top, text, anchor in marks:
        draw.text((_BAR + 5, top), text, font=font, fill=FAINT, anchor=anchor)
    return np.asarray(canvas)


def _sheet(
    columns: Sequence[_Column],
    *,
    title: str = "",
    notes: Sequence[str] = (),
    beside: np.ndarray | None = None,
    below: np.ndarray | None = None,
) -> Picture:
    """Sets columns of pictures side by side under their titles; every picture lies in the middle of its place.

    Args:
      columns: with as many pictures each.
      title: above all.
      notes: one line above each row.
      beside: what stands at the right of the first row.
      below: what stands below the last row.
    """
    from PIL import Image, ImageDraw

    widths = [max([_NARROWEST, *(p.shape[1] for p in c.pictures if p is not None)]) for c in columns]
    cells = [[c.pictures[row] for c in columns] for row in range(len(columns[0].pictures))]
    heights = [max(picture.shape[0] for picture in row if picture is not None) for row in cells]
    captioned = any(column.caption for column in columns)
    top = GAP + (_HEADING if title else 0)
    first = top + _TITLE + (_CAPTION if captioned else 0)
    across = sum(widths) + GAP * (len(widths) - 1)
    width = across + 2 * GAP + (0 if beside is None else beside.shape[1])
    height = first + sum(heights) + (_NOTE * len(heights) if notes else 0) + GAP * len(heights)
    height += 0 if below is None else below.shape[0] + GAP
    canvas = Image.new("RGB", (width, height), PAPER)
    draw, left = ImageDraw.Draw(canvas), GAP
    bold, plain = _font(15, bold=True), _font(12)
    if title:
        heading = _font(16, bold=True)
        draw.text((GAP, GAP + 9), _shorten(title, heading, width - 2 * GAP), font=heading, fill=INK, anchor="lm")
    for column, room in zip(columns, widths):
        middle = left + room // 2
        draw.text((middle, top + 10), _shorten(column.title, bold, room), font=bold, fill=INK, anchor="mm")
        draw.text(
            (middle, top + _TITLE + 7), _shorten(column.caption, plain, room), font=plain, fill=FAINT, anchor="mm"
        )
        left += room + GAP
    top = first
    for place, (row, tall) in enumerate(zip(cells, heights)):
        if notes:
            draw.text((GAP, top + 9), notes[place], font=plain, fill=FAINT, anchor="lm")
            top += _NOTE
        left = GAP
        for picture, room in zip(row, widths):
            if picture is not None:
                place_at = (left + (room - picture.shape[1]) // 2, top + (tall - picture.shape[0]) // 2)
                canvas.paste(Image.fromarray(picture), place_at)
            left += room + GAP
        if beside is not None and place == 0:
            canvas.paste(Image.fromarray(beside), (left - GAP + 6, top))
        top += tall + GAP
    if below is not None:
        canvas.paste(Image.fromarray(below), (GAP, top))
    return np.asarray(canvas)
