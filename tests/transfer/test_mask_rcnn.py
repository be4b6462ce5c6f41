"""Every recorded stage of torchvision's Mask R-CNN, reproduced with converted weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import ops, transfer
from jaxseg.typing import UserError

SOURCE = "torchvision:maskrcnn_resnet50_fpn"
STRIDES = {"fpn_0": 4, "fpn_1": 8, "fpn_2": 16, "fpn_3": 32, "fpn_pool": 64}


def channels_first(array):
    return np.moveaxis(np.asarray(array), -1, 1)


def error(found, expected):
    return np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected)


@pytest.fixture(scope="module")
def case(golden):
    return json.loads((golden / "maskrcnn_resnet50_fpn.json").read_text())


@pytest.fixture(scope="module")
def weights(case, seeded):
    return seeded.state_dict(case)


@pytest.fixture(scope="module")
def run(case, weights, golden):
    """The recorded stages and ours, in one compiled call that ends with two stages on the recorded proposals."""
    recorded = dict(np.load(golden / "maskrcnn_resnet50_fpn.npz"))
    options = {"proposals_before": 100, "proposals_after": 40, "score_threshold": 0.0, "max_detections": 20}
    model, variables = transfer.from_torch(weights, SOURCE, **options)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == case["parameters"]

    @jax.jit
    def stages(variables, image, boxes):
        found, aux = model.apply(variables, image)
        features = model.apply(variables, aux["pyramid"], boxes, method=lambda m, p, b: m.align(p, b, output_size=7))
        masks = model.apply(variables, aux["pyramid"], boxes[:, :8], method="mask_outputs")
        pasted = ops.paste_masks(found["masks"][0], found["boxes"][0], size=image.shape[1:3], method="torchvision")
        return found, aux, {"features": features[0], "masks": masks[0], "pasted": pasted}

    image = np.moveaxis(recorded["normalized_image"], 1, -1)
    found, aux, extra = stages(variables, image, jnp.asarray(recorded["proposals"])[None])
    return model, recorded, found, aux, extra


def test_pyramid(run):
    _, recorded, _, aux, _ = run
    for name, stride in STRIDES.items():
        assert error(channels_first(aux["pyramid"][stride])[:, ::16], recorded[name]) < 1e-4, name


def test_proposal_head(run):
    _, recorded, _, aux, _ = run
    for level in range(5):
        logits = np.moveaxis(recorded[f"rpn_objectness_{level}"], 1, -1).reshape(1, -1)
        deltas = np.moveaxis(recorded[f"rpn_deltas_{level}"], 1, -1).reshape(1, -1, 4)
        assert error(aux["objectness"][level], logits) < 1e-4
        assert error(aux["box_deltas"][level], deltas) < 1e-4


def test_anchors_and_proposals(run):
    model, recorded, _, aux, _ = run
    np.testing.assert_array_equal(np.concatenate(model.anchors((128, 160), aux["pyramid"])), recorded["anchors"])
    proposals = aux["proposals"]
    assert proposals.valid.all()
    np.testing.assert_allclose(proposals.boxes[0], recorded["proposals"], atol=1e-3)


def test_heads(run):
    _, recorded, _, aux, extra = run
    assert error(channels_first(extra["features"])[:, ::16], recorded["box_features"]) < 1e-4
    assert error(aux["class_logits"][0], recorded["class_logits"]) < 1e-4
    assert error(aux["class_deltas"][0].reshape(40, -1), recorded["box_regression"]) < 1e-4
    assert error(channels_first(extra["masks"])[..., ::2, ::2], recorded["mask_logits_on_proposals"]) < 1e-4


def test_detections_and_their_masks(run):
    _, recorded, found, _, extra = run
    assert found["valid"].all() and not found["overflow"].any()
    np.testing.assert_allclose(found["boxes"][0], recorded["det_boxes"], atol=1e-3)
    np.testing.assert_allclose(found["scores"][0], recorded["det_scores"], atol=1e-4)
    np.testing.assert_array_equal(found["labels"][0], recorded["det_labels"])
    np.testing.assert_allclose(extra["pasted"][:6, ::2, ::2], recorded["det_masks"][:, 0], atol=1e-4)


def test_what_does_not_fit_is_refused(weights):
    with pytest.raises(UserError, match=r"missing roi_heads\.box_predictor\.cls_score\.weight"):
        transfer.from_torch({k: v for k, v in weights.items() if "cls_score" not in k}, SOURCE)
    with pytest.raises(UserError, match="3 input channels in the state dict; in_channels is 1"):
        transfer.from_torch(weights, SOURCE, in_channels=1)
