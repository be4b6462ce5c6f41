"""Majority vote and STAPLE: by hand, by voxel-wise loops, by SimpleITK's recorded values, and by their laws."""

import numpy as np
import pytest
from annotations import unchecked

from jaxseg import ensemble
from jaxseg.ensemble import averages


def rated(shape, *, num_classes, rates, seed=0):
    """A random truth, and maps of raters who err in a share of its voxels."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, num_classes, shape)
    maps = [
        np.where(generator.random(shape) < rate, generator.integers(0, num_classes, shape), truth).astype(np.int16)
        for rate in rates
    ]
    return truth, maps


@pytest.fixture(scope="module")
def recorded(golden):
    return dict(np.load(golden / "staple.npz"))


def test_vote_by_hand():
    maps = [np.array(row) for row in ([0, 1, 2, 1, 2], [0, 1, 1, 2, 2], [1, 2, 1, 0, 1], [1, 1, 2, 0, 0])]
    lowest = ensemble.majority_vote(maps, num_classes=3)
    assert lowest.tolist() == [0, 1, 1, 0, 2] and lowest.dtype == np.int16
    background = ensemble.majority_vote(maps, num_classes=3, ties="background")
    assert background.tolist() == [0, 1, 0, 0, 2]  # the third voxel ties between 1 and 2
    weighted = ensemble.majority_vote(maps, num_classes=3, weights=[3, 1, 1, 0])
    assert weighted.tolist() == [0, 1, 2, 1, 2]


def test_weights_that_tie_but_for_rounding():
    maps = [np.array([2]), np.array([2]), np.array([1])]
    assert 0.1 + 0.2 != 0.3
    assert ensemble.majority_vote(maps, num_classes=3, weights=[0.1, 0.2, 0.3]).tolist() == [1]
    assert ensemble.majority_vote(maps, num_classes=3, weights=[0.1, 0.2, 0.3], ties="background").tolist() == [0]


@pytest.mark.parametrize("ties", ["lowest", "background"])
def test_vote_equals_a_loop_over_voxels_whatever_the_slabs(monkeypatch, ties):
    _, maps = rated((3, 4, 5), num_classes=4, rates=[0.5] * 6)
    weights = [1, 2, 1, 3, 2, 1]
    expected = np.zeros(maps[0].shape, int)
    for place in np.ndindex(expected.shape):
        votes = [sum(weight for weight, one in zip(weights, maps) if one[place] == label) for label in range(4)]
        winners = [label for label in range(4) if votes[label] == max(votes)]
        expected[place] = 0 if ties == "background" and len(winners) > 1 else winners[0]
    for chunk in (1, 28, 10_000):  # 28: slabs of 7 voxels, the last one of 4
        monkeypatch.setattr(averages, "CHUNK", chunk)
        found = ensemble.majority_vote(maps, num_classes=4, weights=weights, ties=ties)
        np.testing.assert_array_equal(found, expected)
    turned = [one.T for one in maps]  # not contiguous
    np.testing.assert_array_equal(ensemble.majority_vote(turned, num_classes=4, weights=weights, ties=ties), expected.T)


@pytest.mark.parametrize("steps", [1, 3, 0])
def test_two_classes_equal_simpleitk_iteration_for_iteration(recorded, steps):
    options = {"iterations": steps, "tolerance": 0.0} if steps else {"iterations": 1000, "tolerance": 1e-7}
    found = ensemble.staple(list(recorded["two_maps"]), num_classes=2, keep_probabilities=True, **options)
    np.testing.assert_allclose(found.confusion[:, 1, 1], recorded[f"two_sensitivity_{steps}"], atol=1e-10)
    np.testing.assert_allclose(found.confusion[:, 0, 0], recorded[f"two_specificity_{steps}"], atol=1e-10)
    probability = recorded[f"two_probability_{steps}"]
    np.testing.assert_allclose(found.probabilities[..., 1], probability, atol=1e-7)  # ours are float32
    np.testing.assert_array_equal(found.labels, probability > 0.5)
    assert found.iterations == (steps or 37)


def test_default_tolerance_is_near_simpleitk(recorded):
    found = ensemble.staple(list(recorded["two_maps"]), num_classes=2)
    assert found.probabilities is None and found.iterations < 37
    np.testing.assert_allclose(found.confusion[:, 1, 1], recorded["two_sensitivity_0"], atol=1e-4)
    np.testing.assert_allclose(found.confusion[:, 0, 0], recorded["two_specificity_0"], atol=1e-4)


def test_three_classes_equal_simpleitk_at_convergence(recorded):
    found = ensemble.staple(list(recorded["three_maps"]), num_classes=3, iterations=1000, tolerance=1e-9)
    np.testing.assert_allclose(found.confusion, recorded["three_confusion"], atol=1e-7)
    np.testing.assert_array_equal(found.labels, recorded["three_labels"])
    vote = ensemble.majority_vote(list(recorded["three_maps"]), num_classes=3)
    assert (found.labels != vote).any()  # else the vote would pass this test too


def staple_by_voxels(maps, *, num_classes, iterations, prior):
    """The textbook's sums, one voxel at a time and without logarithms."""
    votes = np.stack([one.reshape(-1).astype(int) for one in maps], axis=1)  # (N, M)
    consensus = np.array([[np.mean(row == label) for label in range(num_classes)] for row in votes])
    prior = consensus.mean(axis=0) if prior is None else np.array(prior) / np.sum(prior)
    for _ in range(iterations):
        confusion = np.zeros((len(maps), num_classes, num_classes))
        for row, weight in zip(votes, consensus):
            for member, called in enumerate(row):
                confusion[member, :, called] += weight
        confusion /= confusion.sum(axis=2, keepdims=True)
        for voxel, row in enumerate(votes):
            product = prior.copy()
            for member, called in enumerate(row):
                product *= confusion[member, :, called]
            consensus[voxel] = product / product.sum()
    return consensus.reshape(*maps[0].shape, num_classes), confusion


@pytest.mark.parametrize("prior", [None, [2.0, 1.0, 1.0, 4.0]])
@pytest.mark.parametrize("codes", [1, 1 << 16])
def test_staple_equals_a_loop_over_voxels(monkeypatch, prior, codes):
    monkeypatch.setattr(averages, "CODES", codes)  # 1: the codes are renumbered before every member
    _, maps = rated((3, 5, 7), num_classes=4, rates=[0.1, 0.3, 0.5, 0.7, 0.8])
    maps[1] = maps[1].astype(np.uint64)
    found = ensemble.staple(maps, num_classes=4, iterations=6, tolerance=0.0, prior=prior, keep_probabilities=True)
    probabilities, confusion = staple_by_voxels(maps, num_classes=4, iterations=6, prior=prior)
    np.testing.assert_allclose(found.probabilities, probabilities, atol=1e-6)
    np.testing.assert_allclose(found.confusion, confusion, atol=1e-10)
    np.testing.assert_array_equal(found.labels, probabilities.argmax(axis=-1))
    if prior is not None:
        np.testing.assert_allclose(found.prior, np.array(prior) / 8)


def test_staple_trusts_two_good_members_against_three_bad_ones():
    truth, maps = rated((20, 21, 22), num_classes=3, rates=[0.05, 0.08, 0.9, 0.9, 0.9], seed=3)
    found = ensemble.staple(maps, num_classes=3)
    vote = ensemble.majority_vote(maps, num_classes=3)
    assert np.mean(found.labels == truth) > np.mean(vote == truth) + 0.05
    right = np.diagonal(found.confusion, axis1=1, axis2=2).mean(axis=1)
    # A rater who draws among K classes in a share r of the voxels is right in 1 - r (K - 1) / K of them.
    np.testing.assert_allclose(right, [1 - 0.05 * 2 / 3, 1 - 0.08 * 2 / 3, 0.4, 0.4, 0.4], atol=0.03)


def test_laws_of_staple():
    _, maps = rated((4, 5, 6), num_classes=3, rates=[0.1, 0.3, 0.4])
    options = {"num_classes": 3, "iterations": 10, "keep_probabilities": True}
    found = ensemble.staple(maps, **options)
    np.testing.assert_allclose(found.confusion.sum(axis=2), 1.0)
    np.testing.assert_allclose(found.probabilities.sum(axis=-1), 1.0, rtol=1e-6)
    assert found.labels.dtype == np.int16 and found.probabilities.dtype == np.float32
    turned = ensemble.staple(maps[::-1], **options)  # the order of members does not matter
    np.testing.assert_allclose(turned.confusion[::-1], found.confusion, atol=1e-10)
    swap = np.array([2, 0, 1])  # nor do the names of classes
    renamed = ensemble.staple([swap[one] for one in maps], **options)
    np.testing.assert_allclose(renamed.probabilities[..., swap], found.probabilities, atol=1e-6)
    doubled = ensemble.staple([np.concatenate([one, one]) for one in maps], **options)  # nor how often all is seen
    np.testing.assert_allclose(doubled.confusion, found.confusion, atol=1e-10)


@pytest.mark.parametrize("members", [1, 4])
def test_members_that_agree_are_the_consensus(members):
    one = np.array([[0, 1, 3], [3, 3, 1]])
    found = ensemble.staple([one] * members, num_classes=4, keep_probabilities=True)
    np.testing.assert_array_equal(found.labels, one)
    np.testing.assert_array_equal(found.probabilities, np.eye(4)[one])
    expected = np.eye(4)
    expected[2] = np.nan  # nobody saw class 2
    np.testing.assert_array_equal(found.confusion, [expected] * members)
    assert found.iterations == 2


def test_many_members_do_not_underflow():
    _, maps = rated((6, 7), num_classes=2, rates=[0.45] * 1500)
    found = ensemble.staple(maps, num_classes=2, keep_probabilities=True)
    assert np.isfinite(found.probabilities).all()
    np.testing.assert_array_equal(found.labels, ensemble.majority_vote(maps, num_classes=2))


def test_mask_learns_inside_and_votes_outside():
    _, maps = rated((5, 6, 7), num_classes=3, rates=[0.1, 0.5, 0.6, 0.7], seed=5)
    mask = np.zeros((5, 6, 7), bool)
    mask[1:4, 1:5, 2:6] = True
    found = ensemble.staple(maps, num_classes=3, mask=mask, keep_probabilities=True)
    cropped = ensemble.staple([one[1:4, 1:5, 2:6] for one in maps], num_classes=3, keep_probabilities=True)
    np.testing.assert_allclose(found.confusion, cropped.confusion)
    np.testing.assert_allclose(found.prior, cropped.prior)
    np.testing.assert_array_equal(found.labels[1:4, 1:5, 2:6], cropped.labels)
    np.testing.assert_allclose(found.probabilities[1:4, 1:5, 2:6], cropped.probabilities)
    vote = ensemble.majority_vote(maps, num_classes=3)
    np.testing.assert_array_equal(found.labels[~mask], vote[~mask])
    shares = np.mean([np.eye(3)[one] for one in maps], axis=0)
    np.testing.assert_allclose(found.probabilities[~mask], shares[~mask])
    assert (cropped.labels != vote[1:4, 1:5, 2:6]).any()  # inside and outside differ in kind


ONE = np.array([[0, 1, 2]])


@pytest.mark.parametrize("function", [ensemble.majority_vote, ensemble.staple])
@pytest.mark.parametrize(
    "maps, num_classes, message",
    [
        ([], 3, "at least one label map"),
        ([ONE, ONE.T], 3, r"map 1 is \(3, 1\)"),
        ([ONE, ONE / 1], 3, "map 1 is float64"),
        ([ONE, ONE - 1], 3, "0 to 2, map 1 has -1 to 1"),
        ([ONE], 2, "0 to 1, map 0 has 0 to 2"),
        ([ONE], 1, "num_classes should be from 2"),
        ([ONE[:0]], 3, "at least one voxel"),
    ],
)
def test_bad_maps_are_told(function, maps, num_classes, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        function(maps, num_classes=num_classes)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_bad_weights_are_told(weights):
    with pytest.raises(ValueError, match="weights should be 2 non-negative"):
        ensemble.majority_vote([ONE, ONE], num_classes=3, weights=weights)


def test_bad_settings_are_told():
    with unchecked(), pytest.raises(ValueError, match="ties should be"):
        ensemble.majority_vote([ONE], num_classes=3, ties="highest")
    for options, message in (
        ({"iterations": 0}, "iterations should be 1 or more"),
        ({"tolerance": float("nan")}, "tolerance 0 or more"),
        ({"prior": [1.0, 1.0]}, "prior should be 3 non-negative"),
        ({"prior": [1.0, -1.0, 1.0]}, "prior should be 3 non-negative"),
        ({"prior": [1.0, 0.0, 1.0]}, "0 for class 1"),
        ({"mask": np.ones((3, 1), bool)}, r"mask should have the shape \(1, 3\)"),
        ({"mask": np.zeros((1, 3), bool)}, "at least one voxel to learn from"),
    ):
        with unchecked(), pytest.raises(ValueError, match=message):
            ensemble.staple([ONE], num_classes=3, **options)
