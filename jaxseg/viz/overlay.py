"""One slice as a picture: the image in grey or colour, truth and prediction as contours.

Truth is a solid line in the class colour, the prediction a dashed line in a lighter tone of it. Contours run at half a
voxel between inside and outside (marching squares of the mask), so nothing is smoothed away that a score would count.
"""

import math
import pathlib

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped, UInt8

from jaxseg.typing import IGNORE
from jaxseg.viz import colors

FILL = 0.12  # opacity of the area inside a contour: enough to show the side, too little to hide the tissue
DIM = 0.85  # brightness of the image under contours: pale lines stay visible on white tissue
HEAT = 0.85  # opacity of the heat map where the uncertainty is 1; 0 leaves the image as it is
_ROUNDING = 1e-3  # how far an uncertainty may lie outside 0 to 1: half precision rounds by as much
_SUPERSAMPLE = 2  # lines are drawn this many times larger and shrunk, for smooth edges
_MAX_SAMPLES = 2_000_000  # voxels that the percentiles look at


def is_color(image: Shaped[np.ndarray, "*S C"]) -> bool:
    """Whether the channels are red, green and blue: a flat image with three of them, none negative."""
    return image.ndim == 3 and image.shape[-1] == 3 and bool(np.nanmin(image) >= 0)


def window(image: Shaped[np.ndarray, "*S C"], *, percentiles: tuple[float, float] = (0.5, 99.5)) -> tuple[float, float]:
    """Returns the two intensities shown as black and white: percentiles of the finite voxels.

    Colour photographs keep their own range (0 to 255, or 0 to 1), since a stretched stain or skin tone misleads.
    """
    if is_color(image):
        brightest = float(np.nanmax(image))
        if brightest <= 255:
            return (0.0, 1.0) if brightest <= 1.0 and image.dtype.kind == "f" else (0.0, 255.0)
    step = max(1, image.size // _MAX_SAMPLES)
    sample = image.reshape(-1)[::step].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 1.0
    low, high = np.percentile(sample, percentiles)
    if low == high:  # mostly background: fall back to the whole range
        low, high = sample.min(), sample.max()
    return float(low), float(high)


def to_rgb(
    image: Shaped[np.ndarray, "H W C"], levels: tuple[float, float], *, channel: int | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Maps intensities to bytes: one `channel` in grey; with None, colour if the image is, else channel 0."""
    low, high = levels
    if channel is None and is_color(image):
        shown = image
    else:
        shown = np.repeat(image[..., channel or 0, None], 3, axis=-1)
    scale = 255.0 / (high - low) if high > low else 0.0
    bytes_ = (np.nan_to_num(shown.astype(np.float64), nan=low, posinf=high, neginf=low) - low) * scale
    if not scale:
        bytes_ = np.full(shown.shape, 96.0)  # a constant image carries no contrast: mid grey
    return np.clip(np.rint(bytes_), 0, 255).astype(np.uint8)


def contours(mask: Bool[np.ndarray, "H W"]) -> list[np.ndarray]:
    """Returns the closed outlines of a mask, each `(n, 2)` of (x, y) in voxels; voxel i covers [i, i + 1).

    Lines run half-way between inside and outside voxels (marching squares, Lorensen and Cline 1987) and stay in the
    image where the mask touches its edge.
    """
    from contourpy import contour_generator

    if not mask.any():
        return []
    padded = np.pad(mask, 1).astype(np.float32)
    height, width = mask.shape
    lines = contour_generator(z=padded).lines(0.5)  # in the padded grid, voxel centres at integers
    return [np.clip(np.asarray(line, np.float64) - 0.5, 0, (width, height)) for line in lines]


def dashes(line: np.ndarray, *, on: float, off: float) -> list[np.ndarray]:
    """Cuts a polyline `(n, 2)` into pieces of length `on` with gaps of length `off`, measured along it."""
    lengths = np.hypot(*np.diff(line, axis=0).T)
    line, lengths = line[np.r_[True, lengths > 0]], lengths[lengths > 0]
    along = np.r_[0.0, np.cumsum(lengths)]
    total = along[-1]
    if total <= on:
        return [line]
    # A whole number of dashes, so that the start and end of a closed line do not collide.
    period = total / max(1, round(total / (on + off)))
    pieces = []
    for start in np.arange(math.ceil(total / period - 1e-9)) * period:
        stop = min(start + period * on / (on + off), total)
        first, last = np.searchsorted(along, (start, stop), side="right")  # the vertices strictly inside the dash
        last = last - 1 if along[last - 1] == stop else last
        ends = np.stack([np.interp((start, stop), along, line[:, axis]) for axis in (0, 1)], axis=1)
        pieces.append(np.concatenate([ends[:1], line[first:last], ends[1:]]))
    return pieces


def _resize(array: np.ndarray, size: tuple[int, int], *, nearest: bool) -> np.ndarray:
    """Resizes `(H, W)` or `(H, W, 3)` bytes to (height, width)."""
    from PIL import Image

    method = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(array).resize((size[1], size[0]), method))


def _veil(picture: np.ndarray, shown: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Darkens what is not scored."""
    inside = _resize(shown.astype(np.uint8), size, nearest=True).astype(bool)
    return np.where(inside[..., None], picture, picture // 2)


def _fill(picture: np.ndarray, labels: np.ndarray, size: tuple[int, int], opacity: float) -> np.ndarray:
    """Tints the inside of each class."""
    if opacity <= 0:
        return picture
    rows = np.minimum(((np.arange(size[0]) + 0.5) * labels.shape[0] / size[0]).astype(int), labels.shape[0] - 1)
    columns = np.minimum(((np.arange(size[1]) + 0.5) * labels.shape[1] / size[1]).astype(int), labels.shape[1] - 1)
    large = np.maximum(labels, 0)[np.ix_(rows, columns)]
    table = np.array([colors.class_color(index) for index in range(int(large.max()) + 1)], np.float32)
    mixed = np.where((large > 0)[..., None], picture * (1 - opacity) + table[large] * opacity, picture)
    return np.rint(mixed).astype(np.uint8)


def _lines(labels: np.ndarray, size: tuple[int, int], *, dashed: bool) -> list[tuple[int, np.ndarray]]:
    """Returns (class id, points in supersampled pixels) of every contour piece."""
    scale = np.array([size[1] / labels.shape[1], size[0] / labels.shape[0]]) * _SUPERSAMPLE
    found = []
    for index in np.unique(labels[labels > 0]):
        for line in contours(labels == index):
            points = line * scale
            pieces = dashes(points, on=7 * _SUPERSAMPLE, off=5 * _SUPERSAMPLE) if dashed else [points]
            found += [(int(index), piece) for piece in pieces]
    return found


def _draw(picture: np.ndarray, lines, *, width: float, tone) -> np.ndarray:
    """Draws the lines over a dark halo, which keeps them visible on bright tissue."""
    from PIL import Image, ImageDraw

    height, across = picture.shape[:2]
    layer = Image.new("RGBA", (across * _SUPERSAMPLE, height * _SUPERSAMPLE), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    for extra, halo in ((2.0, True), (0.0, False)):
        for index, points in lines:
            color = (0, 0, 0, 110) if halo else (*tone(index), 255)
            thick = max(1, round((width + extra * 0.6) * _SUPERSAMPLE))
            draw.line([tuple(point) for point in points], fill=color, width=thick, joint="curve")
    layer = layer.resize((across, height), Image.Resampling.BOX)
    return np.asarray(Image.alpha_composite(Image.fromarray(picture).convert("RGBA"), layer).convert("RGB"))


def slice_overlay(
    image: Shaped[np.ndarray, "H W C"],
    *,
    true: Integer[np.ndarray, "H W"] | None = None,
    pred: Integer[np.ndarray, "H W"] | None = None,
    roi: Bool[np.ndarray, "H W"] | None = None,
    size: tuple[int, int] | None = None,
    levels: tuple[float, float] | None = None,
    channel: int | None = None,
    fill: float = FILL,
    line_width: float = 2.0,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws one slice; row 0 is the top.

    Args:
      image: intensities.
      true: class ids, drawn solid; voxels with IGNORE are darkened.
      pred: class ids, drawn dashed over the truth, or solid where there is no truth.
      roi: what is scored; the rest is darkened.
      size: (height, width) of the picture in pixels; None keeps one pixel a voxel.
      levels: intensities of black and white, otherwise `window(image)`.
      channel: the one to show in grey; None: colour if there are three non-negative channels, else the first.
      fill: opacity inside the contours.
      line_width: in pixels of the picture.

    Raises:
      ValueError: a label map or the roi has another shape than the image.
    """
    for name, array in (("true", true), ("pred", pred), ("roi", roi)):
        if array is not None and array.shape != image.shape[:2]:
            raise ValueError(f"{name} should have the image's shape {image.shape[:2]}, it has {array.shape}.")
    size = size or image.shape[:2]
    levels = levels or window(image)
    picture = _resize(to_rgb(image, levels, channel=channel), size, nearest=False)
    scored = np.ones(image.shape[:2], bool) if roi is None else roi.astype(bool)
    if true is not None:
        scored = scored & (true != IGNORE)
    if not scored.all():
        picture = _veil(picture, scored, size)
    solid = true if true is not None else pred
    if solid is None:
        return picture
    picture = _fill(np.rint(picture * DIM).astype(np.uint8), solid, size, fill)
    picture = _draw(picture, _lines(solid, size, dashed=False), width=line_width, tone=colors.class_color)
    if true is not None and pred is not None:
        picture = _draw(picture, _lines(pred, size, dashed=True), width=line_width, tone=colors.lighter_class)
    return picture


def uncertainty_overlay(
    image: Shaped[np.ndarray, "H W"] | Shaped[np.ndarray, "H W C"],
    uncertainty: Float[np.ndarray, "H W"],
    *,
    size: tuple[int, int] | None = None,
    levels: tuple[float, float] | None = None,
    channel: int | None = None,
    opacity: float = HEAT,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws one slice under a heat map that is the more opaque the less certain; row 0 is the top.

    The scale is fixed: one colour means one uncertainty in every picture, whatever the highest value of the slice.

    Args:
      image: intensities in grey or colour.
      uncertainty: from 0 (certain: the image shows unchanged) to 1, such as an entropy divided by its largest value.
      size: (height, width) of the picture in pixels; None keeps one pixel a voxel. Between voxels the uncertainty is
        interpolated linearly, so no value is shown that exceeds its neighbours.
      levels: intensities of black and white, otherwise `window(image)`.
      channel: the one to show in grey; None: colour if there are three non-negative channels, else the first.
      opacity: where the uncertainty is 1.

    Raises:
      ValueError: the shapes differ, or an uncertainty is NaN or outside 0 to 1.
    """
    from PIL import Image

    image = image[..., None] if image.ndim == 2 else image
    if uncertainty.shape != image.shape[:2]:
        raise ValueError(f"uncertainty should have the image's shape {image.shape[:2]}, it has {uncertainty.shape}.")
    lowest, highest = float(uncertainty.min()), float(uncertainty.max())
    if not (lowest >= -_ROUNDING and highest <= 1 + _ROUNDING):  # NaN fails as well
        raise ValueError(
            f"uncertainty should lie from 0 to 1, it lies from {lowest:g} to {highest:g}; divide it by its largest "
            "possible value (an entropy in nats by the logarithm of the number of classes)."
        )
    size = size or image.shape[:2]
    picture = _resize(to_rgb(image, levels or window(image), channel=channel), size, nearest=False)
    fine = Image.fromarray(uncertainty.astype(np.float32)).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    amount = np.clip(np.asarray(fine), 0, 1)
    cover = (opacity * np.sqrt(amount))[..., None]  # the root shows small values, which a linear veil would hide
    return np.rint(picture * (1 - cover) + colors.heat(amount) * cover).astype(np.uint8)


def png_bytes(picture: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """Encodes a picture as PNG."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def save_png(path: str | pathlib.Path, picture: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes a picture under a temporary name, then renames it: a file that exists is whole."""
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(png_bytes(picture))
    temporary.replace(path)
