"""--mode plan as a user runs it: files that can be read, edited, rerun and are not lost."""

import json
import pathlib
import runpy

import clinic
import nibabel
import pytest
from ml_collections import ConfigDict

from jaxseg.cli import config_file, plan
from jaxseg.config import base_config
from jaxseg.plan import Allowance

CONFIG = "configs/unet3d.py:debug"


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A planned folder of six volumes of 18 x 20 x 14 voxels, 1.2 x 1 x 1.5 mm (z, y, x)."""
    root = clinic.msd(tmp_path_factory.mktemp("clinic") / "task")
    folder = tmp_path_factory.mktemp("runs") / "shells"
    flags = ("--mode=plan", "--config", CONFIG, "--config.data.name=msd", f"--config.data.root={root}")
    done = clinic.launch(*flags, f"--workdir={folder}", fresh=True)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    return flags, folder, done


def test_writes_configs_that_run(planned, tmp_path):
    _, folder, done = planned
    files = sorted(path.name for path in (folder / "plan").iterdir())
    assert files == ["plan.html", "plan.json", "shells_2d.py", "shells_3d_fullres.py"]
    assert "3d_fullres   patch" in done.stdout and "2d           patch" in done.stdout
    summary = json.loads((folder / "plan" / "plan.json").read_text())
    assert summary["planner"] == "plain" and set(summary["configurations"]) == {"2d", "3d_fullres"}
    file = folder / "plan" / "shells_3d_fullres.py"
    run = clinic.launch("--config", f"{file}:debug", "--config.data.folds=3", f"--workdir={tmp_path}")
    assert run.returncode == 0 and not run.stderr, run.stdout + run.stderr
    record = json.loads((tmp_path / "config.json").read_text())["config"]
    chosen = summary["configurations"]["3d_fullres"]
    back = [chosen["transpose_forward"].index(axis) for axis in range(3)]
    assert record["data"]["patch_size"] == [chosen["patch_size"][place] for place in back]
    assert [float(value) for value in record["data"]["spacing"].split(",")] == [1.2, 1.0, 1.5]
    assert len(record["model"]["features"]) == chosen["n_stages"] and record["model"]["deep_supervision"]


def test_slices_across_the_coarsest_axis(planned, tmp_path):
    """Which is x: networks in 2D see slices in z and y, and masks come back as the scans lie."""
    flags, folder, _ = planned
    file = folder / "plan" / "shells_2d.py"
    quick = ("--config.data.folds=3", "--config.augment=mirror")
    run = clinic.launch("--config", f"{file}:debug", *quick, f"--workdir={tmp_path / 'run'}")
    assert run.returncode == 0 and not run.stderr, run.stdout + run.stderr
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["config"]["data"]["axis_order"] == record["settings"]["axis_order"] == [2, 0, 1]
    assert record["config"]["data"]["spacing"] == "keep,1.2,1"
    (root,) = (flag.partition("=")[2] for flag in flags if flag.startswith("--config.data.root"))
    scan = pathlib.Path(root) / "imagesTr" / "case_00.nii.gz"
    done = clinic.launch("--mode=predict", f"--workdir={tmp_path / 'run'}", f"--input={scan}", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert nibabel.load(tmp_path / "case_00.nii.gz").shape == nibabel.load(scan).shape


def test_plans_for_a_device(planned, tmp_path):
    flags, folder = planned[0], tmp_path / "host"
    own = ("--config.plan.device=cpu-4", "--config.plan.configurations=('3d_fullres',)", "--config.augment=none")
    done = clinic.launch(*flags, *own, f"--workdir={folder}")
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    summary = json.loads((folder / "plan" / "plan.json").read_text())
    assert summary["device"] == "cpu-4" and set(summary["configurations"]) == {"3d_fullres"}
    chosen = summary["configurations"]["3d_fullres"]
    # The median volume, x first (its voxels are the thickest), fits into 2.1 GiB; six volumes allow no larger batch.
    assert (chosen["patch_size"], chosen["batch_size"]) == ([16, 20, 20], 2)
    assert (chosen["dtype"], chosen["remat"], chosen["estimate"]) == ("float32", False, False)
    printed = [line for line in done.stdout.splitlines() if " GiB of 2.10, fits" in line]
    assert len(printed) == len(chosen["trials"]) and all(trial["fits"] for trial in chosen["trials"])
    peaks = [trial["peak_bytes"] for trial in chosen["trials"]]
    assert peaks == sorted(peaks) and peaks[-1] == chosen["peak_bytes"] < chosen["limit_bytes"]
    assert chosen["limit_bytes"] == int((0.9 * 4 - 1.5) * 2**30)
    # Two small steps were run, and what they took beyond the compiler's sum is in every peak.
    assert len([line for line in done.stdout.splitlines() if "was run: it took" in line]) == 2
    beyond = Allowance(**chosen["beyond"])
    assert beyond.fixed > 0 and all(peak > beyond.bytes(2 * 16 * 20 * 20) for peak in peaks[-1:])
    file = folder / "plan" / "host_3d_fullres.py"
    assert f"For cpu-4: predicted peak {chosen['peak_bytes'] / 2**30:.2f} GiB a device, of 2.10" in file.read_text()
    assert "What fits cpu-4" in (folder / "plan" / "plan.html").read_text()
    settings = runpy.run_path(str(file))["get_config"]()  # other planned files are trained above
    assert settings.train.dtype == "float32" and "remat" not in settings.model


def test_an_edited_file_is_not_lost(planned):
    flags, folder, _ = planned
    file = folder / "plan" / "shells_3d_fullres.py"
    written = file.read_text()
    file.write_text(written.replace("batch_size", "batch_size  "))
    again = clinic.launch(*flags, f"--workdir={folder}")
    assert again.returncode == 2 and "fullres.py is there already and differs; add --overwrite" in again.stderr
    assert file.read_text() != written
    over = clinic.launch(*flags, f"--workdir={folder}", "--overwrite")
    assert over.returncode == 0 and "batch_size  " not in file.read_text(), over.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--config", CONFIG, "--config.data.name=msd", "--config.plan.planner=big"),
            "plan.planner should be one of plain, resenc_m",
        ),
        (
            ("--config", CONFIG, "--config.data.name=msd", "--config.plan.device=v7"),
            "plan.device should be a TPU (v2, v3, v4, v5e, v5p, v6e",
        ),
        (
            ("--config", CONFIG, "--config.data.name=msd", "--config.plan.configurations=('4d',)"),
            "plan.configurations should be of 2d, 3d_fullres, 3d_lowres; it has 4d.",
        ),
        (("--config=configs/dsb2018_nuclei.py:debug",), "U-Nets for task='semantic', not for task='instance'"),
    ],
)
def test_refuses(tmp_path, flags, message):
    done = clinic.launch("--mode=plan", *flags, "--config.data.root=/nowhere", f"--workdir={tmp_path}")
    assert done.returncode == 2 and message in done.stderr, done.stderr


def test_axes_go_back_to_the_volumes_order():
    chosen = {
        "patch_size": (16, 96, 64), "batch_size": 3, "spacing": (3.0, 0.5, 0.6), "n_stages": 3,
        "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)), "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        "features_per_stage": (32, 64, 128), "transpose_forward": (2, 0, 1),
    }  # fmt: skip
    found = plan.configure(base_config(), chosen, axes=3)
    assert found.data.patch_size == (96, 64, 16) and found.data.spacing == "0.5,0.6,3"
    assert found.model.strides == ((1, 1, 1), (2, 2, 1), (2, 2, 2)) and found.model.kernels[0] == (3, 3, 1)
    assert "remat" not in found.model and found.train.dtype == "auto"
    fitted = plan.configure(base_config(), {**chosen, "dtype": "bfloat16", "remat": True}, axes=3)
    assert fitted.model.remat and fitted.train.dtype == "bfloat16"
    assert "strides" not in plan.configure(base_config(), {**chosen, "strides": ((1,) * 3, (2,) * 3)}, axes=3).model


def test_what_differs_becomes_a_line():
    config = base_config()
    config.data.name, config.init.fields = "msd", ConfigDict({"encoder": "resnet18"})
    lines = config_file.assignments(config)
    assert lines == ["    config.data.name = 'msd'", "    config.init.fields = {'encoder': 'resnet18'}"]
