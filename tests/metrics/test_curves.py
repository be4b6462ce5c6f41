"""Areas under curves against scikit-learn, with many ties."""

import numpy as np
import pytest
import sklearn.metrics
from annotations import unchecked

from jaxseg import metrics


@pytest.fixture(params=["ties", "floats", "reversed"])
def pixels(request):
    generator = np.random.default_rng(7)
    truth = generator.random((13, 17)) < 0.3
    scores = truth + generator.standard_normal(truth.shape)
    if request.param == "ties":
        scores = np.round(scores)
    return (-scores if request.param == "reversed" else scores), truth


def test_areas_equal_sklearn(pixels):
    scores, truth = pixels
    flat = truth.reshape(-1), scores.reshape(-1)
    assert metrics.roc_area(scores, truth) == pytest.approx(sklearn.metrics.roc_auc_score(*flat), abs=1e-12)
    expected = sklearn.metrics.average_precision_score(*flat)
    assert metrics.precision_recall_area(scores, truth) == pytest.approx(expected, abs=1e-12)


def test_by_hand():
    scores, truth = np.array([0.9, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 0])
    assert metrics.roc_area(scores, truth) == pytest.approx(3.5 / 4)  # the tie counts a half
    assert metrics.precision_recall_area(scores, truth) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert metrics.roc_area(np.ones(4), truth) == 0.5


def test_one_class_only_is_nan():
    scores = np.array([0.2, 0.7])
    none, all_ = np.zeros(2, bool), np.ones(2, bool)
    assert np.isnan(metrics.roc_area(scores, all_)) and np.isnan(metrics.roc_area(scores, none))
    assert np.isnan(metrics.precision_recall_area(scores, none))
    assert metrics.precision_recall_area(scores, all_) == 1
    assert np.isnan(metrics.roc_area(np.zeros(0), np.zeros(0, bool)))


def test_thinned_curve_keeps_its_area():
    generator = np.random.default_rng(1)
    truth = generator.random(20_000) < 0.1
    scores = 2 * truth + generator.standard_normal(truth.shape)
    curve = metrics.roc_curve(scores, truth, points=100)
    rate, recall, threshold = curve["false_positive_rate"], curve["recall"], curve["threshold"]
    assert 50 < rate.size <= 102 and (rate[0], recall[0], rate[-1], recall[-1]) == (0, 0, 1, 1)
    assert np.isinf(threshold[0]) and (np.diff(threshold) < 0).all()
    assert np.trapezoid(recall, rate) == pytest.approx(metrics.roc_area(scores, truth), abs=1e-3)
    for place in (10, 40):  # every point is a true one
        called = scores >= threshold[place]
        assert called[truth].mean() == pytest.approx(recall[place])
        assert called[~truth].mean() == pytest.approx(rate[place])


def test_precision_recall_points_are_true_ones(pixels):
    scores, truth = pixels
    curve = metrics.precision_recall_curve(scores, truth, points=20)
    assert curve["recall"].size <= 22 and curve["recall"][-1] == 1
    for recall, precision, threshold in zip(curve["recall"], curve["precision"], curve["threshold"]):
        called = scores >= threshold
        assert truth[called].mean() == pytest.approx(precision) and called[truth].mean() == pytest.approx(recall)


@pytest.mark.parametrize(
    "scores, truth, message",
    [
        ([0.1, 0.2], [0, 1, 1], "as many pixels"),
        ([0.1, np.nan], [0, 1], "NaN"),
        ([0.1, 0.2], [0, -1], "leave ignored ones out"),
    ],
)
def test_what_does_not_fit_is_named(scores, truth, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        metrics.roc_area(np.array(scores), np.array(truth))
    with pytest.raises(ValueError, match="one class only"):
        metrics.roc_curve(np.array([0.1, 0.2]), np.ones(2, int))
    with pytest.raises(ValueError, match="positive pixels"):
        metrics.precision_recall_curve(np.array([0.1, 0.2]), np.zeros(2, int))
    with pytest.raises(ValueError, match="2 or more"):
        metrics.roc_curve(np.array([0.1, 0.2]), np.array([0, 1]), points=1)
