"""What episodes came to, as parts of a page: the sections "Episodes" and "Clicks"."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg import metrics, paths
from jaxseg.evaluate import files, page
from jaxseg.evaluate.episodes import CLICKS, FOLDER, STEPS, SUMMARY, inventions, mean_texts, signed
from jaxseg.evaluate.page import Cell
from jaxseg.typing import UserError
from jaxseg.viz import by_step

READING_STEPS = """<p>Every case was refined step by step, each step by the actions that the agent holds best.
<b>Dice</b> is the mean over cases of each case's mean over its classes; the <b>change</b> is paired, case by case,
against the same case at step 0, the mask that the agent was given: where its interval lies above 0, the steps help on
cases like these. Cases whose Dice fell are counted as <b>worse</b>: a mean may hide them. Steps beyond those trained
show whether it does harm to go on. The <b>reward</b> is what the agent was trained to gain in a step, in its own
unit.</p>"""
READING_CLICKS = """<p>A simulated annotator clicks in the middle of what is most wrong; the agent refines the mask; and
so on. <b>Clicks to reach</b> a Dice is the mean over cases of the number of clicks after which the case first reached
it. A case that never did counts as one click more than were made, so that the mean is too low where many did not. It is
the NoC of interactive segmentation (Sofiiuk et al. 2022, RITM) but for two things: theirs is by IoU, and counts such a
case with as many clicks as were made.</p>"""
READING_PICTURES = """<p>The solid line is the truth, the dashed one the mask after the step. What was done to the whole
image stands above it. Where every pixel acts, there are maps below: what each pixel gained in the step (green) or lost
(purple), and what it did: blue raised its probability, red lowered it, grey left or smoothed it. The white outline in
them is the truth.</p>"""


def sections(folder: str | paths.Path) -> dict[str, str]:
    """Returns the sections "Episodes" and "Clicks" of a page, where the evaluation has left them; {} where not.

    Args:
      folder: the evaluation's.

    Raises:
      UserError: a file is missing, damaged, or lacks what the section shows.
    """
    folder = paths.path(folder) / FOLDER
    if not (folder / SUMMARY).is_file():
        return {}
    summary = files.read_summary(folder / SUMMARY)
    try:
        found = {"Episodes": _episodes(folder, summary)}
        if "clicks" in summary:
            found["Clicks"] = _clicks(folder, summary["clicks"])
    except UserError:  # names another file
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise UserError(
            f"{folder / SUMMARY} does not hold what the report shows ({why}); run --mode evaluate again."
        ) from error
    return found


def _episodes(folder: paths.Path, summary: Mapping[str, Any]) -> str:
    trained, entries = int(summary["trained_steps"]), summary["steps"]
    head = ("step", "Dice", "change since the start", "better", "equal", "worse", "reward")
    rows = []
    for entry in entries:
        beyond = " (beyond training)" if entry["step"] > trained else ""
        cells = [Cell(f"{entry['step']}{beyond}"), _mean_cell(entry["dice"])]
        if "change" in entry:
            cells += [_change_cell(entry["change"]), *(Cell(str(entry[key])) for key in ("better", "equal", "worse"))]
            cells.append(_mean_cell(entry["reward"], digits=4))
        rows.append([*cells, *[Cell("–")] * (len(head) - len(cells))])
    note = (
        '<p class="faint">Means over cases; below each its 95 % interval (bootstrap over cases) and n, the number of '
        f"cases in it. Steps of an episode in training: {trained}.</p>"
    )
    said = inventions(entries)
    note += page.warning([said]) if said else ""
    curve = _curve(folder / STEPS, "step", len(entries), trained=trained)
    return READING_STEPS + note + page.table(head, rows) + curve + _gallery(folder, summary.get("pictures", []))


def _mean_cell(entry: Mapping[str, Any], *, digits: int = 3) -> Cell:
    mean, interval, number = mean_texts(entry, digits=digits)
    between = f"<small>{interval}</small>" if math.isfinite(entry["low"]) else ""
    excluded = f"<small>{entry['n_excluded']} excluded</small>" if entry.get("n_excluded") else ""
    return Cell(f"<strong>{mean}</strong>{between}<small>n {number}</small>{excluded}")


def _change_cell(change: Mapping[str, Any]) -> Cell:
    interval = ""
    if math.isfinite(change["low"]):
        interval = f"<small>{signed(change['low'])} to {signed(change['high'])}</small>"
    excluded = f"<small>{change['n_excluded']} excluded</small>" if change.get("n_excluded") else ""
    return Cell(
        f"<strong>{signed(change['mean_difference'])}</strong>{interval}<small>n {change['n']}</small>{excluded}"
    )


def _clicks(folder: paths.Path, found: Mapping[str, Any]) -> str:
    by_click, goals = found["by_click"], found["goals"]
    dice = page.table(["clicks", "Dice"], [[Cell(str(e["click"])), _mean_cell(e["dice"])] for e in by_click])
    head = ("Dice to reach", "cases that reach it", "share", "clicks to reach it", "never")
    rows = [
        [
            Cell(f"{goal['dice']:g}"),
            Cell(f"{goal['reached']} of {goal['n']}"),
            Cell(files.number(goal["share"], digits=2)),
            _mean_cell(goal["clicks"], digits=2),
            Cell(str(goal["never"])),
        ]
        for goal in goals
    ]
    return READING_CLICKS + page.table(head, rows) + dice + _curve(folder / CLICKS, "click", len(by_click))


def _curve(path: paths.Path, label: str, count: int, *, trained: int | None = None) -> str:
    """The plot of the rows of a table that was written beside the summary."""
    rows = files.read_cases(path, names=("case", "class", label, "dice"))
    values: dict[str, list[list[float]]] = {}
    for row in rows:
        if row[label] not in range(count) or not isinstance(row["dice"], int | float):
            found = f"{label} {row[label]} with the Dice {row['dice']}"
            raise UserError(
                f"{path} should hold {label}s up to {count - 1}, it has {found}; run --mode evaluate again."
            )
        values.setdefault(row["case"], [[] for _ in range(count)])[int(row[label])].append(float(row["dice"]))
    dice = np.array([[metrics.finite_mean(at) for at in steps] for steps in values.values()]).reshape(-1, count)
    caption = f"Mean Dice by {label} with its 95 % interval, and its change since {label} 0; a thin line a case."
    picture = by_step(dice, trained=trained, label=label)
    if picture is None:
        return page.missing(f"There are too few {label}s or scores to plot.")
    return page.figure(page.image(picture, kind="image/svg+xml", describe=caption), caption, style="plot")


def _gallery(folder: paths.Path, pictures: Sequence[Mapping[str, str]]) -> str:
    parts = []
    for entry in pictures:
        path = folder / paths.path(entry["file"]).name
        if not path.is_file():
            parts.append(page.missing(f"The picture of {entry['name']} is missing."))
            continue
        shown = page.image(page.as_jpeg(path.read_bytes()), kind="image/jpeg", describe=f"episode: {entry['name']}")
        parts.append(page.figure(shown, entry["name"]))
    return READING_PICTURES + "".join(parts) if parts else ""
