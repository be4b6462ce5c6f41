"""The filter bank against scipy and numpy.linalg, by hand on a parabola, and by what it must not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from jaxseg import models
from jaxseg.models.pixel_features import filter_bank, gaussian

SIGMA = 1.6
SHAPES = {2: (2, 7, 9, 2), 3: (2, 5, 6, 7, 2)}


def image_of(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shifted(x, axis, by):
    """x at the place `by` further along an axis, the border going on."""
    return np.take(x, np.clip(np.arange(x.shape[axis]) + by, 0, x.shape[axis] - 1), axis)


def by_scipy(x, sigma):
    """The five filters of one channel of one image, in float64, Hessians by their eigenvalues."""
    smoothed = ndimage.gaussian_filter(x.astype(np.float64), sigma, mode="nearest", truncate=3.0)
    slopes = [(shifted(smoothed, a, 1) - shifted(smoothed, a, -1)) / 2 * sigma for a in range(x.ndim)]
    hessian = np.empty((*x.shape, x.ndim, x.ndim))
    for i in range(x.ndim):
        for j in range(x.ndim):
            mixed = (shifted(slopes[i], j, 1) - shifted(slopes[i], j, -1)) / 2 * sigma
            straight = (shifted(smoothed, i, 1) - 2 * smoothed + shifted(smoothed, i, -1)) * sigma**2
            hessian[..., i, j] = straight if i == j else mixed
    values = np.linalg.eigvalsh(hessian)  # ascending
    if x.ndim == 2:
        rest = [values[..., 1], values[..., 0]]
    else:
        a, b, c = np.moveaxis(values, -1, 0)
        minors = a * b + a * c + b * c
        rest = [np.sign(minors) * np.sqrt(np.abs(minors)), np.cbrt(a * b * c)]
    return [smoothed, np.sqrt(sum(slope**2 for slope in slopes)), values.sum(axis=-1), *rest]


@pytest.mark.parametrize("ndim", (2, 3))
def test_filters_are_those_of_scipy(ndim):
    image = image_of(SHAPES[ndim])
    bank = filter_bank(image, sigmas=(SIGMA,))
    assert bank.shape == (*image.shape[:-1], 2 * (1 + 5)) and bank.dtype == jnp.float32
    assert_array_equal(bank[..., :2], image)
    for sample in range(2):
        for channel in range(2):
            expected = by_scipy(image[sample, ..., channel], SIGMA)
            for number, values in enumerate(expected, start=1):
                # A cube root at 0 makes 1e-7 into 5e-3: there the determinant itself is compared.
                power = 3 if (ndim, number) == (3, 5) else 2 if (ndim, number) == (3, 4) else 1
                found = np.asarray(bank[sample, ..., 2 * number + channel], np.float64)
                assert_allclose(np.abs(found) ** power, np.abs(values) ** power, atol=3e-6)
                sure = np.abs(values) > 0.02
                assert sure.any() and (np.sign(found) == np.sign(values))[sure].all()


def test_a_parabola_by_hand():
    # x**2 along the last axis, away from the border: gradient 2 x sigma, Laplacian 2 sigma**2, eigenvalues that and 0.
    sigma, x = 0.7, np.arange(-8, 9)
    image = np.broadcast_to(np.square(x), (1, 9, 17))[..., None].astype(np.float32)
    bank = np.asarray(filter_bank(image, sigmas=(sigma,)))[0, 4, 5:12]
    second = np.full(7, 2 * sigma**2)
    assert_allclose(bank[:, 2], np.abs(2 * x[5:12] * sigma), atol=1e-4)
    assert_allclose(bank[:, 3:], np.stack([second, second, 0 * second], axis=-1), atol=1e-4)


@pytest.mark.parametrize("ndim", (2, 3))
def test_flat_images_have_no_edges_and_finite_gradients(ndim):
    def total(image):
        return jnp.sum(filter_bank(image, sigmas=(SIGMA,)))

    image = np.full(SHAPES[ndim], 0.75, np.float32)
    bank = filter_bank(image, sigmas=(SIGMA,))
    assert_allclose(bank[..., :4], 0.75, rtol=1e-6)
    assert_allclose(bank[..., 4:], 0, atol=3e-3 if ndim == 3 else 3e-6)  # a cube root of rounding errors is larger
    assert np.isfinite(jax.jit(jax.grad(total))(image)).all()


def test_turning_the_image_turns_the_filters():
    image = image_of((1, 9, 9, 1))
    turned = filter_bank(np.rot90(image, axes=(1, 2)), sigmas=(SIGMA,))
    assert_allclose(turned, np.rot90(filter_bank(image, sigmas=(SIGMA,)), axes=(1, 2)), atol=1e-5)


def test_gaussian_sums_to_one_and_ends_at_three_sigmas():
    taps = gaussian(3.5)
    assert len(taps) == 2 * 11 + 1 and sum(taps) == pytest.approx(1) and taps == taps[::-1]
    assert taps[11] / taps[4] == pytest.approx(np.exp(0.5 * (7 / 3.5) ** 2))


def test_scores_depend_on_the_neighbourhood_only():
    model = models.create("pixel_features", num_classes=3, sigmas=(0.7,), features=(4,))
    image = jnp.asarray(image_of((1, 6, 24, 1)))
    other = image.at[:, :, 12:].add(1)  # the reach is 2 for the Gaussian and 1 for the differences
    variables = jax.jit(model.init)(jax.random.key(0), image)
    apply = jax.jit(model.apply)
    one, two = (np.asarray(apply(variables, value)[0]) for value in (image, other))
    assert_array_equal(one[:, :, :9], two[:, :, :9])
    assert np.abs(one - two)[:, :, 9].max() > 1e-4


def test_bfloat16_leaves_the_filters_exact():
    image = jnp.asarray(image_of(SHAPES[2]))
    exact = filter_bank(image, sigmas=(SIGMA,))
    model = models.create("pixel_features", num_classes=3, sigmas=(SIGMA,), features=(4,), dtype="bfloat16")
    (logits, aux), _ = jax.jit(model.init_with_output)(jax.random.key(0), image)
    assert_allclose(aux["features"], exact, atol=1e-5)  # bfloat16 would be off by 1e-2
    assert logits.dtype == jnp.float32


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match=r"sigmas should be positive numbers of voxels; they are \(1.0, 0.0\)"):
        filter_bank(image_of(SHAPES[2]), sigmas=(1.0, 0.0))
    with pytest.raises(ValueError, match="2 or 3 spatial axes"):
        filter_bank(image_of((2, 7, 1)))
    with pytest.raises(ValueError, match="PixelFeatures with ndim=3"):
        models.create("pixel_features", ndim=3).init(jax.random.key(0), jnp.asarray(image_of(SHAPES[2])))
