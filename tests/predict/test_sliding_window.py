"""Windows: golden values of MONAI, geometry by hand, and the laws that any blending of windows must keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from annotations import unchecked
from numpy.testing import assert_allclose, assert_array_equal

from jaxseg import predict
from jaxseg.predict.sliding_window import UNROLLED, importance, pad_widths, window_starts, window_table


def image_of(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def identity(image):
    return image


def golden_predictor(image):
    """What the golden values were made of: (mean(x) x, x^2), the mean over each window."""
    mean = image.mean(axis=(1, 2, 3, 4), keepdims=True)
    return jnp.concatenate([mean * image, image**2], axis=-1)


@pytest.mark.parametrize("weight", ["gaussian", "constant"])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_golden(golden, weight, batch_size):
    values = np.load(golden / "losses_metrics.npz")
    image = np.moveaxis(values["sliding_input"], 1, -1)
    expected = np.moveaxis(values[f"sliding_roi_12_16_12_overlap0.5_{weight}_of_[mean(x)*x,x^2]"], 1, -1)
    options = dict(window=(12, 16, 12), overlap=0.5, weight=weight, placement="border", batch_size=batch_size)
    whole = predict.sliding_window(golden_predictor, **options)(image)
    assert_allclose(whole, expected, rtol=1e-5, atol=1e-5)
    array = predict.predict_array(jax.jit(golden_predictor), image[0], ndim=3, **options)
    assert_allclose(array, expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8), (6, 8, 10)])
def test_golden_importance(golden, shape):
    name = "gaussian_importance_sigma0.125_" + "x".join(map(str, shape))
    assert_allclose(importance(shape, "gaussian"), np.load(golden / "losses_metrics.npz")[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "size, window, overlap, placement, expected",
    [
        (21, 12, 0.5, "border", (0, 6, 9)),
        (34, 16, 0.5, "border", (0, 8, 16, 18)),
        (12, 12, 0.5, "border", (0,)),
        (24, 12, 0.0, "border", (0, 12)),
        (27, 12, 0.5, "even", (0, 5, 10, 15)),
        (24, 12, 0.0, "even", (0, 12)),
        (12, 12, 0.9, "even", (0,)),
        (5, 1, 0.9, "even", (0, 1, 2, 3, 4)),
        (29, 8, 0.5, "even", (0, 4, 7, 10, 14, 18, 21)),  # nnU-Net's: 10.5 rounds to 10, 17.5 to 18
        (7, 2, 0.9, "border", (0, 1, 2, 3, 4, 5)),
    ],
)
def test_starts(size, window, overlap, placement, expected):
    assert window_starts(size, window, overlap=overlap, placement=placement) == expected


def test_starts_cover_the_axis_and_overlap_enough():
    for size in range(1, 40):
        for window in range(1, size + 1):
            for overlap in (0.0, 0.3, 0.5, 0.7):
                for placement in ("even", "border"):
                    starts = window_starts(size, window, overlap=overlap, placement=placement)
                    assert starts[0] == 0 and starts[-1] == size - window
                    steps = np.diff(starts)
                    assert (steps >= 0).all() and (steps <= max(np.ceil(window * (1 - overlap)), 1)).all()


def test_padding_and_table():
    assert pad_widths((5, 9, 4), (8, 9, 2)) == ((1, 2), (0, 0), (0, 0))
    corners, valid = window_table([(0, 3), (0, 2, 4)], 4)
    assert corners.shape == (2, 4, 2) and corners.dtype == np.int32
    assert_array_equal(valid, [[1, 1, 1, 1], [1, 1, 0, 0]])
    assert_array_equal(corners[1], [[3, 2], [3, 4], [3, 4], [3, 4]])


@pytest.mark.parametrize("shape", [(2, 13, 17, 3), (1, 5, 30, 1), (1, 4, 3, 2), (1, 9, 11, 12, 1), (1, 3, 14, 2, 2)])
@pytest.mark.parametrize("placement", ["even", "border"])
@pytest.mark.parametrize("overlap", [0.0, 0.6])
def test_identity_gives_the_image(shape, placement, overlap):
    image = image_of(*shape)
    window = (6, 8, 7)[: len(shape) - 2]
    for weight in ("gaussian", "constant"):
        options = dict(window=window, overlap=overlap, weight=weight, placement=placement, batch_size=3)
        array = predict.predict_array(identity, image[0], ndim=len(window), **options)
        assert array.dtype == np.float32
        assert_allclose(array, image[0], rtol=1e-5, atol=1e-6)
    assert_allclose(predict.sliding_window(identity, **options)(image), image, rtol=1e-5, atol=1e-6)


def test_constant_predictor_gives_the_constant():
    def constant(image):
        return jnp.broadcast_to(jnp.array([0.25, 0.75]), (*image.shape[:-1], 2))

    probs = predict.sliding_window(constant, window=(4, 6))(image_of(2, 11, 13, 1))
    assert_allclose(probs, np.broadcast_to([0.25, 0.75], (2, 11, 13, 2)), rtol=1e-6)


def test_scan_and_unrolled_agree_and_jit_equals_eager():
    image = image_of(2, 10, 13, 2)
    few = predict.sliding_window(jnp.tanh, window=(5, 6), batch_size=8)
    many = predict.sliding_window(jnp.tanh, window=(5, 6), batch_size=1)
    windows = 2 * len(window_starts(10, 5)) * len(window_starts(13, 6))
    assert windows / 8 <= UNROLLED < windows
    assert_allclose(many(image), few(image), rtol=1e-5, atol=1e-6)
    for wrapped in (few, many):
        assert_allclose(jax.jit(wrapped)(image), wrapped(image), rtol=1e-5, atol=1e-6)


def test_bfloat16_is_summed_in_float32():
    def half(image):
        return image.astype(jnp.bfloat16)

    image = np.full((1, 9, 7, 1), 0.1, np.float32)
    probs = predict.sliding_window(half, window=(4, 4))(image)
    assert probs.dtype == jnp.float32
    assert_allclose(probs, float(jnp.bfloat16(0.1)), rtol=1e-6)


def test_gradient_flows_and_is_finite():
    gradient = jax.grad(lambda image: predict.sliding_window(jnp.square, window=(4, 5))(image).sum())(
        image_of(1, 6, 7, 1)
    )
    assert_allclose(gradient, 2 * image_of(1, 6, 7, 1), rtol=1e-5, atol=1e-6)


def test_wrappers_nest():
    image = image_of(1, 9, 10, 2)
    stack = predict.average(
        [predict.flip_tta(predict.sliding_window(fn, window=(4, 5)), axes=(0, 1)) for fn in (jnp.sin, jnp.cos)]
    )
    assert_allclose(jax.jit(stack)(image), (np.sin(image) + np.cos(image)) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(window=(4, 4), overlap=1.0), "overlap should be"),
        (dict(window=(4, 4), placement="left"), "placement should be"),
        (dict(window=(4, 4), weight="flat"), "weight should be"),
        (dict(window=(4, 4), batch_size=0), "batch_size should be"),
        (dict(window=(4, 4, 4)), "needs an image"),
        (dict(window=(0, 4)), "should have 1 voxel"),
    ],
)
def test_wrong_options(options, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        predict.sliding_window(identity, **options)(image_of(1, 8, 9, 1))


def test_a_predictor_that_shrinks_is_refused():
    with pytest.raises(ValueError, match="predictor should map"):
        predict.sliding_window(lambda image: image[:, 1:], window=(4, 4))(image_of(1, 8, 9, 1))
