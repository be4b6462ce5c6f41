"""Table, CSV and page of a search."""

import csv
import math

import pytest

from jaxseg.evaluate import search
from jaxseg.space import Choice, Range
from jaxseg.typing import UserError

DOMAINS = {"optim.lr": Range(1e-4, 1e-2, log=True), "model.features": Choice(((8, 16), (16, 32)))}
ROWS = [
    {"trial": 2, "state": "finished", "score": 0.81234, "steps": 60, "seconds": 90.0, "optim.lr": 0.003162,
     "model.features": (16, 32), "reason": ""},
    {"trial": 0, "state": "ended early", "score": 0.5, "steps": 20, "seconds": 30.0, "optim.lr": 1e-4,
     "model.features": (8, 16), "reason": "ended after step 20"},
    {"trial": 1, "state": "failed", "score": math.nan, "steps": 1, "seconds": math.nan, "optim.lr": 0.01,
     "model.features": (8, 16), "reason": "Step 2 gave <a loss> that is not finite."},
]  # fmt: skip


def test_files(tmp_path):
    search.write(tmp_path / "tune", ROWS, DOMAINS, name="lungs")
    with (tmp_path / "tune" / search.TABLE).open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == list(ROWS[0])
    assert table[0]["model.features"] == "(16, 32)" and float(table[0]["optim.lr"]) == 0.003162
    assert table[2]["reason"] == ROWS[2]["reason"] and table[2]["score"] == "nan"
    page = (tmp_path / "tune" / search.PAGE).read_text()
    assert "<title>lungs</title>" in page and page.count("data:image/svg+xml") == 2
    assert "Step 2 gave &lt;a loss&gt;" in page and "1 finished, 1 ended early, 1 failed" in page
    assert "from 0.0001 to 0.01, logarithmic" in page and "one of (8, 16), (16, 32)" in page
    assert page.index("0.8123") < page.index("0.5000")
    assert sorted(path.name for path in (tmp_path / "tune").iterdir()) == [search.TABLE, search.PAGE]


def test_table_for_the_terminal():
    lines = search.table(ROWS, DOMAINS, width=160).splitlines()
    assert lines[0].split() == ["trial", "score", "steps", "minutes", "state", *DOMAINS, "reason"]
    assert lines[1].split()[:5] == ["2", "0.8123", "60", "1.5", "finished"]
    assert "Step 2 gave <a loss> that is not finite." in lines[3] and "ended after" not in lines[2]


def test_before_a_trial_has_ended(tmp_path):
    search.write(tmp_path, [], DOMAINS, name="empty")
    assert "No trial has finished yet." in (tmp_path / search.PAGE).read_text()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        search.write(tmp_path / "file", ROWS, DOMAINS, name="lungs")
