"""What an evaluation found about certainty, and about the members of an ensemble, as parts of a page."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxseg import paths
from jaxseg.evaluate import page
from jaxseg.evaluate.page import Cell
from jaxseg.typing import UserError
from jaxseg.viz import (
    ReliabilityBins,
    colors,
    members_plot,
    quality_plot,
    reliability_diagram,
    risk_coverage_plot,
)

CERTAINTY, MEMBERS = "certainty.json", "members.json"
MOST_CASES = 500  # rows in the table; those that are foretold to be worst come first
NONE = "–"
_ESTIMATES = {"quality": "expected Dice", "agreement": "agreement of members"}
_KINDS = {
    "bagging": "each was trained on cases drawn with replacement (bagging)",
    "boosting": "each was trained with more weight on what those before it got wrong (boosting)",
    "stacking": "a further model learnt how to combine them (stacking)",
    "seeds": "each began with other weights and saw the cases in another order (seeds)",
    "snapshots": "one training, kept at the end of each cycle of its learning rate (snapshots)",
    "soup": "trainings that parted after a common start (soup)",
    "gradient_boosting": "each adds to the sum of those before it (gradient boosting)",
}

READING_CERTAINTY = """<p>Of the pixels to which a network gives a confidence of 90 %, 90 of 100 should be right. The
<b>ECE</b> (expected calibration error) is how far confidence and accuracy lie apart on average, the <b>MCE</b> how far
in the worst bin; 0 is best. <b>Expected Dice</b> is the Dice that the network itself foretells for a case, without the
truth; <b>agreement</b> is the mean Dice between members. The closer their <b>r</b> to 1, the better they tell good
cases from bad ones. The last curve says what is gained if a person sees to the least certain cases: the mean error
(1 - Dice) of the rest.</p>"""
READING_MEMBERS = """<p>Mean Dice over cases, of every member alone and of all together. The ensemble is worth its cost
where it beats the best member, not only the mean of them. Members that are alike (Dice between them near 1) have little
to add to each other. <b>Out of bag</b> is the score on the training cases that a member has not seen.</p>"""


def ensemble_sections(folder: str | paths.Path) -> dict[str, str]:
    """Returns the sections "Members" and "Certainty" of a page, each where the evaluation has left its file.

    Args:
      folder: the evaluation's: members.json and certainty.json are read where they exist.

    Raises:
      UserError: a file is not JSON, or lacks what the section shows.
    """
    folder, found = paths.path(folder), {}
    for title, name, section in (("Members", MEMBERS, members_section), ("Certainty", CERTAINTY, certainty_section)):
        if (folder / name).is_file():
            content = _read(folder / name)
            try:
                found[title] = section(content)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                why = f"it lacks {error}" if isinstance(error, KeyError) else error
                raise UserError(
                    f"{folder / name} does not hold what the report shows ({why}); run --mode evaluate again."
                ) from error
    return found


def _read(path: paths.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also of bytes that are no text
        raise UserError(f"{path} is not valid JSON ({error}); run --mode evaluate again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold a JSON object, it holds {content!r:.40}; run --mode evaluate again.")
    return content


def _value(item: Any) -> float:
    """A number of the JSON: null is NaN, and infinity is written "inf"."""
    if isinstance(item, bool):
        raise ValueError(f"a number was expected, got {item}")
    return math.nan if item is None else float(item)


def _number(item: Any, *, digits: int = 3) -> str:
    value = _value(item)
    return NONE if math.isnan(value) else f"{value:.{digits}f}"


def _cell(item: Any, *, strong: bool = False) -> Cell:
    shown = _number(item)
    return Cell(f"<strong>{shown}</strong>" if strong and shown != NONE else shown, page.sort_value(_value(item)))


def _name(name: str, place: int | None = None) -> Cell:
    """A name for the first column, with the colour that it has in the plots."""
    key = "" if place is None else f'<span class="key" style="background:{colors.hex_color(place + 1)}"></span>'
    return Cell(key + page.text(name), name)


def _plot(picture: bytes | None, caption: str, *, otherwise: str) -> str:
    if picture is None:
        return page.missing(otherwise)
    shown = page.image(picture, kind="image/svg+xml", describe=caption)
    return page.figure(shown, caption, style="plot narrow")


def certainty_section(found: Mapping[str, Any]) -> str:
    """Returns HTML about calibration, and about how well quality is foretold without the truth.

    Args:
      found: certainty.json: "n_pixels", "ece", "mce", "brier", "nll"; "bins" ("count", "confidence", "accuracy", null
        where empty); "temperature", "ece_scaled", "bins_scaled" or null; "quality" and "agreement" (or null), class ->
        "pearson", "spearman", "low", "high", "n"; "cases" with "case", "class", "dice", "quality", "agreement",
        "entropy"; "risk_coverage" ("coverage", "risk", "area", "area_best", "area_random") or null.
    """
    shown = {
        "pixels": f"{found['n_pixels']:,}",
        "expected calibration error (ECE)": _number(found["ece"], digits=4),
        "maximum calibration error (MCE)": _number(found["mce"], digits=4),
        "Brier score": _number(found["brier"], digits=4),
        "negative log-likelihood (nats a pixel)": _number(found["nll"], digits=4),
        "temperature": _number(found.get("temperature"), digits=2),
        "ECE after temperature scaling": _number(found.get("ece_scaled"), digits=4),
    }
    estimates = {key: name for key, name in _ESTIMATES.items() if found.get(key)}
    parts = [READING_CERTAINTY, "<h3>Calibration</h3>", page.facts(shown), _reliability(found)]
    if estimates:
        parts += ["<h3>Quality without the truth</h3>", _correlations(found, estimates)]
        parts += [_quality(found, key, name) for key, name in estimates.items()]
    parts.append(_risk(found.get("risk_coverage")))
    parts.append(f"<details><summary>All cases</summary>{_cases(found['cases'])}</details>")
    return "".join(parts)


def _reliability(found: Mapping[str, Any]) -> str:
    scaled, temperature = found.get("bins_scaled"), found.get("temperature")
    picture = reliability_diagram(
        _bins(found["bins"]),
        scaled=None if scaled is None else _bins(scaled),
        temperature=None if temperature is None else _value(temperature),
    )
    caption = (
        "Accuracy of the pixels by confidence: bars below the dashed line are too sure, above it too cautious. Below: "
        "the share of all pixels in each bar, on a logarithmic scale."
    )
    return _plot(picture, caption, otherwise="No pixel was scored.")


def _bins(found: Mapping[str, Any]) -> ReliabilityBins:
    count, confidence, accuracy = ([_value(item) for item in found[key]] for key in ("count", "confidence", "accuracy"))
    return ReliabilityBins(count, confidence, accuracy)


def _correlations(found: Mapping[str, Any], estimates: Mapping[str, str]) -> str:
    """One row a class, two columns an estimate: Pearson's r and Spearman's with its interval."""
    head = ["class"]
    for name in estimates.values():
        head += [f"{name}, Pearson r", f"{name}, Spearman r"]
    rows = []
    for place, label in enumerate(dict.fromkeys(label for key in estimates for label in found[key])):
        row = [_name(label, place)]
        for key in estimates:
            entry = found[key].get(label, {})
            row += [_cell(entry.get("pearson")), Cell(_ranked(entry))]
        rows.append(row)
    note = (
        '<p class="faint">Correlation with the measured Dice over cases; of ranks (Spearman) with its 95 % interval '
        "and n, the number of cases.</p>"
    )
    return note + page.table(head, rows)


def _ranked(entry: Mapping[str, Any]) -> str:
    shown, low, high = (_number(entry.get(key)) for key in ("spearman", "low", "high"))
    interval = f"<small>{low} to {high}</small>" if NONE not in (low, high) else ""
    return f"<strong>{shown}</strong>{interval}<small>n {int(entry.get('n', 0))}</small>"


def _quality(found: Mapping[str, Any], key: str, name: str) -> str:
    columns: dict[str, tuple[list[float], list[float]]] = {label: ([], []) for label in found[key]}
    for row in found["cases"]:
        if row["class"] in columns:
            for column, field in zip(columns[row["class"]], (key, "dice")):
                column.append(_value(row.get(field)))
    estimated, measured = ({label: pair[i] for label, pair in columns.items()} for i in (0, 1))
    correlations = {label: _value(entry.get("pearson")) for label, entry in found[key].items()}
    picture = quality_plot(estimated, measured, correlations, name=name)
    caption = f"{name[0].upper()}{name[1:]} against the measured Dice, a dot a case; on the dashed line both are equal."
    return _plot(picture, caption, otherwise=f"There are too few cases to plot the {name}.")


def _risk(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return page.missing("There are too few cases for a curve of risk against coverage.")
    coverage, risk = ([_value(item) for item in found[key]] for key in ("coverage", "risk"))
    area, best, random = (_value(found[key]) for key in ("area", "area_best", "area_random"))
    picture = risk_coverage_plot(coverage, risk, random=random, area=area)
    caption = (
        f"Mean error (1 - Dice) of the cases that are kept. Area under the curve {_number(area)}; "
        f"{_number(best)} if the cases were ordered by their true error, {_number(random)} if at random."
    )
    return _plot(picture, caption, otherwise="There are too few cases for a curve of risk against coverage.")


def _cases(rows: Sequence[Mapping[str, Any]]) -> str:
    """A sortable table, a row a case and class, lowest expected Dice first."""
    if not rows:
        return page.missing("There are no cases.")

    def rank(row: Mapping[str, Any]) -> tuple[bool, float]:
        value = _value(row.get("quality"))
        return math.isnan(value), 0.0 if math.isnan(value) else value

    fields = ("quality", "agreement", "entropy", "dice")
    lines = [
        [_name(row["case"]), Cell(page.text(row["class"]), row["class"]), *(_cell(row.get(field)) for field in fields)]
        for row in sorted(rows, key=rank)[:MOST_CASES]
    ]
    note = "Lowest expected Dice first: the cases to look at. Press a title to sort by it."
    if len(rows) > MOST_CASES:
        note += f" The first {MOST_CASES} of {len(rows)} rows."
    head = ["case", "class", "expected Dice", "agreement", "entropy (0 to 1)", "Dice"]
    return f'<p class="faint">{note}</p>' + page.table(head, lines, sorted_by=2)


def members_section(found: Mapping[str, Any]) -> str:
    """Returns HTML about the members of an ensemble beside the ensemble.

    Args:
      found: members.json: "kind", "combine", "classes" (those that are scored), "members" with "name", "dice" (class ->
        mean or null), "weight" or null and perhaps "out_of_bag" (class -> mean or null) and "note"; "ensemble" (class
        -> mean or null); perhaps "pairwise_dice", a row and a column a member, "out_of_bag" of the ensemble, and
        "rounds" with "name", "validation" and perhaps "error" and "vote", of which "kept" names some. Without members,
        which have become one network, only these are shown.
    """
    members, classes = found["members"], found["classes"]
    kind = page.text(_KINDS.get(found["kind"], found["kind"]))
    combined = f"combined by {page.text(found['combine'])}"
    if not members:  # they have become one network, which is scored above
        return f"<p>{kind[0].upper()}{kind[1:]}; {combined}.</p>" + _rounds(found)
    intro = f"<p>{len(members)} members: {kind}; {combined}.</p>"
    picture = members_plot(
        [{name: _value(member["dice"].get(name)) for name in classes} for member in members],
        {name: _value(found["ensemble"].get(name)) for name in classes},
    )
    caption = (
        "Mean Dice of every member (dots, from top to bottom in the order of the table) and of the ensemble (line)."
    )
    parts = [intro, READING_MEMBERS, _members_table(found), _rounds(found)]
    parts.append(_plot(picture, caption, otherwise="There are too few scored members to plot."))
    if found.get("pairwise_dice"):
        parts += ["<h3>Dice between members</h3>", _pairs([member["name"] for member in members], found)]
    return "".join(parts)


def _rounds(found: Mapping[str, Any]) -> str:
    """What was tried on the cases set aside: round by round, or member by member; nothing where nothing was."""
    if not found.get("rounds"):
        return ""
    fields = [
        name for name in ("error", "vote", "validation") if any(row.get(name) is not None for row in found["rounds"])
    ]
    titles = {"error": "weighted error", "vote": "vote", "validation": "Dice on the cases set aside"}
    kept = set(found.get("kept") or [row["name"] for row in found["rounds"]])
    rows = [
        [_name(row["name"]), *(_cell(row.get(name)) for name in fields), Cell("kept" if row["name"] in kept else "")]
        for row in found["rounds"]
    ]
    return page.table(["", *(titles[name] for name in fields), ""], rows)


def _members_table(found: Mapping[str, Any]) -> str:
    """One row a member, then their mean, then the ensemble; columns that nobody fills are left out."""
    members, classes, ensemble = found["members"], found["classes"], found["ensemble"]
    weighed = any(member.get("weight") is not None for member in members)
    bagged = any(record.get("out_of_bag") for record in (*members, found))
    noted = any(member.get("note") for member in members)
    head = ["", *(["weight"] if weighed else []), *(f"Dice {name}" for name in classes)]
    head += [f"out of bag {name}" for name in classes] if bagged else []
    head += ["note"] if noted else []

    def row(name: str, weight: Any, dice: Mapping[str, Any], out: Mapping[str, Any], note: str, *, strong=False):
        cells = [_name(name), *([_cell(weight)] if weighed else [])]
        cells += [_cell(dice.get(label), strong=strong) for label in classes]
        cells += [_cell(out.get(label)) for label in classes] if bagged else []
        return cells + ([Cell(page.text(note), note)] if noted else [])

    rows = [
        row(
            member["name"], member.get("weight"), member["dice"], member.get("out_of_bag") or {}, member.get("note", "")
        )
        for member in members
    ]
    scores = {label: _mean(member["dice"].get(label) for member in members) for label in classes}
    outside = {label: _mean((member.get("out_of_bag") or {}).get(label) for member in members) for label in classes}
    rows.append(row("mean of members", None, scores, outside, ""))
    rows.append(row("ensemble", None, ensemble, found.get("out_of_bag") or {}, "", strong=True))
    return page.table(head, rows, total=len(rows) - 1)


def _mean(items: Iterable[Any]) -> float:
    """The mean over the members that have a score; NaN where none has."""
    values = [value for value in map(_value, items) if math.isfinite(value)]
    return sum(values) / len(values) if values else math.nan


def _pairs(names: Sequence[str], found: Mapping[str, Any]) -> str:
    matrix = found["pairwise_dice"]
    if [len(line) for line in matrix] != [len(names)] * len(names):
        raise ValueError(f"pairwise_dice should have {len(names)} rows and columns")
    return page.table(["", *names], [[_name(name), *map(_cell, line)] for name, line in zip(names, matrix)])
