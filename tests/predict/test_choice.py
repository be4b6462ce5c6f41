"""The choice of post-processing: Dice by hand, and each branch of the rule."""

import math

import numpy as np
import pytest

from jaxseg.predict import choice

ONE, TWO = "keep_largest(classes=(1,))", "keep_largest(classes=(2,))"
NAN = math.nan


def test_chains():
    assert choice.chains(2) == ("", ONE)
    assert choice.chains(3) == ("", choice.TOGETHER, ONE, TWO, f"{choice.TOGETHER}|{ONE}", f"{choice.TOGETHER}|{TWO}")


def test_measure_by_hand():
    """Class 1: a part of 3 and a stray pixel; class 2 touches the part; the last column is not labelled."""
    pred = np.array([[1, 1, 0, 0, 1, 1], [1, 2, 0, 0, 0, 0]])
    true = np.array([[1, 1, 0, 0, 0, -1], [1, 2, 2, 0, 0, -1]])
    found = choice.measure(pred, true, num_classes=3)
    assert found[""] == [6 / 7, 2 / 3]
    assert found[choice.TOGETHER] == found[ONE] == [1.0, 2 / 3]
    assert found[TWO] == [6 / 7, 2 / 3]
    nothing = choice.measure(np.zeros((2, 3), int), np.zeros((2, 3), int), num_classes=2)
    assert all(math.isnan(value) for values in nothing.values() for value in values)


def case(plain, together, one, two, both_one=None, both_two=None):
    """Dice of two classes with each chain; `one` and `two` change their own class only."""
    return {
        "": plain,
        choice.TOGETHER: together,
        ONE: [one, plain[1]],
        TWO: [plain[0], two],
        f"{choice.TOGETHER}|{ONE}": [both_one or together[0], together[1]],
        f"{choice.TOGETHER}|{TWO}": [together[0], both_two or together[1]],
    }


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        ([case([0.8, 0.6], [0.8, 0.6], 0.8, 0.6)], ""),  # nothing changes: nothing is kept
        ([case([0.8, 0.6], [0.9, 0.6], 0.8, 0.6)], choice.TOGETHER),
        ([case([0.8, 0.6], [0.95, 0.59], 0.8, 0.6)], ""),  # the mean rises, but a class falls
        ([case([0.8, 0.6], [0.7, 0.6], 0.9, 0.7)], "keep_largest(classes=(1, 2,))"),
        ([case([0.8, 0.6], [0.9, 0.7], 0.9, 0.7, both_two=0.8)], f"{choice.TOGETHER}|{TWO}"),
        # means over cases: the loss in one outweighs the gain in the other; a class that is not there does not count
        ([case([0.8, NAN], [0.8, NAN], 0.9, NAN), case([0.8, 0.5], [0.8, 0.5], 0.6, 0.6)], TWO),
    ],
)
def test_rule(cases, expected):
    found, trials = choice.choose(cases, num_classes=3)
    assert found == expected
    assert [trial.chain.split("|")[-1] for trial in trials] == [choice.TOGETHER, ONE, TWO]


def test_one_class():
    found, trials = choice.choose([{"": [0.5], ONE: [0.75]}], num_classes=2)
    assert found == ONE and trials == [choice.Trial(ONE, (0.5,), (0.75,), True)]
    with pytest.raises(ValueError, match="there is none"):
        choice.choose([], num_classes=2)
