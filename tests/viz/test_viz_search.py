"""Pictures of a search: where values lie on their axes, which line is the best, what is drawn as ended early."""

import io
import math
import xml.etree.ElementTree

import numpy as np
import pytest
from PIL import Image

from jaxseg.space import Choice, Range
from jaxseg.viz import search

DOMAINS = {
    "optim.lr": Range(1e-4, 2e-2, log=True),
    "augment": Choice(("none", "mirror(axes=(1,))|gaussian_noise(strength=(0, 1))")),
    "data.batch_size": Range(2.0, 8.0, 2.0, whole=True),
}
VALUES = {
    "optim.lr": [1e-4, 1e-3, 2e-2],
    "augment": ["none", DOMAINS["augment"].values[1], "none"],
    "data.batch_size": [2, 4, 8],
}
ORANGE, BLUE = (230, 159, 0), (86, 180, 233)


def picture(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def pixels(image, color):
    return np.argwhere(np.abs(image - color).max(-1) < 12)


def test_heights_follow_the_scale():
    assert search._height(DOMAINS["optim.lr"], 1e-4 * math.sqrt(200)) == pytest.approx(0.5)
    assert search._height(DOMAINS["data.batch_size"], 5) == 0.5
    assert [search._height(DOMAINS["augment"], value) for value in DOMAINS["augment"].values] == [0, 1]
    assert search._height(Choice(("only",)), "only") == 0.5
    spread = search._positions(DOMAINS["augment"], VALUES["augment"])
    assert spread[1] == 1 and spread[0] < 0 < spread[2] and spread[2] < 0.1  # equal choices part a little


def test_ticks_read_well():
    assert list(search._ticks(DOMAINS["optim.lr"])) == ["0.0001", "0.001", "0.01", "0.02"]
    assert list(search._ticks(DOMAINS["data.batch_size"])) == ["2", "4", "6", "8"]
    assert list(search._ticks(Range(0.0, 1.0))) == ["0", "0.25", "0.5", "0.75", "1"]


def test_the_best_line_is_orange_and_ends_at_the_top():
    values = {name: column[:2] for name, column in VALUES.items()}
    image = picture(search.parallel_coordinates(values, [0.5, 0.8], domains=DOMAINS, format="png"))
    line = pixels(image, ORANGE)
    left, right = line[line[:, 1].argmin()], line[line[:, 1].argmax()]
    assert right[0] < 0.15 * len(image) < 0.35 * len(image) < left[0] < 0.65 * len(image)  # 1e-3 lies at 0.43
    swapped = picture(search.parallel_coordinates(values, [0.8, 0.5], domains=DOMAINS, format="png"))
    line = pixels(swapped, ORANGE)
    assert line[line[:, 1].argmin()][0] > 0.75 * len(swapped)  # 1e-4, at the bottom


def test_one_that_ended_early_is_not_the_best():
    options = {"domains": DOMAINS, "format": "png"}
    image = picture(search.parallel_coordinates(VALUES, [0.5, 0.8, 0.9], ended=[False, False, True], **options))
    line = pixels(image, ORANGE)
    assert line[line[:, 1].argmin()][0] > 0.35 * len(image)  # trial 1, not the one that begins at the top


def test_svg_names_no_value_as_mathematics_and_is_repeatable():
    domains = {"loss": Choice(("$a", "b$"))}
    options = {"domains": domains, "format": "svg"}
    first = search.parallel_coordinates({"loss": ["$a", "b$"]}, [0.1, 0.2], **options)
    assert first == search.parallel_coordinates({"loss": ["$a", "b$"]}, [0.1, 0.2], **options)
    xml.etree.ElementTree.fromstring(first)


def test_nothing_to_plot():
    assert search.parallel_coordinates(VALUES, [math.nan] * 3, domains=DOMAINS) is None
    assert search.scores_by_trial([math.nan]) is None and search.scores_by_trial([]) is None


def test_scores_in_order_with_the_best_so_far():
    image = picture(search.scores_by_trial([0.2, 0.6, math.nan, 0.9], ended=[False, False, True, True], format="png"))
    line = pixels(image[40:], ORANGE)  # below the legend
    top, bottom = line[:, 0].min(), line[:, 0].max()
    dots = pixels(image[40:], BLUE)
    assert dots[:, 0].min() < top - 20 and bottom > top + 20  # the hollow 0.9 lies above the best line
