"""What predict writes lies on the input's grid, in its format, whole or not at all."""

import nibabel
import nrrd
import numpy as np
import pytest
from PIL import Image

from jaxseg.data import readers, volume, writers
from jaxseg.typing import UserError, Volume

OBLIQUE = np.array([[1.9, 0.3, 0.0, -11.0], [-0.3, 2.9, 0.2, 5.0], [0.0, -0.2, 4.0, 7.0], [0, 0, 0, 1.0]])


def labels(*shape, high=3, dtype=np.int16):
    return (np.arange(np.prod(shape)).reshape(shape) % high).astype(dtype)


def probabilities(*shape):
    return np.random.RandomState(0).rand(*shape)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 4), (2, 3)])
def test_nifti_keeps_affine_codes_and_units(tmp_path, kind, codes):
    image = kind(np.arange(60, dtype=np.float32).reshape(5, 4, 3), None)
    image.header.set_sform(OBLIQUE, code=codes[0])
    orthogonal = np.diag([-2.0, 3, 4, 1]) + np.outer([1, 2, 3, 0], [0, 0, 0, 1])
    image.header.set_qform(orthogonal, code=codes[1])
    image.header.set_xyzt_units("micron", "sec")
    image.header.set_intent("t test", (3,))
    nibabel.save(kind(image.dataobj, None, image.header), tmp_path / "in.nii.gz")
    like = readers.read(tmp_path / "in.nii.gz")
    mask = labels(3, 4, 5)
    writers.write(tmp_path / "mask.nii.gz", mask, like)
    source, written = nibabel.load(tmp_path / "in.nii.gz"), nibabel.load(tmp_path / "mask.nii.gz")
    assert type(written) is kind and written.get_data_dtype() == np.uint8 and written.shape == (5, 4, 3)
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), mask.transpose(2, 1, 0))
    np.testing.assert_array_equal(written.affine, source.affine)
    for field in ("sform_code", "qform_code", "pixdim", "xyzt_units", "quatern_b", "qoffset_x", "srow_y"):
        np.testing.assert_array_equal(written.header[field], source.header[field])
    assert written.header.get_intent()[0] == "none" and written.header.get_slope_inter() == (None, None)
    again = readers.read_label(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(again.data, mask)
    np.testing.assert_array_equal(again.affine, like.affine)


def test_nifti_probabilities_and_types(tmp_path):
    nibabel.save(nibabel.Nifti1Image(labels(5, 4, 3, 2), OBLIQUE), tmp_path / "in.nii.gz")
    like = readers.read(tmp_path / "in.nii.gz")
    values = probabilities(3, 4, 5, 3)
    writers.write(tmp_path / "p.nii.gz", values, like)
    stored = nibabel.load(tmp_path / "p.nii.gz")
    assert stored.get_data_dtype() == np.float32 and stored.shape == (5, 4, 3, 3)
    np.testing.assert_allclose(readers.read(tmp_path / "p.nii.gz").data, values, rtol=1e-6)
    np.testing.assert_allclose(stored.affine, OBLIQUE, atol=1e-6)
    for high, expected in [(255, np.uint8), (300, np.int16), (40000, np.uint16), (70000, np.int32)]:
        mask = labels(3, 4, 5, dtype=np.int64)
        mask[0, 0, 0] = high
        writers.write(tmp_path / "m.nii.gz", mask, like, overwrite=True)
        assert nibabel.load(tmp_path / "m.nii.gz").get_data_dtype() == expected
        np.testing.assert_array_equal(readers.read_label(tmp_path / "m.nii.gz").data, mask)
    mask = labels(3, 4, 5) - 1
    writers.write(tmp_path / "negative.nii", mask, like)
    np.testing.assert_array_equal(readers.read_label(tmp_path / "negative.nii").data, mask)


@pytest.mark.parametrize("name, expected", [("in.hdr", "in.nii"), ("in.mgz", "in.mgz"), ("in.nii", "in.nii")])
def test_nifti_relatives_keep_their_grid(tmp_path, name, expected):
    kind = {"in.hdr": nibabel.Nifti1Pair, "in.mgz": nibabel.MGHImage, "in.nii": nibabel.Nifti1Image}[name]
    nibabel.save(kind(labels(5, 4, 3, dtype=np.float32), OBLIQUE), tmp_path / name)
    like = readers.read(tmp_path / name)
    assert readers.output_name(name) == expected
    out = tmp_path / "out" / expected
    writers.write(out, labels(3, 4, 5), like)
    again = readers.read_label(out)
    np.testing.assert_array_equal(again.data, labels(3, 4, 5))
    np.testing.assert_allclose(again.affine, like.affine, atol=1e-5)


def test_nifti_two_axes_and_another_grid(tmp_path):
    nibabel.save(nibabel.Nifti1Image(labels(5, 4), np.diag([2.0, 3, 1, 1])), tmp_path / "flat.nii.gz")
    like = readers.read(tmp_path / "flat.nii.gz")
    writers.write(tmp_path / "mask.nii.gz", labels(1, 4, 5), like)
    assert nibabel.load(tmp_path / "mask.nii.gz").shape == (5, 4)
    finer = like._replace(data=np.zeros((1, 8, 10, 1)), affine=like.affine @ np.diag([1, 0.5, 0.5, 1]))
    writers.write(tmp_path / "finer.nii.gz", labels(1, 8, 10), finer)
    np.testing.assert_allclose(readers.read(tmp_path / "finer.nii.gz").spacing, (1, 1.5, 1))


def test_pictures(tmp_path):
    Image.fromarray(labels(4, 5, 3, high=200, dtype=np.uint8)).save(tmp_path / "in.jpg")
    like = readers.read(tmp_path / "in.jpg")
    mask = labels(4, 5, high=2) * 255
    out = writers.write(tmp_path / readers.output_name("in.jpg"), mask, like)
    assert out.name == "in.png" and Image.open(out).mode == "L"
    np.testing.assert_array_equal(readers.read_label(out).data, mask)
    writers.write(tmp_path / "deep.png", mask * 100, like)
    np.testing.assert_array_equal(readers.read_label(tmp_path / "deep.png").data, mask * 100)
    values = probabilities(4, 5, 3)
    out = writers.write(tmp_path / readers.output_name("in.jpg", probabilities=True), values, like)
    read = readers.read(out)
    assert read.data.dtype == np.float32
    np.testing.assert_allclose(read.data, values, rtol=1e-6)
    for bad, words in [(mask - 1, "-1 to 254"), (values, "probabilities")]:
        with pytest.raises(UserError, match=words):
            writers.write(tmp_path / "bad.png", bad, like)
    with pytest.raises(UserError, match="2D"):
        writers.write(tmp_path / "bad.nii.gz", mask, like)
    assert not list(tmp_path.glob("*bad*"))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_tiff_stacks(tmp_path, channels):
    like = volume.make(labels(3, 4, 5, 1), volume.identity_affine(3), header=None, path="in.tif")
    mask = labels(3, 4, 5, dtype=np.int32)
    writers.write(tmp_path / "mask.tif", mask, like)
    np.testing.assert_array_equal(readers.read_label(tmp_path / "mask.tif").data, mask)
    values = probabilities(3, 4, 5, channels)
    writers.write(tmp_path / "p.tif", values, like)
    np.testing.assert_allclose(readers.read(tmp_path / "p.tif").data, values, rtol=1e-6)
    with pytest.raises(UserError, match="volume"):
        writers.write(tmp_path / "mask.png", mask, like)


@pytest.mark.parametrize("channel_axis", [False, True])
def test_nrrd_keeps_space(tmp_path, channel_axis):
    header = {
        "space": "left-posterior-superior",
        "space directions": np.array([[0.5, 0, 0], [0, -2.0, 0], [0, 0.3, 4.0]]),
        "space origin": [10.0, 20.0, 30.0],
        "kinds": ["domain"] * 3,
        "space units": ["mm"] * 3,
    }
    data = labels(5, 4, 3)
    if channel_axis:
        data = np.stack([data, data])
        header["kinds"] = ["list", *header["kinds"]]
        header["space directions"] = np.vstack([np.full(3, np.nan), header["space directions"]])
    nrrd.write(str(tmp_path / "in.nrrd"), data, header)
    like = readers.read(tmp_path / "in.nrrd")
    writers.write(tmp_path / "mask.nrrd", labels(3, 4, 5), like)
    again, fields = readers.read_label(tmp_path / "mask.nrrd"), nrrd.read_header(str(tmp_path / "mask.nrrd"))
    np.testing.assert_array_equal(again.data, labels(3, 4, 5))
    np.testing.assert_array_equal(again.affine, like.affine)
    assert fields["type"] in ("uint8", "uint8_t", "unsigned char") and fields["space"] == header["space"]
    values = probabilities(3, 4, 5, 3)
    writers.write(tmp_path / "p.nrrd", values, like)
    read = readers.read(tmp_path / "p.nrrd")
    np.testing.assert_allclose(read.data, values, rtol=1e-6)
    np.testing.assert_array_equal(read.affine, like.affine)


def test_formats_convert(tmp_path):
    nibabel.save(nibabel.Nifti1Image(labels(5, 4, 3), OBLIQUE), tmp_path / "in.nii.gz")
    like = readers.read(tmp_path / "in.nii.gz")
    for name in ("mask.nrrd", "mask.mgz", "mask.nii"):
        writers.write(tmp_path / name, labels(3, 4, 5), like)
        np.testing.assert_allclose(readers.read_label(tmp_path / name).affine, like.affine, atol=1e-5)
        back = readers.read(tmp_path / name)
        writers.write(tmp_path / f"back_{name}.nii.gz", labels(3, 4, 5), back)
        np.testing.assert_allclose(readers.read(tmp_path / f"back_{name}.nii.gz").affine, like.affine, atol=1e-5)
    nrrd.write(str(tmp_path / "flat.nrrd"), labels(5, 4), {"spacings": [0.5, 2.0]})
    flat = readers.read(tmp_path / "flat.nrrd")
    writers.write(tmp_path / "flat_mask.nrrd", labels(4, 5), flat)
    assert readers.read(tmp_path / "flat_mask.nrrd").spacing == (2.0, 0.5)
    bare = flat._replace(header=None)
    writers.write(tmp_path / "bare.nrrd", probabilities(4, 5, 2), bare)
    assert readers.read(tmp_path / "bare.nrrd").spacing == (2.0, 0.5)


def test_nothing_is_overwritten_and_no_half_file_stays(tmp_path, monkeypatch):
    like = volume.make(labels(4, 5, 1), volume.identity_affine(2), header=None, path="in.png")
    out = writers.write(tmp_path / "out.png", labels(4, 5), like)
    before = out.read_bytes()
    with pytest.raises(UserError, match=r"out\.png exists already"):
        writers.write(out, labels(4, 5) * 0, like)
    assert out.read_bytes() == before

    def fail(path, *_, **__):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("jaxseg.data.writers.image.save", fail)
    with pytest.raises(UserError, match="no space left"):
        writers.write(out, labels(4, 5), like, overwrite=True)
    assert out.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ["out.png"]


def test_wrong_calls(tmp_path):
    like = volume.make(labels(4, 5, 1), volume.identity_affine(2), header=None, path="in.png")
    with pytest.raises(ValueError, match="grid"):
        writers.write(tmp_path / "out.png", labels(5, 4), like)
    with pytest.raises(ValueError, match="integers"):
        writers.write(tmp_path / "out.png", probabilities(4, 5), like)
    with pytest.raises(UserError, match=r"\.nii\.gz"):
        writers.write(tmp_path / "out.jpg", labels(4, 5), like)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        writers.write(tmp_path / "file" / "out.png", labels(4, 5), like)


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name",
    [
        "nifti_edge_cases/anatomical.nii",
        "nifti_edge_cases/functional.nii",
        "nifti_edge_cases/example4d.nii.gz",
        "nifti_edge_cases/example_nifti2.nii.gz",
        "nifti_edge_cases/standard.nii.gz",
        "nifti_edge_cases/test.mgz",
        "nifti_edge_cases/CT_pitch.nii.gz",
        "ct_mr_organ_sample/example_mr_sm.nii.gz",
        "tumour_roi_nrrd/brain1_image.nrrd",
        "drive/training/images/21_training.tif",
    ],
)
def test_real_grids_are_kept(data_root, tmp_path, name):
    like = readers.read(data_root / name)
    shape = like.data.shape[:-1]
    out = writers.write(tmp_path / readers.output_name(name), labels(*shape), like)
    again = readers.read_label(out)
    np.testing.assert_array_equal(again.data, labels(*shape))
    np.testing.assert_allclose(again.affine, like.affine, atol=1e-4)
    assert out.name == name.rpartition("/")[2]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".tif"])
def test_a_map_of_numbers_has_the_grid_of_its_image(tmp_path, suffix):
    """Such as an uncertainty: one float a voxel, no channel axis in the file."""
    like = Volume(np.zeros((3, 4, 5, 1), np.float32), (2.0, 1.0, 1.5), np.diag([2.0, 1.0, 1.5, 1.0]), None, "x")
    values = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    out = writers.write(tmp_path / f"x_entropy{suffix}", values, like, scalar=True)
    again = readers.read(out)
    np.testing.assert_array_equal(again.data[..., 0], values)
    if suffix == ".nii.gz":
        assert nibabel.load(out).shape == (5, 4, 3) and nibabel.load(out).get_data_dtype() == np.float32
    if suffix != ".tif":
        np.testing.assert_allclose(again.affine, like.affine)
    with pytest.raises(ValueError, match="should hold integers"):
        writers.write(tmp_path / f"y{suffix}", values, like)
    with pytest.raises(UserError, match="exists"):
        writers.write(out, values, like, scalar=True)
