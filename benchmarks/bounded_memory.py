"""Peak memory of `--mode predict` on a CT with many classes: a 3D U-Net of 100 classes and background, whole process.

    python -m benchmarks.bounded_memory small   # with and without all probabilities in memory: the same labels
    python -m benchmarks.bounded_memory full    # 600 x 512 x 512 voxels of int16 within 8 GiB
    python -m benchmarks.bounded_memory parts   # what NumPy holds on the way there and back, in bytes a voxel
    python -m benchmarks.bounded_memory small FOLDER    # keeps what it makes in a folder, and takes what is there

The network has 4 and 8 features and one step of training behind it: what it finds means nothing, what is held does not
depend on it. The scan's slices are 1 mm apart and the network's 2 mm, so that outputs are resampled. Everything is done
by `launch.py` in processes of their own; "peak" is the highest resident size that Linux has counted of one
(`ru_maxrss`), "held" the sums of windows and the outputs on the file's grid, where all of them lie in memory at once.
"""

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Sequence

import numpy as np

CLASSES = 101
SPACING, NETWORK = (1.0, 0.7, 0.7), (2.0, 0.7, 0.7)  # (z, y, x) mm
SMALL, SMALL_WINDOW = (96, 144, 128), (32, 64, 64)
FULL, FULL_WINDOW = (600, 512, 512), (64, 128, 128)
OVERLAP = 0.1  # few windows: they cost time, and no memory
LIMIT = 8.0  # GiB


def write(path: pathlib.Path, data: np.ndarray) -> None:
    """Writes a `(z, y, x)` array as NIfTI, compressed a little."""
    import nibabel

    nibabel.openers.Opener.default_compresslevel = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(data.transpose(2, 1, 0), np.diag([*SPACING[::-1], 1.0])).to_filename(path)


def scan(shape: Sequence[int]) -> np.ndarray:
    """Returns an int16 image in Hounsfield units: waves and noise, made plane by plane."""
    draw, data = np.random.default_rng(0), np.empty(tuple(shape), np.int16)
    waves = np.sin(np.arange(shape[1]) / 9)[:, None] + np.cos(np.arange(shape[2]) / 7)
    for index, plane in enumerate(data):
        noise = draw.standard_normal(plane.shape, np.float32)
        plane[...] = 300 * waves * np.cos(index / 11) + 40 * noise
    return data


def launch(*arguments: str) -> tuple[float, float]:
    """Runs `launch.py` and returns its seconds and its peak in GiB."""
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, "launch.py", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"launch.py {' '.join(arguments)} failed")
    return time.perf_counter() - began, usage.ru_maxrss / 2**20


def train(folder: pathlib.Path) -> None:
    """Trains a network of 101 classes for one step into `folder`/run."""
    root, draw = folder / "data", np.random.default_rng(1)
    names = ["background", *(f"organ_{number}" for number in range(1, CLASSES))]
    for number in range(5):
        labels = draw.integers(0, CLASSES, (6, 6, 6), np.uint8).repeat(6, 0).repeat(6, 1).repeat(6, 2)
        write(root / "imagesTr" / f"ct_{number}_0000.nii.gz", scan(labels.shape))
        write(root / "labelsTr" / f"ct_{number}.nii.gz", labels)
    description = {
        "channel_names": {"0": "CT"},
        "labels": {name: number for number, name in enumerate(names)},
        "numTraining": 5,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(description))
    launch(
        "--mode=train",
        "--config=configs/unet3d.py:debug",
        f"--workdir={folder / 'run'}",
        "--config.data.name=nnunet_raw",
        f"--config.data.root={root}",
        "--config.data.spacing=" + ",".join(map(str, NETWORK)),
        "--config.data.patch_size=(16, 32, 32)",
        "--config.data.batch_size=1",
        "--config.train.total_steps=1",
    )


def predict(run: pathlib.Path, image: pathlib.Path, output: pathlib.Path, **options) -> tuple[float, float]:
    """Predicts one image with `predict.NAME=VALUE` options; returns seconds and peak in GiB."""
    settings = {"overlap": OVERLAP, "checkpoint": "latest", **options}
    return launch(
        "--mode=predict",
        f"--workdir={run}",
        f"--input={image}",
        f"--output={output}",
        "--overwrite",
        *(f"--set=predict.{name}={value}" for name, value in settings.items()),
    )


def held(shape: Sequence[int]) -> float:
    """GiB of all outputs: sums and weights on the network's grid, probabilities on the file's."""
    grid = np.prod([round(size * old / new) for size, old, new in zip(shape, SPACING, NETWORK)])
    return float(4 * (grid * (CLASSES + 1) + np.prod(shape) * CLASSES)) / 2**30


def labels_of(folder: pathlib.Path) -> np.ndarray:
    """The one label map in a folder."""
    import nibabel

    return np.asarray(nibabel.load(folder / "ct.nii.gz").dataobj)


def measure(size: str, folder: pathlib.Path) -> None:
    """Prints a line for each way of predicting; all must find the same labels."""
    shape, window = {"small": (SMALL, SMALL_WINDOW), "full": (FULL, FULL_WINDOW)}[size]
    ways: dict[str, dict] = {"labels": {"memory_gib": LIMIT}}
    if size == "small":
        ways = {"all probabilities": {"probabilities": True}, **ways, "labels within 1.3 GiB": {"memory_gib": 1.3}}
    run, image = folder / "run", folder / size / "ct.nii.gz"
    if not run.exists():
        train(folder)
    if not image.exists():
        write(image, scan(shape))
    print(f"{'voxels':>15} {'window':>13}  {'way':22} {'held GiB':>8} {'seconds':>8} {'peak GiB':>8}", flush=True)
    found = []
    for way, options in ways.items():
        output = folder / f"{size}_{way.replace(' ', '_')}"
        seconds, peak = predict(run, image, output, window=window, **options)
        sizes = f"{'x'.join(map(str, shape)):>15} {'x'.join(map(str, window)):>13}"
        print(f"{sizes}  {way:22} {held(shape):8.1f} {seconds:8.0f} {peak:8.2f}", flush=True)
        found.append(labels_of(output))
    if any(not np.array_equal(labels, found[0]) for labels in found):
        sys.exit("The labels differ.")
    print(f"{len(found)} label maps, all the same, of {len(np.unique(found[0]))} classes")


def parts() -> None:
    """Prints the highest number of bytes a voxel that NumPy holds at once (tracemalloc), beside what is given."""
    from jaxseg.data import preprocess, readers, writers
    from jaxseg.data.volume import identity_affine
    from jaxseg.predict import Prediction, postprocess, write_prediction
    from jaxseg.typing import Volume

    data = np.zeros((100, 256, 256, 1), np.int16)
    data[10:90, 20:200, 30:220], data[50] = 5, 7
    volume = Volume(data, (1.0,) * 3, identity_affine(3), None, "ct.nii.gz")
    labels = data[..., 0].copy()
    statistics = ({"mean": 1.0, "std": 2.0, "p005": 0.0, "p995": 9.0},)
    settings = {
        kind: preprocess.Settings(normalize=(kind,), statistics=statistics, crop=False) for kind in ("ct", "zscore")
    }
    with tempfile.TemporaryDirectory() as name:
        mask, image = pathlib.Path(name, "mask.nii.gz"), pathlib.Path(name, "ct.nii.gz")
        works = {
            "write an image": lambda: writers.write_image(image, volume),
            "read an image": lambda: readers.read(image),
            **{
                f"normalise, {kind}": functools.partial(preprocess.forward, volume, rule)
                for kind, rule in settings.items()
            },
            "write a mask": lambda: write_prediction(
                Prediction(labels, None), volume, mask, label_values=range(CLASSES)
            ),
        }
        for text in ("keep_largest", "remove_small(min_voxels=9)", "fill_holes", "smooth"):
            works[text] = functools.partial(postprocess.from_string(text), labels)
        for work, run in works.items():
            tracemalloc.start()
            run()
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            print(f"{work:28} {peak / labels.size:5.1f}", flush=True)


def main() -> None:
    size, *place = sys.argv[1:] or ["small"]
    if size == "parts":
        parts()
        return
    with tempfile.TemporaryDirectory() as name:
        measure(size, pathlib.Path(*place) if place else pathlib.Path(name))


if __name__ == "__main__":
    main()
