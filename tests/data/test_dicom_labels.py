"""DICOM segmentations and structure sets become label maps on the grid of their image."""

import dicom_files as made
import numpy as np
import pytest

from jaxseg.data import orientation, readers, volume
from jaxseg.data.dicom import contours
from jaxseg.data.dicom.labels import Choice
from jaxseg.typing import UserError

SAMPLES = "dicom_samples"
SHAPE = (4, 6, 5)
ORGANS = Choice((("liver", 3), ("left kidney", 7)))


@pytest.fixture
def scan(tmp_path):
    """An oblique series."""
    places = made.positions(4, orientation=made.oblique())
    return readers.read(made.series(tmp_path / "scan", made.ramp(*SHAPE), orientation=made.oblique(), places=places))


def places(*slices):
    return made.positions(4, orientation=made.oblique())[list(slices)]


def masks(count, shape=SHAPE[1:], seed=0):
    return np.random.default_rng(seed).random((count, *shape)) > 0.6


def refused(*words, **arguments):
    with pytest.raises(UserError) as caught:
        readers.read_label(**arguments)
    text = str(caught.value)
    assert "\n" not in text and "Doe" not in text
    for word in words:
        assert word in text, text


def test_frames_go_where_their_positions_say_and_missing_ones_are_background(tmp_path, scan):
    frames = masks(3)
    path = made.segmentation(
        tmp_path / "seg.dcm", frames, segments=[1, 1, 2], places=places(3, 0, 1), orientation=made.oblique()
    )
    label = readers.read_label(path, like=scan)
    expected = np.zeros(SHAPE, int)
    expected[3], expected[0], expected[1] = frames[0], frames[1], 2 * frames[2]
    np.testing.assert_array_equal(label.data, expected)
    volume.check_same_grid(scan, label)
    assert label.path == str(path)


def test_frames_without_a_position_go_to_the_slice_they_refer_to(tmp_path, scan):
    frames = masks(2)
    uids = [made.uid("series", "2"), made.uid("series", "0")]
    path = made.segmentation(tmp_path / "seg.dcm", frames, segments=[1, 1], places=uids, orientation=made.oblique())
    label = readers.read_label(path, like=scan)
    expected = np.zeros(SHAPE, int)
    expected[2], expected[0] = frames
    np.testing.assert_array_equal(label.data, expected)
    path = made.segmentation(tmp_path / "other.dcm", frames, segments=[1, 1], places=[uids[0], made.uid("no")])
    refused("frame 2", "neither a position nor a slice", path=path, like=scan)


def test_a_segmentation_of_a_part_or_in_another_direction_fits_too(tmp_path, scan):
    """Rows and columns of the frames run along the slices and, reversed, the rows of the image."""
    row, column = np.array(made.oblique()[:3]), np.array(made.oblique()[3:])
    normal = np.cross(row, column)
    turned = (*normal, *(-column))
    pixels = masks(1, (3, 2))
    # its first pixel is voxel (z, y, x) = (1, 4, 2); columns go up in z, rows down in y
    first = places(1)[0] + 4 * made.SPACING[0] * column + 2 * made.SPACING[1] * row
    path = made.segmentation(tmp_path / "seg.dcm", pixels, segments=[1], places=[first], orientation=turned)
    refused("between its voxels", path=path, like=scan)  # its pixels are 0.6 mm apart along z, the slices 2.5 mm
    shared = made.shared(turned)
    shared[0].PixelMeasuresSequence[0].PixelSpacing = [made.SPACING[0], 2.5]
    path = made.segmentation(
        tmp_path / "right.dcm", pixels, segments=[1], places=[first], SharedFunctionalGroupsSequence=shared
    )
    expected = np.zeros(SHAPE, int)
    for r in range(3):
        for c in range(2):
            expected[1 + c, 4 - r, 2] = pixels[0, r, c]
    np.testing.assert_array_equal(readers.read_label(path, like=scan).data, expected)


def test_segments_named_as_classes_have_their_values_and_others_are_left_out(tmp_path, scan):
    frames = masks(3)
    names = {1: "Left_Kidney", 2: "spleen", 4: "LIVER"}
    path = made.segmentation(
        tmp_path / "seg.dcm",
        frames,
        segments=[1, 2, 4],
        places=places(0, 1, 2),
        names=names,
        orientation=made.oblique(),
    )
    label = readers.read_label(path, like=scan, choice=ORGANS)
    expected = np.zeros(SHAPE, int)
    expected[0], expected[2] = 7 * frames[0], 3 * frames[2]
    np.testing.assert_array_equal(label.data, expected)
    without = readers.read_label(path, like=scan, choice=Choice((("lung", 3),), background=9))
    assert set(np.unique(without.data)) == {9, 1, 2, 4}  # no name fits: the numbers of the segments


def test_overlapping_segments_are_refused_unless_the_later_class_wins(tmp_path, scan):
    frames = np.stack([masks(1)[0]] * 2)
    frames[1, 0] = False
    names = {1: "left kidney", 2: "liver"}
    path = made.segmentation(
        tmp_path / "seg.dcm", frames, segments=[1, 2], places=places(2, 2), names=names, orientation=made.oblique()
    )
    refused("7 (left kidney)", "3 (liver)", "data.overlap", path=path, like=scan, choice=ORGANS)
    label = readers.read_label(path, like=scan, choice=ORGANS._replace(later_wins=True))
    np.testing.assert_array_equal(label.data[2], 7 * frames[0])  # left kidney is the later class
    later = readers.read_label(path, like=scan, choice=Choice(later_wins=True))
    np.testing.assert_array_equal(later.data[2], np.where(frames[1], 2, frames[0]))  # segment 2 has the higher number


def test_a_fractional_segmentation_counts_from_one_half(tmp_path, scan):
    values = made.ramp(1, *SHAPE[1:], dtype=np.uint8)
    path = made.segmentation(
        tmp_path / "seg.dcm", values > 0, segments=[1], places=places(1), orientation=made.oblique()
    )
    import pydicom

    data = pydicom.dcmread(path)
    data.SegmentationType, data.MaximumFractionalValue = "FRACTIONAL", 200
    made.set_pixels(data, values)
    made.save(data, path)
    np.testing.assert_array_equal(readers.read_label(path, like=scan).data[1], values[0] >= 100)


def test_a_label_map_object_holds_segment_numbers_and_its_padding_is_background(tmp_path, scan):
    values = np.random.default_rng(0).choice([0, 1, 3, 5], (2, *SHAPE[1:])).astype(np.uint8)
    data = made.dataset(made.LABELMAP, name="map", modality="SEG", SegmentationType="LABELMAP", PixelPaddingValue=5)
    made.set_pixels(data, values)
    data.SegmentSequence = [
        made.item(SegmentNumber=n, SegmentLabel=name) for n, name in {0: "none", 1: "a", 3: "b"}.items()
    ]
    data.SharedFunctionalGroupsSequence = made.shared(made.oblique())
    data.PerFrameFunctionalGroupsSequence = [made.frame(place) for place in places(3, 1)]
    label = readers.read_label(made.save(data, tmp_path / "map.dcm"), like=scan)
    expected = np.zeros(SHAPE, int)
    expected[3], expected[1] = np.where(values == 5, 0, values)
    np.testing.assert_array_equal(label.data, expected)


def test_labels_of_another_image_are_refused(tmp_path, scan):
    path = made.segmentation(
        tmp_path / "seg.dcm", masks(1), segments=[1], places=places(0), refers=("another",), FrameOfReferenceUID="1.2.3"
    )
    refused("drawn on", "another series", path=path, like=scan)
    outside = made.segmentation(
        tmp_path / "outside.dcm",
        masks(1),
        segments=[1],
        places=places(3) + places(3) - places(2),
        orientation=made.oblique(),
    )
    refused("lie outside", path=outside, like=scan)
    refused("together with its image", path=outside)


def test_a_polygon_holds_the_pixels_whose_centre_is_inside():
    square = np.array([(0.5, 1.5), (0.5, 3.5), (2.5, 3.5), (2.5, 1.5)])
    expected = np.zeros((4, 6), bool)
    expected[1:3, 2:4] = True
    np.testing.assert_array_equal(contours.fill([square], (4, 6)), expected)
    np.testing.assert_array_equal(contours.fill([square[::-1]], (4, 6)), expected)  # either way round


def test_polygons_agree_with_matplotlib_and_even_ones_are_holes():
    from matplotlib.path import Path

    draw = np.random.default_rng(3)
    angle = np.sort(draw.random(11)) * 2 * np.pi
    star = np.stack([9 + draw.uniform(3, 8, 11) * np.sin(angle), 12 + draw.uniform(3, 11, 11) * np.cos(angle)], 1)
    hole = star * 0.4 + 0.6 * star.mean(0)
    grid = np.stack(np.meshgrid(np.arange(19), np.arange(24), indexing="ij"), -1).reshape(-1, 2)
    inside = [Path(points).contains_points(grid).reshape(19, 24) for points in (star, hole)]
    assert inside[0].sum() > inside[1].sum() > 5
    np.testing.assert_array_equal(contours.fill([star], (19, 24)), inside[0])
    np.testing.assert_array_equal(contours.fill([star, hole], (19, 24)), inside[0] ^ inside[1])


def test_polygons_that_share_an_edge_through_pixel_centres_share_no_pixel_and_leave_none_out():
    left, right = ([(0, a), (0, b), (5, b), (5, a)] for a, b in ((1, 3), (3, 6)))
    one, other = (contours.fill([np.array(points, float)], (7, 8)) for points in (left, right))
    assert not (one & other).any()
    np.testing.assert_array_equal(
        one | other, contours.fill([np.array([(0, 1), (0, 6), (5, 6), (5, 1)], float)], (7, 8))
    )


def test_a_polygon_that_leaves_the_image_is_cut():
    points = np.array([(-3.0, -3.0), (-3.0, 9.0), (9.0, 9.0), (9.0, -3.0)])
    assert contours.fill([points], (4, 5)).all()


def ring(scan, place, low, high):
    """Returns a square contour in mm, LPS, through voxels low to high of rows and columns."""
    corners = [(place, low, low), (place, low, high), (place, high, high), (place, high, low)]
    ras = (scan.affine @ np.column_stack([np.array(corners, float), np.ones(4)]).T)[:3].T
    return ras * (-1, -1, 1)


def test_contours_are_filled_on_the_slices_they_lie_on_with_their_holes(tmp_path, scan):
    regions = {
        "BODY": [ring(scan, 0, -0.5, 4.5)],
        "Liver": [ring(scan, 1, 0.5, 4.5), ring(scan, 1, 1.5, 2.5), ring(scan, 3.1, -0.4, 1.4)],
    }
    path = made.structures(tmp_path / "rt.dcm", regions)
    label = readers.read_label(path, like=scan, choice=ORGANS)
    expected = np.zeros(SHAPE, int)
    expected[1, 1:5, 1:5] = 3
    expected[1, 2, 2] = 0
    expected[3, 0:2, 0:2] = 3
    np.testing.assert_array_equal(label.data, expected)


def test_a_structure_set_needs_names_unless_it_has_one_region(tmp_path, scan):
    one = made.structures(tmp_path / "one.dcm", {"ROI-1": [ring(scan, 2, 0.5, 2.5)], "point": []})
    assert np.argwhere(readers.read_label(one, like=scan).data).tolist() == [[2, 1, 1], [2, 1, 2], [2, 2, 1], [2, 2, 2]]
    assert readers.read_label(one, like=scan, choice=Choice((("tumour", 255),))).data.max() == 255
    two = made.structures(tmp_path / "two.dcm", {"GTV": [ring(scan, 2, 0, 2)], "PTV": [ring(scan, 2, 0, 3)]})
    refused("liver, left kidney", "GTV, PTV", "data.classes", path=two, like=scan, choice=ORGANS)


def test_contours_off_the_slices_or_open_are_refused(tmp_path, scan):
    between = made.structures(tmp_path / "between.dcm", {"liver": [ring(scan, 1.5, 0, 2)]})
    refused("1.25 mm off the nearest", path=between, like=scan)
    beyond = made.structures(tmp_path / "beyond.dcm", {"liver": [ring(scan, 5, 0, 2)]})
    refused("5 mm outside", path=beyond, like=scan)
    line = made.structures(tmp_path / "open.dcm", {"liver": [ring(scan, 1, 0, 2)]}, kind="OPEN_PLANAR")
    refused("OPEN_PLANAR", path=line, like=scan)
    other = made.structures(
        tmp_path / "other.dcm",
        {"liver": [ring(scan, 1, 0, 2)]},
        refers="another",
        ReferencedFrameOfReferenceSequence=None,
    )
    refused("no series", path=other, like=scan)


def test_a_label_of_another_format_is_turned_to_the_axes_of_the_series(tmp_path, scan):
    """As dcm2niix writes it: rows reversed, so that the first voxel is another corner."""
    import nibabel

    values = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)
    turned = values[:, ::-1].transpose(2, 1, 0)  # (x, reversed y, z)
    back = np.eye(4)
    back[1, 1], back[1, 3] = -1, SHAPE[1] - 1
    affine = volume.reverse_columns(scan.affine) @ back
    nibabel.save(nibabel.Nifti1Image(turned, affine), tmp_path / "label.nii.gz")
    label = readers.read_label(tmp_path / "label.nii.gz", like=scan)
    np.testing.assert_array_equal(label.data, values)
    volume.check_same_grid(scan, label)
    assert readers.read_label(tmp_path / "label.nii.gz").data.shape == SHAPE


def test_turning_keeps_every_voxel_at_its_place_in_the_patient(scan):
    image = scan._replace(data=scan.data[..., 0])
    axes, flips = (2, 0, 1), (True, False, True)
    turned = np.ascontiguousarray(orientation.apply(image.data, axes, flips))
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for new, (old, flip) in enumerate(zip(axes, flips, strict=True)):
        step[old, new] = -1 if flip else 1
        step[old, 3] = image.data.shape[old] - 1 if flip else 0
    label = image._replace(data=turned, affine=image.affine @ step, spacing=tuple(image.spacing[axis] for axis in axes))
    again = orientation.onto(label, image)
    np.testing.assert_array_equal(again.data, image.data)
    np.testing.assert_allclose(again.affine, image.affine, atol=1e-9)
    np.testing.assert_allclose(again.spacing, image.spacing)
    coarse = label._replace(affine=label.affine @ np.diag([2.0, 1, 1, 1]))
    assert orientation.onto(coarse, image) is coarse


@pytest.mark.realdata
def test_real_segmentations_are_those_of_their_nrrd(data_root):
    root = data_root / SAMPLES
    ct = readers.read(root / "ct_with_seg" / "ct")
    liver = readers.read_label(root / "ct_with_seg" / "seg" / "liver.dcm", like=ct)
    assert liver.data.sum() == 107098
    np.testing.assert_array_equal(liver.data, readers.read_label(root / "ct_with_seg" / "nrrd" / "liver_seg.nrrd").data)
    refused("both 1 and 2", path=root / "ct_with_seg" / "seg" / "partial_overlaps.dcm", like=ct)
    for size in ("23x38x3", "24x38x3"):
        folder = root / "tiny_multiframe" / size
        label = readers.read_label(folder / "seg" / "label.seg", like=readers.read(folder / "image"))
        np.testing.assert_array_equal(label.data, readers.read_label(folder / "nrrd" / "label.nrrd").data)
        many = readers.read(folder / "multiframe" / "mf.dcm")
        np.testing.assert_array_equal(readers.read_label(folder / "seg" / "label.seg", like=many).data, label.data)
    image = readers.read(root / "tiny_multiframe" / "24x38x3" / "image")
    for kind in ("noppv", "ppv5"):
        sparse = readers.read_label(root / "tiny_multiframe" / f"sparse-labelmap-{kind}.dcm", like=image)
        nrrd = readers.read_label(root / "tiny_multiframe" / f"sparse_labelmap_{kind}_seg.nrrd").data
        np.testing.assert_array_equal(sparse.data, np.where(nrrd == 5, 0, nrrd))


@pytest.mark.realdata
def test_real_structure_sets_fit_their_image_or_are_refused(data_root):
    import pydicom
    from matplotlib.path import Path

    folder = data_root / SAMPLES / "rtstruct"
    image = readers.read(folder)
    label = readers.read_label(folder / "rt.dcm", like=image)
    centres = np.stack(np.meshgrid(*[-125 + 0.488281 * np.arange(512)] * 2), -1).reshape(-1, 2)  # x, y
    drawn = pydicom.dcmread(folder / "rt.dcm").ROIContourSequence[0].ContourSequence
    expected = np.zeros(512 * 512, bool)
    for contour in drawn:
        expected ^= Path(np.array(contour.ContourData, float).reshape(-1, 3)[:, :2]).contains_points(centres)
    np.testing.assert_array_equal(label.data[0], expected.reshape(512, 512))
    assert expected.sum() > 1000 and not label.data[1].any()
    rois = Choice(tuple((f"ROI-{number}", number) for number in range(1, 5)))
    for name in ("invalid_reference_rt", "non_existent_reference_rt", "unmatched_rt_4rois"):
        refused("5 mm outside", path=folder / f"{name}.dcm", like=image, choice=rois)
