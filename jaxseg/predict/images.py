"""Networks that make images: a volume in, an image in natural intensities out, on the file's grid or a finer one."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxseg.predict.array import predict_array
from jaxseg.predict.predictor import check_axes, check_finite, predict_folder
from jaxseg.predict.sliding_window import Weight
from jaxseg.typing import Case, PredictFn, UserError, Volume


def predict_image(
    predict_fn: PredictFn,
    volume: Volume,
    settings: Any,
    *,
    ndim: int,
    window: Sequence[int] | None,
    overlap: float = 0.5,
    weight: Weight = "gaussian",
    batch_size: int = 1,
    factors: Sequence[int] | None = None,
    intensities: Sequence[tuple[float, float]] | None = None,
    flip_axes: Sequence[int] = (),
    divisor: int | Sequence[int] = 1,
) -> Volume:
    """Returns the image that a network makes of one case: preprocess, predict by windows, natural intensities, turn.

    Args:
      predict_fn: `(B, *window, C) -> (B, *(window * factors), K)` in normalised intensities, jitted.
      volume: the image `(*S, C)` as read.
      settings: `data.preprocess.Settings` of the training run, without resampling: images are made on the file's grid.
      ndim, window, overlap, weight, batch_size, flip_axes, divisor: see `predict_array`.
      factors: how many times more voxels along each of the network's `ndim` axes; None: as many.
      intensities: mean and deviation of each channel made, which turn normalised into natural values (translation).
        None: the channels are those given (super-resolution), and each takes the normalisation of this very image back.

    Returns:
      float32 `(*T, K)` with the axes of the file, which covers the same extent: spacing and affine are those of the
      finer voxels. Outside the crop box, where the file is 0 in all channels, it is 0; with `intensities` the lowest
      value made of each channel, and 0 with "zscore_mask", which leaves the background out of what is learnt.

    Raises:
      UserError: the volume does not fit the settings, these resample, or the network gave numbers that are not finite.
      ValueError: the network makes another number of channels, or an option is out of its range.
    """
    from jaxseg.data import preprocess
    from jaxseg.data.volume import finer_affine

    if settings.spacing is not None and any(length is not None for length in settings.spacing):
        raise UserError(
            f"Images are made on the grid of the file, but the spacing is set to {tuple(settings.spacing)}; "
            "train with data.spacing that keeps the file's."
        )
    check_axes(volume, ndim)
    array, record = preprocess.forward(volume, settings)
    made = predict_array(
        predict_fn,
        array,
        ndim=ndim,
        window=window,
        overlap=overlap,
        weight=weight,
        batch_size=batch_size,
        flip_axes=flip_axes,
        divisor=divisor,
        factors=factors,
    )
    del array
    check_finite(made, volume)
    made = preprocess.natural(made, volume, settings, record, intensities=intensities)
    known = intensities is None or "zscore_mask" in settings.normalize
    outside = np.zeros(made.shape[-1]) if known else made.min(tuple(range(made.ndim - 1)))
    # A volume taken slice by slice keeps its slices.
    every = (*(1,) * (volume.data.ndim - 1 - ndim), *((1,) * ndim if factors is None else factors))
    data = preprocess.invert(made, preprocess.enlarged(record, every), reduce=None, outside=outside.tolist())
    of_file = preprocess.factors_of_file(record, every)
    spacing = tuple(length / factor for length, factor in zip(volume.spacing, of_file))
    return volume._replace(data=data, spacing=spacing, affine=finer_affine(volume.affine, of_file))


def write_made(
    made: Volume, volume: Volume, path: str | pathlib.Path, *, overwrite: bool = False, same_range: bool = True
) -> str:
    """Writes an image made of `volume`, and returns the path: `path`, or a TIFF where PNG cannot hold the image.

    Pictures of 8 bits give pictures of 8 bits in one channel or three; other pictures give float32.

    Args:
      made: the image; names the geometry.
      volume: the input.
      path: the file, named as the input; its folder is made.
      overwrite: replace a file that exists.
      same_range: what is made has the input's range of intensities. False: it may exceed 8 bits where the input has 8
        (another contrast), and is not cut to them.

    Raises:
      UserError: the file exists and may not be overwritten, or cannot be written.
    """
    from jaxseg.data import writers

    path = pathlib.Path(path)
    like = volume if same_range else None
    if path.suffix.lower() == ".png" and not writers.eight_bits(made, like=like):
        path = path.with_suffix(".tif")
    return str(writers.write_image(path, made, like=like, overwrite=overwrite))


def predict_images_folder(
    predict_image_fn: Callable[[Volume], Volume],
    cases: Sequence[Case],
    output: str | pathlib.Path,
    *,
    read: Callable[[Case], Volume],
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    suffix: str | None = None,
    same_range: bool = True,
) -> list[tuple[str, str]]:
    """Makes an image of every case, one file each, named as the input; a case that fails stops no other.

    Args:
      predict_image_fn: `volume -> image`, a `partial` of `predict_image`.
      cases, output, read, overwrite, progress, suffix: see `predict_folder`.
      same_range: see `write_made`.

    Returns:
      `(case name, path of the image)` in the order of `cases`.

    Raises:
      UserError: as `predict_folder`.
    """

    def write(case: Case, made: Volume, volume: Volume, path: pathlib.Path) -> str:
        return write_made(made, volume, path, overwrite=overwrite, same_range=same_range)

    return predict_folder(
        predict_image_fn,
        cases,
        output,
        read=read,
        label_values=(),
        overwrite=overwrite,
        progress=progress,
        write=write,
        suffix=suffix,
    )
