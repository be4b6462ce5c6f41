"""The integrity report names every bad case at once."""

import nibabel
import numpy as np
import pytest
from PIL import Image

from jaxseg.data import datasets


@pytest.fixture
def folder(tmp_path):
    for place in ("images", "labels"):
        (tmp_path / place).mkdir()
    for name in ("a", "b", "c", "d", "e", "f"):
        picture(tmp_path / "images" / f"{name}.png", np.random.RandomState(ord(name)).randint(0, 255, (5, 6)))
        picture(tmp_path / "labels" / f"{name}.png", np.arange(30).reshape(5, 6) % 2)
    return tmp_path


def picture(path, data):
    Image.fromarray(np.asarray(data, np.uint8)).save(path)


def load(folder):
    return datasets.load("image_mask", root=folder, images="images", labels="labels", label_values=(0, 1))


def test_sound(folder):
    problems = datasets.check(load(folder))
    assert problems == [] and datasets.integrity_report(problems) == ""
    assert len(datasets.check(load(folder)._replace(cases=()))) == 1


def test_all_bad_cases_at_once(folder):
    picture(folder / "images" / "b.png", np.full((5, 6), 9))
    picture(folder / "labels" / "c.png", np.full((5, 7), 1))
    picture(folder / "labels" / "d.png", np.full((5, 6), 200))
    (folder / "images" / "e.png").write_bytes((folder / "images" / "e.png").read_bytes()[:40])
    picture(folder / "images" / "f.png", np.random.RandomState(0).randint(0, 255, (5, 6, 3)))
    dataset = load(folder)
    problems = datasets.check(dataset)
    assert problems == datasets.check(dataset, threads=1)
    expected = [("b.png", "constant"), ("c.png", "(5, 7)"), ("d.png", "200"), ("e.png", "complete"), ("f.png", "has 3")]
    assert len(problems) == len(expected)
    for text, (name, words) in zip(problems, expected, strict=True):
        assert name in text and words in text and text.startswith(f"Case {name[0]}: ")
    report = datasets.integrity_report(problems)
    assert "5 problems" in report and all(text in report for text in problems)


def test_two_and_three_dimensions_do_not_mix(folder):
    (folder / "images" / "b.png").unlink()
    (folder / "labels" / "b.png").unlink()
    data = np.random.RandomState(0).randint(0, 2, (6, 5, 4)).astype(np.uint8)
    for place in ("images", "labels"):
        nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), folder / place / "b.nii.gz")
    (problem,) = datasets.check(load(folder))
    assert "b.nii.gz is 3D" in problem and "2D" in problem


def test_a_fault_of_ours_is_not_reported_as_bad_data(folder):
    def broken(case):
        raise ZeroDivisionError(case.name)

    with pytest.raises(ZeroDivisionError):
        datasets.check(load(folder)._replace(load=broken))


def test_case_without_label(folder):
    dataset = load(folder)
    cases = (dataset.cases[0]._replace(label=None), *dataset.cases[1:])
    (problem,) = datasets.check(dataset._replace(cases=cases))
    assert "a.png has no label" in problem


@pytest.mark.realdata
def test_real_data_is_sound(data_root):
    assert datasets.check(datasets.load("msd", root=data_root / "msd_hippocampus")) == []
