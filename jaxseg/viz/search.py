"""Plots of a search over settings: every trial's values beside its score, and the scores in the order they came."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg.space import Choice, Domain
from jaxseg.viz.curves import GREY, _figure, _finish, _plain

_LONGEST = 26  # letters of a tick; the table has the whole text
_BEST = "#e69f00"


def parallel_coordinates(
    values: Mapping[str, Sequence[Any]],
    scores: Sequence[float],
    *,
    domains: Mapping[str, Domain],
    ended: Sequence[bool] = (),
    score_name: str = "score",
    format: str = "svg",
) -> bytes | None:
    """Plots each trial as a line over one axis a field and a last one for its score, which also colours it.

    Axes are logarithmic where the field was searched so; choices are ticks, and lines through the same choice lie
    a little apart. The best line is thick and orange, those that ended early are dashed; trials without a score are
    left out.

    Args:
      values: field -> its value in every trial.
      scores: of every trial, larger is better; NaN: none.
      domains: field -> what was searched; decides scale and ticks.
      ended: which trials ended early.
      score_name: title of the last axis.
      format: "svg" or "png".

    Returns:
      The picture, or None without a trial that has a score.
    """
    shown = [place for place, score in enumerate(scores) if math.isfinite(score)]
    if not shown:
        return None
    points = np.array([scores[place] for place in shown], np.float64)
    low, high = _padded(points)
    columns = [_positions(domain, [values[name][place] for place in shown]) for name, domain in domains.items()]
    heights = np.stack([*columns, (points - low) / (high - low)], axis=1)  # (trials, axes), 0 bottom, 1 top
    figure, axes = _figure(max(6.0, 2.0 * heights.shape[1]), 4.2)
    axis = axes[0, 0]
    early = [bool(ended[place]) for place in shown] if ended else [False] * len(shown)
    _lines(axis, heights, points, early)
    ticks = [_ticks(domain) for domain in domains.values()]
    ticks.append({f"{value:.3f}": (value - low) / (high - low) for value in np.linspace(low, high, 5)})
    for place, marks in enumerate(ticks):
        axis.axvline(place, color=GREY, linewidth=1)
        for text, height in marks.items():
            axis.plot([place - 0.015, place], [height, height], color=GREY, linewidth=1)
            _label(axis, text, place, height)
    axis.set_xticks(range(len(ticks)), [_plain(name) for name in (*domains, score_name)], fontsize=9)
    axis.set_xlim(-0.75, len(ticks) - 0.9)
    axis.set_ylim(-0.06, 1.08)
    axis.set_yticks([])
    axis.grid(False)
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.tick_params(axis="x", length=0)
    return _finish(figure, format)


def _label(axis, text: str, place: int, height: float) -> None:
    """Writes a tick's text beside its axis, with a pale rim, since lines run behind it."""
    from matplotlib.patheffects import withStroke

    rim = withStroke(linewidth=3, foreground="white", alpha=0.8)
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    axis.annotate(
        _plain(short),
        (place, height),
        (-5, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=8,
        color="#4d5560",
        path_effects=[rim],
        zorder=10,
    )


def _lines(axis, heights: np.ndarray, points: np.ndarray, early: Sequence[bool]) -> None:
    """Draws the lines, the best last: from grey for the worst to blue, the best one orange."""
    from matplotlib.colors import LinearSegmentedColormap

    colors = LinearSegmentedColormap.from_list("grey to blue", ["#b8bec6", "#56b4e9", "#0b62c4"])
    best = max(range(len(points)), key=lambda place: (not early[place], points[place]))
    ranks = np.argsort(np.argsort(points)) / max(1, len(points) - 1)  # one low outlier would leave all others alike
    for place in sorted(range(len(points)), key=lambda place: (place == best, points[place])):
        axis.plot(
            range(heights.shape[1]),
            heights[place],
            color=_BEST if place == best else colors(ranks[place]),
            linewidth=2.6 if place == best else 1.4,
            linestyle="--" if early[place] else "-",
            alpha=0.95,
            marker="o",
            markersize=3,
        )


def _padded(points: np.ndarray) -> tuple[float, float]:
    low, high = float(points.min()), float(points.max())
    return (low, high) if high > low else (low - 0.05, high + 0.05)


def _height(domain: Domain, value: Any) -> float:
    """Where a value lies on its axis, from 0 to 1."""
    if isinstance(domain, Choice):
        return domain.values.index(value) / (len(domain.values) - 1) if len(domain.values) > 1 else 0.5
    if domain.log:
        return math.log(value / domain.low) / math.log(domain.high / domain.low)
    return (value - domain.low) / (domain.high - domain.low)


def _positions(domain: Domain, values: Sequence[Any]) -> np.ndarray:
    """Heights of all values; those of a choice are spread a little, so that its lines can be told apart."""
    heights = np.array([_height(domain, value) for value in values])
    if isinstance(domain, Choice):
        for choice in np.unique(heights):
            same = np.flatnonzero(heights == choice)
            heights[same] += np.linspace(-1, 1, len(same) + 2)[1:-1] * 0.12 / max(2, len(domain.values))
    return heights


def _ticks(domain: Domain) -> dict[str, float]:
    """Text -> height of the marks of an axis."""
    if isinstance(domain, Choice):
        return {text: _height(domain, value) for text, value in zip(domain.texts(), domain.values)}
    if domain.log:
        powers = range(math.ceil(math.log10(domain.low)), math.floor(math.log10(domain.high)) + 1)
        inner = [10.0**power for power in powers]
        far = [value for value in inner if 0.08 < _height(domain, value) < 0.92]
        values = [domain.low, *far, domain.high]
    else:
        values = list(np.linspace(domain.low, domain.high, 5))
        if domain.whole:
            count = (domain.high - domain.low) / (domain.step or 1)
            values = [domain.low + (domain.step or 1) * round(count * share) for share in np.linspace(0, 1, 5)]
    return {f"{value:g}": _height(domain, value) for value in dict.fromkeys(values)}


def scores_by_trial(
    scores: Sequence[float], *, ended: Sequence[bool] = (), score_name: str = "score", format: str = "svg"
) -> bytes | None:
    """Plots the scores in the order of the trials, and the best of the finished ones so far as a step line.

    Args:
      scores: of trial 0, 1, ...; NaN: none.
      ended: which trials ended early; they are drawn hollow.
      score_name: of the axis.
      format: "svg" or "png".

    Returns:
      The picture, or None without a single score.
    """
    points = np.asarray(scores, np.float64)
    if not np.isfinite(points).any():
        return None
    early = np.asarray(ended, bool) if len(ended) else np.zeros(len(points), bool)
    figure, axes = _figure(7.2, 2.8)
    axis, numbers = axes[0, 0], np.arange(len(points))
    best = np.fmax.accumulate(np.where(early, np.nan, points))
    axis.step(numbers, best, where="post", color=_BEST, linewidth=1.6, label="best so far")
    axis.scatter(numbers[~early], points[~early], s=24, color="#56b4e9", zorder=3, label="finished")
    if early.any():
        axis.scatter(
            numbers[early], points[early], s=24, facecolors="none", edgecolors="#56b4e9", zorder=3, label="ended early"
        )
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("trial", color=GREY, fontsize=9)
    axis.set_ylabel(_plain(score_name), color=GREY, fontsize=9)
    axis.legend(fontsize=8, frameon=False, labelcolor=GREY, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    return _finish(figure, format)
