"""Degrading against numpy's FFT and an explicit blur, enlarging against scipy and scikit-image, both by alignment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import skimage.transform

from jaxseg import ops

DEGRADING, ENLARGING = ("fourier", "gaussian"), ("nearest", "linear", "cubic", "fourier")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def line(values, function, **options):
    """Runs a row of numbers through degrade or enlarge."""
    return np.asarray(function(np.asarray(values, np.float32)[:, None], **options))[:, 0]


def truncated(signal, factor):
    """k-space truncation of one axis, at the low centres: crop the centred transform, shift by a ramp of phase."""
    size, low = len(signal), len(signal) // factor
    frequency = np.arange(-(low // 2), (low + 1) // 2)
    spectrum = np.fft.fft(signal)[frequency] * np.exp(2j * np.pi * frequency * (factor - 1) / 2 / size)
    return np.fft.ifft(np.fft.ifftshift(spectrum)).real / factor


@pytest.mark.parametrize("size, factor", [(12, 2), (12, 4), (15, 3), (10, 2), (6, 6)])
def test_fourier_is_truncation_of_the_transform(size, factor):
    signal = normal(size)
    np.testing.assert_allclose(line(signal, ops.degrade, factor=factor), truncated(signal, factor), atol=1e-6)


def test_fourier_in_two_dimensions():
    image = normal(9, 15, 2)
    spectrum = np.fft.fftshift(np.fft.fft2(image, axes=(0, 1)), axes=(0, 1))[3:6, 5:10]  # centres 4 and 7
    ramp = np.exp(2j * np.pi * np.arange(-1, 2) / 9)[:, None] * np.exp(2j * np.pi * np.arange(-2, 3) / 15)
    expected = np.fft.ifft2(np.fft.ifftshift(spectrum * ramp[..., None], axes=(0, 1)), axes=(0, 1)).real / 9
    np.testing.assert_allclose(ops.degrade(image, factor=3), expected, atol=1e-6)


def test_band_limited_survives():
    factor = 2

    def wave(where):
        z, y, x = where
        slow = np.cos(2 * np.pi * (z - 1.3)) + np.sin(4 * np.pi * y)
        return slow + 0.5 * np.cos(2 * np.pi * (2 * x - y + 0.2))

    sizes = np.array([4, 5, 7]) * factor

    def grid(sizes):
        return np.meshgrid(*((np.arange(n) + 0.5) / n for n in sizes), indexing="ij")  # centres, in extents

    high, low = wave(grid(sizes))[..., None], wave(grid(sizes // factor))[..., None]
    np.testing.assert_allclose(ops.degrade(high.astype(np.float32), factor=factor), low, atol=2e-6)
    np.testing.assert_allclose(ops.enlarge(low.astype(np.float32), factor=factor, method="fourier"), high, atol=2e-6)


def test_zero_filling_is_undone():
    image = normal(5, 6, 2)
    high = ops.enlarge(image, factor=4, axes=(0,), method="fourier")
    assert high.shape == (20, 6, 2)
    np.testing.assert_allclose(ops.degrade(high, factor=4, axes=(0,)), image, atol=2e-6)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_gaussian_by_loops(factor):
    signal = normal(24).astype(np.float64)
    sigma = factor / 2.354820045
    expected = []
    for j in range(24 // factor):
        centre = factor * j + (factor - 1) / 2
        weights = [np.exp(-((n - centre) ** 2) / (2 * sigma**2)) for n in range(-30, 60)]
        values = [signal[min(max(n, 0), 23)] for n in range(-30, 60)]
        expected.append(np.dot(weights, values) / np.sum(weights))
    np.testing.assert_allclose(line(signal, ops.degrade, factor=factor, method="gaussian"), expected, atol=2e-4)


def test_width_of_the_blur():
    """Half a low voxel from the centre, the profile has fallen to a half."""
    weights = [line(np.eye(45)[n], ops.degrade, factor=9, method="gaussian")[2] for n in range(45)]
    np.testing.assert_allclose(np.interp([22 - 4.5, 22 + 4.5], np.arange(45), weights) / weights[22], 0.5, atol=5e-3)


@pytest.mark.parametrize("method", DEGRADING)
def test_degrade_keeps_constants_and_means(method):
    flat = np.full((6, 9, 12, 1), 2.5, np.float32)
    np.testing.assert_allclose(ops.degrade(flat, factor=3, method=method), np.full((2, 3, 4, 1), 2.5), rtol=1e-6)
    blob = np.zeros((24, 1), np.float32)
    blob[9:14, 0] = [1, 3, 5, 2, 1]
    low = np.asarray(ops.degrade(blob, factor=2, method=method))
    np.testing.assert_allclose(2 * low.sum(), 12, rtol=2e-2)


@pytest.mark.parametrize("method", ENLARGING)
def test_enlarge_keeps_constants(method):
    flat = np.full((3, 4, 2), -1.5, np.float32)
    np.testing.assert_allclose(ops.enlarge(flat, factor=3, method=method), np.full((9, 12, 2), -1.5), rtol=1e-6)


@pytest.mark.parametrize("factor", [2, 3])
def test_alignment_of_a_ramp(factor):
    size = 16 * factor
    where = (np.arange(size) + 0.5) / factor - 0.5  # high centres, in low voxels
    low = line(where, ops.degrade, factor=factor, method="gaussian")
    np.testing.assert_allclose(low[2:-2], np.arange(2, 14), atol=1e-4)
    for method, border in {"linear": factor, "cubic": 6 * factor}.items():
        high = line(np.arange(16), ops.enlarge, factor=factor, method=method)
        np.testing.assert_allclose(high[border:-border], where[border:-border], atol=2e-3)
    nearest = line(np.arange(16), ops.enlarge, factor=factor, method="nearest")
    np.testing.assert_array_equal(nearest, np.arange(size) // factor)


@pytest.mark.parametrize("function, methods", [(ops.degrade, DEGRADING), (ops.enlarge, ENLARGING)])
def test_mirrored_alike(function, methods):
    """Neither end of an axis is special: an image off by a part of a voxel would fail."""
    image = normal(8, 12, 1)
    for method in methods:
        there = function(image[::-1, ::-1], factor=4, method=method)
        np.testing.assert_allclose(there, function(image, factor=4, method=method)[::-1, ::-1], atol=2e-6)


@pytest.mark.parametrize("shape, factor", [((5, 7, 2), 2), ((4, 5, 3, 1), 3), ((2, 3, 1), 4)])
def test_enlarge_equals_references(shape, factor):
    image = normal(*shape)
    cubic = scipy.ndimage.zoom(image, (factor,) * (image.ndim - 1) + (1,), order=3, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(ops.enlarge(image, factor=factor), cubic, atol=2e-6)
    size = [n * factor for n in shape[:-1]]
    for method, order in {"nearest": 0, "linear": 1, "cubic": 3}.items():
        channels = [
            skimage.transform.resize(image[..., c], size, order=order, mode="edge", anti_aliasing=False, clip=False)
            for c in range(shape[-1])
        ]
        np.testing.assert_allclose(
            ops.enlarge(image, factor=factor, method=method), np.stack(channels, axis=-1), atol=2e-6
        )


def test_linear_is_resize():
    image = normal(5, 4, 2)
    expected = ops.resize(jnp.asarray(image)[None], (10, 8))[0]
    np.testing.assert_allclose(ops.enlarge(image, factor=2, method="linear"), expected, atol=1e-6)


def test_cubic_passes_through_the_samples():
    """With an odd factor each low centre is a high centre."""
    image = normal(7, 5, 1)
    np.testing.assert_allclose(ops.enlarge(image, factor=3)[1::3, 1::3], image, atol=2e-6)


def test_axes():
    image = normal(4, 6, 8, 2)
    thick = ops.degrade(image, factor=2, axes=(0,))
    assert thick.shape == (2, 6, 8, 2) and ops.enlarge(thick, factor=2, axes=(0,)).shape == image.shape
    np.testing.assert_allclose(thick[:, 3, 5, 1], truncated(image[:, 3, 5, 1], 2), atol=1e-6)
    both = ops.degrade(ops.degrade(image, factor=2, axes=(2,)), factor=2, axes=(0,))
    np.testing.assert_allclose(ops.degrade(image, factor=2, axes=(0, 2)), both, atol=1e-6)
    np.testing.assert_array_equal(ops.degrade(image, factor=1), image)
    np.testing.assert_array_equal(ops.enlarge(image, factor=1), image)


def test_types_jit_and_batches():
    image = jnp.asarray(normal(2, 4, 6, 1))
    there = jax.jit(jax.vmap(lambda x: ops.enlarge(ops.degrade(x, factor=2), factor=2, method="fourier")))(image)
    one = ops.enlarge(ops.degrade(image[1], factor=2), factor=2, method="fourier")
    np.testing.assert_allclose(there[1], one, atol=1e-6)
    gradient = jax.grad(lambda x: ops.degrade(x, factor=2).sum())(image[0])
    np.testing.assert_allclose(gradient.sum(), 6, rtol=1e-5)
    assert ops.degrade(image[0].astype(jnp.bfloat16), factor=2).dtype == jnp.bfloat16
    assert ops.enlarge(np.arange(6, dtype=np.int16).reshape(2, 3, 1), factor=2).dtype == jnp.float32


@pytest.mark.parametrize(
    "function, options, says",
    [
        (ops.degrade, {"factor": 4, "axes": (1,)}, "axis 1 has 6 voxels"),
        (ops.degrade, {"factor": 0}, "1 or more"),
        (ops.degrade, {"factor": 2, "method": "cubic"}, "fourier, gaussian, not 'cubic'"),
        (ops.degrade, {"factor": 2, "axes": (2,)}, r"0\.\.1"),
        (ops.degrade, {"factor": 2, "axes": (-1,)}, r"0\.\.1"),
        (ops.enlarge, {"factor": 2, "axes": (0, 0)}, "different numbers"),
        (ops.enlarge, {"factor": 2, "method": "gaussian"}, "nearest, linear, cubic, fourier"),
        (ops.enlarge, {"factor": -1}, "1 or more"),
    ],
)
def test_bad_input(function, options, says):
    with pytest.raises(ValueError, match=says):
        function(np.zeros((4, 6, 1), np.float32), **options)
