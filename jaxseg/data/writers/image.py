"""PNG for 2D label maps, TIFF for label maps, stacks and probabilities."""

import pathlib

import numpy as np

from jaxseg.typing import UserError, Volume


def save(path: pathlib.Path, data: np.ndarray, like: Volume, *, is_label: bool) -> None:
    """Writes a label map, or probabilities as the samples of each TIFF pixel.

    PNG: 8 bits, or 16 where a value is above 255. TIFF: the data's own type, deflate-compressed, z as pages.

    Raises:
      UserError: PNG is asked to hold a volume, probabilities, negative values or values above 65535.
    """
    if path.suffix.lower() == ".png":
        _save_png(path, data, like, is_label=is_label)
    else:
        _save_tiff(path, data, is_label=is_label)


def _save_png(path: pathlib.Path, data: np.ndarray, like: Volume, *, is_label: bool) -> None:
    from PIL import Image

    if len(like.spacing) != 2 or not is_label:
        what = "probabilities" if not is_label else "a volume"
        raise UserError(f"PNG cannot hold {what} (of {like.path}); write a .tif file.")
    if data.dtype not in (np.uint8, np.uint16):
        if data.min() < 0 or data.max() > 65535:
            raise UserError(
                f"PNG cannot hold the label values {data.min()} to {data.max()} (of {like.path}), only 0 to 65535; "
                "write a .tif file."
            )
        data = data.astype(np.uint16)
    Image.fromarray(np.ascontiguousarray(data)).save(path)


def _save_tiff(path: pathlib.Path, data: np.ndarray, *, is_label: bool) -> None:
    import tifffile

    if not is_label and data.shape[-1] == 1:
        data, is_label = data[..., 0], True  # tifffile stores a single sample a pixel as plain pages
    axes = "ZYX"[-data.ndim :] if is_label else "ZYX"[1 - data.ndim :] + "S"
    tifffile.imwrite(
        path,
        data,
        photometric="minisblack",
        planarconfig=None if is_label else "contig",
        compression="zlib",
        metadata={"axes": axes},
    )
