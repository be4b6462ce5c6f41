"""What the viewer's page is given: layers as files, the list of cases, and the folder that needs no server."""

import base64
import gzip
import io
import json
import math
import pathlib

import nibabel
import numpy as np
import pytest
from PIL import Image
from scenes import objects, square

from jaxseg.data import readers
from jaxseg.data.volume import identity_affine, reverse_columns
from jaxseg.typing import IGNORE, Instances, UserError, Volume
from jaxseg.viz import colors, viewer

AFFINE = np.array([[0, 0, -2.0, 90], [0, 3.0, 0, -40], [5.0, 0, 0, 7], [0, 0, 0, 1]])  # (z, y, x) -> mm: x runs to L


def volume(data, affine=AFFINE, **more):
    return Volume(data, (5.0, 3.0, 2.0), affine, **more)


def picture(data):
    return Volume(data, (1.0, 1.0), identity_affine(2))


def nifti(data: bytes):
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(data))


def pixels(data: bytes):
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    true = np.zeros((3, 4, 5), np.int16)
    true[1, 1:3, 2:4] = 1
    true[0, 0, 0] = IGNORE
    pred = true.clip(0)
    pred[2, 3, 4] = 2
    data = rng.normal(100, 30, (3, 4, 5, 2)).astype(np.float32)
    return viewer.Shown(volume(data), true, pred, np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 4, 5))


def test_a_volume_becomes_nifti_layers_on_its_own_grid(case):
    content, files = viewer.case_files(case, channels=("T1", "T2"), num_classes=3)
    names = [(layer["kind"], layer["name"]) for layer in content["layers"]]
    assert names == [
        ("image", "T1"), ("image", "T2"), ("labels", "truth"), ("labels", "prediction"), ("heat", "uncertainty"),
    ]  # fmt: skip
    assert [layer["file"] for layer in content["layers"]] == [file.name for file in files]
    for file in files:
        assert nifti(file.data).shape == (5, 4, 3)
        np.testing.assert_allclose(nifti(file.data).affine, reverse_columns(AFFINE))
    first, second, truth, pred, heat = (nifti(file.data).get_fdata().transpose(2, 1, 0) for file in files)
    np.testing.assert_array_equal(first, case.image.data[..., 0])
    np.testing.assert_array_equal(second, case.image.data[..., 1])
    np.testing.assert_array_equal(truth, np.where(case.true == IGNORE, 3, case.true))
    np.testing.assert_array_equal(pred, case.pred)
    np.testing.assert_allclose(heat, case.uncertainty, atol=0.5 / 255)
    assert content["ignored"] and content["shape"] == [3, 4, 5]
    json.dumps(content, allow_nan=False)


def test_a_volume_opens_where_it_is_most_wrong(case):
    content, _ = viewer.case_files(case, num_classes=3)
    np.testing.assert_allclose(content["focus"], (AFFINE @ (2, 3, 4, 1))[:3])


def test_the_same_case_gives_the_same_bytes(case):
    assert viewer.case_files(case, num_classes=3) == viewer.case_files(case, num_classes=3)


def test_nothing_of_a_files_header_reaches_the_page(tmp_path):
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(5, 4, 3), np.eye(4))
    image.header["descrip"] = b"Jane Doe"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"born 1960"))
    nibabel.save(image, tmp_path / "jane.nii.gz")
    read = readers.read(tmp_path / "jane.nii.gz")
    content, files = viewer.case_files(viewer.Shown(read), num_classes=1)
    everything = gzip.decompress(files[0].data) + json.dumps(content).encode()
    assert not any(word in everything for word in (b"Jane", b"jane", b"1960"))
    np.testing.assert_array_equal(nifti(files[0].data).get_fdata(), image.get_fdata())


@pytest.mark.parametrize(
    ("values", "kind"), [((0, 200), np.uint8), ((-1024, 3000), np.int16), ((0, 60000), np.float32)]
)
def test_intensities_keep_their_values_in_a_type_that_browsers_read(values, kind):
    data = np.linspace(*values, 60).astype(np.int32).reshape(3, 4, 5, 1)
    content, files = viewer.case_files(viewer.Shown(volume(data)), num_classes=1)
    assert nifti(files[0].data).get_data_dtype() == kind
    np.testing.assert_array_equal(nifti(files[0].data).get_fdata().transpose(2, 1, 0), data[..., 0])
    assert content["layers"][0]["extent"] == [float(values[0]), float(values[1])]


def test_what_is_not_finite_is_drawn_as_the_least_value():
    data = np.arange(60, dtype=np.float32).reshape(3, 4, 5, 1) + 5
    data[0, 0, 0], data[1, 1, 1], data[2, 2, 2] = math.nan, math.inf, -math.inf
    content, files = viewer.case_files(viewer.Shown(volume(data)), num_classes=1)
    drawn = nifti(files[0].data).get_fdata().transpose(2, 1, 0)
    assert drawn[0, 0, 0] == drawn[1, 1, 1] == drawn[2, 2, 2] == 6 == content["layers"][0]["extent"][0]


def test_flat_layers_are_png_whose_values_can_be_read_back():
    rng = np.random.default_rng(1)
    data = rng.normal(0, 4, (6, 7, 1)).astype(np.float32)
    true = rng.integers(0, 300, (6, 7)).astype(np.int16)
    heat = rng.random((6, 7)).astype(np.float32)
    content, files = viewer.case_files(viewer.Shown(picture(data), true, None, heat), num_classes=400)
    for layer, file, values in zip(content["layers"], files, (data[..., 0], true, heat), strict=True):
        assert layer["encoding"] == "grey16"
        bytes_ = pixels(file.data).astype(np.float64)
        low, high = layer["range"]
        found = low + (high - low) * (256 * bytes_[..., 0] + bytes_[..., 1]) / 65535
        np.testing.assert_allclose(found, values, atol=0.51 * (high - low) / 65535)
    assert "focus" not in content and content["objects"] == {}


def test_small_integers_and_colours_stay_what_they_are():
    rng = np.random.default_rng(2)
    photo = rng.integers(0, 256, (6, 7, 3)).astype(np.uint8)
    true = rng.integers(0, 3, (6, 7)).astype(np.int16)
    content, files = viewer.case_files(viewer.Shown(picture(photo), true), num_classes=3)
    assert [layer["encoding"] for layer in content["layers"]] == ["rgb8", "grey8"]
    np.testing.assert_array_equal(pixels(files[0].data), photo)
    np.testing.assert_array_equal(pixels(files[1].data), true)


def test_objects_come_with_box_outline_and_score_the_surest_first():
    shape = (20, 30)
    found = objects(
        square(2, 3, 4, 5, shape), square(10, 12, 6, 8, shape), labels=[1, 2], scores=[0.25, 0.75]
    )  # fmt: skip
    shown = viewer.Shown(picture(np.zeros((*shape, 1), np.float32)), pred_objects=found)
    content, _ = viewer.case_files(shown, num_classes=3)
    second, first = content["objects"]["prediction"][1], content["objects"]["prediction"][0]
    assert (first["class"], first["score"], first["box"]) == (2, 0.75, [12, 10, 20, 16])
    assert (second["class"], second["score"], second["box"]) == (1, 0.25, [3, 2, 8, 6])
    points = np.array(second["outlines"][0]).reshape(-1, 2)
    assert points.min(axis=0).tolist() == [3, 2] and points.max(axis=0).tolist() == [8, 6]


def test_regions_where_nothing_counts_are_no_objects():
    shape = (20, 30)
    found = objects(square(2, 3, 4, 5, shape), square(10, 12, 6, 8, shape), crowd=[False, True])
    content, _ = viewer.case_files(
        viewer.Shown(picture(np.zeros((*shape, 1), np.float32)), true_objects=found), num_classes=2
    )
    assert len(content["objects"]["truth"]) == 1
    covered = viewer.object_classes(found, shape)
    assert covered[2:6, 3:8].all() and covered.sum() == 20


def test_an_empty_mask_has_no_outline():
    empty = objects(np.zeros((20, 30), bool))
    content, _ = viewer.case_files(
        viewer.Shown(picture(np.zeros((20, 30, 1), np.float32)), pred_objects=empty), num_classes=2
    )
    assert content["objects"]["prediction"][0]["outlines"] == []
    assert isinstance(empty, Instances)


def test_a_layer_on_another_grid_is_refused(case):
    with pytest.raises(ValueError, match=r"pred should have the shape \(3, 4, 5\), it has \(3, 4, 4\)"):
        viewer.case_files(case._replace(pred=case.pred[..., :4]), num_classes=3)


def test_the_worst_case_ranks_first_and_the_unscored_last():
    cases = [viewer.Listed("b", 0.5), viewer.Listed("d"), viewer.Listed("a", 0.5), viewer.Listed("c", 0.1)]
    assert [case.name for case in sorted(cases, key=viewer.rank)] == ["c", "a", "b", "d"]


def test_the_list_is_strict_json_whatever_the_scores():
    cases = [viewer.Listed("one", 0.5, {"cyst": {"dice": math.nan, "hd95_mm": math.inf}}), viewer.Listed("two")]
    found = viewer.manifest(cases, title="run", classes=("background", "cyst"), metrics={"dice": "Dice"})
    assert found["cases"][0] == {"name": "one", "score": 0.5, "scores": {"cyst": {"dice": None, "hd95_mm": "inf"}}}
    assert found["cases"][1]["score"] is None
    assert found["classes"][0] == {"id": 1, "name": "cyst", "color": list(colors.class_color(1))}
    assert found["classes"][1]["extra"] and found["classes"][1]["id"] == 2
    json.dumps(found, allow_nan=False)


def test_no_name_can_end_the_script_that_carries_it():
    name = '</script><script>alert("1")</script>\u2028'
    text = viewer.script("manifest", {"name": name}).decode("ascii")
    assert text.count("\n") == 1 and text.startswith('jaxseg.receive("manifest", ')
    assert json.loads(text[len('jaxseg.receive("manifest", ') : -3]) == {"name": name}


def folder_of(path, case, **options):
    listed = viewer.manifest([viewer.Listed("a"), viewer.Listed("b")], title="run", classes=("background", "x", "y"))
    made = [lambda: viewer.case_files(case, num_classes=3)] * 2
    return viewer.write_folder(path, listed, made, **options)


def test_a_folder_holds_the_page_and_every_case(case, tmp_path):
    size = folder_of(tmp_path / "viewer", case)
    files = {str(path.relative_to(tmp_path / "viewer")) for path in (tmp_path / "viewer").rglob("*") if path.is_file()}
    assert files == {*viewer.ASSETS, "manifest.js", "cases/0.js", "cases/1.js"}
    assert size == sum((tmp_path / "viewer" / name).stat().st_size for name in files)
    text = (tmp_path / "viewer" / "cases" / "1.js").read_text()
    content = json.loads(text[len('jaxseg.receive("1", ') : -3])
    _, own = viewer.case_files(case, num_classes=3)
    assert {name: base64.b64decode(data) for name, data in content["files"].items()} == dict(own)
    assert list(tmp_path.iterdir()) == [tmp_path / "viewer"]


def test_a_folder_is_replaced_only_when_asked_and_only_if_it_is_a_page(case, tmp_path):
    folder_of(tmp_path / "viewer", case)
    with pytest.raises(UserError, match="holds a viewer already; add --overwrite"):
        folder_of(tmp_path / "viewer", case)
    folder_of(tmp_path / "viewer", case, overwrite=True)
    (tmp_path / "viewer" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt, which is not of the viewer"):
        folder_of(tmp_path / "viewer", case, overwrite=True)
    assert (tmp_path / "viewer" / "notes.txt").read_text() == "mine"


def test_a_folder_that_grows_too_large_leaves_nothing_and_the_earlier_one_whole(case, tmp_path):
    folder_of(tmp_path / "viewer", case)
    before = {path: path.read_bytes() for path in (tmp_path / "viewer").rglob("*") if path.is_file()}
    page = sum(len(viewer.asset(name)) for name in viewer.ASSETS)
    with pytest.raises(UserError, match=r"would hold more than .* with 2 of 2 cases; .*--n=1"):
        folder_of(tmp_path / "viewer", case, overwrite=True, largest=page + 4000)
    assert {path: path.read_bytes() for path in (tmp_path / "viewer").rglob("*") if path.is_file()} == before
    assert list(tmp_path.iterdir()) == [tmp_path / "viewer"]


def test_the_page_asks_nothing_of_any_other_computer():
    own = [name for name in viewer.ASSETS if not name.startswith("vendor/")]
    assert not [name for name in own if b"http:" in viewer.asset(name) or b"https:" in viewer.asset(name)]
    assert b"NiiVue" in viewer.asset("vendor/LICENSES.txt") or b"Niivue" in viewer.asset("vendor/LICENSES.txt")


def test_the_vendored_library_is_the_one_that_is_written_down():
    import hashlib

    folder = pathlib.Path(viewer.__file__).parent / "vendor"
    found = hashlib.sha256((folder / "niivue.umd.js").read_bytes()).hexdigest()
    assert found in (folder / "README.md").read_text()
