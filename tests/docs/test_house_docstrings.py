"""What the site's reader of docstrings makes of ours; the site itself is built by `mkdocs build --strict`."""

import importlib.util
import pathlib
import sys
import types

import pytest

TOOLS = pathlib.Path(__file__).parents[2] / "docs" / "site_tools"


@pytest.fixture
def house(monkeypatch):
    """The module, which needs griffe only to be called by it."""
    monkeypatch.setitem(sys.modules, "griffe", types.SimpleNamespace(Docstring=str, Extension=object, Object=object))
    spec = importlib.util.spec_from_file_location("house_docstrings", TOOLS / "house_docstrings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_names_in_a_line_become_two_lines(house):
    text = "Clips.\n\nArgs:\n  low, high: bounds,\n    both kept.\n  values: to clip.\n\nReturns:\n  The values."
    assert house.rewritten(text).splitlines() == [
        "Clips.", "", "Args:", "  low: bounds,", "    both kept.", "  high: bounds,", "    both kept.",
        "  values: to clip.", "", "Returns:", "  The values.",
    ]  # fmt: skip


def test_a_sentence_among_arguments_moves_above_them(house):
    text = (
        "Weighs.\n\nArgs:\n  alpha: of false positives.\n  Other options as in `dice_loss`.\n\nRaises:\n  E: x, y: bad."
    )
    assert house.rewritten(text).splitlines() == [
        "Weighs.", "", "Other options as in `dice_loss`.", "", "Args:", "  alpha: of false positives.", "",
        "Raises:", "  E: x, y: bad.",
    ]  # fmt: skip


def test_text_without_sections_stays(house):
    text = "One line.\n\nWhat follows: more text,\n  indented.\nAnd a list:\n  a, b: c."
    assert house.rewritten(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(r - 1)**2 + f**2", r"(r - 1)\*\*2 + f\*\*2"),
        ("of shape `(B, *S, K)` or B *S", r"of shape `(B, *S, K)` or B \*S"),
        ("Args:\n  **options: of *others", "Args:\n  **options: of \\*others"),
    ],
)
def test_a_star_is_no_emphasis(house, text, expected):
    assert house.with_stars(text) == expected
