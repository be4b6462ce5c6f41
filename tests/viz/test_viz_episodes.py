"""Pictures of episodes: every pixel of a map where it belongs, and every mean on the cases that it says."""

import io
import math
import xml.etree.ElementTree

import numpy as np
import pytest
from annotations import unchecked
from PIL import Image

from jaxseg import metrics, viz
from jaxseg.typing import IGNORE
from jaxseg.viz import episodes, steps

NAMES = ("keep", "+0.1", "+0.4", "-0.1", "-0.2", "-0.4", "smooth")
SHAPE = (6, 12)
LINE, GAP = 18, 10  # pixels of a line of text, and between pictures
CELL, SCALE = 300, 25  # pixels of a place in a picture of three columns, and of a pixel of the image in it


@pytest.fixture
def case():
    """An image of 6 x 12 with a truth of 2 x 3 pixels, of which the start misses one and the first step none."""
    truth = np.zeros(SHAPE, np.int32)
    truth[1:3, 1:4] = 1
    start = truth.copy()
    start[2, 3] = 0
    image = np.linspace(0, 1, math.prod(SHAPE), dtype=np.float32).reshape(*SHAPE, 1)
    return {"image": image, "masks": np.stack([start, truth]), "truth": truth}


def drawn(case, **options):
    png = viz.episode(**case, **options)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def spot(picture, column, top, pixel):
    """The colour of a pixel of the image in the picture that begins at `top` in a column."""
    y, x = (GAP + top + int((pixel[0] + 0.5) * SCALE), GAP + column * (CELL + GAP) + int((pixel[1] + 0.5) * SCALE))
    return tuple(picture[y, x])


MAP = LINE + 6 * SCALE + LINE + GAP  # where the first row of maps begins: below titles, masks and their Dice


def test_rewards_have_the_colours_of_loss_and_gain_around_the_paper(case):
    rewards = np.zeros((1, *SHAPE), np.float32)
    rewards[0, 4, 7], rewards[0, 5, 9], rewards[0, 0, 10], rewards[0, 3, 6] = 2.0, -2.0, 1.0, -50.0
    picture = drawn(case, rewards=rewards, reward_limit=2.0)
    assert spot(picture, 2, MAP, (4, 7)) == episodes.GAIN
    assert spot(picture, 2, MAP, (5, 9)) == spot(picture, 2, MAP, (3, 6)) == episodes.LOSS  # beyond the limit it is cut
    half = (np.array(episodes.GAIN) + episodes.PAPER) / 2
    np.testing.assert_allclose(spot(picture, 2, MAP, (0, 10)), half, atol=0.5)
    assert spot(picture, 2, MAP, (5, 11)) == episodes.PAPER, "0 is the paper's"


def test_one_scale_of_rewards_for_all_steps():
    rewards = np.zeros((2, 10, 20))
    rewards[0, :, :10], rewards[1, 0, 0] = np.linspace(0.01, 1.0, 100).reshape(10, 10), -7.0
    assert episodes.reward_scale(rewards) == np.percentile([*np.linspace(0.01, 1.0, 100), 7.0], 99)
    assert episodes.reward_scale(np.zeros((2, 3, 4))) == 1.0


def test_actions_have_their_colours(case):
    actions = np.zeros((1, *SHAPE), np.int32)
    actions[0, 5, 7], actions[0, 4, 9], actions[0, 0, 11] = 2, 3, 6
    picture = drawn(case, actions=actions, action_names=NAMES)
    assert spot(picture, 2, MAP, (5, 7)) == episodes.RAISE[1]
    assert spot(picture, 2, MAP, (4, 9)) == episodes.LOWER[0]
    assert spot(picture, 2, MAP, (0, 11)) == episodes.OTHER[1] and spot(picture, 2, MAP, (3, 11)) == episodes.OTHER[0]


def test_actions_are_told_apart_by_hue_and_by_brightness():
    table = episodes.action_colors(NAMES).astype(int)
    red, _, blue = table.T
    assert (blue[1:3] > red[1:3]).all() and (red[3:6] > blue[3:6]).all()
    assert (np.ptp(table[[0, 6]], axis=1) < 12).all(), "grey"
    bright = table @ [0.2126, 0.7152, 0.0722]
    assert bright[2] > bright[1] and (np.diff(bright[3:6]) > 0).all() and bright[6] > bright[0]
    assert len({tuple(color) for color in table}) == len(NAMES)


def test_rewards_stand_above_actions(case):
    rewards, actions = np.full((1, *SHAPE), 3.0), np.full((1, *SHAPE), 1)
    picture = drawn(case, rewards=rewards, actions=actions, action_names=NAMES, reward_limit=3.0)
    assert spot(picture, 2, MAP, (5, 7)) == episodes.GAIN
    assert spot(picture, 2, MAP + 6 * SCALE + LINE + GAP, (5, 7)) == episodes.RAISE[0]


def test_clicks_are_drawn_from_their_step_on(case):
    clean = drawn(case)
    picture = drawn(case, clicks=[(0, (4, 8), True), (1, (5, 2), False)])

    def disc(place, pixel, offset):
        y, x = (LINE + GAP + int((pixel[0] + 0.5) * SCALE), GAP + place * (CELL + GAP) + int((pixel[1] + 0.5) * SCALE))
        return tuple(picture[y + offset, x + offset])

    assert disc(1, (4, 8), 0) == (255, 255, 255) and disc(1, (4, 8), 4) == episodes.INSIDE, "with a sign"
    assert disc(2, (4, 8), 0) == episodes.INSIDE, "smaller, without"
    assert disc(2, (5, 2), 4) == episodes.OUTSIDE
    first = slice(GAP, GAP + CELL)
    height = MAP - GAP
    np.testing.assert_array_equal(picture[:height, first], clean[:height, first])  # nothing on the image itself
    below = (slice(LINE + GAP + 5 * SCALE, LINE + GAP + 6 * SCALE), slice(2 * GAP + CELL, GAP + 2 * CELL))
    np.testing.assert_array_equal(picture[below], clean[below])  # the second click is not at the start


def test_what_is_done_to_the_whole_image_is_written_beside_it(case):
    plain, acted = drawn(case), drawn(case, actions=["dilate"])
    both = drawn(case, actions=["dilate"], rewards=np.array([0.25]))
    assert len(acted) == len(plain) + LINE and len(both) == len(acted) + LINE
    column = 2 * (CELL + GAP) + GAP
    words = acted[GAP + LINE : GAP + 2 * LINE]
    assert (words[:, column:] != episodes.PAPER).any() and (words[:, :column] == episodes.PAPER).all()


@pytest.mark.parametrize(("count", "columns", "lines"), [(2, 3, 1), (6, 7, 1), (7, 4, 2), (9, 5, 2)])
def test_many_steps_go_on_below(case, count, columns, lines):
    masks = np.repeat(case["masks"][:1], count, axis=0)
    one, picture = drawn(case), drawn(case | {"masks": masks})
    cell = min((episodes.WIDTH - GAP) // columns - GAP, 300)
    assert picture.shape[1] == columns * (cell + GAP) + GAP <= episodes.WIDTH
    row = cell // 2 + 2 * LINE + GAP
    assert len(picture) - len(one) == lines * row + (lines - 1) * 2 * GAP - (CELL // 2 + 2 * LINE + GAP)


def test_of_a_volume_the_worst_slice_is_shown():
    truth = np.zeros((4, *SHAPE), np.int32)
    truth[:, 1:3, 1:4] = 1
    masks = np.stack([truth, truth])
    masks[0, 2, 1, 1:3] = 0
    image = np.linspace(0, 1, truth.size, dtype=np.float32).reshape(*truth.shape, 1)
    rewards = np.zeros((1, *truth.shape))
    rewards[0, 2, 5, 7], rewards[0, 3, 5, 7] = 1.0, -1.0
    case = {"image": image, "masks": masks, "truth": truth, "rewards": rewards}
    worst = drawn(case)
    np.testing.assert_array_equal(worst, drawn(case, place=2))
    assert spot(worst, 2, MAP, (5, 7)) == episodes.GAIN
    assert spot(drawn(case, place=3), 2, MAP, (5, 7)) == episodes.LOSS
    stretched = drawn(case, place=3, spacing_mm=(9.0, 1.0, 0.5))  # now as high as wide
    assert len(stretched) - len(worst) == 2 * CELL // 2


def test_a_click_in_another_slice_is_not_shown():
    truth = np.zeros((3, *SHAPE), np.int32)
    case = {"image": np.zeros((*truth.shape, 1), np.float32), "masks": truth[None], "truth": truth, "place": 1}
    here, there = (drawn(case, clicks=[(0, (z, 4, 8), True)]) for z in (1, 2))
    assert (here[: MAP - GAP] == episodes.INSIDE).all(-1).any()
    assert not (there[: MAP - GAP] == episodes.INSIDE).all(-1).any()


def test_dice_of_each_mask():
    truth = np.array([[1, 1, 1, 0, IGNORE], [0, 0, 0, 0, 2]])
    half = np.array([[1, 0, 0, 0, 1], [2, 0, 0, 0, 0]])
    found = episodes.dice_of(np.stack([truth, half, np.zeros_like(truth)]), truth, num_classes=4)
    np.testing.assert_allclose(found, [[1, 1, np.nan], [2 / 4, 0, np.nan], [0, 0, np.nan]])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"masks": np.zeros((2, 12, 6), np.int32)}, "masks and truth should be"),
        ({"rewards": np.zeros((2, *SHAPE))}, "rewards should be"),
        ({"actions": np.zeros((1, 6, 11), np.int32)}, "actions should be"),
        ({"actions": np.full((1, *SHAPE), 7), "action_names": NAMES}, "places in the 7 action_names"),
        ({"actions": ["dilate", "stop"]}, "actions should have 1 entries"),
        ({"captions": ["start"]}, "captions should have 2 entries"),
        ({"clicks": [(0, (6, 0), True)]}, "A click should lie in"),
        ({"clicks": [(2, (0, 0), True)]}, "a step up to 1"),
        ({"place": 0}, "none of"),
    ],
)
def test_what_does_not_fit_is_said(case, wrong, sentence):
    with pytest.raises(ValueError, match=sentence), unchecked():
        viz.episode(**case | wrong)


@pytest.fixture
def axes(monkeypatch):
    """What was plotted, before it becomes a picture."""
    found = []
    monkeypatch.setattr(steps, "_finish", lambda figure, format: found.extend(figure.axes) or b"")
    return found


def strong(axis):
    return next(line for line in axis.lines if line.get_linewidth() >= 2 and len(line.get_xdata()))


def test_by_step_plots_means_their_bands_and_the_paired_change(axes):
    dice = np.array([[0.2, 0.4, 0.5], [0.4, 0.8, 0.8], [0.9, 0.9, np.nan]])
    steps.by_step(dice, trained=1)
    left, right = axes
    np.testing.assert_allclose(strong(left).get_ydata(), [0.5, 0.7, 0.65])
    np.testing.assert_allclose(strong(right).get_ydata(), [0, 0.2, 0.35])
    assert left.get_title() == "Dice (n 2 to 3)" and right.get_title() == "change of Dice since step 0 (n 2 to 3)"
    band = right.collections[0].get_paths()[0].vertices
    low, high = metrics.bootstrap_interval(np.array([0.2, 0.4, 0.0]))
    np.testing.assert_allclose(sorted({y for x, y in band if x == 1}), [low, high])
    assert any(list(line.get_xdata()) == [1, 1] and line.get_linestyle() == ":" for line in left.lines)
    thin = [line for line in left.lines if line.get_linewidth() < 1 and len(line.get_xdata())]
    np.testing.assert_array_equal([line.get_ydata() for line in thin], dice)


def test_learning_curves_average_over_the_steps_that_all_seeds_have(axes):
    nan = math.nan
    curves = {
        "a": [([0, 10, 20], [0.0, 0.4, 0.8]), ([20, 0, 10, 30], [0.6, 0.2, nan, 0.9])],
        "b": [([0, 10], [0.3, 0.5])],
        "none": [([0, 10], [nan, nan])],
    }
    steps.learning_curves(curves)
    (axis,) = axes
    means = [line for line in axis.lines if line.get_linewidth() > 2]
    np.testing.assert_allclose(means[0].get_xydata(), [[0, 0.1], [20, 0.7]])
    np.testing.assert_allclose(means[1].get_xydata(), [[0, 0.3], [10, 0.5]])
    assert [line.get_linewidth() for line in axis.lines].count(0.8) == 3
    assert [text.get_text() for text in axis.texts] == ["b (1 seed)", "a (2 seeds)"], "from below"
    assert [text.get_color() for text in axis.texts] == [viz.hex_color(2), viz.hex_color(1)]


def test_labels_that_would_overlap_move_apart_in_their_order():
    assert steps.apart({"a": 0.5, "b": 0.5}, gap=0.1) == pytest.approx({"a": 0.45, "b": 0.55})
    heights = {"a": 0.0, "c": 0.52, "b": 0.5, "d": 0.64, "e": 1.0}
    found = steps.apart(heights, gap=0.1)
    assert found["a"] == 0.0 and found["e"] == 1.0, "nothing is near them"
    middle = np.mean([0.5, 0.52, 0.64])
    assert [found[name] for name in "bcd"] == pytest.approx([middle - 0.1, middle, middle + 0.1])


def test_plots_are_repeatable_and_name_nothing_as_mathematics():
    plots = (
        lambda: viz.by_step(np.array([[0.1, 0.3], [0.2, 0.2]]), label="$x"),
        lambda: viz.learning_curves({"$a": [([0, 1], [0.1, 0.2])]}),
    )
    for plot in plots:
        assert plot() == plot()
        xml.etree.ElementTree.fromstring(plot())


def test_nothing_to_plot():
    assert viz.by_step(np.zeros((3, 1))) is None and viz.by_step(np.full((2, 4), np.nan)) is None
    assert viz.learning_curves({}) is None and viz.learning_curves({"a": [([0], [math.nan])]}) is None
    with pytest.raises(ValueError, match="a value a step"):
        viz.learning_curves({"a": [([0, 1], [0.5])]})
