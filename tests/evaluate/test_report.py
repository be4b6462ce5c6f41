"""The page: whole, self-contained, escaped, without paths."""

import base64
import html.parser
import json
import math
import re

import numpy as np
import pytest

from jaxseg import evaluate, metrics, viz
from jaxseg.evaluate import report
from jaxseg.typing import UserError

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(html.parser.HTMLParser):
    """Checks that tags nest and gathers what the page holds."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data + " "

    def values(self, tag, key):
        return [value for name, attribute, value in self.attributes if (name, attribute) == (tag, key)]


@pytest.fixture
def workdir(tmp_path):
    """A finished run with awkward names: six cases of two classes, one infinite, one absent."""
    rows = [
        {
            "case": f"case <{number}>",
            "class": name,
            "dice": number / 10,
            "hd95_mm": 12.0 - number,
            "volume_true_ml": 2.0,
        }
        for number in range(1, 7)
        for name in ("liver", "<script>alert(1)</script>")
    ]
    rows[0] |= {"dice": 0.0, "hd95_mm": math.inf}
    rows[3] |= {"dice": math.nan, "hd95_mm": math.nan, "volume_true_ml": 0.0}
    evaluate.write(tmp_path, rows, metrics.aggregate(rows, resamples=50))
    overlays = tmp_path / "evaluation" / "overlays"
    overlays.mkdir()
    viz.save_png(overlays / "worst_01_case__1_.png", np.full((40, 60, 3), 90, np.uint8))
    viz.save_png(overlays / "best_01_case__6_.png", np.full((40, 60, 3), 90, np.uint8))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 0.5}\n{"step": 2, "train/loss": 0.4}\n{"st')
    record = {
        "command": "python launch.py --config configs/unet3d.py:debug --config.data.root=/d/Jane Doe --input x.nii",
        "device": "1 x <cpu>", "created": "2025-01-01 10:00:00", "versions": {"jax": "0.10.2"}, "seconds": 90.0,
        "config": {"data": {"name": "msd", "root": "/data/Jane Doe", "fold": "0", "patch_size": [64, 64]}, "seed": 0,
                   "model": {"name": "unet"}, "loss": "dice_loss + 0.5*cross_entropy"},
        "dataset": {"channels": ["CT"], "classes": ["background", "liver"]},
        "split": {"training": ["a", "b", "c"], "held-out": 6},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(record))
    return tmp_path


def test_page_is_whole_and_self_contained(workdir):
    path = evaluate.write_report(workdir, facts={"scanner": "A & B"})
    assert path == workdir / "report.html" and not list(workdir.glob("*.tmp"))
    text = path.read_text()
    read = Reader(text)
    sources = read.values("img", "src")
    assert [source[:20] for source in sources].count("data:image/jpeg;base") == 2
    assert [source[:18] for source in sources].count("data:image/svg+xml") == 3, "two distributions and the curves"
    for source in sources:
        assert len(base64.b64decode(source.split(",")[1], validate=True)) > 300
    assert all(value.startswith("#") for value in read.values("a", "href"))
    assert "link" not in read.tags and not re.search(r"(?:src|href)=\"(?!data:|#)|url\(|@import|https?://", text)
    assert read.tags.count("script") == 1
    assert "A & B" in read.text


def test_page_says_what_was_run_and_scored(workdir):
    text = " ".join(Reader(evaluate.write_report(workdir).read_text()).text.split())
    for words in (
        "1 x <cpu>",
        "jax 0.10.2",
        "1.5 minutes",
        "training cases 3",
        "held-out cases 6",
        "dice_loss + 0.5*cross_entropy",
    ):
        assert words in text
    assert "scored cases 6" in text and "5 of 6 cases, median 2 ml" in text
    assert "liver: in 1 of 6 cases only one of truth and prediction has it" in text
    assert "1 of 6 cases have it in neither map and are excluded" in text
    assert "liver: the mean rests on 6 cases" in text
    assert "nothing overlaps" in text and "could not be read" in text
    assert "n 5" in text and "1 infinite" in text


def test_user_text_is_escaped(workdir):
    text = evaluate.write_report(workdir).read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text and "case &lt;1&gt;" in text


def test_no_path_of_the_data_is_shown(workdir):
    text = evaluate.write_report(workdir).read_text()
    assert "Jane" not in text and "Doe" not in text and "x.nii" not in text and str(workdir.parent) not in text
    assert "configs/unet3d.py:debug" in text


def test_made_cases_are_counted_and_their_folders_hidden(workdir):
    record = json.loads((workdir / "config.json").read_text())
    assert "made cases" not in Reader(evaluate.write_report(workdir).read_text()).text
    record["config"]["data"] |= {"extra": ["doctored"], "images": []}
    record["extra"] = {"folders": ["doctored"], "cases": 37}
    (workdir / "config.json").write_text(json.dumps(record))
    text = Reader(evaluate.write_report(workdir).read_text()).text
    assert re.search(r"made cases beside the training cases\s+37", text) and "doctored" not in text
    assert text.count(report.HIDDEN) > 1


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("python /home/me/launch.py --config configs/a.py --seed=3", "python launch.py --config configs/a.py --seed=3"),
        ("python launch.py --config.data.root=D:\\Jane Doe", f"python launch.py --config.data.root={report.HIDDEN}"),
        ("launch.py --input jane.nii --output m", f"launch.py --input {report.HIDDEN} --output {report.HIDDEN}"),
        ("launch.py --config.s gs://x/y z --seed 3", f"launch.py --config.s {report.HIDDEN} --seed 3"),
        ("launch.py /data/jane", report.HIDDEN),
        ("launch.py --overwrite", "launch.py --overwrite"),
        ("", ""),
        (
            "python launch.py --config configs/rl_refine.py:initial=/home/x/run,debug=True --mode run",
            "python launch.py --config configs/rl_refine.py:initial=(path not shown),debug=True --mode run",
        ),
        ("python launch.py --config=/home/x/my.py:debug", "python launch.py --config=my.py:debug"),
    ],
)  # fmt: skip
def test_commands_without_paths(command, shown):
    assert report.without_paths(command) == shown


def test_case_table_is_worst_first_with_links(workdir):
    read = Reader(evaluate.write_report(workdir).read_text())
    cells = [value for value in read.values("td", "data-value") if value.startswith("case <")]
    assert cells == [f"case <{number}>" for number in range(1, 7)]
    links = [value for value in read.values("a", "href") if value.startswith("#overlay-")]
    assert links == ["#overlay-worst_01_case__1_", "#overlay-best_01_case__6_"]
    assert set(link[1:] for link in links) == set(read.values("figure", "id"))
    order = [value for tag, key, value in read.attributes if key == "alt" and "mean Dice" in value]
    assert order[0].startswith("worst 1: case <1>, mean Dice 0.050")


@pytest.mark.parametrize("missing", ["evaluation/cases.csv", "evaluation/summary.json", "config.json", "metrics.jsonl"])
def test_missing_parts_are_named(workdir, missing):
    (workdir / missing).unlink()
    text = Reader(evaluate.write_report(workdir).read_text()).text
    assert ("run --mode evaluate" if "evaluation" in missing else f"There is no {missing}") in text


def test_an_empty_folder_gives_a_page(tmp_path):
    text = Reader(evaluate.write_report(tmp_path).read_text()).text
    assert "has not been evaluated yet" in text and "There is no config.json" in text and "no overlays" in text


def test_nothing_but_absent_classes(tmp_path):
    rows = [{"case": "a", "class": "x", "dice": math.nan, "hd95_mm": math.nan}]
    evaluate.write(tmp_path, rows, metrics.aggregate(rows))
    text = Reader(evaluate.write_report(tmp_path).read_text()).text
    assert "n/a" in text and "There is nothing to plot" in text and "n 0" in text


def test_bad_workdirs(tmp_path):
    with pytest.raises(UserError, match="There is no run"):
        evaluate.write_report(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not valid JSON"):
        evaluate.write_report(tmp_path)
