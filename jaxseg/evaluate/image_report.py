"""What a run that makes images has left behind, as parts of a page: figures, pictures, examples through training."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxseg import paths
from jaxseg.evaluate import files, page
from jaxseg.evaluate.evaluator import file_stem
from jaxseg.evaluate.image_quality import FIGURES, KIND, NETWORK, interval, number, p_value, read_images, verdict
from jaxseg.evaluate.page import Cell
from jaxseg.evaluate.set_quality import set_table
from jaxseg.typing import UserError
from jaxseg.viz import colors, player_curves, score_dots
from jaxseg.viz.curves import label_of

Row = dict[str, Any]
PANELS, PICTURES, WARNINGS, SETS = "panels", "pictures", "warnings.txt", "sets.json"
MOST_PANELS, MOST_WARNINGS = 8, 20
FEW_CASES = 10  # below this an interval says little
_STEP = re.compile(r"step_(\d+)")

READING = """
<ul>
<li><b>PSNR</b> is the ratio of the largest possible difference to the mean squared one, in decibels: 6 dB more is half
the error. It favours smooth images. <b>MAE</b> is the mean absolute difference, of intensities from -1 to 1; smaller is
better.</li>
<li><b>SSIM</b> compares brightness, contrast and structure in small windows; 1 is perfect, 0 is nothing alike. It sees
blur that PSNR forgives.</li>
<li>All three compare with the true image of the same patient. A made image may look real and be wrong, or be right and
look smooth: look at the pictures too, and remember that what a network adds was learnt from other patients.</li>
<li>The simple methods beside the network cost nothing. The <b>gain</b> is the mean over cases of the network's figure
minus theirs in the same case; the network is better or worse where the 95 % interval leaves out 0.</li>
<li>Below each mean stands its <b>95 % interval</b> (bootstrap over cases): how far the mean may move with other
patients of the same kind. It says nothing about other scanners or hospitals. <b>n</b> counts the cases in it.</li>
<li>PSNR is <b>infinite</b> where an image equals the true one; it is left out of the mean and counted beside it. What
cannot be measured (SSIM of fewer than 11 pixels) is <b>excluded</b> and counted.</li>
<li>All pictures have one grey scale, black -1 and white 1, and all differences one colour scale.</li>
<li><b>Players</b>: while both learn, the discriminator is right more often than a guess and less often than always. Its
accuracy at 1 for long means that the generator is told nothing; a diversity far below that of real images, that it
makes the same image again and again.</li>
</ul>
"""


def is_of_images(workdir: str | paths.Path) -> bool:
    """Whether a run makes images: its evaluation says so, or it has none and has left panels.

    Raises:
      UserError: the summary of the evaluation is not JSON.
    """
    folder = paths.path(workdir) / files.FOLDER
    if not _is_scored(folder):
        return (paths.path(workdir) / PANELS).is_dir()
    return files.read_summary(folder / files.SUMMARY).get("kind") == KIND


def _is_scored(folder: paths.Path) -> bool:
    return (folder / files.CASES).is_file() and (folder / files.SUMMARY).is_file()


def sections(workdir: str | paths.Path, *, warnings: Sequence[str] = ()) -> tuple[dict[str, str], list[Row]]:
    """Returns the parts of the page about the evaluation, in order, and its rows.

    Args:
      workdir: the run's folder.
      warnings: of the training, see `training_warnings`.

    Raises:
      UserError: a file of the evaluation is damaged.
    """
    folder = paths.path(workdir) / files.FOLDER
    if not _is_scored(folder):
        sets = folder / SETS
        done = (
            _sets(sets) if sets.is_file() else page.missing("This run has not been evaluated yet: run --mode evaluate.")
        )
        found = {"Results": done}
        return (found | {"Warnings": _warned(warnings)} if warnings else found), []
    rows, summary = read_images(folder / files.CASES), files.read_summary(folder / files.SUMMARY)
    try:
        found = {
            "Results": _results(summary),
            "Warnings": _warned([*_doubts(summary), *warnings]),
            "Pictures": _gallery(folder, rows),
            "Distribution": _distribution(rows),
            "Cases": _cases(rows, {_case_of(path): path.stem for path in _pictures(folder)}),
        }
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder} does not hold what the report shows ({error!r:.80}); run --mode evaluate again."
        ) from error
    return found, rows


def _sets(path: paths.Path) -> str:
    """What sets of made images were found to be, as the command printed it."""
    try:
        table = set_table(json.loads(path.read_text()))
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error!r:.80}); run --mode evaluate again.") from error
    return f"<pre>{page.text(table)}</pre>"


def _results(summary: Mapping[str, Any]) -> str:
    """A row a method with its figures, then a row a simple method with the network's gain over it."""
    lines = [
        [_method(method, place), *(_figures_cell(figure, entries[figure]) for figure in FIGURES)]
        for place, (method, entries) in enumerate(summary["methods"].items())
    ]
    note = '<p class="faint">Mean over cases; below it the 95 % interval and n, the number of cases in the mean.</p>'
    parts = [note, page.table(["method", *map(_title, FIGURES)], lines)]
    if summary["gains"]:
        places = list(summary["methods"])
        gains = [
            [_method(method, places.index(method)), *(_gain_cell(figure, entries[figure]) for figure in FIGURES)]
            for method, entries in summary["gains"].items()
        ]
        parts.append("<h3>Gain of the network</h3>")
        parts.append(
            '<p class="faint">The network\'s figure minus that of the method in the same case, mean over cases; '
            "the 95 % interval, p of Wilcoxon's test and n.</p>"
        )
        parts.append(page.table(["network minus", *map(_title, FIGURES)], gains))
    return "".join(parts)


def _title(figure: str) -> str:
    return f"{label_of(figure)}, {'smaller' if figure == 'mae' else 'larger'} is better"


def _method(method: str, place: int) -> Cell:
    key = f'<span class="key" style="background:{colors.hex_color(place + 1)}"></span>'
    return Cell(key + page.text(method), method)


def _figures_cell(figure: str, entry: Mapping[str, Any]) -> Cell:
    span = "" if math.isnan(entry["low"]) else interval(figure, entry)
    return _cell(number(figure, entry["mean"]), [span, *_counts(entry)], entry["mean"])


def _gain_cell(figure: str, entry: Mapping[str, Any]) -> Cell:
    span = "" if math.isnan(entry["low"]) else interval(figure, entry, sign=True)
    p = "" if math.isnan(entry["wilcoxon_p"]) else f"p {p_value(entry['wilcoxon_p'])}"
    shown = number(figure, entry["mean"], sign=True)
    return _cell(shown, [span, p, *_counts(entry), verdict(figure, entry)], entry["mean"])


def _counts(entry: Mapping[str, Any]) -> list[str]:
    notes = [f"n {entry['n']}"]
    notes += [f"{entry['n_infinite']} infinite"] if entry["n_infinite"] else []
    return notes + ([f"{entry['n_excluded']} excluded"] if entry["n_excluded"] else [])


def _cell(shown: str, notes: Sequence[str], value: float) -> Cell:
    small = "".join(f"<small>{page.text(note)}</small>" for note in notes if note)
    return Cell(f"<strong>{shown}</strong>{small}", page.sort_value(value))


def _doubts(summary: Mapping[str, Any]) -> list[str]:
    """What a reader of the means should know before believing them."""
    found = []
    for method, entries in summary["gains"].items():
        for figure, entry in entries.items():
            if entry["n"] and verdict(figure, entry) != "better":
                span = interval(figure, entry, sign=True)
                found.append(
                    f"The network is not clearly better than {method} in {label_of(figure)}: the difference is "
                    f"{number(figure, entry['mean'], sign=True)} (95 % interval {span}, n {entry['n']})."
                )
    for method, entries in summary["methods"].items():
        for figure, entry in entries.items():
            if entry["n_infinite"]:
                found.append(
                    f"{method}: {label_of(figure)} is infinite in {entry['n_infinite']} of {summary['cases']} cases, "
                    "whose image equals the true one; they are not part of the mean."
                )
            if entry["n_excluded"]:
                found.append(
                    f"{method}: {label_of(figure)} could not be measured in {entry['n_excluded']} of "
                    f"{summary['cases']} cases."
                )
    if summary["cases"] < FEW_CASES:
        found.append(f"The means rest on {summary['cases']} cases; their intervals are a rough guess.")
    return found


def _warned(lines: Sequence[str]) -> str:
    if lines:
        return page.warning(lines)
    return "<p>None: the network is better than every simple method in every figure, and no value is left out.</p>"


def training_warnings(workdir: str | paths.Path, record: Mapping[str, Any]) -> list[str]:
    """Returns what was said while training: the lines of WORKDIR/warnings.txt, or "warnings" of the run's record."""
    path = paths.path(workdir) / WARNINGS
    if path.is_file():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    else:
        kept = record.get("warnings") or []
        lines = [kept] if isinstance(kept, str) else list(map(str, kept))
    lines = [line.strip() for line in lines if line.strip()]
    if len(lines) <= MOST_WARNINGS:
        return lines
    return [*lines[:MOST_WARNINGS], f"... and {len(lines) - MOST_WARNINGS} more in {WARNINGS}."]


def _pictures(folder: paths.Path) -> list[paths.Path]:
    """Pictures of the worst cases, then of the best, each in their order."""
    found = [path for name in (files.OVERLAYS, PICTURES) for path in (folder / name).glob("*.png")]
    return sorted(found, key=lambda path: (not path.stem.startswith("worst"), path.stem))


def _case_of(picture: paths.Path) -> str:
    """The file-system form of the case's name in worst_01_<case>.png."""
    return picture.stem.split("_", 2)[-1]


def _gallery(folder: paths.Path, rows: Sequence[Row]) -> str:
    names = {file_stem(row["case"]): row for row in rows if row["method"] == NETWORK}
    shown = []
    for path in _pictures(folder):
        row = names.get(_case_of(path))
        caption = path.stem.replace("_", " ")
        if row is not None and path.stem.split("_")[1].isdigit():
            kind, rank = path.stem.split("_")[:2]
            caption = f"{kind} {int(rank)}: {row['case']}, {label_of('psnr_db')} {number('psnr_db', row['psnr_db'])}"
        shown.append(_figure(path, caption, anchor=f"overlay-{path.stem}"))
    return f'<div class="gallery">{"".join(shown)}</div>' if shown else page.missing("There are no pictures.")


def _figure(path: paths.Path, caption: str, *, anchor: str = "") -> str:
    """A picture of a file for the page; a file that is no picture is named."""
    try:
        picture = page.as_jpeg(path.read_bytes())
    except OSError:  # Pillow's UnidentifiedImageError is one
        return page.missing(f"{path.name} is not a picture that can be read.")
    return page.figure(page.image(picture, kind="image/jpeg", describe=caption), caption, anchor=anchor)


def _distribution(rows: Sequence[Row]) -> str:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    parts = []
    for figure in ("psnr_db", "ssim"):
        plot = score_dots({m: [row[figure] for row in rows if row["method"] == m] for m in methods}, metric=figure)
        if plot is not None:
            caption = f"{label_of(figure)} of every case, one dot each; the bar is the median."
            picture = page.image(plot, kind="image/svg+xml", describe=caption)
            parts.append(page.figure(picture, caption, style="plot narrow"))
    return "".join(parts) or page.missing("There is nothing to plot.")


def _cases(rows: Sequence[Row], links: Mapping[str, str]) -> str:
    """A sortable table: one row a case, lowest PSNR of the network first."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    table: dict[str, dict[str, Row]] = {}
    for row in rows:
        table.setdefault(row["case"], {})[row["method"]] = row

    def of(case: str, method: str, figure: str) -> float:
        return float(table[case].get(method, {}).get(figure, math.nan))

    columns = [(NETWORK, figure) for figure in FIGURES]
    columns += [(method, "psnr_db") for method in methods if method != NETWORK]
    lines = []
    for case in sorted(
        table, key=lambda case: (math.isnan(of(case, NETWORK, "psnr_db")), of(case, NETWORK, "psnr_db"))
    ):
        stem = links.get(file_stem(case))
        label = page.text(case) if stem is None else f'<a href="#overlay-{page.text(stem)}">{page.text(case)}</a>'
        cells = [Cell(label, case)]
        for method, figure in columns:
            value = of(case, method, figure)
            cells.append(Cell(number(figure, value), page.sort_value(value)))
        lines.append(cells)
    head = ["case", *(label_of(figure) for figure in FIGURES), *(f"{label_of(f)} of {m}" for m, f in columns[3:])]
    note = '<p class="faint">Lowest first; press a title to sort by it. Linked cases have a picture above.</p>'
    return note + page.table(head, lines, sorted_by=1)


def spread(count: int, most: int) -> list[int]:
    """Returns at most so many places of 0 .. count - 1, evenly spread, with the first and the last."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def panels_section(workdir: str | paths.Path) -> dict[str, str]:
    """Returns {"Training panels": the same examples through the training}; {} where WORKDIR/panels holds none."""
    steps = {path: _STEP.fullmatch(path.stem) for path in (paths.path(workdir) / PANELS).glob("*.png")}
    found = sorted((int(step[1]), path) for path, step in steps.items() if step)
    if not found:
        return {}
    shown = [found[place] for place in spread(len(found), MOST_PANELS)]
    some = f" {len(shown)} of {len(found)} panels are shown." if len(shown) < len(found) else ""
    note = f'<p class="faint">The same examples through the training, first to last.{some}</p>'
    figures = "".join(_figure(path, f"step {step:,}") for step, path in shown)
    return {"Training panels": f'{note}<div class="gallery">{figures}</div>'}


def players_section(rows: Sequence[Row], *, warnings: Sequence[str] = ()) -> dict[str, str]:
    """Returns {"Players": curves of generator and discriminator}; {} of a run without a discriminator.

    Args:
      rows: of metrics.jsonl.
      warnings: of the training, where no other part of the page has them.
    """
    plot = player_curves(rows)
    parts = [page.warning(warnings)] if warnings else []
    if plot is not None:
        caption = "Generator and discriminator while they learn from each other; pale lines are single steps."
        picture = page.image(plot, kind="image/svg+xml", describe=caption)
        parts.append(page.figure(picture, caption, style="plot"))
    return {"Players": "".join(parts)} if parts else {}
