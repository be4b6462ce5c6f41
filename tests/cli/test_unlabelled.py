"""Runs that make images are prepared without labels; runs that learn from labels say that they are missing."""

import clinic
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxseg.cli import build, images, prepare
from jaxseg.config import base_config
from jaxseg.data import store
from jaxseg.typing import UserError

SHAPE = (12, 14, 16)  # x, y, z


def volumes(root, *folders, cases=3):
    """Writes `cases` volumes in each folder, of equal names but other numbers."""
    for place, folder in enumerate(folders):
        for number in range(cases):
            image = np.random.default_rng((place, number)).normal(100, 9, SHAPE).astype(np.float32)
            clinic.write_nifti(root / folder / f"p{number}.nii.gz", image)
    return root


def configuration(root, task="translation", **data):
    config = base_config()
    config.task, config.data.name, config.data.root, config.data.folds = task, "image_mask", str(root), 3
    config.data.images, config.data.normalize = "t1/{stem}.nii.gz;t2/{stem}.nii.gz", "zscore"
    config.data.channels = ("T1", "T2")
    config.data.patch_size = (4, 4, 8)
    for name, value in data.items():
        config.data[name] = value
    config.model = ConfigDict({"name": "pix2pix", "ndim": 3, "features": 2, "n_downs": 2})
    config.translation.source, config.translation.target = ("T1",), ("T2",)
    config.adversarial.pixel = 1.0
    config.augment, config.train.total_steps = "none", 1
    return config


def test_a_translation_of_plain_folders_is_prepared_without_labels(tmp_path):
    config = configuration(volumes(tmp_path / "data", "t1", "t2"))
    dataset, record = prepare.ensure(config, tmp_path / "run")
    assert dataset.classes == ("background",) and list(record["dataset"]["channels"]) == ["T1", "T2"]
    cases = store.open(tmp_path / "run" / "prepared")
    assert [(case.name, case.channels, case.shape) for case in cases] == [(f"p{n}", 2, SHAPE[::-1]) for n in range(3)]
    assert all(case.counts == {0: np.prod(SHAPE)} for case in cases)
    for channel, name in enumerate(("t1", "t2")):
        raw = np.random.default_rng((channel, 1)).normal(100, 9, SHAPE).astype(np.float32).T
        expected = (raw - raw.mean()) / raw.std()
        np.testing.assert_allclose(np.asarray(cases[1].image)[..., channel], expected, atol=1e-4, err_msg=name)
    batch = next(iter(build.batches(config, cases, start_step=0)))
    assert batch["image"].shape == (2, 4, 4, 8, 2) and not batch["label"].any()


def test_both_sides_of_an_unpaired_translation_may_lack_labels(tmp_path):
    config = configuration(volumes(tmp_path / "data", "t1", "mr"), images="t1", channels=("CT",))
    config.data.patch_size = (8, 8, 8)
    config.translation.source, config.translation.target, config.translation.paired = ("CT",), ("MR",), False
    other = {"name": "image_mask", "root": str(tmp_path / "data"), "images": "mr", "channels": ("MR",)}
    config.translation.other = ConfigDict(other)
    config.adversarial.weight, config.adversarial.pixel = 1.0, 0.0
    config.adversarial.discriminator = "patch_gan(features=2, layers=1)"
    prepare.ensure(config, tmp_path / "run")
    target = images.other_folder(tmp_path / "run" / "prepared")
    assert [case.counts for case in store.open(target)] == [{0: np.prod(SHAPE)}] * 3


@pytest.mark.parametrize("task", ["semantic", "synthesis"])
def test_runs_that_learn_from_labels_say_that_there_are_none(tmp_path, task):
    config = configuration(volumes(tmp_path / "data", "t1", "t2"), task)
    with pytest.raises(UserError, match=rf"^data\.labels is not set, but task='{task}' .*; set data\.labels") as caught:
        prepare.ensure(config, tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "layout, folder, content",
    [
        ("nnunet_raw", "imagesTr", '{"channel_names": {"0": "T1"}, "file_ending": ".nii.gz"}'),
        ("msd", "imagesTr", '{"modality": {"0": "T1"}, "training": ["imagesTr/p0_0000.nii.gz"], "labels": {}}'),
    ],
)
def test_other_layouts_name_their_own_remedy(tmp_path, layout, folder, content):
    clinic.write_nifti(tmp_path / folder / "p0_0000.nii.gz", np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    (tmp_path / "dataset.json").write_text(content)
    config = configuration(tmp_path, "semantic", name=layout, images=None, channels=None)
    with pytest.raises(UserError, match=r"has no labels, but task='semantic' .*; add .*dataset\.json"):
        build.dataset(config)
    config.task = "super_resolution"
    assert len(build.dataset(config).cases) == 1


def test_statistics_of_labelled_voxels_are_not_asked_for_in_vain(tmp_path):
    config = configuration(volumes(tmp_path / "data", "t1", "t2"), normalize="zscore,ct")
    with pytest.raises(UserError, match=r"data\.normalize='ct' clips .* zscore"):
        prepare.ensure(config, tmp_path / "run")
