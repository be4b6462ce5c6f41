"""Every recorded loss value of MONAI and PyTorch."""

import json

import jax
import numpy as np
import pytest

from jaxseg import losses

SUM_OVER_BATCH = "batch=True"  # PyTorch's weighted mean divides by the weights of the whole batch
VALUES = {
    "dice_softmax_incl_bg": "dice_loss",
    "dice_softmax_excl_bg": "dice_loss(ignore_background=True)",
    "dice_softmax_batch": "dice_loss(batch=True, ignore_background=True)",
    "dice_softmax_squared": "dice_loss(squared=True)",
    "dice_softmax_jaccard": "jaccard_loss",
    "dice_ce": "dice_loss + cross_entropy",
    "dice_focal": "dice_loss + focal_loss(activation='sigmoid')",
    "generalized_dice": "generalized_dice_loss",
    "tversky_a03_b07": "tversky_loss(alpha=0.3, beta=0.7)",
    "focal_softmax_g2": "focal_loss(gamma=2.0)",
    "focal_sigmoid_g2": "focal_loss(gamma=2.0, activation='sigmoid')",
    "hausdorff_dt": "hausdorff_dt_loss(alpha=2.0)",
    "cross_entropy_mean": "cross_entropy",
    "cross_entropy_weighted_1_2_3_4": f"cross_entropy(class_weights=(1, 2, 3, 4), {SUM_OVER_BATCH})",
    "cross_entropy_ignore255": f"cross_entropy(ignore_label=255, {SUM_OVER_BATCH})",
    "cross_entropy_label_smoothing_0.1": "cross_entropy(label_smoothing=0.1)",
}


@pytest.fixture(scope="module")
def recorded(golden):
    return json.loads((golden / "losses_metrics.json").read_text()), np.load(golden / "losses_metrics.npz")


@pytest.mark.parametrize("name", VALUES)
def test_equals_the_recorded_value(recorded, name):
    values, arrays = recorded
    logits = np.moveaxis(arrays["loss_logits_nchw"], 1, -1)
    labels = arrays["loss_labels_ignore255" if "ignore255" in name else "loss_labels_nhw"]
    found = jax.jit(losses.from_string(VALUES[name]))(logits, labels)
    assert float(np.mean(found)) == pytest.approx(values[name], abs=1e-5)


def test_no_recorded_loss_is_left_out(recorded):
    mine = {name for name in recorded[0] if not name.startswith(("metric", "coco", "reference"))}
    assert mine == set(VALUES)
