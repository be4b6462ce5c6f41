"""Plots of what grows with steps: the score of episodes, step by step or click by click, and how agents learn."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Shaped

from jaxseg import metrics
from jaxseg.viz import colors
from jaxseg.viz.curves import GREY, _figure, _finish, _plain

_MEAN = "#0b62c4"
_CASE = "#56b4e9"
_LETTERS = 8.5  # points of a direct label
_GAP = 0.055  # of the height of the axis between two direct labels

Numbers = Sequence[float] | Shaped[np.ndarray, " n"]


def by_step(
    dice: Float[np.ndarray, "cases n"],
    *,
    trained: float | None = None,
    label: str = "step",
    format: str = "svg",
) -> bytes | None:
    """Plots the Dice of every case and their mean over the steps, and beside it the paired change against step 0.

    Bands are 95 % bootstrap intervals of the mean over cases. That of the change is the one to judge by: cases differ
    far more from each other than from their own start.

    Args:
      dice: of each case (mean over its classes) at steps 0, 1, ...; NaN where there is none.
      trained: draws a line at the last step that training knew.
      label: what a step is, such as "click".
      format: "svg" or "png".

    Returns:
      The picture, or None where there are fewer than 2 steps or no finite value.
    """
    if dice.shape[1] < 2 or not np.isfinite(dice).any():
        return None
    figure, axes = _figure(9.6, 3.5, columns=2)
    change = dice - dice[:, :1]
    for axis, values, title in zip(axes[0], (dice, change), ("Dice", f"change of Dice since {label} 0")):
        steps = np.arange(values.shape[1])
        for row in values:
            axis.plot(steps, row, color=_CASE, alpha=min(0.5, 0.15 + 4 / len(values)), linewidth=0.8)
        summaries = [metrics.summarise(column) for column in values.T]
        mean, low, high = (np.array([found[key] for found in summaries]) for key in ("mean", "low", "high"))
        axis.fill_between(steps, low, high, color=_MEAN, alpha=0.22, linewidth=0)
        axis.plot(steps, mean, color=_MEAN, linewidth=2, marker="o", markersize=4)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel(_plain(label), color=GREY, fontsize=9)
        axis.set_title(
            _plain(f"{title} ({_counted([int(found['n']) for found in summaries])})"), color=GREY, fontsize=10
        )
        if trained is not None:
            _trained_line(axis, trained)
    axes[0, 1].axhline(0, color=GREY, linewidth=1, linestyle="--")
    axis = axes[0, 0]
    axis.plot([], [], color=_MEAN, linewidth=2, marker="o", markersize=4, label="mean, 95 % interval")
    axis.plot([], [], color=_CASE, linewidth=0.8, label="a case")
    axis.legend(fontsize=8, frameon=False, labelcolor=GREY, loc="lower right")
    return _finish(figure, format)


def _counted(numbers: Sequence[int]) -> str:
    """The n of the means: "n 12", or "n 10 to 12" where steps differ."""
    return f"n {min(numbers)}" if min(numbers) == max(numbers) else f"n {min(numbers)} to {max(numbers)}"


def _trained_line(axis, trained: float) -> None:
    axis.axvline(trained, color=GREY, linewidth=1, linestyle=":")
    place = {"xy": (trained, 0), "xycoords": ("data", "axes fraction"), "xytext": (-3, 3)}
    axis.annotate(
        "trained to here", **place, textcoords="offset points", rotation=90, ha="right", fontsize=7, color=GREY
    )


def learning_curves(
    curves: Mapping[str, Sequence[tuple[Numbers, Numbers]]],
    *,
    metric: str = "Dice",
    label: str = "training step",
    format: str = "svg",
) -> bytes | None:
    """Plots how agents learn: a thin line a seed and a strong one for their mean, named at its end.

    The mean runs over the steps at which every seed of a name has a finite value, so that none of its points stands on
    fewer seeds than another.

    Args:
      curves: name -> (steps, values) of each seed.
      metric: the values' name, for the axis.
      label: the steps' name.
      format: "svg" or "png".

    Returns:
      The picture, or None without a finite value.

    Raises:
      ValueError: steps and values of a seed differ in number.
    """
    seeds = {name: [_points(name, *seed) for seed in found] for name, found in curves.items()}
    seeds = {name: [seed for seed in found if seed] for name, found in seeds.items()}
    seeds = {name: found for name, found in seeds.items() if found}
    if not seeds:
        return None
    figure, axes = _figure(7.2, 4.0)
    axis, ends = axes[0, 0], {}
    for place, (name, found) in enumerate(seeds.items(), start=1):
        color = colors.hex_color(place)
        for seed in found:
            axis.plot(list(seed), list(seed.values()), color=color, alpha=0.4, linewidth=0.8)
        shared = sorted(set.intersection(*map(set, found)))
        mean = {step: float(np.mean([seed[step] for seed in found])) for step in shared} or found[0]
        if shared:
            axis.plot(list(mean), list(mean.values()), color=color, linewidth=2.2)
        last = max(mean)
        ends[f"{name} ({len(found)} seed{'s' if len(found) > 1 else ''})"] = (last, mean[last], color)
    _direct_labels(axis, ends)
    axis.set_xlabel(_plain(label), color=GREY, fontsize=9)
    axis.set_ylabel(_plain(metric), color=GREY, fontsize=9)
    return _finish(figure, format)


def _points(name: str, steps: Numbers, values: Numbers) -> dict[float, float]:
    """Step -> value where that is finite, in the order of the steps."""
    if len(steps) != len(values):
        raise ValueError(f"Each seed of {name!r} should have a value a step, one has {len(values)} for {len(steps)}.")
    pairs = sorted((float(step), float(value)) for step, value in zip(steps, values))
    return {step: value for step, value in pairs if np.isfinite(value)}


def _direct_labels(axis, ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Writes each name right of the plot at the height of its end, moved apart where two would overlap."""
    low, high = axis.get_ylim()
    wanted = {name: (value - low) / (high - low) for name, (_, value, _) in ends.items()}
    for name, height in apart(wanted, gap=_GAP).items():
        axis.annotate(
            _plain(name), (1.0, height), (6, 0), xycoords="axes fraction", textcoords="offset points", va="center",
            fontsize=_LETTERS, color=ends[name][2], annotation_clip=False,
        )  # fmt: skip


def apart(heights: Mapping[str, float], *, gap: float) -> dict[str, float]:
    """Moves heights until neighbours lie `gap` apart, in their order; those that meet stay around their mean."""
    groups: list[tuple[list[str], float]] = []  # names from below, and the height of their middle
    for name in sorted(heights, key=lambda name: heights[name]):
        names, middle = [name], heights[name]
        while groups and middle - groups[-1][1] < gap * (len(names) + len(groups[-1][0])) / 2:
            below, centre = groups.pop()
            middle = (centre * len(below) + middle * len(names)) / (len(below) + len(names))
            names = below + names
        groups.append((names, middle))
    return {
        name: middle + gap * (place - (len(names) - 1) / 2)
        for names, middle in groups
        for place, name in enumerate(names)
    }
