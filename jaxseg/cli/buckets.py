"""The sizes that exported programs have room for: as the config says, or as the training cases are."""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxseg import paths
from jaxseg.cli import inference
from jaxseg.data import preprocess, store
from jaxseg.predict.programs import Bucket
from jaxseg.typing import UserError

STEP = 8  # sizes that are chosen here are multiples of it
SHARES = (0.5, 0.9, 1.0)  # of the training cases that a bucket holds, along each axis
MARGIN = 1.25  # of the largest bucket over the largest training case
WORTH = 1.3  # times as many voxels a bucket should have as the one before, or it is left out


def choose(trained: inference.Trained, folder: paths.Path) -> list[Bucket]:
    """Returns the buckets of `config.export.shapes`, or of the prepared training cases, the smallest first.

    Raises:
      UserError: shapes and data do not fit together, or shapes are neither given nor to be found.
    """
    settings = preprocess.settings_from_json(trained.record["settings"])
    window = tuple(trained.config.predict.window or trained.config.data.patch_size)
    options = trained.config.export
    if options.shapes is not None:
        grids = [_at_least(shape, window) for shape in options.shapes]
        images = _images(options, grids, settings, folder, trained)
    else:
        sizes, grids_of_cases = _sizes(trained, folder)
        images, grids = _quantiles(sizes), [_at_least(grid, window) for grid in _quantiles(grids_of_cases)]
    made = [_bucket(image, grid, settings) for image, grid in zip(images, grids)]
    made.sort(key=lambda bucket: int(np.prod(bucket.grid)))
    return made if options.shapes is not None else _worth(made)


def _sizes(trained: inference.Trained, folder: paths.Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns `(cases, axes)` sizes of the cropped images and of what the network sees of them."""
    problem = "there are no cases"
    for place in (paths.path(trained.record.get("store", folder)), folder / "prepared"):
        try:
            cases = store.open(place)
        except (UserError, OSError) as error:
            problem = str(error)
            continue
        if cases:
            boxes = [[stop - start for start, stop in case.record["box"]] for case in cases]
            return np.array(boxes), np.array([case.record["new_shape"] for case in cases])
    raise UserError(
        f"The prepared training cases of {folder} say how large images are, but {problem.rstrip('.')}; give sizes of "
        "the network's grid and of the images, such as --set 'export.shapes=((64,96,96),)' --set "
        "'export.image_shapes=((60,128,128),)'."
    )


def _quantiles(sizes: np.ndarray) -> list[tuple[int, ...]]:
    """Returns one shape for each of SHARES, the last with the margin."""
    rows = [np.quantile(sizes, share, axis=0) for share in SHARES]
    rows[-1] = rows[-1] * MARGIN
    return [tuple(int(-(-size // STEP) * STEP) for size in row) for row in rows]


def _images(
    options: ConfigDict,
    grids: Sequence[tuple[int, ...]],
    settings: preprocess.Settings,
    folder: paths.Path,
    trained: inference.Trained,
) -> list[tuple[int, ...]]:
    """Returns the image shapes that go with given grids: as given, or as the finest training case has them."""
    if options.image_shapes is not None:
        return [tuple(shape) for shape in options.image_shapes]
    if settings.spacing is None:
        return list(grids)
    sizes, grids_of_cases = _sizes(trained, folder)
    finest = (sizes / grids_of_cases).max(axis=0)
    if len(finest) != len(grids[0]):
        raise UserError(f"export.shapes must have {len(finest)} axes, as the training cases, got {grids[0]}.")
    return [tuple(int(np.ceil(size * ratio)) for size, ratio in zip(grid, finest)) for grid in grids]


def _at_least(shape: Sequence[int], window: Sequence[int]) -> tuple[int, ...]:
    """The network's grid holds one window at least; `window` may lack the first axis."""
    thick = (1,) * (len(shape) - len(window)) + tuple(window)
    if len(thick) != len(shape):
        raise UserError(
            f"export.shapes must have {len(window)} axes or, slice by slice, {len(window) + 1}; got {shape}."
        )
    return tuple(max(int(size), length) for size, length in zip(shape, thick))


def _bucket(image: Sequence[int], grid: Sequence[int], settings: preprocess.Settings) -> Bucket:
    """Axes that are not resampled are as long in the image as on the grid."""
    spacing = settings.spacing or (None,) * len(grid)
    if not len(image) == len(grid) == len(spacing):
        raise UserError(
            f"export.shapes and export.image_shapes must have {len(spacing)} axes each, got {tuple(grid)} and "
            f"{tuple(image)}."
        )
    longer = [max(pair) if step is None else None for *pair, step in zip(image, grid, spacing)]
    return Bucket(
        tuple(int(size if both is None else both) for size, both in zip(image, longer)),
        tuple(int(size if both is None else both) for size, both in zip(grid, longer)),
    )


def _worth(made: Sequence[Bucket]) -> list[Bucket]:
    """Leaves out what the next larger bucket does nearly as well."""
    kept = [made[-1]]
    for bucket in reversed(made[:-1]):
        if np.prod(kept[-1].grid) >= WORTH * np.prod(bucket.grid):
            kept.append(bucket)
    return kept[::-1]
