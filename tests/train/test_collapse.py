"""What is said of two players, line by line of hand-made logs."""

import math

import pytest

from jaxseg.train.collapse import Watch, update


def said(lines):
    """Feeds (step, real, fake, diversity) lines and returns {step: sentence}."""
    record, found = Watch(), {}
    for step, real, fake, diversity in lines:
        figures = {"accuracy/real": real, "accuracy/fake": fake, "diversity": diversity, "loss/generator": 1.0}
        record, message = update(record, step, {key: value for key, value in figures.items() if value is not None})
        if message:
            found[step] = message
    return found


def test_a_discriminator_that_is_always_right_is_named_once_after_a_thousand_steps():
    lines = [(step, 1.0, 0.995, 0.8) for step in range(100, 3100, 100)]
    found = said(lines)
    assert list(found) == [1100]
    assert found[1100] == (
        "Step 1100: the discriminator has told all images apart (accuracy above 0.99) for the last 1,000 steps: the "
        "generator learns nothing; lower adversarial.rate_factor or set adversarial.augment."
    )


@pytest.mark.parametrize(("every", "step"), [(1, 1001), (400, 1600), (5000, 10000)])
def test_steps_count_and_not_lines(every, step):
    lines = [(place, 1.0, 1.0, 0.8) for place in range(every, 1100 + 2 * every, every)]
    assert list(said(lines)) == [step]


def test_one_wrong_line_begins_the_count_anew():
    lines = [(step, 0.98 if step == 900 else 1.0, 1.0, 0.8) for step in range(100, 2100, 100)]
    assert list(said(lines)) == [2000], "the stretch begins at step 1000"


@pytest.mark.parametrize(("real", "fake"), [(1.0, 0.6), (0.6, 1.0), (0.99, 1.0)])
def test_one_sided_or_just_below_says_nothing(real, fake):
    assert said([(step, real, fake, 0.8) for step in range(0, 5000, 100)]) == {}


def test_recovery_of_the_generator_is_said_once_and_only_well_below():
    lines = [(step, 1.0, 1.0, 0.8) for step in range(0, 1100, 100)]
    lines += [(1100, 1.0, 0.97, 0.8), (1200, 1.0, 0.81, 0.8), (1300, 1.0, 0.6, 0.8)]
    found = said(lines)
    assert list(found) == [1000, 1200]
    assert "accuracy 0.81 on made ones" in found[1200] and "learns again" in found[1200]


def test_it_is_said_again_when_it_comes_again():
    right, wrong = [(step, 1.0, 1.0, 0.8) for step in range(0, 1100, 100)], [(1100, 0.7, 0.6, 0.8)]
    again = [(step + 1200, *rest) for step, *rest in right]
    assert list(said([*right, *wrong, *again])) == [1000, 1100, 2200]


def test_images_that_are_alike_are_named_and_so_is_their_recovery():
    values = {0: 0.02, 100: 0.05, 200: 0.05, 300: 0.05, 400: 0.04, 500: 0.15, 600: 0.09, 700: 0.3, 800: 0.9}
    found = said([(step, 0.8, 0.7, value) for step, value in values.items()])
    assert list(found) == [300, 700], "0.15 is neither alike nor well above"
    assert found[300].startswith(
        "Step 300: made images differ from one another by less than a tenth of what real ones do (diversity 0.05): the "
        "generator has collapsed; "
    )
    assert "optim.lr" in found[300] and "diversity 0.30" in found[700] and "recovered" in found[700]


def test_alike_images_of_the_first_steps_say_nothing():
    assert said([(0, 0.5, 0.5, 0.0), (100, 0.5, 0.5, 0.01), (200, 0.6, 0.6, 0.3), (300, 0.6, 0.6, 0.05)]) == {}


def test_lines_without_the_figures_change_nothing():
    record = Watch(right_since=3, alike_since=5, won=True)
    for figures in ({}, {"lr": 0.1}, {"accuracy/real": 0.2}, {"accuracy/real": None, "accuracy/fake": 0.1},
                    {"diversity": math.nan}, {"accuracy/real": math.nan, "accuracy/fake": 0.1}):  # fmt: skip
        assert update(record, 9000, figures) == (record, None)


def test_two_things_at_once_are_said_one_after_the_other():
    lines = [(step, 1.0, 1.0, 0.02) for step in (0, 1000, 1001, 1002)]
    found = said(lines)
    assert list(found) == [1000, 1001]
    assert "told all images apart" in found[1000] and "collapsed" in found[1001]


def test_a_figure_is_recorded_on_a_line_that_says_something_else():
    record = Watch(right_since=0, alike_since=0)
    record, message = update(record, 1000, {"accuracy/real": 1.0, "accuracy/fake": 1.0, "diversity": 0.5})
    assert "told all images apart" in message and record.alike_since is None


def test_a_loss_that_is_no_number_is_named_once():
    record, message = update(Watch(), 70, {"loss/generator": math.inf})
    assert message.startswith("Step 70: the loss of the generator is inf, no finite number")
    assert update(record, 80, {"loss/generator": math.nan})[1] is None


def test_a_step_back_begins_anew():
    record, _ = update(Watch(), 5000, {"accuracy/real": 1.0, "accuracy/fake": 1.0})
    record, message = update(record, 4100, {"accuracy/real": 1.0, "accuracy/fake": 1.0})
    assert (record.right_since, message) == (4100, None)


def test_patience_is_an_option():
    options = {"patience": 5, "alike_patience": 2}
    record, first = update(Watch(), 0, {"accuracy/real": 1.0, "accuracy/fake": 1.0, "diversity": 0.0}, **options)
    record, second = update(record, 2, {"accuracy/real": 1.0, "accuracy/fake": 1.0, "diversity": 0.0}, **options)
    record, third = update(record, 5, {"accuracy/real": 1.0, "accuracy/fake": 1.0, "diversity": 0.0}, **options)
    assert first is None and "collapsed" in second and "last 5 steps" in third
