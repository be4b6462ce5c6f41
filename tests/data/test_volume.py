"""Geometry of volumes: finer grids cover the same extent."""

import itertools

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from jaxseg.data import volume

OBLIQUE = np.array([[0.0, 0.3, -1.9, -11.0], [0.2, -2.9, -0.3, 5.0], [4.0, -0.2, 0.0, 7.0], [0, 0, 0, 1.0]])


def test_the_centre_of_finer_voxels_is_that_of_the_voxel_they_divide():
    factors, voxel = (3, 1, 2), (2, 5, 1)
    fine = volume.finer_affine(OBLIQUE, factors)
    within = [range(index * factor, (index + 1) * factor) for index, factor in zip(voxel, factors)]
    centres = [fine @ [*place, 1] for place in itertools.product(*within)]
    assert_allclose(np.mean(centres, axis=0), OBLIQUE @ [*voxel, 1], rtol=1e-12)
    assert_allclose(fine[:3, :3], OBLIQUE[:3, :3] / factors, rtol=1e-12)


def test_finer_by_hand():
    fine = volume.finer_affine(np.array([[2.0, 0, 10], [0, 3, 20], [0, 0, 1]]), (4, 1))
    # A row of 2 mm around 10 mm becomes rows around 9.25, 9.75, 10.25 and 10.75.
    assert_array_equal(fine, [[0.5, 0, 9.25], [0, 3, 20], [0, 0, 1]])
