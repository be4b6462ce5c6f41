"""One battery over every loss of the table."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from annotations import unchecked

from jaxseg import losses

B, H, W, K = 3, 6, 7, 4
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(B, H, W, K)).astype(np.float32) * 2
LABELS = RNG.integers(0, K, size=(B, H, W)).astype(np.int32)
SIGMOID = [name for name in losses.names() if "activation" in inspect.signature(getattr(losses, name)).parameters]
VARIANTS = [(name, {}) for name in losses.names()]
VARIANTS += [(name, {"activation": "sigmoid"}) for name in ("dice_loss", "focal_loss", "hausdorff_dt_loss")]
VARIANTS += [("dice_loss", {"ignore_background": True}), ("dice_loss", {"squared": True, "smooth": 0.0})]
VARIANTS += [("focal_loss", {"gamma": 0.5, "alpha": 0.25}), ("cross_entropy", {"label_smoothing": 0.1})]
VARIANTS += [("lovasz_softmax_loss", {"classes": "all"}), ("cross_entropy", {"class_weights": (0.0, 1.0, 2.0, 3.0)})]
OF_DISTANCES = ("boundary_loss", "hausdorff_dt_loss")

every_loss = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda value: str(value))
each_name = pytest.mark.parametrize("name", losses.names())


@functools.cache
def compiled(name, options):
    """One compilation a variant: the samples' losses and the gradient of their sum."""
    loss = functools.partial(getattr(losses, name), **dict(options), ignore_label=-1)

    def total(logits, labels):
        samples = loss(logits, labels)
        return jnp.sum(samples), samples

    return jax.jit(jax.value_and_grad(total, has_aux=True))


def evaluate(name, options, logits, labels):
    (_, samples), slope = compiled(name, tuple(options.items()))(logits, labels)
    return np.asarray(samples), np.asarray(slope)


def jitted(name, **options):
    return jax.jit(functools.partial(getattr(losses, name), **options))


def value(name, options, logits, labels):
    return evaluate(name, options, logits, labels)[0]


@every_loss
def test_one_finite_float32_a_sample_and_jit_equals_eager(name, options):
    found = value(name, options, LOGITS, LABELS)
    assert found.shape == (B,) and found.dtype == np.float32 and np.isfinite(found).all()
    if not options:
        eager = getattr(losses, name)(LOGITS, LABELS, axis_name="swallowed without batch=True")
        np.testing.assert_allclose(found, eager, rtol=2e-5, atol=1e-6)


@every_loss
def test_samples_do_not_see_each_other(name, options):
    other = LOGITS.copy()
    other[1] = 1 - 2 * other[1]
    found = value(name, options, other, LABELS)
    expected = value(name, options, LOGITS, LABELS)
    np.testing.assert_allclose(found[[0, 2]], expected[[0, 2]], rtol=1e-6)
    assert abs(found[1] - expected[1]) > 1e-3


@each_name
def test_one_hot_soft_targets_equal_class_ids(name):
    soft = np.eye(K, dtype=np.float32)[LABELS]
    labels = LABELS.copy()
    labels[:, 2], soft[:, 2] = -1, -1.0
    found = jitted(name, ignore_label=-1)(LOGITS, soft)
    np.testing.assert_allclose(found, value(name, {}, LOGITS, labels), rtol=2e-5, atol=1e-6)


@every_loss
def test_ignored_pixels_have_no_say(name, options):
    labels, logits = LABELS.copy(), LOGITS.copy()
    labels[:, :, 5:] = -1
    logits[:, :, 5:] = np.nan
    found, slope = evaluate(name, options, logits, labels)
    np.testing.assert_allclose(found, value(name, options, LOGITS, labels), rtol=1e-6)
    assert np.isfinite(slope).all() and (slope[:, :, 5:] == 0).all() and (slope[:, :, :5] != 0).any()
    if name not in OF_DISTANCES:  # those draw the maps over the whole image
        removed = jitted(name, **options)(LOGITS[:, :, :5], LABELS[:, :, :5])
        np.testing.assert_allclose(found, removed, rtol=2e-5, atol=1e-6)


@every_loss
def test_degenerate_labels_and_saturated_logits_stay_finite(name, options):
    half = np.where(np.arange(W) < 4, 2, 1) * np.ones((B, H, 1), int)  # classes 0 and 3 are absent
    confident = 1e4 * np.eye(K, dtype=np.float32)[LABELS]
    extremes = [LOGITS, np.zeros_like(LOGITS), confident, -confident, 1e30 * np.sign(LOGITS), 30.0 * np.sign(confident)]
    for labels in (np.zeros((B, H, W), int), np.full((B, H, W), 3), np.full((B, H, W), -1), half, LABELS):
        for logits in extremes:
            found, slope = evaluate(name, options, logits.astype(np.float32), labels.astype(np.int32))
            assert np.isfinite(found).all() and np.isfinite(slope).all(), (name, labels[0, 0], logits[0, 0])
            if (labels == -1).all():
                assert found == pytest.approx(0, abs=1e-6) and (slope == 0).all()


@every_loss
def test_a_perfect_prediction_costs_nothing_and_the_gradient_leads_there(name, options):
    confident = 40.0 * (2.0 * np.eye(K, dtype=np.float32)[LABELS] - 1.0)
    perfect, worst = (value(name, options, logits, LABELS) for logits in (confident, -confident))
    if name == "boundary_loss":
        assert (perfect < value(name, options, LOGITS, LABELS)).all()
    elif "label_smoothing" not in options:
        np.testing.assert_allclose(perfect, 0.0, atol=1e-4)
    assert (perfect < worst).all()
    before, slope = evaluate(name, options, LOGITS, LABELS)
    after = value(name, options, LOGITS - 1e-2 * slope / np.abs(slope).max(), LABELS)
    assert after.sum() < before.sum()


@each_name
def test_bfloat16_logits_are_computed_in_float32(name):
    low = jnp.asarray(LOGITS, jnp.bfloat16)
    found = jitted(name)(low, LABELS.astype(np.int8))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, value(name, {}, np.asarray(low, np.float32), LABELS), rtol=2e-5, atol=1e-6)


@each_name
def test_volumes_are_images_with_one_more_axis(name):
    found = jitted(name)(LOGITS.reshape(B, 2, 3, W, K), LABELS.reshape(B, 2, 3, W))
    assert found.shape == (B,) and np.isfinite(found).all()
    if name not in OF_DISTANCES:
        np.testing.assert_allclose(found, value(name, {}, LOGITS, LABELS), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", OF_DISTANCES)
def test_distance_losses_take_volumes_and_spacings(name):
    volume, labels = LOGITS.reshape(B, 2, 3, W, K), LABELS.reshape(B, 2, 3, W)
    near = np.asarray(jitted(name)(volume, labels))
    far = jitted(name, spacing=(2.0, 2.0, 2.0))(volume, labels)
    np.testing.assert_allclose(far, near * (2.0 if name == "boundary_loss" else 4.0), rtol=1e-5, atol=1e-6)


@each_name
def test_batch_pools_samples_and_devices(name):
    loss = functools.partial(getattr(losses, name), batch=True, ignore_label=-1)
    logits, labels = np.concatenate([LOGITS, LOGITS[:1] * 0.3]), np.concatenate([LABELS, LABELS[:1, ::-1]])
    labels[2, :4] = -1

    def total(logits, labels):
        pooled = loss(logits, labels)
        return jnp.mean(pooled), pooled

    def over_devices(logits, labels):
        pooled = jax.vmap(functools.partial(loss, axis_name="devices"), axis_name="devices")(logits, labels)
        return jnp.mean(pooled), pooled

    (_, here), slope = jax.jit(jax.value_and_grad(total, has_aux=True))(logits, labels)
    assert here.shape == (4,) and np.ptp(here) == 0
    two = (logits.reshape(2, 2, H, W, K), labels.reshape(2, 2, H, W))
    (_, there), split_slope = jax.jit(jax.value_and_grad(over_devices, has_aux=True))(*two)
    np.testing.assert_allclose(there.reshape(4), here, rtol=1e-5)
    np.testing.assert_allclose(split_slope.reshape(logits.shape), slope, rtol=1e-4, atol=1e-7)
    if name not in OF_DISTANCES:  # one image of all pixels is the same thing
        folded = (logits.reshape(1, 4 * H, W, K), labels.reshape(1, 4 * H, W))
        np.testing.assert_allclose(jitted(name, ignore_label=-1)(*folded)[0], here[0], rtol=2e-5)


@pytest.mark.parametrize("name", ["binary_cross_entropy", "dice_loss", "lovasz_softmax_loss", "boundary_loss"])
def test_one_sigmoid_channel_reads_id_1_as_foreground(name):
    options = {"ignore_label": -1} | ({"activation": "sigmoid"} if name in SIGMOID else {})
    labels = np.where(LABELS == 2, -1, LABELS > 1).astype(np.int32)
    loss = jitted(name, **options)
    found = loss(LOGITS[..., :1], labels)
    np.testing.assert_allclose(found, loss(LOGITS[..., :1], labels[..., None].astype(np.float32)), rtol=1e-6)
    confident = 40.0 * (2.0 * (labels == 1) - 1.0)[..., None].astype(np.float32)
    assert (loss(confident, labels) < found).all()


def test_what_does_not_fit_is_said():
    with unchecked(), pytest.raises(ValueError, match="class ids"):
        losses.dice_loss(LOGITS, LABELS[..., None])
    with unchecked(), pytest.raises(ValueError, match="integer class ids"):
        losses.dice_loss(LOGITS, LABELS.astype(np.float32))
    with pytest.raises(ValueError, match="softmax or sigmoid"):
        losses.dice_loss(LOGITS, LABELS, activation="tanh")
    with pytest.raises(ValueError, match="softmax or sigmoid"):
        losses.focal_loss(LOGITS, LABELS, activation="tanh")
    with pytest.raises(ValueError, match="leaves no class"):
        losses.dice_loss(LOGITS[..., :1], LABELS, ignore_background=True)
