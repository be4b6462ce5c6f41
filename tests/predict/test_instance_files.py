"""Objects as files: the higher score wins a pixel, and pycocotools reads back what was written."""

import json

import numpy as np
import pytest
import scenes
from numpy.testing import assert_array_equal
from scenes import objects

from jaxseg.ops import run_length
from jaxseg.predict import coco_results, label_image, object_table, write_coco, write_label_image
from jaxseg.typing import Instances, UserError

SHAPE = (5, 8)
CLASSES = ("background", "nucleus", "mitosis")


def square(top, left, height, width, shape=SHAPE):
    return scenes.square(top, left, height, width, shape)


@pytest.fixture
def three():
    return objects(square(0, 0, 2, 3), square(1, 1, 3, 4), square(4, 6, 1, 2), scores=[0.5, 0.9, 0.7])


def test_label_image(three):
    expected = ["33300000", "31111000", "01111000", "01111000", "00000022"]
    numbers = label_image(three, SHAPE)
    assert numbers.dtype == np.uint16
    assert_array_equal(numbers, [[int(cell) for cell in row] for row in expected])


def test_equal_scores_keep_the_order():
    assert_array_equal(label_image(objects(square(0, 0, 5, 4), square(0, 2, 5, 6)), SHAPE)[3], [1] * 4 + [2] * 4)


def test_smaller_objects_may_win(three):
    nested = objects(square(0, 0, 5, 8), square(1, 2, 2, 3), square(1, 2, 3, 2), scores=[0.9, 0.2, 0.5])
    assert_array_equal(label_image(nested, SHAPE), np.ones(SHAPE))
    expected = ["11111111", "11223111", "11223111", "11221111", "11111111"]  # of the two of 6 pixels, number 2
    assert_array_equal(label_image(nested, SHAPE, overlap="size"), [[int(cell) for cell in row] for row in expected])
    with pytest.raises(UserError, match='by "score" or by "size", got \'area\''):
        label_image(three, SHAPE, overlap="area")


def test_crowds_are_no_objects():
    both = objects(square(0, 0, 5, 4), square(0, 2, 5, 6), crowd=[True, False])
    assert_array_equal(label_image(both, SHAPE)[3], [0] * 2 + [1] * 6)


def test_no_objects(tmp_path):
    assert_array_equal(label_image(objects(), SHAPE), np.zeros(SHAPE))
    found = coco_results({"a": (objects(), "a.png", SHAPE)}, classes=CLASSES)
    assert found["annotations"] == [] and len(found["images"]) == 1


def test_too_many_are_refused():
    mask = run_length.encode(np.ones((1, 2), bool))

    def many(count):
        return Instances((mask,) * count, np.ones(count, np.int32), np.ones(count, np.float32), np.zeros(count, bool))

    with pytest.raises(UserError, match="up to 65535 objects, got 65536"):
        label_image(many(65536), (1, 2))
    assert_array_equal(label_image(many(3), (1, 2)), [[1, 1]])


def test_masks_of_another_shape_are_refused(three):
    with pytest.raises(ValueError, match=r"shape \(8, 5\), one has \(5, 8\)"):
        label_image(three, SHAPE[::-1])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
def test_written_label_images_read_back(tmp_path, suffix):
    shape = (20, 30)  # 600 objects of a pixel each: more than a byte holds
    singles = [np.arange(600).reshape(shape) == place for place in range(600)]
    path = tmp_path / f"case{suffix}"
    path.write_text("old")
    write_label_image(path, objects(*singles), shape)
    if suffix == ".png":
        from PIL import Image

        read = np.asarray(Image.open(path))
    else:
        import tifffile

        read = tifffile.imread(path)
    assert read.dtype == np.uint16
    assert_array_equal(read, np.arange(1, 601).reshape(shape))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # nothing temporary is left


def test_shape_is_that_of_the_masks(tmp_path, three):
    from PIL import Image

    write_label_image(tmp_path / "a.png", three)
    assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), label_image(three, SHAPE))
    write_label_image(tmp_path / "b.png", objects(), (3, 7))
    assert np.asarray(Image.open(tmp_path / "b.png")).shape == (3, 7)
    with pytest.raises(ValueError, match="needs the shape"):
        write_label_image(tmp_path / "c.png", objects())


def test_other_suffixes_are_refused(tmp_path, three):
    with pytest.raises(UserError, match=r"\.png, \.tif or \.tiff file, got 'case\.jpg'"):
        write_label_image(tmp_path / "case.jpg", three, SHAPE)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def results(three):
    shape = (31, 23)
    noise = np.random.default_rng(0).uniform(size=(4, *shape)) > 0.6
    others = objects(*noise, labels=[2, 1, 1, 2], scores=[0.1, 0.2, 0.3, 0.4], crowd=[False, True, False, False])
    return {"b": (three, "b.png", SHAPE), "a": (others, "sub/a.tif", shape), "c": (objects(), "c.png", (2, 3))}


def test_coco_form(results):
    found = json.loads(json.dumps(coco_results(results, classes=CLASSES)))
    assert [(image["id"], image["file_name"], image["height"], image["width"]) for image in found["images"]] == [
        (1, "b.png", 5, 8),
        (2, "sub/a.tif", 31, 23),
        (3, "c.png", 2, 3),
    ]
    assert found["categories"] == [{"id": 1, "name": "nucleus"}, {"id": 2, "name": "mitosis"}]
    assert [one["id"] for one in found["annotations"]] == list(range(1, 8))
    assert [one["image_id"] for one in found["annotations"]] == [1] * 3 + [2] * 4
    assert [one["category_id"] for one in found["annotations"]] == [1, 1, 1, 2, 1, 1, 2]
    assert [one["iscrowd"] for one in found["annotations"]] == [0] * 4 + [1, 0, 0]
    second = found["annotations"][1]
    assert second["bbox"] == [1.0, 1.0, 4.0, 3.0] and second["area"] == 12.0  # x, y, width, height
    assert second["score"] == pytest.approx(0.9) and isinstance(second["segmentation"]["counts"], str)


def test_own_boxes_are_written(three):
    boxed = three._replace(boxes=np.array([[0.5, 1, 3, 4.5], [0, 0, 1, 1], [1, 2, 3, 5]], np.float32))
    found = coco_results({"b": (boxed, "b.png", SHAPE)}, classes=CLASSES)
    assert [one["bbox"] for one in found["annotations"]] == [[0.5, 1, 2.5, 3.5], [0, 0, 1, 1], [1, 2, 2, 3]]


def test_pycocotools_reads_the_same_masks(tmp_path, results, capsys):
    from pycocotools.coco import COCO

    path = tmp_path / "objects.json"
    write_coco(path, results, classes=CLASSES)
    assert [file.name for file in tmp_path.iterdir()] == ["objects.json"]
    coco = COCO(str(path))
    for image_id, (instances, _, shape) in enumerate(results.values(), start=1):
        read = coco.loadAnns(coco.getAnnIds(imgIds=[image_id], iscrowd=None))
        assert len(read) == len(instances.masks)
        for annotation, mask in zip(read, instances.masks):
            restored = coco.annToMask(annotation)
            assert restored.shape == shape
            assert_array_equal(restored, run_length.decode(mask))
            assert annotation["area"] == restored.sum()


def test_our_own_reader_reads_the_same_masks(tmp_path, results):
    from PIL import Image

    from jaxseg.data import datasets
    from jaxseg.data.instances import to_instances

    (tmp_path / "images").mkdir()
    three = results["b"][0]
    Image.fromarray(np.arange(40, dtype=np.uint8).reshape(SHAPE)).save(tmp_path / "images" / "b.png")
    (tmp_path / "annotations").mkdir()
    write_coco(tmp_path / "annotations" / "instances.json", {"b": results["b"]}, classes=CLASSES)
    dataset = datasets.load("coco", root=tmp_path)
    sample = dataset.load(dataset.cases[0])
    read = to_instances(sample.label.data, sample.objects, num_classes=3)
    assert len(read.masks) == 3
    for mine, theirs in zip(three.masks, read.masks):
        assert_array_equal(run_length.decode(mine), run_length.decode(theirs))


def test_object_table(three):
    two = three._replace(labels=np.array([1, 2, 1], np.int32))
    rows = object_table(two, CLASSES, spacing_mm=(0.5, 0.2))
    numbers = label_image(two, SHAPE)
    assert [(row["id"], row["class"], row["area_px"]) for row in rows] == [
        (1, "mitosis", 12),
        (2, "nucleus", 2),
        (3, "nucleus", 6),  # the pixels that number 1 hides are counted
    ]
    assert numbers[2, 2] == 1 and numbers[4, 7] == 2
    first = rows[0]
    assert first["score"] == pytest.approx(0.9) and first["area_mm2"] == pytest.approx(12 * 0.5 * 0.2)
    assert (first["centroid_y"], first["centroid_x"]) == (2.5, 3.0)  # rows 1 to 3, columns 1 to 4
    assert [first[side] for side in ("left", "top", "right", "bottom")] == [1, 1, 5, 4]


def test_object_table_of_nothing_and_crowds(three):
    assert object_table(objects(), CLASSES) == []
    (row,) = object_table(objects(square(0, 0, 0, 0), square(0, 0, 2, 2), crowd=[False, True]), CLASSES)
    assert row["area_px"] == 0 and np.isnan(row["centroid_y"]) and "area_mm2" not in row
    with pytest.raises(ValueError, match="should be 1 to 1 for 2 classes, one is 2"):
        object_table(three._replace(labels=np.array([1, 2, 1], np.int32)), CLASSES[:2])
    with pytest.raises(ValueError, match="rows and columns"):
        object_table(three, CLASSES, (1.0, 1.0, 1.0))


def test_class_without_a_name_is_refused(three):
    with pytest.raises(ValueError, match=r"labels of b should be 1 to 1 .* one is 2"):
        coco_results({"b": (three._replace(labels=np.array([1, 2, 1])), "b.png", SHAPE)}, classes=CLASSES[:2])
