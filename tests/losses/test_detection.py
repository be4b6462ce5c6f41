"""Matching, drawing and the losses of a detector: torchvision's recorded matches, and values by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import ops
from jaxseg.losses import detection
from jaxseg.losses.detection import Matches


def test_matching_equals_torchvision(golden):
    recorded = np.load(golden / "ops_detection.npz")
    boxes = recorded["nms_boxes"]
    overlaps = ops.box_iou(boxes[:10], boxes)
    found = detection.match(overlaps, jnp.ones(10, bool), high=0.7, low=0.3, keep_best=True)
    codes = np.where(found.positive, found.row, np.where(found.negative, -1, -2))
    np.testing.assert_array_equal(codes, recorded["matcher_07_03_lowquality"])


OVERLAPS = jnp.array([[0.9, 0.5, 0.1, 0.0, 0.4], [0.2, 0.1, 0.25, 0.0, 0.45]])  # 2 objects, 5 boxes


def test_matching_by_hand():
    both, one = jnp.array([True, True]), jnp.array([True, False])
    found = detection.match(OVERLAPS, both, high=0.7, low=0.3)
    assert found.positive.tolist() == [True, False, False, False, False]
    assert found.negative.tolist() == [False, False, True, True, False]
    kept = detection.match(OVERLAPS, both, high=0.7, low=0.3, keep_best=True)
    assert kept.positive.tolist() == [True, False, False, False, True] and kept.row[4] == 1
    alone = detection.match(OVERLAPS, one, high=0.7, low=0.3, keep_best=True)
    assert alone.positive.tolist() == [True, False, False, False, False]
    assert alone.negative.tolist() == [False, False, True, True, False]
    hidden = detection.match(OVERLAPS, both, high=0.7, low=0.3, neutral=jnp.array([True, False, True, False, False]))
    assert hidden.positive.tolist()[0] and hidden.negative.tolist() == [False, False, False, True, False]


def test_without_objects_everything_is_negative():
    found = detection.match(OVERLAPS, jnp.zeros(2, bool), high=0.7, low=0.3, keep_best=True)
    assert not found.positive.any() and found.negative.all()


def matches(positives, negatives, size=40):
    place = np.arange(size)
    return Matches(jnp.asarray(place < positives), jnp.asarray(place >= size - negatives), jnp.asarray(place % 7))


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"), [(12, 20, (4, 12)), (3, 20, (3, 13)), (12, 5, (4, 5)), (0, 30, (0, 16))]
)
def test_numbers_drawn(positives, negatives, expected):
    given = matches(positives, negatives)
    drawn = [detection.draw(jax.random.key(seed), given, number=16, positive_share=0.25) for seed in range(5)]
    for positive, negative in drawn:
        assert (positive.sum(), negative.sum()) == expected
        assert not (positive & ~given.positive).any() and not (negative & ~given.negative).any()
    if positives > 4:
        assert len({tuple(positive.tolist()) for positive, _ in drawn}) > 1


def test_samples_hold_positives_first_and_say_what_counts():
    found = detection.sample(jax.random.key(1), matches(12, 5), number=16)
    assert found.positive.tolist() == [True] * 4 + [False] * 12
    assert found.counts.tolist() == [True] * 9 + [False] * 7
    np.testing.assert_array_equal(found.row, np.asarray(found.chosen) % 7)
    assert len(set(found.chosen.tolist())) == 16


def test_smooth_l1_by_hand():
    found = jnp.array([[0.0, 1.0, 0.0, 0.0], [1 / 18, 0.0, 0.0, -1 / 9]])
    # a line: 1 - 1/18; squares: 0.5 * 9 / 18^2, and 1/18 at the joint
    np.testing.assert_allclose(detection.smooth_l1(found, jnp.zeros((2, 4))), [17 / 18, 4.5 / 324 + 1 / 18], rtol=1e-5)


def test_losses_of_perfect_heads_vanish_and_fillers_do_not_count():
    anchors = np.array([[0, 0, 10, 8], [20, 4, 30, 14], [50, 50, 60, 58]], np.float32)
    boxes = jnp.array([[1.0, 1, 11, 9]])
    given = Matches(jnp.array([True, False, False]), jnp.array([False, True, True]), jnp.zeros(3, jnp.int32))
    positive, negative = given.positive, jnp.array([False, True, False])
    perfect = ops.encode_boxes(jnp.broadcast_to(boxes, (3, 4)), anchors)
    logits = jnp.array([30.0, -30.0, 30.0])  # the last is wrong, and was not drawn
    objectness, moved, count = detection.proposal_losses(logits, perfect, anchors, given, positive, negative, boxes)
    np.testing.assert_allclose([objectness, moved, count], [0, 0, 2], atol=1e-6)
    objectness, moved, _ = detection.proposal_losses(-logits, 0 * perfect, anchors, given, positive, negative, boxes)
    # both drawn logits are wrong by 30; the box is off by a tenth and an eighth of the sides
    np.testing.assert_allclose(objectness, 60, rtol=1e-5)
    np.testing.assert_allclose(moved, (4.5 * 0.1**2) + (0.125 - 1 / 18), rtol=1e-4)


def test_box_and_mask_losses_by_hand():
    samples = detection.Samples(
        jnp.arange(3), jnp.array([True, False, False]), jnp.array([True, True, False]), jnp.zeros(3, jnp.int32)
    )
    rois, boxes, labels = jnp.array([[0.0, 0, 10, 8]] * 3), jnp.array([[1.0, 0, 11, 8]]), jnp.array([2])
    logits = jnp.log(jnp.array([[0.2, 0.3, 0.5], [0.25, 0.5, 0.25], [0.1, 0.1, 0.8]]))
    options = {"weights": (10.0, 10.0, 5.0, 5.0)}
    classes, moved, count = detection.box_losses(logits, jnp.zeros((3, 3, 4)), rois, samples, boxes, labels, **options)
    np.testing.assert_allclose([classes, moved, count], [-np.log(0.5) - np.log(0.25), 1 - 1 / 18, 2], rtol=1e-5)
    target = jnp.array([[[1.0, 0.0], [0.5, 1.0]]] * 3)
    masks = jnp.zeros((3, 2, 2, 3)).at[0, ..., 2].set(jnp.array([[40.0, -40], [0, 0]]))
    total, count = detection.mask_loss(masks, target, jnp.array([2, 2, 2]), samples.positive)
    np.testing.assert_allclose([total, count], [2 * np.log(2) / 4, 1], rtol=1e-5)
