"""Cases in, rows and pictures out."""

import functools
import math

import numpy as np
import pytest
from PIL import Image

from jaxseg import evaluate, metrics
from jaxseg.evaluate import evaluator
from jaxseg.typing import IGNORE, UserError

CLASSES = ("background", "cell", "membrane")
quick = functools.partial(metrics.case_rows, skip_surface=True)


def case(name, *, shift=0, shape=(12, 17), **fields):
    """A square of class 1, found `shift` pixels too far down, and no class 2."""
    true = np.zeros(shape, np.int16)
    true[2:6, 3:10] = 1
    image = np.random.default_rng(0).uniform(size=(*shape, 1)).astype(np.float32)
    return evaluate.CaseResult(name, image, true, np.roll(true, shift, axis=0), (1.0, 1.0), **fields)


def test_rows_have_the_case_first_and_the_right_dice():
    rows = evaluate.evaluate_cases(iter([case("a"), case("b", shift=1)]), classes=CLASSES)
    assert [(row["case"], row["class"]) for row in rows] == [
        ("a", "cell"), ("a", "membrane"), ("b", "cell"), ("b", "membrane"),
    ]  # fmt: skip
    assert all(next(iter(row)) == "case" for row in rows)
    assert [rows[0]["dice"], rows[2]["dice"]] == [1.0, 0.75]
    assert math.isnan(rows[1]["dice"])
    assert rows[2]["hd95_mm"] == 1.0


def test_one_case_at_a_time():
    """The next case is asked for only after the last one was scored."""
    log = []

    def cases():
        for name in "abc":
            log.append(f"make {name}")
            yield case(name)

    evaluate.evaluate_cases(
        cases(), classes=CLASSES, score=quick, progress=lambda done, name: log.append(f"done {done} {name}")
    )
    assert log == ["make a", "done 1 a", "make b", "done 2 b", "make c", "done 3 c"]


def test_pictures_of_worst_and_best_only(tmp_path):
    (tmp_path / "worst_09_old.png").write_bytes(b"x")
    (tmp_path / "mine.png").write_bytes(b"x")
    shifts = {"s3": 3, "s0": 0, "s2/x": 2, "s4": 4, "s1": 1}
    cases = [case(name, shift=shift) for name, shift in shifts.items()]
    evaluate.evaluate_cases(cases, classes=CLASSES, score=quick, overlay_folder=tmp_path, overlay_count=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best_01_s0.png", "best_02_s1.png", "mine.png", "worst_01_s4.png", "worst_02_s3.png",
    ]  # fmt: skip
    assert min(Image.open(tmp_path / "best_01_s0.png").size) > 300


def test_no_case_is_drawn_twice_and_file_names_are_safe(tmp_path):
    cases = [case("a/../b", shift=1), case("c"), case("d", shift=2)]
    evaluate.evaluate_cases(cases, classes=CLASSES, score=quick, overlay_folder=tmp_path / "new", overlay_count=4)
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["best_01_c.png", "worst_01_d.png", "worst_02_a_.._b.png"]


def test_the_gallery_holds_a_bounded_number_of_pictures(monkeypatch):
    drawn = []
    monkeypatch.setattr(evaluator, "draw_case", lambda case, **options: np.zeros((2, 2, 3), np.uint8))
    monkeypatch.setattr(evaluator, "png_bytes", lambda picture: drawn.append(1) or b"png")
    gallery = evaluator.Gallery(3)
    values = np.random.default_rng(0).permutation(200) / 200
    for place, value in enumerate(values):
        gallery.offer(case(f"c{place}"), CLASSES, {"cell": float(value), "membrane": math.nan})
        assert len(gallery.pictures) <= 6
    worst, best = gallery.places()
    assert [values[int(name[1:])] for name in worst] == [0.0, 0.005, 0.01]
    assert [values[int(name[1:])] for name in best] == [0.995, 0.99, 0.985]
    assert set(gallery.pictures) == {*worst, *best}
    assert len(drawn) < 70, "cases in the middle are not drawn"


def test_unranked_cases_are_not_drawn():
    gallery = evaluator.Gallery(2)
    gallery.offer(case("empty"), CLASSES, {"cell": math.nan, "membrane": math.nan})
    assert gallery.places() == ([], [])


def test_areas_of_perfect_and_missing_probabilities():
    perfect = case("a")
    probabilities = np.stack([perfect.true == index for index in range(3)], axis=-1).astype(np.float32)
    cases = [perfect._replace(probabilities=probabilities), case("b")]
    rows = evaluate.evaluate_cases(cases, classes=CLASSES, score=quick, areas=True)
    assert rows[0]["roc_area"] == rows[0]["precision_recall_area"] == 1.0
    assert all(math.isnan(row["roc_area"]) for row in rows[1:])


def test_areas_leave_out_what_does_not_count():
    """A wrong probability outside the region of interest, or where the truth says ignore, changes nothing."""
    one = case("a")
    scores = (one.true == 1).astype(np.float32)
    scores[0, 0] = scores[11, 16] = 1.0
    true, roi = one.true.copy(), np.ones(one.true.shape, bool)
    true[0, 0], roi[11, 16] = IGNORE, False
    one = one._replace(true=true, roi=roi, probabilities=np.stack([scores, 0 * scores], axis=-1))
    row = evaluate.evaluate_cases([one], classes=CLASSES, score=quick, areas=True)[0]
    assert row["roc_area"] == 1.0


def test_areas_refuse_probabilities_of_other_classes():
    one = case("a", probabilities=np.zeros((12, 17, 5), np.float32))
    with pytest.raises(ValueError, match="5 channels"):
        evaluate.evaluate_cases([one], classes=CLASSES, score=quick, areas=True)


def test_regions(tmp_path):
    one = case("a", shift=1)
    one = one._replace(probabilities=np.stack([one.true > 0], axis=-1).astype(np.float32))
    rows = evaluate.evaluate_cases(
        [one], classes=CLASSES, regions={"whole": (1, 2)}, score=quick, areas=True, overlay_folder=tmp_path
    )
    assert [(row["class"], row["dice"], row["roc_area"]) for row in rows] == [("whole", 0.75, 1.0)]
    assert [path.name for path in tmp_path.iterdir()] == ["worst_01_a.png"]


def test_volumes_are_drawn(tmp_path):
    true = np.zeros((5, 12, 17), np.int16)
    true[1:4, 2:6, 3:10] = 2
    volume = evaluate.CaseResult("v", true[..., None].astype(np.float32), true, true, (5.0, 1.0, 0.9))
    evaluate.evaluate_cases([volume], classes=CLASSES, score=quick, overlay_folder=tmp_path)
    assert Image.open(tmp_path / "worst_01_v.png").size[0] > 600


@pytest.mark.parametrize(
    ("cases", "words"),
    [
        ([], "no labelled case"),
        ([case("a"), case("a")], "'a' comes twice"),
        ([case("a")._replace(pred=np.zeros((17, 12), np.int16))], r"'a': the prediction has shape \(17, 12\)"),
        ([case("a")._replace(image=np.zeros((3, 4, 1)))], "'a': the image has shape"),
    ],
)
def test_bad_cases_are_named(cases, words):
    with pytest.raises(UserError, match=words):
        evaluate.evaluate_cases(cases, classes=CLASSES, score=quick)
