"""The files of an evaluation, WORKDIR/evaluation/{cases.csv, summary.json}, and the table for the terminal."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg import paths
from jaxseg.typing import UserError
from jaxseg.viz.curves import label_of

FOLDER, CASES, SUMMARY, OVERLAYS = "evaluation", "cases.csv", "summary.json", "overlays"
INSTANCE_METRICS = ("dsb_score", "f1_50", "f1_75", "precision_50", "recall_50", "pq", "sq", "rq", "aji")
PIXEL_METRICS = ("dice", "iou", "precision", "recall", "hd95_mm", "assd_mm", "nsd", "lesion_f1")
TABLE_METRICS = (*PIXEL_METRICS, *INSTANCE_METRICS, "count_error")
_NAMES = ("case", "class")
_TEXT = (*_NAMES, "method")  # never read as numbers: a case may be called 007
_INTEGER = re.compile(r"[+-]?\d+")

Row = dict[str, Any]


def write(workdir: str | paths.Path, rows: Sequence[Row], summary: Mapping[str, Any]) -> None:
    """Writes the results of a run into WORKDIR/evaluation; see `write_results`."""
    write_results(paths.path(workdir) / FOLDER, rows, summary)


def write_results(folder: str | paths.Path, rows: Sequence[Row], summary: Mapping[str, Any]) -> None:
    """Writes cases.csv (a row a case and class) and summary.json, each under a temporary name that is then renamed.

    Numbers keep all their digits; NaN is written "nan" and infinity "inf" in the table, null and "inf" in the JSON.

    Args:
      folder: the evaluation's own folder; made if missing.
      rows: from `evaluate_cases`.
      summary: from `metrics.aggregate`.

    Raises:
      UserError: the folder cannot be written.
    """
    folder = paths.path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace(folder / CASES, csv_text(rows))
        replace(folder / SUMMARY, json.dumps(jsonable(summary), indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(
            f"The evaluation cannot be written to {folder}: {error.strerror}; choose a --workdir that can be written."
        ) from error


def csv_text(rows: Sequence[Row]) -> str:
    """Returns a table as CSV: the columns of all rows in their order, "nan" where a row has none of that name."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(columns)
    lines.writerows([_cell(row.get(key, math.nan)) for key in columns] for row in rows)
    return text.getvalue()


def replace(path: paths.Path, text: str) -> None:
    """Writes a text file under a temporary name, then renames it: a file that exists is whole."""
    paths.write_text(path, text)


def _cell(value: Any) -> str:
    """Numbers in the fewest digits that read back as the same number."""
    if value is None:
        return "nan"
    if isinstance(value, float | np.floating):
        return repr(float(value))
    return str(value)


def _value(key: str, text: str) -> Any:
    if key in _TEXT:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def read_cases(path: str | paths.Path, *, names: Sequence[str] = _NAMES) -> list[Row]:
    """Reads cases.csv back into the rows that were written.

    Args:
      path: of the file.
      names: columns that it must have: what a row is about.

    Raises:
      UserError: the file is missing, is not such a table, or a line is cut short.
    """
    path = paths.path(path)
    if not path.is_file():
        raise UserError(f"There is no {path}; run --mode evaluate first.")
    lines = io.StringIO(path.read_bytes().decode(), newline="")
    header, *records = list(csv.reader(lines)) or [[]]
    if not set(names) <= set(header):
        raise UserError(
            f"{path} should have the columns {' and '.join(names)}, its first line is {','.join(header)[:80]!r}."
        )
    for number, record in enumerate(records, start=2):
        if len(record) != len(header):
            raise UserError(
                f"{path} should have {len(header)} columns, line {number} has {len(record)}; run --mode evaluate again."
            )
    return [{key: _value(key, text) for key, text in zip(header, record)} for record in records]


def read_summary(path: str | paths.Path) -> dict[str, Any]:
    """Reads summary.json; null becomes NaN and "inf" infinity again.

    Raises:
      UserError: the file is missing or is no JSON object.
    """
    path = paths.path(path)
    if not path.is_file():
        raise UserError(f"There is no {path}; run --mode evaluate first.")
    try:
        content = _numbers(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:  # also of bytes that are no text
        raise UserError(f"{path} is not valid JSON ({error}); run --mode evaluate again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold a JSON object, it holds {content!r:.40}; run --mode evaluate again.")
    return content


def jsonable(value: Any) -> Any:
    """Returns nested dicts and lists as strict JSON takes them: NaN is null, infinity "inf", numpy is plain."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [jsonable(item) for item in value]
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return math.nan if value is None else float(value) if value in ("inf", "-inf") else value


def read_log(path: str | paths.Path) -> tuple[list[Row], int]:
    """Returns the rows of metrics.jsonl and how many lines could not be read; a killed process may leave one."""
    rows, broken = [], 0
    for line in paths.path(path).read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif line.strip():
            broken += 1
    return rows, broken


def times(values: Iterable[float]) -> str:
    """Returns sizes along the axes as people write them: "32 x 64 x 64"."""
    return " x ".join(f"{float(value):.4g}" if value % 1 else str(int(value)) for value in values)


def number(value: float | None, *, digits: int = 3) -> str:
    """A figure for people: "0.912", "inf", or "n/a" where nothing could be measured."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "n/a"
    return f"{value:.{digits}f}" if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def figures(entry: Mapping[str, Any], *, digits: int = 3) -> dict[str, str]:
    """The texts of one entry of the summary: "mean", "interval", "median", "n", "excluded", "infinite"."""
    return {
        "mean": number(entry["mean"], digits=digits),
        "interval": f"{number(entry['low'], digits=digits)} to {number(entry['high'], digits=digits)}",
        "median": number(entry["median"], digits=digits),
        "n": str(entry["n"]),
        "excluded": str(entry.get("n_excluded", 0)),
        "infinite": str(entry.get("n_infinite", 0)),
    }


def groups(summary: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Returns (class name, metric -> entry) of every class, then of the mean over classes if there are several."""
    found = list(summary["classes"].items())
    if len(found) > 1 and summary.get("mean"):
        found.append(("mean of classes", summary["mean"]))
    return found


def summary_table(
    summary: Mapping[str, Any],
    *,
    metrics: Sequence[str] = TABLE_METRICS,
    width: int = 100,
) -> str:
    """Returns the summary as a table for the terminal; every mean stands beside its n.

    Args:
      summary: from `metrics.aggregate` or `read_summary`.
      metrics: those to show; ones that were not measured are left out.
      width: of the terminal, in characters.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class")
    table.add_column("metric")
    for name in ("mean", "95 % interval", "median", "n", "excluded", "infinite"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, entries in groups(summary):
        shown = [metric for metric in metrics if metric in entries]
        for place, metric in enumerate(shown):
            cells = figures(entries[metric]).values()
            last = place == len(shown) - 1
            table.add_row("" if place else escape(name), label_of(metric), *cells, end_section=last)
    page = io.StringIO()
    console = Console(file=page, width=width, color_system=None, force_terminal=False)
    console.print(table)
    return page.getvalue()
