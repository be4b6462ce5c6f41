"""PNG, JPEG, BMP and GIF through Pillow, TIFF (2D images and z stacks) through tifffile.

These formats carry no trustworthy voxel size: spacing is 1.0 along each axis (resolution tags count dots for
a printer and are not read). Alpha is dropped. Pixels are taken as stored: an EXIF orientation is not applied.
"""

import pathlib
import zlib
from typing import Any

import numpy as np

from jaxseg.data import volume
from jaxseg.typing import UserError, Volume

TIFF = (".tif", ".tiff")
MINISWHITE, PALETTE, RGB = 0, 3, 2  # TIFF photometric interpretations


def _damaged(path: pathlib.Path, error: Exception) -> UserError:
    return UserError(
        f"{path} should be a complete image, but cannot be read: {volume.reason(error)}; copy or export it again."
    )


def _grey_palette(picture: Any) -> bool:
    palette = np.array(picture.getpalette("RGB")).reshape(-1, 3)
    used = palette[np.unique(np.asarray(picture))]
    return bool((used == used[:, :1]).all())


def _pixels(picture: Any, *, label: bool) -> np.ndarray:
    """Returns one Pillow picture as `(y, x, C)`.

    Palettes: an image takes its colours (grey ones as one channel); a label map takes the indices, which are the
    classes in the usual colour-coded PNG masks, except in a grey GIF (GIF has no other way to hold grey).
    """
    if picture.mode in ("P", "PA"):
        picture = picture.convert("P") if picture.mode == "PA" else picture
        if label and not (picture.format == "GIF" and _grey_palette(picture)):
            return np.asarray(picture)[..., None]
        picture = picture.convert("L" if _grey_palette(picture) else "RGB")
    elif picture.mode == "1":
        data = np.asarray(picture)[..., None]
        return data.astype(np.uint8) if label else data * np.uint8(255)
    elif picture.mode in ("LA", "La"):
        picture = picture.convert("L")
    elif picture.mode not in ("L", "RGB", "F", "I") and not picture.mode.startswith("I;16"):
        picture = picture.convert("RGB")  # RGBA, CMYK, YCbCr and others
    data = np.asarray(picture)
    return data if data.ndim == 3 else data[..., None]


def _deep_colour(path: pathlib.Path) -> bool:
    """Tells whether a PNG has 16 bits a channel in several channels, which Pillow cuts to 8."""
    with path.open("rb") as file:
        head = file.read(26)
    return head[:4] == b"\x89PNG" and len(head) == 26 and head[24] == 16 and head[25] != 0


def _with_pillow(path: pathlib.Path, *, label: bool) -> np.ndarray:
    """Returns `(y, x, C)`, or `(z, y, x, C)` for a TIFF of several pages."""
    from PIL import Image

    if _deep_colour(path):
        raise UserError(f"{path} has 16 bits a colour channel, which Pillow would cut to 8; save it as TIFF.")
    try:
        with Image.open(path) as picture:
            pages = getattr(picture, "n_frames", 1)
            if pages == 1:
                return _pixels(picture, label=label)
            if path.suffix.lower() not in TIFF:
                raise UserError(f"{path} is an animation of {pages} frames; save them as single files or a TIFF stack.")
            stack = []
            for page in range(pages):
                picture.seek(page)
                stack.append(_pixels(picture, label=label))
            return np.stack(stack)
    except (Image.DecompressionBombError, OSError, SyntaxError, EOFError, zlib.error) as error:
        raise _damaged(path, error) from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise _damaged(path, error) from error


def _order_axes(data: np.ndarray, axes: str, path: pathlib.Path) -> np.ndarray:
    """Brings a TIFF series with named axes to `(y, x, C)` or `(z, y, x, C)`."""
    keep = [i for i, letter in enumerate(axes) if letter in "YXS" or data.shape[i] > 1 or letter == "Z"]
    data, axes = data.reshape([data.shape[i] for i in keep]), "".join(axes[i] for i in keep)
    channel = [i for i, letter in enumerate(axes) if letter in "SC" and data.shape[i] > 1]
    single = [i for i, letter in enumerate(axes) if letter in "SC" and data.shape[i] == 1]
    stack = [i for i, letter in enumerate(axes) if letter not in "YXSC"]
    if len(channel) > 1 or len(stack) > 1:
        raise UserError(
            f"{path} should be a 2D image or a z stack, with one channel axis at most, but has the axes {axes} "
            f"{data.shape}; split it into one file a time point or a channel."
        )
    data = data.transpose(*stack, axes.index("Y"), axes.index("X"), *channel, *single)
    return data.reshape(*data.shape[: 2 + len(stack)], -1)


def _with_tifffile(path: pathlib.Path, *, label: bool) -> np.ndarray | None:
    """Returns the pixels, or None where Pillow knows better (inverted grey, palettes, LZW and other compressions)."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            if int(page.photometric) in (MINISWHITE, PALETTE):
                return None
            if len(file.series) != 1:
                raise UserError(f"{path} holds {len(file.series)} images of different shapes; save one a file.")
            series = file.series[0]
            try:
                data = series.asarray()
            except ValueError as error:
                if "imagecodecs" in str(error):
                    return None
                raise
            axes, alpha = series.axes, int(page.photometric) == RGB and page.samplesperpixel == 4
    except UserError:
        raise
    except (tifffile.TiffFileError, OSError, ValueError, IndexError, KeyError, zlib.error) as error:
        raise _damaged(path, error) from error
    data = _order_axes(data, axes, path)
    if data.dtype.kind == "b":
        data = data.astype(np.uint8) if label else data * np.uint8(255)
    return data[..., :3] if alpha else data


def _load(path: pathlib.Path, *, label: bool) -> np.ndarray:
    data = _with_tifffile(path, label=label) if path.suffix.lower() in TIFF else None
    return _with_pillow(path, label=label) if data is None else data


def read(path: Any) -> Volume:
    """Reads `(y, x, C)`, a TIFF of several pages as `(z, y, x, C)`.

    Grey stays one channel, colour becomes three (palettes too), alpha is dropped, 1-bit images become 0 and 255,
    8, 16 and 32 bits keep their values. Spacing is 1.0.

    Raises:
      UserError: the file is damaged, an animation, or has more axes than z, y, x and channel.
    """
    path = pathlib.Path(path)
    data = volume.as_image(_load(path, label=False), path=path)
    return volume.make(data, volume.identity_affine(data.ndim - 1), header=None, path=path)


def read_label(path: Any) -> Volume:
    """Reads a label map `(y, x)` or `(z, y, x)` with the file's own integer values.

    1-bit masks give 0 and 1, palette PNGs their indices, grey GIFs their grey values (0 and 255). A colour mask counts
    when its channels are equal.

    Raises:
      UserError: as `read`; also for a mask in true colours and for values that are not whole numbers.
    """
    path = pathlib.Path(path)
    data = _load(path, label=True)
    if not (data == data[..., :1]).all():
        raise UserError(
            f"{path} should be a label map with one number a pixel, but has {data.shape[-1]} unequal colour channels; "
            "convert each colour to a class number, or save it as a palette PNG."
        )
    data = volume.as_label(data[..., 0], path=path)
    return volume.make(data, volume.identity_affine(data.ndim), header=None, path=path)
