"""Small pieces of Markdown for the model card."""

import re
from collections.abc import Iterable, Sequence
from typing import Any


def safe(value: Any) -> str:
    """Returns a name as one line that Markdown shows as it stands, also in a cell of a table."""
    text = " ".join(str(value).split())
    return re.sub(r"[|`\\]", "", text).replace("<", "&lt;")


def code(value: Any) -> str:
    """Returns a setting or a command as it is typed."""
    return f"`{' '.join(str(value).split()).replace('`', '')}`"


def bullets(lines: Iterable[str]) -> str:
    """Returns a list, an item a line."""
    return "\n".join(f"- {line}" for line in lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table; what stands in its cells is `safe` already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def count(number: float) -> str:
    """A whole number with commas: "1,946,000"."""
    return f"{int(number):,}"


def plural(number: int, noun: str) -> str:
    """A number with its noun: "1 case", "1,200 cases"."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"
