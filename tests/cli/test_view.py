"""--mode view as a user calls it: which cases it shows, what it writes, and how it ends."""

import json
import pathlib
import signal
import subprocess
import sys
import types
import urllib.error
import urllib.request

import clinic
import nibabel
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from scenes import objects, square

from jaxseg.cli import inference, view_cases, workdir
from jaxseg.config import base_config
from jaxseg.data import instances as object_maps
from jaxseg.data.volume import identity_affine
from jaxseg.typing import Case, Sample, UserError, Volume
from jaxseg.viz import viewer


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return clinic.msd(tmp_path_factory.mktemp("clinic") / "task")


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    config = clinic.config_file(folder / "configs")
    done = clinic.launch("--config", config, f"--config.data.root={root}", f"--workdir={folder / 'first'}")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "first"


def received(path: pathlib.Path) -> dict:
    """What a script of the folder hands to the page."""
    return json.loads(path.read_text().partition(", ")[2].rstrip()[:-2])


def arguments(**more) -> workdir.Arguments:
    empty = {"config": ConfigDict(), "workdir": pathlib.Path("."), "inputs": (), "output": None, "labels": None}
    return workdir.Arguments(**{**empty, "overwrite": False, **more})


@pytest.fixture(scope="module")
def written(run):
    done = clinic.launch("--mode=view", f"--workdir={run}", f"--output={run / 'viewer'}")
    assert done.returncode == 0, done.stdout + done.stderr
    return run / "viewer", done


def test_held_out_cases_are_written_worst_first_with_their_scores(run, written):
    folder, done = written
    listed = received(folder / "manifest.js")
    held_out = json.loads((run / "config.json").read_text())["split"]["held out"]
    assert sorted(case["name"] for case in listed["cases"]) == sorted(held_out)
    scores = [case["score"] for case in listed["cases"]]
    assert scores == sorted(scores) and listed["ranking"] == "mean Dice" and listed["embedded"]
    for case in listed["cases"]:
        own = [row["dice"] for row in case["scores"].values()]
        assert set(case["scores"]) == {"shell", "core"} and case["score"] == pytest.approx(np.mean(own))
    assert [one["name"] for one in listed["classes"]] == ["shell", "core", "not scored"]
    assert f"{len(held_out)} cases" in done.stdout and str(folder / "index.html") in done.stdout


def test_a_case_holds_image_truth_prediction_and_uncertainty(root, run, written, tmp_path):
    folder, _ = written
    listed = received(folder / "manifest.js")
    content = received(folder / "cases" / "0.js")
    assert [layer["name"] for layer in content["layers"]] == ["MRI", "truth", "prediction", "uncertainty"]
    name = listed["cases"][0]["name"]
    done = clinic.launch(
        "--mode=predict", f"--workdir={run}", f"--input={root / 'imagesTr' / name}.nii.gz", f"--output={tmp_path}"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    expected = {"truth": root / "labelsTr" / f"{name}.nii.gz", "prediction": tmp_path / f"{name}.nii.gz"}
    import base64
    import gzip

    for layer in content["layers"]:
        image = nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(content["files"][layer["file"]])))
        if layer["name"] in expected:
            true = nibabel.load(expected[layer["name"]])
            np.testing.assert_array_equal(image.get_fdata(), true.get_fdata())
            np.testing.assert_allclose(image.affine, true.affine)


def test_the_report_beside_the_folder_links_to_it(run, written):
    assert '<a href="viewer/index.html">' in (run / "report.html").read_text()


def test_the_worst_n_are_enough_where_they_are_asked_for(run, written, tmp_path):
    done = clinic.launch("--mode=view", f"--workdir={run}", f"--output={tmp_path / 'page'}", "--n=1")
    assert done.returncode == 0 and "1 case," in done.stdout
    listed = received(tmp_path / "page" / "manifest.js")
    everything = received(written[0] / "manifest.js")
    assert listed["cases"] == everything["cases"][:1]


def test_images_without_labels_are_predicted(root, run):
    from jaxseg.cli import workdir as workdirs

    given = arguments(
        config=workdirs.stored_config(run), workdir=run, inputs=(str(root / "imagesTr" / "case_00.nii.gz"),)
    )
    source = view_cases.source(given)
    content, _ = source.make(source.cases[0])
    assert [layer["name"] for layer in content["layers"]] == ["MRI", "prediction", "uncertainty"]
    assert source.cases[0].listed.name == "case_00" and not source.ranking


def test_two_files_need_no_run_and_keep_their_label_values(root):
    image, label = root / "imagesTr" / "case_00.nii.gz", root / "labelsTr" / "case_01.nii.gz"
    nibabel.save(nibabel.load(root / "labelsTr" / "case_00.nii.gz"), root / "other.nii.gz")
    source = view_cases.source(arguments(inputs=(str(image),), labels=str(root / "other.nii.gz")))
    content, _ = source.make(source.cases[0])
    assert [layer["name"] for layer in content["layers"]] == ["image", "labels"]
    assert [one["name"] for one in content["classes"]] == ["label 1", "label 2", "not scored"]
    with pytest.raises(UserError, match="should have the shape"):
        wrong = view_cases.source(arguments(inputs=(str(image),), labels=str(label)))
        wrong.make(wrong.cases[0])


def test_values_that_are_no_class_ids_are_named_all_the_same(tmp_path):
    values = np.array([[0, 0, 70000, 9], [0, 9, -3, 0], [0, 0, 0, 0]], np.int32)
    for name, data in (("image", np.arange(12).reshape(3, 4).astype(np.int16)), ("mask", values)):
        nibabel.save(nibabel.Nifti1Image(data[..., None], np.eye(4)), tmp_path / f"{name}.nii.gz")
    given = arguments(inputs=(str(tmp_path / "image.nii.gz"),), labels=str(tmp_path / "mask.nii.gz"))
    source = view_cases.source(given)
    content, _ = source.make(source.cases[0])
    assert [(one["id"], one["name"]) for one in content["classes"]] == [
        (1, "label -3"), (2, "label 9"), (3, "label 70000"), (4, "not scored"),
    ]  # fmt: skip


def test_flat_pictures_are_shown_with_their_masks(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9), np.uint8)).save(
            tmp_path / "images" / f"{name}.png"
        )
        Image.fromarray(np.eye(8, 9, dtype=np.uint8) * 255).save(tmp_path / "masks" / f"{name}.png")
    source = view_cases.source(arguments(inputs=(str(tmp_path / "images"),), labels=str(tmp_path / "masks")))
    assert [case.listed.name for case in source.cases] == ["a", "b"]
    content, files = source.make(source.cases[1])
    assert content["ndim"] == 2 and [file.name for file in files] == ["0.png", "1.png"]
    assert content["classes"][0]["name"] == "label 255"


def test_objects_of_a_score_that_is_high_enough_come_with_their_classes(tmp_path):
    shape = (20, 30)
    masks = (square(2, 3, 4, 5, shape), square(10, 12, 6, 8, shape))
    found = objects(*masks, labels=[1, 1], scores=[0.25, 0.75])
    values, truth = object_maps.object_map([((2, 3), np.ones((4, 5), bool))], shape=shape, classes=[1])
    image = Volume(np.zeros((*shape, 1), np.float32), (1.0, 1.0), identity_affine(2))
    config = base_config()
    config.task, config.predict.min_score = "instance", 0.5
    known = types.SimpleNamespace(classes=("background", "nucleus"))
    trained = inference.Trained(config, {}, known, (), 0, lambda volume: None, lambda volume: found)
    sample = Sample(image, image._replace(data=values), truth)
    shown = view_cases._predicted(trained, lambda case: sample, Case("one", ()), {})
    content, _ = viewer.case_files(shown, num_classes=2)
    assert {name: [one["box"] for one in given] for name, given in content["objects"].items()} == {
        "truth": [[3, 2, 8, 6]], "prediction": [[12, 10, 20, 16]],
    }  # fmt: skip
    np.testing.assert_array_equal(shown.true, masks[0])
    np.testing.assert_array_equal(shown.pred, masks[1])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "needs --workdir, the folder of a finished run, or --input with images"),
        (("--input=a", "--input=b"), "shows one --input"),
        (("--input=nowhere",), "does not exist"),
        (("--input=nowhere", "--port=70000"), "--port 0 to 65535"),
        (("--workdir=nowhere",), "not the workdir of a run"),
    ],
)
def test_wrong_flags_are_told_in_one_sentence(flags, said, tmp_path):
    done = clinic.launch("--mode=view", *flags, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_it_serves_until_it_is_interrupted_and_leaves_nothing(root, tmp_path):
    command = [sys.executable, str(clinic.ROOT / "launch.py"), "--mode=view"]
    command += [f"--input={root / 'imagesTr' / 'case_00.nii.gz'}", f"--labels={root / 'labelsTr'}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu", "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    # As from a terminal: a job in the background of a script is born deaf to Ctrl-C.
    pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=clinic.ROOT, env=environment, **pipes)
    try:
        address = process.stdout.readline().split()[-1]
        assert address.startswith("http://127.0.0.1:"), process.communicate(timeout=20)
        with urllib.request.urlopen(address + "cases/0.json", timeout=60) as reply:
            content = json.load(reply)
        with urllib.request.urlopen(address + f"cases/0/{content['layers'][0]['file']}", timeout=60) as reply:
            assert reply.read(2) == b"\x1f\x8b"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(address.replace(address.split("/")[3], "other"), timeout=60)
        assert len(list(tmp_path.glob("jaxseg-view-*"))) == 1
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and "the viewer has ended" in printed and not errors
    assert not list(tmp_path.glob("jaxseg-view-*"))
