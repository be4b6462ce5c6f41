"""Maps of certainty: by hand, against all members in memory at once, and laws of entropy."""

import numpy as np
import pytest
import scipy.stats
from annotations import unchecked

from jaxseg import ensemble
from jaxseg.ensemble import certainty

SHAPE = (3, 4, 5, 6)


@pytest.fixture
def members():
    generator = np.random.default_rng(8)
    return generator.dirichlet(np.full(6, 0.5), size=(7, *SHAPE[:-1])).astype(np.float32)


def maps_of(members, *, weights=None, sigmoid=False):
    spread = ensemble.start_spread(members[0].shape, sigmoid=sigmoid)
    for index, probabilities in enumerate(members):
        spread = ensemble.add_member(spread, probabilities, weight=1.0 if weights is None else weights[index])
    return ensemble.finish_spread(spread)


def one_hot(*ids, classes=3):
    return np.eye(classes, dtype=np.float32)[np.array(ids)]


def test_entropy_by_hand_and_scipy(members):
    probabilities = np.array([[1, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0]], np.float32)
    np.testing.assert_allclose(ensemble.predictive_entropy(probabilities), [0, 1, 0.5], atol=1e-6)
    np.testing.assert_allclose(
        ensemble.predictive_entropy(probabilities, sigmoid=True), [0, scipy.stats.entropy([0.25, 0.75], base=2), 0.5]
    )
    got = ensemble.predictive_entropy(members[0])
    assert got.dtype == np.float32 and got.shape == SHAPE[:-1]
    np.testing.assert_allclose(got, scipy.stats.entropy(members[0], base=6, axis=-1), atol=1e-5)


def test_maps_equal_those_of_all_members_at_once(members):
    got = maps_of(members)
    mean = members.mean(axis=0)
    np.testing.assert_allclose(got.probabilities, mean, atol=1e-6)
    entropy = scipy.stats.entropy(mean, base=6, axis=-1)
    np.testing.assert_allclose(got.entropy, entropy, atol=1e-5)
    own = scipy.stats.entropy(members, base=6, axis=-1).mean(axis=0)
    np.testing.assert_allclose(got.mutual_information, entropy - own, atol=1e-5)
    votes = np.eye(6)[members.argmax(-1)].sum(axis=0)
    np.testing.assert_allclose(got.disagreement, 1 - votes.max(-1) / 7, atol=1e-6)
    assert {part.dtype for part in got} == {np.dtype(np.float32)} and got.mutual_information.min() > 0


def test_identical_members_do_not_disagree(members):
    got = maps_of([members[0]] * 3)
    np.testing.assert_allclose(got.probabilities, members[0], atol=1e-6)
    np.testing.assert_allclose(got.entropy, ensemble.predictive_entropy(members[0]), atol=1e-6)
    np.testing.assert_allclose(got.mutual_information, 0, atol=1e-6)
    assert (got.disagreement == 0).all() and (got.mutual_information >= 0).all()


def test_opposite_members_differ_by_all_their_entropy():
    got = maps_of([one_hot(0, 1, 2, 2), one_hot(1, 2, 0, 2)])
    half = np.log(2) / np.log(3)
    np.testing.assert_allclose(got.entropy, [half, half, half, 0], atol=1e-6)
    np.testing.assert_allclose(got.mutual_information, got.entropy)
    np.testing.assert_allclose(got.disagreement, [0.5, 0.5, 0.5, 0])


def test_order_of_members_and_slabs_change_nothing(members, monkeypatch):
    whole = maps_of(members)
    monkeypatch.setattr(certainty, "slabs", lambda shape: (slice(row, row + 1) for row in range(shape[0])))
    for part, other in zip(maps_of(members[::-1]), whole):
        np.testing.assert_allclose(part, other, atol=1e-6)


def test_weights_weigh_means_and_not_votes(members):
    twice = maps_of([members[0], members[1], members[1]])
    weighted = maps_of(members[:2], weights=[0.5, 1.0])
    for part in ("probabilities", "entropy", "mutual_information"):
        np.testing.assert_allclose(getattr(weighted, part), getattr(twice, part), atol=1e-6)
    np.testing.assert_array_equal(weighted.disagreement, maps_of(members[:2]).disagreement)
    left_out = maps_of(members[:3], weights=[0.5, 0, 1.0])
    for part, other in zip(left_out, maps_of(members[[0, 2]], weights=[0.5, 1.0])):
        np.testing.assert_array_equal(part, other)


def test_regions():
    first = np.array([[0.9, 0.2], [0.6, 0.6]], np.float32)
    second = np.array([[0.7, 0.8], [0.6, 0.6]], np.float32)
    got = maps_of([first, second, second], sigmoid=True)
    mean = (first + 2 * second) / 3

    def bits(p):
        return -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean(axis=-1)

    np.testing.assert_allclose(got.probabilities, mean, atol=1e-6)
    np.testing.assert_allclose(got.entropy, bits(mean), atol=1e-6)
    np.testing.assert_allclose(got.mutual_information, bits(mean) - (bits(first) + 2 * bits(second)) / 3, atol=1e-6)
    np.testing.assert_allclose(got.disagreement, [(0 + 1 / 3) / 2, 0], atol=1e-6)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_more_members_than_a_byte_counts(sigmoid):
    spread = certainty.start((2, 3), sigmoid=sigmoid)
    assert spread.votes.dtype == np.uint8
    for turn in range(400):
        spread = certainty.add(spread, one_hot(0, 2 if turn < 100 else 1))
    assert spread.votes.dtype == np.uint16 and spread.members == 400
    expected = [0, (0.25 + 0.25) / 3] if sigmoid else [0, 0.25]
    np.testing.assert_allclose(certainty.finish(spread).disagreement, expected, atol=1e-6)


def test_members_are_left_as_they_were(members):
    before = members.copy()
    maps_of(members)
    np.testing.assert_array_equal(members, before)


def test_bad_inputs(members):
    with pytest.raises(ValueError, match="leaves nothing to decide"):
        ensemble.predictive_entropy(np.ones((3, 1), np.float32))
    with pytest.raises(ValueError, match="leaves nothing to decide"):
        ensemble.start_spread((3, 4, 1))
    assert ensemble.start_spread((3, 4, 1), sigmoid=True).votes.shape == (1, 3, 4)
    with pytest.raises(ValueError, match="should be that of probabilities"):
        ensemble.start_spread((3,))
    with pytest.raises(ValueError, match="after the softmax"):
        ensemble.predictive_entropy(np.array([[3.0, -2.0]]))
    spread = ensemble.start_spread(SHAPE)
    with pytest.raises(ValueError, match="at least one member"):
        ensemble.finish_spread(spread)
    with pytest.raises(ValueError, match="should have the shape"):
        ensemble.add_member(spread, members[0][:2])
    with pytest.raises(ValueError, match="should be 0 or more, not -1"):
        ensemble.add_member(spread, members[0], weight=-1.0)
    with unchecked(), pytest.raises(ValueError, match="after the softmax"):
        ensemble.add_member(spread, np.full(SHAPE, np.nan))
