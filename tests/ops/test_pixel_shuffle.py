"""Pixel shuffle against its definition, place by place."""

import math

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxseg import ops


@pytest.mark.parametrize("factors", [2, (1, 3), (2, 1, 3)])
def test_pixel_shuffle_order(factors):
    n = 2 if isinstance(factors, int) else len(factors)
    steps = (factors,) * n if isinstance(factors, int) else factors
    x = np.random.default_rng(0).normal(size=(2, *(3, 4, 2)[:n], 2 * math.prod(steps))).astype(np.float32)
    expected = np.zeros((2, *(length * step for length, step in zip(x.shape[1:], steps)), 2), np.float32)
    for place in np.ndindex(*expected.shape[1:]):
        *where, c = place
        channel = c
        for position, step in zip(where, steps):
            channel = channel * step + position % step
        expected[(slice(None), *place)] = x[(slice(None), *(p // step for p, step in zip(where, steps)), channel)]
    assert_array_equal(ops.pixel_shuffle(x, factors), expected)


def test_pixel_shuffle_by_hand():
    assert_array_equal(ops.pixel_shuffle(np.arange(4.0).reshape(1, 1, 1, 4), 2)[0, ..., 0], [[0, 1], [2, 3]])


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match="channels divisible by 4; got 6"):
        ops.pixel_shuffle(np.zeros((1, 2, 3, 6), np.float32), 2)
    with pytest.raises(ValueError, match="one factor from 1 up, or 2 of them"):
        ops.pixel_shuffle(np.zeros((1, 2, 3, 6), np.float32), (1, 2, 3))
