"""Our data sets become TFDS data sets in array_record and come back the same, without TensorFlow."""

import subprocess
import sys

import nibabel
import numpy as np
import pytest

from jaxseg.data import datasets
from jaxseg.data.datasets import tfds_builder
from jaxseg.typing import UserError


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """Three volumes of different sizes in two channels, with left and right classes and ignored voxels."""
    root = tmp_path_factory.mktemp("volumes")
    generator = np.random.RandomState(0)
    for i, name in enumerate(("x", "y", "z")):
        shape = (6 + i, 5, 4)
        for folder, data in [
            ("images", generator.randint(0, 999, (*shape, 2)).astype(np.int16)),
            ("labels", generator.choice([0, 10, 20, 99], shape).astype(np.uint8)),
        ]:
            (root / folder).mkdir(exist_ok=True)
            affine = np.array([[1.9, 0.3, 0, -11], [-0.3, 2.9, 0.2, 5], [0, -0.2, 4, 7], [0, 0, 0, 1]])
            nibabel.save(nibabel.Nifti1Image(data, affine), root / folder / f"{name}.nii.gz")
    (root / "subjects.csv").write_text("case,subject\nx,p1\ny,p1\nz,p2\n")
    return datasets.load(
        "image_mask",
        root=root,
        images="images",
        labels="labels",
        label_values=(0, 10, 20),
        ignore_value=99,
        classes=("background", "left lung", "right lung"),
        channels=("T1", "T2"),
    )


@pytest.fixture(scope="module")
def written(volumes, tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    return root, tfds_builder.write(volumes, name="lungs", data_dir=root)


def same(one, other):
    assert [(case.name, case.subject) for case in one.cases] == [(case.name, case.subject) for case in other.cases]
    for field in ("classes", "channels", "label_values", "flip_pairs", "regions"):
        assert getattr(one, field) == getattr(other, field)
    for left, right in zip(one.cases, other.cases, strict=True):
        a, b = one.load(left), other.load(right)
        np.testing.assert_array_equal(a.image.data, b.image.data)
        np.testing.assert_array_equal(a.label.data, b.label.data)
        assert b.label.data.dtype == np.int16 and b.image.data.dtype == np.float32
        np.testing.assert_array_equal(a.image.affine, b.image.affine)
        assert a.image.spacing == b.image.spacing
        b.image.data[:] = 0  # decoded arrays belong to the caller


def test_round_trip(volumes, written):
    root, folder = written
    assert folder == root / "lungs" / "1.0.0" and list(folder.glob("*.array_record*"))
    by_name = datasets.load("tfds", root=root, builder="lungs")
    same(volumes, by_name)
    same(volumes, datasets.load("tfds", data_dir=str(folder)))
    assert by_name.flip_pairs == ((1, 2),) and datasets.check(by_name) == []


def test_split_and_own_labels(written):
    root, _ = written
    half = datasets.load("tfds", root=root, builder="lungs:1.0.0", split="train[:2]")
    assert len(half.cases) == 2
    own = datasets.load(
        "tfds", root=root, label_threshold=1.5, classes=("rest", "right"), name_key="none", subject_key="no"
    )
    assert [case.name for case in own.cases] == ["train_000000", "train_000001", "train_000002"]
    assert own.classes == ("rest", "right") and own.cases[0].subject == ""
    truth = datasets.load("tfds", root=root)
    first = next(case for case in truth.cases if case.images == own.cases[0].images)
    np.testing.assert_array_equal(own.load(own.cases[0]).label.data, truth.load(first).label.data == 2)


def test_digests(volumes, written):
    root, _ = written
    dataset = datasets.load("tfds", root=root)
    first = [dataset.digest(case) for case in dataset.cases]
    assert len(set(first)) == 3 and first == [dataset.digest(case) for case in dataset.cases]
    other = datasets.load("tfds", root=root, label_threshold=1.5)
    assert not set(first) & {other.digest(case) for case in other.cases}


@pytest.mark.parametrize(
    "options, words",
    [
        ({"builder": "no_such_set"}, "no_such_set"),
        ({"split": "test"}, "test"),
        ({"image_key": "scan"}, "has no feature 'scan'; it has"),
        ({"builder": "no.such.module:Builder"}, "cannot be imported"),
        ({"builder": "lungs:9.9.9"}, "9.9.9"),
        ({"label_key": "spacing", "label_values": (0, 1)}, "label_key"),
    ],
)
def test_refusals(written, options, words):
    with pytest.raises(UserError, match=words) as caught:
        datasets.load("tfds", root=written[0], **options)
    assert "\n" not in str(caught.value)


def test_folders_that_are_not_one_data_set(written, volumes, tmp_path):
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(UserError, match="holds none"):
        datasets.load("tfds", root=tmp_path)
    tfds_builder.write(volumes, name="a", data_dir=tmp_path)
    tfds_builder.write(volumes, name="a", data_dir=tmp_path, version="2.0.0")
    with pytest.raises(UserError, match="several"):
        datasets.load("tfds", root=tmp_path)


def test_writing_refuses(volumes, written, tmp_path):
    with pytest.raises(UserError, match="exists already"):
        tfds_builder.write(volumes, name="lungs", data_dir=written[0])
    for options, words in [({"name": "Lungs"}, "lower case"), ({"name": "a", "version": "1"}, "1.0.0")]:
        with pytest.raises(UserError, match=words):
            tfds_builder.write(volumes, data_dir=tmp_path, **options)
    with pytest.raises(UserError, match="no case"):
        tfds_builder.write(volumes._replace(cases=()), name="a", data_dir=tmp_path)


# A builder of somebody else's: 2D pictures in PNG, labels with a last axis, no names.
FOREIGN = """
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


class Cells(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "photo": tfds.features.Image(shape=(None, None, 3)),
            "mask": tfds.features.Image(shape=(None, None, 1)),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(2):
            ramp = np.arange(5 * (6 + i)).reshape(5, 6 + i, 1).astype(np.uint8)
            Image.fromarray(np.repeat(ramp, 3, axis=2)).save("photo.png")
            Image.fromarray(ramp[..., 0] % 3 + 1).save("mask.png")
            yield i, {"photo": "photo.png", "mask": "mask.png"}


Cells(data_dir="tfds").download_and_prepare(file_format="array_record") if __name__ == "__main__" else None
"""
READ = """
import sys
from jaxseg.data import datasets
options = {"image_key": "photo", "label_key": "mask", "label_values": (1, 2, 3)}
dataset = datasets.load("tfds", root="tfds", builder="foreign:Cells", **options)
assert dataset.channels == ("red", "green", "blue"), dataset.channels
samples = [dataset.load(case) for case in dataset.cases]
assert sorted(s.image.data.shape for s in samples) == [(5, 6, 3), (5, 7, 3)]
assert all((s.label.data == s.image.data[..., 0] % 3).all() and s.image.spacing == (1.0, 1.0) for s in samples)
assert datasets.check(dataset) == []
assert "tensorflow" not in sys.modules and "torch" not in sys.modules
"""


def test_foreign_builder_without_tensorflow(tmp_path):
    (tmp_path / "foreign.py").write_text(FOREIGN)
    for arguments in (["foreign.py"], ["-c", READ]):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, env=environment()
        )
        assert done.returncode == 0, done.stderr


def environment():
    import os
    import pathlib

    import jaxseg

    paths = [str(pathlib.Path(jaxseg.__file__).parents[1]), os.environ.get("PYTHONPATH", ""), "."]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
