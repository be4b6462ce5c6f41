"""Episodes on paper: rows, means with their n, paired changes, clicks to a Dice, and what the report says of them."""

import json
import math

import numpy as np
import pytest
from annotations import unchecked

from jaxseg import evaluate, metrics, viz
from jaxseg.evaluate import episode_report, episodes, files
from jaxseg.evaluate.episodes import Played
from jaxseg.typing import UserError

CLASSES = ("lung", "<heart>")
NAN = math.nan


def played_cases():
    """Four cases of two classes, two steps, three clicks; the last one nobody clicked in."""
    return [
        Played("007", np.array([[0.5, 0.7], [0.6, 0.8], [0.7, 0.9]]), np.array([0.25, 0.125]),
               np.array([[0.5, 0.5], [0.7, 0.9], [0.8, 1.0], [0.9, 1.0]])),
        Played("b", np.array([[0.5, NAN], [0.4, NAN], [0.5, NAN]]), np.array([-0.5, 0.5]),
               np.array([[0.2, NAN], [0.3, NAN], [0.79, NAN], [0.85, NAN]])),
        Played("c", np.array([[0.9, 0.9], [0.9, 0.9], [0.7, 0.9]]), np.array([0.0, -0.5]),
               np.array([[0.9, 0.9], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])),
        Played("d", np.array([[0.2, NAN], [0.3, 0.0], [0.6, NAN]]), np.array([0.5, 0.5])),
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """An evaluation that has left episodes."""
    picture = viz.png_bytes(np.full((40, 60, 3), 90, np.uint8))
    episodes.write(
        tmp_path / "evaluation", played_cases(), classes=CLASSES, trained_steps=1, pictures={"case <b>/2": picture}
    )
    return tmp_path / "evaluation"


def summary():
    return episodes.summarise(played_cases(), classes=CLASSES, trained_steps=1)


def test_rows_come_back_from_the_tables(folder):
    rows = files.read_cases(folder / "episodes" / "steps.csv", names=("case", "class", "step"))
    assert len(rows) == 4 * 3 * 2 and list(rows[0]) == ["case", "class", "step", "dice", "reward"]
    table = {(row["case"], row["class"], row["step"]): (row["dice"], row["reward"]) for row in rows}
    assert table["007", "<heart>", 2] == (0.9, 0.125) and table["b", "lung", 1] == (0.4, -0.5)
    assert math.isnan(table["b", "<heart>", 1][0]) and math.isnan(table["007", "lung", 0][1])
    clicks = files.read_cases(folder / "episodes" / "clicks.csv", names=("case", "class", "click"))
    assert len(clicks) == 3 * 4 * 2 and clicks[-1]["case"] == "c" and clicks[-1]["click"] == 3
    assert {row["case"] for row in clicks} == {"007", "b", "c"}


def test_means_are_over_cases_of_the_mean_over_their_classes():
    first, second, third = summary()["steps"]
    assert first["dice"]["mean"] == pytest.approx((0.6 + 0.5 + 0.9 + 0.2) / 4) and first["dice"]["n"] == 4
    assert second["dice"]["mean"] == pytest.approx((0.7 + 0.4 + 0.9 + 0.15) / 4)
    low, high = metrics.bootstrap_interval(np.array([0.8, 0.5, 0.8, 0.6]))
    assert (third["dice"]["low"], third["dice"]["high"]) == pytest.approx((low, high))
    assert third["reward"]["mean"] == pytest.approx(0.625 / 4) and third["reward"]["n"] == 4
    assert "change" not in first and "reward" not in first


def test_changes_are_paired_with_the_start():
    _, second, third = summary()["steps"]
    gains = np.array([0.2, 0.0, -0.1, 0.4])
    assert third["change"]["mean_difference"] == pytest.approx(gains.mean()) and third["change"]["n"] == 4
    low, high = metrics.bootstrap_interval(gains)
    assert (third["change"]["low"], third["change"]["high"]) == pytest.approx((low, high), abs=1e-9)
    counts = {key: third[key] for key in ("better", "equal", "worse", "not_worse", "invented", "cleared")}
    assert counts == {"better": 2, "equal": 1, "worse": 1, "not_worse": 3, "invented": 0, "cleared": 0}
    assert second["change"]["mean_difference"] == pytest.approx((0.1 - 0.1 + 0.0 + 0.1) / 4)


def test_what_a_step_invents_is_harm():
    second = summary()["steps"][1]
    assert second["invented"] == 1 and second["cleared"] == 0
    assert (second["better"], second["equal"], second["worse"]) == (1, 1, 2)  # d gained 0.1 and lost a whole Dice
    start, end = np.array([[0.5, 0.0]]), np.array([[0.4, NAN]])
    cases = [Played("a", np.concatenate([start, end]), np.zeros(1))]
    entry = episodes.summarise(cases, classes=CLASSES, trained_steps=1)["steps"][1]
    assert (entry["cleared"], entry["better"]) == (1, 1) and entry["change"]["mean_difference"] == pytest.approx(-0.1)


def test_clicks_to_reach_a_dice():
    found = summary()["clicks"]
    assert [entry["dice"]["n"] for entry in found["by_click"]] == [3, 3, 3, 3]
    assert found["by_click"][2]["dice"]["mean"] == pytest.approx((0.9 + 0.79 + 0.5) / 3)
    low, high = found["goals"]
    assert (low["dice"], low["reached"], low["n"], low["never"], low["made"]) == (0.8, 3, 3, 0, 3)
    assert low["clicks"]["mean"] == pytest.approx((1 + 3 + 0) / 3), "the last one had it without a click"
    assert (high["dice"], high["reached"], high["never"]) == (0.9, 2, 1) and high["share"] == pytest.approx(2 / 3)
    assert high["clicks"]["mean"] == pytest.approx((2 + 4 + 0) / 3), "one click more than were made for never"
    assert high["clicks"]["n"] == 3


def test_the_summary_is_what_the_file_holds(folder):
    stored = files.read_summary(folder / "episodes" / "summary.json")
    pictures = stored.pop("pictures")
    assert stored == summary()
    assert pictures == [{"name": "case <b>/2", "file": "01_case__b__2.png"}]
    text = (folder / "episodes" / "summary.json").read_text()
    assert "NaN" not in text and json.loads(text)["trained_steps"] == 1


def test_what_an_earlier_evaluation_left_is_removed(folder):
    ours = folder / "episodes"
    (ours / "notes.txt").write_text("of a person")
    episodes.write(folder, [played_cases()[3]], classes=CLASSES, trained_steps=2)
    assert sorted(path.name for path in ours.iterdir()) == ["notes.txt", "steps.csv", "summary.json"]
    assert list(episode_report.sections(folder)) == ["Episodes"]


def test_table_for_the_terminal():
    lines = episodes.summary_table(summary(), width=150).splitlines()
    assert lines[0].split()[:2] == ["step", "Dice"]
    assert lines[1].split() == ["0", "0.550", *lines[1].split()[2:5], "4"]
    assert lines[3].split()[6] == "+0.125" and lines[3].split()[-4:] == ["4", "2", "1", "1"]
    text = " ".join(" ".join(lines).split())
    assert "step 1: 1 invented, 0 cleared" in text and "steps of an episode in training: 1" in text
    assert "Dice 0.9: reached by 2 of 3 cases with up to 3 clicks; clicks to reach it 2.00" in text
    assert "n 3), 4 for the 1 that never did" in text
    without = episodes.summarise(played_cases()[3:], classes=CLASSES, trained_steps=1)
    assert "click" not in episodes.summary_table(without)


def test_report_shows_the_episodes(folder):
    page = evaluate.write_report(folder.parent).read_text()
    steps = page.split('<section id="episodes">')[1].split("</section>")[0]
    clicks = page.split('<section id="clicks">')[1].split("</section>")[0]
    assert steps.count("data:image/svg+xml") == 1 and steps.count("data:image/jpeg") == 1
    assert "<strong>+0.125</strong>" in steps and "2 (beyond training)" in steps and "1 (beyond" not in steps
    assert "case &lt;b&gt;/2" in steps and "1 invented" in steps
    assert steps.count("<small>n 4</small>") == 3 + 2 + 2, "Dice, change, reward"
    assert clicks.count("data:image/svg+xml") == 1 and "2 of 3" in clicks and "<strong>2.00</strong>" in clicks
    assert clicks.count("<small>n 3</small>") == 4 + 2


def test_the_plot_is_of_the_means_of_cases(folder, monkeypatch):
    seen = {}
    monkeypatch.setattr(episode_report, "by_step", lambda dice, **options: seen.update({options["label"]: dice}))
    assert "too few" in episode_report.sections(folder)["Episodes"]
    np.testing.assert_allclose(seen["step"], [[0.6, 0.7, 0.8], [0.5, 0.4, 0.5], [0.9, 0.9, 0.8], [0.2, 0.15, 0.6]])
    assert seen["click"].shape == (3, 4)


def test_nothing_is_shown_of_what_is_not_there(tmp_path):
    assert episode_report.sections(tmp_path) == {}
    assert "Episodes" not in evaluate.write_report(tmp_path).read_text()


def damaged(folder, name, text):
    (folder / "episodes" / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: damaged(f, "summary.json", '{"steps": '), "is not valid JSON"),
        (lambda f: damaged(f, "summary.json", "[1]"), "should hold a JSON object"),
        (lambda f: damaged(f, "summary.json", '{"trained_steps": 1, "steps": [3]}'), "does not hold what the report"),
        (lambda f: damaged(f, "summary.json", '{"trained_steps": 1}'), "it lacks 'steps'"),
        (
            lambda f: damaged(f, "steps.csv", "case,class,step,dice,reward\n007,lung,7,0.5,nan\n"),
            "steps up to 2, it has step 7",
        ),
        (lambda f: damaged(f, "steps.csv", "case,class,step,dice,reward\n007,lung,1,good,nan\n"), "the Dice good"),
        (lambda f: damaged(f, "steps.csv", "case,class,step,dice,reward\n007,lung\n"), "line 2 has 2"),
        (lambda f: damaged(f, "steps.csv", "case,step\n"), "should have the columns"),
        (lambda f: (f / "episodes" / "steps.csv").unlink(), "run --mode evaluate first"),
        (lambda f: (f / "episodes" / "clicks.csv").unlink(), "There is no .*clicks.csv"),
    ],
)
def test_a_damaged_file_is_one_sentence(folder, damage, sentence):
    damage(folder)
    with pytest.raises(UserError, match=sentence) as caught:
        episode_report.sections(folder)
    assert "\n" not in str(caught.value) and str(caught.value).count("run --mode evaluate") <= 1


def test_a_missing_picture_is_named(folder):
    (folder / "episodes" / "01_case__b__2.png").unlink()
    assert "The picture of case &lt;b&gt;/2 is missing." in episode_report.sections(folder)["Episodes"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "episodes").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        episodes.write(tmp_path, played_cases(), classes=CLASSES, trained_steps=1)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda cases: [], "at least one case"),
        (lambda cases: [cases[0], cases[0]], "each once"),
        (lambda cases: [cases[0], cases[1]._replace(dice=cases[1].dice[:2])], "'b' should have Dice"),
        (lambda cases: [cases[0]._replace(rewards=np.zeros(3))], "2 rewards"),
        (lambda cases: [cases[0], cases[1]._replace(clicks=cases[1].clicks[:2])], "as many clicks"),
    ],
)
def test_cases_that_do_not_fit_each_other(wrong, sentence):
    with pytest.raises(ValueError, match=sentence), unchecked():
        episodes.summarise(wrong(played_cases()), classes=CLASSES, trained_steps=1)
