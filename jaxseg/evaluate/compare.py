"""Two evaluated runs, paired case by case: how much the second differs, with an interval and a test."""

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxseg import metrics as measures
from jaxseg.evaluate import files
from jaxseg.typing import UserError
from jaxseg.viz import paired_scatter
from jaxseg.viz.curves import label_of

PIXELS = ("dice", "hd95_mm")
OBJECTS = ("dsb_score", "f1_50", "f1_75", "pq", "aji", "dice")


def compare_runs(
    workdir_a: str | pathlib.Path,
    workdir_b: str | pathlib.Path,
    *,
    metrics: Sequence[str] | None = None,
    scatter: str | pathlib.Path | None = None,
    width: int = 110,
) -> tuple[str, dict[str, Any]]:
    """Compares the scores in two workdirs on the cases and classes that both have; differences are B minus A.

    Args:
      workdir_a: the first run, with evaluation/cases.csv.
      workdir_b: the second run.
      metrics: what to compare; one that either run did not measure is left out and named. None: `OBJECTS` where both
        runs count objects, else `PIXELS`.
      scatter: where to write a plot of A against B (by the first metric): .svg or .png; None writes none.
      width: of the table, in characters.

    Returns:
      The table as text, and {"a", "b", "metrics": {metric: result of `metrics.compare`}, "left_out": [...]}, which
      `files.jsonable` makes ready for JSON.

    Raises:
      UserError: a run is not evaluated, no case and class is in both, or neither has any of the metrics.
    """
    sides = [_rows(workdir) for workdir in (workdir_a, workdir_b)]
    if not {row["case"] for row in sides[0]} & {row["case"] for row in sides[1]}:
        raise UserError(
            f"{workdir_a} and {workdir_b} have no case in common ({_some(sides[0])}; {_some(sides[1])}); "
            "evaluate both on the same cases."
        )
    if metrics is None:
        counted = all(any(OBJECTS[0] in row for row in rows) for rows in sides)
        metrics = OBJECTS if counted else PIXELS
    shared = [metric for metric in metrics if all(any(metric in row for row in rows) for rows in sides)]
    if not shared:
        raise UserError(f"Not both runs have {' or '.join(metrics)}; evaluate both with the same settings.")
    results = {metric: measures.compare(*sides, metric=metric) for metric in shared}
    names = _names(workdir_a, workdir_b)
    left_out = [metric for metric in metrics if metric not in shared]
    if scatter is not None:
        _write_scatter(pathlib.Path(scatter), sides, shared[0], names)
    result = {"a": names[0], "b": names[1], "metrics": results, "left_out": left_out}
    return _table(result, width=width), result


def _rows(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
    path = pathlib.Path(workdir) / files.FOLDER / files.CASES
    if not path.is_file():
        raise UserError(
            f"{workdir} has no {files.FOLDER}/{files.CASES}; run --mode evaluate --workdir {workdir} first."
        )
    rows = files.read_cases(path)
    if not rows:
        raise UserError(f"{path} holds no scores; run --mode evaluate --workdir {workdir} again.")
    return rows


def _some(rows: Sequence[Mapping[str, Any]]) -> str:
    cases = list(dict.fromkeys(row["case"] for row in rows))
    return ", ".join(cases[:3]) + (", ..." if len(cases) > 3 else "")


def _names(workdir_a: str | pathlib.Path, workdir_b: str | pathlib.Path) -> tuple[str, str]:
    """The folders' own names, with their parents' where they are alike."""
    a, b = (pathlib.Path(workdir).resolve() for workdir in (workdir_a, workdir_b))
    return (a.name, b.name) if a.name != b.name else (f"{a.parent.name}/{a.name}", f"{b.parent.name}/{b.name}")


def _write_scatter(path: pathlib.Path, sides: Sequence[Sequence[Mapping]], metric: str, names: tuple[str, str]) -> None:
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("svg", "png"):
        raise UserError(f"The scatter plot should end in .svg or .png, {path.name!r} does not.")
    first, second = ({(row["case"], row["class"]): row for row in rows if metric in row} for rows in sides)
    pairs: dict[str, list[tuple[float, float]]] = {}
    for key, row in first.items():
        if key in second:
            pairs.setdefault(key[1], []).append((float(row[metric]), float(second[key][metric])))
    path.write_bytes(paired_scatter(pairs, metric=metric, names=names, format=kind))


def _table(result: Mapping[str, Any], *, width: int) -> str:
    """Every difference beside its n; the unit of the last line of a metric is the case."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("metric", "class"):
        table.add_column(name)
    for name in ("A", "B", "B - A", "95 % interval", "p", "n", "excluded", "infinite"):
        table.add_column(name, justify="right", no_wrap=True)
    for metric, found in result["metrics"].items():
        lines = list(found["classes"].items())
        lines += [("all (mean a case)", found)] if len(lines) > 1 else []
        for place, (name, entry) in enumerate(lines):
            table.add_row("" if place else escape(label_of(metric)), escape(name), *_cells(entry))
    page = io.StringIO()
    console = Console(file=page, width=width, color_system=None, force_terminal=False)
    console.print(f"A: {escape(result['a'])}\nB: {escape(result['b'])}\n", highlight=False)
    console.print(table)
    for note in _notes(result):
        console.print(escape(note), highlight=False)
    return page.getvalue()


def _cells(entry: Mapping[str, Any]) -> list[str]:
    p = entry["wilcoxon_p"]
    return [
        files.number(entry["mean_a"]),
        files.number(entry["mean_b"]),
        files.number(entry["mean_difference"])
        if not entry["mean_difference"] > 0
        else f"+{entry['mean_difference']:.3f}",
        f"{files.number(entry['low'])} to {files.number(entry['high'])}",
        "<0.001" if p < 0.001 else files.number(p),
        str(entry["n"]),
        str(entry["n_excluded"]),
        str(entry["n_infinite"]),
    ]


def _notes(result: Mapping[str, Any]) -> list[str]:
    notes = [
        "",
        "Interval: bootstrap over cases. p: Wilcoxon signed-rank test, two-sided, not corrected for several tests.",
    ]
    first = next(iter(result["metrics"].values()))
    if first["unpaired_a"] or first["unpaired_b"]:
        notes.append(
            f"Not paired and left out: {first['unpaired_a']} rows (case and class) of A, {first['unpaired_b']} of B."
        )
    if result["left_out"]:
        notes.append(f"Not measured in both runs and left out: {', '.join(result['left_out'])}.")
    return notes
