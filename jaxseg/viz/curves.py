"""Plots of numbers: a training's curves, the spread of the scores, two runs against each other.

SVG plots have no background and grey lettering, which reads on light and on dark pages.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from jaxseg.viz import colors

GREY = "#7d8590"
_TRAIN, _VALIDATION = "#56b4e9", "#e69f00"
_LARGER_IS_WORSE = ("hd95_mm", "assd_mm", "hd_mm", "mae")
_UNBOUNDED = ("psnr_db",)

_INSTANCES = {
    "dsb_score": "DSB score",
    "f1_50": "F1 50",
    "f1_75": "F1 75",
    "pq": "PQ",
    "sq": "SQ",
    "rq": "RQ",
    "aji": "AJI",
}
_IMAGES = {"psnr_db": "PSNR (dB)", "ssim": "SSIM", "mae": "MAE"}


def label_of(metric: str) -> str:
    """Returns a metric's name for people: "hd95_mm" -> "HD95 (mm)"."""
    known = {"dice": "Dice", "iou": "IoU", "nsd": "NSD", "lesion_f1": "lesion F1", **_INSTANCES, **_IMAGES}
    for unit in ("_mm", "_ml"):
        if metric.endswith(unit):
            name = metric.removesuffix(unit).replace("_", " ")
            return f"{name.upper() if name in ('hd95', 'hd', 'assd') else name} ({unit[1:]})"
    return known.get(metric, metric.replace("_", " "))


def _plain(text: str) -> str:
    """Keeps a name with a dollar sign from being read as mathematics."""
    return str(text).replace("$", r"\$")


def _figure(width: float, height: float, *, rows: int = 1, columns: int = 1):
    """A figure and its axes, `(rows, columns)`, in the style of the house. Needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(GREY)
        axis.tick_params(colors=GREY, labelsize=8)
        axis.grid(color=GREY, alpha=0.2, linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, axes


def _finish(figure, format: str) -> bytes:
    """Renders to "svg" (transparent, no date: the same numbers give the same bytes) or to "png" (white)."""
    import matplotlib

    buffer = io.BytesIO()
    if format == "svg":
        with matplotlib.rc_context({"svg.hashsalt": "jaxseg", "svg.fonttype": "path"}):
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    elif format == "png":
        figure.savefig(buffer, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    else:
        raise ValueError(f"format should be 'svg' or 'png', it is {format!r}.")
    return buffer.getvalue()


def series(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns key -> (steps, values) of every numeric key under train/ or val/, and of "lr".

    A step that was written twice (a run that was resumed) keeps its last value.
    """
    found: dict[str, dict[float, float]] = {}
    for row in rows:
        step = row.get("step")
        if not _is_number(step):
            continue
        for key, value in row.items():
            if _is_number(value) and (key == "lr" or key.startswith(("train/", "val/"))):
                found.setdefault(key, {})[float(step)] = float(value)
    return {key: (np.array(sorted(at)), np.array([at[step] for step in sorted(at)])) for key, at in found.items()}


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _panels(keys: Sequence[str]) -> dict[str, list[str]]:
    """Groups keys that share a plot: train/dice, val/dice and val/dice/liver belong to "dice"; loss first, lr last."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(key if key == "lr" else key.split("/")[1], []).append(key)
    order = {"loss": 0, "dice": 1, "lr": 3}
    return {name: groups[name] for name in sorted(groups, key=lambda name: (order.get(name, 2), name))}


def smooth(values: np.ndarray, *, points: int) -> np.ndarray:
    """Running mean over `points` finite values, shorter at the ends; NaN where the stretch has none."""
    finite = np.isfinite(values)
    ones = np.ones(points)
    n = len(values)
    middle = slice((points - 1) // 2, (points - 1) // 2 + n)
    total = np.convolve(np.where(finite, values, 0.0), ones)[middle]
    count = np.convolve(finite.astype(float), ones)[middle]
    return np.divide(total, count, out=np.full(n, np.nan), where=count > 0.5)


def _curve(axis, key: str, steps: np.ndarray, values: np.ndarray, color: str) -> None:
    """Draws one curve: long noisy ones pale, with their running mean on top; short ones with markers."""
    label = _plain(key.replace("val/", "validation/", 1).replace("/", " "))
    if len(steps) > 60:
        axis.plot(steps, values, color=color, alpha=0.3, linewidth=0.8)
        axis.plot(steps, smooth(values, points=max(5, len(steps) // 40)), color=color, linewidth=1.6, label=label)
    else:
        axis.plot(steps, values, color=color, linewidth=1.4, marker="o", markersize=3, label=label)


def training_curves(rows: Sequence[Mapping[str, Any]], *, format: str = "svg") -> bytes | None:
    """Plots a training's log: one plot a quantity, training blue, validation orange.

    Args:
      rows: lines of metrics.jsonl, such as {"step": 10, "train/loss": 0.8, "val/dice": 0.6, "lr": 1e-3}. Numeric keys
        under train/ or val/ that are unknown get their own plot; others are left out.
      format: "svg" or "png".

    Returns:
      The picture, or None if nothing in the log can be plotted.
    """
    curves = series(rows)
    if not curves:
        return None
    panels = _panels(list(curves))
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure, axes = _figure(3.7 * columns, 2.6 * lines, rows=lines, columns=columns)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    for axis, (name, keys) in zip(axes.flat, panels.items()):
        extra = 0
        for key in sorted(keys):
            color = _TRAIN if key.startswith("train/") else _VALIDATION if key.startswith("val/") else GREY
            if key.count("/") > 1:  # one class of several
                extra += 1
                color = colors.hex_color(2 + extra)
            _curve(axis, key, *curves[key], color)
        axis.set_title(_plain("learning rate" if name == "lr" else label_of(name)), color=GREY, fontsize=10)
        axis.set_xlabel("step", color=GREY, fontsize=8)
        if len(keys) > 1 or name != "lr":
            axis.legend(fontsize=7, frameon=False, labelcolor=GREY)
    return _finish(figure, format)


def score_dots(
    scores: Mapping[str, Sequence[float]], *, metric: str = "dice", seed: int = 0, format: str = "svg"
) -> bytes | None:
    """Plots every case as a dot, one row a class, with the median; what is NaN or infinite is left out and counted.

    Args:
      scores: class name -> one value a case.
      metric: the value's name, for the axis.
      seed: of the vertical scatter that keeps equal dots apart.
      format: "svg" or "png".

    Returns:
      The picture, or None without a single finite value.
    """
    values = {name: np.asarray(list(column), np.float64) for name, column in scores.items()}
    if not any(np.isfinite(column).any() for column in values.values()):
        return None
    figure, axes = _figure(7.2, 0.9 + 0.55 * len(values))
    axis, rng = axes[0, 0], np.random.default_rng(seed)
    for place, (_, column) in enumerate(values.items()):
        finite = column[np.isfinite(column)]
        scatter = rng.uniform(-0.22, 0.22, finite.size)
        axis.scatter(finite, place + scatter, s=14, color=colors.hex_color(place + 1), alpha=0.75, linewidths=0)
        if finite.size:
            axis.plot([np.median(finite)] * 2, [place - 0.36, place + 0.36], color=GREY, linewidth=2)
    axis.set_yticks(range(len(values)), [_dots_label(name, column) for name, column in values.items()])
    axis.set_ylim(len(values) - 0.5, -0.5)
    if metric in _LARGER_IS_WORSE:
        axis.set_xlim(left=0)
    elif metric not in _UNBOUNDED:
        axis.set_xlim(-0.02, 1.02)
    axis.set_xlabel(_plain(label_of(metric)), color=GREY, fontsize=9)
    return _finish(figure, format)


def intensity_histograms(histograms: Mapping[str, Mapping[str, Any] | None], *, format: str = "svg") -> bytes | None:
    """Plots the foreground intensities of each channel, as `data.fingerprint` counts them ("low", "high", "counts").

    Returns:
      The picture, or None where no channel has a histogram.
    """
    shown = {name: found for name, found in histograms.items() if found}
    if not shown:
        return None
    columns = min(len(shown), 3)
    figure, axes = _figure(
        3.2 * columns, 2.2 * -(-len(shown) // columns), rows=-(-len(shown) // columns), columns=columns
    )
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for place, (axis, (name, found)) in enumerate(zip(axes.flat, shown.items())):
        share = np.asarray(found["counts"], np.float64)
        edges = np.linspace(found["low"], found["high"], len(share) + 1)
        axis.stairs(100 * share / max(share.sum(), 1), edges, fill=True, color=colors.hex_color(place + 1), alpha=0.75)
        axis.locator_params(axis="x", nbins=4)
        axis.set_xlabel(_plain(name), color=GREY, fontsize=9)
        axis.set_ylabel("% of voxels", color=GREY, fontsize=8)
    return _finish(figure, format)


def _dots_label(name: str, column: np.ndarray) -> str:
    infinite, missing = int(np.isinf(column).sum()), int(np.isnan(column).sum())
    notes = [f"n {int(np.isfinite(column).sum())}"]
    notes += [f"{infinite} infinite"] if infinite else []
    notes += [f"{missing} n/a"] if missing else []
    return _plain(f"{name}\n{', '.join(notes)}")


def paired_scatter(
    pairs: Mapping[str, Sequence[tuple[float, float]]], *, metric: str, names: tuple[str, str], format: str = "png"
) -> bytes:
    """Plots run A against run B, a dot a case and class; dots on the line are equal in both.

    Args:
      pairs: class name -> (value in A, value in B) a case; pairs that are not finite are left out.
      metric: the value's name, for the title.
      names: of the two runs, for the axes.
      format: "svg" or "png".
    """
    figure, axes = _figure(5, 5)
    axis, everything = axes[0, 0], []
    for place, (name, column) in enumerate(pairs.items(), start=1):
        points = np.asarray(list(column), np.float64).reshape(-1, 2)
        points = points[np.isfinite(points).all(axis=1)]
        label = _plain(f"{name} (n {len(points)})")
        axis.scatter(*points.T, s=18, color=colors.hex_color(place), alpha=0.8, linewidths=0, label=label)
        everything.append(points)
    points = np.concatenate(everything) if everything else np.zeros((0, 2))
    low, high = (float(points.min()), float(points.max())) if points.size else (0.0, 1.0)
    margin = 0.04 * (high - low) or 0.05
    axis.plot([low - margin, high + margin], [low - margin, high + margin], color=GREY, linewidth=1, linestyle="--")
    axis.set_aspect("equal")
    axis.set_title(_plain(label_of(metric)), color=GREY, fontsize=10)
    axis.set_xlabel(_plain(names[0]), color=GREY, fontsize=9)
    axis.set_ylabel(_plain(names[1]), color=GREY, fontsize=9)
    if pairs:
        axis.legend(fontsize=8, frameon=False, labelcolor=GREY)
    return _finish(figure, format)
