"""Class ids of a case within a given memory: outputs are blended, resampled and reduced while windows go by.

Sums of windows are held for as many planes of the first axis as a window has. Where even these are too many, the second
axis is cut into blocks, one after the other; the windows across a cut are then predicted for both sides, which costs
time and changes no value.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int16

from jaxseg.data import inverse
from jaxseg.data.resample import SLAB_BYTES
from jaxseg.predict.planes import Layout, predict_planes
from jaxseg.typing import PredictFn, UserError

WINDOW_COPIES = 4  # of the outputs of a batch: one is added up, one under way, and what the network's last layers hold
FLIP_COPIES = 2  # further ones: the sum of the flips, and one flipped back
SLAB_COPIES = 4  # of a slab on its way through the axes of the resampling


class Blocks(NamedTuple):
    """How a case is cut, and what that takes.

    Attributes:
      rows: blocks of rows of the crop box's second axis, `(first, last + 1)` each.
      planes: of the first axis for which sums are held.
      bytes: estimate of what is held at once on the host beside the image as read.
    """

    rows: tuple[tuple[int, int], ...]
    planes: int
    bytes: int


def plan_blocks(
    record: Mapping[str, Any],
    place: Layout,
    *,
    channels: int,
    image_channels: int,
    batch_size: int = 1,
    flips: int = 0,
    memory: int | None = None,
) -> Blocks:
    """Returns the fewest blocks with which a case fits into `memory`.

    Args:
      record: of the preprocessing.
      place: the layout of the case's windows.
      channels: K, outputs of the network.
      image_channels: C of the preprocessed image.
      batch_size: windows in one call.
      flips: how many axes are flipped.
      memory: bytes on the host that may be taken beside the image as read; None: no bound.

    Returns:
      The plan. Where none fits, that of the least memory: its `bytes` are more than `memory`.
    """
    first_row = place.pads[1][0]
    starts = [max(start - first_row, 0) for start in place.starts[1]]
    copies = WINDOW_COPIES + (FLIP_COPIES if flips else 0)
    window = 4 * channels * copies * batch_size * int(np.prod(place.window, dtype=np.int64))
    plans = []
    for count in range(1, len(starts) + 1):
        cuts = [starts[len(starts) * index // count] for index in range(1, count)]
        rows = tuple(inverse.row_blocks(record, cuts))
        plans.append(_plan(record, place, rows, channels, image_channels, window))
        if memory is None or plans[-1].bytes <= memory:
            return plans[-1]
    return min(plans, key=lambda plan: plan.bytes)


def _plan(
    record: Mapping[str, Any],
    place: Layout,
    rows: tuple[tuple[int, int], ...],
    channels: int,
    image_channels: int,
    windows: int,
) -> Blocks:
    """What these blocks take: the image, the sums of the largest block, windows on the way, a slab, the class ids."""
    grid, box = record["new_shape"], [stop - start for start, stop in record["box"]]
    read = max(stop - start for start, stop in (inverse.rows_read(record, block) for block in rows))
    plane = 4 * (channels + 1) * read * int(np.prod(grid[2:], dtype=np.int64))
    planes = min(max(place.window[0], SLAB_BYTES // plane), grid[0])
    longest = max(stop - start for start, stop in rows)
    file_plane = 4 * channels * longest * int(np.prod(box[2:], dtype=np.int64))
    slab = SLAB_COPIES * max(file_plane, plane, SLAB_BYTES)
    image = 4 * image_channels * int(np.prod(grid, dtype=np.int64))
    # int16 class ids, and once more where they are turned or become the file's own values.
    labels = 2 * 2 * int(np.prod(record["shape"], dtype=np.int64))
    return Blocks(rows, planes, planes * plane + slab + windows + image + labels)


def predict_labels(
    predict_fn: PredictFn,
    image: Float[np.ndarray, "*T C"],
    record: Mapping[str, Any],
    place: Layout,
    *,
    channels: int,
    batch_size: int = 1,
    flip_axes: Sequence[int] = (),
    flip_pairs: Sequence[tuple[int, int]] = (),
    region_labels: Sequence[int] | None = None,
    activate: Callable[[np.ndarray], np.ndarray] | None = None,
    check: Callable[[np.ndarray], None] | None = None,
    memory: int | None = None,
    name: str = "",
) -> Int16[np.ndarray, "*S"]:
    """Returns the class ids of a preprocessed case on the grid of its file.

    They are those of `predict_array` and `preprocess.invert`, bit by bit, as long as the network gives a window the
    same numbers in whatever batch it stands.

    Args:
      predict_fn, batch_size, flip_axes, flip_pairs: see `predict_array`.
      image, record: of `preprocess.forward`.
      place: the layout of the windows.
      channels: K, outputs of the network.
      region_labels: None for the most probable class; else the class id of each sigmoid region, painted in order.
      activate: see `preprocess.invert`.
      check: called with each piece of outputs `(n, rows, *T[2:], K)` on the network's grid.
      memory: see `plan_blocks`.
      name: of the case, for an error.

    Raises:
      UserError: the case does not fit into `memory`.
      ValueError: the network gives another number of outputs.
    """
    blocks = plan_blocks(
        record,
        place,
        channels=channels,
        image_channels=image.shape[-1],
        batch_size=batch_size,
        flips=len(flip_axes),
        memory=memory,
    )
    check_fits(
        blocks.bytes,
        memory,
        f"{name or 'The image'} with {channels} outputs and windows of {place.window}",
        "choose a smaller predict.window or predict.batch_size",
    )
    outputs = functools.partial(
        predict_planes,
        predict_fn,
        image,
        place,
        batch_size=batch_size,
        flip_axes=flip_axes,
        flip_pairs=flip_pairs,
        planes=blocks.planes,
    )

    def pieces(start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        for first, piece in outputs(rows=(start, stop)):
            if piece.shape[-1] != channels:
                raise ValueError(f"The network should give {channels} outputs, got {piece.shape[-1]}.")
            if check is not None:
                check(piece)
            yield first, piece

    return inverse.invert_pieces(
        pieces,
        record,
        channels=channels,
        blocks=blocks.rows,
        reduce="argmax" if region_labels is None else "threshold",
        region_labels=region_labels,
        activate=activate,
    )


def probability_bytes(record: Mapping[str, Any], channels: int) -> int:
    """Returns what all outputs of a case take: sums on the network's grid, and the values on the file's."""
    grid, own = (int(np.prod(record[name], dtype=np.int64)) for name in ("new_shape", "shape"))
    return 4 * ((channels + 1) * grid + channels * own)


def check_fits(needed: int, memory: int | None, what: str, remedy: str) -> None:
    """Raises a UserError where `what` needs more bytes than `memory`."""
    if memory is not None and needed > memory:
        raise UserError(
            f"{what} needs about {needed / 2**30:.1f} GiB of memory, but {max(memory, 0) / 2**30:.1f} GiB are left; "
            f"{remedy}, raise predict.memory_gib where there is more, or free some."
        )
