"""Curves, dots and scatter plots."""

import io
import xml.etree.ElementTree

import numpy as np
import pytest
from PIL import Image

from jaxseg.viz import curves


def log():
    rows = [{"step": s, "train/loss": 1 / (s + 1), "train/dice": s / 99, "lr": 1e-3, "note": "x"} for s in range(100)]
    return [*rows, {"step": 50, "val/dice": 0.5, "val/dice/a$b": 0.4, "val/flag": True}, {"train/loss": 3.0}]


def test_series_takes_numbers_of_known_kinds_only():
    found = curves.series(log())
    assert set(found) == {"train/loss", "train/dice", "lr", "val/dice", "val/dice/a$b"}
    assert len(found["train/loss"][0]) == 100, "a row without a step cannot be placed"


def test_a_step_written_twice_keeps_its_last_value_in_order():
    rows = [{"step": 2, "train/loss": 1.0}, {"step": 1, "train/loss": 5.0}, {"step": 2, "train/loss": 3.0}]
    steps, values = curves.series(rows)["train/loss"]
    assert steps.tolist() == [1, 2] and values.tolist() == [5.0, 3.0]


def test_panels_group_training_and_validation():
    groups = curves._panels(["lr", "val/dice/x", "train/grad", "val/dice", "train/loss"])
    assert list(groups) == ["loss", "dice", "grad", "lr"]
    assert groups["dice"] == ["val/dice/x", "val/dice"]


def test_smooth_is_a_mean_of_what_is_finite():
    values = np.array([1.0, np.nan, 3.0, 5.0, np.inf])
    np.testing.assert_allclose(curves.smooth(values, points=3), [1, 2, 4, 4, 5])
    assert np.isnan(curves.smooth(np.array([np.nan, np.nan]), points=1)).all()


def test_training_curves_are_reproducible_svg():
    first, second = curves.training_curves(log()), curves.training_curves(log())
    assert first == second
    assert xml.etree.ElementTree.fromstring(first).tag.endswith("svg")
    assert curves.training_curves([]) is None and curves.training_curves([{"step": 1, "text": "x"}]) is None


def test_training_curves_with_nothing_finite_still_draw():
    assert curves.training_curves([{"step": 1, "train/loss": float("nan")}])


def test_png_and_unknown_formats():
    picture = Image.open(io.BytesIO(curves.training_curves(log(), format="png")))
    assert picture.format == "PNG" and min(picture.size) > 200
    with pytest.raises(ValueError, match="'svg' or 'png'"):
        curves.training_curves(log(), format="bmp")


def test_dots_count_what_is_left_out():
    label = curves._dots_label("liver", np.array([0.5, np.inf, np.nan, np.nan]))
    assert label == "liver\nn 1, 1 infinite, 2 n/a"
    assert curves.score_dots({"liver": [0.5, np.inf], "$x$": [np.nan]}, metric="hd95_mm")
    assert curves.score_dots({"liver": [np.nan]}) is None


@pytest.mark.parametrize("values", [[(0.5, 0.7), (np.inf, 1.0)], [(0.5, 0.5)], [(np.nan, 1.0)]])
def test_scatter_of_any_number_of_pairs(values):
    assert curves.paired_scatter({"liver": values}, metric="dice", names=("a", "b")).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("key", "label"),
    [("hd95_mm", "HD95 (mm)"), ("volume_true_ml", "volume true (ml)"), ("nsd", "NSD"), ("roc_area", "roc area")],
)
def test_labels(key, label):
    assert curves.label_of(key) == label
