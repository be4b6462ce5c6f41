"""Meta-learners of stacking against numpy and scipy, and where they start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from jaxseg import models


def filled(model, image, *, seed=0):
    """Variables of a network, every array drawn."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(image))
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(generator.normal(size=leaf.shape), jnp.float32), shapes)


def test_logistic_regression_is_one_matrix_product():
    image = np.random.default_rng(1).normal(size=(2, 3, 5, 6)).astype(np.float32)
    model = models.create("logistic", num_classes=4)
    variables = filled(model, image)
    layer = variables["params"]["logistic"]
    assert layer["kernel"].shape == (1, 1, 6, 4) and layer["bias"].shape == (4,)
    logits, aux = model.apply(variables, jnp.asarray(image))
    assert_allclose(logits, image @ layer["kernel"][0, 0] + layer["bias"], rtol=1e-5, atol=1e-5)
    assert aux == {}


@pytest.mark.parametrize("name", ("logistic", "stacking_conv"))
def test_meta_learners_start_undecided(name):
    image = np.random.default_rng(1).normal(size=(1, 2, 3, 5, 6)).astype(np.float32)
    (logits, _), _ = models.create(name, num_classes=3, ndim=3).init_with_output(jax.random.key(0), jnp.asarray(image))
    assert_array_equal(logits, np.zeros((1, 2, 3, 5, 3)))


def test_stacking_conv_by_scipy():
    image = np.random.default_rng(2).normal(size=(1, 4, 5, 6)).astype(np.float32)
    model = models.create("stacking_conv", num_classes=3, features=2)
    variables = filled(model, image)
    logits, aux = model.apply(variables, jnp.asarray(image))
    layer = variables["params"]
    linear = image @ layer["logistic"]["kernel"][0, 0] + layer["logistic"]["bias"]
    hidden = np.stack(
        [
            sum(
                ndimage.correlate(image[0, ..., i], layer["hidden"]["kernel"][..., i, o], mode="constant")
                for i in range(6)
            )
            + layer["hidden"]["bias"][o]
            for o in range(2)
        ],
        axis=-1,
    )
    assert set(layer["head"]) == {"kernel"}
    assert_allclose(aux["logistic"], linear, rtol=1e-4, atol=1e-4)
    assert_allclose(logits, linear + np.maximum(hidden, 0) @ layer["head"]["kernel"][0, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ("logistic", "stacking_conv"))
def test_an_image_of_another_rank_is_told(name):
    with pytest.raises(ValueError, match="with ndim=3 takes"):
        models.create(name, ndim=3).init(jax.random.key(0), jnp.zeros((1, 4, 5, 2)))
