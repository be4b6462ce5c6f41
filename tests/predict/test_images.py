"""Images that networks make: natural intensities on the file's grid or a finer one, whatever way the file lies."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from jaxseg import predict
from jaxseg.data import preprocess, readers
from jaxseg.data.volume import identity_affine, make
from jaxseg.typing import Case, UserError

PLAIN = preprocess.Settings(normalize=("none",), crop=False)
# Array axes (z, y, x) lead to the patient's right-back, foot and left, somewhat turned.
OBLIQUE = np.array([[0.2, 0.3, -1.9, -11.0], [-2.9, 0.2, -0.3, 5.0], [0.3, -4.0, 0.1, 7.0], [0, 0, 0, 1.0]])


def scan(*shape, channels=1, seed=0, affine=None):
    """Values around 100 within a box, 0 outside of it."""
    data = np.zeros((*shape, channels), np.float32)
    box = tuple(slice(1, size - 1 - axis % 2) for axis, size in enumerate(shape))
    data[box] = np.random.default_rng(seed).normal(100, 30, data[box].shape)
    affine = (OBLIQUE if len(shape) == 3 else np.diag([2.0, 3.0, 1.0])) if affine is None else affine
    return make(data, affine, header=None, path="scan.nii.gz")


def repeated(array, factors, *, first=0):
    for axis, factor in enumerate(factors, start=first):
        array = array.repeat(factor, axis)
    return array


def nearest(factors):
    return jax.jit(lambda batch: repeated(batch, factors, first=1))


identity = jax.jit(lambda batch: batch)


@pytest.mark.parametrize("kind", preprocess.NORMALIZATIONS)
def test_a_network_that_changes_nothing_gives_the_file_back(kind):
    volume = scan(9, 8, 7, channels=2)
    statistics = {"mean": 90.0, "std": 20.0, "p005": -500.0, "p995": 500.0}
    settings = preprocess.Settings(
        normalize=(kind, "zscore"), statistics=(statistics, None), crop=True, axis_order=(2, 0, 1)
    )
    made = predict.predict_image(identity, volume, settings, ndim=3, window=(4, 5, 4), flip_axes=(1,), batch_size=8)
    assert made.data.dtype == np.float32 and made.path == volume.path
    assert_allclose(made.data, volume.data, atol=1e-4 * np.ptp(volume.data))
    assert made.spacing == volume.spacing
    assert_array_equal(made.affine, volume.affine)


def test_factors_of_the_network_are_brought_to_the_axes_of_the_file():
    volume = scan(6, 7, 5)
    settings = preprocess.Settings(normalize=("zscore",), crop=True, axis_order=(0, 2, 1))
    # canonical (S, A, R) is the file's (1, 0, 2); the network sees (S, R, A) = (1, 2, 0)
    made = predict.predict_image(
        nearest((1, 2, 3)), volume, settings, ndim=3, window=(3, 4, 3), factors=(1, 2, 3), batch_size=8
    )
    assert_allclose(made.data, repeated(volume.data, (3, 1, 2)), atol=1e-4 * np.ptp(volume.data))
    assert_allclose(made.spacing, np.array(volume.spacing) / (3, 1, 2), rtol=1e-12)
    assert_allclose(np.linalg.norm(made.affine[:3, :3], axis=0), made.spacing, rtol=1e-12)


def test_finer_voxels_lie_where_the_affine_says():
    """The image tells a place in the world; a network that interpolates must tell the places of the new voxels."""

    def places(affine, shape):
        grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
        return (grid @ affine[:3, :3].T + affine[:3, 3]) @ [1.0, -2.0, 3.0] + 500

    @jax.jit
    def halve_the_second(batch):  # linear between half-pixel centres; straight on at the rim
        step = jnp.gradient(batch, axis=2)
        return jnp.stack([batch - step / 4, batch + step / 4], axis=3).reshape(len(batch), 4, 8, 4, 1)

    shape = (4, 4, 4)
    volume = make(places(OBLIQUE, shape)[..., None], OBLIQUE, header=None, path="x")
    settings = PLAIN._replace(axis_order=(1, 0, 2))
    made = predict.predict_image(halve_the_second, volume, settings, ndim=3, window=shape, factors=(1, 2, 1))
    # The network's second axis is S, the file's second as well, and runs the other way.
    assert made.data.shape == (4, 8, 4, 1)
    assert_allclose(made.data[..., 0], places(made.affine, (4, 8, 4)), rtol=1e-5)


def test_slice_by_slice():
    volume = scan(5, 7, 6, affine=identity_affine(3))
    settings = preprocess.Settings(normalize=("zscore",), crop=False)
    made = predict.predict_image(nearest((4, 2)), volume, settings, ndim=2, window=(4, 4), factors=(4, 2), batch_size=9)
    assert_allclose(made.data, repeated(volume.data, (1, 4, 2)), atol=1e-4 * np.ptp(volume.data))
    assert made.spacing == (1.0, 0.25, 0.5)


def test_left_out_voxels_of_a_mask_are_zero_on_the_finer_grid():
    volume = scan(6, 9)
    volume.data[3, 1] = 0  # a dent in the mask, inside the crop box
    settings = preprocess.Settings(normalize=("zscore_mask",))
    shifted = jax.jit(lambda batch: nearest((2, 2))(batch) + 1)
    made = predict.predict_image(shifted, volume, settings, ndim=2, window=(4, 4), factors=(2, 2))
    inside = repeated(volume.data != 0, (2, 2))
    assert (made.data[~inside] == 0).all()
    raised = repeated(volume.data, (2, 2)) + volume.data[volume.data != 0].std()
    assert_allclose(made.data[inside], raised[inside], rtol=1e-5)


def test_translation_takes_the_intensities_of_what_is_made():
    @jax.jit
    def contrast(batch):  # two channels in, three out
        first, second = batch[..., :1], batch[..., 1:]
        return jnp.concatenate([first + second, first - second, 0 * first], -1)

    volume = scan(6, 7, 5, channels=2)
    options = dict(ndim=3, window=(4, 4, 4), batch_size=8, intensities=[(10.0, 2.0), (-5.0, 1.0), (7.0, 3.0)])
    settings = preprocess.Settings(normalize=("zscore", "zscore"))
    made = predict.predict_image(contrast, volume, settings, **options)
    box = volume.data[1:5, 1:5, 1:4]
    first, second = np.moveaxis((box - box.mean((0, 1, 2))) / box.std((0, 1, 2)), -1, 0)
    expected = np.stack([10 + 2 * (first + second), -5 + first - second, 0 * first + 7], -1)
    assert made.data.shape == (6, 7, 5, 3)
    assert_allclose(made.data[1:5, 1:5, 1:4], expected, rtol=1e-4, atol=1e-4)
    outside = np.ones((6, 7, 5), bool)
    outside[1:5, 1:5, 1:4] = False
    assert_allclose(made.data[outside], np.broadcast_to(expected.min((0, 1, 2)), (outside.sum(), 3)), atol=1e-4)
    masked = preprocess.Settings(normalize=("zscore_mask", "zscore_mask"))
    made = predict.predict_image(contrast, volume, masked, **options)
    assert (made.data[outside] == 0).all() and (made.data[~outside][:, 2] == 7).all()


def test_refused():
    volume = scan(6, 7)
    case = functools.partial(predict.predict_image, volume=volume, settings=PLAIN, ndim=2, window=(4, 4))
    with pytest.raises(UserError, match=r"on the grid of the file, but the spacing is set to \(1\.0, None\)"):
        case(identity, settings=PLAIN._replace(spacing=(1.0, None)))
    assert_allclose(case(identity, settings=PLAIN._replace(spacing=(None, None))).data, volume.data, rtol=1e-5)
    with pytest.raises(UserError, match="trained on 3"):
        case(identity, ndim=3, window=(4, 4, 4))
    with pytest.raises(UserError, match=r"scan\.nii\.gz is not finite"):
        case(lambda batch: batch / 0)
    with pytest.raises(ValueError, match="should have 1 channels, got 2"):
        case(lambda batch: batch.repeat(2, -1))
    with pytest.raises(ValueError, match="should have 2 channels, got 1"):
        case(identity, intensities=[(0.0, 1.0), (0.0, 1.0)])
    with pytest.raises(ValueError, match="factors should be 2"):
        case(identity, factors=(2, 2, 2))


@pytest.fixture
def folder(tmp_path):
    """Pictures of several kinds and a broken one."""
    inputs, draw = tmp_path / "in", np.random.default_rng(0)
    inputs.mkdir()
    Image.fromarray(draw.integers(1, 256, (7, 9), np.uint8)).save(inputs / "a.png")
    Image.fromarray(draw.integers(1, 256, (7, 9), np.uint8)).save(inputs / "b.jpg")
    Image.fromarray(draw.integers(1, 60000, (7, 9), np.uint16)).save(inputs / "deep.png")
    (inputs / "half.png").write_bytes((inputs / "a.png").read_bytes()[:50])
    return inputs


def run_folder(cases, output, **options):
    settings = preprocess.Settings(normalize=("unit",), crop=False)
    case = functools.partial(
        predict.predict_image, nearest((2, 1)), settings=settings, ndim=2, window=(4, 4), factors=(2, 1)
    )
    return predict.predict_images_folder(case, cases, output, read=lambda case: readers.read(case.images[0]), **options)


def test_a_folder_of_pictures(folder, tmp_path):
    cases = [Case(path.stem, (str(path),)) for path in sorted(folder.iterdir())]
    with pytest.raises(UserError, match=r"1 of 4 cases could not be predicted \(the other 3 are in .*\): half: "):
        run_folder(cases, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png", "deep.tif"]
    for name, source, kind in (
        ("a.png", "a.png", np.uint8),
        ("b.png", "b.jpg", np.uint8),
        ("deep.tif", "deep.png", "f4"),
    ):
        made, given = readers.read(tmp_path / "out" / name), readers.read(folder / source)
        assert made.data.dtype == kind
        assert_allclose(made.data, repeated(given.data, (2, 1)), rtol=1e-5)
    whole = [case for case in cases if case.name != "half"]
    with pytest.raises(UserError, match=r"a\.png and 1 more exists already"):
        run_folder(whole, tmp_path / "out")
    written = run_folder(whole, tmp_path / "out", overwrite=True)
    assert [(name, pathlib.Path(path).name) for name, path in written][2] == ("deep", "deep.tif")


def test_another_range_of_intensities_is_not_cut_to_8_bits(folder, tmp_path):
    volume = readers.read(folder / "a.png")
    made = volume._replace(data=volume.data.astype(np.float32) * 9.5)
    path = predict.write_made(made, volume, tmp_path / "a.png", same_range=False)
    assert pathlib.Path(path).name == "a.tif"
    assert_array_equal(readers.read(path).data, made.data)


def test_a_tiff_in_place_of_a_png_is_not_overwritten_either(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "deep.tif").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"deep\.tif exists already"):
        run_folder([Case("deep", (str(folder / "deep.png"),))], tmp_path / "out")
    assert (tmp_path / "out" / "deep.tif").read_bytes() == b"precious"


def test_a_volume_from_file_to_file(tmp_path):
    stored = np.random.default_rng(0).normal(100, 30, (5, 4, 6)).astype(np.float32)
    affine = OBLIQUE[:, [2, 1, 0, 3]]
    nibabel.save(nibabel.Nifti1Image(stored, affine), tmp_path / "in.nii.gz")
    volume = readers.read(tmp_path / "in.nii.gz")
    settings = preprocess.Settings(normalize=("zscore",), crop=True)
    made = predict.predict_image(nearest((1, 3, 1)), volume, settings, ndim=3, window=(4, 4, 4), factors=(1, 3, 1))
    predict.write_made(made, volume, tmp_path / "out" / "in.nii.gz")
    written = nibabel.load(tmp_path / "out" / "in.nii.gz")
    # A is the file's slowest axis, the last of the stored ones.
    assert_allclose(written.get_fdata(), stored.repeat(3, 2), rtol=1e-4)
    assert_allclose(written.header.get_zooms(), np.linalg.norm(affine[:3, :3], axis=0) / (1, 1, 3), rtol=1e-5)
    assert_allclose(
        written.affine @ [0, 0, 1, 1], affine @ [0, 0, 0, 1], rtol=1e-5
    )  # the middle one of the first three
