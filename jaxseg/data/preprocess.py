"""From a scan to the network's grid and back: orientation, crop, normalisation, resampling; recorded and invertible.

The order is nnU-Net's: crop to non-zero, normalise, then resample (so that statistics are those of measured voxels).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, Int16

from jaxseg.data import orientation, resample
from jaxseg.data.inverse import invert as invert  # the way back, see there
from jaxseg.data.volume import check_image
from jaxseg.typing import UserError, Volume

NORMALIZATIONS = ("zscore", "zscore_mask", "ct", "unit", "rgb", "none")
ORIENTATIONS = ("canonical", "keep")
TINY = 1e-8  # nnU-Net's floor of a standard deviation
Record = dict[str, Any]  # what `forward` did, as JSON: shape, axes, flips, box, spacing, target_spacing, new_shape


class Settings(NamedTuple):
    """How cases are brought to one grid and one scale of intensities.

    Attributes:
      spacing: target millimetres along each axis of the network's array, None in a place to leave that axis alone,
        None as a whole for no resampling.
      normalize: one of NORMALIZATIONS for each channel.
      statistics: for each channel the data set's foreground statistics (keys mean, std, p005, p995), which "ct" needs.
      crop: cut to the bounding box of voxels that are not 0 in every channel.
      orientation: "canonical" turns 3D arrays nearest to (z, y, x) = (S, A, R); "keep" leaves the file's axes.
      axis_order: into which the oriented axes are then brought: axis i of the network is axis `axis_order[i]`; None
        leaves them (nnU-Net: the axis of the largest spacing first).
    """

    spacing: tuple[float | None, ...] | None = None
    normalize: tuple[str, ...] = ("zscore",)
    statistics: tuple[Mapping[str, float] | None, ...] | None = None
    crop: bool = True
    orientation: str = "canonical"
    axis_order: tuple[int, ...] | None = None


def settings_from_json(values: Mapping[str, Any]) -> Settings:
    """Rebuilds Settings from `json.loads(json.dumps(settings._asdict()))`, where tuples have become lists."""
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Settings(**fields)


def forward(volume: Volume, settings: Settings) -> tuple[Float[np.ndarray, "*T C"], Record]:
    """Brings an image to the network's grid.

    Args:
      volume: image `(*S, C)`.
      settings: see Settings.

    Returns:
      float32 `(*T, C)` and the record that `forward_label` and `invert` need.

    Raises:
      UserError: NaN or infinite or constant image, a spacing that is not positive, settings for other channels or axes.
    """
    _check(volume, settings)
    cropped, record = place(
        volume, crop=settings.crop, orientation=settings.orientation, axis_order=settings.axis_order
    )
    target = record["target_spacing"] = _target(record["spacing"], settings, volume.path)
    shape = record["new_shape"] = list(resample.new_shape(cropped.shape[:-1], record["spacing"], target))
    orders = resample.axis_orders(record["spacing"], target, order=3)
    # No name for what is normalised: it goes once its first axis is resampled.
    return np.ascontiguousarray(resample.resize(_normalize(cropped, settings, volume.path), shape, orders)), record


def place(
    volume: Volume, *, crop: bool, orientation: str, axis_order: Sequence[int] | None = None
) -> tuple[np.ndarray, Record]:
    """Turns an image to its orientation and cuts it to the non-zero box; the values stay as they are (a view).

    Returns:
      `(*S, C)` and the first part of the record: shape (the file's), axes, flips, spacing (turned), box (turned).
    """
    axes, flips = _turn(volume, orientation, axis_order)
    data = _apply(volume.data, axes, flips)
    box = box_of((data != 0).any(-1)) if crop else [[0, size] for size in data.shape[:-1]]
    record = {
        "shape": list(volume.data.shape[:-1]),
        "axes": list(axes),
        "flips": list(flips),
        "spacing": [float(volume.spacing[axis]) for axis in axes],
        "box": box,
    }
    return data[_slices(box)], record


def forward_label(label: Volume, record: Record, settings: Settings) -> Int16[np.ndarray, "*T"]:
    """Brings a label map to the grid of its image; classes and IGNORE stay integers.

    Args:
      label: class ids `(*S)`.
      record: of the image.
      settings: those the image was prepared with.

    Raises:
      UserError: the label has another shape than the image, or is not of integers.
    """
    if list(label.data.shape) != list(record["shape"]):
        raise UserError(
            f"{label.path or 'The label'}: the shape should be {tuple(record['shape'])}, as the image's, "
            f"got {label.data.shape}; export the label on the image's grid."
        )
    if not np.issubdtype(label.data.dtype, np.integer):
        raise UserError(
            f"{label.path or 'The label'}: labels should be integers, got {label.data.dtype}; convert the file."
        )
    data = _apply(label.data, record["axes"], record["flips"])[_slices(record["box"])]
    orders = resample.axis_orders(record["spacing"], _target(record["spacing"], settings, label.path), order=1)
    return np.ascontiguousarray(resample.resize_labels(data, record["new_shape"], orders), dtype=np.int16)


def scales_of(volume: Volume, settings: Settings) -> tuple[tuple[float, float], ...]:
    """Returns (offset, scale) of each channel as `forward` normalises it: normalised = (value - offset) / scale."""
    _check(volume, settings)
    cropped, _ = place(volume, crop=settings.crop, orientation=settings.orientation, axis_order=settings.axis_order)
    return _scales(cropped, settings, volume.path).lines


def enlarged(record: Record, factors: Sequence[int]) -> Record:
    """Returns the record of an image with `factors` times more voxels along the network's axes, for `invert`."""
    of_file = factors_of_file(record, factors)
    result = dict(record)
    result["shape"] = [size * factor for size, factor in zip(record["shape"], of_file)]
    result["box"] = [[start * factor, stop * factor] for (start, stop), factor in zip(record["box"], factors)]
    result["new_shape"] = [size * factor for size, factor in zip(record["new_shape"], factors)]
    for name in ("spacing", "target_spacing"):
        result[name] = [length / factor for length, factor in zip(record[name], factors)]
    return result


def factors_of_file(record: Record, factors: Sequence[int]) -> tuple[int, ...]:
    """Returns factors of the network's axes in the order of the file's axes."""
    return tuple(int(factors[place]) for place in np.argsort(record["axes"]))


def natural(
    image: Float[np.ndarray, "*T C"],
    volume: Volume,
    settings: Settings,
    record: Record,
    *,
    intensities: Sequence[tuple[float, float]] | None = None,
) -> Float[np.ndarray, "*T C"]:
    """Takes normalisation back: intensities as a file holds them, still on the network's grid.

    Args:
      image: made from what `forward` gave for `volume` without resampling; each axis as long or whole times longer.
      volume, settings, record: given to `forward` and returned by it.
      intensities: the mean and the deviation of each channel, where other channels than the volume's were made. None:
        the same channels; each goes back the way it came (what "ct" clipped stays clipped).

    Where "zscore_mask" left voxels out, they are 0 again (with `intensities`: in all channels).

    Raises:
      ValueError: the image has other channels, or its grid is no whole multiple of the network's.
    """
    grid = [stop - start for start, stop in record["box"]]
    if image.ndim != len(grid) + 1 or any(new % old for new, old in zip(image.shape, grid)):
        raise ValueError(f"The image should have channels and the shape {grid}, or multiples, got {image.shape}.")
    own, mask = _scales(
        _apply(volume.data, record["axes"], record["flips"])[_slices(record["box"])], settings, volume.path
    )
    lines = own if intensities is None else tuple(intensities)
    if len(lines) != image.shape[-1]:
        raise ValueError(f"The image should have {len(lines)} channels, got {image.shape[-1]}.")
    result = np.empty(image.shape, np.float32)
    for channel, (offset, scale) in enumerate(lines):
        result[..., channel] = image[..., channel] * np.float32(scale) + np.float32(offset)
    if mask is not None:
        for axis, old in enumerate(grid):
            mask = mask.repeat(image.shape[axis] // old, axis)
        for channel in range(len(lines)):
            if intensities is not None or settings.normalize[channel] == "zscore_mask":
                result[..., channel][~mask] = 0
    return result


def nonzero_mask(data: np.ndarray) -> Bool[np.ndarray, "*S"]:
    """Returns `(*S)`: where a channel of `(*S, C)` is not 0, holes filled."""
    mask = (data != 0).any(-1)
    # Zeros that no path of zeros joins to the outside are holes. One labelling is far faster than repeated dilation.
    parts, _ = scipy.ndimage.label(np.pad(~mask, 1, constant_values=True))
    outside = parts == parts.flat[0]
    return ~outside[(slice(1, -1),) * mask.ndim]


def _check(volume: Volume, settings: Settings) -> None:
    name, data = volume.path or "The image", volume.data
    if len(settings.normalize) != data.shape[-1]:
        raise UserError(
            f"{name}: {len(settings.normalize)} channels were expected, got {data.shape[-1]}; "
            "give every case the same channels."
        )
    unknown = sorted(set(settings.normalize) - set(NORMALIZATIONS))
    if unknown:
        raise UserError(f"Normalisation should be one of {', '.join(NORMALIZATIONS)}, got {', '.join(unknown)}.")
    if not np.isfinite(volume.spacing).all() or min(volume.spacing) <= 0:
        raise UserError(
            f"{name}: the spacing should be positive, got {tuple(volume.spacing)}; repair the file's header."
        )
    if data.size == 0:
        raise UserError(f"{name}: the image has no voxels, shape {data.shape}; remove the case or repair the file.")
    check_image(volume)


def _turn(volume: Volume, kind: str, order: Sequence[int] | None) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Which axis of the file each axis of the network is, and whether it runs the other way."""
    axes, flips = _oriented(volume, kind)
    if order is None:
        return axes, flips
    if sorted(order) != list(range(len(axes))):
        raise UserError(
            f"{volume.path or 'The image'}: the axis order should name each of {len(axes)} axes once, got {order}."
        )
    return tuple(axes[place] for place in order), tuple(flips[place] for place in order)


def _oriented(volume: Volume, kind: str) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    n = volume.data.ndim - 1
    if kind not in ORIENTATIONS:
        raise UserError(f"Orientation should be one of {', '.join(ORIENTATIONS)}, got {kind!r}.")
    if kind == "keep" or n != 3:
        return tuple(range(n)), (False,) * n
    return orientation.canonical(volume.affine, path=volume.path)


def _apply(data: np.ndarray, axes: Sequence[int], flips: Sequence[bool]) -> np.ndarray:
    return orientation.apply(data, tuple(axes), tuple(flips))


def _slices(box: Sequence[Sequence[int]]) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in box)


def box_of(mask: np.ndarray) -> list[list[int]]:
    """Returns [first, last + 1] per axis; filling holes would not change it. Nothing set: the whole image."""
    box = []
    for axis, size in enumerate(mask.shape):
        line = np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
        box.append([int(line[0]), int(line[-1]) + 1] if len(line) else [0, size])
    return box


def _target(spacing: Sequence[float], settings: Settings, path: str) -> list[float]:
    if settings.spacing is None:
        return list(spacing)
    if len(settings.spacing) != len(spacing):
        raise UserError(
            f"{path or 'The image'}: the target spacing should have {len(spacing)} values, one an axis, "
            f"got {settings.spacing}."
        )
    if any(value is not None and not value > 0 for value in settings.spacing):
        raise UserError(f"The target spacing should be positive, got {settings.spacing}.")
    return [float(old if new is None else new) for old, new in zip(spacing, settings.spacing)]


class _Scales(NamedTuple):
    """How one image is normalised: `(offset, scale)` a channel, and `(*S)` where "zscore_mask" takes voxels, or None.

    Normalised is `(value - offset) / scale`.
    """

    lines: tuple[tuple[float, float], ...]
    mask: Bool[np.ndarray, "*S"] | None


def _scales(data: np.ndarray, settings: Settings, path: str) -> _Scales:
    mask = nonzero_mask(data) if "zscore_mask" in settings.normalize else None
    lines = []
    for channel, kind in enumerate(settings.normalize):
        statistics = settings.statistics[channel] if settings.statistics else None
        if kind == "ct" and statistics is None:
            raise UserError(
                f"{path or 'The image'}: channel {channel} is normalised as 'ct', which needs the statistics "
                "of the data set; collect the fingerprint first or choose 'zscore'."
            )
        lines.append(_line(data[..., channel], kind, statistics, mask))
    return _Scales(tuple(lines), mask)


def _line(
    image: np.ndarray,
    kind: str,
    statistics: Mapping[str, float] | None,
    mask: Bool[np.ndarray, "*S"] | None,
) -> tuple[float, float]:
    """Returns offset and scale of one channel; sums in float64."""
    if kind == "ct":
        assert statistics is not None  # `_scales` has asked for them
        return float(statistics["mean"]), max(float(statistics["std"]), TINY)
    if kind in ("zscore", "zscore_mask"):
        values = (image if kind == "zscore" else image[mask]).astype(np.float32)
        if not values.size:
            return 0.0, 1.0
        return float(values.mean(dtype=np.float64)), max(float(values.std(dtype=np.float64)), TINY)
    if kind == "unit":
        low, high = float(np.float32(image.min())), float(np.float32(image.max()))
        return low, max(high - low, TINY)
    return 0.0, 255.0 if kind == "rgb" else 1.0


def _normalize(data: np.ndarray, settings: Settings, path: str) -> np.ndarray:
    """Returns `(*S, C)` float32, each channel on its own scale; plane by plane, so that nothing else is as large."""
    lines, mask = _scales(data, settings, path)
    result = np.empty(data.shape, np.float32)
    for channel, (kind, (offset, scale)) in enumerate(zip(settings.normalize, lines)):
        for plane, target in zip(data[..., channel], result[..., channel]):
            image = plane.astype(np.float32)
            if kind == "ct":
                statistics = (settings.statistics or ())[channel] or {}  # `_scales` has asked for them
                image = np.clip(image, statistics["p005"], statistics["p995"])
            target[...] = (image - offset) / scale
        if kind == "zscore_mask" and mask is not None:
            result[..., channel][~mask] = 0
    return result
