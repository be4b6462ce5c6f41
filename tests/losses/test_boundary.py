import jax
import numpy as np
import pytest
from scipy import ndimage, special

from jaxseg import losses

RNG = np.random.default_rng(4)
LOGITS = RNG.normal(size=(2, 9, 12, 3)).astype(np.float32) * 2
LABELS = np.zeros((2, 9, 12), int)
LABELS[0, 2:6, 1:7], LABELS[0, 5:8, 5:11], LABELS[1, 3:5, 4:6] = 1, 2, 1  # sample 1 has no class 2
PROBS = special.softmax(LOGITS.astype(np.float64), axis=-1)


def test_boundary_loss_by_hand():
    # One row, region at places 2..4 of 0..6: distances 2 1 | 0 -1 0 | 1 2.
    labels = np.array([[[0, 0, 1, 1, 1, 0, 0]]])
    probs = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    logits = np.log(np.stack([1 - probs, probs], -1))[None, None].astype(np.float32)
    signed = np.array([2, 1, 0, -1, 0, 1, 2])
    assert losses.boundary_loss(logits, labels)[0] == pytest.approx((probs * signed).mean(), rel=1e-5)


@pytest.mark.parametrize("spacing", [None, (2.0, 0.5)])
def test_boundary_loss_equals_scipy(spacing):
    expected = np.zeros(2)
    for sample, number in ((0, 1), (0, 2), (1, 1)):
        region = LABELS[sample] == number
        outside = ndimage.distance_transform_edt(~region, sampling=spacing)
        inside = ndimage.distance_transform_edt(region, sampling=spacing) - (min(spacing) if spacing else 1)
        expected[sample] += (PROBS[sample, ..., number] * np.where(region, -inside, outside)).mean() / 2
    np.testing.assert_allclose(losses.boundary_loss(LOGITS, LABELS, spacing=spacing), expected, rtol=1e-5)


@pytest.mark.parametrize(("spacing", "alpha"), [(None, 2.0), ((2.0, 0.5), 1.5)])
def test_hausdorff_dt_loss_equals_scipy(spacing, alpha):
    def field(region):
        both = [ndimage.distance_transform_edt(side, sampling=spacing) for side in (region, ~region)]
        return sum(both) if region.any() and not region.all() else np.zeros(region.shape)

    expected = np.zeros(2)
    for sample in (0, 1):
        for number in (1, 2):
            prob, true = PROBS[sample, ..., number], LABELS[sample] == number
            weight = field(prob > 0.5) ** alpha + field(true) ** alpha
            expected[sample] += ((prob - true) ** 2 * weight).mean() / 2
    np.testing.assert_allclose(
        losses.hausdorff_dt_loss(LOGITS, LABELS, spacing=spacing, alpha=alpha), expected, rtol=1e-5
    )


def test_background_is_left_out_of_softmax_only():
    labels = (LABELS == 1).astype(int)
    sigmoid = losses.boundary_loss(LOGITS[..., :1], labels, activation="sigmoid")
    assert sigmoid.shape == (2,) and (np.abs(sigmoid) > 0).all()
    included = losses.boundary_loss(LOGITS, LABELS, ignore_background=False)
    assert (np.abs(included - losses.boundary_loss(LOGITS, LABELS)) > 1e-3).all()


@pytest.mark.parametrize("name", ["boundary_loss", "hausdorff_dt_loss"])
@pytest.mark.parametrize("fill", [0, 1])
def test_regions_without_an_edge_add_nothing(name, fill):
    labels = np.full((2, 9, 12), fill)
    sure = np.where(np.eye(3)[fill] > 0, 20.0, -20.0).astype(np.float32) * np.ones((2, 9, 12, 1), np.float32)
    np.testing.assert_allclose(getattr(losses, name)(sure, labels), 0.0, atol=1e-6)


def test_ignored_pixels_are_background_of_the_maps():
    labels = LABELS.copy()
    labels[0, 3, 3:] = -1
    found = losses.boundary_loss(LOGITS, labels, ignore_label=-1)[0]
    expected = 0.0
    for number in (1, 2):
        region = labels[0] == number
        outside, inside = ndimage.distance_transform_edt(~region), ndimage.distance_transform_edt(region) - 1
        expected += (PROBS[0, ..., number] * np.where(region, -inside, outside))[labels[0] >= 0].mean() / 2
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["boundary_loss", "hausdorff_dt_loss"])
def test_the_gradient_takes_the_maps_as_constants(name):
    def of_logits(logits):
        return getattr(losses, name)(logits, LABELS[:1])[0]

    confident = 3.0 * LOGITS[:1]  # few probabilities near 1/2, where the predicted map would jump
    tangent = RNG.normal(size=confident.shape).astype(np.float32)
    value_at, (slope, *_) = jax.jit(of_logits), jax.jit(jax.grad(of_logits, argnums=(0,)))(confident)
    change = float(value_at(confident + 1e-3 * tangent) - value_at(confident - 1e-3 * tangent))
    assert change / 2e-3 == pytest.approx(float((slope * tangent).sum()), rel=1e-2)
