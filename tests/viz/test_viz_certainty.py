"""Plots of certainty: what they draw, what they leave out, what they refuse."""

import io
import xml.etree.ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from jaxseg import viz

BINS = viz.ReliabilityBins([0, 2, 0, 6], [np.nan, 0.5, np.nan, 0.91], [np.nan, 0.25, np.nan, 1.0])


@pytest.fixture
def drawn(monkeypatch):
    """What the next plots ask of matplotlib: (name of the call, positional arguments, keywords)."""
    calls = []
    for name in ("bar", "plot", "scatter", "axhline", "set_title"):
        original = getattr(Axes, name)

        def spy(self, *args, _name=name, _original=original, **options):
            calls.append((_name, args, options))
            return _original(self, *args, **options)

        monkeypatch.setattr(Axes, name, spy)
    return calls


def labels(drawn):
    return [options["label"] for _, _, options in drawn if "label" in options]


def is_svg(picture):
    return xml.etree.ElementTree.fromstring(picture).tag.endswith("svg")


def test_calibration_gap_by_hand_and_by_a_loop_over_pixels():
    assert viz.calibration_gap(BINS) == pytest.approx((2 * 0.25 + 6 * 0.09) / 8)
    rng = np.random.default_rng(0)
    sure, right = rng.uniform(0, 1, 50), rng.integers(0, 2, 50)
    place = np.minimum((sure * 5).astype(int), 4)
    groups = [place == k for k in range(5)]
    bins = viz.ReliabilityBins(*zip(*[(g.sum(), sure[g].mean(), right[g].mean()) for g in groups]))
    expected = sum(abs(sum(right[i] - sure[i] for i in np.flatnonzero(g))) for g in groups) / 50
    assert viz.calibration_gap(bins) == pytest.approx(expected)
    assert np.isnan(viz.calibration_gap(viz.ReliabilityBins([0], [np.nan], [np.nan])))


def test_reliability_diagram_draws_full_bins_only(drawn):
    scaled = viz.ReliabilityBins([1, 0, 7], [0.2, np.nan, 0.8], [0.32, np.nan, 0.8])
    picture = viz.reliability_diagram(BINS, scaled=scaled, temperature=1.5)
    assert is_svg(picture)
    heights, shares = [(args[0].tolist(), args[1].tolist(), args[2]) for name, args, _ in drawn if name == "bar"]
    assert heights == ([0.25, 0.75], [0.25, 1.0], 0.25)
    assert shares == ([0.25, 0.75], [25.0, 75.0], 0.25)
    lines = [[np.asarray(column).tolist() for column in args] for name, args, _ in drawn if name == "plot"]
    assert lines == [[[0, 1], [0, 1]], [[0.2, 0.8], [0.32, 0.8]]]
    title = [args[0] for name, args, _ in drawn if name == "set_title"]
    assert title == ["ECE 0.130, temperature 1.50: 0.015"]
    assert labels(drawn) == ["as predicted", "calibrated", "temperature 1.50"]


def test_reliability_diagram_without_pixels_and_with_bad_bins():
    nothing = viz.ReliabilityBins([0, 0], [np.nan] * 2, [np.nan] * 2)
    assert viz.reliability_diagram(nothing) is None
    assert viz.reliability_diagram(BINS, scaled=nothing) is not None
    with pytest.raises(ValueError, match="one number a bin each"):
        viz.reliability_diagram(BINS._replace(accuracy=[0.5]))
    with pytest.raises(ValueError, match="Every bin that holds pixels"):
        viz.reliability_diagram(BINS._replace(accuracy=[np.nan] * 4))


def test_risk_coverage_plot(drawn):
    picture = viz.risk_coverage_plot(
        [0.5, 1.0], [0.1, 0.3], best=[0.0, 0.3], random=0.3, area=0.2, area_best=0.15, name="by $x$"
    )
    assert is_svg(picture)
    assert labels(drawn) == ["at random (0.300)", "best possible (area 0.150)", r"by \$x\$ (area 0.200)"]
    curves = [args[1].tolist() for name, args, _ in drawn if name == "plot"]
    assert curves == [[0.0, 0.3], [0.1, 0.3]]
    assert next(args for name, args, _ in drawn if name == "axhline") == (0.3,)


def test_risk_coverage_plot_needs_two_cases(drawn):
    assert viz.risk_coverage_plot([1.0], [0.3]) is None and viz.risk_coverage_plot([], []) is None
    assert viz.risk_coverage_plot([0.5, 1.0], [0.3, np.nan]) is None
    assert not drawn
    assert viz.risk_coverage_plot([0.5, 1.0], [0.1, 0.3], random=np.nan) is not None
    assert labels(drawn) == ["by certainty"]
    first, second = (viz.risk_coverage_plot([0.5, 1.0], [0.1, 0.3]) for _ in range(2))
    assert first == second, "the same numbers give the same bytes"
    with pytest.raises(ValueError, match=r"shape of coverage \(2,\), one has \(3,\)"):
        viz.risk_coverage_plot([0.5, 1.0], [0.1, 0.2], best=[0.1, 0.2, 0.3])


def test_quality_plot_pairs_cases_and_writes_r(drawn):
    quality = {"liver": [0.9, 0.7, np.nan], "lesion": [0.5, 0.4, 0.3]}
    dice = {"liver": [0.8, 0.6, 0.1], "lesion": [0.2, np.nan, 0.1]}
    assert is_svg(viz.quality_plot(quality, dice, {"liver": 0.834, "lesion": np.nan}))
    dots = [np.stack(args).T.tolist() for name, args, _ in drawn if name == "scatter"]
    assert dots == [[[0.9, 0.8], [0.7, 0.6]], [[0.5, 0.2], [0.3, 0.1]]]
    assert labels(drawn) == ["liver: r 0.83 (n 2)", "lesion (n 2)"]
    assert next(args for name, args, _ in drawn if name == "plot") == ([0, 1], [0, 1]), "the identity"


def test_quality_plot_refuses_and_leaves_out():
    assert viz.quality_plot({"a": [0.1, np.nan], "b": [0.3]}, {"a": [0.1, 0.2], "b": [0.3]}, {}) is None
    assert viz.quality_plot({}, {}, {}) is None
    with pytest.raises(ValueError, match=r"same classes, they have \['a'\] and \['b'\]"):
        viz.quality_plot({"a": [0.1]}, {"b": [0.1]}, {})
    with pytest.raises(ValueError, match="'a' should have one value a case each, they have 1 and 2"):
        viz.quality_plot({"a": [0.1]}, {"a": [0.1, 0.2]}, {})


def test_members_plot_keeps_a_member_at_one_height(drawn):
    members = [{"liver": 0.9, "lesion": 0.5}, {"liver": 0.8}, {"liver": 0.85, "lesion": 0.6}]
    assert is_svg(viz.members_plot(members, {"liver": 0.92, "lesion": np.nan}))
    (first, high), (second, low) = [args for name, args, _ in drawn if name == "scatter"][:2]
    assert first.tolist() == [0.9, 0.8, 0.85] and np.isnan(second[1]) and second[[0, 2]].tolist() == [0.5, 0.6]
    np.testing.assert_allclose(low - high, 1.0)
    assert (np.diff(high) > 0).all() and np.abs(high).max() < 0.5
    lines = [args[0] for name, args, _ in drawn if name == "plot" and len(args[0])]
    assert lines == [[0.92, 0.92]], "a class that the ensemble lacks has no line"


def test_members_plot_without_scores():
    assert viz.members_plot([{"a": 0.5}], {"a": 0.6}) is None
    assert viz.members_plot([{"a": np.nan}, {}], {"a": 0.6}) is None
    assert viz.members_plot([{"a": 0.5}, {"a": 0.6}], {}) is None


def test_png_and_unknown_formats():
    picture = Image.open(io.BytesIO(viz.members_plot([{"a": 0.5}, {"a": 0.6}], {"a": 0.7}, format="png")))
    assert picture.format == "PNG" and min(picture.size) > 150
    with pytest.raises(ValueError, match="'svg' or 'png'"):
        viz.risk_coverage_plot([0.5, 1.0], [0.1, 0.3], format="bmp")
