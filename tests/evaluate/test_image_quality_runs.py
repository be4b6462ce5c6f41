"""Made images in, rows, summary, files and pictures out."""

import math

import numpy as np
import pytest
from PIL import Image

from jaxseg import evaluate, metrics
from jaxseg.evaluate import image_quality
from jaxseg.typing import UserError

SHAPE = (14, 17, 1)


def case(name, *, errors=(0.1, 0.2), shape=SHAPE, **fields):
    """A case whose images are the true one plus a constant: the network's first, then "identity"."""
    true = np.random.default_rng(0).uniform(-0.5, 0.5, shape).astype(np.float32)
    made = {method: true + np.float32(error) for method, error in zip(("network", "identity"), errors)}
    options = {"source": -true, "mask": None, "spacing_mm": (1.0,) * (len(shape) - 1), **fields}
    return evaluate.ImageResult(name, made, true, **options)


def of(rows, case, method):
    (found,) = [row for row in rows if (row["case"], row["method"]) == (case, method)]
    return found


def test_rows_by_hand():
    """A constant error e has a MAE of e and a PSNR of 20 log10(2 / e)."""
    rows = evaluate.score_images(iter([case("a"), case("b", errors=(0.02, 0.2))]))
    assert [(row["case"], row["method"]) for row in rows] == [
        ("a", "network"), ("a", "identity"), ("b", "network"), ("b", "identity"),
    ]  # fmt: skip
    assert all(list(row) == ["case", "method", "psnr_db", "ssim", "mae"] for row in rows)
    assert of(rows, "a", "network")["mae"] == pytest.approx(0.1, abs=1e-6)
    assert of(rows, "a", "network")["psnr_db"] == pytest.approx(20 * math.log10(20), abs=1e-4)
    assert of(rows, "b", "network")["psnr_db"] == pytest.approx(40, abs=1e-3)
    assert 1 > of(rows, "b", "network")["ssim"] > of(rows, "a", "network")["ssim"] > of(rows, "a", "identity")["ssim"]


def test_the_data_range_moves_psnr():
    wide, narrow = (evaluate.score_images([case("a")], data_range=value)[0]["psnr_db"] for value in (2.0, 1.0))
    assert wide - narrow == pytest.approx(20 * math.log10(2))


def test_only_what_lies_in_the_mask_counts():
    mask = np.zeros(SHAPE[:2], bool)
    mask[3:9, 4:13] = True
    one = case("a", mask=mask)
    one.made["network"][0, 0] = 0.9
    assert of(evaluate.score_images([one]), "a", "network")["mae"] == pytest.approx(0.1, abs=1e-6)


def test_one_case_at_a_time():
    log = []

    def cases():
        for name in "abc":
            log.append(f"make {name}")
            yield case(name)

    evaluate.score_images(cases(), progress=lambda done, name: log.append(f"done {done} {name}"))
    assert log == ["make a", "done 1 a", "make b", "done 2 b", "make c", "done 3 c"]


def test_thin_volumes_are_scored_slice_by_slice():
    shape = (3, 14, 17, 2)
    draw = np.random.default_rng(0)
    true, made = draw.normal(size=shape), draw.normal(size=shape)
    slices = [metrics.structural_similarity(made[place], true[place], data_range=2) for place in range(3)]
    assert image_quality.similarity(made, true, data_range=2) == pytest.approx(np.mean(slices))
    turned = [np.moveaxis(array, 0, 2) for array in (made, true)]
    assert image_quality.similarity(*turned, data_range=2) == pytest.approx(np.mean(slices))


def test_thin_volumes_weigh_slices_by_their_windows_in_the_mask():
    shape = (3, 14, 17, 1)
    draw = np.random.default_rng(0)
    true, made, mask = draw.normal(size=shape), draw.normal(size=shape), np.zeros(shape[:3], bool)
    mask[0, 6, 6:9] = mask[1, 7, 8] = mask[2, 0, 0] = True  # the last is no centre of a window
    first, second = (metrics.structural_similarity(made[p], true[p], data_range=2, mask=mask[p]) for p in (0, 1))
    found = image_quality.similarity(made, true, data_range=2, mask=mask)
    assert found == pytest.approx((3 * first + second) / 4)


@pytest.mark.parametrize("shape", [(10, 17, 1), (5, 17, 6, 1)])
def test_what_is_smaller_than_a_window_has_no_similarity(shape):
    row = evaluate.score_images([case("a", shape=shape)])[0]
    assert math.isnan(row["ssim"]) and row["mae"] == pytest.approx(0.1, abs=1e-6)


def test_a_mask_without_a_window_has_no_similarity():
    mask = np.zeros(SHAPE[:2], bool)
    mask[0] = True
    assert math.isnan(evaluate.score_images([case("a", mask=mask)])[0]["ssim"])


def test_pictures_of_worst_and_best_by_psnr_of_the_network(tmp_path):
    (tmp_path / "worst_09_old.png").write_bytes(b"x")
    errors = {"e3": 0.3, "e0": 0.0, "e2/x": 0.2, "e4": 0.4, "e1": 0.1}
    cases = [case(name, errors=(error, 0.5 - error)) for name, error in errors.items()]
    evaluate.score_images(cases, picture_folder=tmp_path, picture_count=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best_01_e0.png", "best_02_e1.png", "worst_01_e4.png", "worst_02_e3.png",
    ]  # fmt: skip
    # Source, network, identity, true and the difference, each 17 * 15 pixels wide, and the colour bar.
    assert Image.open(tmp_path / "best_01_e0.png").width == 5 * 255 + 6 * 10 + 66


def test_volumes_and_label_maps_are_drawn(tmp_path):
    labels = np.zeros((12, 14, 17), np.int16)
    volume = case("v", shape=(12, 14, 17, 1), spacing_mm=(3.0, 1.0, 1.0), axes="SAR")._replace(source=labels)
    flat = case("n", errors=(0.01, 0.2), source=None)
    evaluate.score_images([volume, flat], picture_folder=tmp_path)
    assert Image.open(tmp_path / "worst_01_v.png").height > Image.open(tmp_path / "best_01_n.png").height * 2


def test_processes_that_share_the_cases_find_the_same():
    cases = [case(name, errors=(error, 0.2)) for name, error in zip("abcde", (0.1, 0.3, 0.2, 0.5, 0.4))]
    parts = [image_quality.score_image_cases(cases[start::2], picture_count=1) for start in (0, 1)]
    whole = evaluate.merge(parts)
    assert whole.rows() == evaluate.score_images(cases)
    assert whole.gallery.places() == (["d"], ["a"])


def rows_of(values):
    """Rows of {case: {method: PSNR}}."""
    return [
        {"case": case, "method": method, "psnr_db": value, "ssim": 0.5, "mae": 0.1}
        for case, methods in values.items()
        for method, value in methods.items()
    ]


def test_summary_by_hand():
    values = {"a": (30.0, 20.0), "b": (32.0, 21.0), "c": (40.0, 31.0), "d": (34.0, 24.0)}
    rows = rows_of({name: dict(zip(("network", "linear"), pair)) for name, pair in values.items()})
    summary = evaluate.summarize_images(rows)
    assert (summary["kind"], summary["cases"]) == ("images", 4)
    entry = summary["methods"]["network"]["psnr_db"]
    assert (entry["mean"], entry["median"], entry["n"], entry["n_infinite"]) == (34.0, 33.0, 4, 0)
    assert 30 < entry["low"] < 34 < entry["high"] < 40
    gain = summary["gains"]["linear"]["psnr_db"]
    assert gain["mean"] == 10.0 and gain["n"] == 4
    assert 9 <= gain["low"] <= 10 <= gain["high"] <= 11, "paired: the cases' own spread of 10 dB is not in it"
    assert list(summary["gains"]) == ["linear"]
    assert summary["gains"]["linear"]["ssim"]["mean"] == 0.0


def test_infinite_psnr_is_counted_and_not_averaged():
    rows = rows_of({"a": {"network": math.inf, "linear": 20.0}, "b": {"network": 30.0, "linear": 24.0}})
    summary = evaluate.summarize_images(rows)
    entry, gain = summary["methods"]["network"]["psnr_db"], summary["gains"]["linear"]["psnr_db"]
    assert (entry["mean"], entry["n"], entry["n_infinite"]) == (30.0, 1, 1)
    assert (gain["mean"], gain["n"], gain["n_infinite"]) == (6.0, 1, 1)
    assert summary["methods"]["linear"]["psnr_db"]["n"] == 2


def test_a_method_that_some_cases_lack_is_compared_where_it_is():
    rows = rows_of({"a": {"network": 30.0, "linear": 20.0}, "b": {"network": 90.0}, "c": {"network": 31.0}})
    rows += rows_of({"d": {"cubic": 5.0}})
    summary = evaluate.summarize_images(rows)
    assert summary["gains"]["linear"]["psnr_db"]["mean"] == 10.0
    assert summary["gains"]["linear"]["psnr_db"]["n"] == 1
    assert summary["gains"]["cubic"]["psnr_db"]["n"] == 0 and math.isnan(summary["gains"]["cubic"]["mae"]["mean"])


@pytest.mark.parametrize(
    ("figure", "low", "high", "words"),
    [
        ("psnr_db", 0.1, 0.3, "better"),
        ("psnr_db", -0.3, -0.1, "worse"),
        ("mae", 0.1, 0.3, "worse"),
        ("mae", -0.3, -0.1, "better"),
        ("ssim", -0.1, 0.1, "no clear difference"),
        ("ssim", math.nan, math.nan, "no clear difference"),
    ],
)
def test_verdict(figure, low, high, words):
    assert image_quality.verdict(figure, {"low": low, "high": high}) == words


def test_files_hold_the_rows_and_the_summary(tmp_path):
    rows = evaluate.score_images([case("007", errors=(0.0, 0.2)), case("b", shape=(10, 17, 1))])
    summary = evaluate.summarize_images(rows)
    evaluate.write_images(tmp_path / "evaluation", rows, summary)
    assert sorted(path.name for path in (tmp_path / "evaluation").iterdir()) == ["cases.csv", "summary.json"]
    back = evaluate.read_images(tmp_path / "evaluation" / "cases.csv")
    assert [{**row, "ssim": None} for row in back] == [{**row, "ssim": None} for row in rows]
    assert back[0]["psnr_db"] == math.inf and math.isnan(back[2]["ssim"]) and back[0]["case"] == "007"
    again = evaluate.read_summary(tmp_path / "evaluation" / "summary.json")
    assert again["kind"] == "images" and again["methods"]["network"]["mae"] == summary["methods"]["network"]["mae"]
    with pytest.raises(UserError, match="columns case and class"):
        evaluate.read_cases(tmp_path / "evaluation" / "cases.csv")


def test_the_table_says_every_figure_with_its_n():
    values = {"a": (30.0, 20.0), "b": (32.0, 21.0), "c": (40.0, 31.0), "d": (math.inf, 24.0)}
    rows = rows_of({name: dict(zip(("network", "histogram matching"), pair)) for name, pair in values.items()})
    lines = evaluate.text_table(evaluate.summarize_images(rows), width=120).splitlines()
    assert " ".join(lines[0].split()) == "method figure mean 95 % interval median n excluded infinite"
    assert lines[1].split()[:3] == ["network", "PSNR", "(dB)"]
    assert lines[1].split()[3] == "34.00" and lines[1].split()[-3:] == ["3", "0", "1"]
    (gain,) = [line for line in lines if line.startswith("histogram matching") and "+" in line]
    assert "+10.00" in gain and gain.endswith("better")
    assert "no clear difference" in lines[-1], "the MAE is the same"
    assert max(map(len, lines)) <= 120


def test_a_table_without_simple_methods_has_no_gains():
    text = evaluate.text_table(evaluate.summarize_images(rows_of({"a": {"network": 30.0}})))
    assert "network minus" not in text and "30.00" in text and "n/a" in text


@pytest.mark.parametrize(
    ("cases", "words"),
    [
        ([], "no labelled case"),
        ([case("a"), case("a")], "'a' comes twice"),
        ([case("a")._replace(true=np.zeros((17, 14, 1), np.float32))], r"'a': the image of network has shape \(14, 17"),
        ([case("a", errors=(np.nan, 0.1))], "'a': network holds numbers that are NaN.*optim.lr"),
    ],
)
def test_bad_cases_are_named(cases, words):
    with pytest.raises(UserError, match=words):
        evaluate.score_images(cases)


def test_slips_of_the_caller_are_told_apart():
    one = case("a")
    with pytest.raises(ValueError, match="network's image first"):
        evaluate.score_images([one._replace(made={"identity": one.true})])
    with pytest.raises(ValueError, match="encode it first"):
        evaluate.score_images([one._replace(true=100 * one.true)])
    with pytest.raises(UserError, match="no case to summarise"):
        evaluate.summarize_images([])
