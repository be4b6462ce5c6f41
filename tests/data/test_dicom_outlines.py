"""Outlines enclose exactly the pixels of their mask, by hand and by an even-odd fill that knows nothing of them."""

import numpy as np
import pytest
from matplotlib.path import Path

from jaxseg.data.dicom.outlines import outlines


def mask_of(*rows):
    return np.array([[letter == "#" for letter in row] for row in rows])


def filled(polygons, shape):
    """A pixel is in where an odd number of polygons surrounds its centre."""
    centres = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 2)
    odd = np.zeros(len(centres), bool)
    for polygon in polygons:
        odd ^= Path(np.vstack([polygon, polygon[:1]])).contains_points(centres)
    return odd.reshape(shape)


def area(polygon):
    """Positive where the inside is on the right, with rows downwards."""
    row, column = polygon.T
    return float(np.sum(column * np.roll(row, -1) - np.roll(column, -1) * row)) / 2


def test_one_pixel_is_a_square_around_its_centre():
    (square,) = outlines(mask_of("....", "..#.", "...."))
    assert square.tolist() == [[0.5, 1.5], [0.5, 2.5], [1.5, 2.5], [1.5, 1.5]]
    assert area(square) == 1.0


def test_a_hole_is_a_polygon_of_its_own_that_runs_the_other_way():
    mask = mask_of("#####", "#...#", "#.#.#", "#...#", "#####")
    ring, hole, core = outlines(mask)
    assert [area(one) for one in (ring, hole, core)] == [25.0, -9.0, 1.0]
    assert hole.tolist() == [[0.5, 0.5], [3.5, 0.5], [3.5, 3.5], [0.5, 3.5]]


def test_pixels_that_touch_at_a_corner_stay_apart():
    assert sorted(area(one) for one in outlines(mask_of("#..", ".##"))) == [1.0, 2.0]
    # and background that touches at a corner joins into one hole, as it is the counterpart
    assert sorted(area(one) for one in outlines(mask_of("#####", "#.###", "##.##", "#####"))) == [-2.0, 20.0]


def test_nothing_has_no_outline_and_everything_has_one():
    assert outlines(np.zeros((3, 4), bool)) == []
    (frame,) = outlines(np.ones((3, 4), bool))
    assert frame.tolist() == [[-0.5, -0.5], [-0.5, 3.5], [2.5, 3.5], [2.5, -0.5]]


@pytest.mark.parametrize("share", [0.1, 0.45, 0.6, 0.95])
def test_filling_gives_any_mask_back(share):
    for seed in range(3):
        mask = np.random.default_rng(seed).random((13, 17)) < share
        polygons = outlines(mask)
        np.testing.assert_array_equal(filled(polygons, mask.shape), mask)
        assert sum(area(one) for one in polygons) == mask.sum()
        for polygon in polygons:  # only corners at which the outline turns
            step, following = polygon - np.roll(polygon, 1, axis=0), np.roll(polygon, -1, axis=0) - polygon
            assert (np.abs(step * following).sum(axis=1) == 0).all()
