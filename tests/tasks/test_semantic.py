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
