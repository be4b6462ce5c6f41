"""COCO figures: pycocotools' recorded values, and small scenes whose figures follow by hand."""

import numpy as np
import pytest
from annotations import unchecked

from jaxseg import metrics

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def image(boxes, labels=None, scores=None, **more):
    boxes = np.array(boxes, float).reshape(-1, 4)
    found = {"boxes": boxes, "labels": np.ones(len(boxes), int) if labels is None else np.array(labels), **more}
    return found if scores is None else {**found, "scores": np.array(scores)}


@pytest.fixture(scope="module")
def scene(golden):
    data = np.load(golden / "losses_metrics.npz")
    masks = {side: np.unpackbits(data[f"coco_{side}_masks"], axis=-1).astype(bool) for side in ("true", "det")}
    true, pred = data["coco_true_image_category_crowd"], data["coco_det_image_category_score"]
    truths, predictions = [], []
    for number in range(12):
        here = true[:, 0] == number
        truths.append({"masks": masks["true"][here], "labels": true[here, 1], "crowd": true[here, 2] == 1})
        here = pred[:, 0] == number
        predictions.append({"masks": masks["det"][here], "labels": pred[here, 1].astype(int), "scores": pred[here, 2]})
    return predictions, truths, {"mask": data["coco_stats_segm"], "box": data["coco_stats_bbox"]}


@pytest.mark.parametrize("kind", ["mask", "box"])
def test_golden(scene, kind):
    predictions, truths, recorded = scene
    got = metrics.coco_average_precision(predictions, truths, kind=kind)
    assert list(got) == NAMES
    np.testing.assert_allclose(list(got.values()), recorded[kind], atol=1e-9)


def test_boxes_given_equal_the_masks_own(scene):
    predictions, truths, recorded = scene
    with_boxes = [
        [{**one, "boxes": metrics.mask_boxes(one["masks"]), "masks": None} for one in side]
        for side in (predictions, truths)
    ]
    got = metrics.coco_average_precision(*with_boxes, kind="box")
    np.testing.assert_allclose(list(got.values()), recorded["box"], atol=1e-9)


def test_mask_boxes_by_hand():
    masks = np.zeros((2, 6, 9), bool)
    masks[0, 2:5, 7] = True
    assert metrics.mask_boxes(masks).tolist() == [[7, 2, 8, 5], [0, 0, 0, 0]]


def test_half_of_the_thresholds():
    """Overlap 0.72 passes thresholds 0.50 to 0.70: five of ten."""
    got = metrics.coco_average_precision(
        [image([[0, 0, 72, 10]], scores=[0.4])], [image([[0, 0, 100, 10]])], kind="box"
    )
    assert (got["AP"], got["AP50"], got["AP75"], got["AR1"]) == pytest.approx((0.5, 1.0, 0.0, 0.5))
    assert (got["APs"], got["APm"], got["APl"]) == pytest.approx((0.5, -1.0, -1.0))


def test_false_positive_first():
    """A wrong detection with the higher score halves precision at every recall."""
    truths = [image([[0, 0, 10, 10]])]
    predictions = [image([[50, 50, 60, 60], [0, 0, 10, 10]], scores=[0.9, 0.5])]
    got = metrics.coco_average_precision(predictions, truths, kind="box")
    assert got["AP"] == pytest.approx(0.5) and got["AR1"] == 0 and got["AR10"] == 1


def test_recall_stops_where_the_detections_end():
    """One of two objects found: precision 1 up to recall 0.5, that is at 51 of 101 points."""
    truths = [image([[0, 0, 10, 10], [20, 20, 30, 30]])]
    got = metrics.coco_average_precision([image([[0, 0, 10, 10]], scores=[1.0])], truths, kind="box")
    assert got["AP"] == pytest.approx(51 / 101) and got["AR100"] == 0.5


def test_a_double_detection_is_wrong_and_a_crowd_takes_any_number():
    box, predictions = [0, 0, 10, 10], [image([[0, 0, 10, 10]] * 2 + [[40, 40, 44, 44]], scores=[0.9, 0.8, 0.7])]
    far = [40, 40, 44, 44]
    plain = metrics.coco_average_precision(predictions, [image([box, far])], kind="box")
    assert plain["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    crowd = metrics.coco_average_precision(predictions, [image([box, far], crowd=[True, False])], kind="box")
    assert crowd["AP"] == pytest.approx(1.0)  # both ignored; overlap with a crowd is over the detection's own area
    inside = [image([[0, 0, 5, 5], far], scores=[0.9, 0.7])]
    assert metrics.coco_average_precision(inside, [image([box, far], crowd=[1, 0])], kind="box")["AP"] == pytest.approx(
        1
    )


def test_sizes_go_by_the_given_area():
    truths = [image([[0, 0, 10, 10], [100, 0, 150, 50], [200, 0, 400, 200]])]
    predictions = [image(truths[0]["boxes"][1:], scores=[0.9, 0.8])]
    got = metrics.coco_average_precision(predictions, truths, kind="box")
    assert (got["APs"], got["APm"], got["APl"]) == pytest.approx((0, 1, 1))
    assert (got["ARs"], got["ARm"], got["ARl"]) == pytest.approx((0, 1, 1))
    truths[0]["area"] = np.array([100.0, 500.0, 40000.0])  # the second now counts as small
    got = metrics.coco_average_precision(predictions, truths, kind="box")
    assert (got["APm"], got["APl"]) == pytest.approx((-1, 1)) and got["APs"] == pytest.approx(51 / 101)


def test_only_the_hundred_best_count():
    truths = [image([[0, 0, 10, 10]])]
    boxes = [[500, 500, 510, 510]] * 100 + [[0, 0, 10, 10]]
    got = metrics.coco_average_precision([image(boxes, scores=np.linspace(1, 0, 101))], truths, kind="box")
    assert got["AP"] == 0 and got["AR100"] == 0


def test_classes_are_averaged_and_those_without_objects_left_out():
    truths = [image([[0, 0, 10, 10], [20, 0, 30, 10]], labels=[1, 2]), image([])]
    predictions = [image([[0, 0, 10, 10]], labels=[1], scores=[0.5]), image([[0, 0, 9, 9]], labels=[7], scores=[0.9])]
    assert metrics.coco_average_precision(predictions, truths, kind="box")["AP"] == pytest.approx(0.5)


def test_without_objects_every_figure_is_minus_one():
    got = metrics.coco_average_precision([image([[0, 0, 5, 5]], scores=[0.5])], [image([])], kind="box")
    assert set(got.values()) == {-1.0}
    empty = {"masks": np.zeros((0, 4, 6), bool), "labels": np.zeros(0, int), "scores": np.zeros(0)}
    assert set(metrics.coco_average_precision([empty], [empty], kind="mask").values()) == {-1.0}


def test_no_detection_is_zero_not_minus_one():
    got = metrics.coco_average_precision([image([], scores=[])], [image([[0, 0, 10, 10]])], kind="box")
    assert got["AP"] == 0 and got["AR100"] == 0


@pytest.mark.parametrize(
    "prediction, truth, kind, message",
    [
        (image([[0, 0, 1, 1]]), image([]), "box", "should have labels, scores"),
        (image([[0, 0, 1, 1]], scores=[0.1]), image([]), "mask", "masks"),
        (image([[0, 0, 1, 1]], scores=[0.1, 0.2]), image([]), "box", "one entry a label, 1, not 2"),
        (image([], scores=[]), image([]), "polygon", "polygon"),
    ],
)
def test_what_does_not_fit_is_named(prediction, truth, kind, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        metrics.coco_average_precision([prediction], [truth], kind=kind)
    with pytest.raises(ValueError, match="1 for 0 truths"):
        metrics.coco_average_precision([image([], scores=[])], [], kind="box")
