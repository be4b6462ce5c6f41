"""One case as files that a browser can read: NIfTI for volumes, PNG for flat images, and what it must know of them.

Files are written anew from arrays and geometry: nothing of the header of a user's file, which may name a patient, gets
into them.
"""

import gzip
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Integer, Shaped, UInt8

from jaxseg.data.volume import reverse_columns
from jaxseg.ops import run_length
from jaxseg.typing import IGNORE, Instances, Volume
from jaxseg.viz.overlay import contours, is_color, window
from jaxseg.viz.planes import focus_slices

_WHOLE = 65535  # steps of a flat layer of 16 bits
_COMPRESSION = 4  # of gzip: near the smallest size in a third of the time


class Shown(NamedTuple):
    """What is known of one case.

    Attributes:
      image: intensities `(*S, C)` and their geometry.
      true: class ids `(*S)`, with IGNORE where nothing counts, or None.
      pred: class ids `(*S)` or None.
      uncertainty: `(*S)` from 0 to 1 or None.
      true_objects: the truth one by one (flat images), or None.
      pred_objects: the same of the prediction.
    """

    image: Volume
    true: np.ndarray | None = None
    pred: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    true_objects: Instances | None = None
    pred_objects: Instances | None = None


class File(NamedTuple):
    """A layer's bytes and the name that they are kept under."""

    name: str
    data: bytes


def case_files(
    shown: Shown, *, channels: Sequence[str] = (), num_classes: int, labels: str = "truth"
) -> tuple[dict[str, Any], list[File]]:
    """Returns what the page must know of a case, ready for JSON, and the files of its layers.

    A layer is `{"kind": "image" | "labels" | "heat", "name", "file", "window": [black, white]}`; images have their
    `"extent": [least, greatest]` beside it, layers of flat cases
    `"encoding"`: "rgb8", "grey8" (the value itself) or "grey16" (`low + (high - low) * (256 r + g) / 65535` with
    `"range": [low, high]`).

    Args:
      shown: the case.
      channels: their names, for layers; by number where there are none.
      num_classes: background included; this number stands for what is not scored.
      labels: what to call the layer of `shown.true`.

    Raises:
      ValueError: a layer is not on the image's grid.
    """
    image = shown.image
    ndim = len(image.spacing)
    for name in ("true", "pred", "uncertainty"):
        array = getattr(shown, name)
        if array is not None and array.shape != image.data.shape[:ndim]:
            raise ValueError(f"{name} should have the shape {image.data.shape[:ndim]}, it has {array.shape}.")
    save = _volume_saver(image.affine) if ndim == 3 else _flat
    layers: list[dict[str, Any]] = []
    files: list[File] = []

    def add(kind: str, name: str, array: np.ndarray, levels: tuple[float, float]) -> None:
        file, facts = save(f"{len(files)}", kind, array)
        files.append(file)
        about = {"kind": kind, "name": name, "file": file.name, "window": [float(level) for level in levels]}
        if kind == "image":
            about["extent"] = _extent(array)
        layers.append({**about, **facts})

    for name, array in _channels(image.data, channels):
        add("image", name, array, _levels(array, ndim))
    for name, ids in ((labels, shown.true), ("prediction", shown.pred)):
        if ids is not None:
            add("labels", name, np.where(ids == IGNORE, num_classes, ids), (0, num_classes))
    if shown.uncertainty is not None:
        add("heat", "uncertainty", np.clip(shown.uncertainty, 0, 1), (0, 1))
    content: dict[str, Any] = {
        "ndim": ndim,
        "shape": list(image.data.shape[:ndim]),
        "spacing": [float(step) for step in image.spacing],
        "ignored": shown.true is not None and bool((shown.true == IGNORE).any()),
        "layers": layers,
    }
    if ndim == 3:
        place = focus_slices(image.data.shape[:3], true=shown.true, pred=shown.pred, focus="error")
        content["focus"] = (np.asarray(image.affine) @ (*place, 1))[:3].tolist()  # mm in RAS+
    if ndim == 2:
        given = ((labels, shown.true_objects), ("prediction", shown.pred_objects))
        content["objects"] = {name: _objects(found) for name, found in given if found is not None}
    return content, files


def _channels(data: Shaped[np.ndarray, "*S C"], names: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Returns name and values of each channel; a picture in red, green and blue is one of three."""
    if is_color(data):
        return [("image", data)]
    count = data.shape[-1]
    if count == 1:
        return [(names[0] if len(names) == 1 else "image", data[..., 0])]
    named = list(names) if len(names) == count else [f"channel {number}" for number in range(1, count + 1)]
    return [(name, data[..., number]) for number, name in enumerate(named)]


def _levels(array: np.ndarray, ndim: int) -> tuple[float, float]:
    return window(array if array.ndim > ndim else array[..., None])


def _extent(array: np.ndarray) -> list[float]:
    """Returns the least and the greatest value, a little apart."""
    values = _plain(array)
    low, high = float(values.min()), float(values.max())
    return [low, high if high > low else low + 1.0]


def _plain(array: np.ndarray) -> np.ndarray:
    """Returns the values in the smallest type that every reader knows; what is not finite becomes the least value."""
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        if not finite.all():
            array = np.where(finite, array, array[finite].min() if finite.any() else 0)
        return array.astype(np.float32)
    low, high = int(array.min()), int(array.max())
    for kind in (np.uint8, np.int16):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return array.astype(kind)
    return array.astype(np.float32)


def _volume_saver(affine: np.ndarray) -> Callable[[str, str, np.ndarray], tuple[File, dict[str, Any]]]:
    """Returns what writes one layer `(z, y, x)` as NIfTI."""

    def save(name: str, kind: str, array: np.ndarray) -> tuple[File, dict[str, Any]]:
        plain = np.rint(255 * array).astype(np.uint8) if kind == "heat" else _plain(array)
        return File(f"{name}.nii.gz", nifti_bytes(plain, affine, slope=1 / 255 if kind == "heat" else 1.0)), {}

    return save


def nifti_bytes(data: Shaped[np.ndarray, "z y x"], affine: Float[np.ndarray, "4 4"], *, slope: float = 1.0) -> bytes:
    """Returns a volume as NIfTI, compressed; the same bytes for the same values.

    Args:
      data: of a type that NIfTI has.
      affine: index `(z, y, x)` -> mm in RAS+.
      slope: what stored values are to be multiplied by.
    """
    import nibabel

    image = nibabel.Nifti1Image(data.transpose(2, 1, 0), reverse_columns(affine), dtype=data.dtype)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(slope, 0.0)
    # nibabel would scale the values themselves; the header comes out as asked for where they are written untouched.
    stream = io.BytesIO()
    image.header.write_to(stream)  # and that there are no extensions
    stream.write(np.ascontiguousarray(data).tobytes())  # x runs fastest, as in NIfTI
    return gzip.compress(stream.getvalue(), compresslevel=_COMPRESSION, mtime=0)


def _flat(name: str, kind: str, array: np.ndarray) -> tuple[File, dict[str, Any]]:
    """Writes one layer `(y, x)`, or `(y, x, 3)` in colour, as PNG."""
    plain = _plain(array)
    if plain.ndim == 3:
        low, high = window(plain)
        bytes_ = plain if plain.dtype == np.uint8 else np.rint(255 * np.clip((plain - low) / (high - low), 0, 1))
        return File(f"{name}.png", png(bytes_.astype(np.uint8))), {
            "encoding": "rgb8",
            "window": [0.0, 255.0],
            "extent": [0.0, 255.0],
        }
    if plain.dtype == np.uint8:
        return File(f"{name}.png", png(plain)), {"encoding": "grey8"}
    low, high = (0.0, 1.0) if kind == "heat" else (float(plain.min()), float(plain.max()))
    low, high = (0.0, float(_WHOLE)) if kind == "labels" else (low, high if high > low else low + 1.0)
    steps = np.rint((plain.astype(np.float64) - low) / (high - low) * _WHOLE).astype(np.uint16)
    packed = np.stack([steps >> 8, steps & 255, np.zeros_like(steps)], axis=-1).astype(np.uint8)
    return File(f"{name}.png", png(packed)), {"encoding": "grey16", "range": [low, high]}


def png(picture: UInt8[np.ndarray, "H W"] | UInt8[np.ndarray, "H W 3"]) -> bytes:
    """Returns a picture as PNG without a colour profile: a browser reads back the very values."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(stream, format="PNG")
    return stream.getvalue()


def _objects(found: Instances) -> list[dict[str, Any]]:
    """Returns class, score, box and outlines of each object, in pixels (pixel i covers [i, i + 1)), crowds left out."""
    boxes = found.boxes if found.boxes is not None else run_length.boxes(found.masks)
    rows = [row for row in np.argsort(-found.scores, kind="stable") if not found.crowd[row]]
    return [
        {
            "class": int(found.labels[row]),
            "score": round(float(found.scores[row]), 4),
            "box": [round(float(edge), 1) for edge in boxes[row]],
            "outlines": _outlines(run_length.decode(found.masks[row])),
        }
        for row in rows
    ]


def _outlines(mask: np.ndarray) -> list[list[float]]:
    """Returns each closed outline as x, y, x, y, ..."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    corner = np.array((columns[0], rows[0]))
    return [np.round(line + corner, 1).ravel().tolist() for line in contours(part)]


def object_classes(found: Instances, shape: tuple[int, int]) -> Integer[np.ndarray, "H W"]:
    """Returns the class of the highest-scoring object at each pixel, 0 where there is none."""
    ids = np.zeros(shape, np.int16)
    for row in np.argsort(found.scores, kind="stable"):
        if not found.crowd[row]:
            ids[run_length.decode(found.masks[row])] = found.labels[row]
    return ids
