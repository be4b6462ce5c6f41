"""Objects of whole images from a detector of one size: tiles, flips, duplicates; the detector here knows the answer."""

import numpy as np
import pytest

from jaxseg import ops, predict
from jaxseg.ops import run_length
from jaxseg.predict.instances import paste

SIZE = (50, 70)
BOXES = [(4, 6, 9, 12), (30, 40, 12, 8), (20, 28, 7, 7), (44, 62, 6, 8)]  # top, left, height, width


def image_of_objects():
    """Each object is a rectangle of its own grey value, 1, 2, ...; its class is 1 or 2 by whether that is odd."""
    image = np.zeros((*SIZE, 1), np.float32)
    for value, (top, left, height, width) in enumerate(BOXES, start=1):
        image[top : top + height, left : left + width] = value
    return image


def oracle(calls=None, most=6):
    """A detector that finds what a tile shows of each object; larger parts get higher scores."""

    def detect(tiles, sizes):
        if calls is not None:
            calls.append(tiles.shape)
        batch = len(tiles)
        found = {
            "boxes": np.zeros((batch, most, 4), np.float32),
            "scores": np.zeros((batch, most), np.float32),
            "labels": np.zeros((batch, most), np.int32),
            "valid": np.zeros((batch, most), bool),
            "masks": np.ones((batch, most, 28, 28), np.float32),
        }
        for row, (tile, size) in enumerate(zip(tiles, sizes)):
            assert (tile[int(size[0]) :] == 0).all() and (tile[:, int(size[1]) :] == 0).all()
            for place, value in enumerate(np.unique(tile[tile > 0])):
                y, x = np.nonzero(tile[..., 0] == value)
                found["boxes"][row, place] = x.min(), y.min(), x.max() + 1, y.max() + 1
                found["scores"][row, place] = 0.5 + len(y) / 500
                found["labels"][row, place] = 2 - int(value) % 2
                found["valid"][row, place] = True
        return found

    return detect


def rectangles(found):
    """(top, left, height, width) of every mask, as a set."""
    boxes = run_length.boxes(found.masks)
    return {(int(y), int(x), int(b - y), int(r - x)) for x, y, r, b in boxes}


@pytest.mark.parametrize(
    ("window", "flips", "batch_size"),
    [((50, 70), (), 1), ((64, 96), (0, 1), 3), ((32, 32), (), 2), ((32, 48), (1,), 4), ((64, 32), (0,), 1)],
)
def test_every_object_is_found_once_and_whole(window, flips, batch_size):
    calls = []
    found = predict.predict_instances(
        oracle(calls), image_of_objects(), window=window, overlap=0.5, flip_axes=flips, batch_size=batch_size
    )
    assert rectangles(found) == set(BOXES)
    assert set(calls) == {(batch_size, *window, 1)}  # one shape, so one compiled program
    assert (np.diff(found.scores) <= 0).all() and sorted(found.labels.tolist()) == [1, 1, 2, 2]
    wanted = {(left, top, left + width, top + height) for top, left, height, width in BOXES}
    assert {tuple(box) for box in found.boxes} == wanted


def test_weak_objects_and_small_masks_are_left_out():
    everything = predict.predict_instances(oracle(), image_of_objects(), window=SIZE)
    large = predict.predict_instances(oracle(), image_of_objects(), window=SIZE, min_size=60)
    sure = predict.predict_instances(oracle(), image_of_objects(), window=SIZE, min_score=0.69)
    assert len(everything.masks) == 4 and len(large.masks) == 2 and len(sure.masks) == 2
    assert rectangles(predict.above(everything, 0.69)) == rectangles(sure) == set(BOXES[:2])


def test_an_empty_image_has_no_objects():
    found = predict.predict_instances(oracle(), np.zeros((20, 30, 2), np.float32), window=(32, 32))
    assert found.masks == () and found.boxes.shape == (0, 4) and found.labels.shape == found.scores.shape == (0,)


def test_objects_of_other_classes_may_lie_over_each_other():
    def detect(tiles, sizes):
        boxes = np.array([[[2, 3, 20, 18], [2, 3, 20, 18], [3, 3, 21, 18]]], np.float32)
        return {
            "boxes": boxes,
            "scores": np.array([[0.9, 0.8, 0.7]], np.float32),
            "labels": np.array([[1, 2, 1]], np.int32),
            "valid": np.ones((1, 3), bool),
            "masks": np.ones((1, 3, 28, 28), np.float32),
        }

    found = predict.predict_instances(detect, np.zeros((32, 32, 1), np.float32), window=(32, 32))
    assert found.labels.tolist() == [1, 2] and found.scores.tolist() == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize("box", [(3.2, 5.7, 21.4, 30.9), (-4.0, 30.0, 8.5, 60.0), (10.0, 10.0, 10.4, 10.3)])
def test_pasting_on_the_host_equals_pasting_on_the_device(box):
    mask = np.random.default_rng(2).random((14, 14)).astype(np.float32)
    boxes = np.array([box], np.float32)
    expected = ops.paste_masks(mask[None], boxes, size=(40, 36))[0]
    np.testing.assert_allclose(paste(mask, boxes[0].astype(np.float64), (40, 36)), expected, atol=1e-4)
