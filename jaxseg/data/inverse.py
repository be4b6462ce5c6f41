"""From the network's grid back to the file's: resampling, the crop box, orientation; whole or as it comes.

Outputs of a case may come in pieces of the network's first axis and in blocks of rows of its second one, so that they
never lie in memory together. However they are cut, the values are the same.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int16

from jaxseg.data import orientation, resample

Reduce = Literal["argmax", "threshold"] | None
# (first, last + 1) rows of the network's second axis -> (first plane, planes (n, rows, *T[2:], K)) of its first axis.
Pieces = Callable[[int, int], Iterable[tuple[int, np.ndarray]]]


def invert(
    probs: Float[np.ndarray, "*T K"],
    record: Mapping[str, Any],
    *,
    reduce: Reduce = "argmax",
    threshold: float = 0.5,
    region_labels: Sequence[int] | None = None,
    exclusive: bool = True,
    outside: Sequence[float] | None = None,
    activate: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Int16[np.ndarray, "*S"] | Float[np.ndarray, "*S K"]:
    """Brings probabilities (or logits) back to the file's own grid: resampling (order 1), paste to the crop box, turn.

    Resampled slab by slab and reduced at once: memory is one label map and one slab, whatever the number of classes.

    Args:
      probs: on the grid that `preprocess.forward` returned.
      record: what `preprocess.forward` returned.
      reduce: "argmax" gives class ids, background (0) outside the crop box. "threshold" is for sigmoid regions: where
        region i is above `threshold`, `region_labels[i]` is written, later regions over earlier ones (nnU-Net's order).
        None gives the values themselves.
      threshold: for "threshold".
      region_labels: class id written for each region; 1, 2, ... K when None.
      exclusive: for `reduce=None`: outside the crop box the first channel (background) is 1; False (regions): all 0.
      outside: for `reduce=None`, in place of `exclusive`: the value of each channel outside the crop box.
      activate: turns logits `(*S, K)` into probabilities once they are on the file's grid; "argmax" does without.

    Returns:
      int16 `(*S)`, or float32 `(*S, K)` with `reduce=None`.

    Raises:
      ValueError: the shape is not that of the record, or the number of region labels not that of the regions.
    """
    if list(probs.shape[:-1]) != list(record["new_shape"]):
        raise ValueError(
            f"The probabilities should have the shape {record['new_shape']} before classes, got {probs.shape}."
        )
    return invert_pieces(
        lambda start, stop: [(0, probs[:, start:stop])],
        record,
        channels=probs.shape[-1],
        reduce=reduce,
        threshold=threshold,
        region_labels=region_labels,
        exclusive=exclusive,
        outside=outside,
        activate=activate,
    )


def invert_pieces(
    pieces: Pieces,
    record: Mapping[str, Any],
    *,
    channels: int,
    blocks: Sequence[tuple[int, int]] | None = None,
    reduce: Reduce = "argmax",
    threshold: float = 0.5,
    region_labels: Sequence[int] | None = None,
    exclusive: bool = True,
    outside: Sequence[float] | None = None,
    activate: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Int16[np.ndarray, "*S"] | Float[np.ndarray, "*S K"]:
    """Does what `invert` does with outputs that come piece by piece, and holds one slab of them on the file's grid.

    Args:
      pieces: `(start, stop)` rows of the network's second axis -> these rows of the outputs, as `resample.stream` takes
        them: `(first plane, (n, stop - start, *T[2:], K))`, in the order of the first axis.
      record: what `preprocess.forward` returned.
      channels: K.
      blocks: of `row_blocks`, in each of which `pieces` is asked once; None: one with all rows.
      reduce, threshold, region_labels, exclusive, outside, activate: see `invert`.

    Raises:
      ValueError: the number of region labels is not that of the regions, or `reduce` is unknown.
    """
    labels = np.arange(1, channels + 1) if region_labels is None else np.asarray(region_labels)
    if reduce == "threshold" and len(labels) != channels:
        raise ValueError(f"There should be one region label for each of {channels} regions, got {len(labels)}.")
    if reduce not in ("argmax", "threshold", None):
        raise ValueError(f"reduce should be 'argmax', 'threshold' or None, got {reduce!r}.")
    turned = [record["shape"][axis] for axis in record["axes"]]
    result = np.zeros(turned if reduce else (*turned, channels), np.int16 if reduce else np.float32)
    if reduce is None and outside is not None:
        result[...] = outside
    elif reduce is None and exclusive:
        result[..., 0] = 1.0
    inside = result[tuple(slice(start, stop) for start, stop in record["box"])]  # a view
    first, second, *others = tables(record)
    for top, bottom in blocks or [(0, inside.shape[1])]:
        rows = second.rows(top, bottom)
        start, stop = int(rows.place.min()), int(rows.place.max()) + 1
        table = [first, resample.Taps(rows.place - start, rows.weight), *others]
        for low, high, slab in resample.stream(pieces(start, stop), table):
            slab = slab if activate is None or reduce == "argmax" else activate(slab)
            _put(inside[low:high, top:bottom], slab, reduce, threshold, labels)
    return np.ascontiguousarray(orientation.undo(result, tuple(record["axes"]), tuple(record["flips"])))


def _put(target: np.ndarray, slab: np.ndarray, reduce: Reduce, threshold: float, labels: np.ndarray) -> None:
    """Writes what a slab of outputs comes to, in place."""
    if reduce is None:
        target[...] = slab
    elif reduce == "argmax":
        target[...] = slab.argmax(-1)
    else:
        for region, label in enumerate(labels):
            target[slab[..., region] > threshold] = label


def tables(record: Mapping[str, Any]) -> list[resample.Taps]:
    """Returns the taps that bring each axis of the network's grid back to the crop box."""
    # The network's spacing is now the current one and is asked first for an axis that stands out, as in nnU-Net.
    orders = resample.axis_orders(record["target_spacing"], record["spacing"], order=1)
    sizes = [stop - start for start, stop in record["box"]]
    return [resample.taps(*sizes_and_order) for sizes_and_order in zip(record["new_shape"], sizes, orders)]


def row_blocks(record: Mapping[str, Any], cuts: Sequence[int]) -> list[tuple[int, int]]:
    """Returns the rows of the crop box's second axis in blocks: the first reads rows below `cuts[0]` only, and so on.

    Args:
      record: what `preprocess.forward` returned.
      cuts: ascending rows of the network's second axis. A block that would be empty is left out.
    """
    place = tables(record)[1].place
    ends = np.searchsorted(place.max(axis=1), cuts)
    edges = np.unique([0, *ends, len(place)]).tolist()
    return list(itertools.pairwise(edges))


def rows_read(record: Mapping[str, Any], block: tuple[int, int]) -> tuple[int, int]:
    """Returns first and last + 1 row of the network's second axis that a block of the crop box's rows reads."""
    place = tables(record)[1].place[slice(*block)]
    return int(place.min()), int(place.max()) + 1
