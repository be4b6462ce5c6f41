"""Bagging: each member learns from subjects drawn with replacement, and is judged by those it has not seen."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg.typing import UserError


class Bag(NamedTuple):
    """What one member trains on, as indices of cases.

    Attributes:
      drawn: sorted; a case stands in it as often as its subject was drawn.
      left_out: sorted; the cases of the subjects never drawn, "out of bag".
    """

    drawn: tuple[int, ...]
    left_out: tuple[int, ...]


class Bagged(NamedTuple):
    """Members as `fit` returned them, and the bag of each."""

    members: tuple[Any, ...]
    bags: tuple[Bag, ...]


def bootstrap(subjects: Sequence[str], *, seed: int, member: int) -> Bag:
    """Draws as many subjects as there are, with replacement (Breiman 1996, "Bagging predictors").

    The unit is the subject: slices or scans of one patient are drawn and left out together, since a member would
    otherwise be judged by a patient that it knows. Of N subjects about 0.63 N are in the bag.

    A draw that leaves nobody out, or that has only one subject in, is drawn again from the same generator: the first
    cannot be judged, the second is no sample. Of two subjects every draw is one or the other; there one subject is in
    and one is out.

    Args:
      subjects: the subject of each case; "" makes the case a subject of its own.
      seed: not negative, the same for all members.
      member: number of the member, not negative. The draw is a function of (subjects, seed, member) alone.

    Raises:
      UserError: fewer than two subjects, or a negative seed or member.
    """
    if seed < 0 or member < 0:
        raise UserError(f"seed and member should not be negative, got {seed} and {member}.")
    units = _units(subjects)
    count = max(units, default=-1) + 1
    if count < 2:
        raise UserError(f"Bagging draws among subjects and needs two at least, got {count} in {len(units)} cases.")
    least = min(2, count - 1)  # different subjects in a bag
    rng = np.random.default_rng((seed, member))
    while True:
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        if least <= np.count_nonzero(times) < count:
            break
    drawn = tuple(case for case, unit in enumerate(units) for _ in range(times[unit]))
    return Bag(drawn, tuple(case for case, unit in enumerate(units) if not times[unit]))


def members_without(bags: Sequence[Bag], *, count: int) -> tuple[tuple[int, ...], ...]:
    """Returns for each case the members that have not seen it; empty where all have.

    The mean of these members' predictions is the out-of-bag prediction, an honest score without a validation set.

    Args:
      bags: one a member, over the same cases.
      count: number of cases.

    Raises:
      UserError: a bag that is not over exactly `count` cases.
    """
    for place, bag in enumerate(bags):
        if sorted([*set(bag.drawn), *bag.left_out]) != list(range(count)):
            raise UserError(
                f"The bag of member {place} should have each of the cases 0 to {count - 1} in or out of it."
            )
    outside = [frozenset(bag.left_out) for bag in bags]
    return tuple(tuple(member for member, cases in enumerate(outside) if case in cases) for case in range(count))


def bagging(fit: Callable[[int, tuple[int, ...]], Any], subjects: Sequence[str], *, members: int, seed: int) -> Bagged:
    """Fits `members` members, one after the other, each to its own bootstrap sample.

    Args:
      fit: `(member, drawn) -> anything`, such as a `PredictFn`. It should take its initial values from the member's
        number too.
      subjects: as for `bootstrap`.
      members: one at least.
      seed: of the draws.

    Raises:
      UserError: no member, or what `bootstrap` refuses; nothing has been fitted then.
    """
    if members < 1:
        raise UserError(f"Bagging needs at least one member, got {members}.")
    bags = tuple(bootstrap(subjects, seed=seed, member=member) for member in range(members))
    return Bagged(tuple(fit(member, bag.drawn) for member, bag in enumerate(bags)), bags)


def _units(subjects: Sequence[str]) -> list[int]:
    """The number of each case's subject, in the order in which they first appear."""
    numbers: dict[Any, int] = {}
    # A case without a subject is keyed by its index, which no name equals.
    return [numbers.setdefault(subject or case, len(numbers)) for case, subject in enumerate(subjects)]
