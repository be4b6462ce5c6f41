"""Objects found, missed and invented: scenes of a few rectangles worked out by hand, and laws on random scenes."""

import csv
import itertools
import math
import time

import numpy as np
import pytest
from annotations import unchecked

from jaxseg import metrics
from jaxseg.evaluate import files
from jaxseg.metrics import instances
from jaxseg.metrics.instances import InstanceCounts, match
from jaxseg.ops import run_length
from jaxseg.typing import Instances, UserError

SIZE = (24, 31)
NAN = float("nan")
SCORES = ["dsb_score", "f1_50", "f1_75", "precision_50", "recall_50", "pq", "sq", "rq", "aji", "dice"]


def boxed(*boxes, labels=None, crowd=None, size=SIZE):
    """Objects that are rectangles: (top, left, height, width) each."""
    masks = []
    for top, left, height, width in boxes:
        mask = np.zeros(size, bool)
        mask[top : top + height, left : left + width] = True
        masks.append(run_length.encode(mask))
    number = len(boxes)
    labels = np.ones(number, np.int32) if labels is None else np.array(labels, np.int32)
    flags = np.zeros(number, bool) if crowd is None else np.array(crowd, bool)
    return Instances(tuple(masks), labels, np.ones(number, np.float32), flags)


def random_boxes(seed, number):
    """Rectangles on a grid of their own cells, so that those of one side do not overlap; cells shared by all seeds."""
    rng = np.random.default_rng(seed)
    cells = [(top, left) for top in range(0, 24, 6) for left in range(0, 31, 8)]
    chosen = rng.choice(len(cells), number, replace=False)
    boxes = [(cells[c][0], cells[c][1], int(rng.integers(2, 7)), int(rng.integers(2, 8))) for c in chosen]
    return boxed(*boxes, labels=rng.integers(1, 3, number))


def reordered(objects, seed):
    order = np.random.default_rng(seed).permutation(len(objects.labels))
    return Instances(tuple(objects.masks[n] for n in order), *(value[order] for value in objects[1:4]))


EMPTY = boxed()
# Four true objects. The first is shifted by one column: 16 of 24 pixels are shared, 2/3. The second is cut in two: 12
# and 8 of its 20 pixels, 0.6 and 0.4. The third and fourth (12 pixels each) are merged into one of 28: 12/28 each.
TRUE = boxed((1, 1, 4, 5), (8, 1, 4, 5), (14, 1, 4, 3), (14, 5, 4, 3))
PRED = boxed((1, 2, 4, 5), (8, 1, 4, 3), (8, 4, 4, 2), (14, 1, 4, 7))


def test_counts_by_hand():
    """At 0.50 to 0.60 two pairs, at 0.65 one, then none."""
    got = metrics.instance_counts(PRED, TRUE)
    assert got.tp.tolist() == [2, 2, 2, 1, 0, 0, 0, 0, 0, 0]
    assert got.fp.tolist() == got.fn.tolist() == [2, 2, 2, 3, 4, 4, 4, 4, 4, 4]
    np.testing.assert_allclose(got.overlap, [2 / 3 + 0.6] * 3 + [2 / 3] + [0] * 6)


def test_scores_by_hand():
    counts = metrics.instance_counts(PRED, TRUE)
    assert metrics.dsb_score(counts) == pytest.approx((3 * 2 / 6 + 1 / 7) / 10)
    assert metrics.f1_at(counts) == metrics.precision_at(counts) == metrics.recall_at(counts) == 0.5
    assert metrics.f1_at(counts, threshold=0.65) == 0.25 and metrics.f1_at(counts, threshold=0.75) == 0
    pq, sq, rq = metrics.panoptic_quality(counts)
    assert (pq, sq, rq) == pytest.approx(((2 / 3 + 0.6) / 4, (2 / 3 + 0.6) / 2, 0.5))
    assert metrics.panoptic_quality(counts, threshold=0.65).pq == pytest.approx(2 / 3 / 4)


def test_aggregated_jaccard_by_hand():
    """The merged prediction serves twice: above 16 + 12 + 12 + 12, below 24 + 20 + 28 + 28, and the unused half, 8."""
    assert metrics.aggregated_jaccard(PRED, TRUE) == pytest.approx(52 / 108)
    # A miss and an invention: above 16, below 24 and 20 and 15.
    pred, true = boxed((1, 2, 4, 5), (18, 20, 3, 5)), boxed((1, 1, 4, 5), (8, 1, 4, 5))
    assert metrics.aggregated_jaccard(pred, true) == pytest.approx(16 / 59)


def test_aggregated_jaccard_does_not_depend_on_the_order_of_equals():
    """Half of the object (8 of 16) and twice as much (16 in 32) both overlap by 1/2; the latter is taken."""
    true = boxed((2, 3, 4, 4))
    for pred in (boxed((2, 3, 4, 2), (2, 3, 4, 8)), boxed((2, 3, 4, 8), (2, 3, 4, 2))):
        assert metrics.aggregated_jaccard(pred, true) == pytest.approx(16 / (32 + 8))


def test_row_by_hand():
    """Objects are 20 + 20 + 24 pixels, predictions 20 + 20 + 28; 16 + 20 + 24 are shared."""
    (row,) = metrics.instance_rows(PRED, TRUE, classes=("background", "cell"))
    assert list(row) == ["class", "objects", "found", *SCORES, "count_error"]
    assert (row["class"], row["objects"], row["found"], row["count_error"]) == ("cell", 4, 4, 0)
    assert row["dice"] == pytest.approx(2 * 60 / (64 + 68))
    assert (row["f1_50"], row["f1_75"], row["aji"]) == pytest.approx((0.5, 0, 52 / 108))


def test_precision_and_recall_are_not_exchanged():
    counts = metrics.instance_counts(boxed((1, 1, 4, 5)), boxed((1, 1, 4, 5), (8, 1, 4, 5), (14, 1, 4, 5)))
    assert (metrics.precision_at(counts), metrics.recall_at(counts)) == pytest.approx((1, 1 / 3))
    assert (counts.fp[0], counts.fn[0]) == (0, 2)


def test_below_a_half_all_that_can_be_paired_is():
    """Greedy, or the largest sum alone, would take 0.9 and leave two without a partner."""
    overlaps = np.array([[0.9, 0.35, 0.0], [0.4, 0.0, 0.0]])
    rows, columns = match(overlaps, threshold=0.3)
    assert [rows.tolist(), columns.tolist()] == [[0, 1], [1, 0]]
    rows, columns = match(overlaps, threshold=0.5)
    assert [rows.tolist(), columns.tolist()] == [[0], [0]]


def test_two_exact_halves_are_one_pair():
    counts = metrics.instance_counts(boxed((2, 3, 4, 3), (2, 6, 4, 3)), boxed((2, 3, 4, 6)))
    assert [value[0] for value in counts] == [1, 1, 0, 0.5]


@pytest.mark.parametrize("seed", range(6))
def test_matching_is_optimal(seed):
    """Against all assignments of 4 to 5, one by one: most pairs, then the largest sum."""
    rng = np.random.default_rng(seed)
    overlaps = rng.uniform(size=(4, 5)) * (rng.uniform(size=(4, 5)) < 0.6)
    for threshold in (0.1, 0.4, 0.7):
        best = (0, 0.0)
        for columns in itertools.permutations(range(5), 4):
            values = [overlaps[row, column] for row, column in enumerate(columns)]
            values = [value for value in values if value >= threshold]
            best = max(best, (len(values), math.fsum(values)))
        rows, columns = match(overlaps, threshold=threshold)
        assert len(set(rows)) == len(set(columns)) == len(rows) == best[0]
        assert (overlaps[rows, columns] >= threshold).all()
        assert overlaps[rows, columns].sum() == pytest.approx(best[1])


def test_overlapping_objects_keep_their_own_partners():
    """Two nested objects, both found: neither is lost under the other."""
    nested = boxed((2, 3, 10, 12), (4, 5, 6, 9))
    counts = metrics.instance_counts(reordered(nested, 1), nested)
    assert counts.tp.tolist() == [2] * 10 and metrics.aggregated_jaccard(nested, nested) == 1


def test_crowds_are_no_objects_and_hide_predictions():
    """Inside of the crowd (4 x 20 at row 0), half inside, and by three quarters; then one object found."""
    true = boxed((0, 0, 4, 20), (10, 1, 4, 5), crowd=[True, False])
    pred = boxed((0, 2, 4, 5), (2, 9, 4, 5), (1, 15, 4, 5), (10, 1, 4, 5))
    counts = metrics.instance_counts(pred, true)
    assert [value[0] for value in counts] == [1, 1, 0, 1]
    # 20 shared; below, the object itself and the prediction that is only half inside.
    assert metrics.aggregated_jaccard(pred, true) == pytest.approx(20 / 40)
    (row,) = metrics.instance_rows(pred, true, classes=("background", "cell"))
    assert (row["objects"], row["found"], row["count_error"]) == (1, 2, 1)
    # Outside of the crowd the predictions have 0 + 10 + 5 + 20 pixels.
    assert row["dice"] == pytest.approx(2 * 20 / (20 + 35))


def test_an_object_within_a_crowd_is_an_object():
    true = boxed((0, 0, 8, 20), (2, 3, 4, 5), crowd=[True, False])
    counts = metrics.instance_counts(boxed((2, 3, 4, 4)), true)
    assert [value[0] for value in counts] == [1, 0, 0, 0.8]
    assert [value[-1] for value in counts] == [0, 0, 1, 0]  # no partner at 0.95, and in the crowd: not wrong either
    (row,) = metrics.instance_rows(boxed((2, 3, 4, 4)), true, classes=("background", "cell"))
    assert row["dice"] == pytest.approx(2 * 16 / (16 + 20))


def test_objects_without_a_pixel_are_none():
    hollow = boxed((1, 1, 4, 5), (3, 3, 0, 0))
    for pair in ((hollow, boxed((1, 1, 4, 5))), (boxed((1, 1, 4, 5)), hollow)):
        counts = metrics.instance_counts(*pair)
        assert (counts.tp[0], counts.fp[0], counts.fn[0]) == (1, 0, 0)
    assert math.isnan(metrics.aggregated_jaccard(boxed((3, 3, 0, 0)), EMPTY))


@pytest.mark.parametrize(
    "pred, true, expected, counted",
    [
        (EMPTY, EMPTY, NAN, (0, 0, 0)),
        (PRED, EMPTY, 0, (0, 4, 4)),
        (EMPTY, TRUE, 0, (4, 0, -4)),
        (TRUE, TRUE, 1, (4, 4, 0)),
    ],
)
def test_nothing_one_side_and_perfect(pred, true, expected, counted):
    (row,) = metrics.instance_rows(pred, true, classes=("background", "cell"))
    np.testing.assert_equal([row[name] for name in SCORES], [expected] * len(SCORES))
    assert (row["objects"], row["found"], row["count_error"]) == counted
    assert math.isnan(metrics.aggregated_jaccard(pred, true)) == math.isnan(expected)


def test_classes_are_apart_unless_all_count():
    true = boxed((1, 1, 4, 5), (8, 1, 4, 5), labels=[1, 2])
    pred = boxed((1, 1, 4, 5), (8, 1, 4, 5), (14, 1, 4, 5), labels=[1, 1, 3])
    every = metrics.instance_counts(pred, true)
    assert (every.tp[0], every.fp[0], every.fn[0]) == (2, 1, 0)
    one = metrics.instance_counts(pred, true, label=1)
    assert (one.tp[0], one.fp[0], one.fn[0]) == (1, 1, 0)
    assert metrics.aggregated_jaccard(pred, true) == pytest.approx(40 / 60)
    assert metrics.aggregated_jaccard(pred, true, label=1) == pytest.approx(20 / 40)
    rows = metrics.instance_rows(pred, true, classes=("background", "a", "b", "c", "d"))
    assert [(row["class"], row["objects"], row["found"]) for row in rows] == [
        ("a", 1, 2),
        ("b", 1, 0),
        ("c", 0, 1),
        ("d", 0, 0),
    ]


@pytest.mark.parametrize("seed", range(4))
def test_counts_against_a_loop_over_pixels(seed):
    """Above a half, masks that do not overlap on their own side: every pair is unique, whatever the order."""
    pred, true = random_boxes(seed, 9), random_boxes(seed + 50, 11)
    got = metrics.instance_counts(pred, true, label=2)
    left = [run_length.decode(mask) for mask, label in zip(pred.masks, pred.labels) if label == 2]
    right = [run_length.decode(mask) for mask, label in zip(true.masks, true.labels) if label == 2]
    for place, threshold in enumerate(instances.THRESHOLDS):
        ratios = [(a & b).sum() / (a | b).sum() for a in left for b in right]
        pairs = [ratio for ratio in ratios if ratio >= threshold]
        assert got.tp[place] == len(pairs) and got.overlap[place] == pytest.approx(sum(pairs))
        assert (got.fp[place], got.fn[place]) == (len(left) - len(pairs), len(right) - len(pairs))
    unused, above, below = set(range(len(left))), 0, 0
    for b in right:
        ratios = [(a & b).sum() / (a | b).sum() for a in left]
        best = int(np.argmax(ratios))
        above += (left[best] & b).sum()
        below += (left[best] | b).sum() if ratios[best] else b.sum()
        unused -= {best} if ratios[best] else set()
    below += sum(left[place].sum() for place in unused)
    assert metrics.aggregated_jaccard(pred, true, label=2) == pytest.approx(above / below)


@pytest.mark.parametrize("seed", range(4))
def test_laws(seed):
    pred, true = random_boxes(seed, 9), random_boxes(seed + 50, 11)
    counts = metrics.instance_counts(pred, true, thresholds=(0.2, 0.4, 0.6, 0.8))
    turned = metrics.instance_counts(true, pred, thresholds=(0.2, 0.4, 0.6, 0.8))
    np.testing.assert_array_equal(counts.tp, turned.tp)
    np.testing.assert_array_equal(counts.fp, turned.fn)
    np.testing.assert_array_equal(counts.fn, turned.fp)
    np.testing.assert_allclose(counts.overlap, turned.overlap)
    assert counts.tp[0] > 0 and (np.diff(counts.tp) <= 0).all()
    np.testing.assert_array_equal(counts.tp + counts.fn, [11] * 4)
    classes = ("background", "a", "b")
    for row, other in zip(
        metrics.instance_rows(pred, true, classes=classes),
        metrics.instance_rows(reordered(pred, seed), reordered(true, seed + 1), classes=classes),
    ):
        assert row == pytest.approx(other)
        assert row["pq"] == pytest.approx(row["sq"] * row["rq"])
        assert 0 <= row["aji"] <= row["dice"] <= 1


def test_counts_add_up_over_images():
    """The second image lies beside the first in a wider one: its counts are the sum."""
    first, second = (PRED, TRUE), (boxed((1, 1, 4, 5), (8, 2, 4, 5)), boxed((8, 1, 4, 5)))
    whole = []
    for left, right in zip(first, second):
        both = [np.hstack([run_length.decode(mask), np.zeros(SIZE, bool)]) for mask in left.masks]
        both += [np.hstack([np.zeros(SIZE, bool), run_length.decode(mask)]) for mask in right.masks]
        whole.append(
            Instances(
                tuple(map(run_length.encode, both)),
                np.ones(len(both), np.int32),
                np.ones(len(both), np.float32),
                np.zeros(len(both), bool),
            )
        )
    counts = [metrics.instance_counts(*pair) for pair in (first, second)]
    total = InstanceCounts(*map(sum, zip(*counts)))
    for got, expected in zip(total, metrics.instance_counts(*whole)):
        np.testing.assert_allclose(got, expected)


def test_rows_are_aggregated_and_come_back_from_the_table(tmp_path):
    """Of three images one has nothing on either side: it is left out of the means and counted."""
    classes = ("background", "cell")
    rows = [
        {"case": case, **row}
        for case, pair in (("a", (TRUE, TRUE)), ("b", (PRED, TRUE)), ("c", (EMPTY, EMPTY)))
        for row in metrics.instance_rows(*pair, classes=classes)
    ]
    summary = metrics.aggregate(rows, resamples=20)
    cell = summary["classes"]["cell"]
    assert (cell["pq"]["n"], cell["pq"]["n_excluded"]) == (2, 1)
    assert cell["f1_50"]["mean"] == pytest.approx((1 + 0.5) / 2) and cell["count_error"]["n"] == 3
    assert set(summary["mean"]) == set(rows[0]) - {"case", "class"}
    files.write(tmp_path, rows, summary)
    with (tmp_path / files.FOLDER / files.CASES).open() as lines:
        assert next(csv.reader(lines)) == list(rows[0])
    for got, row in zip(files.read_cases(tmp_path / files.FOLDER / files.CASES), rows):
        np.testing.assert_equal(got, row)


def test_thresholds_of_the_callers_own():
    counts = metrics.instance_counts(PRED, TRUE, thresholds=(0.3, 0.65))
    assert counts.tp.tolist() == [3, 1]  # the merged one has one of its two partners
    assert metrics.f1_at(counts, threshold=0.3, thresholds=(0.3, 0.65)) == pytest.approx(0.75)
    with pytest.raises(ValueError, match=r"2 thresholds of the counts"):
        metrics.panoptic_quality(counts)
    with pytest.raises(ValueError, match=r"threshold 0.52 should be among"):
        metrics.f1_at(metrics.instance_counts(PRED, TRUE), threshold=0.52)


def test_hundreds_of_objects_take_no_time():
    """Five hundred discs in a large image, more than pycocotools counts the areas of in one call (255)."""
    size, rng = (1024, 1000), np.random.default_rng(3)
    corners = [(top, left) for top in range(0, 1000, 40) for left in range(0, 1000, 50)]
    masks = []
    for top, left in corners:
        mask = np.zeros(size, bool)
        mask[top : top + rng.integers(20, 45), left : left + rng.integers(20, 45)] = True
        masks.append(run_length.encode(mask))
    labels, ones, crowd = np.ones(500, np.int32), np.ones(500, np.float32), np.zeros(500, bool)
    pred, true = (
        Instances(tuple(masks), labels, ones, crowd),
        Instances(tuple(masks[:-1]), labels[1:], ones[1:], crowd[1:]),
    )
    metrics.instance_counts(PRED, TRUE, thresholds=(0.3,))  # scipy is imported once
    start = time.perf_counter()
    (row,) = metrics.instance_rows(pred, true, classes=("background", "cell"))
    assert time.perf_counter() - start < 5  # 0.2 s on an idle core
    assert (row["objects"], row["found"], row["recall_50"]) == (499, 500, 1)


def test_what_does_not_fit_is_named():
    with pytest.raises(UserError, match=r"one size, not \[\(24, 31\), \(24, 32\)\]"):
        metrics.instance_counts(PRED, boxed((1, 1, 4, 5), size=(24, 32)))
    with pytest.raises(UserError, match="there are 4, 3 and 4"):
        metrics.aggregated_jaccard(PRED._replace(labels=PRED.labels[1:]), TRUE)
    with pytest.raises(UserError, match=r"truth should have class ids 1..1, not \[2\]"):
        metrics.instance_rows(PRED, boxed((1, 1, 4, 5), labels=[2]), classes=("background", "cell"))
    for threshold in (0.0, 1.5):
        with unchecked(), pytest.raises(ValueError, match="threshold should lie"):
            match(np.zeros((2, 3)), threshold=threshold)
