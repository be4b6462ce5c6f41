"""Lets griffe, which reads docstrings for the site, understand the two liberties that ours take with Google's style.

"low, high: bounds." describes two arguments in one line, and "Other options as in `dice_loss`." stands among arguments.
The first becomes a line for each name, the second a sentence of the text above. A star means a product, never emphasis.
"""

import re
from collections.abc import Iterator

from griffe import Docstring, Extension, Object

SECTIONS = ("Args:", "Attributes:")
_NAMES = re.compile(r"(\**\w+(?:, \**\w+)+):(.*)")
_STAR = re.compile(r"`[^`]*`|(?m:^ *\*{1,2}\w+:)|\*")  # code, an argument's name, or a star that stands alone
_NAME = re.compile(r"\**\w+(?: \([^)]*\))?:")


class HouseDocstrings(Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: Object, **kwargs: object) -> None:
        """Called with every module, class, function and attribute that was found."""
        if isinstance(obj.docstring, Docstring):
            obj.docstring.value = with_stars(rewritten(obj.docstring.value))


def with_stars(text: str) -> str:
    """Returns a docstring whose stars stay stars, but for those in code and before the name of an argument."""
    return _STAR.sub(lambda found: "\\*" if found[0] == "*" else found[0], text)


def rewritten(text: str) -> str:
    """Returns a docstring in which every item of a section has one name."""
    before, found = [], []
    for title, lines in _sections(text):
        if title not in SECTIONS:
            found += [*([title] if title else []), *lines]
            continue
        items = list(_items(lines))
        before += [line.strip() for item in items if not _is_named(item) for line in item]
        found += [title, *(line for item in items if _is_named(item) for line in _split(item)), ""]
    sentences = [" ".join(before), ""] if before else []
    place = next((number for number, line in enumerate(found) if line in SECTIONS), len(found))
    return "\n".join([*found[:place], *sentences, *found[place:]])


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yields (title, lines) of each section; the title of what stands above them, or between them, is empty."""
    title, lines = "", []
    for line in text.splitlines():
        starts = re.fullmatch(r"[A-Z]\w+:", line) is not None
        ends = bool(title) and bool(line.strip()) and not line.startswith(" ")
        if starts or ends:
            yield title, lines
            title, lines = (line, []) if starts else ("", [line])
        else:
            lines.append(line)
    yield title, lines


def _items(lines: list[str]) -> Iterator[list[str]]:
    """Yields the lines of each item: the first one, and those that are indented more."""
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    item: list[str] = []
    for line in lines:
        if not line.strip():
            continue
        if len(line) - len(line.lstrip()) == min(indents) and item:
            yield item
            item = []
        item.append(line)
    if item:
        yield item


def _is_named(item: list[str]) -> bool:
    return bool(_NAMES.match(item[0].strip()) or _NAME.match(item[0].strip()))


def _split(item: list[str]) -> list[str]:
    """Returns the item once for each of its names."""
    several = _NAMES.match(item[0].strip())
    if not several:
        return item
    indent = item[0][: len(item[0]) - len(item[0].lstrip())]
    return [line for name in several[1].split(", ") for line in (f"{indent}{name}:{several[2]}", *item[1:])]
