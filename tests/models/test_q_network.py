"""What a Q-network tells, put together by hand from what it gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import models


def test_values_are_the_situation_and_how_far_an_action_is_above_the_mean():
    model = models.create("q_network", num_classes=5, features=(4, 6), hidden=7)
    image = jax.random.normal(jax.random.key(0), (3, 9, 14, 2))
    (values, aux), variables = jax.jit(model.init_with_output)(jax.random.key(1), image)
    params = jax.tree.map(np.asarray, variables["params"])
    features = np.asarray(aux["features"])
    value = features @ params["value"]["kernel"] + params["value"]["bias"]
    advantage = features @ params["advantage"]["kernel"] + params["advantage"]["bias"]
    np.testing.assert_allclose(values, value + advantage - advantage.mean(-1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(np.asarray(values).mean(-1), value[:, 0], atol=1e-6)
    assert np.abs(values).max() < 0.5  # first values are close to none at all
    assert np.ptp(values, axis=0).min() > 0  # each image has its own


def test_a_small_thing_anywhere_is_seen():
    model = models.create("q_network", num_classes=3, features=(4, 4), hidden=6)
    blank = jnp.zeros((1, 24, 32, 1))
    shown = jnp.concatenate([blank, blank.at[0, 2, 3].set(1.0), blank.at[0, 13, 30].set(1.0)])
    (values, _), _ = jax.jit(model.init_with_output)(jax.random.key(0), shown)
    assert np.abs(values[1:] - values[0]).max(-1).min() > 1e-4


def test_an_image_of_another_rank_is_refused():
    with pytest.raises(ValueError, match="QNetwork with ndim=3"):
        models.create("q_network", ndim=3).init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
