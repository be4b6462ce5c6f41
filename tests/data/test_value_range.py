"""Intensities to the range of generators and back."""

import numpy as np
import pytest

from jaxseg.data import value_range
from jaxseg.typing import UserError


def test_each_channel_has_the_range_of_its_normalisation():
    image = np.array([[-6.0, -3.0, 0.0], [0.0, 1.5, 0.5], [3.0, 9.0, 1.0]], np.float32)
    made = value_range.encode(image, ("zscore", "ct", "rgb"))
    np.testing.assert_allclose(made, [[-1, -1, -1], [0, 0.5, 0], [1, 1, 1]], atol=1e-6)


def test_decode_undoes_encode():
    image = np.random.default_rng(0).uniform(0, 1, (2, 3, 5, 4)).astype(np.float32)
    kinds = ("unit", "rgb", "zscore_mask", "zscore")
    back = value_range.decode(value_range.encode(image, kinds, clip=2.0), kinds, clip=2.0)
    np.testing.assert_allclose(back, image, atol=1e-6)


def test_a_normalisation_without_a_range_is_refused():
    with pytest.raises(UserError, match=r"data\.normalize"):
        value_range.encode(np.zeros((2, 1), np.float32), ("none",))
    with pytest.raises(UserError, match="positive"):
        value_range.encode(np.zeros((2, 1), np.float32), ("zscore",), clip=0.0)
    with pytest.raises(ValueError, match="one normalisation a channel"):
        value_range.encode(np.zeros((2, 1), np.float32), ("unit", "unit"))
