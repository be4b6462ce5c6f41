"""COCO figures: pycocotools' recorded values, and small scenes whose figures follow by hand."""

import contextlib
import io

import numpy as np
import pytest
from annotations import unchecked

from jaxseg import metrics
from jaxseg.ops import run_length
from jaxseg.typing import Instances

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def image(boxes, labels=None, scores=None, **more):
    boxes = np.array(boxes, float).reshape(-1, 4)
    found = {"boxes": boxes, "labels": np.ones(len(boxes), int) if labels is None else np.array(labels), **more}
    return found if scores is None else {**found, "scores": np.array(scores)}


def instances(masks, labels, scores=None, crowd=None, boxes=None):
    number = len(masks)
    return Instances(
        tuple(run_length.encode(mask) for mask in masks),
        np.asarray(labels, np.int32).reshape(-1),
        np.ones(number) if scores is None else np.asarray(scores, float),
        np.zeros(number, bool) if crowd is None else np.asarray(crowd, bool),
        boxes,
    )


def encoded(size):
    return instances(np.ones((1, *size), bool), [1])


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
    predictions = [image(boxes, scores=np.linspace(1, 0, 101))]
    got = metrics.coco_average_precision(predictions, truths, kind="box")
    assert got["AP"] == 0 and got["AR100"] == 0
    assert metrics.average_precision_at(predictions, truths, kind="box") == 0
    assert metrics.average_precision_at(predictions, truths, kind="box", most=None) == pytest.approx(1 / 101)


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


@pytest.fixture(scope="module")
def crowded():
    """Six images of overlapping blobs in three classes: one without truth, one without predictions, one of neither, and
    one with more than 100 detections of a class; a fifth of the objects are crowds."""
    rng, size = np.random.default_rng(11), (130, 150)
    rows, columns = np.mgrid[: size[0], : size[1]]

    def blob(centre, radii):
        return ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 < 1

    truths, predictions = [], []
    for number, (objects, times) in enumerate([(14, 2), (6, 25), (0, 0), (8, 0), (0, 0), (17, 1)]):
        centres, radii = rng.uniform(20, 110, (objects, 2)), rng.uniform(4, 30, (objects, 2))
        radii[::4] = rng.uniform(56, 75, radii[::4].shape)  # large ones
        labels = np.full(objects, 2) if number == 1 else rng.integers(1, 4, objects)
        true = [blob(*pair) for pair in zip(centres, radii)]
        pred, found = [], []
        for _ in range(times):  # each object found so many times, more or less well
            pred += [blob(c + rng.normal(0, 0.7, 2), r * rng.uniform(0.85, 1.1, 2)) for c, r in zip(centres, radii)]
            found += list(np.where(rng.uniform(size=objects) < 0.95, labels, 3))
        if number == 2:
            pred, found = [blob(c, (9, 5)) for c in rng.uniform(20, 110, (5, 2))], [1, 1, 2, 3, 2]
        truths.append(instances(true, labels, crowd=rng.uniform(size=objects) < 0.2))
        # Scores of two digits, so that some are equal.
        predictions.append(instances(pred, found, np.round(rng.uniform(size=len(pred)), 2)))
    return predictions, truths


def as_arrays(side):
    return [
        {
            "masks": np.array([run_length.decode(mask) for mask in one.masks]).reshape(-1, 130, 150),
            "labels": one.labels,
            "scores": one.scores,
            "crowd": one.crowd,
        }
        for one in side
    ]


def coco_figures(predictions, truths, kind, **params):
    """The summary of pycocotools, or with `params` the precisions at 100 detections, (T, R, K)."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def entries(image, one):
        corners = run_length.boxes(one.masks)
        for place, mask in enumerate(one.masks):
            left, top, right, bottom = map(float, corners[place])
            box, label = [left, top, right - left, bottom - top], int(one.labels[place])
            yield {"image_id": image, "category_id": label, "bbox": box} | (
                {} if kind == "box" else {"segmentation": mask}
            )

    with contextlib.redirect_stdout(io.StringIO()):
        data, found = COCO(), []
        data.dataset = {"info": {}, "images": [], "annotations": [], "categories": [{"id": n} for n in (1, 2, 3)]}
        for image, (pred, true) in enumerate(zip(predictions, truths), start=1):
            data.dataset["images"].append({"id": image, "height": 130, "width": 150})
            for entry, flag, mask in zip(entries(image, true), true.crowd, true.masks):
                area = float(run_length.areas([mask])[0]) if kind == "mask" else entry["bbox"][2] * entry["bbox"][3]
                number = len(data.dataset["annotations"]) + 1
                data.dataset["annotations"].append({**entry, "id": number, "iscrowd": int(flag), "area": area})
            for entry, score in zip(entries(image, pred), pred.scores):
                if kind == "mask":
                    del entry["bbox"]  # else pycocotools takes the area of the box
                found.append({**entry, "score": float(score)})
        data.createIndex()
        judge = COCOeval(data, data.loadRes(found), "segm" if kind == "mask" else "bbox")
        for name, value in params.items():
            setattr(judge.params, name, value)
        judge.evaluate()
        judge.accumulate()
        if params:
            return judge.eval["precision"][..., 0, -1]
        judge.summarize()
    return judge.stats


@pytest.mark.parametrize("kind", ["mask", "box"])
def test_run_lengths_equal_pycocotools_and_arrays(crowded, kind):
    predictions, truths = crowded
    assert max(np.bincount(one.labels, minlength=1).max() for one in predictions) > 100
    assert 0 < sum(one.crowd.sum() for one in truths) < sum(len(one.labels) for one in truths)
    got = metrics.coco_average_precision(predictions, truths, kind=kind)
    expected = coco_figures(predictions, truths, kind)
    assert len(set(np.round(expected, 6))) > 9 and expected.min() > 0  # every figure has something to say
    np.testing.assert_allclose(list(got.values()), expected, atol=1e-9)
    arrays = as_arrays(predictions), as_arrays(truths)
    for left, right in (arrays, (predictions, arrays[1]), (arrays[0], truths)):
        np.testing.assert_allclose(
            list(metrics.coco_average_precision(left, right, kind=kind).values()), expected, atol=1e-9
        )


@pytest.mark.parametrize("kind", ["mask", "box"])
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.75])
def test_one_threshold_equals_pycocotools(crowded, kind, threshold):
    predictions, truths = crowded
    for most, limit in ((100, 100), (3, 3), (None, 1000)):
        expected = coco_figures(predictions, truths, kind, iouThrs=np.array([threshold]), maxDets=[limit])
        got = metrics.average_precision_at(predictions, truths, threshold=threshold, kind=kind, most=most)
        assert got == pytest.approx(expected[expected > -1].mean(), abs=1e-9)


def test_one_threshold_is_that_of_the_twelve(crowded):
    got = metrics.coco_average_precision(*crowded)
    assert metrics.average_precision_at(*crowded) == got["AP50"]
    assert metrics.average_precision_at(*crowded, threshold=0.75) == got["AP75"]


def test_one_threshold_by_hand():
    """Overlap 0.4; of one object in two, so precision 1 at 51 of 101 recalls."""
    pred, true = np.zeros((1, 6, 12), bool), np.zeros((2, 6, 12), bool)
    pred[0, 1:3, 0:2] = true[0, 1:3, 0:5] = true[1, 4:6, 7:11] = True
    pair = [instances(pred, [1], [0.7])], [instances(true, [1, 1])]
    assert metrics.average_precision_at(*pair, threshold=0.4) == pytest.approx(51 / 101)
    assert metrics.average_precision_at(*pair, threshold=0.41) == 0
    nothing = [instances(true[:0], [])]
    assert metrics.average_precision_at(pair[0], nothing) == metrics.average_precision_at(nothing, nothing) == -1
    for options in ({"threshold": 0.0}, {"threshold": 1.1}, {"most": 0}):
        with pytest.raises(ValueError, match=r"should (lie|be)"):
            metrics.average_precision_at(*pair, **options)


def test_boxes_of_instances_go_before_their_masks():
    masks, far = np.zeros((1, 9, 14), bool), np.array([[8.0, 4.0, 14.0, 9.0]])
    masks[0, 1:4, 2:7] = True
    true, pred = [instances(masks, [1])], [instances(masks, [1])]
    assert metrics.coco_average_precision(pred, true, kind="box")["AP"] == pytest.approx(1)
    moved = [pred[0]._replace(boxes=far)]
    assert metrics.coco_average_precision(moved, true, kind="box")["AP"] == 0
    assert metrics.coco_average_precision(moved, true, kind="mask")["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    "prediction, truth, kind, message",
    [
        (image([[0, 0, 1, 1]]), image([]), "box", "should have labels, scores"),
        (image([[0, 0, 1, 1]], scores=[0.1]), image([]), "mask", "masks"),
        (image([[0, 0, 1, 1]], scores=[0.1, 0.2]), image([]), "box", "one entry a label, 1, not 2"),
        (image([], scores=[]), image([]), "polygon", "polygon"),
        (encoded((4, 6)), encoded((4, 7)), "mask", r"one size; these have \[\(4, 6\), \(4, 7\)\]"),
        (encoded((4, 6))._replace(scores=np.ones(2)), encoded((4, 6)), "mask", "one entry a label, 1, not 2"),
    ],
)
def test_what_does_not_fit_is_named(prediction, truth, kind, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        metrics.coco_average_precision([prediction], [truth], kind=kind)
    with pytest.raises(ValueError, match="1 for 0 truths"):
        metrics.coco_average_precision([image([], scores=[])], [], kind="box")
