"""The page about a run that makes images."""

import itertools
import json
import re

import numpy as np
import pytest

from jaxseg import evaluate, metrics, viz
from jaxseg.evaluate import image_report
from jaxseg.typing import UserError
from jaxseg.viz.players import KEYS

GREY = np.full((40, 60, 3), 90, np.uint8)


def panel(folder, step):
    folder.mkdir(exist_ok=True)
    viz.save_png(folder / f"step_{step:06d}.png", np.full((20, 30, 3), step % 256, np.uint8))


@pytest.fixture
def workdir(tmp_path):
    return fill(tmp_path)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The page of `fill`, written once for all tests that only read it: (section -> HTML, all of it)."""
    return page(fill(tmp_path_factory.mktemp("run")))


def fill(tmp_path):
    """Three cases; the network beats <linear> in PSNR and equals it in the rest."""
    rows = [
        {"case": name, "method": method, "psnr_db": psnr, "ssim": 0.5 + psnr / 100, "mae": 0.25}
        for name, values in {"a&b": (30.0, 20.0), "c": (31.0, 22.0), "d": (29.0, 18.5)}.items()
        for method, psnr in zip(("network", "<linear>"), values)
    ]
    folder = tmp_path / "evaluation"
    evaluate.write_images(folder, rows, evaluate.summarize_images(rows))
    (folder / "overlays").mkdir()
    viz.save_png(folder / "overlays" / "worst_01_d.png", GREY)
    viz.save_png(folder / "overlays" / "best_01_c.png", GREY)
    lines = [{"step": step, "train/loss": 0.5, **dict.fromkeys(KEYS, 0.5)} for step in (10, 20)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "config.json").write_text(
        json.dumps({"config": {"data": {"name": "msd"}}, "warnings": ["kept <here>"]})
    )
    for step in (250, 500, 1000):
        panel(tmp_path / "panels", step)
    return tmp_path


def page(workdir):
    text = evaluate.write_report(workdir).read_text()
    found = dict(re.findall(r'<section id="[^"]*"><h2>(.*?)</h2>(.*?)</section>', text, re.DOTALL))
    return found, text


def words(html):
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_sections_stand_in_order(shown):
    found, text = shown
    assert list(found) == [
        "Results", "Warnings", "Pictures", "Distribution", "Cases", "Training panels", "Training", "Players",
        "What was run", "Data", "How to read this page",
    ]  # fmt: skip
    assert "Image report" in text and "Dice" not in text
    assert not re.search(r"(?:src|href)=\"(?!data:|#)|url\(|https?://", text)


def test_results_show_every_method_and_the_gain(shown):
    results = words(shown[0]["Results"])
    assert "network 30.00" in results and "&lt;linear&gt; 20.17" in results and "n 3" in results
    gain = results.split("Gain of the network")[1]
    assert "+9.83" in gain and "+9.00 to +10.50" in gain and "better" in gain
    assert gain.count("no clear difference") == 1, "MAE is the same"


def test_warnings_name_what_the_network_does_not_beat_and_what_training_said(shown):
    shown = words(shown[0]["Warnings"])
    assert "The network is not clearly better than &lt;linear&gt; in MAE: the difference is 0.0000" in shown
    assert "in PSNR" not in shown and "rest on 3 cases" in shown and "kept &lt;here&gt;" in shown


def test_the_file_of_warnings_goes_before_the_record(tmp_path):
    record = {"warnings": ["kept"]}
    assert image_report.training_warnings(tmp_path, record) == ["kept"]
    assert image_report.training_warnings(tmp_path, {"warnings": "one"}) == ["one"]
    (tmp_path / "warnings.txt").write_text("Step 7: one.\n\n  Step 9: two.  \n")
    assert image_report.training_warnings(tmp_path, record) == ["Step 7: one.", "Step 9: two."]


def test_many_warnings_are_cut_and_counted(tmp_path):
    (tmp_path / "warnings.txt").write_text("".join(f"w{place}\n" for place in range(25)))
    lines = image_report.training_warnings(tmp_path, {})
    assert lines[:20] == [f"w{place}" for place in range(20)] and lines[20] == "... and 5 more in warnings.txt."


def test_nothing_to_warn_of_is_said():
    assert "better than every simple method" in image_report._warned([])


def test_pictures_are_worst_first_and_named_by_their_case(workdir):
    (workdir / "evaluation" / "pictures").mkdir()
    viz.save_png(workdir / "evaluation" / "pictures" / "overview.png", GREY)
    (workdir / "evaluation" / "overlays" / "worst_02_a_b.png").write_bytes(b"no picture")
    found = image_report.sections(workdir)[0]
    assert re.findall(r"<figcaption>(.*?)</figcaption>", found["Pictures"]) == [
        "worst 1: d, PSNR (dB) 29.00", "best 1: c, PSNR (dB) 31.00", "overview",
    ]  # fmt: skip
    assert "worst_02_a_b.png is not a picture" in found["Pictures"]
    assert [link for link in re.findall(r'href="(#overlay[^"]*)"', found["Cases"])] == [
        "#overlay-worst_01_d", "#overlay-worst_02_a_b", "#overlay-best_01_c",
    ]  # fmt: skip


def test_cases_are_lowest_psnr_first(shown):
    cases = re.findall(r'<tr><td data-value="([^"]*)"', shown[0]["Cases"])
    assert cases == ["d", "a&amp;b", "c"]


def panels(workdir):
    html = image_report.panels_section(workdir)["Training panels"]
    return re.findall(r"<figcaption>(.*?)</figcaption>", html), html


def test_panels_stand_in_the_order_of_steps(tmp_path):
    assert image_report.panels_section(tmp_path) == {}
    for step in (1000000, 500, 250, 1000):
        panel(tmp_path / "panels", step)
    (tmp_path / "panels" / "mine.png").write_bytes(b"x")
    steps, html = panels(tmp_path)
    assert steps == ["step 250", "step 500", "step 1,000", "step 1,000,000"]
    assert "panels are shown" not in html


def test_at_most_eight_panels_with_first_and_last(tmp_path):
    for step in range(100, 3000, 100):
        panel(tmp_path / "panels", step)
    steps, html = panels(tmp_path)
    assert steps == [f"step {step:,}" for step in range(100, 3000, 400)]
    assert "8 of 29 panels are shown" in html


@pytest.mark.parametrize("count", [1, 2, 8, 9, 100])
def test_spread_is_rising_and_has_both_ends(count):
    places = image_report.spread(count, 8)
    assert places[0] == 0 and places[-1] == count - 1 and len(places) == min(count, 8)
    assert all(after > before for before, after in itertools.pairwise(places))


def test_the_players_have_their_own_curves_and_training_the_rest(shown, tmp_path):
    assert "image/svg+xml" in shown[0]["Players"] and "image/svg+xml" in shown[0]["Training"]
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 10, **dict.fromkeys(KEYS, 0.5)}))
    found = page(tmp_path)[0]
    assert "holds no curve yet" in found["Training"] and "image/svg+xml" in found["Players"]


def test_a_run_without_a_discriminator_has_no_players():
    assert image_report.players_section([{"step": 1, "train/loss": 0.5}]) == {}


def test_a_run_that_only_trained_has_its_panels(tmp_path):
    panel(tmp_path / "panels", 250)
    (tmp_path / "warnings.txt").write_text("Step 7: one.\n")
    found = page(tmp_path)[0]
    assert "not been evaluated yet" in found["Results"] and "Step 7: one." in found["Warnings"]
    assert "step 250" in found["Training panels"]


def test_a_segmentation_with_a_discriminator_keeps_its_scores(tmp_path):
    rows = [{"case": "a", "class": "x", "dice": 0.5}]
    evaluate.write(tmp_path, rows, metrics.aggregate(rows))
    panel(tmp_path / "panels", 250)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/accuracy/fake": 0.5}\n')
    (tmp_path / "warnings.txt").write_text("Step 7: one.\n")
    found, text = page(tmp_path)
    assert "0.500" in found["Scores"] and "Training panels" in found and "Segmentation report" in text
    assert "Step 7: one." in found["Players"] and "Step 7" not in found["Warnings"]


def test_damaged_files_are_named(workdir):
    (workdir / "evaluation" / "summary.json").write_text('{"kind": "images", "methods": {"network": {}}}')
    with pytest.raises(UserError, match="does not hold what the report shows"):
        evaluate.write_report(workdir)
    (workdir / "evaluation" / "summary.json").write_text("{")
    with pytest.raises(UserError, match="run --mode evaluate again"):
        evaluate.write_report(workdir)


def test_sets_of_synthetic_images_are_shown(tmp_path):
    panel(tmp_path / "panels", 10)
    draw = np.random.default_rng(0)
    found = evaluate.compare_sets(*(draw.normal(size=(n, 3)) for n in (6, 5, 4)))
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / image_report.SETS).write_text(json.dumps(found))
    assert "made images against real ones (5 and 6 images)" in page(tmp_path)[0]["Results"]
    (tmp_path / "evaluation" / image_report.SETS).write_text("{")
    with pytest.raises(UserError, match=r"sets\.json cannot be read"):
        page(tmp_path)
