"""PNG for 2D label maps and 8-bit pictures, TIFF for those, stacks, probabilities and images of fractions."""

import pathlib

import numpy as np

from jaxseg.typing import UserError, Volume


def save(path: pathlib.Path, data: np.ndarray, like: Volume, *, is_label: bool) -> None:
    """Writes a label map or an image without a channel axis, or channels as the samples of each pixel.

    PNG: 8 bits, or 16 where a value is above 255. TIFF: the data's own type, deflate-compressed, z as pages.

    Raises:
      UserError: PNG is asked to hold a volume, fractions (probabilities), negative values, values above 65535, or
        channels that are no 8-bit colours.
    """
    if path.suffix.lower() == ".png":
        _save_png(path, data, like)
    else:
        _save_tiff(path, data, is_label=is_label)


def _save_png(path: pathlib.Path, data: np.ndarray, like: Volume) -> None:
    from PIL import Image

    colours = data.shape[2:] == (3,) and data.dtype == np.uint8
    if len(like.spacing) != 2 or data.dtype.kind == "f" or (data.ndim > 2 and not colours):
        flat = "fractions such as probabilities" if data.dtype.kind == "f" else "channels that are no 8-bit colours"
        what = "a volume" if len(like.spacing) != 2 else flat
        raise UserError(f"PNG cannot hold {what} (of {like.path}); write a .tif file.")
    if data.dtype not in (np.uint8, np.uint16):
        if data.min() < 0 or data.max() > 65535:
            raise UserError(
                f"PNG cannot hold the values {data.min()} to {data.max()} (of {like.path}), only 0 to 65535; "
                "write a .tif file."
            )
        data = data.astype(np.uint16)
    Image.fromarray(np.ascontiguousarray(data)).save(path)


def _save_tiff(path: pathlib.Path, data: np.ndarray, *, is_label: bool) -> None:
    import tifffile

    if not is_label and data.shape[-1] == 1:
        data, is_label = data[..., 0], True  # tifffile stores a single sample a pixel as plain pages
    axes = "ZYX"[-data.ndim :] if is_label else "ZYX"[1 - data.ndim :] + "S"
    colours = not is_label and data.shape[-1] == 3 and data.dtype == np.uint8
    tifffile.imwrite(
        path,
        data,
        photometric="rgb" if colours else "minisblack",
        planarconfig=None if is_label else "contig",
        compression="zlib",
        metadata={"axes": axes},
    )
