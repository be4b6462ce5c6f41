"""The list that the page starts from: cases with scores, worst first, and classes with colours."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxseg.viz import colors

NOT_SCORED = (70, 74, 82)
NOTE = "Research software. Not a medical device; not for diagnosis."


class Listed(NamedTuple):
    """A case in the list: its name, what it is ranked by (NaN: unknown), and class -> metric -> value."""

    name: str
    score: float = math.nan
    scores: Mapping[str, Mapping[str, float]] = {}


def class_table(classes: Sequence[str]) -> list[dict[str, Any]]:
    """Returns id, name and colour `[r, g, b]` of each foreground class, then of what is not scored.

    Args:
      classes: names by id, background first.
    """
    named = [
        {"id": number, "name": name, "color": list(colors.class_color(number))}
        for number, name in enumerate(classes)
        if number
    ]
    return [*named, {"id": len(classes), "name": "not scored", "color": list(NOT_SCORED), "extra": True}]


def manifest(
    cases: Sequence[Listed],
    *,
    title: str,
    classes: Sequence[str],
    ranking: str = "",
    metrics: Mapping[str, str] | None = None,
    note: str = "",
    embedded: bool = False,
) -> dict[str, Any]:
    """Returns the list of cases as strict JSON takes it.

    Args:
      cases: in the order of the list (`rank`); a case's place is the number that the page asks for it by.
      title: of the page.
      classes: names by id, background first.
      ranking: what the score is, such as "mean Dice"; "" where there is none.
      metrics: key -> label of the scores of a class that are shown.
      note: a sentence about the list, such as why there are no scores.
      embedded: whether the cases' files stand beside the page, in scripts that it can load without a server.
    """
    return {
        "title": title,
        "note": note,
        "footer": NOTE,
        "embedded": embedded,
        "ranking": ranking,
        "metrics": dict(metrics or {}),
        "classes": class_table(classes),
        "heat": heat_table(),
        "cases": [
            {
                "name": case.name,
                "score": _number(case.score),
                "scores": {
                    name: {key: _number(value) for key, value in row.items()} for name, row in case.scores.items()
                },
            }
            for case in cases
        ],
    }


def rank(case: Listed) -> tuple[bool, float, str]:
    """Returns what cases are sorted by: the worst first, those without a score last by name."""
    return math.isnan(case.score), 0.0 if math.isnan(case.score) else case.score, case.name


def heat_table() -> list[list[int]]:
    """Returns the colours of uncertainties from 0 to 1 in equal steps, as `viz.uncertainty_overlay` has them."""
    import numpy as np

    return colors.heat(np.linspace(0, 1, 33)).tolist()


def script(name: str, content: Any) -> bytes:
    """Returns a script that hands `content` to the page under `name`: what it reads where nothing can be fetched."""
    text = json.dumps(content, allow_nan=False)  # pure ASCII, so that no name can end the script or its lines
    return f"jaxseg.receive({json.dumps(name)}, {text});\n".encode()


def _number(value: float) -> float | str | None:
    if math.isfinite(value):
        return float(value)
    return None if math.isnan(value) else "inf" if value > 0 else "-inf"
