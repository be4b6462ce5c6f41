"""From rows of cases to means: what is left out is counted, and no mean goes without its n and interval."""

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Real

Summary = dict[str, float | int]
NOT_METRICS = ("case", "class")
CHUNK = 1_000_000  # resampled values held at a time


def aggregate(
    rows: Sequence[Mapping[str, Any]], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> dict[str, dict]:
    """Returns {"classes": {name: {metric: summary}}, "mean": {metric: summary}} over the cases.

    A summary holds mean, median, low, high, n, n_excluded, n_infinite. NaN (a class absent from both maps) is left out
    and counted in n_excluded. Infinite values (a surface distance with one side empty) are counted in n_infinite: they
    are part of the median, and not of the mean, its interval and n. The three counts add up to the number of rows.

    "mean" is over classes first: each case's values are averaged over its classes (NaN left out, one infinite value
    makes the case infinite), then the cases are summarised like a class.

    Args:
      rows: of `case_rows`, each with the "case" it belongs to; every other key with a number is a metric, and a row
        may lack some.
      confidence: of the bootstrap interval (percentile method) low..high of the mean; NaN where n < 2.
      resamples: bootstrap samples of cases.
      seed: of the resampling; the same for every class and metric.

    Raises:
      ValueError: a row lacks "class" or "case", or a pair of case and class comes twice.
    """
    options: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    table = by_case_and_class(rows)
    metrics = metric_names(rows)
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for (_, name), row in table.items():
        groups.setdefault(name, []).append(row)
    by_class: dict[str, dict[str, Summary]] = {name: {} for name in groups}
    for name, group in groups.items():
        for metric in metrics:
            values = [float(row[metric]) for row in group if metric in row]
            if values:
                by_class[name][metric] = summarise(values, **options)
    over_classes = {metric: summarise(list(case_means(table, metric).values()), **options) for metric in metrics}
    return {"classes": by_class, "mean": over_classes}


def by_case_and_class(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Returns the rows by (case, class), in their order.

    Raises:
      ValueError: a row lacks "class" or "case", or a pair comes twice.
    """
    table = {}
    for row in rows:
        if "case" not in row or "class" not in row:
            raise ValueError(f"Every row should have a case and a class; this one has {sorted(row)}.")
        key = str(row["case"]), str(row["class"])
        if key in table:
            raise ValueError(f"Case {key[0]!r} should have one row for class {key[1]!r}, and it has two.")
        table[key] = row
    return table


def metric_names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the keys that hold numbers, in order of first appearance; case, class and texts are none."""
    keys = {key: None for row in rows for key, value in row.items() if isinstance(value, numbers.Real)}
    return [key for key in keys if key not in NOT_METRICS]


def case_means(table: Mapping[tuple[str, str], Mapping[str, Any]], metric: str) -> dict[str, float]:
    """Returns each case's mean over its classes: NaN left out, infinite if any is, NaN if nothing is left."""
    values: dict[str, list[float]] = {}
    for (case, _), row in table.items():
        if metric in row:
            values.setdefault(case, []).append(float(row[metric]))
    means = {}
    for case, found in values.items():
        counted = [value for value in found if not np.isnan(value)]
        means[case] = float(np.mean(counted)) if counted else float("nan")
    return means


def finite_mean(values: Iterable[float]) -> float:
    """Returns the mean of the numbers that are finite; NaN where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def summarise(
    values: Sequence[float] | Real[np.ndarray, " N"], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Summary:
    """Returns mean, median, low, high, n, n_excluded and n_infinite of one list of values; see `aggregate`."""
    values = np.asarray(values, np.float64)
    counted = values[~np.isnan(values)]
    finite = counted[np.isfinite(counted)]
    low, high = bootstrap_interval(finite, confidence=confidence, resamples=resamples, seed=seed)
    return {
        "mean": float(finite.mean()) if finite.size else float("nan"),
        "median": float(np.median(counted)) if counted.size else float("nan"),
        "low": low,
        "high": high,
        "n": int(finite.size),
        "n_excluded": int(values.size - counted.size),
        "n_infinite": int(counted.size - finite.size),
    }


def bootstrap_interval(
    values: Float[np.ndarray, " N"], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Returns the bootstrap percentile interval of the mean of finite values; (NaN, NaN) of fewer than two.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence should lie between 0 and 1, not {confidence}.")
    if resamples < 1:
        raise ValueError(f"resamples should be 1 or more, not {resamples}.")
    if values.size < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK // values.size)
    means = [
        values[generator.integers(values.size, size=(min(step, resamples - start), values.size))].mean(axis=1)
        for start in range(0, resamples, step)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
