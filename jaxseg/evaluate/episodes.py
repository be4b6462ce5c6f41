"""Episodes on held-out cases: Dice by step and by click, against the start; files, a table, sections of the report."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxseg import metrics, paths
from jaxseg.evaluate import files, page
from jaxseg.evaluate.evaluator import file_stem
from jaxseg.evaluate.page import Cell
from jaxseg.typing import UserError
from jaxseg.viz import by_step

FOLDER, STEPS, CLICKS, SUMMARY = "episodes", "steps.csv", "clicks.csv", "summary.json"
GOALS = (0.8, 0.9)  # Dice that clicks should reach
_EQUAL = 1e-9  # Dice that differs by less is equal: means over classes are rounded

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


class Played(NamedTuple):
    """What happened to one case.

    Attributes:
      case: its name.
      dice: at the start and after each step, of every foreground class; NaN where a class is in neither map.
      rewards: of each step: the mean over the image.
      clicks: Dice without a click, after the first, ...; None where nobody clicked.
    """

    case: str
    dice: Float[np.ndarray, "n K"]
    rewards: Float[np.ndarray, " T"]
    clicks: Float[np.ndarray, "m K"] | None = None


def write(
    folder: str | paths.Path,
    played: Sequence[Played],
    *,
    classes: Sequence[str],
    trained_steps: int,
    pictures: Mapping[str, bytes] | None = None,
) -> dict[str, Any]:
    """Writes episodes/{steps.csv, clicks.csv, summary.json} and a PNG a picture, each through a temporary name.

    The summary comes last; what an earlier evaluation left and this one has not is removed.

    Args:
      folder: of the evaluation; made if missing.
      played: one a case.
      classes: names of the foreground classes.
      trained_steps: how many steps an episode of the training had.
      pictures: name -> PNG, such as `viz.episode` makes.

    Returns:
      What summary.json holds, see `summarise`.

    Raises:
      UserError: the folder cannot be written.
      ValueError: see `summarise`.
    """
    folder, pictures = paths.path(folder) / FOLDER, pictures or {}
    summary = summarise(played, classes=classes, trained_steps=trained_steps)
    stems = {name: f"{place:02d}_{file_stem(name)}.png" for place, name in enumerate(pictures, start=1)}
    summary["pictures"] = [{"name": name, "file": file} for name, file in stems.items()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.replace(folder / STEPS, files.csv_text(step_rows(played, classes)))
        clicked = click_rows(played, classes)
        if clicked:
            files.replace(folder / CLICKS, files.csv_text(clicked))
        for name, file in stems.items():
            paths.write_bytes(folder / file, pictures[name])
        files.replace(folder / SUMMARY, json.dumps(files.jsonable(summary), indent=2, allow_nan=False) + "\n")
        _remove_old(folder, {*stems.values(), *([CLICKS] if clicked else [])})
    except OSError as error:
        raise UserError(
            f"The episodes cannot be written to {folder}: {error.strerror}; choose a --workdir that can be written."
        ) from error
    return summary


def _remove_old(folder: paths.Path, wanted: set[str]) -> None:
    """Removes pictures and clicks of an earlier evaluation, which would be taken for this one's."""
    for old in (*folder.glob("[0-9]*_*.png"), folder / CLICKS):
        if old.name not in wanted and old.is_file():
            old.unlink()


def step_rows(played: Sequence[Played], classes: Sequence[str]) -> list[files.Row]:
    """Returns a row a case, class and step; the reward is that of the step's whole image, NaN at the start."""
    return [
        {"case": one.case, "class": name, "step": step, "dice": float(one.dice[step, place]),
         "reward": float(one.rewards[step - 1]) if step else math.nan}
        for one in played for step in range(len(one.dice)) for place, name in enumerate(classes)
    ]  # fmt: skip


def click_rows(played: Sequence[Played], classes: Sequence[str]) -> list[files.Row]:
    """Returns a row a case, class and number of clicks, of the cases that were clicked in."""
    return [
        {"case": one.case, "class": name, "click": click, "dice": float(one.clicks[click, place])}
        for one in played if one.clicks is not None
        for click in range(len(one.clicks)) for place, name in enumerate(classes)
    ]  # fmt: skip


def summarise(played: Sequence[Played], *, classes: Sequence[str], trained_steps: int) -> dict[str, Any]:
    """Returns what the episodes came to.

    The result holds "classes", "trained_steps", "cases"; "steps", one entry a step from 0: "step", "dice" (as
    `metrics.summarise`, over cases of each case's mean over its classes), and from step 1 on "reward" (likewise),
    "change" (`metrics.compare` against step 0, over cases) and the numbers of cases that are "better", "equal", "worse"
    than their start and "not_worse". With clicks also "clicks": "by_click", entries "click" and "dice", and "goals",
    entries "dice" (the goal), "reached" (cases), "share" of n, "clicks" (as `metrics.summarise`: of the number of
    clicks at which a case first reached it; one more than were made where it never did), "never" and "made".

    Args:
      played: one a case.
      classes: names of the foreground classes.
      trained_steps: how many steps an episode of the training had.

    Raises:
      ValueError: there is no case, one comes twice, or their numbers of classes, steps or clicks differ.
    """
    _check(played, classes)
    entries = [_step(played, classes, step) for step in range(len(played[0].dice))]
    found: dict[str, Any] = {
        "classes": list(classes), "trained_steps": trained_steps, "cases": len(played), "steps": entries,
    }  # fmt: skip
    clicked = np.array([_means(one.clicks) for one in played if one.clicks is not None])
    if clicked.size:
        by_click = [{"click": k, "dice": metrics.summarise(clicked[:, k])} for k in range(clicked.shape[1])]
        found["clicks"] = {"by_click": by_click, "goals": [_goal(clicked, goal) for goal in GOALS]}
    return found


def _check(played: Sequence[Played], classes: Sequence[str]) -> None:
    if not played or len({one.case for one in played}) < len(played):
        raise ValueError(f"There should be at least one case and each once, not {[one.case for one in played]}.")
    shape = len(played[0].dice), len(classes)
    counts = {len(one.clicks) for one in played if one.clicks is not None}
    for one in played:
        if one.dice.shape != shape or len(one.rewards) != shape[0] - 1:
            raise ValueError(
                f"Case {one.case!r} should have Dice {shape} and {shape[0] - 1} rewards, it has {one.dice.shape} and "
                f"{len(one.rewards)}."
            )
        if len(counts) > 1 or (one.clicks is not None and one.clicks.shape[1] != shape[1]):
            raise ValueError(f"All cases should have as many clicks and {shape[1]} classes; {one.case!r} has others.")


def _means(dice: Float[np.ndarray, "n K"]) -> Float[np.ndarray, " n"]:
    """Each row's mean over the classes that it has."""
    return np.array([metrics.finite_mean(row) for row in dice.tolist()])


def _step(played: Sequence[Played], classes: Sequence[str], step: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"step": step, "dice": metrics.summarise([float(_means(one.dice)[step]) for one in played])}
    if not step:
        return entry
    before, after = (
        [
            {"case": one.case, "class": name, "dice": float(one.dice[at, place])}
            for one in played
            for place, name in enumerate(classes)
        ]
        for at in (0, step)
    )
    change = metrics.compare(before, after)
    kept = ("mean_difference", "low", "high", "wilcoxon_p", "n", "n_excluded")
    gained = np.array([metrics.finite_mean((one.dice[step] - one.dice[0]).tolist()) for one in played])
    better, worse = int((gained > _EQUAL).sum()), int((gained < -_EQUAL).sum())
    equal = int(np.isfinite(gained).sum()) - better - worse
    return entry | {
        "reward": metrics.summarise([float(one.rewards[step - 1]) for one in played]),
        "change": {key: change[key] for key in kept},
        "better": better, "equal": equal, "worse": worse, "not_worse": better + equal,
    }  # fmt: skip


def _goal(clicked: Float[np.ndarray, "N m"], goal: float) -> dict[str, Any]:
    """How many cases reach a Dice, and after how many clicks."""
    known = clicked[np.isfinite(clicked).any(axis=1)]
    reached = known >= goal  # a NaN reaches nothing
    made = clicked.shape[1] - 1
    needed = np.where(reached.any(axis=1), reached.argmax(axis=1), made + 1)
    number = int(reached.any(axis=1).sum())
    return {
        "dice": goal, "reached": number, "share": number / len(known) if len(known) else math.nan, "n": len(known),
        "clicks": metrics.summarise(needed.astype(np.float64)), "never": len(known) - number, "made": made,
    }  # fmt: skip


def summary_table(summary: Mapping[str, Any], *, width: int = 110) -> str:
    """Returns the summary as tables for the terminal; every figure stands beside its n.

    Args:
      summary: from `write`, `summarise` or `files.read_summary`.
      width: of the terminal, in characters.
    """
    from rich.console import Console
    from rich.table import Table

    text = io.StringIO()
    console = Console(file=text, width=width, color_system=None, force_terminal=False)

    def show(head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in head:
            table.add_column(name, justify="right", no_wrap=True)
        for line in lines:
            table.add_row(*line)
        console.print(table)

    names = ("step", "Dice", "95 % interval", "n", "change", "95 % interval", "n", "better", "equal", "worse")
    show(names, [_step_line(entry) for entry in summary["steps"]])
    console.print(f"trained on episodes of {summary['trained_steps']} steps; change: against step 0, case by case")
    if "clicks" in summary:
        console.print()
        entries = summary["clicks"]["by_click"]
        show(("clicks", "Dice", "95 % interval", "n"), [[str(e["click"]), *_mean_texts(e["dice"])] for e in entries])
        for goal in summary["clicks"]["goals"]:
            console.print(_goal_sentence(goal), highlight=False)
    return text.getvalue()


def _mean_texts(entry: Mapping[str, Any], *, digits: int = 3) -> list[str]:
    low, high = (files.number(entry[key], digits=digits) for key in ("low", "high"))
    return [files.number(entry["mean"], digits=digits), f"{low} to {high}", str(entry["n"])]


def _signed(value: float) -> str:
    return f"+{value:.3f}" if value > 0 else files.number(value)


def _step_line(entry: Mapping[str, Any]) -> list[str]:
    line = [str(entry["step"]), *_mean_texts(entry["dice"])]
    if "change" not in entry:
        return [*line, *[""] * 6]
    change = entry["change"]
    interval = f"{_signed(change['low'])} to {_signed(change['high'])}"
    counts = [str(entry[key]) for key in ("better", "equal", "worse")]
    return [*line, _signed(change["mean_difference"]), interval, str(change["n"]), *counts]


def _goal_sentence(goal: Mapping[str, Any]) -> str:
    mean, interval, number = _mean_texts(goal["clicks"], digits=2)
    return (
        f"Dice {goal['dice']:g}: reached by {goal['reached']} of {goal['n']} cases with up to {goal['made']} clicks; "
        f"clicks to reach it {mean} ({interval}, n {number}), {goal['made'] + 1} for the {goal['never']} that never did"
    )


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
        f"cases in it. Training had episodes of {trained} steps.</p>"
    )
    curve = _curve(folder / STEPS, "step", len(entries), trained=trained)
    return READING_STEPS + note + page.table(head, rows) + curve + _gallery(folder, summary.get("pictures", []))


def _mean_cell(entry: Mapping[str, Any], *, digits: int = 3) -> Cell:
    mean, interval, number = _mean_texts(entry, digits=digits)
    between = f"<small>{interval}</small>" if math.isfinite(entry["low"]) else ""
    excluded = f"<small>{entry['n_excluded']} excluded</small>" if entry.get("n_excluded") else ""
    return Cell(f"<strong>{mean}</strong>{between}<small>n {number}</small>{excluded}")


def _change_cell(change: Mapping[str, Any]) -> Cell:
    interval = ""
    if math.isfinite(change["low"]):
        interval = f"<small>{_signed(change['low'])} to {_signed(change['high'])}</small>"
    excluded = f"<small>{change['n_excluded']} excluded</small>" if change.get("n_excluded") else ""
    return Cell(
        f"<strong>{_signed(change['mean_difference'])}</strong>{interval}<small>n {change['n']}</small>{excluded}"
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
