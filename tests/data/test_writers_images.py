"""Images are written with their own geometry, in the input's format, and read back as they were."""

import nibabel
import nrrd
import numpy as np
import pytest
import tifffile
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from jaxseg.data import readers, volume, writers
from jaxseg.typing import UserError, Volume

OBLIQUE = np.array([[-1.9, 0.3, 0.0, -11.0], [-0.3, -2.9, 0.2, 5.0], [0.0, -0.2, 4.0, 7.0], [0, 0, 0, 1.0]])


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(100, 50, shape).astype(np.float32)


def finer(like, factors, channels=1):
    """An image over the extent of `like` with `factors` times more voxels."""
    shape = [size * factor for size, factor in zip(like.data.shape, factors)]
    spacing = tuple(length / factor for length, factor in zip(like.spacing, factors))
    return like._replace(
        data=values(*shape, channels), spacing=spacing, affine=volume.finer_affine(like.affine, factors)
    )


def is_read_back(path, image, **options):
    again = readers.read(writers.write_image(path, image, **options))
    assert_array_equal(again.data, image.data)
    assert_allclose(again.affine, image.affine, rtol=1e-6, atol=1e-5)
    assert_allclose(again.spacing, image.spacing, rtol=1e-6)
    return again


def nifti_file(path, codes, *, kind=nibabel.Nifti1Image):
    image = kind(np.arange(60, dtype=np.int16).reshape(5, 4, 3), None)
    image.header.set_qform(np.diag([-2.0, 3, 4, 1]) + np.outer([1, 2, 3, 0], [0, 0, 0, 1]), code=codes[1])
    image.header.set_sform(OBLIQUE, code=codes[0])
    image.header.set_xyzt_units("micron", "sec")
    nibabel.save(kind(image.dataobj, None, image.header), path)
    return readers.read(path)


@pytest.mark.parametrize("factors", [(1, 1, 1), (3, 1, 2)])
@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 4), (2, 3)])
def test_nifti_says_the_new_grid_in_the_codes_and_units_of_its_file(tmp_path, codes, factors):
    like = nifti_file(
        tmp_path / "in.nii.gz", codes, kind=nibabel.Nifti2Image if factors[0] == 1 else nibabel.Nifti1Image
    )
    image = finer(like, factors)
    again = readers.read(writers.write_image(tmp_path / "out.nii.gz", image))
    assert_array_equal(again.data, image.data)
    assert_allclose(again.affine, image.affine, rtol=1e-6, atol=1e-8)  # microns: numbers are thousandths
    source, written = nibabel.load(tmp_path / "in.nii.gz"), nibabel.load(tmp_path / "out.nii.gz")
    assert type(written) is type(source) and written.get_data_dtype() == np.float32 and written.ndim == 3
    assert (written.header["sform_code"], written.header["qform_code"]) == codes
    assert written.header.get_xyzt_units() == ("micron", "sec")
    zooms = np.array(source.header.get_zooms()) / factors[::-1]
    if codes == (1, 0) and factors[0] > 1:
        zooms = np.array(image.spacing[::-1]) * 1000  # not those of the qform, which counts nothing
    assert_allclose(written.header.get_zooms(), zooms, rtol=1e-6)
    # The qform leads to its own space, in which the first centre moves along as well.
    moved = source.header.get_qform() @ np.array([*((1 - f) / (2 * f) for f in factors[::-1]), 1])
    if codes[1]:
        assert_allclose(written.header.get_qform()[:, 3], moved, atol=1e-5)


def test_nifti_keeps_channels_two_axes_and_whole_numbers(tmp_path):
    like = nifti_file(tmp_path / "in.nii", (1, 1))
    is_read_back(tmp_path / "out.nii", finer(like, (1, 2, 1), channels=2))
    assert nibabel.load(tmp_path / "out.nii").shape == (5, 8, 3, 2)
    whole = like._replace(data=like.data + 300)
    assert readers.read(writers.write_image(tmp_path / "whole.nii", whole)).data.dtype == np.int16
    nibabel.save(nibabel.Nifti1Image(values(5, 4), np.diag([2.0, 3, 1, 1])), tmp_path / "flat.nii.gz")
    flat = readers.read(tmp_path / "flat.nii.gz")
    is_read_back(tmp_path / "flat_out.nii.gz", finer(flat, (1, 2, 3)))
    assert nibabel.load(tmp_path / "flat_out.nii.gz").shape == (15, 8)


def test_nifti_with_a_quaternion_that_is_none_beside_its_sform(tmp_path):
    nifti_file(tmp_path / "in.nii", (1, 1))
    source = nibabel.load(tmp_path / "in.nii")
    header = source.header.copy()
    header["quatern_b"], header["quatern_c"] = 3, 4
    raw = bytearray((tmp_path / "in.nii").read_bytes())
    raw[: len(header.binaryblock)] = header.binaryblock
    (tmp_path / "in.nii").write_bytes(raw)
    like = readers.read(tmp_path / "in.nii")
    is_read_back(tmp_path / "out.nii", finer(like, (1, 2, 1)))
    written = nibabel.load(tmp_path / "out.nii").header
    assert (written["sform_code"], written["qform_code"]) == (1, 0)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", ["out.nrrd", "out.mgz", "out.nii.gz"])
def test_an_odd_grid_in_every_format(tmp_path, name, channels):
    header = {
        "space": "left-posterior-superior",
        "space directions": OBLIQUE[:3, :3].T,
        "space origin": OBLIQUE[:3, 3],
        "kinds": ["domain"] * 3,
        "space units": ["cm"] * 3,
    }
    nrrd.write(str(tmp_path / "in.nrrd"), values(5, 4, 3), header)
    like = readers.read(tmp_path / "in.nrrd")
    assert like.spacing[0] > 39  # centimetres
    is_read_back(tmp_path / name, finer(like, (2, 1, 3), channels))
    is_read_back(tmp_path / f"same_{name}", like._replace(data=values(3, 4, 5, channels)))
    # as many voxels, but moved: the header of the file does not hold any more
    affine = like.affine + np.outer([1, 2, 3, 0], [0, 0, 0, 1])
    moved = volume.make(values(3, 4, 5, channels), affine, header=like.header, path="")
    is_read_back(tmp_path / f"moved_{name}", moved)


def test_nrrd_in_two_axes(tmp_path):
    nrrd.write(str(tmp_path / "in.nrrd"), values(5, 4), {"spacings": [0.5, 2.0]})
    is_read_back(tmp_path / "out.nrrd", finer(readers.read(tmp_path / "in.nrrd"), (4, 1)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_pictures_of_8_bits_stay_such(tmp_path, channels, name):
    picture = np.random.default_rng(0).integers(0, 256, (4, 5, channels), np.uint8)
    Image.fromarray(picture.squeeze()).save(tmp_path / name)
    like = readers.read(tmp_path / name)
    assert like.data.shape == (4, 5, channels)
    image = finer(like, (2, 1), channels)
    image.data[0, :4, 0] = [-3.4, 300.0, 7.49, 7.51]
    out = writers.write_image(tmp_path / "out" / name, image, like=like)
    again = readers.read(out)
    assert again.data.dtype == np.uint8
    assert_array_equal(again.data, np.rint(image.data).clip(0, 255))
    assert again.data[0, :4, 0].tolist() == [0, 255, 7, 8]
    assert Image.open(out).mode == ("L" if channels == 1 else "RGB")


@pytest.mark.parametrize("shape", [(4, 5, 1), (4, 5, 2), (4, 5, 3), (3, 4, 5, 1), (3, 4, 5, 2)])
def test_other_pictures_are_tiffs_of_fractions(tmp_path, shape):
    deep = volume.make(values(*shape).astype(np.uint16), volume.identity_affine(len(shape) - 1), header=None, path="x")
    image = deep._replace(data=values(*shape))
    assert is_read_back(tmp_path / "x.tif", image, like=deep).data.dtype == np.float32
    is_read_back(tmp_path / "alone.tif", image)
    with pytest.raises(UserError, match=r"PNG cannot hold (fractions|a volume).*\.tif"):
        writers.write_image(tmp_path / "x.png", image, like=deep)
    two = deep._replace(data=deep.data.astype(np.uint8))
    assert writers.eight_bits(image, like=two) == (shape[-1] != 2)


def test_whole_numbers_as_png(tmp_path):
    image = volume.make(np.arange(20).reshape(4, 5, 1) * 99, volume.identity_affine(2), header=None, path="x")
    assert_array_equal(readers.read(writers.write_image(tmp_path / "x.png", image)).data, image.data)
    colours = image._replace(data=np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
    assert_array_equal(readers.read(writers.write_image(tmp_path / "rgb.png", colours)).data, colours.data)
    with pytest.raises(UserError, match="channels that are no 8-bit colours"):
        writers.write_image(tmp_path / "y.png", image._replace(data=image.data.repeat(3, -1)))
    assert tifffile.imread(writers.write_image(tmp_path / "x.tif", colours)).shape == (4, 5, 3)


def test_an_image_without_a_header_borrows_that_of_its_input(tmp_path):
    like = nifti_file(tmp_path / "in.nii.gz", (2, 0))
    image = finer(like, (1, 1, 2))._replace(header=None)
    writers.write_image(tmp_path / "out.nii.gz", image, like=like)
    written = nibabel.load(tmp_path / "out.nii.gz")
    assert written.header.get_xyzt_units()[0] == "micron"
    assert_allclose(readers.read(tmp_path / "out.nii.gz").affine, image.affine, rtol=1e-6, atol=1e-8)


def test_refused(tmp_path):
    image = volume.make(values(4, 5, 1), volume.identity_affine(2), header=None, path="x")
    out = writers.write_image(tmp_path / "x.tif", image)
    before = out.read_bytes()
    with pytest.raises(UserError, match=r"x\.tif exists already"):
        writers.write_image(out, image._replace(data=image.data * 2))
    assert out.read_bytes() == before
    assert_array_equal(readers.read(writers.write_image(out, image, overwrite=True)).data, image.data)
    with pytest.raises(UserError, match="should end in one of"):
        writers.write_image(tmp_path / "x.jpg", image)
    with pytest.raises(ValueError, match=r"shape \(\*S, C\)"):
        writers.write_image(tmp_path / "y.tif", image._replace(data=image.data[..., 0]))
    with pytest.raises(ValueError, match="real numbers"):
        writers.write_image(tmp_path / "y.tif", Volume(image.data * 1j, (1.0, 1.0), np.eye(3)))
    assert [file.name for file in tmp_path.iterdir()] == ["x.tif"]


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["CT_pitch.nii.gz", "example_nifti2.nii.gz", "standard.nii.gz", "test.mgz"])
def test_real_grids_made_finer(data_root, tmp_path, name):
    like = readers.read(data_root / "nifti_edge_cases" / name)
    image = finer(like, (2, 1, 3))
    again = readers.read(writers.write_image(tmp_path / name, image))
    assert_array_equal(again.data, image.data)
    assert_allclose(again.affine, image.affine, atol=1e-5)
