"""Whole cases and folders: through preprocessing and back, in the input's own format and values."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxseg import predict
from jaxseg.data import preprocess, readers
from jaxseg.data.volume import identity_affine
from jaxseg.predict.predictor import label_map, output_file
from jaxseg.typing import Case, UserError, Volume

PLAIN = preprocess.Settings(normalize=("none",), crop=False)


def volume_of(data, spacing=None, path="scan.nii.gz"):
    ndim = data.ndim - 1
    spacing = spacing or (1.0,) * ndim
    affine = identity_affine(ndim)
    affine[:, :ndim] *= spacing
    return Volume(data, spacing, affine, None, path)


@jax.jit
def bright(image):
    """Two classes: class 1 where the first channel is positive."""
    foreground = jax.nn.sigmoid(20 * image[..., :1])
    return jnp.concatenate([1 - foreground, foreground], axis=-1)


@jax.jit
def levels(image):
    """Two nested regions: above 0 and above 1."""
    return jax.nn.sigmoid(20 * (image[..., :1] - jnp.array([0.0, 1.0])))


def image_of(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, 1)).astype(np.float32)


@pytest.mark.parametrize("shape, window", [((9, 11), (6, 7)), ((5, 9, 11), (6, 7, 4))])
def test_labels_on_the_grid_of_the_file(shape, window):
    image = image_of(*shape)
    result = predict.predict_case(bright, volume_of(image), PLAIN, ndim=len(shape), num_classes=2, window=window)
    assert result.labels.dtype == np.int16 and result.probabilities is None
    assert_array_equal(result.labels, image[..., 0] > 0)


def test_crop_resampling_and_orientation_are_undone():
    image = np.zeros((14, 16, 20, 1), np.float32)
    image[4:10, 5:12, 6:16] = -1.0
    image[5:9, 6:11, 8:14] = 1.0
    volume = volume_of(image, spacing=(2.0, 1.0, 1.0))
    # Turned: the first axis runs along the patient's front, the last one to the left.
    volume = volume._replace(affine=volume.affine[[0, 2, 1, 3]] * np.array([[-1.0], [1.0], [1.0], [1.0]]))
    settings = preprocess.Settings(spacing=(1.5, 1.0, 1.0), normalize=("none",), crop=True)
    options = dict(ndim=3, num_classes=2, window=(8, 8, 8), batch_size=2)
    result = predict.predict_case(bright, volume, settings, keep_probabilities=True, **options)
    assert result.labels.shape == (14, 16, 20) and result.probabilities.shape == (14, 16, 20, 2)
    assert result.probabilities.dtype == np.float32
    true = image[..., 0] > 0
    assert 2 * (result.labels.astype(bool) & true).sum() / (result.labels.sum() + true.sum()) > 0.85
    assert_allclose(result.probabilities.sum(-1), 1, rtol=1e-5)
    assert_array_equal(result.labels, predict.predict_case(bright, volume, settings, **options).labels)


def test_regions_become_classes():
    image = image_of(8, 9)
    options = dict(ndim=2, num_classes=3, window=(8, 8), regions=((1, 2), (2,)))
    expected = (image[..., 0] > 0).astype(int) + (image[..., 0] > 1)
    for keep in (False, True):
        result = predict.predict_case(levels, volume_of(image), PLAIN, keep_probabilities=keep, **options)
        assert_array_equal(result.labels, expected)
    assert result.probabilities.shape == (8, 9, 2)


def test_logits_are_averaged_and_resampled_before_they_become_probabilities():
    def logits(image):  # of windows whose corner is bright 9, of the others 0
        first = 9.0 * (image[:, :1, :1] > 0) + 0 * image
        return jnp.concatenate([0 * first, first], axis=-1)

    image = np.full((4, 9, 1), -1.0, np.float32)
    image[:, 0] = 1
    options = dict(ndim=2, num_classes=2, window=(4, 5), overlap=0.2, weight="constant", keep_probabilities=True)
    result = predict.predict_case(logits, volume_of(image), PLAIN, logits=True, **options)
    sigmoid = 1 / (1 + np.exp(-np.array([9.0, 4.5, 0.0])))  # the first window, both, the second
    assert_allclose(result.probabilities[0, :, 1], np.repeat(sigmoid, [4, 1, 4]), rtol=1e-5)
    assert_array_equal(result.labels[0], [1] * 5 + [0] * 4)
    regions = predict.predict_case(logits, volume_of(image), PLAIN, logits=True, regions=((1,), (2,)), **options)
    assert_allclose(regions.probabilities[0, :, 1], np.repeat(sigmoid, [4, 1, 4]), rtol=1e-5)
    # on the way to the file's grid as well: halfway between the logits 0 and 9
    half = PLAIN._replace(spacing=(1.0, 2.0))
    image = np.repeat(np.array([-1.0, 1.0], np.float32), 4)[None, :, None].repeat(4, 0)

    def bright_logits(image):
        return jnp.concatenate([0 * image, 9.0 * (image > 0)], axis=-1)

    options |= dict(window=(4, 4), overlap=0.5)
    result = predict.predict_case(bright_logits, volume_of(image), half, logits=True, **options)
    quarters = 1 / (1 + np.exp(-9.0 * np.array([0.25, 0.75])))
    assert_allclose(result.probabilities[0, 3:5, 1], quarters, rtol=1e-5)


def test_slices_of_a_volume_and_whole_slices():
    image = image_of(3, 9, 7)
    for options in (dict(window=(4, 4), batch_size=3), dict(window=None, divisor=4)):
        result = predict.predict_case(bright, volume_of(image), PLAIN, ndim=2, num_classes=2, **options)
        assert_array_equal(result.labels, image[..., 0] > 0)


def test_postprocess_sees_class_ids_and_spacing():
    image = np.full((8, 9, 1), -1.0, np.float32)
    image[1:5, 1:5] = 1.0
    image[2, 2] = -1.0
    image[7, 7:] = 1.0
    options = dict(ndim=2, num_classes=2, window=(8, 8))
    case = functools.partial(predict.predict_case, bright, volume_of(image, spacing=(0.5, 2.0)), PLAIN, **options)
    cleaned = case(postprocess="fill_holes|remove_small(min_mm3=3)")
    expected = np.zeros((8, 9), int)
    expected[1:5, 1:5] = 1
    assert_array_equal(cleaned.labels, expected)
    assert cleaned.labels.dtype == np.int16
    assert (case(postprocess=lambda labels, *, spacing: labels * 0).labels == 0).all()
    with pytest.raises(UserError, match="no post-processing"):
        case(postprocess="fill_hole")


def test_refused_cases():
    volume, options = volume_of(image_of(6, 7)), dict(num_classes=2, window=(4, 4))
    with pytest.raises(UserError, match="trained on 3"):
        predict.predict_case(bright, volume, PLAIN, ndim=3, **options)
    with pytest.raises(UserError, match=r"scan\.nii\.gz is not finite"):
        predict.predict_case(lambda image: bright(image) / 0, volume, PLAIN, ndim=2, **options)
    with pytest.raises(ValueError, match="should give 3 outputs"):
        predict.predict_case(bright, volume, PLAIN, ndim=2, num_classes=3, window=(4, 4))


def test_label_values():
    labels = np.array([[0, 1], [2, 0]], np.int16)
    assert label_map(labels, (0, 128, 255)).dtype == np.uint8
    assert_array_equal(label_map(labels, (0, 128, 255)), [[0, 128], [255, 0]])
    assert_array_equal(label_map(labels, (-3, 70000, 5)), [[-3, 70000], [5, -3]])
    with pytest.raises(ValueError, match="0 to 1"):
        label_map(labels, (0, 255))


@pytest.mark.parametrize(
    "name, image, expected",
    [
        ("scan", "in/scan.nii.gz", "scan.nii.gz"),
        ("scan", "in/scan_0000.nii.gz", "scan.nii.gz"),
        ("scan_0000", "in/scan_0000.nii.gz", "scan_0000.nii.gz"),
        ("eye", "eye.JPG", "eye.png"),
        ("a.1", "a.1.nrrd", "a.1.nrrd"),
    ],
)
def test_output_file(name, image, expected):
    assert output_file(Case(name, (image,))) == expected


@pytest.fixture
def folder(tmp_path):
    """Three 2D images, the second one broken."""
    from PIL import Image

    inputs = tmp_path / "in"
    inputs.mkdir()
    pixels = {
        name: np.random.default_rng(seed).integers(0, 256, (7, 8 + seed), np.uint8) for seed, name in enumerate("abc")
    }
    for name, array in pixels.items():
        Image.fromarray(array).save(inputs / f"{name}.png")
    whole = (inputs / "b.png").read_bytes()
    (inputs / "b.png").write_bytes(whole[: len(whole) // 2])
    return inputs, {name: array > 127 for name, array in pixels.items()}


def run_folder(inputs, output, names, **options):
    @jax.jit
    def above_half(image):
        return bright(image - 127.5)

    case = functools.partial(
        predict.predict_case,
        above_half,
        settings=PLAIN,
        ndim=2,
        num_classes=2,
        window=(4, 4),
        **options.pop("case", {}),
    )
    cases = [Case(name, (str(inputs / f"{name}.png"),)) for name in names]
    return predict.predict_folder(
        case, cases, output, read=lambda case: readers.read(case.images[0]), label_values=(0, 255), **options
    )


def test_folder(folder, tmp_path):
    inputs, masks = folder
    seen = []
    written = run_folder(inputs, tmp_path / "out", "ac", progress=lambda *step: seen.append(step))
    assert [name for name, _ in written] == ["a", "c"] and seen == [(1, 2, "a"), (2, 2, "c")]
    for name, path in written:
        assert pathlib.Path(path) == tmp_path / "out" / f"{name}.png"
        assert_array_equal(readers.read_label(path).data, np.where(masks[name], 255, 0))


def test_one_broken_file_does_not_lose_the_others(folder, tmp_path):
    inputs, _ = folder
    with pytest.raises(
        UserError, match=r"1 of 3 cases could not be predicted \(the other 2 are in .*out\): b: .*b\.png"
    ):
        run_folder(inputs, tmp_path / "out", "abc")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


def test_nothing_is_overwritten(folder, tmp_path):
    inputs, masks = folder
    output = tmp_path / "out"
    output.mkdir()
    (output / "c.png").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"c\.png exists already"):
        run_folder(inputs, output, "ac")
    assert (output / "c.png").read_bytes() == b"precious" and not (output / "a.png").exists()
    written = run_folder(inputs, output, "ac", overwrite=True)
    assert_array_equal(readers.read_label(written[1][1]).data, np.where(masks["c"], 255, 0))
    with pytest.raises(UserError, match="would replace the input"):
        run_folder(inputs, inputs, "ac", overwrite=True)
    with pytest.raises(UserError, match="would both be written"):
        run_folder(inputs, tmp_path / "new", "aa")
    with pytest.raises(UserError, match="nothing to predict"):
        run_folder(inputs, tmp_path / "new", "")


def test_probabilities_beside_the_labels(folder, tmp_path):
    inputs, _ = folder
    run_folder(inputs, tmp_path / "out", "a", case=dict(keep_probabilities=True))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "a_probabilities.tif"]
    volume = volume_of(np.zeros((3, 4, 5, 1), np.float32), spacing=(3.0, 1.0, 2.0))
    probabilities = np.random.default_rng(0).random((3, 4, 5, 2)).astype(np.float32)
    result = predict.Prediction(np.ones((3, 4, 5), np.int16), probabilities)
    path = predict.write_prediction(result, volume, tmp_path / "deep" / "x.nii.gz", label_values=(0, 7))
    label = readers.read_label(path)
    assert (label.data == 7).all()
    assert_allclose(label.affine, volume.affine, atol=1e-6)
    assert_allclose(readers.read(tmp_path / "deep" / "x_probabilities.nii.gz").data, probabilities, rtol=1e-6)
    with pytest.raises(UserError, match="exists already"):
        predict.write_prediction(result, volume, path, label_values=(0, 7))
