"""Differentiable augmentation: each change alone, the same draw for several arrays, gradients, jit, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxseg.data.augment import differentiable_augment

NONE = {"brightness": 0.0, "translation": 0.0, "cutout": 0.0}
SIZES = {2: (16, 24), 3: (8, 16, 12)}


def drawn(n, channels=2, batch=5):
    shape = (batch, *SIZES[n], channels)
    return np.random.default_rng(0).uniform(0.5, 1.5, shape).astype(np.float32)


def changed(key, image, brightness=0.5, translation=0.125, cutout=0.5, **options):
    strengths = {"brightness": brightness, "translation": translation, "cutout": cutout}
    return np.asarray(quick(tuple(strengths.items()))(key, image, **options))


@functools.cache
def quick(strengths):
    function = functools.partial(differentiable_augment, **dict(strengths))
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def alone(key, image, **options):
    return changed(key, image, **{**NONE, **options})


def test_without_changes_it_is_the_identity():
    image = drawn(2)
    assert_array_equal(alone(jax.random.key(0), image), image)


def test_brightness_adds_one_number_an_image():
    image = drawn(3, batch=64)
    added = alone(jax.random.key(0), image, brightness=0.3) - image
    by_image = added.reshape(64, -1)
    assert np.ptp(by_image, axis=1).max() < 1e-6
    assert -0.3 <= by_image.min() < -0.2 and 0.2 < by_image.max() <= 0.3


@pytest.mark.parametrize("n", (2, 3))
def test_translation_moves_whole_pixels_and_zeros_in(n):
    image = drawn(n, batch=24)
    moved = alone(jax.random.key(1), image, translation=0.125)
    farthest = [round(length * 0.125) for length in SIZES[n]]
    shifts = []
    for before, after in zip(image, moved):
        padded = np.pad(before, [*((most, most) for most in farthest), (0, 0)])
        fits = [
            shift
            for shift in np.ndindex(*(2 * most + 1 for most in farthest))
            if np.array_equal(padded[tuple(slice(s, s + length) for s, length in zip(shift, SIZES[n]))], after)
        ]
        assert len(fits) == 1
        shifts += fits
    for axis, most in enumerate(farthest):
        seen = {shift[axis] for shift in shifts}
        assert seen == set(range(2 * most + 1))  # every shift, both ends included


@pytest.mark.parametrize("n", (2, 3))
def test_cutout_blanks_a_box(n):
    image = drawn(n, batch=64)
    cut = alone(jax.random.key(2), image, cutout=0.5)
    blank = (cut == 0).all(axis=-1)
    assert_array_equal(cut, image * ~blank[..., None])
    for axis, length in enumerate(SIZES[n]):
        others = tuple(1 + a for a in range(n) if a != axis)
        lines = blank.any(axis=others)  # (B, length)
        widths = lines.sum(axis=1)
        assert widths.min() >= length // 4 and widths.max() == length // 2  # at least half the box is inside
        assert lines[:, 0].any() and lines[:, -1].any()
        assert (np.abs(np.diff(lines.astype(int), axis=1)).sum(axis=1) <= 2).all()  # one interval
    volume = blank.any(axis=tuple(range(2, 1 + n))).sum(1)
    for other in range(2, n + 1):
        volume = volume * blank.any(axis=tuple(a for a in range(1, n + 1) if a != other)).sum(1)
    assert_array_equal(blank.sum(axis=tuple(range(1, n + 1))), volume)  # a full box


def test_arrays_of_one_key_are_changed_alike():
    key, image = jax.random.key(3), drawn(2)
    labels = np.ones((5, *SIZES[2], 1), np.float32)
    both = changed(key, np.concatenate([image, labels], axis=-1), brightness=0.0)
    assert_array_equal(changed(key, image, brightness=0.0), both[..., :2])
    assert_array_equal(changed(key, labels, brightness=0.0), both[..., 2:])
    # Options of one change leave the draws of the others.
    bright = changed(key, labels)
    moved = changed(key, labels, brightness=0.0)
    inside = alone(key, labels, cutout=0.5)
    assert_array_equal(bright[inside == 0], 0)
    assert_array_equal(moved[inside == 0], 0)
    assert_array_equal(changed(jax.random.key(3), image), changed(key, image))
    assert (changed(jax.random.key(4), image) != changed(key, image)).any()


def test_samples_are_known_by_their_place():
    key, image = jax.random.key(5), drawn(2)
    whole = changed(key, image)
    part = changed(key, image[2:], index=np.arange(2, 5))
    assert_array_equal(part, whole[2:])
    options = {"brightness": 0.0, "translation": 0.0}  # one change, else eager takes long
    assert_array_equal(differentiable_augment(key, image, **options), alone(key, image, cutout=0.5))
    same = changed(key, np.ones_like(image))
    assert (same[0] != same[1]).any()


def test_gradients_flow_where_pixels_stay():
    key, image = jax.random.key(6), drawn(3)

    def total(x):
        kept = differentiable_augment(key, x, brightness=0.0)
        return jnp.sum(jnp.square(kept)), kept

    gradient, kept = jax.jit(jax.grad(total, has_aux=True))(image)
    gradient, kept = np.asarray(gradient), np.asarray(kept)
    # Each pixel that is still there has the gradient 2 x, the others none.
    assert_allclose(np.sort(gradient[gradient != 0]), np.sort(2 * kept[kept != 0]), rtol=1e-5)
    assert 0.3 < (gradient != 0).mean() < 0.95


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match=r"translation should be from 0 to 1; it is 1.5"):
        alone(jax.random.key(0), drawn(2), translation=1.5)
    with pytest.raises(ValueError, match=r"brightness should be from 0 to inf; it is -0.5"):
        alone(jax.random.key(0), drawn(2), brightness=-0.5)
