"""What a search over settings found: a table for the terminal, trials.csv, and one page with pictures."""

import io
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jaxseg.evaluate import files, page
from jaxseg.space import Choice, Domain
from jaxseg.typing import UserError
from jaxseg.viz import parallel_coordinates, scores_by_trial

TABLE, PAGE = "trials.csv", "tune.html"
Row = dict[str, Any]

READING = """<p>A trial is one training; its score is the best validation score on the held-out cases while it trained.
The highest of many such scores is somewhat too high, since it was chosen for being the highest: score the best config
on cases that no trial has seen, or on other folds, before you report it. Trials that differ by less than two runs of
the same settings with other seeds would are not told apart.</p>"""


def write(folder: pathlib.Path, rows: Sequence[Row], domains: Mapping[str, Domain], *, name: str) -> None:
    """Writes trials.csv and tune.html, each under a temporary name that is then renamed.

    Args:
      folder: made if missing.
      rows: one a trial, best first: trial, state, score, steps, seconds, a value a field, reason.
      domains: what was searched.
      name: of the search, the page's title.

    Raises:
      UserError: the folder cannot be written.
    """
    texts = [{key: _shown(value) if key in domains else value for key, value in row.items()} for row in rows]
    sections = {
        "Best": _best(rows, domains),
        "Settings and scores": _coordinates(rows, domains),
        "Score by trial": _history(rows),
        "Trials": _trials(rows, domains),
        "What was searched": page.facts({field: _domain(domain) for field, domain in domains.items()}),
        "How to read this page": READING,
    }
    subtitle = f"Search over settings, written {time.strftime('%Y-%m-%d %H:%M')} by jaxseg"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.replace(folder / TABLE, files.csv_text(texts))
        files.replace(folder / PAGE, page.page(name, subtitle, sections))
    except OSError as error:
        raise UserError(f"The search cannot be written to {folder}: {error.strerror}; free space or rights.") from error


def table(rows: Sequence[Row], domains: Mapping[str, Domain], *, width: int = 140) -> str:
    """Returns the trials as a table for the terminal, best first."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    found = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("trial", "score", "steps", "minutes"):
        found.add_column(name, justify="right", no_wrap=True)
    for name in ("state", *domains, "reason"):
        found.add_column(name)
    for row in rows:
        values = (escape(_shown(row.get(field, ""))) for field in domains)
        reason = row["reason"] if row["state"] == "failed" else ""
        found.add_row(*_figures(row), row["state"], *values, escape(reason))
    text = io.StringIO()
    Console(file=text, width=width, color_system=None, force_terminal=False).print(found)
    return text.getvalue()


def _figures(row: Row) -> tuple[str, str, str, str]:
    """Number, score, steps and minutes for people."""
    return (
        str(row["trial"]),
        files.number(row["score"], digits=4),
        str(row["steps"]),
        files.number(row["seconds"] / 60, digits=1),
    )


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def _domain(domain: Domain) -> str:
    if isinstance(domain, Choice):
        return "one of " + ", ".join(domain.texts())
    kind = "whole numbers " if domain.whole else ""
    step = f" in steps of {domain.step:g}" if domain.step else ""
    return f"{kind}from {domain.low:g} to {domain.high:g}{step}" + (", logarithmic" if domain.log else "")


def _best(rows: Sequence[Row], domains: Mapping[str, Domain]) -> str:
    if not rows or rows[0]["state"] != "finished":
        return page.missing("No trial has finished yet.")
    first = rows[0]
    ends = [row["state"] for row in rows]
    counts = ", ".join(f"{ends.count(state)} {state}" for state in dict.fromkeys(ends))
    named = {"score": files.number(first["score"], digits=4), "trial": first["trial"], "of": counts}
    return page.facts({**named, **{field: _shown(first[field]) for field in domains}})


def _by_number(rows: Sequence[Row]) -> tuple[list[Row], list[float], list[bool]]:
    """Rows in the order of the trials, their scores, and which ended before their last step."""
    ordered = sorted(rows, key=lambda row: row["trial"])
    return ordered, [row["score"] for row in ordered], [row["state"] != "finished" for row in ordered]


def _coordinates(rows: Sequence[Row], domains: Mapping[str, Domain]) -> str:
    complete = [row for row in rows if all(field in row for field in domains)]
    ordered, scores, ended = _by_number(complete)
    values = {field: [row[field] for row in ordered] for field in domains}
    picture = parallel_coordinates(values, scores, domains=domains, ended=ended)
    caption = (
        "A line a trial, through its value of each field to its score; bluer is better, the best is orange; dashed "
        "ones did not run to their end."
    )
    return _figure(picture, caption, style="plot")


def _history(rows: Sequence[Row]) -> str:
    _, scores, ended = _by_number(rows)
    caption = "Scores in the order of the trials; hollow ones did not run to their end and count for no best."
    return _figure(scores_by_trial(scores, ended=ended), caption, style="plot narrow")


def _figure(picture: bytes | None, caption: str, *, style: str) -> str:
    if picture is None:
        return page.missing("There is no score yet.")
    return page.figure(page.image(picture, kind="image/svg+xml", describe=caption), caption, style=style)


def _trials(rows: Sequence[Row], domains: Mapping[str, Domain]) -> str:
    head = ("rank", "trial", "score", "steps", "minutes", "state", *domains, "reason")
    lines = []
    for rank, row in enumerate(rows, start=1):
        numbers = [row["trial"], row["score"], row["steps"], row["seconds"] / 60]
        cells = [page.Cell(str(rank), str(rank))]
        cells += [page.Cell(text, page.sort_value(float(value))) for text, value in zip(_figures(row), numbers)]
        cells.append(page.Cell(page.text(row["state"]), row["state"]))
        for field in domains:
            value = row.get(field, math.nan)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            cells.append(page.Cell(page.text(_shown(value)), page.sort_value(value) if number else _shown(value)))
        cells.append(page.Cell(page.text(row["reason"]), row["reason"]))
        lines.append(cells)
    if not lines:
        return page.missing("There are no trials yet.")
    note = (
        '<p class="faint">Best first; press a title to sort by it. Each lies in WORKDIR/trial_NNN, an ordinary run.</p>'
    )
    return note + page.table(head, lines, sorted_by=0)
