"""Super-resolution: published parameter counts, which axes grow, what a silent head leaves, bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxseg import models, ops

TINY = {"features": 3, "blocks": 1, "scale": 2}
SIZES = {2: (8, 12), 3: (4, 6, 5)}


def drawn(shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def made(n, **fields):
    """A tiny network, its variables drawn without compiling `init`, and an image."""
    model = models.create_generator("super_resolution", ndim=n, channels=2, **{**TINY, **fields})
    image, draw = drawn((2, *SIZES[n], 2)), np.random.default_rng(2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    return model, jax.tree.map(lambda leaf: jnp.asarray(0.3 * draw.normal(size=leaf.shape), jnp.float32), shapes), image


def quick(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def abstract(model, shape):
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    found, _ = jax.eval_shape(model.apply, variables, image)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])), found.shape


def conv(i, o):
    return 9 * i * o + o


def test_parameters():
    trunk = conv(3, 64) + 32 * conv(64, 64) + conv(64, 64) + conv(64, 3)
    for published, scale, doublings in [(1_517_571, 4, 2), (1_369_859, 2, 1)]:
        model = models.create_generator("super_resolution", channels=3, scale=scale)
        found, shape = abstract(model, (1, 5, 7, 3))
        assert found == trunk + doublings * conv(64, 256) == published and shape == (1, 5 * scale, 7 * scale, 3)


def test_gradients_jit_and_samples_apart():
    model, variables, image = made(2)

    def loss(params, image):
        found, aux = model.apply({"params": params}, image)
        return jnp.sum(jnp.square(found)), (found, aux)

    derive = quick(jax.value_and_grad(loss, has_aux=True))
    (_, (found, aux)), gradients = derive(variables["params"], image)
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(gradients))
    assert found.dtype == jnp.float32 and aux["features"].shape == (2, 8, 12, 3)
    assert_allclose(found, model.apply(variables, image, train=True)[0], atol=1e-5)
    other = derive(variables["params"], image.at[1].add(1))[0][1][0]
    assert_allclose(other[0], found[0], atol=1e-6)
    assert np.abs(other[1] - found[1]).max() > 1e-3


@pytest.mark.parametrize("scale, axes, n", [(4, None, 2), (2, (0,), 3), (4, (0, 2), 3)])
def test_super_resolution_enlarges_the_axes_it_should(scale, axes, n):
    model, variables, image = made(n, scale=scale, axes=axes)
    chosen = range(n) if axes is None else axes
    expected = [length * (scale if axis in chosen else 1) for axis, length in enumerate(SIZES[n])]
    params = {**variables["params"], "head": jax.tree.map(jnp.zeros_like, variables["params"]["head"])}
    found = quick(model.apply)({"params": params}, image)[0]
    assert found.shape == (2, *expected, 2)
    assert_allclose(found, ops.resize(image, expected), atol=1e-6)  # a silent head: linear interpolation
    assert model.factors == tuple(scale if axis in chosen else 1 for axis in range(n))


def test_super_resolution_begins_near_linear_interpolation():
    model, _, image = made(2)
    found = quick(lambda key: model.init_with_output(key, image)[0][0])(jax.random.key(0))
    difference = np.abs(found - ops.resize(image, found.shape[1:-1]))
    assert 0 < difference.max() < 0.05


@pytest.mark.parametrize(
    "fields, shape, message",
    [
        ({"scale": 3}, (1, 8, 12, 1), "scale should be 2 or 4; it is 3"),
        ({"axes": (2,)}, (1, 8, 12, 1), r"from 0 to 1; it is \(2,\)"),
        ({"axes": ()}, (1, 8, 12, 1), "axes should name"),
        ({}, (1, 8, 12, 2), "channels=1 adds to its input, so it takes as many; the image has 2"),
    ],
)
def test_what_does_not_fit_is_told(fields, shape, message):
    with pytest.raises(ValueError, match=message):
        abstract(models.create_generator("super_resolution", **{**TINY, **fields}), shape)
