"""Grey values: against scipy and jax.image, kept statistics, and the drawn strengths."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jaxseg.data import augment
from jaxseg.data.augment import intensity

# These laws do not need fast code, and compiling it would take most of the time.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEYS = jax.random.split(jax.random.key(1), 400)


def sample(*size, channels=2):
    image = jnp.asarray(np.random.default_rng(0).normal(size=(*size, channels)) - 0.5, jnp.float32)
    return {"image": image, "label": jnp.zeros(size, jnp.int32)}


def many(fn, one, keys=KEYS, **options):
    return np.asarray(quick(jax.vmap(functools.partial(fn, **options), (0, None)))(keys, one)["image"])


def changed(images, one):
    """The share of images that differ from the sample's, for each channel."""
    return (np.abs(images - np.asarray(one["image"])) > 1e-6).any(tuple(range(1, images.ndim - 1))).mean(0)


@pytest.mark.parametrize("size", [(3, 11), (7, 5, 6)])
def test_blur_equals_scipy(size):
    image, widths = sample(*size)["image"], (0.6, 1.0)
    blur = quick(intensity.blur, static_argnames="radius")
    got = blur(image, jnp.asarray(widths), radius=4)
    for channel, width in enumerate(widths):
        want = scipy.ndimage.gaussian_filter(np.asarray(image[..., channel]), width, radius=4)
        np.testing.assert_allclose(got[..., channel], want, atol=1e-5)
    np.testing.assert_array_equal(blur(image, jnp.zeros(2), radius=4), image)


@pytest.mark.parametrize("size", [(10, 17), (6, 9, 13)])
def test_coarsen_equals_nearest_down_and_linear_up(size):
    image, zooms = sample(*size)["image"], (0.55, 0.83)
    coarsen = quick(intensity.coarsen, static_argnames="axes")
    got = coarsen(image, jnp.asarray(zooms), axes=tuple(range(len(size))))
    for channel, zoom in enumerate(zooms):
        small = tuple(round(n * zoom) for n in size)
        want = jax.image.resize(jax.image.resize(image[..., channel], small, "nearest"), size, "linear")
        np.testing.assert_allclose(got[..., channel], want, atol=1e-5)
    np.testing.assert_array_equal(coarsen(image, jnp.ones(2), axes=(0, 1)), image)


def test_coarsening_can_leave_an_axis():
    one = {"image": jnp.arange(4.0)[:, None, None, None] * jnp.ones((4, 6, 8, 1)), "label": jnp.zeros((4, 6, 8), int)}
    got = augment.low_resolution(KEYS[0], one, probability=1.0, channel_probability=1.0, axes=(1, 2))
    np.testing.assert_allclose(got["image"], one["image"], atol=1e-6)


def test_gamma_keeps_mean_and_deviation_and_order():
    one = sample(15, 13)
    for invert in (False, True):
        got = np.asarray(augment.gamma(KEYS[2], one, probability=1.0, invert=invert)["image"])
        image = np.asarray(one["image"])
        assert np.abs(got - image).max() > 0.02
        np.testing.assert_allclose(got.mean((0, 1)), image.mean((0, 1)), atol=1e-5)
        np.testing.assert_allclose(got.std((0, 1)), image.std((0, 1)), atol=1e-5)
        np.testing.assert_array_equal(np.argsort(got[..., 0], axis=None), np.argsort(image[..., 0], axis=None))


def test_gamma_is_the_power_it_says_and_inverted_gamma_bends_the_other_end():
    ramp = {"image": jnp.linspace(-1, 3, 9)[:, None, None], "label": jnp.zeros((9, 1), int)}
    options = {"probability": 1.0, "exponent": (2.0, 2.0), "retain_stats": False}
    unit = np.linspace(0, 1, 9)
    got = augment.gamma(KEYS[0], ramp, **options)["image"][:, 0, 0]
    np.testing.assert_allclose(got, unit**2 * 4 - 1, atol=1e-5)
    got = augment.gamma(KEYS[0], ramp, invert=True, **options)["image"][:, 0, 0]
    np.testing.assert_allclose(got, (1 - (1 - unit) ** 2) * 4 - 1, atol=1e-5)
    inverted = augment.inverted_gamma(KEYS[0], ramp, probability=1.0)["image"]
    np.testing.assert_array_equal(inverted, augment.gamma(KEYS[0], ramp, probability=1.0, invert=True)["image"])


def test_contrast_scales_around_the_mean_within_the_old_range():
    one = sample(9, 8)
    image = np.asarray(one["image"])
    free = many(augment.contrast, one, KEYS[:50], probability=1.0, preserve_range=False)
    np.testing.assert_allclose(free.mean((1, 2)), np.broadcast_to(image.mean((0, 1)), (50, 2)), atol=1e-5)
    ratio = free.std((1, 2)) / image.std((0, 1))
    assert 0.75 - 1e-4 <= ratio.min() < 0.85 and 1.15 < ratio.max() <= 1.25 + 1e-4
    clipped = many(augment.contrast, one, KEYS[:50], probability=1.0)
    np.testing.assert_allclose(clipped, np.clip(free, image.min((0, 1)), image.max((0, 1))), atol=1e-5)
    assert np.abs(clipped - free).max() > 0.01


def test_brightness_multiplies_each_channel():
    one = sample(3, 4)
    factor = many(augment.brightness, one, probability=1.0) / np.asarray(one["image"])
    np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1, :1], factor.shape), rtol=1e-4)
    factor = factor[:, 0, 0]
    assert 0.75 - 1e-4 <= factor.min() < 0.77 and 1.23 < factor.max() <= 1.25 + 1e-4
    assert abs(factor.mean() - 1) < 0.03 and abs(np.corrcoef(factor.T)[0, 1]) < 0.2


def test_noise_has_the_drawn_deviation():
    one = {"image": jnp.zeros((20, 20, 1)), "label": jnp.zeros((20, 20), int)}
    deviation = many(augment.gaussian_noise, one, probability=1.0, strength=(0.2, 0.6)).std((1, 2, 3))
    assert abs(deviation.mean() - 0.4) < 0.03 and deviation.min() > 0.17 and deviation.max() < 0.66
    assert deviation.max() > 0.55


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("gaussian_noise", 0.1),
        ("gaussian_blur", 0.2 * 0.5),
        ("brightness", 0.15),
        ("contrast", 0.15),
        ("low_resolution", 0.25 * 0.5),
        ("gamma", 0.3),
        ("inverted_gamma", 0.1),
    ],
)
def test_defaults_have_nnunets_probabilities(name, share):
    one = sample(9, 11)  # with more voxels than a zoom near 1 can leave untouched
    got = changed(many(getattr(augment, name), one), one)
    slack = 4 * math.sqrt(share * (1 - share) / 400)
    assert (np.abs(got - share) < slack).all(), got


def test_bias_field_is_smooth_positive_and_leaves_the_minimum():
    field = np.asarray(intensity.random_field(KEYS[0], (21, 25, 17), strength=0.3, degree=3))
    assert field.min() > 0 and field.max() / field.min() > 1.2
    for axis in range(3):  # a cubic's log has no fourth difference, and neighbours differ little
        assert np.abs(np.diff(np.log(field), 4, axis)).max() < 1e-4
        assert np.abs(np.diff(np.log(field), 1, axis)).max() < 0.5
    ones = {"image": jnp.ones((6, 7, 2)).at[0, 0].set(0), "label": jnp.zeros((6, 7), int)}
    got = np.asarray(augment.bias_field(KEYS[3], ones, probability=1.0)["image"])
    want = np.asarray(intensity.random_field(jax.random.split(KEYS[3])[1], (6, 7), strength=0.3, degree=3))
    np.testing.assert_allclose(got, want[..., None] * np.asarray(ones["image"]), rtol=1e-5)


def test_color_jitter_keeps_grey_and_turns_colours():
    one = {"image": jnp.asarray([[[0.4, 0.4, 0.4], [1.0, 0.0, 0.0]]]), "label": jnp.zeros((1, 2), int)}
    got = many(augment.color_jitter, one, probability=1.0, hue=0.5)
    np.testing.assert_allclose(got[:, 0, 0], 0.4, atol=1e-5)
    np.testing.assert_allclose(got[:, 0, 1].sum(-1), 1.0, atol=1e-5)
    vivid = np.linalg.norm(got[:, 0, 1] - 1 / 3, axis=-1) / np.sqrt(2 / 3)
    assert 0.75 - 1e-4 <= vivid.min() < 0.8 and 1.2 < vivid.max() <= 1.25 + 1e-4
    turn = np.arccos(np.clip((got[:, 0, 1, 0] - 1 / 3) / (2 / 3) / vivid, -1, 1))
    assert turn.max() <= 0.5 + 1e-3 and turn.max() > 0.45
    with pytest.raises(ValueError, match="3 channels"):
        augment.color_jitter(KEYS[0], sample(2, 2))
