"""Mask R-CNN's shapes and laws at a tiny size, and its detections from given heads; weights: tests/transfer."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import models
from jaxseg.models import proposals

TINY = {
    "backbone": "resnet18",
    "backbone_fields": {"blocks": (1, 1, 1, 1), "width": 4},
    "features": 8,
    "box_features": 16,
    "mask_features": 8,
    "mask_convs": 1,
    "anchor_sizes": (8, 16, 32, 64, 128),
    "canonical_size": 56.0,
    "proposals_before": 20,
    "proposals_after": 12,
    "training_proposals_before": 24,
    "training_proposals_after": 16,
    "score_threshold": 0.0,
    "max_detections": 6,
    "norm": "group4",
}
CLASSES = 3


@pytest.fixture(scope="module")
def tiny():
    """Model, variables, compiled call, and two images of two channels."""
    model = models.create("mask_rcnn", num_classes=CLASSES, **TINY)
    image = jax.random.normal(jax.random.key(0), (2, 64, 96, 2))
    return model, jax.jit(model.init)(jax.random.key(1), image), jax.jit(model.apply), image


# torchvision counts 44,401,393 for 91 classes: scale and bias of its frozen norms, 53,120 numbers, are no parameters.
@pytest.mark.parametrize(("classes", "count"), [(4, 43_986_279), (91, 44_401_393 + 53_120)])
def test_parameters_are_torchvisions(classes, count):
    model = models.create("mask_rcnn", num_classes=classes)
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == count


def test_detections_have_fixed_shapes(tiny):
    _, variables, apply, image = tiny
    found, aux = apply(variables, image)
    shapes = {name: value.shape for name, value in found.items()}
    assert shapes == {
        "boxes": (2, 6, 4),
        "scores": (2, 6),
        "labels": (2, 6),
        "valid": (2, 6),
        "overflow": (2,),
        "masks": (2, 6, 28, 28),
    }
    assert {stride: level.shape[1:3] for stride, level in aux["pyramid"].items()} == {
        4: (16, 24), 8: (8, 12), 16: (4, 6), 32: (2, 3), 64: (1, 2),
    }  # fmt: skip
    assert aux["proposals"].boxes.shape == (2, 12, 4)
    valid = np.asarray(found["valid"])
    boxes, scores = np.asarray(found["boxes"]), np.asarray(found["scores"])
    assert valid.any() and (np.diff(scores, axis=1) <= 0).all() and (scores[~valid] == 0).all()
    assert (boxes >= 0).all() and (boxes[..., ::2] <= 96).all() and (boxes[..., 1::2] <= 64).all()
    assert set(np.unique(np.asarray(found["labels"])[valid])) <= {1, 2}
    assert (np.asarray(found["masks"]) >= 0).all() and (np.asarray(found["masks"]) <= 1).all()


def test_an_image_does_not_depend_on_its_batch(tiny):
    _, variables, apply, image = tiny
    together, alone = apply(variables, image)[0], apply(variables, image[1:])[0]
    for name in ("boxes", "scores", "masks"):
        np.testing.assert_allclose(together[name][1:], alone[name], atol=1e-3, err_msg=name)


def test_boxes_stay_within_the_image_without_its_padding(tiny):
    _, variables, apply, image = tiny
    size = np.array([[40, 50], [64, 96]], np.float32)
    boxes = np.asarray(apply(variables, image, size=size)[0]["boxes"])
    assert boxes[0, :, ::2].max() <= 50 and boxes[0, :, 1::2].max() <= 40
    assert boxes[1, :, ::2].max() > 50 or boxes[1, :, 1::2].max() > 40


@pytest.mark.parametrize(
    "fields",
    [
        {"backbone": "vgg16", "backbone_fields": {"width": 4}, "norm": "none"},
        {"norm": "frozen_batch", "head_norm": "group4"},
        {"norm": "batch", "anchor_sizes": ((8, 12), (16, 24), (32, 48), (64, 96), (128, 160)), "anchor_offset": 0.0},
    ],
    ids=["vgg", "group", "two sizes"],
)
def test_variants_build(fields):
    model = models.create("mask_rcnn", num_classes=CLASSES, **{**TINY, **fields})
    image = jax.ShapeDtypeStruct((1, 64, 96, 5), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    found, aux = jax.eval_shape(model.apply, variables, image)
    assert found["masks"].shape == (1, 6, 28, 28) and len(aux["pyramid"]) == len(aux["objectness"]) >= 4


def test_bfloat16_keeps_float32_parameters_boxes_and_scores():
    model = models.create("mask_rcnn", num_classes=CLASSES, dtype="bfloat16", **TINY)
    image = jax.ShapeDtypeStruct((1, 64, 96, 2), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    found, _ = jax.eval_shape(model.apply, variables, image)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert found["boxes"].dtype == found["scores"].dtype == found["masks"].dtype == jnp.float32


def test_what_does_not_fit_is_told(tiny):
    model, variables, _, _ = tiny
    with pytest.raises(ValueError, match="divisible by"):
        jax.eval_shape(model.apply, variables, jax.ShapeDtypeStruct((1, 60, 96, 2), jnp.float32))
    with pytest.raises(ValueError, match="works on 2D images; ndim is 3"):
        models.create("mask_rcnn", ndim=3).init(jax.random.key(0), jnp.zeros((1, 64, 64, 1)))


def test_proposals_by_hand():
    """Two levels. On the first the second anchor is hidden by the first; on the second one leaves the image."""
    anchors = [
        np.array([[0, 0, 10, 8], [1, 0, 11, 8], [20, 20, 30, 29]], np.float32),
        np.array([[0, 0, 10, 8], [90, 90, 99, 99]], np.float32),
    ]
    logits = [jnp.array([2.0, 1.0, 0.0]), jnp.array([3.0, 9.0])]
    deltas = [jnp.zeros((3, 4)), jnp.zeros((2, 4))]
    found = proposals.propose(logits, deltas, anchors, jnp.array([25.0, 28.0]), before=3, after=4)
    # levels do not hide each other's boxes; [20, 20, 30, 29] is cut to the image of 25 x 28
    expected = [[0, 0, 10, 8], [0, 0, 10, 8], [20, 20, 28, 25], [0, 0, 1, 1]]
    np.testing.assert_allclose(found.boxes, expected, atol=1e-5)
    assert found.valid.tolist() == [True, True, True, False]
    np.testing.assert_allclose(found.scores[:3], jax.nn.sigmoid(jnp.array([3.0, 2.0, 0.0])), rtol=1e-6)


def test_detections_by_hand():
    """Three proposals, two classes: the same box twice in class 1 (the weaker goes), and once in class 2 (it stays)."""
    boxes = jnp.array([[4.0, 2, 24, 12], [4, 3, 24, 13], [4, 2, 24, 12], [0, 0, 50, 40]])
    logits = jnp.log(jnp.array([[0.2, 0.7, 0.1], [0.1, 0.6, 0.3], [0.16, 0.04, 0.8], [0.0, 1.0, 0.0]]) + 1e-9)
    options = {"score_threshold": 0.25, "threshold": 0.5, "most": 4}
    valid = jnp.array([True, True, True, False])
    size = jnp.array([40.0, 50.0])
    found = proposals.detect(logits, jnp.zeros((4, 3, 4)), boxes, valid, size, **options)
    assert found.labels.tolist() == [2, 1, 0, 0] and found.valid.tolist() == [True, True, False, False]
    np.testing.assert_allclose(found.scores, [0.8, 0.7, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(found.boxes[:2], [[4, 2, 24, 12]] * 2, atol=1e-4)
    assert not found.overflow
    few = proposals.detect(logits, jnp.zeros((4, 3, 4)), boxes, valid, size, before=3, **options)
    assert few.overflow and few.boxes.shape == (3, 4)  # four passed the threshold: 0.7, 0.6, 0.3, 0.8
