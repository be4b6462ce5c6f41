"""Where a training patch lies: uniform over all places, or centred on a voxel of a class (nnU-Net's oversampling)."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int


def is_forced(row: int, *, batch_size: int, foreground: float) -> bool:
    """Returns whether sample `row` of the global batch must show foreground: row >= round(batch x (1 - foreground)).

    With a share of 1/3 it is 1 of 2 and 3 of 9, as in nnU-Net.
    """
    return row >= round(batch_size * (1 - foreground))


def start_range(shape: Sequence[int], size: Sequence[int], inner: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest and highest start (inclusive) of a patch along each axis.

    The inner window, which stays after the augmentation's centre crop, runs from the first voxel to the last; where it
    is larger than the volume, the volume lies in its middle. The patch around it may reach beyond the volume.

    Args:
      shape: of the volume.
      size: of the patch that is read.
      inner: of the window that reaches the network; `size` where nothing is cropped later.
    """
    whole, window = np.asarray(shape), np.asarray(inner)
    margin = (np.asarray(size) - window) // 2
    missing = np.maximum(window - whole, 0) // 2
    lowest = np.where(window > whole, -missing, 0)
    highest = np.where(window > whole, -missing, whole - window)
    return lowest - margin, highest - margin


def uniform_start(
    rng: np.random.Generator, shape: Sequence[int], size: Sequence[int], *, inner: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Draws a start uniformly from all places, first and last included. See `start_range`."""
    lowest, highest = start_range(shape, size, size if inner is None else inner)
    return tuple(int(value) for value in rng.integers(lowest, highest, endpoint=True))


def centred_start(
    voxel: Sequence[int] | Int[np.ndarray, "axes"],
    shape: Sequence[int],
    size: Sequence[int],
    *,
    inner: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """Returns the start of the patch centred on `voxel`, moved no further than to stay in `start_range`."""
    inner = size if inner is None else inner
    lowest, highest = start_range(shape, size, inner)
    margin = (np.asarray(size) - np.asarray(inner)) // 2
    return tuple(int(value) for value in np.clip(np.asarray(voxel) - np.asarray(inner) // 2 - margin, lowest, highest))


def draw_voxel(
    rng: np.random.Generator, foreground: Mapping[int, Int[np.ndarray, "n axes"]]
) -> Int[np.ndarray, "axes"] | None:
    """Draws a class uniformly from those present, then one of its stored voxels; None where there is no foreground."""
    present = sorted(label for label, voxels in foreground.items() if label > 0 and len(voxels))
    if not present:
        return None
    voxels = foreground[present[rng.integers(len(present))]]
    return voxels[rng.integers(len(voxels))]
