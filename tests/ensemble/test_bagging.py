"""Bagging: bags by law and by an independent count, subjects that stay together, members that have not seen a case."""

import collections

import numpy as np
import pytest

from jaxseg import ensemble
from jaxseg.ensemble import Bag
from jaxseg.typing import UserError

SUBJECTS = ("ann", "bob", "ann", "", "", "cyd", "bob", "bob")  # five subjects in eight cases


def units(subjects):
    return [subject or f"case {place}" for place, subject in enumerate(subjects)]


@pytest.mark.parametrize("member", range(20))
def test_bag_of_subjects(member):
    bag = ensemble.bootstrap(SUBJECTS, seed=3, member=member)
    names = units(SUBJECTS)
    times = collections.Counter(bag.drawn)
    assert list(bag.drawn) == sorted(bag.drawn) and list(bag.left_out) == sorted(set(bag.left_out))
    assert set(bag.drawn) | set(bag.left_out) == set(range(8)) and not set(bag.drawn) & set(bag.left_out)
    by_subject = collections.defaultdict(set)
    for case, name in enumerate(names):
        by_subject[name].add(times[case])
    assert all(len(counts) == 1 for counts in by_subject.values())  # all cases of a subject equally often
    assert sum(counts.pop() for counts in by_subject.values()) == 5  # as many draws as subjects
    assert bag.left_out and len({names[case] for case in bag.drawn}) >= 2


def test_the_draw_is_numpys_and_skips_unusable_ones():
    """Of three subjects 1/3 of the draws are of no use: 6 of 27 leave nobody out, 3 have one subject only."""
    skipped = 0
    for member in range(60):
        rng = np.random.default_rng((7, member))
        drawn = sorted(rng.integers(3, size=3).tolist())
        while len(set(drawn)) != 2:
            skipped += 1
            drawn = sorted(rng.integers(3, size=3).tolist())
        assert ensemble.bootstrap(("", "", ""), seed=7, member=member).drawn == tuple(drawn)
    assert skipped > 10


def test_share_in_the_bag():
    bags = [ensemble.bootstrap(("",) * 100, seed=0, member=member) for member in range(200)]
    shares = [len(set(bag.drawn)) / 100 for bag in bags]
    # 1 - 0.99^100 = 0.634; the standard error of this mean is 0.0022.
    assert np.mean(shares) == pytest.approx(1 - 0.99**100, abs=0.01)
    assert len({bag.drawn for bag in bags}) == 200
    assert (
        ensemble.bootstrap(("",) * 100, seed=1, member=0)
        != bags[0]
        == ensemble.bootstrap(("",) * 100, seed=0, member=0)
    )


def test_two_subjects_one_in_one_out():
    bags = {ensemble.bootstrap(("a", "b", "a"), seed=0, member=member) for member in range(20)}
    assert bags == {Bag((0, 0, 2, 2), (1,)), Bag((1, 1), (0, 2))}


def test_an_unnamed_subject_is_no_other_case():
    """A case without a subject is not the one whose subject is called like its index."""
    assert all(len(set(ensemble.bootstrap(("", "0", "2"), seed=0, member=member).drawn)) == 2 for member in range(20))


def test_members_without_by_hand():
    bags = (Bag((0, 0, 2), (1, 3)), Bag((1, 2, 2), (0, 3)), Bag((0, 1, 2), (3,)))
    assert ensemble.members_without(bags, count=4) == ((1,), (0,), (), (0, 1, 2))
    for wrong in (Bag((0, 1), (2,)), Bag((0, 1, 2), (2, 3)), Bag((0, 1, 4), (2, 3))):
        with pytest.raises(UserError, match="member 1 should have each of the cases 0 to 3"):
            ensemble.members_without((bags[0], wrong), count=4)


def test_driver_hands_out_the_bags():
    calls = []

    def fit(member, drawn):
        calls.append((member, drawn))
        return f"member {member}"

    bagged = ensemble.bagging(fit, SUBJECTS, members=3, seed=5)
    assert bagged.members == ("member 0", "member 1", "member 2")
    assert bagged.bags == tuple(ensemble.bootstrap(SUBJECTS, seed=5, member=member) for member in range(3))
    assert calls == [(member, bag.drawn) for member, bag in enumerate(bagged.bags)]


def test_bad_input():
    def fit(member, drawn):
        raise AssertionError("nothing may be fitted")

    for subjects in ((), ("a",), ("a", "a", "a")):
        with pytest.raises(UserError, match="two at least"):
            ensemble.bootstrap(subjects, seed=0, member=0)
        with pytest.raises(UserError, match="two at least"):
            ensemble.bagging(fit, subjects, members=2, seed=0)
    with pytest.raises(UserError, match="at least one member"):
        ensemble.bagging(fit, ("a", "b"), members=0, seed=0)
    for numbers in ({"seed": -1, "member": 0}, {"seed": 0, "member": -1}):
        with pytest.raises(UserError, match="negative"):
            ensemble.bootstrap(("a", "b"), **numbers)
