"""The Chinese README beside the English one: the same commands, code, figures, names and links."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh.md").read_text(encoding="utf-8")
SAME = "; the two READMEs differ: bring README.zh.md to what README.md says"


def code_blocks(text):
    """Lines that are indented by four blanks, and fenced blocks, in order."""
    indented = [line for line in text.splitlines() if line.startswith("    ")]
    return indented, re.findall(r"```.*?```", text, re.DOTALL)


def links(text):
    return sorted(set(re.findall(r"\]\(([^)]+)\)", text)) - {"README.md", "README.zh.md"})


def prose(text):
    """The page without code and without the targets of links."""
    return re.sub(r"```[\s\S]*?```|`[^`]*`|\]\([^)]*\)|^    .*$", "", text, flags=re.MULTILINE)


def numbers(text):
    """Figures of the page."""
    return sorted(re.findall(r"\d+\.\d+", prose(text)))


def test_code_blocks_are_identical():
    assert code_blocks(CHINESE) == code_blocks(ENGLISH), SAME


def test_inline_code_is_the_same():
    found, wanted = (
        set(" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)) for text in (CHINESE, ENGLISH)
    )
    assert found == wanted, f"{found ^ wanted}{SAME}"


def test_links_and_figures_are_the_same():
    assert links(CHINESE) == links(ENGLISH), SAME
    assert len(numbers(ENGLISH)) > 20 and numbers(CHINESE) == numbers(ENGLISH), SAME


def test_sections_and_rows_are_as_many():
    for mark in ("## ", "| ", "!["):
        counts = [sum(line.startswith(mark) for line in text.splitlines()) for text in (CHINESE, ENGLISH)]
        assert counts[0] == counts[1], f"{mark}: {counts}{SAME}"


def test_it_is_chinese():
    assert len(re.findall("[一-鿿]", prose(CHINESE))) > 1000
    assert CHINESE.startswith("[English](README.md) | 简体中文")
