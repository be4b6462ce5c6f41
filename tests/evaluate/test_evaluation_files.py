"""Tables and summaries survive the disk."""

import json
import math

import numpy as np
import pytest

from jaxseg import evaluate, metrics
from jaxseg.evaluate import files
from jaxseg.typing import UserError

ROWS = [
    {"case": "007", "class": "liver", "dice": 0.1 + 0.2, "hd95_mm": math.inf, "lesions": 3},
    {"case": "a, \"b\"\nc", "class": "42", "dice": math.nan, "hd95_mm": np.float32(1.5), "lesions": 0},
]  # fmt: skip


def test_round_trip(tmp_path):
    evaluate.write_results(tmp_path / "evaluation", ROWS, {})
    back = evaluate.read_cases(tmp_path / "evaluation" / "cases.csv")
    assert [list(row) for row in back] == [list(row) for row in ROWS]
    assert back[0] == ROWS[0]
    assert back[1]["case"] == ROWS[1]["case"] and back[1]["class"] == "42"
    assert math.isnan(back[1]["dice"]) and back[1]["hd95_mm"] == 1.5 and back[1]["lesions"] == 0
    text = (tmp_path / "evaluation" / "cases.csv").read_text()
    assert text.splitlines()[:2] == ["case,class,dice,hd95_mm,lesions", "007,liver,0.30000000000000004,inf,3"]
    assert sorted(path.name for path in (tmp_path / "evaluation").iterdir()) == ["cases.csv", "summary.json"]


def test_rows_with_other_keys_share_a_table(tmp_path):
    evaluate.write_results(
        tmp_path, [{"case": "a", "class": "x", "dice": 1.0}, {"case": "b", "class": "x", "nsd": 0.5}], {}
    )
    back = evaluate.read_cases(tmp_path / "cases.csv")
    assert math.isnan(back[0]["nsd"]) and math.isnan(back[1]["dice"])


def test_summary_is_strict_json_and_comes_back(tmp_path):
    summary = {
        "classes": {"a": {"hd95_mm": {"mean": math.nan, "median": math.inf, "n": np.int64(2)}}},
        "list": (1, 2.5),
    }
    evaluate.write(tmp_path, ROWS, summary)
    text = (tmp_path / "evaluation" / "summary.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["classes"]["a"]["hd95_mm"] == {
        "mean": None,
        "median": "inf",
        "n": 2,
    }
    back = evaluate.read_summary(tmp_path / "evaluation" / "summary.json")
    assert math.isnan(back["classes"]["a"]["hd95_mm"]["mean"]) and back["classes"]["a"]["hd95_mm"]["median"] == math.inf
    assert back["list"] == [1, 2.5]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    evaluate.write_results(tmp_path, ROWS, {"n": 1})
    with pytest.raises(TypeError):
        evaluate.write_results(tmp_path, ROWS[:1], {"n": object()})
    assert evaluate.read_summary(tmp_path / "summary.json") == {"n": 1}


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        evaluate.write_results(tmp_path / "file" / "evaluation", ROWS, {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "run --mode evaluate first"),
        ("", "columns case and class"),
        ("a,b\n1,2\n", "columns case and class"),
        ("case,class,dice\nx,y,1\nx\n", "line 3 has 1"),
    ],
)
def test_bad_tables(tmp_path, text, words):
    if text is not None:
        (tmp_path / "cases.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        evaluate.read_cases(tmp_path / "cases.csv")


def test_bad_summaries(tmp_path):
    with pytest.raises(UserError, match="evaluate first"):
        evaluate.read_summary(tmp_path / "summary.json")
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        evaluate.read_summary(tmp_path / "summary.json")


def test_log_with_a_line_cut_short(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "val/dice": null}\n\n[1]\n{"step": 2, "tr')
    assert files.read_log(tmp_path / "metrics.jsonl") == ([{"step": 1, "val/dice": None}], 2)


def test_no_mean_without_its_n():
    rows = [
        {"case": str(case), "class": name, "dice": case / 10, "hd95_mm": math.inf if case == 3 else 2.0, "other": 1.0}
        for case in range(1, 5)
        for name in ("liver", "[bold]x")
    ]
    rows.append({"case": "9", "class": "liver", "dice": math.nan, "hd95_mm": math.nan, "other": 1.0})
    lines = evaluate.summary_table(metrics.aggregate(rows)).splitlines()
    assert lines[0].split() == ["class", "metric", "mean", "95", "%", "interval", "median", "n", "excluded", "infinite"]
    assert lines[1].split()[:3] == ["liver", "Dice", "0.250"] and lines[1].split()[-3:] == ["4", "1", "0"]
    assert lines[2].split()[:3] == ["HD95", "(mm)", "2.000"] and lines[2].split()[-3:] == ["3", "1", "1"]
    assert any(line.startswith("[bold]x") for line in lines), "names are no markup"
    assert any(line.startswith("mean of classes") for line in lines)
    assert "other" not in "".join(lines)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.91249, "0.912"), (math.nan, "n/a"), (None, "n/a"), (math.inf, "inf"), (-math.inf, "-inf"), (3, "3.000")],
)
def test_numbers_for_people(value, text):
    assert files.number(value) == text
