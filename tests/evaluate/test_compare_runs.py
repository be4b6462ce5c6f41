"""Two runs, case by case."""

import json
import math
import xml.etree.ElementTree

import numpy as np
import pytest
import scipy.stats

from jaxseg import evaluate
from jaxseg.evaluate import files
from jaxseg.typing import UserError

RNG = np.random.default_rng(0)
A = RNG.uniform(0.5, 0.9, 8)
B = A + RNG.uniform(-0.02, 0.1, 8)


def run(folder, values, *, cases="abcdefgh", metric="dice", name="liver"):
    rows = [{"case": case, "class": name, metric: float(value)} for case, value in zip(cases, values)]
    evaluate.write(folder, rows, {})
    return folder


def test_paired_by_name_whatever_the_order(tmp_path):
    first = run(tmp_path / "one", A)
    second = run(tmp_path / "two", [*B[::-1], 0.1], cases="hgfedcbaX")
    text, result = evaluate.compare_runs(first, second)
    found = result["metrics"]["dice"]
    assert found["n"] == 8 and found["unpaired_b"] == 1
    assert found["mean_difference"] == pytest.approx((B - A).mean())
    assert found["low"] < found["mean_difference"] < found["high"]
    assert found["wilcoxon_p"] == pytest.approx(scipy.stats.wilcoxon(B, A).pvalue)
    assert (result["a"], result["b"], result["left_out"]) == ("one", "two", ["hd95_mm"])
    line = next(line for line in text.splitlines() if line.startswith("Dice"))
    assert f"+{(B - A).mean():.3f}" in line and line.split()[-3:] == ["8", "0", "0"]
    assert "0 rows (case and class) of A, 1 of B" in text and "left out: hd95_mm" in text
    json.dumps(files.jsonable(result), allow_nan=False)


def test_runs_that_count_objects_are_compared_by_them(tmp_path):
    first, second = (run(tmp_path / name, values, metric="dsb_score") for name, values in (("one", A), ("two", B)))
    text, result = evaluate.compare_runs(first, second)
    assert list(result["metrics"]) == ["dsb_score"] and "dice" in result["left_out"]
    assert next(line for line in text.splitlines() if line.startswith("DSB score")).split()[-3:] == ["8", "0", "0"]


def test_infinite_and_absent_pairs_are_counted(tmp_path):
    first = run(tmp_path / "a" / "run", [1.0, math.inf, math.nan, 4.0], metric="hd95_mm")
    second = run(tmp_path / "b" / "run", [2.0, 3.0, 1.0, 4.0], metric="hd95_mm")
    text, result = evaluate.compare_runs(first, second, metrics=("hd95_mm",))
    assert next(line for line in text.splitlines() if line.startswith("HD95")).split()[-3:] == ["2", "1", "1"]
    assert (result["a"], result["b"]) == ("a/run", "b/run"), "equal names are told apart"


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_scatter(tmp_path, kind):
    path = tmp_path / f"plot.{kind}"
    evaluate.compare_runs(run(tmp_path / "a", A), run(tmp_path / "b", B), scatter=path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG") if kind == "png" else xml.etree.ElementTree.fromstring(data) is not None


def test_what_cannot_be_compared(tmp_path):
    first = run(tmp_path / "a", A)
    (tmp_path / "new").mkdir()
    with pytest.raises(UserError, match=r"new has no evaluation/cases\.csv; run --mode evaluate"):
        evaluate.compare_runs(first, tmp_path / "new")
    with pytest.raises(UserError, match=r"no case in common \(a, b, c, \.\.\.; p, q\)"):
        evaluate.compare_runs(first, run(tmp_path / "c", [1, 2], cases="pq"))
    with pytest.raises(UserError, match="Nothing to compare"):
        evaluate.compare_runs(first, run(tmp_path / "d", A, name="spleen"))
    with pytest.raises(UserError, match="Not both runs have dice or hd95_mm"):
        evaluate.compare_runs(first, run(tmp_path / "e", A, metric="nsd"))
    with pytest.raises(UserError, match=r"\.svg or \.png"):
        evaluate.compare_runs(first, first, scatter=tmp_path / "plot.pdf")
    evaluate.write(tmp_path / "f", [], {})
    with pytest.raises(UserError, match="case"):
        evaluate.compare_runs(first, tmp_path / "f")
