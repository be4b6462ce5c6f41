"""Every format is read right or refused with a sentence that names the file."""

import gzip

import nibabel
import nrrd
import numpy as np
import pytest
import tifffile
from PIL import Image

from jaxseg.data import readers
from jaxseg.typing import UserError

OBLIQUE = np.array([[1.9, 0.3, 0.0, -11.0], [-0.3, 2.9, 0.2, 5.0], [0.0, -0.2, 4.0, 7.0], [0, 0, 0, 1.0]])


def ramp(*shape, dtype=np.int16):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def refused(path, *words, read=readers.read):
    """Asserts that reading ends in one sentence that names the file and holds the words."""
    with pytest.raises(UserError) as caught:
        read(path)
    text = str(caught.value)
    assert path.name in text and "\n" not in text
    for word in words:
        assert word in text, text


def test_nifti_axes_spacing_and_affine(tmp_path):
    data = ramp(5, 4, 3)  # x, y, z
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(data, OBLIQUE), path)
    scan = readers.read(path)
    assert scan.data.shape == (3, 4, 5, 1) and scan.data.dtype == np.int16 and scan.data.flags.c_contiguous
    np.testing.assert_array_equal(scan.data[..., 0], data.transpose(2, 1, 0))
    np.testing.assert_allclose(scan.affine @ [2, 1, 4, 1], OBLIQUE @ [4, 1, 2, 1], atol=1e-5)
    np.testing.assert_allclose(scan.spacing, np.linalg.norm(OBLIQUE[:3, :3], axis=0)[::-1], rtol=1e-6)
    assert scan.path == str(path)


def test_nifti_scaling_big_endian_and_channels(tmp_path):
    data = ramp(5, 4, 3, 2)
    image = nibabel.Nifti1Image(data.astype(">i2"), np.diag([1.0, 2, 3, 1]), nibabel.Nifti1Header(endianness=">"))
    image.header.set_slope_inter(0.5, -7.0)
    raw = bytearray(image.to_bytes())
    path = tmp_path / "scan.nii"
    path.write_bytes(raw)
    scan = readers.read(path)
    assert scan.data.shape == (3, 4, 5, 2) and scan.data.dtype == np.float32 and scan.data.dtype.isnative
    np.testing.assert_allclose(scan.data, data.transpose(2, 1, 0, 3) * 0.5 - 7, rtol=1e-6)
    assert scan.spacing == (3.0, 2.0, 1.0)


@pytest.mark.parametrize("unit, factor", [("mm", 1.0), ("micron", 1e-3), ("meter", 1e3)])
def test_nifti_units_become_millimetres(tmp_path, unit, factor):
    image = nibabel.Nifti1Image(ramp(5, 4, 3), np.diag([2.0, 3, 4, 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "scan.nii")
    scan = readers.read(tmp_path / "scan.nii")
    np.testing.assert_allclose(scan.spacing, np.array([4, 3, 2]) * factor)


def test_nifti_shapes_from_2d_to_5d(tmp_path):
    for shape, expected in [
        ((5, 4), (1, 4, 5, 1)),
        ((5, 4, 3, 1), (3, 4, 5, 1)),
        ((5, 4, 3, 1, 2), (3, 4, 5, 2)),
    ]:
        nibabel.save(nibabel.Nifti1Image(ramp(*shape), np.eye(4)), tmp_path / "scan.nii")
        assert readers.read(tmp_path / "scan.nii").data.shape == expected
    nibabel.save(nibabel.Nifti1Image(ramp(5, 4, 3, 2, 2), np.eye(4)), tmp_path / "scan.nii")
    refused(tmp_path / "scan.nii", "4 axes")


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Image, nibabel.MGHImage])
def test_nifti_relatives(tmp_path, kind):
    name = {nibabel.Nifti1Pair: "scan.hdr", nibabel.Nifti2Image: "scan.nii.gz", nibabel.MGHImage: "scan.mgz"}[kind]
    nibabel.save(kind(ramp(5, 4, 3), np.diag([2.0, 3, 4, 1])), tmp_path / name)
    scan = readers.read(tmp_path / name)
    np.testing.assert_array_equal(scan.data[..., 0], ramp(5, 4, 3).transpose(2, 1, 0))
    np.testing.assert_allclose(scan.spacing, (4, 3, 2))


def test_nifti_is_unpacked_by_content_not_by_name(tmp_path):
    nibabel.save(nibabel.Nifti1Image(ramp(5, 4, 3), np.eye(4)), tmp_path / "plain.nii")
    raw = (tmp_path / "plain.nii").read_bytes()
    (tmp_path / "named.nii.gz").write_bytes(raw)
    (tmp_path / "packed.nii").write_bytes(gzip.compress(raw))
    nibabel.save(nibabel.Nifti2Image(ramp(5, 4, 3), np.eye(4)), tmp_path / "two.nii")
    (tmp_path / "two.nii.gz").write_bytes((tmp_path / "two.nii").read_bytes())
    for name in ("named.nii.gz", "packed.nii", "two.nii.gz"):
        np.testing.assert_array_equal(readers.read(tmp_path / name).data[..., 0], ramp(5, 4, 3).transpose(2, 1, 0))


def test_nifti_refusals(tmp_path):
    path = tmp_path / "scan.nii.gz"
    noise = np.random.RandomState(0).randint(0, 999, (9, 8, 7), np.int16)
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "complete")
    path.write_bytes(b"")
    refused(path, "0 bytes")
    path.write_bytes(b"not a scan at all, but long enough to hold a header" * 20)
    refused(path, "cannot be read")
    (tmp_path / "cut.nii").write_bytes(gzip.decompress(whole)[:900])
    refused(tmp_path / "cut.nii", "complete")
    (tmp_path / "alone.hdr").write_bytes(gzip.decompress(whole)[:348])
    refused(tmp_path / "alone.hdr", "alone.img")
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 4, 5), np.complex64), np.eye(4)), tmp_path / "complex.nii")
    refused(tmp_path / "complex.nii", "complex64", "magnitude")
    flat = bytearray(nibabel.Nifti1Image(ramp(3, 4, 5), None).to_bytes())
    flat[76 + 8 : 76 + 12] = bytes(4)  # pixdim[2]
    for name, raw in [("flat.nii", flat), ("flat.nii.gz", gzip.compress(flat)), ("plain.nii.gz", flat)]:
        (tmp_path / name).write_bytes(raw)
        refused(tmp_path / name, "spacing", "[1.0, 0.0, 1.0]")
    bad = nibabel.Nifti1Image(ramp(3, 4, 5), np.eye(4))
    bad.header["srow_x"] = np.nan
    (tmp_path / "nan.nii").write_bytes(nibabel.Nifti1Image(ramp(3, 4, 5), None, bad.header).to_bytes())
    refused(tmp_path / "nan.nii", "spacing", "nan")


def test_missing_folder_and_unknown(tmp_path):
    refused(tmp_path / "no.nii", "no such file")
    (tmp_path / "folder.nii").mkdir()
    refused(tmp_path / "folder.nii", "is a folder")
    (tmp_path / "scan.mha").write_bytes(b"x")
    refused(tmp_path / "scan.mha", ".nii.gz")


def test_labels(tmp_path):
    path = tmp_path / "label.nii.gz"
    nibabel.save(nibabel.Nifti1Image(ramp(5, 4, 3).astype(np.float32) % 3, np.eye(4)), path)
    label = readers.read_label(path)
    assert label.data.shape == (3, 4, 5) and label.data.dtype == np.int32
    np.testing.assert_array_equal(label.data, ramp(5, 4, 3).transpose(2, 1, 0) % 3)
    nibabel.save(nibabel.Nifti1Image(np.full((5, 4, 3), 0.25, np.float32), np.eye(4)), path)
    refused(path, "whole numbers", "60", "0.25", read=readers.read_label)
    nibabel.save(nibabel.Nifti1Image(np.full((5, 4, 3), np.nan, np.float32), np.eye(4)), path)
    refused(path, "whole numbers", "nan", read=readers.read_label)
    nibabel.save(nibabel.Nifti1Image(ramp(5, 4, 3, 2), np.eye(4)), path)
    refused(path, "2 channels", read=readers.read_label)


@pytest.mark.parametrize(
    "mode, name, expected",
    [
        ("L", "a.png", (4, 5, 1)),
        ("RGB", "a.png", (4, 5, 3)),
        ("RGBA", "a.png", (4, 5, 3)),
        ("LA", "a.png", (4, 5, 1)),
        ("L", "a.bmp", (4, 5, 1)),
        ("RGB", "a.jpg", (4, 5, 3)),
        ("CMYK", "a.jpg", (4, 5, 3)),
        ("RGB", "a.tif", (4, 5, 3)),
        ("RGBA", "a.tif", (4, 5, 3)),
        ("L", "A.PNG", (4, 5, 1)),
    ],
)
def test_picture_modes(tmp_path, mode, name, expected):
    picture = Image.fromarray(ramp(4, 5, 3, dtype=np.uint8) * 3).convert(mode)
    picture.save(tmp_path / name)
    read = readers.read(tmp_path / name)
    assert read.data.shape == expected and read.data.dtype == np.uint8
    assert read.spacing == (1.0, 1.0) and read.affine.shape == (3, 3)
    if name != "a.jpg":
        exact = np.asarray(picture.convert("L" if expected[2] == 1 else "RGB")).reshape(expected)
        np.testing.assert_array_equal(read.data, exact)


def test_sixteen_bits_and_one_bit(tmp_path):
    deep = ramp(4, 5, dtype=np.uint16) * 3000
    Image.fromarray(deep).save(tmp_path / "deep.png")
    tifffile.imwrite(tmp_path / "deep.tif", deep)
    for name in ("deep.png", "deep.tif"):
        read = readers.read(tmp_path / name)
        assert read.data.dtype == np.uint16
        np.testing.assert_array_equal(read.data[..., 0], deep)
    bits = ramp(4, 5) % 3 == 0
    for name in ("bits.png", "bits.tif"):
        Image.fromarray(bits).save(tmp_path / name)
        np.testing.assert_array_equal(readers.read(tmp_path / name).data[..., 0], bits * 255)
        np.testing.assert_array_equal(readers.read_label(tmp_path / name).data, bits)


def test_palettes(tmp_path):
    index = (ramp(4, 5) % 3).astype(np.uint8)
    picture = Image.fromarray(index, "P")
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    picture.save(tmp_path / "classes.png")
    np.testing.assert_array_equal(readers.read_label(tmp_path / "classes.png").data, index)
    colours = readers.read(tmp_path / "classes.png").data
    np.testing.assert_array_equal(colours[..., 0], np.where(index == 1, 128, 0))
    Image.fromarray(np.where(index == 1, 255, 0).astype(np.uint8)).save(tmp_path / "mask.gif")  # stored as indices 0, 1
    np.testing.assert_array_equal(readers.read_label(tmp_path / "mask.gif").data, np.where(index == 1, 255, 0))
    assert readers.read(tmp_path / "mask.gif").data.shape == (4, 5, 1)


def test_colour_masks(tmp_path):
    grey = np.repeat(ramp(4, 5, 1, dtype=np.uint8) % 2, 3, axis=2)
    Image.fromarray(grey).save(tmp_path / "equal.png")
    np.testing.assert_array_equal(readers.read_label(tmp_path / "equal.png").data, grey[..., 0])
    grey[0, 0, 1] = 9
    Image.fromarray(grey).save(tmp_path / "colour.png")
    refused(tmp_path / "colour.png", "colour", "class number", read=readers.read_label)


def test_tiff_stacks_and_axes(tmp_path):
    stack = ramp(3, 4, 5, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "pages.tif", stack, metadata=None, photometric="minisblack")
    tifffile.imwrite(tmp_path / "named.tif", stack[:1], metadata={"axes": "ZYX"}, photometric="minisblack")
    volume = readers.read(tmp_path / "pages.tif")
    np.testing.assert_array_equal(volume.data[..., 0], stack)
    assert volume.spacing == (1.0, 1.0, 1.0)
    np.testing.assert_array_equal(volume.affine @ [1, 2, 3, 1], [3, 2, 1, 1])  # z, y, x -> R, A, S
    assert readers.read(tmp_path / "named.tif").data.shape == (1, 4, 5, 1)
    both = ramp(2, 3, 4, 5, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "channels.tif", both, metadata={"axes": "CZYX"}, photometric="minisblack")
    np.testing.assert_array_equal(readers.read(tmp_path / "channels.tif").data, both.transpose(1, 2, 3, 0))
    tifffile.imwrite(tmp_path / "time.tif", both, metadata={"axes": "TZYX"}, photometric="minisblack")
    refused(tmp_path / "time.tif", "TZYX")
    frames = [Image.fromarray(page.astype(np.uint8)) for page in stack]
    frames[0].save(tmp_path / "lzw.tif", save_all=True, append_images=frames[1:], compression="tiff_lzw")
    np.testing.assert_array_equal(readers.read(tmp_path / "lzw.tif").data[..., 0], stack)
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    refused(tmp_path / "film.gif", "3 frames")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.gif"])
def test_damaged_pictures(tmp_path, name):
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (40, 50), np.uint8)).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / name, "complete image")
    (tmp_path / name).write_bytes(b"no picture")
    refused(tmp_path / name, "complete image")


def test_deep_colour_png_is_not_cut_silently(tmp_path):
    import struct
    import zlib

    rows = b"".join(b"\0" + bytes(2 * 3 * 5) for _ in range(4))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    refused(tmp_path / "deep.png", "16 bits")


def test_nrrd_lps_and_channels(tmp_path):
    data = ramp(2, 5, 4, 3)  # channel, x, y, z
    directions = np.array([[np.nan] * 3, [0.5, 0, 0], [0, -2.0, 0], [0, 0.3, 4.0]])
    header = {
        "space": "left-posterior-superior",
        "space directions": directions,
        "space origin": [10.0, 20.0, 30.0],
        "kinds": ["vector", "domain", "domain", "domain"],
    }
    nrrd.write(str(tmp_path / "scan.nrrd"), data, header)
    scan = readers.read(tmp_path / "scan.nrrd")
    np.testing.assert_array_equal(scan.data, data.transpose(3, 2, 1, 0))
    np.testing.assert_allclose(scan.spacing, (np.hypot(0.3, 4), 2, 0.5))
    lps = np.array([10.0, 20, 30]) + 4 * directions[1] + 3 * directions[2] + 2 * directions[3]
    np.testing.assert_allclose(scan.affine @ [2, 3, 4, 1], [-lps[0], -lps[1], lps[2], 1])
    refused(tmp_path / "scan.nrrd", "2 channels", read=readers.read_label)


def test_nrrd_plain_and_damaged(tmp_path):
    data = ramp(5, 4)
    nrrd.write(str(tmp_path / "flat.nrrd"), data, {"spacings": [0.5, 2.0]})
    flat = readers.read(tmp_path / "flat.nrrd")
    assert flat.data.shape == (4, 5, 1) and flat.spacing == (2.0, 0.5)
    nrrd.write(str(tmp_path / "ras.nrrd"), ramp(5, 4, 3), {"space": "RAS", "space directions": np.diag([1.0, 2, 3])})
    label = readers.read_label(tmp_path / "ras.nrrd")
    assert label.spacing == (3.0, 2.0, 1.0) and label.affine[0, 2] == 1.0
    whole = (tmp_path / "ras.nrrd").read_bytes()
    (tmp_path / "ras.nrrd").write_bytes(whole[:-20])
    refused(tmp_path / "ras.nrrd", "complete NRRD")
    (tmp_path / "ras.nrrd").write_bytes(b"nothing")
    refused(tmp_path / "ras.nrrd", "complete NRRD")
    nrrd.write(str(tmp_path / "zero.nrrd"), ramp(5, 4, 3), {"space": "RAS", "space directions": np.diag([1.0, 0, 3])})
    refused(tmp_path / "zero.nrrd", "positive spacing")


def test_names():
    assert readers.stem("a/x.nii.gz") == "x" and readers.suffix("X.NII.GZ") == ".nii.gz"
    assert readers.suffix("notes.txt") == "" and readers.suffix(".png") == ""
    assert [readers.output_name(n) for n in ("x.jpg", "x.nii.gz", "x.hdr", "x.tif", "x.nhdr")] == [
        *("x.png", "x.nii.gz", "x.nii", "x.tif", "x.nrrd")
    ]
    assert readers.output_name("x.jpg", probabilities=True) == "x_probabilities.tif"
    assert readers.output_name("x.nii.gz", probabilities=True) == "x_probabilities.nii.gz"
    assert readers.output_name("x.jpg", numbers="entropy") == "x_entropy.tif"
    assert readers.output_name("x.nii.gz", numbers="entropy") == "x_entropy.nii.gz"


# file -> shape (z, y, x, C) and spacing where it is read right, or a word of the reason it is refused for.
EDGE_CASES = {
    "anatomical.nii": ((25, 41, 33, 1), (2, 2, 2)),
    "functional.nii": ((3, 21, 17, 20), (8, 4, 4)),
    "example4d.nii.gz": ((24, 96, 128, 2), (2.2, 2, 2)),
    "example_nifti2.nii.gz": ((12, 20, 32, 2), (2.2, 2, 2)),
    "reoriented_anat_moved.nii": ((22, 26, 21, 1), (4, 4, 4)),
    "resampled_anat_moved.nii": ((3, 21, 17, 1), (8, 4, 4)),  # its NaN is refused by the check of the case, see below
    "standard.nii.gz": ((7, 5, 4, 1), (2, 3, 1)),
    "test.mgz": ((5, 4, 3, 2), (3.742, 3.742, 3.742)),
    "nifti1.hdr": "nifti1.img",
    "analyze.hdr": "analyze.img",
    "spmMotor.nii.gz": ((79, 95, 79, 1), (2, 2, 2)),
    "CT_pitch.nii.gz": ((58, 248, 175, 1), (2.397, 0.8125, 0.8125)),
    "CIT168.nii.gz": "colours (RGBA)",
    "made/truncated_gz.nii.gz": "complete",
    "made/empty.nii.gz": "0 bytes",
    "made/gzip_name_but_plain.nii.gz": "Expected 62475 bytes, got 20000",  # plain, and cut: its name is not the fault
    "made/label_shifted_affine.nii.gz": ((35, 51, 35, 1), (1, 1, 1)),  # refused beside its image, see test_datasets
    "made/label_wrong_shape.nii.gz": ((35, 51, 33, 1), (1, 1, 1)),  # likewise
}


@pytest.mark.realdata
@pytest.mark.parametrize("name", EDGE_CASES)
def test_nifti_edge_cases(data_root, name):
    path, expected = data_root / "nifti_edge_cases" / name, EDGE_CASES[name]
    if isinstance(expected, str):
        refused(path, expected)
        return
    scan = readers.read(path)
    assert scan.data.dtype.isnative and scan.data.dtype.kind in "iuf"
    assert scan.data.shape == expected[0]
    np.testing.assert_allclose(scan.spacing, expected[1], rtol=1e-3)
    reference = nibabel.load(path)
    values = np.asanyarray(reference.dataobj).astype(np.float64)
    values = values.reshape(*values.shape, *(1,) * (4 - values.ndim)).transpose(2, 1, 0, 3)
    np.testing.assert_allclose(scan.data, values, rtol=1e-6, equal_nan=True)
    corner = reference.affine @ [2, 1, 0, 1]
    np.testing.assert_allclose(scan.affine @ [0, 1, 2, 1], corner, rtol=1e-6)


@pytest.mark.realdata
def test_edge_cases_are_all_in_the_table(data_root):
    found = {
        p.relative_to(data_root / "nifti_edge_cases").as_posix() for p in (data_root / "nifti_edge_cases").rglob("*.*")
    }
    assert {name for name in found if not name.endswith((".md", ".txt"))} == set(EDGE_CASES)


@pytest.mark.realdata
def test_real_nrrd(data_root):
    image = readers.read(data_root / "tumour_roi_nrrd" / "brain1_image.nrrd")
    label = readers.read_label(data_root / "tumour_roi_nrrd" / "brain1_label.nrrd")
    assert image.data.shape == (25, 256, 256, 1)
    np.testing.assert_allclose(image.spacing, (6.5, 0.78125, 0.78125), rtol=1e-9)
    assert int((label.data == 1).sum()) == 4137 and set(np.unique(label.data)) == {0, 1}
    np.testing.assert_allclose(image.affine @ [0, 0, 0, 1], [99.609375, -99.609375, -78, 1])  # LPS to RAS
    np.testing.assert_allclose(image.affine[:3, :3], [[0, 0, -0.78125], [0, 0.78125, 0], [6.5, 0, 0]])


@pytest.mark.parametrize("name", ["note.nii.gz", "note.nii", "note.mgz"])
@pytest.mark.parametrize("length", [10, 300, 5000])
def test_text_named_as_a_volume_is_refused(tmp_path, name, length):
    path = tmp_path / name
    path.write_text("not a volume "[:10] * (length // 10))
    with pytest.raises(UserError, match="note"):
        readers.read(path)
