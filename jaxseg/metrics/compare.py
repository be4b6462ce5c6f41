"""Two methods on the same cases: paired differences with an interval and a test."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxseg.metrics.aggregate import bootstrap_interval, by_case_and_class, case_means, metric_names
from jaxseg.typing import UserError


def compare(
    rows_a: Sequence[Mapping[str, Any]],
    rows_b: Sequence[Mapping[str, Any]],
    *,
    metric: str = "dice",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns how B differs from A on the pairs (case, class) that both have; differences are B minus A.

    The result holds, over all classes, mean_a, mean_b, mean_difference, low, high, wilcoxon_p, n, n_excluded and
    n_infinite, and besides metric, unpaired_a, unpaired_b (rows without a partner) and classes: {name: same figures}.
    A pair with a NaN on either side is left out (n_excluded). A pair with an infinite value (n_infinite) is left out of
    means, interval and n, but not of the test, which goes by ranks: infinite against finite is the largest difference,
    infinite against infinite is none.

    Over all classes the unit is the case: its pairs without NaN are averaged over classes on each side first, because
    the classes of one patient are not independent.

    Args:
      rows_a: rows with case, class and `metric`.
      rows_b: likewise.
      metric: key that is compared.
      confidence: of the bootstrap interval low..high of the mean difference; NaN where n < 2.
      resamples: bootstrap samples.
      seed: of the resampling.

    Raises:
      UserError: nothing pairs, or one side does not have the metric.
    """
    options: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    a, b = _with_metric(rows_a, metric, "first"), _with_metric(rows_b, metric, "second")
    pairs = [key for key in a if key in b]
    if not pairs:
        raise UserError(
            f"Nothing to compare: no case and class of the first {_example(a)} is in the second {_example(b)}; "
            "both should be scores of the same cases with the same class names."
        )
    classes = {}
    for name in dict.fromkeys(name for _, name in pairs):
        keys = [key for key in pairs if key[1] == name]
        classes[name] = _difference(
            *(np.array([float(side[key][metric]) for key in keys]) for side in (a, b)), **options
        )
    return {
        "metric": metric,
        **_overall(a, b, pairs, metric, **options),
        "unpaired_a": len(a) - len(pairs),
        "unpaired_b": len(b) - len(pairs),
        "classes": classes,
    }


def _with_metric(rows: Sequence[Mapping[str, Any]], metric: str, side: str) -> dict[tuple[str, str], Mapping[str, Any]]:
    table = {key: row for key, row in by_case_and_class(rows).items() if metric in row}
    if rows and not table:
        raise UserError(f"The {side} scores have no metric {metric!r}; they have {', '.join(metric_names(rows))}.")
    return table


def _example(table: Mapping[tuple[str, str], Any]) -> str:
    return f"({len(table)} rows, such as {next(iter(table))})" if table else "(0 rows)"


def _overall(
    a: Mapping[tuple[str, str], Mapping[str, Any]],
    b: Mapping[tuple[str, str], Mapping[str, Any]],
    pairs: Sequence[tuple[str, str]],
    metric: str,
    **options: Any,
) -> dict[str, float | int]:
    """Returns the figures over cases; a class counts in a case only if both sides have a value for it."""
    both = [key for key in pairs if not np.isnan(float(a[key][metric]) + float(b[key][metric]))]
    means = [case_means({key: side[key] for key in both}, metric) for side in (a, b)]
    cases = list(dict.fromkeys(case for case, _ in pairs))
    values = (np.array([side.get(case, np.nan) for case in cases]) for side in means)
    return _difference(*values, **options)


def _difference(a: Float[np.ndarray, " N"], b: Float[np.ndarray, " N"], **options: Any) -> dict[str, float | int]:
    known = ~(np.isnan(a) | np.isnan(b))
    finite = np.isfinite(a) & np.isfinite(b)
    number = int(np.count_nonzero(finite))
    low, high = bootstrap_interval(b[finite] - a[finite], **options)
    return {
        "mean_a": float(a[finite].mean()) if number else float("nan"),
        "mean_b": float(b[finite].mean()) if number else float("nan"),
        "mean_difference": float((b[finite] - a[finite]).mean()) if number else float("nan"),
        "low": low,
        "high": high,
        "wilcoxon_p": _wilcoxon(a[known], b[known]),
        "n": number,
        "n_excluded": int(np.count_nonzero(~known)),
        "n_infinite": int(np.count_nonzero(known & ~finite)),
    }


def _wilcoxon(a: Float[np.ndarray, " N"], b: Float[np.ndarray, " N"]) -> float:
    """Returns the two-sided p of the signed-rank test; 1 where nothing differs, NaN where there is no pair."""
    if not a.size:
        return float("nan")
    import scipy.stats  # half a second, and only comparisons need it

    differing = a != b  # equal pairs, infinite ones too, carry no sign
    if not differing.any():
        return 1.0
    return float(scipy.stats.wilcoxon(b[differing] - a[differing]).pvalue)
