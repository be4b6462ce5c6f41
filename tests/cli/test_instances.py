"""The instance path as a user runs it: train, score, report, predict; and the semantic way to the same scores."""

import csv
import json

import clinic
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from jaxseg.ops import run_length

CONFIG = "--config=configs/dsb2018_nuclei.py:debug"
SIZE = (132, 150)


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory):
    """Six images of bright discs, one mask file each; the last image has none."""
    root = tmp_path_factory.mktemp("nuclei")
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for case in range(6):
        rng = np.random.default_rng(case)
        image = rng.normal(40, 5, SIZE)
        (root / f"case_{case}" / "images").mkdir(parents=True)
        (root / f"case_{case}" / "masks").mkdir()
        for number in range(3 if case < 5 else 0):
            disc = np.hypot(y - rng.integers(12, 120), x - 25 - 50 * number) < rng.integers(7, 12)
            image[disc] += 120
            Image.fromarray(disc.astype(np.uint8) * 255).save(root / f"case_{case}" / "masks" / f"{number}.png")
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / f"case_{case}" / "images" / "a.png")
    return root


@pytest.fixture(scope="module")
def trained(nuclei, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    done = clinic.launch(CONFIG, f"--config.data.root={nuclei}", f"--workdir={workdir}")
    assert done.returncode == 0, done.stdout + done.stderr
    return workdir, done


def test_a_run_ends_with_scores_overlays_and_a_report(trained):
    workdir, done = trained
    assert not done.stderr and "mask      AP " in done.stdout and "box       AP " in done.stdout
    summary = json.loads((workdir / "evaluation" / "summary.json").read_text())
    held_out = json.loads((workdir / "config.json").read_text())["split"]["held out"]
    with (workdir / "evaluation" / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == held_out and {row["class"] for row in rows} == {"nucleus"}
    assert [int(row["objects"]) for row in rows] == [0 if name == "case_5" else 3 for name in held_out]
    assert summary["coco"]["images"] == len(held_out)
    assert summary["coco"]["objects"] == sum(int(row["objects"]) for row in rows)
    assert set(summary["coco"]["mask"]) == set(summary["coco"]["box"]) >= {"AP", "AP50", "AR100"}
    assert list((workdir / "evaluation" / "overlays").glob("worst_*.png"))
    assert "Average precision" in (workdir / "report.html").read_text()


def test_the_log_names_the_five_losses(trained):
    first = json.loads((trained[0] / "metrics.jsonl").read_text().splitlines()[0])
    names = ("objectness", "anchor_box", "class", "box", "mask")
    assert {f"train/loss/{name}" for name in names} <= set(first)
    assert first["train/loss"] == pytest.approx(sum(first[f"train/loss/{name}"] for name in names), rel=1e-4)


def test_predict_writes_label_images_coco_json_and_overlays(trained, nuclei, tmp_path):
    workdir, _ = trained
    inputs = tmp_path / "in"
    inputs.mkdir()
    for case in (0, 5):
        (inputs / f"case_{case}.png").write_bytes((nuclei / f"case_{case}" / "images" / "a.png").read_bytes())
    flags = ("--mode=predict", f"--workdir={workdir}", f"--input={inputs}", f"--output={tmp_path / 'out'}")
    done = clinic.launch(*flags, "--set=predict.min_score=0.0")
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    found = COCO(str(tmp_path / "out" / "instances.json"))
    assert {entry["file_name"] for entry in found.imgs.values()} == {"case_0.png", "case_5.png"}
    for entry in found.imgs.values():
        numbers = np.asarray(Image.open(tmp_path / "out" / entry["file_name"]))
        assert numbers.shape == SIZE and numbers.max() <= len(found.getAnnIds(imgIds=entry["id"]))
        assert (tmp_path / "out" / "overlays" / entry["file_name"]).exists()
    assert len(found.anns) > 0
    again = clinic.launch(*flags)
    assert again.returncode == 2 and "instances.json is there already; add --overwrite" in again.stderr


def test_a_folder_scores_as_the_held_out_cases_do(trained, nuclei, tmp_path):
    """The same cases as label images and as a COCO file."""
    workdir, _ = trained
    held_out = json.loads((workdir / "config.json").read_text())["split"]["held out"]
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    coco = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "nucleus"}]}
    for number, case in enumerate(held_out, start=1):
        (tmp_path / "images" / f"{case}.png").write_bytes((nuclei / case / "images" / "a.png").read_bytes())
        values = np.zeros(SIZE, np.uint16)
        for mask in sorted((nuclei / case / "masks").glob("*.png")):
            inside = np.asarray(Image.open(mask)) > 0
            values[inside] = 300 + len(coco["annotations"])
            run = run_length.encode(inside)
            shape = {"size": run["size"], "counts": run["counts"].decode()}
            entry = {"id": len(coco["annotations"]) + 1, "image_id": number, "category_id": 7, "segmentation": shape}
            coco["annotations"].append({**entry, "iscrowd": 0})
        Image.fromarray(values).save(tmp_path / "labels" / f"{case}.png")
        coco["images"].append({"id": number, "file_name": f"{case}.png", "height": SIZE[0], "width": SIZE[1]})
    (tmp_path / "objects.json").write_text(json.dumps(coco))
    expected = (workdir / "evaluation" / "cases.csv").read_text()
    flags = ("--mode=evaluate", f"--workdir={workdir}", f"--input={tmp_path / 'images'}")
    for labels in ("labels", "objects.json"):
        output = tmp_path / f"of_{labels}"
        done = clinic.launch(*flags, f"--labels={tmp_path / labels}", f"--output={output}")
        assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
        assert (output / "cases.csv").read_text() == expected
    Image.fromarray(np.ones((5, 6), np.uint8)).save(tmp_path / "labels" / f"{held_out[0]}.png")
    done = clinic.launch(*flags, f"--labels={tmp_path / 'labels'}", f"--output={tmp_path / 'x'}")
    assert done.returncode == 2 and "but has (5, 6); export it again" in done.stderr, done.stderr


def test_watershed_on_a_semantic_network_gives_the_same_tables(nuclei, tmp_path):
    done = clinic.launch(f"{CONFIG},unet", f"--config.data.root={nuclei}", f"--workdir={tmp_path}")
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    with (tmp_path / "evaluation" / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} == {"nucleus"} and {"dsb_score", "pq", "aji"} <= set(rows[0])
    assert sum(int(row["objects"]) for row in rows) in (3, 6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.task=semantic"], "mask_rcnn does instance"),
        (["--config.data.crop=True"], "set data.spacing='keep' and data.crop=False"),
        (["--config.instance.max_objects=0"], "instance.max_objects must be at least 1"),
        (["--config.data.target=border"], "needs objects, but 6 cases"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(nuclei, tmp_path, flags, message):
    done = clinic.launch(CONFIG, f"--config.data.root={nuclei}", f"--workdir={tmp_path}", *flags)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
