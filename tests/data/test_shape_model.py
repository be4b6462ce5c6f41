"""The shape model against scipy's distances and numpy's singular values, and by laws of its draws."""

import numpy as np
import pytest
import scipy.ndimage
from annotations import unchecked

from jaxseg.data.shape_model import sample_shape, shape_model, shape_sampler
from jaxseg.typing import UserError


def ball(shape, radius, *, shift=0.0):
    where = np.indices(shape) - np.reshape([n / 2 + shift for n in shape], (-1,) + (1,) * len(shape))
    return np.sqrt(np.square(where).sum(axis=0)) <= radius


def nested(shape, radius, *, shift=0.0):
    """A shell of class 3 around a core of class 7."""
    return np.where(ball(shape, radius / 2, shift=shift), 7, np.where(ball(shape, radius, shift=shift), 3, 0))


def signed(mask, spacing=None):
    outside = scipy.ndimage.distance_transform_edt(~mask, sampling=spacing)
    return outside - scipy.ndimage.distance_transform_edt(mask, sampling=spacing)


@pytest.mark.parametrize("shape", [(19, 24), (13, 14, 17)])
def test_identical_maps_come_back(shape):
    label = nested(shape, 5).astype(np.int16)
    model = shape_model([label] * 3)
    assert model.modes.shape == (0, 3, *shape) and model.deviations.shape == (0,)
    for seed in range(3):
        got = sample_shape(model, seed=seed, scale=2.0)
        assert got.dtype == np.int16
        np.testing.assert_array_equal(got, label)


@pytest.mark.parametrize("spacing", [None, (2.0, 0.5)])
def test_equals_singular_values(spacing):
    """Mean, deviations and modes against an SVD of scipy's distances."""
    labels = [nested((16, 21), radius, shift=shift) for radius, shift in [(4, 0), (5, 1), (6, -1), (5, 0)]]
    model = shape_model(labels, limit=4.0, spacing=spacing)
    distances = np.array([[signed(label == value, spacing) for value in (0, 3, 7)] for label in labels]).clip(-4, 4)
    rows = (distances - distances.mean(axis=0)).reshape(4, -1)
    _, values, directions = np.linalg.svd(rows, full_matrices=False)
    np.testing.assert_array_equal(model.values, [0, 3, 7])
    np.testing.assert_allclose(model.mean, distances.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(model.deviations, values[:3] / np.sqrt(3), rtol=1e-5)
    alike = np.abs(np.einsum("mv,mv->m", model.modes.reshape(3, -1), directions[:3]))
    np.testing.assert_allclose(alike, 1, rtol=1e-4)
    kept = shape_model(labels, limit=4.0, spacing=spacing, modes=2)
    np.testing.assert_array_equal(kept.modes, model.modes[:2])
    assert len(shape_model(labels, modes=9).modes) == 3


def test_variance_of_the_draws():
    """Circles of radius 4 to 8 give circles whose area varies about as theirs does."""
    labels = [ball((27, 25), radius).astype(int) for radius in (4, 5, 6, 7, 8)]
    model = shape_model(labels, limit=20.0)
    assert model.deviations[0] > 5 * model.deviations[1]  # growth is one mode
    radii = [np.sqrt(sample_shape(model, seed=seed).sum() / np.pi) for seed in range(200)]
    np.testing.assert_allclose(np.mean(radii), 6, atol=0.4)
    np.testing.assert_allclose(np.std(radii), np.std([4, 5, 6, 7, 8], ddof=1), rtol=0.2)
    wide = [np.sqrt(sample_shape(model, seed=seed, scale=0.5).sum() / np.pi) for seed in range(200)]
    np.testing.assert_allclose(np.std(wide), np.std(radii) / 2, rtol=0.2)
    assert all(scipy.ndimage.label(sample_shape(model, seed=seed))[1] == 1 for seed in range(20))


def test_draws_stop_at_three_deviations(monkeypatch):
    model = shape_model([ball((27, 25), radius).astype(int) for radius in (5, 6, 7)], modes=1, limit=20.0)

    def drawn(value):
        monkeypatch.setattr(np.random, "default_rng", lambda seed: Always(value))
        return sample_shape(model, seed=0)

    for sign in (-1, 1):
        np.testing.assert_array_equal(drawn(9.0 * sign), drawn(3.0 * sign))
        assert (drawn(3.0 * sign) != drawn(2.0 * sign)).any()


class Always:
    """A generator whose normal draws have one value."""

    def __init__(self, value):
        self.value = value

    def standard_normal(self, size):
        return np.full(size, self.value)


def test_classes_stay_nested():
    labels = [nested((25, 29), radius, shift=shift) for radius, shift in [(6, 0), (8, 1), (7, -1), (9, 0), (7, 1)]]
    draw = shape_sampler(labels)
    for seed in range(20):
        label = draw(seed=seed)
        core = label == 7
        assert core.any() and set(np.unique(label)) == {0, 3, 7}
        around = scipy.ndimage.binary_dilation(core, np.ones((3, 3))) & ~core
        assert (label[around] == 3).all()


def test_classes_that_touch_stay_together():
    """Two halves of a disc whose seam moves: no background opens along it."""
    inside = ball((25, 29), 9)
    labels = [np.where(inside, np.where(np.arange(29) < seam, 1, 2), 0) for seam in (11, 13, 16, 18)]
    draw = shape_sampler(labels)
    seams = set()
    for seed in range(10):
        label = draw(seed=seed)
        assert (label[11:14, 8:21] > 0).all() and set(np.unique(label)) == {0, 1, 2}
        seams.add(int((label[12] == 1).sum()))
    assert len(seams) > 3


def test_scale_of_zero_is_the_mean():
    labels = [ball((20, 23), radius).astype(int) for radius in (4, 8)]
    mean = sample_shape(shape_model(labels, limit=30.0), seed=5, scale=0.0)
    np.testing.assert_array_equal(mean, sample_shape(shape_model(labels, limit=30.0), seed=6, scale=0.0))
    expected = np.mean([signed(label > 0) for label in labels], axis=0) < 0
    np.testing.assert_array_equal(mean, expected)


def test_a_class_that_some_maps_lack():
    labels = [nested((15, 18), 6), ball((15, 18), 6).astype(int) * 3, np.zeros((15, 18), int)]
    model = shape_model(labels)
    assert np.isfinite(model.mean).all() and np.isfinite(model.modes).all()
    full = [np.full((5, 6), 2), np.full((5, 6), 2)]
    np.testing.assert_array_equal(sample_shape(shape_model(full), seed=0), full[0])


def test_order_of_the_maps_does_not_matter():
    labels = [nested((16, 21), radius, shift=shift) for radius, shift in [(4, 0), (5, 1), (6, -1)]]
    one, other = shape_model(labels), shape_model(labels[::-1])
    np.testing.assert_allclose(one.deviations, other.deviations, rtol=1e-5)
    np.testing.assert_allclose(one.mean, other.mean, atol=1e-6)


LABEL = ball((9, 10), 3).astype(int)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: shape_model([LABEL]), "2 or more label maps are needed, not 1"),
        (lambda: shape_model([LABEL * 0] * 2), "all are background"),
        (lambda: shape_model([LABEL, LABEL[1:]]), "one shape"),
        (lambda: shape_model([LABEL, LABEL - 1]), "hold -1"),
        (lambda: shape_model([LABEL * 1.0] * 2), "integers"),
        (lambda: shape_model([LABEL[0]] * 2), "2D or 3D"),
        (lambda: shape_model([LABEL] * 2, modes=-1), "modes"),
        (lambda: shape_model([LABEL] * 2, limit=0.0), "limit"),
        (lambda: shape_model([LABEL] * 2, spacing=(1.0, 1.0, 1.0)), "2 positive numbers"),
        (lambda: sample_shape(shape_model([LABEL] * 2), seed=0, scale=-1.0), "scale"),
    ],
)
def test_bad_input(call, says):
    with unchecked(), pytest.raises(UserError, match=says):
        call()
