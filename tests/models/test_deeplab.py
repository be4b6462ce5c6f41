"""Where the atrous pyramid looks: an impulse through each branch alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import models
from jaxseg.models import deeplab


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("stride, rates", [(16, (6, 12, 18)), (8, (12, 24, 36))])
@pytest.mark.parametrize("separable", [False, True])
def test_a_branch_sees_its_dilated_taps_and_nothing_else(stride, rates, ndim, separable):
    network = models.create("deeplabv3plus", ndim=ndim, output_stride=stride, features=1, norm="none", dropout=0.0)
    pyramid = deeplab._pyramid(network, separable, network.depthwise_norm)
    assert pyramid.rates == rates
    centre = np.array((37, 39, 38)[:ndim])  # off the middle, and further from every border than the largest rate
    size = (75, 77, 79)[:ndim]
    image = jnp.zeros((1, *size, 1)).at[(0, *centre, 0)].set(1.0)
    shapes = jax.eval_shape(pyramid.init, jax.random.key(0), image)
    draw = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: jnp.asarray(draw.uniform(0.5, 1, x.shape), x.dtype), shapes)

    def branches(variables, image):
        _, seen = pyramid.apply(variables, image, capture_intermediates=True)
        found = seen["intermediates"]
        return [found[f"branch_{i}"]["__call__"][0][0, ..., 0] for i in range(len(rates) + 1)]

    steps = np.stack(np.meshgrid(*[(-1, 0, 1)] * ndim, indexing="ij"), -1).reshape(-1, ndim)
    answers, quiet = (jax.jit(branches)(variables, x) for x in (image, jnp.zeros_like(image)))
    for i, (answer, background, rate) in enumerate(zip(answers, quiet, (0, *rates), strict=True)):
        response = np.asarray(answer) - np.asarray(background)  # without the biases
        expected = {tuple(centre + rate * step) for step in steps}  # branch 0 is a 1x1: one place for all of them
        assert set(map(tuple, np.argwhere(np.abs(response) > 1e-4).tolist())) == expected
        if rate and not separable:  # cross-correlation: a tap answers to what lies at its place from the output
            kernel = np.asarray(variables["params"][f"branch_{i}"]["conv"]["kernel"])[..., 0, 0]
            taps = tuple(slice(c - rate, c + rate + 1, rate) for c in centre)
            np.testing.assert_allclose(response[taps], np.flip(kernel), rtol=1e-5)


def test_rates_keep_the_field_of_view_in_pixels():
    fields = {stride: tuple(stride * rate for rate in rates) for stride, rates in deeplab.RATES.items()}
    assert fields == {stride: (96, 192, 288) for stride in (32, 16, 8)}
