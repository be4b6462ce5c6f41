"""Episodes on held-out cases: Dice by step and by click, against the start; their files and a table of them."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxseg import metrics, paths
from jaxseg.evaluate import files
from jaxseg.evaluate.evaluator import file_stem
from jaxseg.typing import UserError

FOLDER, STEPS, CLICKS, SUMMARY = "episodes", "steps.csv", "clicks.csv", "summary.json"
GOALS = (0.8, 0.9)  # Dice that clicks should reach
_EQUAL = 1e-9  # Dice that differs by less is equal: means over classes are rounded


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
    than their start and "not_worse". A class that neither the truth nor the start has, and the step has, is no part of
    the mean change, and counted as "invented"; the reverse as "cleared". To the case it counts as a Dice of 1 lost or
    gained. With clicks also "clicks": "by_click", entries "click" and "dice", and "goals",
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
    first, now = (np.stack([one.dice[at] for one in played]) for at in (0, step))  # (cases, K)
    invented, cleared = np.isnan(first) & ~np.isnan(now), ~np.isnan(first) & np.isnan(now)
    gains = np.where(invented, -1.0, np.where(cleared, 1.0, now - first))
    gained = np.array([metrics.finite_mean(row) for row in gains.tolist()])
    better, worse = int((gained > _EQUAL).sum()), int((gained < -_EQUAL).sum())
    equal = int(np.isfinite(gained).sum()) - better - worse
    return entry | {
        "reward": metrics.summarise([float(one.rewards[step - 1]) for one in played]),
        "change": {key: change[key] for key in kept},
        "better": better, "equal": equal, "worse": worse, "not_worse": better + equal,
        "invented": int(invented.sum()), "cleared": int(cleared.sum()),
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
    if said := inventions(summary["steps"]):
        console.print(said, highlight=False)
    console.print(f"change: against step 0, case by case; steps of an episode in training: {summary['trained_steps']}")
    if "clicks" in summary:
        console.print()
        entries = summary["clicks"]["by_click"]
        show(("clicks", "Dice", "95 % interval", "n"), [[str(e["click"]), *mean_texts(e["dice"])] for e in entries])
        for goal in summary["clicks"]["goals"]:
            console.print(_goal_sentence(goal), highlight=False)
    return text.getvalue()


def mean_texts(entry: Mapping[str, Any], *, digits: int = 3) -> list[str]:
    low, high = (files.number(entry[key], digits=digits) for key in ("low", "high"))
    return [files.number(entry["mean"], digits=digits), f"{low} to {high}", str(entry["n"])]


def signed(value: float) -> str:
    return f"+{value:.3f}" if value > 0 else files.number(value)


def _step_line(entry: Mapping[str, Any]) -> list[str]:
    line = [str(entry["step"]), *mean_texts(entry["dice"])]
    if "change" not in entry:
        return [*line, *[""] * 6]
    change = entry["change"]
    interval = f"{signed(change['low'])} to {signed(change['high'])}"
    counts = [str(entry[key]) for key in ("better", "equal", "worse")]
    return [*line, signed(change["mean_difference"]), interval, str(change["n"]), *counts]


def inventions(entries: Sequence[Mapping[str, Any]]) -> str:
    """Says where a step has what neither truth nor start has, or no longer has it: such changes are in no mean."""
    found = [
        f"step {entry['step']}: {entry['invented']} invented, {entry['cleared']} cleared"
        for entry in entries
        if entry.get("invented") or entry.get("cleared")
    ]
    if not found:
        return ""
    return (
        "Not in the mean change, but among better and worse: classes that a case's truth lacks and the step invented, "
        f"or cleared away ({'; '.join(found)})."
    )


def _goal_sentence(goal: Mapping[str, Any]) -> str:
    mean, interval, number = mean_texts(goal["clicks"], digits=2)
    return (
        f"Dice {goal['dice']:g}: reached by {goal['reached']} of {goal['n']} cases with up to {goal['made']} clicks; "
        f"clicks to reach it {mean} ({interval}, n {number}), {goal['made'] + 1} for the {goal['never']} that never did"
    )
