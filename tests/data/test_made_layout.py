"""Folders of made images are described as the real data set beside which they are trained on, or refused."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxseg.data.datasets import image_mask, made
from jaxseg.typing import IGNORE, UserError

CLASSES, VALUES = ("background", "left lung", "right lung"), (0, 100, 200)


def write(root, stem, *, seed=0, channels=3, values=(0, 100, 200, 9), shape=(5, 7)):
    """Returns image and label, which hold each of the label values in turn."""
    image = np.random.RandomState(seed).randint(0, 255, (*shape, channels)).astype(np.uint8)
    label = np.array(values, np.uint8)[np.arange(np.prod(shape)).reshape(shape) % len(values)]
    for part, pixels in (("images", image[..., 0] if channels == 1 else image), ("labels", label)):
        (root / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / part / f"{stem}.png")
    return image, label


@pytest.fixture
def real(tmp_path):
    for number in range(2):
        write(tmp_path / "real", f"p{number}", seed=number)
    options = {"label_values": VALUES, "classes": CLASSES, "ignore_value": 9, "flip_pairs": None}
    dataset = image_mask.load(root=tmp_path / "real", images="images", labels="labels", **options)
    assert dataset.flip_pairs == ((1, 2),)
    return dataset._replace(regions=((1, 2), (2,)))


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "fake"
    for number in range(3):
        write(place, f"{number:02d}", seed=10 + number)
    return place


def tell(folder, **changes):
    """Writes the provenance as --mode synthesize does."""
    told = {
        "synthetic": True, "classes": list(CLASSES), "label_values": list(VALUES),
        "channels": ["red", "green", "blue"], "normalize": ["rgb"] * 3, "workdir": "runs/gan", "step": 7, "seed": 1,
    }  # fmt: skip
    (folder / made.PROVENANCE).write_text(json.dumps({**told, **changes}))


@pytest.mark.parametrize("told", [True, False])
def test_a_folder_is_described_as_the_real_data_set(real, folder, told):
    if told:
        tell(folder)
    dataset = made.load_made(folder, like=real)
    assert [case.name for case in dataset.cases] == ["made_fake_00", "made_fake_01", "made_fake_02"]
    for field in ("channels", "classes", "label_values", "flip_pairs", "regions", "ignore_value"):
        assert getattr(dataset, field) == getattr(real, field), field
    image, label = write(folder, "02", seed=12)
    sample = dataset.load(dataset.cases[2])
    np.testing.assert_array_equal(sample.image.data, image)
    expected = np.select([label == 100, label == 200, label == 9], [1, 2, IGNORE], 0)
    np.testing.assert_array_equal(sample.label.data, expected)


def test_the_digest_follows_the_content(real, folder):
    dataset = made.load_made(folder, like=real)
    before = [dataset.digest(case) for case in dataset.cases]
    write(folder, "01", seed=99)
    after = [dataset.digest(case) for case in dataset.cases]
    assert [one == other for one, other in zip(before, after)] == [True, False, True]


def test_no_two_cases_have_one_name(real, folder, tmp_path):
    other = tmp_path / "elsewhere" / "fake"
    write(other, "01")
    first = {case.name for case in made.load_made(folder, like=real).cases}
    second = {case.name for case in made.load_made(other, like=real, taken=first).cases}
    assert second == {"made2_fake_01"}
    named_so = real._replace(cases=(real.cases[0]._replace(name="made_fake_02"), real.cases[1]))
    assert {case.name for case in made.load_made(folder, like=named_so).cases} == {
        f"made2_fake_{number:02d}" for number in range(3)
    }


def test_a_threshold_of_the_real_masks_does_not_matter_to_whole_values(tmp_path):
    write(tmp_path / "blurred", "a", values=(0, 80, 200, 255))
    real = image_mask.load(root=tmp_path / "blurred", images="images", labels="labels", label_threshold=127)
    _, label = write(tmp_path / "fake", "b", values=(0, 255))
    dataset = made.load_made(tmp_path / "fake", like=real)
    np.testing.assert_array_equal(dataset.load(dataset.cases[0]).label.data, label // 255)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ["background", "liver", "spleen"]}, "the classes background, liver, spleen, but the data set has"),
        ({"label_values": [0, 1, 2]}, "the label values 0, 1, 2, but the data set has 0, 100, 200"),
        ({"channels": ["grey"]}, "the channels grey, but the data set has red, green, blue"),
        ({"classes": None}, "should name the classes of its images as a list 'classes', got None"),
        ({"channels": "red"}, "should name the channels of its images as a list 'channels', got 'red'"),
    ],
)
def test_images_made_after_other_data_are_refused(real, folder, changes, words):
    tell(folder, **changes)
    with pytest.raises(UserError) as caught:
        made.load_made(folder, like=real)
    assert words in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("content", [b'{"classes": ["backgr', b"\xff\xfe", b"[1, 2]"])
def test_a_damaged_provenance_is_told(real, folder, content):
    (folder / made.PROVENANCE).write_bytes(content)
    with pytest.raises(UserError, match=r"provenance\.json should .*restore it, or remove it"):
        made.load_made(folder, like=real)


def without_labels(folder):
    for file in (folder / "labels").iterdir():
        file.unlink()


def without_folder(folder):
    without_labels(folder)
    (folder / "labels").rmdir()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without_labels, "its folder labels holds no image file"),
        (without_folder, "should hold the folders images and labels, but holds images;"),
        (lambda folder: (folder / "labels" / "01.png").unlink(), "01.png has no file in labels"),
        (lambda folder: write(folder, "00", channels=1), "should have 3 channel"),
        (lambda folder: write(folder, "00", values=(0, 1)), "should hold only the label values 0 (background), 100"),
    ],
)
def test_what_does_not_fit_is_told_when_it_is_listed(real, folder, damage, words):
    damage(folder)
    with pytest.raises(UserError) as caught:
        made.load_made(folder, like=real)
    assert words in str(caught.value) and str(folder) in str(caught.value)


def test_a_path_that_is_no_folder_is_told(real, folder):
    with pytest.raises(UserError, match="fakes does not exist; correct the path"):
        made.load_made(folder.with_name("fakes"), like=real)
    with pytest.raises(UserError, match=r"00\.png is a file; correct the path"):
        made.load_made(folder / "images" / "00.png", like=real)
