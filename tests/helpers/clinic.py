"""Made-up patients for tests of whole commands: bright ellipsoids in noise, written in the layouts that users have."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import warm

ROOT = pathlib.Path(__file__).parents[2]
# A network that traces in a moment, with batch normalisation, so that statistics are carried along too.
CONFIG = """
from jaxseg.config import base_config
from ml_collections import ConfigDict

def get_config():
    config = base_config()
    config.data.name, config.data.folds, config.data.patch_size = "msd", 3, (8, 8, 8)
    config.model = ConfigDict({"name": "pixel_features", "ndim": 3, "features": (4,), "sigmas": (0.7,)})
    config.augment, config.optim.lr = "mirror(axes=(2,))", 0.05
    config.train.total_steps, config.train.eval_steps = 4, 4
    config.evaluate.surfaces, config.evaluate.overlays = False, 1
    return config
"""


def volume(seed: int, shape=(12, 20, 18)) -> tuple[np.ndarray, np.ndarray]:
    """Returns image and label `(x, y, z)`: an ellipsoid (1) with a core (2), brighter than the noise around."""
    draw = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"), -1)
    radius = np.linalg.norm((grid - draw.uniform(-0.2, 0.2, 3)) / draw.uniform(0.5, 0.7, 3), axis=-1)
    label = (radius < 1).astype(np.uint8) + (radius < 0.5)
    return (label * 60 + draw.normal(100, 8, shape)).astype(np.float32), label


def write_nifti(path: pathlib.Path, data: np.ndarray, *, spacing=(1.5, 1.0, 1.2)) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([*spacing, 1.0])), path)


def msd(root: pathlib.Path, *, cases: int = 6) -> pathlib.Path:
    """Writes a Decathlon folder of `cases` volumes of unequal sizes."""
    pairs = []
    for number in range(cases):
        image, label = volume(number, shape=(14 + number % 2, 20, 18 - number % 3))
        name = f"case_{number:02d}.nii.gz"
        write_nifti(root / "imagesTr" / name, image)
        write_nifti(root / "labelsTr" / name, label)
        pairs.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    content = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "shell", "2": "core"},
        "training": pairs,
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def nnunet_raw(root: pathlib.Path, *, cases: int = 5) -> pathlib.Path:
    """Writes an nnU-Net folder with two channels, overlapping regions (whole, core) and an ignore label."""
    for number in range(cases):
        image, label = volume(number)
        label[0] = 9  # a slice that nobody labelled
        write_nifti(root / "labelsTr" / f"p{number}.nii.gz", label)
        for channel, values in enumerate((image, -image)):
            write_nifti(root / "imagesTr" / f"p{number}_{channel:04d}.nii.gz", values)
    content = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 9},
        "regions_class_order": [1, 2],
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def config_file(folder: pathlib.Path) -> pathlib.Path:
    """Writes the config of the quick network."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.py").write_text(CONFIG)
    return folder / "tiny.py"


def launch(*arguments: str, cwd=ROOT, fresh=False, **environment: str) -> subprocess.CompletedProcess:
    """Runs launch.py as a user would and returns what it printed.

    The process is a fork of one that has imported everything; `fresh` starts Python anew, for one command of each mode.
    """
    command, variables = list(map(str, arguments)), {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    if not fresh:
        return warm.launch(command, cwd=cwd, env=variables, timeout=300)
    command = [sys.executable, str(ROOT / "launch.py"), *command]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=variables, timeout=300)
