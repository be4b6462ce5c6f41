"""The parts of an HTML page that do not depend on what it says: style, script, escaping, tables."""

import base64
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

STYLE = """
:root { --paper: #ffffff; --ink: #1c2128; --faint: #59636e; --line: #d8dee4; --soft: #f4f6f8; --accent: #0b62c4;
  --warn: #8a5300; --warn-soft: #fff6e5; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --paper: #12161b; --ink: #e3e7ec; --faint: #98a2ae; --line: #2c333c;
  --soft: #1a2027; --accent: #6cb2ff; --warn: #f0c060; --warn-soft: #2a2416; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main, header, footer { max-width: 1180px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 36px; }
h1 { font-size: 1.7rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4em 0 .6em; padding-bottom: .3em; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6em 0 .4em; }
p, li { max-width: 76ch; }
a { color: var(--accent); }
nav { margin-top: 14px; display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: .92rem; }
.faint, figcaption, caption, small { color: var(--faint); font-size: .86rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px 6px 0; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child, table.facts td { text-align: left; }
table.facts td:first-child { color: var(--faint); white-space: nowrap; padding-right: 28px; }
th:first-child, td:first-child { white-space: nowrap; }
table.facts td { overflow-wrap: anywhere; }
thead th { color: var(--faint); font-weight: 600; vertical-align: bottom; }
td strong { font-size: 1.06em; }
td small { display: block; white-space: nowrap; }
tr.total td { border-top: 2px solid var(--line); background: var(--soft); }
th button { all: unset; cursor: pointer; }
th button:hover, th button:focus-visible { color: var(--accent); text-decoration: underline; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
.gallery { display: flex; flex-wrap: wrap; gap: 20px; }
figure { margin: 0; }
figure img { max-width: 100%; height: auto; display: block; border-radius: 6px; }
.plot img { width: 100%; }
.plot.narrow { max-width: 720px; }
figure:target { outline: 3px solid var(--accent); outline-offset: 4px; border-radius: 6px; }
.warning { background: var(--warn-soft); border-left: 4px solid var(--warn); padding: 10px 16px; margin: 0; }
.warning ul { margin: 0; padding-left: 1.1em; }
.none { color: var(--faint); font-style: italic; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .5em; }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
details summary { cursor: pointer; color: var(--accent); margin: 10px 0; }
footer { padding: 40px 24px; }
@media print { :root { --paper: #fff; --ink: #000; --faint: #444; --line: #bbb; --soft: #f2f2f2; --accent: #000;
  --warn-soft: #fff; color-scheme: light; }
  nav, details:not([open]) { display: none; } body { font-size: 11pt; } .scroll { overflow: visible; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""

SCRIPT = """
document.querySelectorAll("table.sortable").forEach(function (table) {
  var body = table.tBodies[0], heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach(function (head, column) {
    var button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", function () {
      var down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      var rows = Array.from(body.rows);
      rows.sort(function (a, b) {
        var x = a.cells[column].dataset.value, y = b.cells[column].dataset.value;
        var p = Number(x), q = Number(y), sign = down ? -1 : 1;
        if (x === "" || y === "") return (x === "") - (y === "");
        if (isNaN(p) || isNaN(q)) return sign * x.localeCompare(y, undefined, { numeric: true });
        return p === q ? 0 : sign * (p < q ? -1 : 1);
      });
      rows.forEach(function (row) { body.appendChild(row); });
    });
  });
});
"""


class Cell(NamedTuple):
    """A table cell: ready HTML and the value to sort by ("" sorts last)."""

    content: str
    value: str = ""


def text(value: Any) -> str:
    """Escapes anything for use in HTML, in attributes too."""
    return html.escape(str(value), quote=True)


def sort_value(value: float) -> str:
    """Returns a number as the script sorts it: NaN last, infinity largest."""
    return "" if math.isnan(value) else "1e308" if value == math.inf else repr(float(value))


def facts(pairs: Mapping[str, Any]) -> str:
    """A table of two columns, name and value; both are escaped."""
    rows = "".join(f"<tr><td>{text(name)}</td><td>{text(value)}</td></tr>" for name, value in pairs.items())
    return f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]], *, sorted_by: int | None = None, total: int = -1) -> str:
    """A table; `head` is escaped, cells are not.

    Args:
      head: column titles.
      rows: the cells.
      sorted_by: makes it sortable, and says by which column it is sorted, smallest first.
      total: the row that is set apart, as a sum or a mean.
    """
    titles = []
    for column, title in enumerate(head):
        state = ' aria-sort="ascending"' if column == sorted_by else ""
        inner = text(title) if sorted_by is None else f'<button type="button">{text(title)}</button>'
        titles.append(f'<th scope="col"{state}>{inner}</th>')
    lines = []
    for place, row in enumerate(rows):
        cells = "".join(f'<td data-value="{text(cell.value)}">{cell.content}</td>' for cell in row)
        lines.append(f'<tr class="total">{cells}</tr>' if place == total else f"<tr>{cells}</tr>")
    kind = "" if sorted_by is None else ' class="sortable"'
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{"".join(titles)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def image(data: bytes, *, kind: str, describe: str) -> str:
    """An image that is part of the page; `kind` is its media type, such as "image/png"."""
    return f'<img src="data:{kind};base64,{base64.b64encode(data).decode()}" alt="{text(describe)}">'


def as_jpeg(png: bytes) -> bytes:
    """A picture for the page: a quarter of the PNG's size, colours at full resolution; the PNG itself stays exact."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").save(buffer, format="JPEG", quality=88, subsampling=0)
    return buffer.getvalue()


def warning(lines: Sequence[str]) -> str:
    """A list that catches the eye; the lines are escaped."""
    return f'<div class="warning"><ul>{"".join(f"<li>{text(line)}</li>" for line in lines)}</ul></div>'


def figure(picture: str, caption: str, *, anchor: str = "", style: str = "") -> str:
    """A picture (ready HTML) with a caption, which is escaped."""
    attributes = (f' id="{text(anchor)}"' if anchor else "") + (f' class="{text(style)}"' if style else "")
    return f"<figure{attributes}>{picture}<figcaption>{text(caption)}</figcaption></figure>"


def missing(sentence: str) -> str:
    """Says what is not there."""
    return f'<p class="none">{text(sentence)}</p>'


def page(title: str, subtitle: str, sections: Mapping[str, str]) -> str:
    """The whole page: sections by title, in order; their content is ready HTML."""
    links = "".join(f'<a href="#{_anchor(name)}">{text(name)}</a>' for name in sections)
    parts = "".join(
        f'<section id="{_anchor(name)}"><h2>{text(name)}</h2>{content}</section>' for name, content in sections.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body>"
        f'<header><h1>{text(title)}</h1><p class="faint">{text(subtitle)}</p><nav>{links}</nav></header>'
        f"<main>{parts}</main>"
        '<footer class="faint">Research software. Not a medical device; not for diagnosis.</footer>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _anchor(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())
