"""DICOM files are sorted into stacks: by series, and within one by what tells its volumes apart."""

import zipfile

import dicom_files as made
import numpy as np
import pytest

from jaxseg.data import readers
from jaxseg.data.dicom import find
from jaxseg.typing import UserError


def stacks(folder):
    return find.find(folder).stacks


def test_series_in_one_folder_and_below_it_are_told_apart(tmp_path):
    made.series(tmp_path / "all", made.ramp(3, 5, 4), name="one", SeriesNumber=2)
    made.series(tmp_path / "all" / "deep" / "er", made.ramp(4, 5, 3), name="two", SeriesNumber=11)
    first, second = stacks(tmp_path / "all")
    assert (first.number, len(first.slices)) == (2, 3) and (second.number, len(second.slices)) == (11, 4)
    assert first.key.startswith("s2-") and len(first.key) == len("s2-") + 8
    assert len(stacks(tmp_path / "all" / "deep")) == 1
    shallow = find.find(tmp_path / "all", deep=False).stacks
    assert [stack.key for stack in shallow] == [first.key]


def test_one_series_whose_files_lie_in_several_folders_is_one(tmp_path):
    array, places = made.ramp(4, 5, 3), made.positions(4)
    made.series(tmp_path / "scan" / "a", array[:2], places=places[:2])
    made.series(tmp_path / "scan" / "b", array[2:], places=places[2:], SOPInstanceUID=("1.2.8", "1.2.9"))
    np.testing.assert_array_equal(readers.read(tmp_path / "scan").data[..., 0], array)


def test_patients_whose_series_have_one_uid_are_told_apart(tmp_path):
    for name in ("A", "B"):
        made.series(tmp_path / "all" / name, made.ramp(3, 5, 4), PatientID=name)
    found = stacks(tmp_path / "all")
    assert [len(stack.slices) for stack in found] == [3, 3] and found[0].key != found[1].key


def test_a_series_is_named_by_key_number_or_uid(tmp_path):
    folder = tmp_path / "all"
    made.series(folder, made.ramp(3, 5, 4), name="one", SeriesNumber=2)
    (folder / "sub").mkdir()
    made.series(folder / "sub", made.ramp(4, 5, 3), name="two", SeriesNumber=11)
    key = stacks(folder)[1].key
    for name in (key, "11", made.uid("two")):
        assert readers.read(f"{folder}#{name}").data.shape == (4, 5, 3, 1)
    with pytest.raises(UserError, match=r"holds 2 series; name one as .*#KEY, of s2-.* \(3 x CT\), s11-") as caught:
        readers.read(folder)
    assert "Doe" not in str(caught.value)
    with pytest.raises(UserError, match="has no single series '7'"):
        readers.read(f"{folder}#7")


def test_a_folder_whose_own_name_has_the_mark_is_read(tmp_path):
    assert readers.read(made.series(tmp_path / "scan#3", made.ramp(3, 5, 4))).data.shape == (3, 5, 4, 1)


@pytest.mark.parametrize(
    "tags",
    [
        {"ImageType": tuple(["ORIGINAL", "PRIMARY", kind] for kind in "MMMPPP")},
        {"EchoTime": (2.0, 2.0, 2.0, 10.0, 10.0, 10.0)},
        {"TemporalPositionIdentifier": (1, 1, 1, 2, 2, 2)},
        {"AcquisitionNumber": (9, 9, 9, 10, 10, 10)},
        {"DiffusionBValue": (0.0, 0.0, 0.0, 800.0, 800.0, 800.0)},
        {"AcquisitionTime": ("1200", "1201", "1202", "1203", "1204", "1205"), "TriggerTime": (5, 5, 5, 60, 60, 60)},
    ],
)
def test_positions_that_repeat_are_parted_by_what_differs(tmp_path, tags):
    array = made.ramp(6, 5, 4)
    places = np.concatenate([made.positions(3)] * 2)
    folder = made.series(tmp_path / "scan", array, places=places, **tags)
    first, second = stacks(folder)
    assert first.key.endswith("-1") and second.key.endswith("-2") and first.key[:-2] == second.key[:-2]
    np.testing.assert_array_equal(readers.read(f"{folder}#{first.key}").data[..., 0], array[:3])
    np.testing.assert_array_equal(readers.read(f"{folder}#{second.key}").data[..., 0], array[3:])


def test_phases_with_echoes_are_parted_by_both(tmp_path):
    array = made.ramp(8, 5, 4)
    folder = made.series(
        tmp_path / "scan",
        array,
        places=np.concatenate([made.positions(2)] * 4),
        EchoTime=(1, 1, 9, 9, 1, 1, 9, 9),
        TemporalPositionIdentifier=(1, 1, 1, 1, 2, 2, 2, 2),
    )
    found = stacks(folder)
    read = [readers.read(f"{folder}#{stack.key}").data[..., 0] for stack in found]
    assert {stack.parted for stack in found} == {"EchoTime and TemporalPositionIdentifier"}
    assert "told from others by EchoTime" in find.notes(found[0])[0]
    assert [int(data[0, 0, 0]) for data in read] == [int(array[n, 0, 0]) for n in (0, 4, 2, 6)]


def test_what_differs_from_slice_to_slice_parts_nothing_where_no_position_repeats(tmp_path):
    folder = made.series(tmp_path / "scan", made.ramp(4, 5, 3), AcquisitionNumber=(1, 1, 2, 2), EchoTime=(1, 2, 3, 4))
    assert len(stacks(folder)) == 1


def test_two_blocks_that_share_a_position_are_not_taken_for_two_phases(tmp_path):
    places = made.positions(5)[[0, 1, 2, 2, 3, 4]]
    folder = made.series(tmp_path / "scan", made.ramp(6, 5, 4), places=places, AcquisitionNumber=(1, 1, 1, 2, 2, 2))
    assert len(stacks(folder)) == 1
    with pytest.raises(UserError, match="one slice at each position"):
        readers.read(folder)


def test_orientations_and_sizes_are_parted_always(tmp_path):
    axial, coronal = made.AXIAL, (1.0, 0, 0, 0, 0, -1)
    made.series(tmp_path / "scan", made.ramp(3, 5, 4))
    made.series(
        tmp_path / "scan" / "b",
        made.ramp(2, 5, 4),
        orientation=coronal,
        SOPInstanceUID=("1.2.1", "1.2.2"),
    )
    made.series(tmp_path / "scan" / "c", made.ramp(2, 6, 4), SOPInstanceUID=("1.2.3", "1.2.4"))
    found = stacks(tmp_path / "scan")
    assert [len(stack.slices) for stack in found] == [3, 2, 2]
    assert found[0].parted == "orientation and size"
    assert found[1].slices[0].orientation == coronal and found[0].slices[0].orientation == axial


def test_a_series_of_single_views_is_a_localiser_whatever_it_says(tmp_path):
    for number, view in enumerate((made.AXIAL, (1.0, 0, 0, 0, 0, -1), (0, 1.0, 0, 0, 0, -1))):
        made.series(
            tmp_path / "scout" / str(number), made.ramp(1, 5, 4), orientation=view, SOPInstanceUID=f"1.2.{number}"
        )
    found = find.find(tmp_path / "scout")
    assert not found.stacks and "single slices in 3 orientations" in found.skipped[0].why
    (tmp_path / "scout" / "2" / "02.dcm").unlink()
    assert len(stacks(tmp_path / "scout")) == 2


def test_frames_of_an_enhanced_object_are_parted_too(tmp_path):
    array, places = made.ramp(4, 5, 3), np.concatenate([made.positions(2)] * 2)
    groups = [{"FrameContentSequence": made.item(TemporalPositionIndex=n)} for n in (1, 1, 2, 2)]
    path = made.enhanced(tmp_path / "all.dcm", array, places=places, groups=groups)
    first, second = stacks(path)
    np.testing.assert_array_equal(readers.read(f"{path}#{second.key}").data[..., 0], array[2:])
    assert len(first.slices) == 2


def test_what_is_left_out_is_told_with_its_reason(tmp_path):
    folder = made.series(tmp_path / "all", made.ramp(3, 5, 4))
    made.series(folder / "scout", made.ramp(1, 5, 4), name="scout", ImageType=["DERIVED", "PRIMARY", "LOCALIZER"])
    made.segmentation(folder / "seg.dcm", np.ones((1, 5, 4), bool), segments=[1], places=made.positions(1))
    (folder / "half.dcm").write_bytes((folder / "02.dcm").read_bytes()[:300])
    found = find.find(folder)
    why = {one.source.rsplit("/", 1)[1]: one.why for one in found.skipped}
    assert len(found.stacks) == 1 and len(why) == 3
    assert why["02.dcm"] == "is a localiser" and "SEG" in why["seg.dcm"] and "half.dcm" in why
    (seg,) = [one for one in found.skipped if one.refers is not None]
    assert seg.refers == (made.uid("series"),)


def test_notes_tell_lossy_compression_and_tilt(tmp_path):
    plain = made.series(tmp_path / "plain", made.ramp(3, 5, 4))
    assert find.notes(stacks(plain)[0]) == ()
    lossy = made.series(tmp_path / "lossy", made.ramp(3, 5, 4), LossyImageCompression="01")
    assert "loss" in find.notes(stacks(lossy)[0])[0]
    places = made.positions(3, step=2.5, shear=(0, 2.5 * np.tan(np.radians(12))))
    tilted = made.series(tmp_path / "tilted", made.ramp(3, 5, 4), places=places)
    assert "12.0 degrees" in find.notes(stacks(tilted)[0])[0]


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    folder = made.series(tmp_path / "scan", made.ramp(3, 5, 4))
    assert len(stacks(folder)[0].slices) == 3
    made.series(folder / "more", made.ramp(1, 5, 4), places=made.positions(4)[3:], SOPInstanceUID="1.2.3")
    assert len(stacks(folder)[0].slices) == 4


def test_folders_archives_and_files_are_told_from_others(tmp_path):
    folder = made.series(tmp_path / "scan", made.ramp(2, 5, 4), suffix="")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").write_bytes(b"x" * 200)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.png", "x")
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        archive.write(folder / "02", "a/02")
    yes = (folder, folder / "02", tmp_path / "scan.zip", tmp_path)
    no = (tmp_path / "other", tmp_path / "other.zip", tmp_path / "other" / "a.png")
    assert [find.holds_dicom(place) for place in (*yes, *no)] == [True] * 4 + [False] * 3
    assert readers.kind(tmp_path / "other.zip") == "" and readers.kind(tmp_path / "scan.zip") == ".dcm"
