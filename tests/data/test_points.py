"""Points of a file go where the voxels around them go."""

import numpy as np
import pytest

from jaxseg.data import points, preprocess
from jaxseg.typing import Volume


def prepared(spacing):
    """A turned volume (4, 6, 9) with a margin of zeros, and its record."""
    data = np.zeros((4, 6, 9, 1), np.float32)
    data[1:4, 1:5, 2:8] = np.random.default_rng(0).normal(5, 1, (3, 4, 6, 1))
    affine = np.array([[0, 2.0, 0, 0], [0, 0, -1.5, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]])  # z is S, y is R, x is P
    volume = Volume(data, (3.0, 2.0, 1.5), affine)
    settings = preprocess.Settings(spacing=spacing, axis_order=(1, 0, 2))
    return preprocess.forward(volume, settings)[1], settings


@pytest.mark.parametrize("spacing", [None, (0.75, 1.0, 1.0)])
def test_a_point_lies_in_what_its_voxel_becomes(spacing):
    record, settings = prepared(spacing)
    for point in [(1, 1, 2), (3, 4, 7), (2, 3, 5)]:
        label = np.zeros((4, 6, 9), np.int16)
        label[point] = 1
        moved = preprocess.forward_label(Volume(label, (3.0, 2.0, 1.5), np.eye(4)), record, settings)
        assert moved[points.forward_point(point, record)] == 1


def test_a_point_of_the_margin_goes_to_its_edge_and_one_outside_is_refused():
    record, _ = prepared(None)
    assert points.forward_point((0, 1, 2), record) == points.forward_point((1, 1, 2), record)
    with pytest.raises(ValueError, match=r"image of \(4, 6, 9\) should lie within it, got \(4, 0, 0\)"):
        points.forward_point((4, 0, 0), record)
