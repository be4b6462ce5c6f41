"""Blocks of rows on the way back: together they are all rows, and each reads what it says."""

import numpy as np
import pytest

from jaxseg.data import inverse, preprocess
from jaxseg.data.volume import identity_affine
from jaxseg.typing import Volume


def record_of(shape, spacing, target):
    affine = identity_affine(len(shape))
    affine[:, : len(shape)] *= spacing
    data = np.random.default_rng(0).normal(size=(*shape, 1)).astype(np.float32)
    data[:, :2] = 0  # cropped away
    settings = preprocess.Settings(spacing=target, normalize=("none",))
    return preprocess.forward(Volume(data, spacing, affine, None, "scan"), settings)[1]


RECORDS = {
    "finer": record_of((6, 13, 5), (1.0, 1.0, 1.0), (1.0, 0.4, 0.7)),
    "coarser": record_of((6, 13, 5), (1.0, 1.0, 1.0), (1.4, 2.3, 1.0)),
    "same": record_of((6, 13), (1.0, 2.0), None),
}


@pytest.mark.parametrize("name", RECORDS)
def test_blocks_cover_all_rows_once_and_read_only_up_to_their_cut(name):
    record = RECORDS[name]
    rows, size = record["box"][1][1] - record["box"][1][0], record["new_shape"][1]
    for cuts in ([], [2], [1, 3, 4], list(range(size))):
        blocks = inverse.row_blocks(record, cuts)
        assert [row for block in blocks for row in range(*block)] == list(range(rows))
        assert all(start < stop for start, stop in blocks) and len(blocks) <= len(cuts) + 1
        ends = [inverse.rows_read(record, block)[1] for block in blocks]
        for cut in cuts:
            # No block but the one behind the cut reads across it.
            assert sum(inverse.rows_read(record, block)[0] < cut < end for block, end in zip(blocks, ends)) <= 1


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("reduce", ["argmax", "threshold", None])
def test_blocks_and_pieces_change_nothing(name, reduce):
    record = RECORDS[name]
    probs = np.random.default_rng(1).random((*record["new_shape"], 4)).astype(np.float32)
    asked = []

    def pieces(start, stop):
        asked.append((start, stop))
        return ((first, probs[first : first + 2, start:stop].copy()) for first in range(0, len(probs), 2))

    whole = preprocess.invert(probs, record, reduce=reduce)
    for cuts in ([], [2], [1, 3, 4]):
        blocks = inverse.row_blocks(record, cuts)
        found = inverse.invert_pieces(pieces, record, channels=4, blocks=blocks, reduce=reduce)
        np.testing.assert_array_equal(found, whole)
        assert [*asked] == [inverse.rows_read(record, block) for block in blocks]
        asked.clear()


def test_a_label_for_each_region_is_asked_for_before_anything_is_predicted():
    def pieces(start, stop):
        raise AssertionError("was asked")

    with pytest.raises(ValueError, match="one region label for each of 3 regions"):
        inverse.invert_pieces(pieces, RECORDS["same"], channels=3, reduce="threshold", region_labels=(1, 2))
