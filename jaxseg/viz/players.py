"""The curves of a training of two players: a generator that makes images, a discriminator that tells them apart."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxseg.viz.curves import GREY, _curve, _figure, _finish, series

_GENERATOR, _DISCRIMINATOR = "#56b4e9", "#e69f00"
_REAL, _MADE = "#00b280", "#de81b2"


class _Plot(NamedTuple):
    """One of the small plots.

    Attributes:
      title: above it.
      curves: key of the log -> (name in the legend, colour).
      lines: value of a line across -> what it says.
      scale: "linear" or "log".
      limits: of the values, or None.
    """

    title: str
    curves: Mapping[str, tuple[str, str]]
    lines: Mapping[float, str]
    scale: str = "linear"
    limits: tuple[float, float] | None = None


PLOTS = (
    _Plot(
        "loss",
        {
            "train/loss/generator": ("generator", _GENERATOR),
            "train/loss/discriminator": ("discriminator", _DISCRIMINATOR),
        },
        {},
    ),
    _Plot(
        "accuracy of the discriminator",
        {"train/accuracy/real": ("on real images", _REAL), "train/accuracy/fake": ("on made images", _MADE)},
        {0.5: "a guess"},
        limits=(-0.03, 1.03),
    ),
    _Plot(
        "gradient norm",
        {
            "train/gradient_norm/generator": ("generator", _GENERATOR),
            "train/gradient_norm/discriminator": ("discriminator", _DISCRIMINATOR),
        },
        {},
        scale="log",
    ),
    _Plot(
        "diversity of made over real images",
        {"train/diversity": ("made over real", _MADE)},
        {1.0: "as real images", 0.1: "collapsed"},
    ),
)
KEYS = tuple(key for plot in PLOTS for key in plot.curves)  # what is plotted here, where the log has it


def player_curves(rows: Sequence[Mapping[str, Any]], *, format: str = "svg") -> bytes | None:
    """Plots what tells whether the two players learn from each other; a quantity that was not logged has no plot.

    Args:
      rows: lines of metrics.jsonl with some of `KEYS`; other keys are left alone.
      format: "svg" or "png".

    Returns:
      The picture, or None where the log has none of the keys.
    """
    curves = {key: curve for key, curve in series(rows).items() if key in KEYS}
    plots = [plot for plot in PLOTS if any(key in curves for key in plot.curves)]
    if not plots:
        return None
    columns = min(2, len(plots))
    lines = math.ceil(len(plots) / columns)
    figure, axes = _figure(5.2 * columns, 2.7 * lines, rows=lines, columns=columns)
    for axis in list(axes.flat)[len(plots) :]:
        axis.set_visible(False)
    for axis, plot in zip(axes.flat, plots):
        _draw(axis, plot, curves)
    return _finish(figure, format)


def _draw(axis, plot: _Plot, curves: Mapping[str, tuple]) -> None:
    for key, (name, color) in plot.curves.items():
        if key in curves:
            steps, values = curves[key]
            _curve(axis, name, steps, values, color)
    if plot.scale == "log" and any((curves[key][1] > 0).any() for key in plot.curves if key in curves):
        axis.set_yscale("log")
        axis.tick_params(which="minor", colors=GREY)
    for value, text in plot.lines.items():
        axis.axhline(value, color=GREY, linewidth=1, linestyle="--")
        place = {"xy": (1, value), "xycoords": ("axes fraction", "data"), "xytext": (-3, 3)}
        axis.annotate(text, **place, textcoords="offset points", ha="right", fontsize=7, color=GREY)
    if plot.limits is not None:
        axis.set_ylim(*plot.limits)
    elif plot.lines:
        axis.set_ylim(bottom=0)
    axis.set_title(plot.title, color=GREY, fontsize=10)
    axis.set_xlabel("step", color=GREY, fontsize=8)
    if len(plot.curves) > 1:
        axis.legend(fontsize=7, frameon=False, labelcolor=GREY)
