"""The curves of two players."""

import xml.etree.ElementTree

import numpy as np
import pytest

from jaxseg.viz import player_curves, players
from jaxseg.viz.curves import _figure


def log(keys=players.KEYS):
    return [{"step": step, "lr": 0.1, **{key: 0.5 + step / 100 for key in keys}} for step in range(0, 50, 10)]


def size(svg):
    return [float(value) for value in xml.etree.ElementTree.fromstring(svg.decode()).get("viewBox").split()[2:]]


def test_every_quantity_has_a_plot():
    assert size(player_curves(log())) == pytest.approx([72 * 10.4, 72 * 5.4])
    assert player_curves(log()) == player_curves(log()), "the same numbers give the same bytes"


def test_what_was_not_logged_has_no_plot():
    assert size(player_curves(log(["train/accuracy/fake"]))) == pytest.approx([72 * 5.2, 72 * 2.7])
    assert size(player_curves(log(["train/accuracy/fake", "train/diversity"]))) == pytest.approx([72 * 10.4, 72 * 2.7])
    assert player_curves(log(["train/loss", "val/dice"])) is None and player_curves([]) is None


def drawn(plot, curves):
    _, axes = _figure(4, 3)
    players._draw(axes[0, 0], plot, {key: (np.arange(len(values)), np.array(values)) for key, values in curves.items()})
    return axes[0, 0]


def test_accuracy_has_its_whole_range_and_the_line_of_a_guess():
    axis = drawn(players.PLOTS[1], {"train/accuracy/real": [0.7, 0.8], "train/accuracy/fake": [0.9, 0.91]})
    assert axis.get_ylim() == (-0.03, 1.03)
    curves = {line.get_label(): list(line.get_ydata()) for line in axis.lines}
    assert curves["on real images"] == [0.7, 0.8] and curves["on made images"] == [0.9, 0.91]
    assert [0.5, 0.5] in curves.values() and [text.get_text() for text in axis.texts] == ["a guess"]


def test_diversity_shows_both_where_real_images_lie_and_where_a_generator_has_collapsed():
    axis = drawn(players.PLOTS[3], {"train/diversity": [0.02, 0.3]})
    low, high = axis.get_ylim()
    assert low == 0 and high > 1
    assert sorted(line.get_ydata()[0] for line in axis.lines[1:]) == [0.1, 1.0]


def test_gradient_norms_are_logarithmic_unless_all_are_zero():
    plot = players.PLOTS[2]
    assert drawn(plot, {"train/gradient_norm/generator": [0.01, 100.0]}).get_yscale() == "log"
    assert drawn(plot, {"train/gradient_norm/generator": [0.0, 0.0]}).get_yscale() == "linear"


def test_png_as_well():
    assert player_curves(log(), format="png").startswith(b"\x89PNG")
