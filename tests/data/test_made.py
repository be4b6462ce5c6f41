"""Made pairs: the same for the same seed whatever is asked for beside, cut back from padding, marked in every file."""

import json

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from jaxseg.data import made, made_files, readers
from jaxseg.data.datasets import image_mask
from jaxseg.typing import IGNORE, UserError

LABEL = np.zeros((5, 7), np.int16)
LABEL[1:3, 2:6] = 1
LABEL[3, 4] = 2
LABEL[0, 0] = IGNORE


def grey(segmentation, style):
    """A generator: class 1 at 0.5, class 2 at 1, the first row's noise from the style."""
    image = segmentation @ np.array([[-1.0], [0.5], [1.0]], np.float32)
    image[:, 0] += 0.1 * style[:, :1, None]
    return image


def pairs(count, *, sample=grey, draw=None, **other):
    options = {"seed": 3, "num_classes": 3, "style_features": 4, "divisor": (4, 4), "encode": lambda image: image}
    draw = draw or made.given([lambda: made.Drawn(LABEL, "a"), lambda: made.Drawn(LABEL[::-1].copy(), "b")])
    return list(made.make_pairs(sample, draw, count=count, **{**options, **other}))


def test_images_are_of_their_label_maps_and_cut_back_to_them():
    seen = []
    first, second, third = pairs(3, sample=lambda *given: seen.append(given[0].shape) or grey(*given))
    assert seen == [(1, 8, 8, 3)] * 3  # 5 x 7 padded to what 4 divides
    assert first.image.shape == (5, 7, 1) and first.image.dtype == np.float32
    np.testing.assert_array_equal(first.image[1:, :, 0], np.where(LABEL == 2, 1, np.where(LABEL == 1, 0.5, -1))[1:])
    assert [pair.drawn.source for pair in (first, second, third)] == ["a", "b", "a"]
    assert first.image[0, 1] != third.image[0, 1]  # the same label map again, with another style
    assert (first.dice, first.tries) == (None, 1)


def test_a_generator_sees_nothing_where_a_label_is_ignored_and_the_edge_beyond_it():
    given = made.one_hot(made.pad(LABEL, (4, 4)), 3)
    assert given.shape == (8, 8, 3) and not given[0, 0].any()
    np.testing.assert_array_equal(given[:5, :7].argmax(-1), LABEL.clip(0))
    np.testing.assert_array_equal(given[5:], given[4:5].repeat(3, 0))
    np.testing.assert_array_equal(given[:, 7], given[:, 6])


def test_a_pair_depends_on_the_seed_and_its_number_alone():
    maps = [LABEL.clip(0), LABEL.clip(0)[:, ::-1]]

    def make(count, seed=3):
        return pairs(
            count, draw=made.sampled("recombine(max_shift=1)|elastic(magnitude=1.0, sigma=3.0)", maps), seed=seed
        )

    few, many, others = make(2), make(5), make(2, seed=4)
    for one, same in zip(few, many):
        np.testing.assert_array_equal(one.image, same.image)
        np.testing.assert_array_equal(one.drawn.label, same.drawn.label)
    assert [pair.name for pair in many] == [f"synthetic_00000{number}" for number in range(5)]
    assert any((a.drawn.label != b.drawn.label).any() for a, b in zip(few, others))
    assert len({pair.drawn.label.tobytes() for pair in many}) > 1


def test_an_image_below_the_least_score_is_made_anew_by_the_next_seed():
    styles, scores = [], iter([0.2, 0.4, 0.9, 0.5])

    def sample(segmentation, style):
        styles.append(tuple(style[0]))
        return grey(segmentation, style)

    found = pairs(2, sample=sample, score=lambda image, drawn: next(scores), min_dice=0.5)
    assert [(pair.dice, pair.tries) for pair in found] == [(0.9, 3), (0.5, 1)]
    assert len(set(styles)) == 4


def test_ten_images_in_vain_are_told_in_one_sentence():
    with pytest.raises(
        UserError, match=r"synthetic_000000: 10 images in a row do not keep .*0\.25.*min_dice \(now 0\.5\)"
    ):
        pairs(1, score=lambda image, drawn: 0.25, min_dice=0.5)
    with pytest.raises(UserError, match="10 images in a row are blank; train"):
        pairs(1, sample=lambda segmentation, style: np.full((1, 8, 8, 1), 0.123))
    with pytest.raises(UserError, match="of a that is not finite; take an earlier checkpoint"):
        pairs(1, sample=lambda segmentation, style: np.full((1, 8, 8, 1), np.nan))


def test_label_maps_below_half_of_the_divisor_are_refused():
    with pytest.raises(UserError, match="The label map is 5 x 7, but the generator needs at least 8 x 4"):
        pairs(1, divisor=(16, 8))
    assert made.pad(LABEL, (10, 14)).shape == (10, 14)


def test_maps_of_unequal_shapes_are_cut_and_padded_around_their_middle():
    small, middle, large = np.ones((2, 5), int), np.ones((4, 6), int), np.arange(6 * 9).reshape(6, 9)
    found = made.to_one_shape([small, middle, large])
    assert [label.shape for label in found] == [(4, 6)] * 3
    np.testing.assert_array_equal(found[0], np.pad(small, [(1, 1), (0, 1)]))
    np.testing.assert_array_equal(found[2], large[1:5, 1:7])
    assert made.to_one_shape([large, large])[1] is large


def test_numbers_become_bytes_by_rounding():
    np.testing.assert_array_equal(
        made.to_bytes(np.array([-1.5, -1, -0.5, 0.0, 0.999, 1, 2])), [0, 0, 64, 128, 255, 255, 255]
    )
    np.testing.assert_array_equal(made.to_bytes(np.arange(256) / 127.5 - 1), np.arange(256))


def test_absolute_intensities_come_back_for_ct_and_rgb_alone():
    image = np.full((2, 3, 3), 0.5, np.float32)
    found = made.as_acquired(image, ("ct", "rgb", "zscore"), ({"std": 200.0, "mean": -50.0}, None, None))
    np.testing.assert_allclose(found[0, 0], [50.0, 127.5, 0.5])


def test_the_axis_order_of_preprocessing_is_undone():
    order = (2, 0, 1)
    files = np.arange(24).reshape(2, 3, 4)
    assert made.file_axes(None, ndim=2) == made.file_axes(order, ndim=2) == (0, 1)
    np.testing.assert_array_equal(files.transpose(order).transpose(made.file_axes(order, ndim=3)), files)


def write(folder, *, channels=1, shape=(5, 7), label_values=(0, 255), spacing=None, names=("x",), overwrite=False):
    draw = np.random.default_rng(0)
    suffixes = made_files.suffixes(ndim=len(shape), channels=channels, label_values=label_values)
    image = draw.uniform(-1, 1, (*shape, channels)).astype(np.float32)
    label = np.array(label_values)[draw.integers(0, len(label_values), shape)]
    about = {
        "workdir": "/runs/w", "step": 7, "labels": "elastic", "seed": 3, "pairs": len(names), "suffixes": suffixes,
        "intensities": made_files.intensities(suffixes), "files": {name: {} for name in names},
    }  # fmt: skip
    with made_files.replacing(folder, overwrite=overwrite) as place:
        for name in names:
            made_files.write_pair(place, name, image, label, spacing=spacing or (1.0,) * len(shape), suffixes=suffixes)
        made_files.write_record(place, about)
    return image, label


def listed(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_written_in_8_bits_with_the_mark(tmp_path, channels):
    image, label = write(tmp_path / "out", channels=channels)
    assert listed(tmp_path / "out") == ["README.txt", "images/x.png", "labels/x.png", "provenance.json"]
    read = readers.read(tmp_path / "out/images/x.png").data
    np.testing.assert_array_equal(read, np.rint((image + 1) / 2 * 255))
    np.testing.assert_array_equal(readers.read_label(tmp_path / "out/labels/x.png").data, label)
    with Image.open(tmp_path / "out/images/x.png") as file:
        assert file.text == {"Description": "synthetic (jaxseg)"}


def test_other_channels_are_written_as_floats_with_the_mark(tmp_path):
    image, label = write(tmp_path / "out", channels=2, label_values=(0, -4))
    assert listed(tmp_path / "out")[1:3] == ["images/x.tif", "labels/x.tif"]  # PNG holds no negative value
    np.testing.assert_array_equal(readers.read(tmp_path / "out/images/x.tif").data, image)
    np.testing.assert_array_equal(readers.read_label(tmp_path / "out/labels/x.tif").data, label)
    with tifffile.TiffFile(tmp_path / "out/images/x.tif") as file:
        assert file.pages[0].description == file.pages[0].software == "synthetic (jaxseg)"


@pytest.mark.parametrize("channels", [1, 2])
def test_volumes_are_written_with_spacing_and_the_mark(tmp_path, channels):
    image, label = write(tmp_path / "out", channels=channels, shape=(3, 5, 7), spacing=(2.5, 1.0, 0.5))
    read, mask = (readers.read(tmp_path / f"out/{place}/x.nii.gz") for place in ("images", "labels"))
    np.testing.assert_array_equal(read.data, image)
    np.testing.assert_array_equal(mask.data[..., 0], label)
    assert read.spacing == mask.spacing == (2.5, 1.0, 0.5)
    header = nibabel.load(tmp_path / "out/images/x.nii.gz").header
    assert header["descrip"].item() == b"synthetic (jaxseg)" and header.get_xyzt_units()[0] == "mm"


def test_the_folder_reads_as_a_data_set(tmp_path):
    _, label = write(tmp_path / "out", names=("x", "y"))
    dataset = image_mask.load(root=tmp_path / "out", images="images", labels="labels", label_values=(0, 255))
    assert [case.name for case in dataset.cases] == ["x", "y"]
    sample = dataset.load(dataset.cases[1])
    np.testing.assert_array_equal(sample.label.data, label == 255)


def test_the_record_says_that_no_patient_is_shown(tmp_path):
    write(tmp_path / "out")
    record = json.loads((tmp_path / "out/provenance.json").read_text())
    assert record["synthetic"] is True and "none of them shows a real patient" in record["what"]
    text = (tmp_path / "out/README.txt").read_text()
    assert "none of them shows a real patient" in " ".join(text.split()) and "/runs/w" in text
    assert "\n\n" not in text


def test_nothing_is_left_of_what_failed(tmp_path):
    with pytest.raises(UserError, match="ten"), made_files.replacing(tmp_path / "out", overwrite=False) as place:
        (place / "images").mkdir()
        raise UserError("ten")
    assert not list(tmp_path.iterdir())
    write(tmp_path / "out")
    before = (tmp_path / "out/images/x.png").read_bytes()
    with pytest.raises(KeyboardInterrupt), made_files.replacing(tmp_path / "out", overwrite=True):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/images/x.png").read_bytes() == before


def test_a_full_folder_is_replaced_by_overwrite_alone_and_only_if_it_is_ours(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    write(out, names=("x", "y"))  # an empty folder is as good as none
    with pytest.raises(UserError, match="is not empty; name a new folder, or add --overwrite"):
        write(out)
    write(out, overwrite=True)
    assert listed(out) == ["README.txt", "images/x.png", "labels/x.png", "provenance.json"]
    (out / "images" / "mine.png").write_bytes(b"1")
    with pytest.raises(UserError, match=r"holds images/mine\.png, which --mode synthesize did not write"):
        write(out, overwrite=True)
    assert (out / "images" / "mine.png").exists() and [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(UserError, match="is a file"):
        made_files.check_target(out / "README.txt", overwrite=True)
