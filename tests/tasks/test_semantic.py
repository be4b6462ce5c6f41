"""The semantic task by hand-sized truth: targets of regions, counts, Dice, statistics that training updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses, models, tasks
from jaxseg.tasks.semantic import mean_dice, region_targets

REGIONS = ((1, 2), (2,))


def make(**options):
    model = models.create(
        "unet",
        ndim=2,
        features=options.pop("features", (4, 8)),
        num_classes=options.pop("outputs", 3),
        **options.pop("model", {}),
    )
    loss = losses.from_string(options.pop("loss", "dice_loss(ignore_background=True) + cross_entropy"))
    return tasks.semantic(model, loss, num_classes=3, **options)


def batch():
    image = jax.random.normal(jax.random.key(0), (2, 8, 12, 1))
    label = jnp.zeros((2, 8, 12), jnp.int32).at[:, 2:5, 3:9].set(1).at[:, 3, 4].set(2)
    return {"image": image, "label": label, "index": jnp.arange(2)}


def test_region_targets_by_hand():
    targets = region_targets(jnp.array([[0, 1, 2, -1]]), REGIONS)
    np.testing.assert_array_equal(targets, [[[0, 0], [1, 0], [1, 1], [-1, -1]]])


def test_probabilities_of_both_heads():
    data = batch()
    soft = make()
    params, extra = soft.init(jax.random.key(1), data["image"])
    probs = soft.predict({"params": params, "extra": extra}, data["image"])
    assert probs.shape == (2, 8, 12, 3)
    np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-5)
    logits, variables = make(logits=True), {"params": params, "extra": extra}
    np.testing.assert_allclose(probs, jax.nn.softmax(logits.predict(variables, data["image"])), atol=1e-6)
    np.testing.assert_array_equal(logits.counts(variables, data), soft.counts(variables, data))
    regions = make(regions=REGIONS, outputs=2, loss="dice_loss(activation='sigmoid') + binary_cross_entropy")
    params, extra = regions.init(jax.random.key(1), data["image"])
    probs = regions.predict({"params": params, "extra": extra}, data["image"])
    assert probs.shape == (2, 8, 12, 2) and float(probs.min()) >= 0 and float(probs.max()) <= 1
    value, (metrics, _) = regions.losses["model"](params, extra, data, jax.random.key(2))
    assert np.isfinite(value) and metrics["counts"].shape == (2, 3)


def test_ignored_pixels_change_neither_loss_nor_counts():
    task, data = make(), batch()
    params, extra = task.init(jax.random.key(1), data["image"])
    hidden = data["label"].at[:, :2].set(-1)
    value, (metrics, _) = task.losses["model"](params, extra, {**data, "label": hidden}, jax.random.key(2))
    assert np.isfinite(value)
    assert float(metrics["counts"].sum()) == float((hidden >= 0).sum())


def test_deep_supervision_adds_the_lower_resolutions():
    data = batch()
    plain, deep = make(features=(4, 8, 8)), make(features=(4, 8, 8), model={"deep_supervision": True})
    params, extra = deep.init(jax.random.key(1), data["image"])
    shared = {name: value for name, value in params["model"].items() if name != "head_1"}
    one = plain.losses["model"]({"model": shared}, extra, data, jax.random.key(2))[0]
    two = deep.losses["model"](params, extra, data, jax.random.key(2))[0]
    # nnU-Net's two levels weigh 1 and 0: the lowest is computed for nothing and left out.
    assert float(one) == pytest.approx(float(two), rel=1e-5)


def test_batch_statistics_move_in_training_only():
    data = batch()
    task = make(model={"norm": "batch"})
    params, extra = task.init(jax.random.key(1), data["image"])
    _, (_, after) = task.losses["model"](params, extra, data, jax.random.key(2))
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), extra, after)
    assert max(jax.tree.leaves(moved)) > 0


def test_mean_dice_by_hand():
    confusion = np.array([[10.0, 1, 0], [2, 6, 0], [0, 0, 0]])
    assert mean_dice(confusion) == pytest.approx(2 * 6 / (7 + 8))  # class 2 is on neither side
    assert mean_dice(np.array([[3.0, 1, 0], [0, 0, 0]]), regions=True) == pytest.approx(6 / 7)
    assert np.isnan(mean_dice(np.diag([5.0, 0, 0])))


def test_batch_statistics_over_devices_on_request():
    model = models.create("unet", features=(4, 8), norm="batch", convs=1, decoder_convs=1)
    loss = losses.from_string("cross_entropy")
    image = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    image = image.at[2:].add(3.0)  # the second device's images are brighter
    batch = {"image": image, "label": jnp.ones((4, 8, 8), jnp.int32)}
    alone = tasks.semantic(model, loss, num_classes=2)
    params, extra = jax.jit(alone.init)(jax.random.key(1), image)

    def statistics(task, axis_name=None):
        def run(part):
            _, (_, updated) = task.losses["model"](params, extra, part, jax.random.key(2), axis_name=axis_name)
            return updated["model"]["batch_stats"]["encoder_0_conv_0"]["norm"]["var"]

        if axis_name is None:
            return jax.jit(run)(batch)
        return jax.jit(jax.vmap(run, axis_name=axis_name))(jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), batch))

    whole = statistics(alone)
    together = statistics(tasks.semantic(model, loss, num_classes=2, sync_batch_norm=True), "batch")
    np.testing.assert_allclose(together, jnp.stack([whole, whole]), rtol=1e-5)
    apart = statistics(alone, "batch")
    assert (apart.mean(0) < 0.99 * whole).all()  # between the devices' means lies variance that neither sees


def test_an_auxiliary_head_adds_its_share():
    fields = {"backbone": "resnet18", "backbone_fields": {"blocks": (1, 1, 1, 1), "width": 2}}
    model = models.create("fcn_resnet", auxiliary=True, **fields)
    image = jax.random.normal(jax.random.key(0), (2, 32, 32, 1))
    batch = {"image": image, "label": jnp.ones((2, 32, 32), jnp.int32)}
    loss = losses.from_string("cross_entropy")

    def value(weight):
        task = tasks.semantic(model, loss, num_classes=2, auxiliary_weight=weight)
        params, extra = jax.jit(task.init)(jax.random.key(1), image)
        return float(task.losses["model"](params, extra, batch, jax.random.key(2))[0])

    none, half, whole = value(0.0), value(0.5), value(1.0)
    assert whole > none and half == pytest.approx((none + whole) / 2, rel=1e-5)
