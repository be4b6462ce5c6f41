"""Boosting by hand-sized truth, against plain loops over the formulas of the papers, and by law."""

import math

import numpy as np
import pytest

from jaxseg import ensemble
from jaxseg.typing import UserError

NAN = math.nan


def test_adaboost_r2_by_hand():
    """e = (0, 1/4, 1) and weights (1/2, 3/8, 1/8): E = 3/32 + 1/8 = 0.21875, b = 7/25."""
    after = ensemble.adaboost_r2(np.array([4.0, 3.0, 1.0]), np.array([0.0, 0.2, 0.8]))
    raised = np.array([0.5 * (7 / 25), 0.375 * (7 / 25) ** 0.75, 0.125])
    assert after.error == pytest.approx(0.21875) and after.vote == pytest.approx(math.log(25 / 7)) and not after.stop
    np.testing.assert_allclose(after.weights, raised / raised.sum(), rtol=1e-12)


@pytest.mark.parametrize("shrinkage", [0.3, 1.0])
def test_adaboost_r2_against_a_loop(shrinkage):
    """Drucker's steps 4 to 7 as a loop over cases, without the unscored ones' losses."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        weights, losses = rng.random(7) + 0.01, rng.random(7) ** 3
        losses[rng.integers(7)] = NAN
        weights /= weights.sum()
        largest = max(loss for loss in losses if loss == loss)
        inside = [place for place in range(7) if losses[place] == losses[place]]
        mean = sum(weights[i] * losses[i] / largest for i in inside) / sum(weights[i] for i in inside)
        after = ensemble.adaboost_r2(weights, losses, shrinkage=shrinkage)
        assert after.error == pytest.approx(mean) and after.stop == (mean >= 0.5)
        if after.stop:
            np.testing.assert_allclose(after.weights, weights)
            assert after.vote == 0
            continue
        beta = mean / (1 - mean)
        expected = [
            weights[i] * (beta ** (shrinkage * (1 - losses[i] / largest)) if i in inside else 1) for i in range(7)
        ]
        np.testing.assert_allclose(after.weights, np.array(expected) / sum(expected), rtol=1e-10)
        assert after.vote == pytest.approx(shrinkage * math.log(1 / beta))


def test_adaboost_r2_laws():
    weights, losses = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.9, 0.1, 0.0, 0.2])
    after = ensemble.adaboost_r2(weights, losses)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(ensemble.adaboost_r2(weights[order], losses[order]).weights, after.weights[order])
    np.testing.assert_allclose(ensemble.adaboost_r2(weights, losses / 3).weights, after.weights)  # relative losses
    assert after.weights.sum() == pytest.approx(1) and (np.diff((after.weights / weights)[[2, 1, 3, 0]]) > 0).all()
    slow = ensemble.adaboost_r2(weights, losses, shrinkage=0.1)
    assert np.abs(slow.weights - weights).max() < np.abs(after.weights - weights).max()


def test_adaboost_r2_at_the_ends():
    weights = np.array([0.25, 0.75])
    perfect = ensemble.adaboost_r2(weights, np.zeros(2), shrinkage=0.5)
    np.testing.assert_allclose(perfect.weights, weights)
    assert perfect.vote == pytest.approx(0.5 * math.log(1e6), rel=1e-5) and perfect.error == 0 and not perfect.stop
    partly = ensemble.adaboost_r2(weights, np.array([0.0, NAN]))  # the unscored case may not take all weight
    np.testing.assert_allclose(partly.weights, weights)
    equal = ensemble.adaboost_r2(weights, np.array([0.3, 0.3]))
    assert equal.stop and equal.vote == 0 and equal.error == pytest.approx(1)
    half = ensemble.adaboost_r2(np.array([1.0, 1.0]), np.array([0.0, 0.5]))
    assert half.stop and half.error == 0.5
    rounding = ensemble.adaboost_r2(np.array([3.0, 1.0]), np.array([0.0, 1 + 1e-7]))
    assert rounding.error == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("weights", "losses", "shrinkage", "message"),
    [
        ([1.0, 1], [0.1, 0.2, 0.3], 1.0, "3 losses for 2 weights"),
        ([1.0, 1], [NAN, NAN], 1.0, "0 of them scored"),
        ([1.0, 0], [NAN, 0.2], 1.0, "of some weight"),
        ([1.0, 1], [0.1, 1.2], 1.0, "from 0 to 1"),
        ([1.0, 1], [-0.1, 0.2], 1.0, "from 0 to 1"),
        ([0.0, 0], [0.1, 0.2], 1.0, "weights"),
        ([-1.0, 2], [0.1, 0.2], 1.0, "weights"),
        ([NAN, 2], [0.1, 0.2], 1.0, "weights"),
        ([1.0, 1], [0.1, 0.2], 0.0, "shrinkage"),
        ([1.0, 1], [0.1, 0.2], 1.5, "shrinkage"),
    ],
)
def test_adaboost_r2_refuses(weights, losses, shrinkage, message):
    with pytest.raises(UserError, match=message):
        # Unwrapped: the type checker of the tests would refuse unequal sizes first, but users run without it.
        ensemble.adaboost_r2.__wrapped__(np.array(weights), np.array(losses), shrinkage=shrinkage)


def test_samme_by_hand():
    """One of four pixels is wrong among three classes: E = 1/4, vote = 0.5 (ln 3 + ln 2), factor sqrt(6)."""
    wrong = np.array([[False, True], [False, False]])
    after = ensemble.samme(np.ones((2, 2)), wrong, num_classes=3)
    assert after.error == 0.25 and after.vote == pytest.approx(0.5 * math.log(6)) and not after.stop
    raised = np.where(wrong, math.sqrt(6), 1.0)
    np.testing.assert_allclose(after.weights, raised / raised.mean(), rtol=1e-12)


def test_samme_against_a_loop():
    rng = np.random.default_rng(1)
    weights, wrong = rng.random((3, 4, 5)), rng.random((3, 4, 5)) < 0.2
    weights[0] = 0  # pixels without a label
    after = ensemble.samme(weights, wrong, num_classes=4, shrinkage=0.8, clip=(0.5, 2.0))
    pairs = [(w, bad) for w, bad in zip(weights.ravel(), wrong.ravel()) if w > 0]
    error = sum(w for w, bad in pairs if bad) / sum(w for w, _ in pairs)
    vote = 0.8 * (math.log((1 - error) / error) + math.log(3))
    raised = [w * math.exp(vote) if bad else w for w, bad in pairs]
    mean = sum(raised) / len(raised)
    cut = [min(max(w, 0.5 * mean), 2.0 * mean) for w in raised]
    assert after.error == pytest.approx(error) and after.vote == pytest.approx(vote)
    np.testing.assert_allclose(after.weights[1:].ravel(), np.array(cut) * len(cut) / sum(cut), rtol=1e-10)
    assert not after.weights[0].any()
    assert min(cut) == 0.5 * mean and max(cut) == 2.0 * mean  # both bounds were met


def test_samme_stops_at_chance_and_bounds_the_perfect():
    wrong = np.array([True, True, False])
    assert ensemble.samme(np.ones(3), wrong, num_classes=2).stop
    assert not ensemble.samme(np.ones(3), wrong, num_classes=4).stop
    edge = ensemble.samme(np.array([1.0, 1, 2]), wrong, num_classes=2)
    assert edge.stop and edge.vote == 0
    np.testing.assert_allclose(edge.weights, [0.75, 0.75, 1.5])
    perfect = ensemble.samme(np.array([1.0, 1, 2]), np.zeros(3, bool), num_classes=3, shrinkage=1.0)
    assert perfect.vote == pytest.approx(math.log(1e6 - 1) + math.log(2)) and not perfect.stop
    np.testing.assert_allclose(perfect.weights, [0.75, 0.75, 1.5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wrong": np.zeros((2, 3), bool)}, "shape"),
        ({"weights": np.zeros((2, 2))}, "weights"),
        ({"weights": np.array([[1.0, math.inf], [1, 1]])}, "weights"),
        ({"num_classes": 1}, "num_classes"),
        ({"shrinkage": 0.0}, "shrinkage"),
        ({"clip": (0.0, 10.0)}, "clip"),
        ({"clip": (2.0, 10.0)}, "clip"),
        ({"clip": (0.1, 0.9)}, "clip"),
    ],
)
def test_samme_refuses(changes, message):
    given = {"weights": np.ones((2, 2)), "wrong": np.zeros((2, 2), bool), "num_classes": 2, **changes}
    with pytest.raises(UserError, match=message):
        ensemble.samme.__wrapped__(given.pop("weights"), given.pop("wrong"), **given)  # past the tests' type checker


def members(shape=(3, 4, 2), count=3, seed=2):
    values = np.random.default_rng(seed).random((count, *shape)).astype(np.float32) + 0.01
    return list(values / values.sum(-1, keepdims=True))


def test_votes_by_hand():
    """Two members, one pixel: geometric mean of (0.8, 0.2) and (0.5, 0.5) is sqrt(0.4) to sqrt(0.1), that is 2 to 1."""
    pair = [np.array([0.8, 0.2], np.float32), np.array([0.5, 0.5], np.float32)]
    np.testing.assert_allclose(ensemble.vote_probabilities(pair, [1, 1]), [2 / 3, 1 / 3], rtol=1e-5)
    found = ensemble.vote_probabilities(pair, [3, 1], combine="probabilities")
    np.testing.assert_allclose(found, [0.725, 0.275], rtol=1e-6)
    assert found.dtype == np.float32
    # log-odds of 0.8 are ln 4, of 0.2 -ln 4: half of each is ln 2
    odds = ensemble.vote_probabilities(pair, [1, 1], regions=True)
    np.testing.assert_allclose(odds, [2 / 3, 1 / 3], rtol=1e-5)
    alone = [np.array([0.8, 0.9], np.float32), np.array([0.5, 0.9], np.float32)]  # regions overlap
    np.testing.assert_allclose(ensemble.vote_probabilities(alone, [1, 1], regions=True), [2 / 3, 0.9], rtol=1e-5)


@pytest.mark.parametrize("combine", ["logarithms", "probabilities"])
def test_votes_by_law(combine, monkeypatch):
    from jaxseg.ensemble import boosting

    arrays, votes = members(), [0.5, 2.0, 1.0]
    whole = ensemble.vote_probabilities(arrays, votes, combine=combine)
    np.testing.assert_allclose(whole.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(
        ensemble.vote_probabilities(arrays[::-1], votes[::-1], combine=combine), whole, rtol=1e-5
    )
    np.testing.assert_allclose(ensemble.vote_probabilities(arrays, [1, 4, 2], combine=combine), whole, rtol=1e-5)
    np.testing.assert_allclose(
        ensemble.vote_probabilities(arrays[:1] * 3, votes, combine=combine), arrays[0], rtol=1e-5
    )
    np.testing.assert_allclose(ensemble.vote_probabilities(arrays, [0, 1, 0], combine=combine), arrays[1], rtol=1e-5)
    for values in (1, 17):  # slabs of one row, and of two rows and a rest
        monkeypatch.setattr(boosting, "SLAB_VALUES", values)
        np.testing.assert_array_equal(ensemble.vote_probabilities(arrays, votes, combine=combine), whole)


def test_votes_against_scipy_on_a_mapped_file(tmp_path):
    special = pytest.importorskip("scipy.special")
    arrays, votes = members((5, 3, 4)), np.array([0.2, 1.5, 0.7])
    mapped = []
    for place, array in enumerate(arrays):
        np.save(tmp_path / f"{place}.npy", array)
        mapped.append(np.load(tmp_path / f"{place}.npy", mmap_mode="r"))
    logs = np.average(np.log(np.stack(arrays).astype(np.float64)), axis=0, weights=votes)
    np.testing.assert_allclose(ensemble.vote_probabilities(mapped, votes), special.softmax(logs, axis=-1), rtol=1e-5)


def test_certain_members_give_no_infinity():
    pair = [np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32)]
    np.testing.assert_allclose(ensemble.vote_probabilities(pair, [1, 1]), [[0.5, 0.5]], atol=1e-2)
    for regions in (False, True):
        found = ensemble.vote_probabilities(pair, [3, 1], regions=regions)
        assert np.isfinite(found).all() and found[0, 0] > 0.99


@pytest.mark.parametrize(
    ("shapes", "votes", "combine", "message"),
    [
        ([], [], "logarithms", "one shape"),
        ([(2, 3), (3, 2)], [1, 1], "logarithms", "one shape"),
        ([(2, 3)], [1, 1], "logarithms", "votes"),
        ([(2, 3)] * 2, [1, -1], "logarithms", "votes"),
        ([(2, 3)] * 2, [0, 0], "logarithms", "votes"),
        ([(2, 3)] * 2, [1, NAN], "logarithms", "votes"),
    ],
)
def test_votes_refuse(shapes, votes, combine, message):
    with pytest.raises(UserError, match=message):
        ensemble.vote_probabilities([np.full(shape, 0.5, np.float32) for shape in shapes], votes, combine=combine)


def recorded(losses):
    """A fit whose member is the number of its round, the losses of each, and the weights that were handed in."""
    seen = []

    def fit(number, weights):
        seen.append(weights)
        return number

    return fit, (lambda member: np.array(losses[member])), seen


def test_driver_against_the_rounds_by_hand():
    losses = [[0.1, 0.0, 0.0, 0.9], [0.8, 0.1, 0.0, 0.0], [0.0, 0.0, 0.7, 0.1]]
    fit, losses_of, seen = recorded(losses)
    boosted = ensemble.boost(fit, losses_of, cases=4, rounds=3, shrinkage=0.7)
    weights = np.full(4, 0.25)
    for number, row in enumerate(losses):
        np.testing.assert_allclose(seen[number], weights)
        after = ensemble.adaboost_r2(weights, np.array(row), shrinkage=0.7)
        record = boosted.history[number]
        assert (boosted.votes[number], record.error, record.vote) == (after.vote, after.error, after.vote)
        assert math.isnan(record.score)
        weights = after.weights
    assert boosted.members == (0, 1, 2) and len(boosted.history) == 3
    assert seen[1].argmax() == 3  # the hard case of round 0


def test_driver_stops_at_a_member_no_better_than_chance():
    losses = [[0.1, 0.0, 0.0, 0.9], [0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.1]]
    fit, losses_of, seen = recorded(losses)
    boosted = ensemble.boost(fit, losses_of, cases=4, rounds=3)
    assert boosted.members == (0,) and len(boosted.votes) == 1 and len(seen) == 2
    assert [record.stop for record in boosted.history] == [False, True]
    first, losses_of, _ = recorded(losses[1:])
    alone = ensemble.boost(first, losses_of, cases=4, rounds=3)
    assert alone.members == (0,) and alone.votes == (1.0,) and alone.history[0].stop


@pytest.mark.parametrize(
    ("scores", "patience", "kept", "asked"),
    [
        ([0.5, 0.7, 0.7, 0.6, 0.9], 0, 5, 5),
        ([0.5, 0.7, 0.7, 0.6, 0.9], 2, 2, 4),
        ([0.5, 0.7, 0.7, 0.6, 0.9], 3, 5, 5),
        ([0.5, 0.4, 0.3, 0.2, 0.1], 1, 1, 2),
        ([NAN, 0.4, NAN, 0.2, 0.1], 0, 2, 5),
        ([NAN, NAN, NAN, NAN, NAN], 0, 1, 5),
    ],
)
def test_driver_keeps_the_best_prefix(scores, patience, kept, asked):
    losses = [[0.0, 0.2, 0.0, 0.0, 0.0, 0.9]] * 5
    losses = [np.roll(row, number).tolist() for number, row in enumerate(losses)]
    fit, losses_of, seen = recorded(losses)
    calls = []

    def validate(members, votes):
        assert members == tuple(range(len(votes)))
        calls.append(votes)
        return scores[len(members) - 1]

    boosted = ensemble.boost(fit, losses_of, cases=6, rounds=5, patience=patience, validate=validate)
    assert boosted.members == tuple(range(kept)) and len(seen) == len(calls) == len(boosted.history) == asked
    assert boosted.votes == calls[-1][:kept]
    np.testing.assert_array_equal([record.score for record in boosted.history], scores[:asked])


def test_a_fit_may_write_into_its_weights():
    def fit(number, weights):
        weights[:] = 0
        return number

    losses = np.array([0.0, 0.1, 0.0, 0.9])
    boosted = ensemble.boost(fit, lambda member: np.roll(losses, member), cases=4, rounds=2)
    np.testing.assert_array_equal(boosted.history[0].weights, np.full(4, 0.25))


@pytest.mark.parametrize(
    "changes", [{"cases": 0}, {"rounds": 0}, {"patience": -1}, {"patience": 2}, {"shrinkage": 0.0}]
)
def test_driver_refuses(changes):
    def fit(number, weights):
        raise AssertionError("nothing may be fitted")

    with pytest.raises(UserError, match=r"patience|shrinkage"):
        ensemble.boost(fit, fit, **{"cases": 2, "rounds": 2, **changes})


def test_losses_with_a_scale_of_their_own_are_taken_as_they_are():
    """Dice 0.8, 0.6 and 0.7: relative to the worst, E = 0.75 would stop; by themselves E = 0.3."""
    weights, losses = np.full(3, 1 / 3), np.array([0.2, 0.4, 0.3])
    assert ensemble.adaboost_r2(weights, losses).stop
    after = ensemble.adaboost_r2(weights, losses, relative=False)
    base = 0.3 / 0.7
    assert not after.stop and after.error == pytest.approx(0.3) and after.vote == pytest.approx(-np.log(base))
    expected = base ** np.array([0.8, 0.6, 0.7])
    np.testing.assert_allclose(after.weights, expected / expected.sum())
    assert ensemble.adaboost_r2(weights, np.full(3, 0.6), relative=False).stop
