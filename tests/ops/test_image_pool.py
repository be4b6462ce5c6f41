"""The image pool replayed in numpy with the same draws, its chances, and devices that share one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxseg.ops import image_pool

SHAPE = (2, 3, 1)


def images(first, count):
    """Images that are known by their value."""
    return np.broadcast_to(np.arange(first, first + count, dtype=np.float32)[:, None, None, None], (count, *SHAPE))


def replay(key, stored, size, fakes):
    """CycleGAN's pool: a list on the host."""
    shown = []
    for number, fake in enumerate(fakes):
        whether, where = jax.random.split(jax.random.fold_in(key, number))
        if len(stored) < size:
            stored.append(fake)
            shown.append(fake)
        elif float(jax.random.uniform(whether)) < 0.5:
            place = int(jax.random.randint(where, (), 0, size))
            shown.append(stored[place])
            stored[place] = fake
        else:
            shown.append(fake)
    return np.stack(shown)


def test_replay():
    size, batch = 5, 3
    pool, stored, swapped = image_pool.start(size, SHAPE), [], 0
    exchange = jax.jit(image_pool.exchange)
    for step in range(8):
        fakes, key = images(batch * step, batch), jax.random.key(step)
        pool, shown = exchange(key, pool, fakes)
        assert_array_equal(shown, replay(key, stored, size, fakes))
        assert int(pool.filled) == len(stored) == min(batch * (step + 1), size)
        assert_array_equal(pool.images[: len(stored)], np.stack(stored))
        swapped += int((shown != fakes).any(axis=(1, 2, 3)).sum())
    assert 3 < swapped < 19


def test_chances():
    size = 4
    pool, _ = image_pool.exchange(jax.random.key(0), image_pool.start(size, SHAPE), images(0, size))
    draw = jax.vmap(lambda key: image_pool.exchange(key, pool, images(100, 1))[1][0, 0, 0, 0])
    shown = np.asarray(draw(jax.random.split(jax.random.key(1), 2000)))
    counts = [(shown == value).mean() for value in (100, *range(size))]
    assert sum(counts) == 1 and abs(counts[0] - 0.5) < 0.05 and np.abs(np.asarray(counts[1:]) - 0.125).max() < 0.03


def test_devices_share_one_pool():
    pool, _ = image_pool.exchange(jax.random.key(0), image_pool.start(3, SHAPE), images(0, 2))
    fakes, key = images(10, 6), jax.random.key(3)
    whole, shown = image_pool.exchange(key, pool, fakes)

    def part(fakes):
        return image_pool.exchange(key, pool, fakes, axis_name="devices")

    pools, parts = jax.vmap(part, axis_name="devices")(fakes.reshape(2, 3, *SHAPE))
    assert_array_equal(parts.reshape(6, *SHAPE), shown)
    assert (shown != fakes).any()
    for device in range(2):
        assert_array_equal(pools.images[device], whole.images)
        assert int(pools.filled[device]) == int(whole.filled) == 3


def test_no_gradient_passes_and_types_stay():
    pool = image_pool.start(2, SHAPE, dtype=jnp.bfloat16)

    def total(fakes):
        return jnp.sum(image_pool.exchange(jax.random.key(0), pool, fakes)[1])

    assert_array_equal(jax.grad(total)(images(0, 3)), 0)
    after, shown = image_pool.exchange(jax.random.key(0), pool, images(0, 3))
    assert after.images.dtype == jnp.bfloat16 and shown.dtype == jnp.float32


def test_without_places_all_is_shown():
    pool = image_pool.start(0, SHAPE)
    after, shown = image_pool.exchange(jax.random.key(0), pool, images(5, 3))
    assert_array_equal(shown, images(5, 3))
    assert after.images.shape == (0, *SHAPE) and int(after.filled) == 0


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match="0 or more; it is -1"):
        image_pool.start(-1, SHAPE)
    with pytest.raises(ValueError, match=r"for \(2, 3, 1\) got images of shape \(3, 2, 1\)"):
        image_pool.exchange(jax.random.key(0), image_pool.start(2, SHAPE), np.zeros((1, 3, 2, 1), np.float32))
