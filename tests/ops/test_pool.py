"""Pooling by hand-sized truth and against XLA's windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxseg import ops


def test_hand_sized():
    x = jnp.array([[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 8.0, 6.0]])[None, :, :, None]
    assert ops.max_pool(x, 2).ravel().tolist() == [5, 8]
    assert ops.average_pool(x, 2).ravel().tolist() == [3.25, 4]
    assert ops.max_pool(x, (1, 2)).shape == (1, 2, 2, 1)
    assert ops.max_pool(x, 1) is x


def test_3d_equals_windows_with_gradient():
    x = jax.random.normal(jax.random.key(0), (2, 2, 6, 4, 3))
    window = (1, 3, 2)

    def by_window(x):
        shape = (1, *window, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, shape, shape, "VALID")

    np.testing.assert_array_equal(ops.max_pool(x, window), by_window(x))
    ours, xla = (jax.grad(lambda x, f=f: jnp.sum(f(x) ** 2))(x) for f in (lambda x: ops.max_pool(x, window), by_window))
    np.testing.assert_allclose(ours, xla, rtol=1e-6)


def test_average_of_bfloat16_is_summed_in_float32():
    x = jnp.full((1, 32, 32, 1), 1.0, jnp.bfloat16)
    out = ops.average_pool(x, 32)
    assert out.dtype == jnp.bfloat16 and float(out[0, 0, 0, 0]) == 1.0


@pytest.mark.parametrize("window", [3, (2, 2, 2), 0])
def test_window_that_does_not_fit(window):
    with pytest.raises(ValueError, match="divide"):
        ops.max_pool(jnp.zeros((1, 4, 6, 1)), window)
