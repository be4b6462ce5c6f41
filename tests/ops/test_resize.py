"""Resizing against jax.image (no anti-aliasing) and hand-sized truth; blending windows against recorded values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import ops


def line(values, size, **options):
    """Resizes a row of numbers."""
    return np.asarray(ops.resize(jnp.asarray(values, jnp.float32)[None, None, :, None], (1, size), **options)).ravel()


@pytest.mark.parametrize("size", [(9, 4), (2, 13), (5, 7)])
@pytest.mark.parametrize("method", ["linear", "nearest"])
def test_equals_jax_image(method, size):
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 3))
    truth = jax.image.resize(x, (2, *size, 3), method, antialias=False)
    np.testing.assert_allclose(ops.resize(x, size, method=method), truth, rtol=1e-5, atol=2e-6)


def test_3d_and_jit():
    x = jax.random.normal(jax.random.key(0), (1, 3, 4, 5, 2))
    truth = jax.image.resize(x, (1, 6, 8, 5, 2), "trilinear", antialias=False)
    jitted = jax.jit(lambda x: ops.resize(x, (6, 8, 5)))
    np.testing.assert_allclose(jitted(x), truth, rtol=1e-5, atol=2e-6)
    gradient = jax.grad(lambda x: ops.resize(x, (6, 8, 5)).sum())(x)
    np.testing.assert_allclose(gradient.sum(), 6 * 8 * 5 * 2, rtol=1e-5)


def test_hand_sized():
    np.testing.assert_allclose(line([0, 4], 4), [0, 1, 3, 4])
    np.testing.assert_allclose(line([0, 4], 5, align_corners=True), [0, 1, 2, 3, 4])
    np.testing.assert_allclose(line([0, 1, 2, 3], 2), [0.5, 2.5])
    np.testing.assert_allclose(line([0, 1, 2, 3], 2, align_corners=True), [0, 3])
    np.testing.assert_allclose(line([7, 1, 2], 1, align_corners=True), [7])
    np.testing.assert_allclose(line([3], 3), [3, 3, 3])
    np.testing.assert_array_equal(line([1, 2, 3], 7, method="nearest"), [1, 1, 2, 2, 2, 3, 3])
    np.testing.assert_array_equal(line([1, 2, 3, 4], 2, method="nearest"), [2, 4])


def test_cubic_kernel_is_pytorchs():
    # Half-way weights of the cubic kernel with a = -0.75 are (-3, 19, 19, -3) / 32; the edge value continues outside.
    impulses = np.stack([line(np.eye(4)[i], 7, method="cubic", align_corners=True) for i in range(4)], axis=1)
    np.testing.assert_allclose(impulses[3], np.array([-3, 19, 19, -3]) / 32, atol=1e-6)
    np.testing.assert_allclose(impulses[1], np.array([16, 19, -3, 0]) / 32, atol=1e-6)
    np.testing.assert_allclose(impulses[::2], np.eye(4), atol=1e-6)
    # Doubling reads at quarters: 0.25 and 0.75 between neighbours.
    quarter = np.array([-0.10546875, 0.87890625, 0.26171875, -0.03515625])
    doubled = np.stack([line(np.eye(6)[i], 12, method="cubic") for i in range(6)], axis=1)
    np.testing.assert_allclose(doubled[5, 1:5], quarter, atol=1e-6)
    np.testing.assert_allclose(doubled[6, 1:5], quarter[::-1], atol=1e-6)
    np.testing.assert_allclose(doubled.sum(1), 1, atol=1e-6)


def test_nearest_keeps_labels_and_types():
    labels = jnp.arange(6, dtype=jnp.int32).reshape(1, 2, 3, 1)
    out = ops.resize(labels, (4, 3), method="nearest")
    assert out.dtype == jnp.int32 and out[0, :, 2, 0].tolist() == [2, 2, 5, 5]
    x = jnp.ones((1, 2, 2, 1), jnp.bfloat16)
    assert ops.resize(x, (3, 5)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "size, options, word",
    [
        ((2, 2, 2), {}, "size"),
        ((0, 2), {}, "size"),
        ((2, 2), {"method": "area"}, "methods"),
        ((2, 2), {"method": "nearest", "align_corners": True}, "align_corners"),
    ],
)
def test_errors(size, options, word):
    with pytest.raises(ValueError, match=word):
        ops.resize(jnp.zeros((1, 4, 4, 1)), size, **options)


def test_integers_are_not_blended():
    with pytest.raises(ValueError, match="nearest"):
        ops.resize(jnp.zeros((1, 4, 4, 1), jnp.int32), (2, 2))


@pytest.mark.parametrize("size", [(8, 8), (6, 8, 10)])
def test_gaussian_window_equals_recorded(size, golden):
    recorded = np.load(golden / "losses_metrics.npz")
    truth = recorded[f"gaussian_importance_sigma0.125_{'x'.join(map(str, size))}"]
    np.testing.assert_allclose(ops.gaussian_window(size), truth, rtol=1e-5)


def test_window_of_nnunet_by_hand():
    window = np.asarray(ops.nnunet_window((8,)))
    # the centre is 8 // 2, sigma 1 voxel, the peak 10; half precision keeps eleven bits
    np.testing.assert_allclose(window, 10 * np.exp(-0.5 * (np.arange(8) - 4.0) ** 2), rtol=5e-4)
    assert window[4] == 10 and np.array_equal(window, window.astype(np.float16))
    # three axes at 4 sigma are 0 in half precision, and are lifted to the least that is not: axes at 4, 4 and 2 sigma
    wide = np.asarray(ops.nnunet_window((8, 8, 8)))
    assert wide[0, 0, 0] == wide.min() == np.float32(np.float16(10 * np.exp(-18))) and wide.max() == 10
    with pytest.raises(ValueError, match="positive sizes"):
        ops.nnunet_window((0, 3))


def test_gaussian_window_floor():
    window = ops.gaussian_window((9, 5), floor=0.05)
    assert window.shape == (9, 5) and window.dtype == jnp.float32
    assert float(window[4, 2]) == 1.0 and float(window.min()) == pytest.approx(0.05)
    assert float(ops.gaussian_window((3,), sigma_scale=1.0, floor=0.0).min()) == pytest.approx(np.exp(-1 / 18))
    with pytest.raises(ValueError, match="positive"):
        ops.gaussian_window((0, 3))
