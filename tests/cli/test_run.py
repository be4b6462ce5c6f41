"""Whole commands on made-up patients: train, predict, evaluate, compare, resume; what a second command may change."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time

import clinic
import nibabel
import numpy as np
import pytest
from devices import several

CONFIG = "configs/unet3d.py:debug"
SIZE = ("--config.data.patch_size=(8,8,8)", "--config.data.spacing=keep")
MIRRORED = (
    "--config.train.total_steps=6", "--config.train.ckpt_steps=2", "--config.train.eval_steps=100",
    "--config.augment=mirror", "--mode=train",
)  # fmt: skip


def train(root, workdir, *more, **options):
    return clinic.launch(
        "--config", CONFIG, "--config.data.name=msd", f"--config.data.root={root}", *SIZE,
        "--config.data.folds=3", f"--workdir={workdir}", *more, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return clinic.msd(tmp_path_factory.mktemp("clinic") / "task")


@pytest.fixture(scope="module")
def workdir(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    done = train(root, folder, fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr, done.stderr
    for line in ("scores", "overlays", "report"):
        assert line in done.stdout
    return folder


@pytest.fixture(scope="module")
def mirrored(root, tmp_path_factory):
    """Six steps with an augmentation that compiles in a moment."""
    folder = tmp_path_factory.mktemp("runs") / "mirrored"
    done = train(root, folder, *MIRRORED)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_run_leaves_every_promised_file(workdir):
    record = json.loads((workdir / "config.json").read_text())
    assert record["config"]["data"]["name"] == "msd" and record["dataset"]["classes"] == ["background", "shell", "core"]
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 2 and any("val/dice" in row for row in rows)
    assert {path.name for path in (workdir / "checkpoints" / "2").iterdir()} >= {"state", "metadata"}
    with (workdir / "evaluation" / "cases.csv").open() as file:
        table = list(csv.DictReader(file))
    held_out = {row["case"] for row in table}
    assert len(table) == 2 * len(held_out) == 4
    assert list(table[0])[:6] == ["case", "class", "dice", "iou", "precision", "recall"]
    summary = json.loads((workdir / "evaluation" / "summary.json").read_text())
    assert summary["classes"]["shell"]["dice"]["n"] == 2
    assert len(list((workdir / "evaluation" / "overlays").glob("*.png"))) == 2
    page = (workdir / "report.html").read_text()
    assert "data:image/" in page and all(case in page for case in held_out)


def test_run_leaves_a_model_card(root, workdir):
    card = (workdir / "model_card.md").read_text()
    assert "Trained on: 4 cases" in card and "Of 2 cases that were held out" in card
    assert "Classes: background (0), shell (1), core (2)" in card
    # case_00 to case_05 are written with x, y, z of 14 to 15, 20, 16 to 18 voxels of 1.5, 1 and 1.2 mm
    assert "Spacing in training: 1.2 x 1 x 1.5 mm in every image" in card
    assert "shell: in 4 of 4 training cases" in card and str(root) not in card and "case_0" not in card
    parameters = json.loads((workdir / "config.json").read_text())["parameters"]["model"]
    assert parameters > 1000 and f"Parameters: {parameters:,}" in card
    (workdir / "model_card.md").write_text(card + "\nOurs.\n")
    done = clinic.launch("--mode=report", f"--workdir={workdir}")
    assert done.returncode == 0 and f"card      {workdir / 'model_card.md'}" in done.stdout, done.stderr
    assert (workdir / "model_card.md").read_text() == card + "\nOurs.\n"


def test_predict_keeps_the_geometry(root, workdir, tmp_path):
    inputs = tmp_path / "scans"
    inputs.mkdir()
    for number in (0, 1):
        shutil.copy(root / "imagesTr" / f"case_{number:02d}.nii.gz", inputs)
    (inputs / "broken.nii.gz").write_bytes(b"")
    done = clinic.launch(
        "--mode=predict", f"--workdir={workdir}", f"--input={inputs}", f"--output={tmp_path / 'masks'}", fresh=True
    )
    assert done.returncode == 2 and "broken" in done.stderr and "Traceback" not in done.stderr
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["case_00.nii.gz", "case_01.nii.gz"]
    image = nibabel.load(inputs / "case_01.nii.gz")
    mask = nibabel.load(tmp_path / "masks" / "case_01.nii.gz")
    assert mask.shape == image.shape and np.allclose(mask.affine, image.affine)
    assert np.issubdtype(mask.get_data_dtype(), np.integer) and set(np.unique(mask.dataobj)) <= {0, 1, 2}
    (inputs / "broken.nii.gz").unlink()
    again = clinic.launch(
        "--mode=predict", f"--workdir={workdir}", f"--input={inputs}", f"--output={tmp_path / 'masks'}"
    )
    assert again.returncode == 2 and "exists already" in again.stderr


def test_evaluate_a_labelled_folder_and_compare(root, workdir, tmp_path):
    done = clinic.launch(
        "--mode=evaluate", f"--workdir={workdir}", f"--input={root / 'imagesTr'}", f"--labels={root / 'labelsTr'}",
        f"--output={tmp_path / 'other' / 'evaluation'}", fresh=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with (tmp_path / "other" / "evaluation" / "cases.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 12
    paired = clinic.launch("--mode=compare", f"--input={workdir}", f"--input={tmp_path / 'other'}", fresh=True)
    assert paired.returncode == 0, paired.stderr
    assert "Wilcoxon" in paired.stdout and "Dice" in paired.stdout


def test_same_command_resumes_and_another_config_is_refused(root, mirrored, tmp_path):
    folder = shutil.copytree(mirrored, tmp_path / "run")
    more = train(root, folder, *MIRRORED, "--config.train.total_steps=7")
    assert more.returncode == 0 and "resuming at step 6 of 7" in more.stdout, more.stdout + more.stderr
    other = train(root, folder, *MIRRORED, "--config.optim.lr=0.5")
    assert other.returncode == 2 and "optim.lr" in other.stderr and "another --workdir" in other.stderr
    assert "Traceback" not in other.stderr


# Each against the run of one device with its augmentation; shared volumes have all of nnU-Net's to share.
@pytest.mark.parametrize(
    ("kind", "spatial", "run", "flags"),
    [("pmap", 1, "mirrored", MIRRORED), ("mesh", 2, "workdir", ("--mode=train",))],
)
def test_two_devices_compute_what_one_does(root, tmp_path, request, kind, spatial, run, flags):
    layout = (f"--config.parallel.kind={kind}", f"--config.parallel.spatial={spatial}")
    done = train(root, tmp_path / "run", *flags, *layout, **several(2))
    assert done.returncode == 0, done.stderr

    def losses(folder):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [row["train/loss"] for row in rows if "train/loss" in row][:2]

    np.testing.assert_allclose(losses(tmp_path / "run"), losses(request.getfixturevalue(run)), rtol=1e-4)


def test_average_of_two_workdirs_and_options_for_one_command(root, workdir, tmp_path):
    scan = root / "imagesTr" / "case_00.nii.gz"
    options = ("--set", "predict.probabilities=True", "--set", "predict.postprocess=keep_largest")
    once = clinic.launch(
        "--mode=predict", f"--workdir={workdir}", f"--input={scan}", f"--output={tmp_path / 'once'}", *options
    )
    assert once.returncode == 0, once.stderr
    twice = clinic.launch(
        "--mode=predict", f"--workdir={workdir}", f"--average={workdir}", f"--input={scan}",
        f"--output={tmp_path / 'twice'}", *options,
    )  # fmt: skip
    assert twice.returncode == 0, twice.stderr
    one, two = (
        np.asarray(nibabel.load(tmp_path / name / "case_00_probabilities.nii.gz").dataobj) for name in ("once", "twice")
    )
    assert one.shape == (*nibabel.load(scan).shape, 3)
    np.testing.assert_allclose(one, two, atol=1e-6)  # the mean of a network with itself
    wrong = clinic.launch("--mode=predict", f"--workdir={workdir}", "--set", "optim.lr=1", f"--input={scan}")
    assert wrong.returncode == 2 and "predict.tta" in wrong.stderr


def test_regions_channels_and_ignored_voxels(tmp_path):
    root = clinic.nnunet_raw(tmp_path / "Dataset001")
    done = clinic.launch(
        "--config", CONFIG, "--config.data.name=nnunet_raw", f"--config.data.root={root}", *SIZE,
        f"--workdir={tmp_path / 'run'}", "--config.augment=mirror",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "run" / "evaluation" / "cases.csv").open() as file:
        assert {row["class"] for row in csv.DictReader(file)} == {"whole", "core"}
    masks = clinic.launch(
        "--mode=predict",
        f"--workdir={tmp_path / 'run'}",
        f"--input={root / 'imagesTr'}",
        f"--output={tmp_path / 'out'}",
    )
    assert masks.returncode == 0, masks.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"p{n}.nii.gz" for n in range(5)]
    assert set(np.unique(nibabel.load(tmp_path / "out" / "p0.nii.gz").dataobj)) <= {0, 1, 2}
    wrong = clinic.launch(
        "--config", CONFIG, "--config.data.name=nnunet_raw", f"--config.data.root={root}", *SIZE,
        f"--workdir={tmp_path / 'other'}", "--config.loss=cross_entropy",
    )  # fmt: skip
    assert wrong.returncode == 2 and "sigmoid" in wrong.stderr


def states_of(*workdirs):
    """Every array of the latest checkpoint of each, by Orbax' own reader: its step and a digest."""
    code = (
        "import sys, hashlib, numpy as np, jax, orbax.checkpoint as ocp, pathlib\n"
        "for workdir in sys.argv[1:]:\n"
        "    folder = pathlib.Path(workdir) / 'checkpoints'\n"
        "    step = max(int(p.name) for p in folder.iterdir() if p.name.isdigit())\n"
        "    tree = ocp.StandardCheckpointer().restore((folder / str(step) / 'state').absolute())\n"
        "    total = hashlib.sha256()\n"
        "    for leaf in jax.tree.leaves(tree): total.update(np.asarray(leaf).tobytes())\n"
        "    print(step, total.hexdigest())\n"
    )
    command = [sys.executable, "-c", code, *map(str, workdirs)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_kill_minus_9_and_resume_is_bit_equal(root, mirrored, tmp_path):
    arguments = [
        sys.executable, str(clinic.ROOT / "launch.py"), "--config", CONFIG, "--config.data.name=msd",
        f"--config.data.root={root}", *SIZE, "--config.data.folds=3", f"--workdir={tmp_path / 'parts'}", *MIRRORED,
    ]  # fmt: skip
    process = subprocess.Popen(arguments, cwd=clinic.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = tmp_path / "parts" / "checkpoints" / "2"
    deadline = time.monotonic() + 120
    while not folder.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert folder.exists()
    resumed = train(root, tmp_path / "parts", *MIRRORED)
    assert resumed.returncode == 0, resumed.stderr
    parts, whole = states_of(tmp_path / "parts", mirrored)
    assert parts == whole
