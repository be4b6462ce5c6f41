"""Folders of made images with their labels: written whole or not at all, each image file marked as made.

FOLDER/images/NAME.png      or .nii.gz (3D), or .tif (2D with channels that are neither one nor three)
FOLDER/labels/NAME.png      or .nii.gz; .tif where PNG cannot hold a label value
FOLDER/README.txt           one paragraph for people
FOLDER/provenance.json      written last: what has it is whole
"""

import contextlib
import json
import os
import pathlib
import shutil
import textwrap
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from jaxseg.data import fingerprint, made, volume, writers
from jaxseg.typing import UserError, Volume

IMAGES, LABELS, RECORD, README = "images", "labels", "provenance.json", "README.txt"
MARK = "synthetic (jaxseg)"  # in every image file, so that none can be taken for a patient's
WHAT = "These images were made by a neural network out of label maps; none of them shows a real patient."
BYTES = "8-bit PNG: 0 to 255 stand for -1 to 1"
FLOATS = "float32 from -1 to 1"


@contextlib.contextmanager
def replacing(target: pathlib.Path, *, overwrite: bool) -> Iterator[pathlib.Path]:
    """Gives an empty folder beside `target`; on success it becomes `target`, on any failure it goes.

    Raises:
      UserError: see `check_target`; or the folder cannot be written.
    """
    check_target(target, overwrite=overwrite)
    target = target.resolve()
    partial, stale = (target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.{kind}") for kind in ("partial", "old"))
    try:
        partial.mkdir(parents=True)
        try:
            yield partial
            check_target(target, overwrite=overwrite)  # a long time has passed
            if target.exists():
                os.replace(target, stale)  # a folder cannot be renamed onto a full one
            os.replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            if stale.exists() and not target.exists():
                os.replace(stale, target)
            shutil.rmtree(stale, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error}; choose a folder with space and write access.") from error


def check_target(target: pathlib.Path, *, overwrite: bool) -> None:
    """Checks that a folder may be written, or replaced where `overwrite` says so.

    Raises:
      UserError: it is a file; it is not empty and may not be overwritten; or it holds what is not of such a folder.
    """
    if target.exists() and not target.is_dir():
        raise UserError(f"--output {target} is a file; name a new folder.")
    if not target.exists() or not any(target.iterdir()):
        return
    if not overwrite:
        raise UserError(f"--output {target} is not empty; name a new folder, or add --overwrite to replace it.")
    foreign = sorted(str(path) for path in _files(target) - _known(target))
    if foreign:
        raise UserError(
            f"--output {target} holds {foreign[0]}, which --mode synthesize did not write, so it is not replaced; "
            "name a new folder."
        )


def _files(folder: pathlib.Path) -> set[pathlib.Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}


def _known(folder: pathlib.Path) -> set[pathlib.Path]:
    """Returns the files that a folder holds by its own record; none where there is no record of made images."""
    try:
        record = json.loads((folder / RECORD).read_text())
        if record["synthetic"] is not True:
            return set()
        suffixes, names = record["suffixes"], record["files"]
        pairs = {pathlib.Path(place, f"{name}{suffixes[place]}") for place in (IMAGES, LABELS) for name in names}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return pairs | {pathlib.Path(RECORD), pathlib.Path(README)}


def suffixes(*, ndim: int, channels: int, label_values: Sequence[int]) -> dict[str, str]:
    """Returns the suffix of images and of labels.

    Args:
      ndim: spatial axes.
      channels: of an image.
      label_values: all that may be written.
    """
    if ndim == 3:
        return {IMAGES: ".nii.gz", LABELS: ".nii.gz"}
    fits = min(label_values) >= 0 and max(label_values) <= np.iinfo(np.uint16).max
    return {IMAGES: ".png" if channels in (1, 3) else ".tif", LABELS: ".png" if fits else ".tif"}


def intensities(suffixes: dict[str, str]) -> str:
    """Returns what the numbers in the image files stand for, in words."""
    return BYTES if suffixes[IMAGES] == ".png" else FLOATS


def scaling(
    suffixes: dict[str, str], scale: Float[np.ndarray, " C"], offset: Float[np.ndarray, " C"]
) -> list[list[float]]:
    """Returns (offset, scale) of each channel: normalised = (number in the file - offset) / scale.

    Args:
      suffixes: see `suffixes`.
      scale, offset: of `value_range.scales`: normalised = encoded * scale + offset.
    """
    steps = 127.5 if suffixes[IMAGES] == ".png" else 1.0
    start = 127.5 if suffixes[IMAGES] == ".png" else 0.0
    return [[float(start - o / s * steps), float(steps / s)] for s, o in zip(scale, offset)]


def grid(spacing: Sequence[float], data: np.ndarray, path: Any) -> Volume:
    """Returns a `Volume` without a place in a patient: the axes of the file are those of the world, of this spacing."""
    affine = volume.identity_affine(len(spacing))
    affine[:, :-1] *= np.asarray(spacing, np.float64)
    return volume.make(data, affine, header=None, path=path)


def write_pair(
    folder: pathlib.Path,
    name: str,
    image: Float[np.ndarray, "*S C"],
    label: Integer[np.ndarray, "*S"],
    *,
    spacing: Sequence[float],
    suffixes: dict[str, str],
) -> None:
    """Writes an image from -1 to 1 and its label map in the user's own values into `images/` and `labels/`."""
    place = folder / IMAGES / f"{name}{suffixes[IMAGES]}"
    place.parent.mkdir(parents=True, exist_ok=True)
    like = grid(spacing, np.asarray(image, np.float32), place)
    write_image(place, like)
    writers.write(folder / LABELS / f"{name}{suffixes[LABELS]}", label, like)


def write_image(path: pathlib.Path, image: Volume) -> None:
    """Writes one image from -1 to 1 with the mark of a made one in it; the suffix of `path` says how."""
    if path.name.endswith(".nii.gz"):
        import nibabel

        data = image.data.transpose(2, 1, 0, 3)  # (x, y, z, C)
        data = data[..., 0] if data.shape[-1] == 1 else data
        file = nibabel.Nifti1Image(data, volume.reverse_columns(image.affine))
        file.header.set_xyzt_units("mm")
        file.header["descrip"] = MARK.encode()
        file.to_filename(path)
    elif path.suffix == ".png":
        from PIL import Image, PngImagePlugin

        text = PngImagePlugin.PngInfo()
        text.add_text("Description", MARK)
        pixels = made.to_bytes(image.data)
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path, pnginfo=text)
    else:
        import tifffile

        layout: dict[str, Any] = {"planarconfig": "contig", "metadata": {"axes": "YXS"}}
        tifffile.imwrite(
            path, image.data, photometric="minisblack", compression="zlib", description=MARK, software=MARK, **layout
        )


def write_record(folder: pathlib.Path, record: dict[str, Any]) -> None:
    """Writes the paragraph for people and then, last, the record, of which `synthetic` and `what` are a part.

    Args:
      folder: with all pairs in it.
      record: JSON-able; with `pairs`, `workdir`, `step`, `labels`, `seed`, `suffixes` and `files`.
    """
    about = (
        f"{WHAT} {record['pairs']} images lie in {IMAGES}/, and what each was made of in {LABELS}/ under the same "
        f"name. They were made by jaxseg (--mode synthesize) with the generator of {record['workdir']}, step "
        f"{record['step']}, from label maps ({record['labels']}), seed {record['seed']}. Intensities are "
        f"{record['intensities']}. Every image file carries the words {MARK!r}. {RECORD} holds the whole record. Use "
        "them as training data beside real images; never as patients, and never to evaluate on."
    )
    (folder / README).write_text(textwrap.fill(about, 100, break_long_words=False, break_on_hyphens=False) + "\n")
    fingerprint.write_json(folder / RECORD, {"synthetic": True, "what": WHAT, **record})
