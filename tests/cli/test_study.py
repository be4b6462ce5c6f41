"""The search's memory: what is drawn, what ends early, and that an interruption changes nothing. Nothing is trained."""

import math

import pytest

from jaxseg import config as configs
from jaxseg import space
from jaxseg.cli.study import ENDED, FAILED, FINISHED, RUNNING, STOPPED, Result, Study

TEXT = "optim.lr=log(1e-4,1e-2); model.features=choice((8,16),(16,32)); data.batch_size=int(2,8,step=2)"


def study(folder, *, text=TEXT, seed=0, **options):
    config = configs.base_config()
    config.tune.update({"first_rung": 10, "startup": 3, **options})
    return Study(folder, config.tune, space.parse(text, configs.flat(config.to_dict())), seed=seed)


def score_of(values):
    """Best at a learning rate of 1e-3 and the wide network."""
    return 1 - 0.1 * abs(math.log10(values["optim.lr"]) + 3) - 0.2 * (values["model.features"] == (8, 16))


def play(found, trials):
    """Tells each trial's score at steps 10 and 30."""
    drawn = []
    for _ in range(trials):
        number, values = found.next()
        drawn.append((number, values))
        behind = any(found.report(number, step, score_of(values)) for step in (10, 30))
        found.tell(number, Result(ENDED if behind else FINISHED, 10 if behind else 30, 1.0))
    return drawn


def test_values_are_those_of_the_space(tmp_path):
    drawn = [values for _, values in play(study(tmp_path, sampler="random"), 12)]
    assert all(1e-4 <= values["optim.lr"] <= 1e-2 for values in drawn)
    assert {values["model.features"] for values in drawn} == {(8, 16), (16, 32)}
    assert {values["data.batch_size"] for values in drawn} == {2, 4, 6, 8}
    assert drawn != [values for _, values in play(study(tmp_path / "other", sampler="random", seed=1), 12)]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_reopened_it_goes_on_as_one_that_was_not_closed(tmp_path, sampler):
    whole = play(study(tmp_path / "whole", sampler=sampler), 8)
    parts = [drawn for _ in range(4) for drawn in play(study(tmp_path / "parts", sampler=sampler), 2)]
    assert parts == whole and [number for number, _ in whole] == list(range(8))


def test_an_unfinished_trial_comes_again_with_its_values_and_scores(tmp_path):
    first = study(tmp_path)
    number, values = first.next()
    assert not first.report(number, 10, 0.7)
    second = study(tmp_path)  # the first was killed
    assert second.next() == (number, values) and second.ended() == 0
    assert not second.report(number, 10, 0.7)  # evaluated again after resuming
    second.tell(number, Result(STOPPED, 10, 2.0))
    third = study(tmp_path)
    assert third.next()[0] == number and third.next()[0] == 1  # one at work, and a new one beside it
    third.tell(number, Result(FINISHED, 30, 5.0))
    row = third.rows()[0]
    assert (row["trial"], row["state"], row["score"], row["steps"], row["seconds"]) == (0, FINISHED, 0.7, 30, 5.0)
    assert [row["state"] for row in third.rows()] == [FINISHED, RUNNING]
    assert [row["state"] for row in study(tmp_path).rows()] == [FINISHED, STOPPED]


def test_halving_ends_what_lags_behind(tmp_path):
    """By hand: of every three that reach a rung one goes on; before there are three, the best so far."""
    found = study(tmp_path, pruner="halving", reduction=3)
    ends = []
    for scores in ((0.5, 0.6), (0.4,), (0.6, 0.55), (0.55,), (0.61, 0.7)):
        number, _ = found.next()
        ends.append([found.report(number, step, score) for step, score in zip((10, 30), scores)])
        found.tell(number, Result(ENDED if ends[-1][-1] else FINISHED))
    assert ends == [[False, False], [True], [False, True], [True], [False, False]]
    assert [row["trial"] for row in found.rows()] == [4, 0, 2, 3, 1]  # finished ones first, then how far the others got


def test_without_halving_nothing_ends(tmp_path):
    found = study(tmp_path, pruner="none")
    assert [values for _, values in play(found, 4)] and all(row["state"] == FINISHED for row in found.rows())


def test_killed_between_the_verdict_and_the_end(tmp_path):
    first = study(tmp_path, pruner="halving")
    for score, end in ((0.9, FINISHED), (0.1, None)):
        number, _ = first.next()
        behind = first.report(number, 10, score)
        if end:
            first.tell(number, Result(end, 30))
    assert behind
    second = study(tmp_path)
    assert second.next()[0] == 2 and second.ended() == 2
    assert second.rows()[1]["state"] == ENDED


def test_a_failure_keeps_its_reason_and_comes_last(tmp_path):
    found = study(tmp_path)
    number, _ = found.next()
    found.tell(number, Result(FAILED, 3, 1.5, "Step 4 gave a loss that is not finite."))
    play(found, 1)
    row = found.rows()[-1]
    assert row["state"] == FAILED and row["reason"].startswith("Step 4") and math.isnan(row["score"])
    assert found.ended() == 2
