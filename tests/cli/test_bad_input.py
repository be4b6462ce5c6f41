"""What the user got wrong: one sentence that names the file or field and the fix, status 2, nothing overwritten."""

import gzip
import json

import clinic
import numpy as np
import pytest

from jaxseg import config as configs
from jaxseg.cli import cache, prepare, workdir
from jaxseg.typing import UserError


def config_for(root, **fields):
    config = configs.base_config()
    config.data.name = "msd"
    config.data.root = str(root)
    config.data.patch_size = (8, 8, 8)
    config.model.features = (4, 8)
    config.train.total_steps = 1
    with config.unlocked():
        for path, value in fields.items():
            group, name = path.split("__")
            config[group][name] = value
    return config


@pytest.fixture
def root(tmp_path):
    return clinic.msd(tmp_path / "task", cases=5)


def edit_json(root, change):
    path = root / "dataset.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def broken(root, kind):
    """Breaks one file of a sound data set."""
    image, label = root / "imagesTr" / "case_01.nii.gz", root / "labelsTr" / "case_01.nii.gz"
    values, truth = clinic.volume(1, shape=(15, 20, 17))
    if kind == "missing file":
        image.unlink()
    elif kind == "no label":
        label.unlink()
    elif kind == "truncated":
        image.write_bytes(image.read_bytes()[:2000])
    elif kind == "zero bytes":
        label.write_bytes(b"")
    elif kind == "shape":
        clinic.write_nifti(label, truth[:-2])
    elif kind == "unknown label":
        clinic.write_nifti(label, truth * 7)
    elif kind == "fractions":
        clinic.write_nifti(label, truth * np.float32(0.3))
    elif kind == "nan":
        values[3, 3, 3] = np.nan
        clinic.write_nifti(image, values)
    elif kind == "constant":
        clinic.write_nifti(image, np.ones_like(values))
    elif kind == "channels":
        clinic.write_nifti(image, np.stack([values, values], -1))
    elif kind == "spacing 0":
        raw = bytearray(gzip.decompress(image.read_bytes()))
        raw[80:84] = np.float32(0).tobytes()
        raw[254:256] = np.int16(0).tobytes()  # no sform; the qform takes pixdim
        image.write_bytes(gzip.compress(bytes(raw)))
    elif kind == "twice":
        edit_json(root, lambda content: content["training"].append(content["training"][0]))


WORDS = {
    "missing file": "case_01",
    "no label": "case_01",
    "truncated": "case_01",
    "zero bytes": "case_01",
    "shape": "shape",
    "unknown label": "14",
    "fractions": "case_01",
    "nan": "NaN",
    "constant": "constant",
    "channels": "channel",
    "spacing 0": "spacing",
    "twice": "case_00",
}


@pytest.mark.parametrize("kind", WORDS)
def test_bad_file_is_named_before_anything_compiles(root, tmp_path, kind):
    broken(root, kind)
    with pytest.raises(UserError) as caught:
        prepare.ensure(config_for(root), tmp_path / "run")
    assert WORDS[kind] in str(caught.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_every_bad_case_is_listed_at_once(root, tmp_path):
    for number, kind in ((1, "nan"), (2, "shape")):
        path = "imagesTr" if kind == "nan" else "labelsTr"
        values, truth = clinic.volume(number, shape=(14 + number % 2, 20, 18 - number % 3))
        values[0, 0, 0] = np.nan
        clinic.write_nifti(root / path / f"case_{number:02d}.nii.gz", values if kind == "nan" else truth[1:])
    with pytest.raises(UserError) as caught:
        prepare.ensure(config_for(root), tmp_path / "run")
    assert "case_01" in str(caught.value) and "case_02" in str(caught.value)


def test_patch_larger_than_every_image_is_told(root, tmp_path):
    with pytest.raises(UserError, match=r"axis 1 than the largest prepared case \(20\); 20 is enough"):
        prepare.ensure(config_for(root, data__patch_size=(8, 64, 8)), tmp_path / "run")


def test_patch_of_zeros_fits_the_data(root, tmp_path):
    config = config_for(root, data__patch_size=(0, 8, 0))
    _, record = prepare.ensure(config, tmp_path / "run")
    assert record["patch_size"] == config.data.patch_size == (16, 8, 14)  # medians 17 and 14, steps of 2
    assert record["config"]["data"]["patch_size"] == [0, 8, 0]


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"model__name": "unte"}, "did you mean unet"),
        ({"loss__": "dice"}, ""),
        ({"optim__name": "adagrad"}, "optim.name"),
        ({"optim__schedule": "cosin"}, "cosine"),
        ({"data__patch_size": (9, 8, 8)}, "divisible"),
        ({"data__normalize": "zscore,ct"}, "2 schemes for 1 channels"),
        ({"data__label_threshold": 3.0}, "label_threshold"),
        ({"data__name": "mds"}, "msd"),
        ({"data__root": "/nowhere"}, "/nowhere"),
    ],
)
def test_bad_fields_are_told_before_preparing(root, tmp_path, fields, words):
    config = config_for(root)
    if "loss__" in fields:
        config.loss, words = "dice_lose", "dice_loss"
    else:
        config = config_for(root, **fields)
    with pytest.raises(UserError, match=words):
        prepare.ensure(config, tmp_path / "run")
    assert not (tmp_path / "run" / "prepared").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config", "configs/nothing.py"], "nothing.py"),
        (["--config", "configs/quickstart.py", "--config.optim.lrr=1"], "no field 'lrr'. Did you mean \"lr\""),
        (
            ["--config", "configs/quickstart.py", "--config.model.remat=True"],
            "no field 'remat'. What the config file does",
        ),
        (["--config", "configs/quickstart.py:debgu"], "debgu"),
        (["--config", "configs/quickstart.py", "--config.train.total_steps=many"], "total_steps"),
        (["--config", "configs/quickstart.py", "--config.train.total_steps=0"], "must be positive"),
        (["--mode", "trian"], "trian"),
        (["--mode", "predict", "--workdir", "/nowhere/at/all"], "no config.json"),
        (["--mode", "predict"], "--workdir"),
        ([], "--config"),
        (["--config", "configs/quickstart.py", "extra"], "extra"),
        (["--config", "configs/quickstart.py:debug", "--workdir", "/proc/run"], "cannot be written"),
        (["--mode", "compare", "--input", "a"], "two workdirs"),
    ],
)
def test_command_line_mistakes_are_one_sentence(arguments, words):
    done = clinic.launch(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_duration_on_the_command_line_replaces_the_config(tmp_path):
    done = clinic.launch(
        "--config", "configs/unet2d_isbi.py", "--config.train.total_steps=2", "--config.data.root=/nowhere",
        f"--workdir={tmp_path / 'run'}",
    )  # fmt: skip
    assert done.returncode == 2 and "/nowhere" in done.stderr, done.stderr  # not: two durations


def test_damaged_record_is_told(tmp_path):
    (tmp_path / "config.json").write_text('{"config": ')
    with pytest.raises(UserError, match="cannot be read"):
        workdir.record(tmp_path)


def test_broken_cache_entries_are_removed(tmp_path):
    import zlib

    whole = zlib.compress(b"x" * 10000)
    (tmp_path / "a-cache").write_bytes(whole)
    (tmp_path / "b-cache").write_bytes(whole[: len(whole) // 2])
    assert cache.remove_broken(tmp_path) == ["b-cache"]
    assert (tmp_path / "a-cache").exists() and not (tmp_path / "b-cache").exists()
