"""Sampling against scipy, rotations against numpy, and the laws of coordinates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from annotations import unchecked

from jaxseg.ops import warp

# These laws do not need fast code, and compiling it would take most of the time.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
sample = quick(warp.sample, static_argnames=("order", "fill"))
sample_labels = quick(warp.sample_labels, static_argnames=("interpolation", "fill"))
affine_matrix = quick(warp.affine_matrix)
affine_coordinates = quick(warp.affine_coordinates, static_argnames=("size", "center"))
displacement = quick(warp.displacement, static_argnames=("size", "order"))

SIZES = [(7, 9), (4, 6, 5)]


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("order", [0, 1])
def test_sample_equals_scipy_inside_and_outside(size, order):
    image = draw(0, *size, 2)
    target = (5, 8, 3)
    coordinates = np.random.default_rng(1).uniform(-3, max(size) + 2, (*target, len(size))).astype(np.float32)
    got = sample(jnp.asarray(image), jnp.asarray(coordinates), order=order, fill=-2.5)
    assert got.shape == (*target, 2) and got.dtype == jnp.float32
    for channel in range(2):
        points = np.moveaxis(coordinates, -1, 0)
        want = scipy.ndimage.map_coordinates(image[..., channel], points, order=order, mode="grid-constant", cval=-2.5)
        np.testing.assert_allclose(got[..., channel], want, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_affine_equals_scipy(size):
    image, n = draw(2, *size), len(size)
    matrix = np.asarray(affine_matrix(jnp.asarray([0.4, -0.3, 0.2][: 1 if n == 2 else 3]), 1.2))
    center = (np.asarray(size) - 1) / 2
    coordinates = affine_coordinates(jnp.asarray(matrix), size)
    want = scipy.ndimage.affine_transform(image, matrix, center - matrix @ center, order=1, mode="grid-constant")
    np.testing.assert_allclose(sample(jnp.asarray(image)[..., None], coordinates)[..., 0], want, atol=1e-5)


def test_affine_matrix_is_a_scaled_rotation():
    matrix = np.asarray(affine_matrix(jnp.asarray([0.5, -0.7, 1.1]), 1.3))
    np.testing.assert_allclose(matrix.T @ matrix, 1.3**2 * np.eye(3), atol=1e-5)
    assert np.linalg.det(matrix) > 0
    np.testing.assert_array_equal(affine_matrix(0.0), np.eye(2))
    with unchecked(), pytest.raises(ValueError, match="1 angle"):
        affine_matrix(jnp.zeros(2))


@pytest.mark.parametrize("order", [0, 1])
def test_quarter_turns_equal_rot90(order):
    def turn(image, angles):
        coordinates = affine_coordinates(affine_matrix(jnp.asarray(angles)), image.shape)
        return sample(jnp.asarray(image)[..., None], coordinates, order=order)[..., 0]

    quarter = np.pi / 2
    np.testing.assert_allclose(turn(image := draw(3, 6, 6), quarter), np.rot90(image), atol=1e-5)
    image = draw(4, 5, 5, 5)
    for axis, plane in enumerate([(1, 2), (0, 2), (0, 1)]):
        angles = [quarter if a == axis else 0.0 for a in range(3)]
        np.testing.assert_allclose(turn(image, angles), np.rot90(image, axes=plane), atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_identity_is_exact(size):
    image = jnp.asarray(draw(5, *size, 3))
    np.testing.assert_array_equal(sample(image, warp.identity_coordinates(size)), image)
    label = jnp.asarray(np.random.default_rng(5).integers(-1, 4, size), jnp.int32)
    for interpolation in ("nearest", "linear"):
        got = sample_labels(label, warp.identity_coordinates(size), interpolation=interpolation)
        np.testing.assert_array_equal(got, label)


@pytest.mark.parametrize("size", SIZES)
def test_linear_labels_are_the_argmax_of_interpolated_indicators(size):
    random = np.random.default_rng(6)
    label = random.integers(-1, 4, size)
    coordinates = jnp.asarray(random.uniform(-1.5, max(size), (200, len(size))), jnp.float32)
    values = np.arange(-1, 4)
    indicators = jnp.asarray(label[..., None] == values, jnp.float32)
    votes = np.array(sample(indicators, coordinates))
    votes[:, 1] += 1 - votes.sum(-1)  # outside is 0
    got = sample_labels(jnp.asarray(label), coordinates, interpolation="linear")
    top = np.sort(votes, -1)
    clear = top[:, -1] - top[:, -2] > 1e-5
    assert clear.sum() > 150
    np.testing.assert_array_equal(np.asarray(got)[clear], values[votes.argmax(-1)][clear])


def test_nearest_labels_keep_integers_and_fill():
    label = jnp.asarray([[3, -1, 7], [0, 5, 2]], jnp.int16)
    coordinates = jnp.asarray([[0.4, 0.6], [0.5, 2.49], [-0.6, 0.0], [1.0, 2.5], [1e9, -1e9]])
    got = sample_labels(label, coordinates, fill=9)
    assert got.dtype == jnp.int16
    np.testing.assert_array_equal(got, [-1, 2, 9, 9, 9])


def test_displacement_passes_through_its_grid_and_reproduces_ramps():
    coarse = draw(7, 3, 3, 2)
    for order in (1, 3):
        field = np.asarray(displacement(jnp.asarray(coarse), (9, 13), order=order))
        np.testing.assert_allclose(field[::4, ::6], coarse, atol=1e-6)
    ramp = np.linspace(0, 1, 5)[:, None] * np.ones((5, 4))
    field = displacement(jnp.asarray(ramp, jnp.float32)[..., None], (17, 6), order=1)[..., 0]
    np.testing.assert_allclose(field, np.linspace(0, 1, 17)[:, None] * np.ones((17, 6)), atol=1e-6)
    for points in (1, 2, 4):
        np.testing.assert_allclose(warp.interpolation_matrix(11, points, order=3).sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(warp.interpolation_matrix(1, 3, order=1), [[1, 0, 0]])


def test_jit_vmap_and_gradient():
    images, shifts = jnp.asarray(draw(8, 2, 6, 7, 1)), jnp.asarray([0.25, -0.5])

    def move(image, shift):
        return warp.sample(image, warp.identity_coordinates((6, 7)) + shift)

    got = quick(jax.vmap(move))(images, shifts)
    np.testing.assert_allclose(got[1], move(images[1], shifts[1]), atol=1e-6)

    def energy(shift):
        return (move(images[0], shift) ** 2).sum()

    slope = quick(jax.grad(energy))(0.3)
    step = [quick(energy)(0.3 + e) for e in (1e-2, -1e-2)]
    np.testing.assert_allclose(slope, (step[0] - step[1]) / 2e-2, rtol=1e-2)


def test_wrong_arguments_are_named():
    image = jnp.zeros((3, 4, 1))
    with pytest.raises(ValueError, match="0 or 1"):
        sample(image, jnp.zeros((2, 2)), order=2)
    with pytest.raises(ValueError, match="needs coordinates with 2"):
        sample(image, jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="'nearest' or 'linear'"):
        sample_labels(jnp.zeros((3, 4), jnp.int32), jnp.zeros((2, 2)), interpolation="cubic")
    with pytest.raises(ValueError, match="1 or 3"):
        warp.interpolation_matrix(4, 2, order=2)
    with pytest.raises(ValueError, match=r"\(2, 2\) matrix"):
        affine_coordinates(jnp.eye(3), (4, 5))
    with pytest.raises(ValueError, match="grid axes"):
        displacement(jnp.zeros((3, 3, 2)), (4, 5, 6))
