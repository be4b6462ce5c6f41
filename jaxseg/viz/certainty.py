"""Plots of how far a prediction's certainty can be believed, and of several networks beside their ensemble."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from jaxseg import metrics
from jaxseg.viz import colors
from jaxseg.viz.curves import GREY, _figure, _finish, _plain

FIRST, SECOND = "#56b4e9", "#e69f00"  # as measured, and what it is held against

Numbers = Sequence[float] | Shaped[np.ndarray, " n"]


class ReliabilityBins(NamedTuple):
    """Pixels grouped by confidence into bins of equal width on [0, 1], lowest first.

    Attributes:
      pixels: how many are in each bin.
      confidence: their mean confidence (the largest probability); NaN where a bin is empty.
      accuracy: the share of them whose class is right; NaN where a bin is empty.
    """

    pixels: Numbers
    confidence: Numbers
    accuracy: Numbers


def calibration_gap(bins: ReliabilityBins) -> float:
    """Returns the expected calibration error (Guo et al. 2017, eq. 3): the mean of |accuracy - confidence| over pixels.

    Raises:
      ValueError: the three columns differ in length, or a bin with pixels has no confidence or accuracy.
    """
    count, confidence, accuracy = _columns(bins)
    full = count > 0
    sure, right = (count * np.where(full, column, 0) for column in (confidence, accuracy))
    unused = np.zeros(())
    sums = metrics.CalibrationCounts(count, sure, right, brier=unused, log_loss=unused, n=count.sum())
    return metrics.expected_calibration_error(sums)


def _columns(bins: ReliabilityBins) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count, confidence, accuracy = (np.asarray(column, np.float64) for column in bins)
    if not count.shape == confidence.shape == accuracy.shape or count.ndim != 1:
        shapes = [column.shape for column in (count, confidence, accuracy)]
        raise ValueError(
            f"pixels, confidence and accuracy should have one number a bin each, they have shapes {shapes}."
        )
    if not np.isfinite(np.stack([confidence, accuracy])[:, count > 0]).all():
        raise ValueError("Every bin that holds pixels should have a confidence and an accuracy; one of them has none.")
    return count, confidence, accuracy


def reliability_diagram(
    bins: ReliabilityBins,
    *,
    scaled: ReliabilityBins | None = None,
    temperature: float | None = None,
    format: str = "svg",
) -> bytes | None:
    """Plots accuracy against confidence (DeGroot and Fienberg 1983), and below it the share of pixels in each bin.

    A bar that ends on the diagonal is calibrated; below it the network is too sure, above it too cautious. The shares
    have a logarithmic axis, since nearly all pixels of a medical image are certain background.

    Args:
      bins: as predicted, drawn as bars.
      scaled: the same pixels after temperature scaling, drawn as a line.
      temperature: that was used for `scaled`, for its name.
      format: "svg" or "png".

    Returns:
      The picture, or None without a single pixel.

    Raises:
      ValueError: see `calibration_gap`.
    """
    count, _, accuracy = _columns(bins)
    if not count.sum() > 0:
        return None
    figure, axes = _figure(4.8, 5.4, rows=2)
    upper, lower = axes[:, 0]
    upper.get_gridspec().set_height_ratios([3, 1])
    edges = np.linspace(0, 1, len(count) + 1)
    full = count > 0
    upper.bar(
        edges[:-1][full], accuracy[full], 1 / len(count), align="edge", color=FIRST, alpha=0.75, edgecolor="white",
        linewidth=0.6, label="as predicted",
    )  # fmt: skip
    upper.plot([0, 1], [0, 1], color=GREY, linewidth=1.2, linestyle="--", label="calibrated")
    title = f"ECE {calibration_gap(bins):.3f}"
    if scaled is not None:
        number, confidence, right = _columns(scaled)
        name = "scaled" if temperature is None else f"temperature {temperature:.2f}"
        upper.plot(
            confidence[number > 0], right[number > 0], color=SECOND, linewidth=1.6, marker="o", markersize=4, label=name
        )
        title += f", {name}: {calibration_gap(scaled):.3f}"
    lower.bar(edges[:-1][full], 100 * count[full] / count.sum(), 1 / len(count), align="edge", color=FIRST, alpha=0.75)
    lower.set_yscale("log")
    lower.set_ylim(100 * count[full].min() / count.sum() / 3, 150)
    upper.set_ylim(0, 1.02)
    upper.set_title(title, color=GREY, fontsize=10)
    upper.set_ylabel("accuracy", color=GREY, fontsize=9)
    lower.set_ylabel("% of pixels", color=GREY, fontsize=9)
    lower.set_xlabel("confidence", color=GREY, fontsize=9)
    for axis in (upper, lower):
        axis.set_xlim(0, 1)
    upper.legend(fontsize=8, frameon=False, labelcolor=GREY, loc="upper left")
    return _finish(figure, format)


def risk_coverage_plot(
    coverage: Numbers,
    risk: Numbers,
    *,
    best: Numbers | None = None,
    random: float | None = None,
    area: float | None = None,
    area_best: float | None = None,
    name: str = "by certainty",
    format: str = "svg",
) -> bytes | None:
    """Plots the mean risk of the most certain share of the cases against that share (El-Yaniv and Wiener 2010).

    Args:
      coverage: shares of the cases that are kept, from 0 to 1.
      risk: mean risk of those kept, such as 1 - Dice.
      best: the risk at the same shares if cases were kept in the order of their true risk; None draws no such curve.
      random: the risk if cases were kept at random: the mean over all.
      area: under the curve, for the legend.
      area_best: under the best curve, for the legend.
      name: of the curve.
      format: "svg" or "png".

    Returns:
      The picture, or None with fewer than 2 cases.

    Raises:
      ValueError: the curves differ in length.
    """
    shares, risks = np.asarray(coverage, np.float64), np.asarray(risk, np.float64)
    ideal = None if best is None else np.asarray(best, np.float64)
    for column in (risks, *(() if ideal is None else (ideal,))):
        if column.shape != shares.shape:
            raise ValueError(f"risk and best should have the shape of coverage {shares.shape}, one has {column.shape}.")
    if np.count_nonzero(np.isfinite(risks)) < 2:
        return None
    figure, axes = _figure(4.8, 3.6)
    axis = axes[0, 0]
    marker = {"marker": "o", "markersize": 3} if len(shares) <= 60 else {}
    if random is not None and math.isfinite(random):
        axis.axhline(random, color=GREY, linewidth=1.2, linestyle="--", label=f"at random ({random:.3f})")
    if ideal is not None:
        axis.plot(shares, ideal, color=SECOND, linewidth=1.4, label=_with_area("best possible", area_best))
    axis.plot(shares, risks, color=FIRST, linewidth=1.8, label=_with_area(name, area), **marker)
    axis.set_xlim(0, 1.02)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("share of cases kept, the most certain first", color=GREY, fontsize=9)
    axis.set_ylabel("mean risk of those kept", color=GREY, fontsize=9)
    axis.legend(fontsize=8, frameon=False, labelcolor=GREY)
    return _finish(figure, format)


def _with_area(name: str, area: float | None) -> str:
    return _plain(name if area is None or not math.isfinite(area) else f"{name} (area {area:.3f})")


def quality_plot(
    quality: Mapping[str, Sequence[float]],
    dice: Mapping[str, Sequence[float]],
    correlations: Mapping[str, float],
    *,
    name: str = "expected Dice",
    format: str = "svg",
) -> bytes | None:
    """Plots a Dice that was foretold without the truth against the Dice that was measured, a dot a case and class.

    Args:
      quality: class name -> the estimate of every case; cases that are not finite on both sides are left out.
      dice: class name -> the Dice of the same cases.
      correlations: class name -> its r, NaN or absent where there is none.
      name: of the estimate, for the axis.
      format: "svg" or "png".

    Returns:
      The picture, or None if no class has 2 cases.

    Raises:
      ValueError: a class is in one of the two only, or with another number of cases.
    """
    if quality.keys() != dice.keys():
        raise ValueError(f"quality and dice should have the same classes, they have {[*quality]} and {[*dice]}.")
    points: dict[str, Float[np.ndarray, "n 2"]] = {}
    for label in quality:
        if len(quality[label]) != len(dice[label]):
            raise ValueError(
                f"quality and dice of {label!r} should have one value a case each, they have {len(quality[label])} and "
                f"{len(dice[label])}."
            )
        pairs = np.array([quality[label], dice[label]], np.float64).T
        points[label] = pairs[np.isfinite(pairs).all(axis=1)]
    if max((len(pairs) for pairs in points.values()), default=0) < 2:
        return None
    figure, axes = _figure(4.8, 4.8)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=1.2, linestyle="--")
    for place, (label, pairs) in enumerate(points.items(), start=1):
        legend = _quality_label(label, correlations.get(label, math.nan), len(pairs))
        axis.scatter(*pairs.T, s=18, color=colors.hex_color(place), alpha=0.8, linewidths=0, label=legend)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.set_aspect("equal")
    axis.set_xlabel(_plain(name), color=GREY, fontsize=9)
    axis.set_ylabel("Dice", color=GREY, fontsize=9)
    axis.legend(fontsize=8, frameon=False, labelcolor=GREY, loc="upper left")
    return _finish(figure, format)


def _quality_label(label: str, r: float, n: int) -> str:
    return _plain(f"{label}: r {r:.2f} (n {n})" if math.isfinite(r) else f"{label} (n {n})")


def members_plot(
    members: Sequence[Mapping[str, float]],
    ensemble: Mapping[str, float],
    *,
    metric: str = "Dice",
    format: str = "svg",
) -> bytes | None:
    """Plots the mean score of every member as a dot and that of the ensemble as a line, a row a class.

    Within a row the members lie below each other in their order, so that one can be followed over the classes. The
    axis spans the scores that there are: members often differ by less than a hundredth.

    Args:
      members: of each member, class name -> score; NaN or absent where it has none.
      ensemble: class name -> score; the classes that are shown.
      metric: the score's name, for the axis.
      format: "svg" or "png".

    Returns:
      The picture, or None if there are fewer than 2 members or no finite score of one.
    """
    columns = {name: np.array([member.get(name, math.nan) for member in members], np.float64) for name in ensemble}
    if len(members) < 2 or not any(np.isfinite(column).any() for column in columns.values()):
        return None
    figure, axes = _figure(7.2, 1.1 + 0.6 * len(columns))
    axis = axes[0, 0]
    offsets = np.linspace(-0.26, 0.26, len(members))
    for place, (name, column) in enumerate(columns.items()):
        axis.scatter(column, place + offsets, s=20, color=colors.hex_color(place + 1), alpha=0.85, linewidths=0)
        if math.isfinite(ensemble[name]):
            axis.plot([ensemble[name]] * 2, [place - 0.38, place + 0.38], color=GREY, linewidth=2)
    axis.scatter([], [], s=20, color=GREY, label="a member")
    axis.plot([], [], color=GREY, linewidth=2, label="the ensemble")
    axis.set_yticks(range(len(columns)), [_plain(name) for name in columns])
    axis.set_ylim(len(columns) - 0.5, -0.5)
    axis.set_xlabel(_plain(metric), color=GREY, fontsize=9)
    axis.legend(
        fontsize=8, frameon=False, labelcolor=GREY, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0
    )
    return _finish(figure, format)
