"""Paired comparison: what pairs, which way the difference goes, and the test against scipy."""

import numpy as np
import pytest
import scipy.stats

from jaxseg import metrics
from jaxseg.typing import UserError


def rows_of(values, name="a", metric="dice", first=0):
    return [{"case": f"case_{first + i}", "class": name, metric: value} for i, value in enumerate(values)]


@pytest.fixture()
def pair():
    generator = np.random.default_rng(4)
    a = generator.random(20)
    return a, a + 0.05 + 0.1 * generator.standard_normal(20)


def test_difference_is_b_minus_a(pair):
    a, b = pair
    got = metrics.compare(rows_of(a), rows_of(b))
    one = got["classes"]["a"]
    for figures in (got, one):
        assert figures["mean_difference"] == pytest.approx((b - a).mean())
        assert figures["mean_b"] - figures["mean_a"] == pytest.approx(figures["mean_difference"])
        assert (figures["low"], figures["high"]) == metrics.bootstrap_interval(b - a)
        assert figures["wilcoxon_p"] == pytest.approx(scipy.stats.wilcoxon(a, b).pvalue)
        assert (figures["n"], figures["n_excluded"], figures["n_infinite"]) == (20, 0, 0)
    assert got["metric"] == "dice" and got["unpaired_a"] == got["unpaired_b"] == 0


def test_swapping_the_sides_flips_the_sign(pair):
    a, b = (rows_of(side) for side in pair)
    there, back = metrics.compare(a, b), metrics.compare(b, a)
    assert there["mean_difference"] == pytest.approx(-back["mean_difference"])
    assert there["wilcoxon_p"] == pytest.approx(back["wilcoxon_p"])


def test_pairs_go_by_case_and_class_not_by_order(pair):
    a, b = (rows_of(side) for side in pair)
    assert metrics.compare(a, b[::-1]) == metrics.compare(a, b)
    got = metrics.compare(a + rows_of([0.1, 0.2], "b"), b[3:] + rows_of([0.3], "c"))
    assert got["unpaired_a"] == 5 and got["unpaired_b"] == 1 and got["n"] == 17 and list(got["classes"]) == ["a"]


def test_over_all_classes_the_unit_is_the_case():
    a = rows_of([0.5, 0.6, 0.7], "a") + rows_of([0.1, np.nan, 0.3], "b")
    b = rows_of([0.6, 0.6, 0.9], "a") + rows_of([0.4, 0.2, np.nan], "b")
    got = metrics.compare(a, b, resamples=50)
    # Cases: mean of (0.1, 0.3), 0.0, 0.2; where one side is NaN the class counts on neither.
    assert got["mean_difference"] == pytest.approx((0.2 + 0.0 + 0.2) / 3) and got["n"] == 3
    assert got["classes"]["b"]["n"] == 1 and got["classes"]["b"]["n_excluded"] == 2
    assert np.isnan(got["classes"]["b"]["low"])


def test_infinite_distances_are_counted_and_ranked():
    a = np.array([1.0, 2.0, np.inf, np.inf, 4.0, 6.0, 3.0, np.nan])
    b = np.array([1.5, 2.7, np.inf, 9.0, 4.1, 6.3, 3.2, 1.0])
    got = metrics.compare(rows_of(a, metric="hd95_mm"), rows_of(b, metric="hd95_mm"), metric="hd95_mm")["classes"]["a"]
    assert (got["n"], got["n_excluded"], got["n_infinite"]) == (5, 1, 2)
    assert got["mean_difference"] == pytest.approx((0.5 + 0.7 + 0.1 + 0.3 + 0.2) / 5)
    # The lost infinity is the largest difference, whatever its size; the pair of infinities carries no sign.
    expected = scipy.stats.wilcoxon([0.5, 0.7, -100, 0.1, 0.3, 0.2]).pvalue
    assert got["wilcoxon_p"] == pytest.approx(expected)


def test_equal_sides_do_not_differ(pair):
    a = rows_of(pair[0])
    got = metrics.compare(a, a)
    assert (got["mean_difference"], got["low"], got["high"], got["wilcoxon_p"]) == (0, 0, 0, 1)


def test_all_excluded_is_nan_with_n_zero():
    got = metrics.compare(rows_of([np.nan]), rows_of([0.4]))
    assert got["n"] == 0 and got["n_excluded"] == 1 and np.isnan([got["mean_difference"], got["wilcoxon_p"]]).all()


def test_nothing_pairs_is_said():
    with pytest.raises(UserError, match=r"Nothing to compare.*case_0.*case_9"):
        metrics.compare(rows_of([0.5]), rows_of([0.5], first=9))
    with pytest.raises(UserError, match="Nothing to compare"):
        metrics.compare([], rows_of([0.5]))
    with pytest.raises(UserError, match="second scores have no metric 'nsd'; they have dice"):
        metrics.compare(rows_of([0.5], metric="nsd"), rows_of([0.5]), metric="nsd")
