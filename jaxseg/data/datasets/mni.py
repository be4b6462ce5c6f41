"""The quickstart's data: axial slices of the MNI152 2009a T1 template, with tissue classes from its probability maps.

The files come with the nilearn wheel (Fonov et al., NeuroImage 2011), so nothing is downloaded. The template is an
average of 152 real heads, brain only.
"""

import functools
import hashlib
import importlib.util
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Int16, UInt8

from jaxseg.data import volume
from jaxseg.typing import Case, DataSet, Sample, UserError, Volume

CLASSES = ("other", "grey matter", "white matter")
MULTIPLE = 16  # slices have sizes that four halvings divide


def load(
    *, root: Any = None, step: int = 1, downsample: int = 1, block: int = 16, noise: float = 0.0, bias: float = 0.0
) -> DataSet:
    """Lists the axial slices with tissue as 2D cases slice_NNN, NNN counted from below in template slices (1 mm).

    Pixels are grey or white matter where that map (of 0 to 1) is the largest of grey, white and 1 - grey - white.
    Slices are cropped to that tissue with sizes that are multiples of 16; the front of the head is up and its right
    side left, as radiologists look at it. Image values stay as they are (0 to 255) unless `noise` or `bias` is given.

    Args:
      root: a folder with the three files; unset: the installed nilearn package's.
      step: take every n-th slice.
      downsample: take every n-th pixel along rows and columns.
      noise: standard deviation of Gaussian noise, as a fraction of 255. The template is an average and has next to
        none; single scans have some percent.
      bias: strength of a smooth multiplicative field, as a surface coil leaves it: exp of a random quadratic whose
        largest deviation is this. Noise and field of a slice are always the same.
      block: so many contiguous template slices (of 1 mm) form one subject and are held out together.

    Raises:
      UserError: nilearn (or `root`) lacks the files, or an option is below 1.
    """
    if min(noise, bias) < 0:
        raise UserError(f"data.noise and data.bias should not be negative, got {noise} and {bias}.")
    if min(step, downsample, block) < 1:
        raise UserError(
            f"data.step, data.downsample and block should be at least 1, got {step}, {downsample}, {block}."
        )
    folder = str(root) if root else package_folder()
    _, label = _slices(folder, downsample)
    numbers = [z for z in range(0, len(label), step) if label[z].any()]
    cases = tuple(
        Case(f"slice_{z:03d}", (file_of(folder, "t1"),), file_of(folder, "gm"), f"block_{z // block:02d}")
        for z in numbers
    )
    return DataSet(
        cases=cases,
        channels=("T1",),
        classes=CLASSES,
        label_values=(0, 1, 2),
        flip_pairs=(),
        regions=None,
        load=functools.partial(load_slice, folder=folder, downsample=downsample, noise=noise, bias=bias),
        digest=functools.partial(digest_slice, folder=folder, options=(downsample, noise, bias)),
    )


def load_slice(case: Case, *, folder: str, downsample: int, noise: float = 0.0, bias: float = 0.0) -> Sample:
    """Returns slice NNN of a case slice_NNN: image `(y, x, 1)` uint8 and label `(y, x)` int16."""
    image, label = _slices(folder, downsample)
    number = int(case.name.removeprefix("slice_"))
    affine = np.diag([downsample, downsample, 1.0])
    path = f"{file_of(folder, 't1')}[{number}]"
    scanned = as_scanned(image[number], seed=number, noise=noise, bias=bias)
    whole = Volume(scanned[..., None], (float(downsample),) * 2, affine, None, path)
    volume.check_image(whole)
    return Sample(whole, whole._replace(data=label[number]))


def as_scanned(image: UInt8[np.ndarray, "y x"], *, seed: int, noise: float, bias: float) -> UInt8[np.ndarray, "y x"]:
    """Returns the slice as one scan would show it: a smooth field over it (`bias`) and noise in it; see `load`."""
    draw = np.random.default_rng((1, seed))
    y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in image.shape), indexing="ij")
    field = sum(draw.uniform(-1, 1) * term for term in (y, x, y * x, y**2, x**2))
    field = np.exp(bias * field / np.abs(field).max())
    scanned = image * field + draw.normal(0, 255 * noise, image.shape)
    return scanned.round().clip(0, 255).astype(np.uint8)


def digest_slice(case: Case, *, folder: str, options: tuple) -> str:
    """Returns the sha256 of the three files, the slice's name and what is done to it."""
    return hashlib.sha256(f"{_files_digest(folder)} {case.name} {options}".encode()).hexdigest()


def package_folder() -> str:
    """Returns nilearn's data folder without importing nilearn, which takes seconds."""
    spec = importlib.util.find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("The data set 'mni' lies in the nilearn package, which is not installed; pip install nilearn.")
    return str(pathlib.Path(spec.submodule_search_locations[0]) / "datasets" / "data")


def file_of(folder: str, kind: str) -> str:
    """Returns the path of the template's image "t1" or of its map "gm" or "wm" (0 to 255) in that folder."""
    return str(pathlib.Path(folder) / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")


@functools.cache
def _files_digest(folder: str) -> str:
    return hashlib.sha256(
        b"".join(pathlib.Path(file_of(folder, kind)).read_bytes() for kind in ("t1", "gm", "wm"))
    ).hexdigest()


@functools.cache
def _slices(folder: str, downsample: int) -> tuple[UInt8[np.ndarray, "z y x"], Int16[np.ndarray, "z y x"]]:
    """Returns all slices, front up and right side left, thinned out and cropped to the tissue."""
    from jaxseg.data import readers

    image, grey, white = (readers.read(file_of(folder, kind)).data[..., 0] for kind in ("t1", "gm", "wm"))
    other = 255 - grey.astype(np.int16) - white
    label = np.argmax(np.stack([other, grey, white]), axis=0).astype(np.int16)
    # The files run right to front to top (RAS): rows reversed put the front up; columns reversed, the right side left.
    thin = (slice(None), slice(None, None, -downsample), slice(None, None, -downsample))
    image, label = image[thin], label[thin]
    window = (slice(None), *(_window(label.any(axis=others)) for others in ((0, 2), (0, 1))))
    return np.ascontiguousarray(image[window]), np.ascontiguousarray(label[window])


def _window(used: np.ndarray) -> slice:
    """Returns the smallest centred window around the used part whose size is a multiple of 16."""
    first, last = np.flatnonzero(used)[[0, -1]]
    size = -(-int(last - first + 1) // MULTIPLE) * MULTIPLE
    if size > len(used):
        raise UserError(f"The slices have {len(used)} pixels along an axis, too few for {size}; lower data.downsample.")
    start = min(max(int(first + last + 1 - size) // 2, 0), len(used) - size)
    return slice(start, start + size)
