import jax.numpy as jnp
import numpy as np
import pytest
from annotations import unchecked
from scipy import ndimage, special

from jaxseg import losses

RNG = np.random.default_rng(3)
LOGITS = RNG.normal(size=(2, 5, 7, 3)).astype(np.float32) * 3
LABELS = RNG.integers(0, 3, (2, 5, 7))
LOG_PROBS = special.log_softmax(LOGITS.astype(np.float64), axis=-1)
ENTROPY = -np.take_along_axis(LOG_PROBS, LABELS[..., None], axis=-1)[..., 0]


def test_cross_entropy_is_the_mean_log_probability():
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, LABELS), ENTROPY.mean((1, 2)), rtol=1e-5)


def test_class_and_pixel_weights_divide_too():
    classes, pixels = np.array([0.5, 2.0, 3.0]), RNG.random((2, 5, 7)) + 0.1
    weights = classes[LABELS] * pixels
    found = losses.cross_entropy(LOGITS, LABELS, class_weights=classes, pixel_weights=pixels)
    np.testing.assert_allclose(found, (weights * ENTROPY).sum((1, 2)) / weights.sum((1, 2)), rtol=1e-5)
    pooled = losses.cross_entropy(LOGITS, LABELS, class_weights=classes, pixel_weights=pixels, batch=True)
    np.testing.assert_allclose(pooled, np.full(2, (weights * ENTROPY).sum() / weights.sum()), rtol=1e-5)


def test_label_smoothing_and_soft_targets():
    target = 0.7 * np.eye(3)[LABELS] + 0.1
    expected = -(target * LOG_PROBS).sum(-1).mean((1, 2))
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, LABELS, label_smoothing=0.3), expected, rtol=1e-5)
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, target.astype(np.float32)), expected, rtol=1e-5)


def test_an_image_classifier_has_no_pixels():
    found = losses.cross_entropy(LOGITS[0, :, 0], LABELS[0, :, 0])
    np.testing.assert_allclose(found, ENTROPY[0, :, 0], rtol=1e-5)


def test_infinite_logits_of_wrong_classes_cost_nothing():
    logits = jnp.array([[[0.0, -jnp.inf, 1.0]]])
    assert losses.cross_entropy(logits, jnp.array([[2]]))[0] == pytest.approx(np.log1p(np.exp(-1)), rel=1e-6)


def test_binary_cross_entropy_by_definition():
    regions = (RNG.random(LOGITS.shape) > 0.6).astype(np.float32)
    probs = special.expit(LOGITS.astype(np.float64))
    inside, outside = -regions * np.log(probs), -(1 - regions) * np.log(1 - probs)
    np.testing.assert_allclose(
        losses.binary_cross_entropy(LOGITS, regions), (inside + outside).mean((1, 2, 3)), rtol=1e-5
    )
    np.testing.assert_allclose(
        losses.binary_cross_entropy(LOGITS, regions, positive_weight=4.0),
        (4 * inside + outside).mean((1, 2, 3)),
        rtol=1e-5,
    )
    weights = np.array([1.0, 2.0, 5.0])
    np.testing.assert_allclose(
        losses.binary_cross_entropy(LOGITS, regions, class_weights=weights),
        ((inside + outside) * weights).sum(-1).mean((1, 2)) / 8,
        rtol=1e-5,
    )
    smoothed = regions * 0.8 + 0.1
    np.testing.assert_allclose(
        losses.binary_cross_entropy(LOGITS, regions, label_smoothing=0.2),
        -(smoothed * np.log(probs) + (1 - smoothed) * np.log(1 - probs)).mean((1, 2, 3)),
        rtol=1e-5,
    )


def test_focal_loss_by_definition():
    probs, target = np.exp(LOG_PROBS), np.eye(3)[LABELS]
    alpha = np.array([0.75, 0.25, 0.25])
    values = alpha * (1 - probs) ** 1.5 * target * -LOG_PROBS
    found = losses.focal_loss(LOGITS, LABELS, gamma=1.5, alpha=0.25)
    np.testing.assert_allclose(found, values.mean((1, 2, 3)), rtol=1e-5)
    found = losses.focal_loss(LOGITS, LABELS, gamma=1.5, alpha=0.25, ignore_background=True)
    np.testing.assert_allclose(found, values[..., 1:].mean((1, 2, 3)), rtol=1e-5)
    probs = special.expit(LOGITS.astype(np.float64))
    right = np.where(target > 0, probs, 1 - probs)
    values = np.where(target > 0, 0.25, 0.75) * (1 - right) ** 1.5 * -np.log(right)
    found = losses.focal_loss(LOGITS, LABELS, gamma=1.5, alpha=0.25, activation="sigmoid")
    np.testing.assert_allclose(found, values.mean((1, 2, 3)), rtol=1e-5)
    plain = losses.cross_entropy(LOGITS, LABELS)
    np.testing.assert_allclose(3 * losses.focal_loss(LOGITS, LABELS, gamma=0.0), plain, rtol=1e-5)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.3, 1.0])
def test_top_k_is_the_mean_of_the_hardest(fraction):
    labels = LABELS.copy()
    labels[0, :, :3] = -1
    expected = []
    for entropy, label in zip(ENTROPY, labels):
        hardest = np.sort(entropy[label >= 0])[::-1]
        expected.append(hardest[: max(int(round(len(hardest) * fraction, 6)), 1)].mean())
    found = losses.top_k_cross_entropy(LOGITS, labels, fraction=fraction, ignore_label=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_top_k_pools_the_batch():
    found = losses.top_k_cross_entropy(LOGITS, LABELS, fraction=0.1, batch=True)
    np.testing.assert_allclose(found, np.full(2, np.sort(ENTROPY.ravel())[-7:].mean()), rtol=1e-5)


def test_border_weights_equal_the_definition():
    instances = np.zeros((40, 53), int)
    instances[4:18, 3:20], instances[4:15, 23:50], instances[22:35, 10:30] = 7, 2, 11
    instances[36:, 40:] = -1
    distances = np.sort([ndimage.distance_transform_edt(instances != number) for number in (2, 7, 11)], axis=0)
    ridge = 8.0 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * 3.0**2))
    found = losses.border_weights(instances, w0=8.0, sigma=3.0)
    assert found.dtype == np.float32 and found.max() > 4
    np.testing.assert_allclose(found, np.where(instances == 0, 1 + ridge, 1), atol=1e-5)


def test_border_weights_need_two_objects():
    one = np.zeros((6, 9), int)
    one[2:4, 2:5] = 3
    assert (losses.border_weights(one) == 1).all() and (losses.border_weights(one * 0) == 1).all()
    full = np.where(np.arange(9) < 4, 1, 2) * np.ones((6, 1), int)  # objects touch, no background at all
    assert (losses.border_weights(full) == 1).all()


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="each of 3 classes"):
        losses.cross_entropy(LOGITS, LABELS, class_weights=(1.0, 2.0))
    with unchecked(), pytest.raises(ValueError, match="pixel_weights"):
        losses.cross_entropy(LOGITS, LABELS, pixel_weights=np.ones((5, 7)))
    with pytest.raises(ValueError, match="fraction"):
        losses.top_k_cross_entropy(LOGITS, LABELS, fraction=0.0)
