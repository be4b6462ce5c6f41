"""Held-out cases and files through a trained maker of images, with networks whose answer is known by hand."""

import json

import clinic
import nibabel
import numpy as np
import pytest
import rivals
from ml_collections import ConfigDict

from jaxseg import config as configs
from jaxseg.cli import build, evaluate, images, predict, train, workdir
from jaxseg.typing import UserError


class Repeats:
    """Enlarges by repeating pixels, whatever it learns."""

    factors = (2, 2)

    def init(self, rngs, image, train=False):
        return {"params": {"shift": np.zeros((), np.float32)}}

    def apply(self, variables, image, train=False, mutable=None, rngs=None):
        made = image.repeat(2, axis=1).repeat(2, axis=2) + 0 * variables["params"]["shift"]
        return ((made, {}), {}) if train else (made, {})


def configuration(task, root, **changes):
    config = configs.base_config()
    config.task, config.augment = task, "mirror"
    config.data.name, config.data.root, config.data.folds = "nnunet_raw", str(root), 3
    config.data.patch_size, config.data.batch_size, config.data.workers = (16, 12), 2, 1
    config.data.normalize, config.data.crop = "zscore", False
    config.model = ConfigDict({"ndim": 2, "name": "pix2pix"})
    config.adversarial.pixel = 1.0
    config.translation.source, config.translation.target = ("T1",), ("T2",)
    config.train.total_steps, config.train.eval_steps, config.evaluate.overlays = 1, 1, 1
    config = ConfigDict(config.to_dict(), type_safe=False)
    for name, value in changes.items():
        config[name].update(value)
    return config


def arguments(config, folder, **options):
    own = ConfigDict(config.to_dict(), type_safe=False)
    return workdir.Arguments(own, folder, options.get("inputs", ()), options.get("output"), None, False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return clinic.nnunet_raw(tmp_path_factory.mktemp("clinic") / "task", cases=3)


@pytest.fixture
def trained(root, tmp_path, monkeypatch):
    """Returns what trains a run of a task with a network put in the place of its own."""

    def make(task, network, **changes):
        monkeypatch.setattr(images, "generator", lambda config, channels, **fields: network)
        monkeypatch.setattr(build.models, "divisor", lambda *args, **options: (1, 1))
        config = configuration(task, root, **changes)
        train.train(arguments(config, tmp_path / "run"))
        return config, tmp_path / "run"

    return make


def inputs(root, folder, channel):
    """Copies one channel of the first case as a file of its own."""
    folder.mkdir()
    path = sorted((root / "imagesTr").glob(f"*_000{channel}.nii.gz"))[0]
    (folder / "scan.nii.gz").write_bytes(path.read_bytes())
    return folder, nibabel.load(path)


def test_repeated_voxels_gain_nothing_over_repeated_voxels(trained, tmp_path, capsys):
    config, folder = trained("super_resolution", Repeats(), adversarial={"clip": 20.0})
    evaluate.evaluate(arguments(config, folder))
    summary = json.loads((folder / "evaluation" / "summary.json").read_text())
    assert list(summary["methods"]) == ["network", "nearest", "linear", "cubic", "fourier"]
    gain = summary["gains"]["nearest"]["mae"]
    assert abs(gain["mean"]) < 1e-6 and gain["n"] == 1
    assert summary["gains"]["cubic"]["psnr_db"]["mean"] != 0
    assert "nearest" in capsys.readouterr().out
    assert len(list((folder / "evaluation" / "pictures").glob("*.png"))) == 1
    assert "Gain of the network" in (folder / "report.html").read_text()


def test_a_finer_scan_has_more_voxels_and_a_finer_header(trained, root, tmp_path):
    config, folder = trained("super_resolution", Repeats(), data={"normalize": "zscore"})
    both = tmp_path / "both"
    both.mkdir()
    for path in sorted((root / "imagesTr").glob("*.nii.gz"))[:2]:  # both channels of a case
        (both / path.name).write_bytes(path.read_bytes())
    scan = nibabel.load(sorted(both.glob("*_0000.nii.gz"))[0])
    predict.predict(arguments(config, folder, inputs=(str(both),), output=str(tmp_path / "out")))
    (made,) = (tmp_path / "out").glob("*.nii.gz")
    found = nibabel.load(made)
    x, y, z = scan.shape
    assert found.shape == (2 * x, 2 * y, z, 2)
    np.testing.assert_allclose(found.header.get_zooms()[:3], np.array(scan.header.get_zooms()) / (2, 2, 1), rtol=1e-5)
    first = np.asarray(found.dataobj)[..., 0]
    expected = np.asarray(scan.dataobj).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_allclose(first, expected, atol=1e-3 * np.ptp(expected))
    # the same millimetre is the same place: the middle of the first old voxel lies between four new ones
    corner = scan.affine @ [0, 0, 0, 1]
    np.testing.assert_allclose(np.linalg.inv(found.affine) @ corner, [0.5, 0.5, 0, 1], atol=1e-4)


def test_a_translation_writes_the_target_contrast_on_the_grid_of_the_source(trained, root, tmp_path):
    network = rivals.Generator(gain=1.0, channels=1, style_features=0)
    config, folder = trained("translation", network, adversarial={"clip": 20.0}, optim={"lr": 0.0})
    ((mean, deviation),) = workdir.record(folder)["intensities"]
    source, scan = inputs(root, tmp_path / "scans", 0)
    predict.predict(arguments(config, folder, inputs=(str(source),), output=str(tmp_path / "out")))
    found = nibabel.load(tmp_path / "out" / "scan.nii.gz")
    assert found.shape == scan.shape
    np.testing.assert_allclose(found.affine, scan.affine, atol=1e-6)
    values = np.asarray(scan.dataobj, np.float64)
    expected = (values - values.mean()) / values.std() * deviation + mean
    np.testing.assert_allclose(np.asarray(found.dataobj), expected, atol=2e-3 * np.ptp(expected))
    stored = [np.asarray(nibabel.load(path).dataobj) for path in sorted((root / "imagesTr").glob("*_0001.nii.gz"))]
    assert mean == pytest.approx(np.mean([one.mean() for one in stored]), rel=1e-5)
    assert deviation == pytest.approx(np.mean([one.std() for one in stored]), rel=1e-5)


def test_a_translation_is_scored_beside_the_identity(trained, tmp_path):
    network = rivals.Generator(gain=1.0, channels=1, style_features=0)
    config, folder = trained("translation", network, adversarial={"clip": 20.0}, optim={"lr": 0.0})
    evaluate.evaluate(arguments(config, folder))
    gains = json.loads((folder / "evaluation" / "summary.json").read_text())["gains"]
    assert set(gains) == {"identity", "histogram matching"}
    assert abs(gains["identity"]["mae"]["mean"]) < 1e-6


def test_what_makers_are_not_for_is_one_sentence(trained, root, tmp_path, capsys):
    network = rivals.Generator(gain=1.0, channels=2, style_features=2)
    config, folder = trained("synthesis", network)
    with pytest.raises(UserError, match="run by --mode synthesize"):
        predict.predict(arguments(config, folder, inputs=("scans",), output=str(tmp_path / "out")))
    with pytest.raises(UserError, match="leave --input out"):
        evaluate.evaluate(arguments(config, folder, inputs=("scans",)))
    with pytest.raises(UserError, match="--average averages class maps"):
        evaluate.evaluate(arguments(config, folder)._replace(average=("other",)))
    evaluate.evaluate(arguments(config, folder))
    assert "synthesis.segmenter" in capsys.readouterr().out
