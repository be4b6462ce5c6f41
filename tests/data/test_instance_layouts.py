"""Layouts of objects: every mask arrives exactly, whatever form it has on disk, and what does not fit is refused."""

import csv
import json
import pickle
import time

import numpy as np
import pytest
from PIL import Image

from jaxseg.data import datasets, instances
from jaxseg.data.datasets import coco, instance_masks, objects
from jaxseg.ops import run_length
from jaxseg.typing import UserError

SHAPE = (5, 7)  # y, x


def save(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(data).save(path)


def noise(*shape):
    return np.random.RandomState(len(shape)).randint(0, 255, shape).astype(np.uint8)


def block(top, left, bottom, right, shape=SHAPE):
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def masks_of(sample):
    """The objects as boolean masks, in order."""
    return [
        run_length.decode(mask)
        for mask in instances.to_instances(sample.label.data, sample.objects, num_classes=3).masks
    ]


def same(found, expected):
    return len(found) == len(expected) and all((a == b).all() for a, b in zip(found, expected, strict=True))


def bowl(root, name, masks, shape=SHAPE, colours=3):
    """A case as the 2018 Data Science Bowl has it, with an alpha channel on a colour image."""
    image = noise(*shape, 4) if colours == 3 else noise(*shape)
    save(root / name / "images" / f"{name}.png", image)
    (root / name / "masks").mkdir()
    for number, mask in enumerate(masks):
        save(root / name / "masks" / f"{number:04d}.png", mask.astype(np.uint8) * 255)


OVERLAPPING = [
    block(0, 0, 3, 4),
    block(2, 3, 5, 6),  # shares one pixel with the first
    block(4, 6, 5, 7),  # one pixel
    block(0, 6, 1, 7) | block(3, 0, 5, 1),  # two pieces, one object
]


def test_bowl(tmp_path):
    bowl(tmp_path, "b", OVERLAPPING)
    bowl(tmp_path, "a", [], shape=(9, 4))
    (tmp_path / "b" / "masks" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    dataset = datasets.load("instance_masks", root=tmp_path)
    assert [case.name for case in dataset.cases] == ["a", "b"]
    assert dataset.classes == ("background", "object") and dataset.label_values == (0, 1)
    assert dataset.channels == ("red", "green", "blue") and dataset.regions is None and dataset.flip_pairs == ()
    sample = pickle.loads(pickle.dumps(dataset)).load(dataset.cases[1])
    assert (sample.image.data == noise(*SHAPE, 4)[..., :3]).all()  # alpha is gone
    assert sample.label.data.dtype == np.int16 and sample.label.data.shape == SHAPE
    assert same(masks_of(sample), OVERLAPPING)
    assert sample.objects.classes.tolist() == [1, 1, 1, 1] and not sample.objects.crowd.any()
    empty = dataset.load(dataset.cases[0])
    assert empty.label.data.shape == (9, 4) and not empty.label.data.any() and empty.objects.classes.shape == (0,)
    assert datasets.check(dataset) == []


def test_a_blurred_mask_among_others_is_one_object(tmp_path):
    bowl(tmp_path, "a", [block(0, 0, 2, 2), block(0, 3, 3, 7)])
    save(tmp_path / "a" / "masks" / "0001.png", block(0, 3, 3, 7) * np.uint8(200) + block(1, 4, 2, 6) * np.uint8(55))
    dataset = datasets.load("instance_masks", root=tmp_path)
    assert same(masks_of(dataset.load(dataset.cases[0])), [block(0, 0, 2, 2), block(0, 3, 3, 7)])


def test_other_arrangements(tmp_path):
    masks = [block(0, 0, 2, 2), block(1, 3, 3, 7)]
    ids = (masks[0] * 7 + masks[1] * 300).astype(np.uint16)
    for stem in ("a", "a_1"):
        save(tmp_path / "images" / f"{stem}.png", noise(*SHAPE))
        save(tmp_path / "labels" / f"{stem}.png", ids if stem == "a" else ids * 0)
        for number, mask in enumerate(masks):
            save(tmp_path / "masks" / stem / f"{number}.png", mask)
    apart = datasets.load("instance_masks", root=tmp_path, images="images/{stem}.png", labels="masks/{stem}/*.png")
    joint = datasets.load("instance_masks", root=tmp_path, images="images/{stem}.png", labels="labels/{stem}.png")
    assert apart.channels == joint.channels == ("grey",) and [case.name for case in joint.cases] == ["a", "a_1"]
    assert same(masks_of(apart.load(apart.cases[1])), masks) and same(masks_of(joint.load(joint.cases[0])), masks)
    assert masks_of(joint.load(joint.cases[1])) == []
    with pytest.raises(UserError, match=r"a has no mask that matches masks/a/nucleus\*; a_1 has"):
        datasets.load("instance_masks", root=tmp_path, images="images/{stem}.png", labels="masks/{stem}/nucleus*")
    full = np.where(masks[0], 4, 9).astype(np.uint8)  # a label image without background
    save(tmp_path / "labels" / "a.png", full)
    assert same(masks_of(joint.load(joint.cases[0])), [masks[0], ~masks[0]])


@pytest.mark.parametrize(
    ("image", "labels", "words"),
    [
        ("images/b.png", None, r"b has no label image .*labels/b\.png"),
        (None, "labels/b.png", r"labels/b\.png has no image"),
    ],
)
def test_label_images_without_partner(tmp_path, image, labels, words):
    for file in ("images/a.png", "labels/a.png", image, labels):
        if file:
            save(tmp_path / file, noise(*SHAPE))
    with pytest.raises(UserError, match=words):
        datasets.load("instance_masks", root=tmp_path, images="images/{stem}.png", labels="labels/{stem}.png")


def test_masks_in_one_folder(tmp_path):
    for stem in ("a", "b"):
        save(tmp_path / "images" / f"{stem}.png", noise(*SHAPE))
        save(tmp_path / "masks" / f"{stem}_cell_1.png", block(0, 0, 2, 3))
    options = {"root": tmp_path, "images": "images/{stem}.png", "labels": "masks/{stem}_*.png"}
    dataset = datasets.load("instance_masks", **options)
    assert same(masks_of(dataset.load(dataset.cases[1])), [block(0, 0, 2, 3)])
    save(tmp_path / "images" / "a_cell.png", noise(*SHAPE))
    with pytest.raises(UserError, match=r"a_cell_1\.png belongs to both a and a_cell"):
        datasets.load("instance_masks", **options)
    (tmp_path / "images" / "a_cell.png").unlink()
    (tmp_path / "masks" / "b_cell_1.png").unlink()
    with pytest.raises(UserError, match=r"b has no mask that matches masks/b_\*\.png"):
        datasets.load("instance_masks", **options)


def test_channels_are_brought_together(tmp_path):
    bowl(tmp_path, "a", [], colours=3)
    bowl(tmp_path, "b", [], colours=1)
    colour = datasets.load("instance_masks", root=tmp_path)
    grey = colour.load(colour.cases[1]).image.data
    assert grey.shape == (*SHAPE, 3) and (grey == noise(*SHAPE)[..., None]).all()
    single = datasets.load("instance_masks", root=tmp_path, channels=("light",))
    found = single.load(single.cases[0]).image.data
    assert single.channels == ("light",) and found.dtype == np.uint8
    assert (found[..., 0] == np.rint(noise(*SHAPE, 4)[..., :3] @ [0.299, 0.587, 0.114])).all()
    two = datasets.load("instance_masks", root=tmp_path, channels=("x", "y"))
    with pytest.raises(UserError, match=r"a\.png should have 2 channel\(s\) .* has 3"):
        two.load(two.cases[0])
    assert objects.to_grey(np.full((1, 2, 3), 255, np.uint8)).tolist() == [[[255], [255]]]


@pytest.mark.parametrize("place", [1, 19, 20])
def test_colour_is_looked_for_in_twenty_headers(tmp_path, place):
    for number in range(21):
        image = noise(*SHAPE, 3) if number == place else noise(*SHAPE)
        save(tmp_path / "images" / f"{number:02d}.png", image)
        save(tmp_path / "labels" / f"{number:02d}.png", block(0, 0, 2, 3))
    (tmp_path / "images" / "09.png").write_bytes(b"no picture")  # is for `check` to name
    options = {"images": "images/{stem}.png", "labels": "labels/{stem}.png"}
    dataset = datasets.load("instance_masks", root=tmp_path, **options)
    assert dataset.channels == (("red", "green", "blue") if place < 20 else ("grey",))
    assert len(problems := datasets.check(dataset)) == 1 and "09.png" in problems[0]


def test_palettes_count_as_what_they_show(tmp_path):
    save(tmp_path / "images" / "a.png", noise(*SHAPE))
    picture = Image.fromarray(noise(*SHAPE, 3)).convert("P", palette=Image.Palette.ADAPTIVE)
    picture.save(tmp_path / "images" / "b.png")
    options = {"images": "images/{stem}.png", "labels": "labels/{stem}.png"}
    for stem in "ab":
        save(tmp_path / "labels" / f"{stem}.png", block(0, 0, 2, 3))
    assert datasets.load("instance_masks", root=tmp_path, **options).channels == ("red", "green", "blue")
    picture.putpalette(np.repeat(np.arange(256, dtype=np.uint8), 3).tobytes())
    picture.save(tmp_path / "images" / "b.png")
    assert datasets.load("instance_masks", root=tmp_path, **options).channels == ("grey",)


def test_classes_by_folder(tmp_path):
    masks = {"cell": [block(0, 0, 2, 3), block(3, 3, 4, 4)], "nerve": [block(1, 2, 5, 6)]}
    for stem in ("a", "b"):
        save(tmp_path / stem / "images" / "x.png", noise(*SHAPE))
    for name, found in masks.items():
        for number, mask in enumerate(found):
            save(tmp_path / "a" / name / f"{number}.png", mask)
    (tmp_path / "b" / "cell").mkdir()  # a case without objects
    options = {"root": tmp_path, "labels": "{stem}/{class}/*.png", "classes": ("background", "nerve", "cell")}
    dataset = pickle.loads(pickle.dumps(datasets.load("instance_masks", **options)))
    assert dataset.classes == ("background", "nerve", "cell") and dataset.label_values == (0, 1, 2)
    sample = dataset.load(dataset.cases[0])
    assert same(masks_of(sample), masks["nerve"] + masks["cell"]) and sample.objects.classes.tolist() == [1, 2, 2]
    assert masks_of(dataset.load(dataset.cases[1])) == []
    before = dataset.digest(dataset.cases[0])
    (tmp_path / "a" / "cell" / "0.png").rename(tmp_path / "a" / "nerve" / "1.png")
    assert dataset.digest(dataset.cases[0]) != before
    with pytest.raises(UserError, match=r"a/nerve/0\.png is of none of the classes cell; .*nerve/1\.png is of none"):
        datasets.load("instance_masks", **options | {"classes": ("background", "cell")})
    (tmp_path / "b" / "cell").rmdir()
    with pytest.raises(UserError, match=r"b has no masks at b/\{class\}/\*\.png for any of nerve, cell"):
        datasets.load("instance_masks", **options)


def test_classes_in_names_of_label_images(tmp_path):
    save(tmp_path / "images" / "a.png", noise(*SHAPE))
    ids = {"cell": block(0, 0, 2, 3) * 1 + block(0, 3, 2, 7) * 2, "cell_dead": block(3, 0, 5, 2) * 9}
    for name, values in ids.items():
        save(tmp_path / "labels" / f"a_{name}.png", values.astype(np.uint8))
    classes = ("background", "cell", "cell_dead")
    options = {"root": tmp_path, "images": "images/{stem}.png", "classes": classes}
    dataset = datasets.load("instance_masks", labels="labels/{stem}_{class}.png", **options)
    sample = dataset.load(dataset.cases[0])
    assert same(masks_of(sample), [block(0, 0, 2, 3), block(0, 3, 2, 7), block(3, 0, 5, 2)])
    assert sample.objects.classes.tolist() == [1, 1, 2]
    with pytest.raises(UserError, match=r"a_cell_dead\.png belongs to both a \(cell\) and a \(cell_dead\)"):
        datasets.load("instance_masks", labels="labels/{stem}_{class}*.png", **options)


def test_threshold_of_blurred_masks(tmp_path):
    bowl(tmp_path, "a", [block(0, 0, 2, 2)])
    blurred = block(0, 0, 3, 4) * np.uint8(127) + block(1, 1, 3, 4) * np.uint8(1)
    save(tmp_path / "a" / "masks" / "0000.png", blurred)  # alone in its folder
    plain = datasets.load("instance_masks", root=tmp_path)
    assert len(masks_of(plain.load(plain.cases[0]))) == 2  # taken for a label image
    dataset = datasets.load("instance_masks", root=tmp_path, label_threshold=127)
    assert same(masks_of(dataset.load(dataset.cases[0])), [block(1, 1, 3, 4)])
    assert dataset.digest(dataset.cases[0]) != plain.digest(plain.cases[0])
    high = datasets.load("instance_masks", root=tmp_path, label_threshold=128.5)
    with pytest.raises(UserError, match=r"0000\.png marks no pixel above data\.label_threshold \(128\.5\), delete"):
        high.load(high.cases[0])


@pytest.mark.parametrize("target", ["objects", "border"])
def test_region_of_interest(tmp_path, target):
    bowl(tmp_path, "a", OVERLAPPING)
    inside = block(0, 0, 4, 5)
    save(tmp_path / "a" / "roi.png", inside * np.uint8(255))
    whole = datasets.load("instance_masks", root=tmp_path, target=target)
    dataset = datasets.load("instance_masks", root=tmp_path, target=target, roi="{stem}/roi.png")
    case = dataset.cases[0]
    expected = np.where(inside, whole.load(whole.cases[0]).label.data, -1)
    found = dataset.load(case)
    assert (found.label.data == expected).all() and found.label.data.dtype == np.int16
    before = dataset.digest(case)
    save(tmp_path / "a" / "roi.png", np.full((7, 5), 255, np.uint8))
    assert dataset.digest(case) != before
    with pytest.raises(UserError, match=r"a/roi\.png should have the shape \(5, 7\)"):
        dataset.load(case)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ("background", "a", "b")}, r"data\.labels should have \{class\} .* '\{stem\}/masks/\*'"),
        ({"classes": ("background",)}, r"data\.classes should name the background and then kinds"),
        ({"classes": ("background", "a", "a")}, r"data\.classes should name the background and then kinds"),
        ({"classes": ("background", "a", "b"), "target": "border"}, r"data\.target=border is for one kind"),
        ({"labels": "{stem}/images/*"}, r"a\.png is both image and mask of a"),
        ({"roi": "roi"}, r"data\.roi should be a pattern with \{stem\}"),
        ({"roi": "roi/{stem}.png"}, r"a should have one mask at .*roi/a\.png, but has 0"),
        ({"labels": "masks"}, r"data\.labels should be a pattern with \{stem\}"),
        ({"target": "edges"}, r"data\.target should be objects or border, but is 'edges'"),
        ({"border_width": 0}, r"data\.border_width .* 0"),
        ({"images": "scans/{stem}.png", "labels": "labels/{stem}.png"}, r"scans/\{stem\}\.png\) matches no case"),
    ],
)
def test_options_are_refused(tmp_path, options, words):
    bowl(tmp_path, "a", [block(0, 0, 2, 2)])
    with pytest.raises(UserError, match=words):
        datasets.load("instance_masks", root=tmp_path, **options)


def test_incomplete_cases_are_listed_together(tmp_path):
    for name in ("a", "b", "c", "d"):
        bowl(tmp_path, name, [block(0, 0, 2, 2)])
    (tmp_path / "a" / "images" / "a.png").unlink()
    save(tmp_path / "b" / "images" / "other.png", noise(*SHAPE))
    (tmp_path / "c" / "masks" / "0000.png").unlink()
    (tmp_path / "c" / "masks").rmdir()
    with pytest.raises(UserError) as caught:
        datasets.load("instance_masks", root=tmp_path)
    text = str(caught.value)
    assert "a should have one image at a/images/*, but has none" in text
    assert "b should have one image at b/images/*, but has 2 (b.png, other.png)" in text
    assert f"c has no folder of masks {tmp_path / 'c' / 'masks'}" in text and "; d " not in text


def test_bad_masks_are_listed_together(tmp_path):
    bowl(tmp_path, "a", [block(0, 0, 0, 0), block(0, 0, 2, 3), block(0, 0, 2, 3, (7, 5)), block(0, 0, 1, 1)])
    (tmp_path / "a" / "masks" / "0003.png").write_bytes(b"no picture")
    dataset = datasets.load("instance_masks", root=tmp_path)
    with pytest.raises(UserError) as caught:
        dataset.load(dataset.cases[0])
    text = str(caught.value)
    assert "a/images/a.png" in text and "0000.png marks no pixel, delete it" in text
    assert "0002.png has the shape (7, 5) and its image (5, 7)" in text and "0003.png should be a complete" in text
    assert "0001.png" not in text


@pytest.mark.parametrize(
    "change",
    [
        lambda root: save(root / "a" / "images" / "a.png", noise(*SHAPE, 3) // 2),
        lambda root: save(root / "a" / "masks" / "0001.png", block(0, 0, 1, 1)),
        lambda root: (root / "a" / "masks" / "0001.png").unlink(),
        lambda root: save(root / "a" / "masks" / "new.png", block(0, 0, 1, 1)),
    ],
)
def test_digest_of_masks(tmp_path, change):
    bowl(tmp_path, "a", OVERLAPPING)
    dataset = datasets.load("instance_masks", root=tmp_path)
    case = dataset.cases[0]
    before = dataset.digest(case)
    assert dataset.digest(case) == before
    change(tmp_path)
    assert dataset.digest(case) != before


def test_digest_follows_what_is_made_of_masks(tmp_path):
    bowl(tmp_path, "a", OVERLAPPING)
    options = [{}, {"target": "border"}, {"target": "border", "border_width": 2}, {"channels": ("grey",)}]
    made = [datasets.load("instance_masks", root=tmp_path, **chosen) for chosen in options]
    assert len({dataset.digest(dataset.cases[0]) for dataset in made}) == 4


def test_border_parts_touching_objects(tmp_path):
    bowl(tmp_path, "a", [block(0, 0, 4, 4), block(1, 4, 5, 7)])
    dataset = datasets.load("instance_masks", root=tmp_path, target="border")
    assert dataset.classes == ("background", "inside", "border") and dataset.label_values == (0, 1, 2)
    sample = dataset.load(dataset.cases[0])
    assert sample.objects is None and sample.label.data.dtype == np.int16
    expected = """
        2 2 2 2 0 0 0
        2 1 1 2 2 2 2
        2 1 1 2 2 1 2
        2 2 2 2 2 1 2
        0 0 0 0 2 2 2"""
    assert sample.label.data.tolist() == [list(map(int, line.split())) for line in expected.split("\n") if line.strip()]


def border_of(rows):
    """The map of border and inside of objects drawn as digits."""
    values = np.array([list(map(int, row)) for row in rows.split()], np.int16)
    masks = [values == number for number in range(1, values.max() + 1)]
    values, found = instances.object_map(
        [objects.cut(mask) for mask in masks], shape=values.shape, classes=[1] * len(masks)
    )
    return ["".join(map(str, row)) for row in instance_masks.border_map(values, found, width=1).tolist()]


@pytest.mark.parametrize(
    ("drawing", "expected"),
    [
        ("1100220003", "2222220002"),  # two pixels apart are, three are not
        ("110100", "220200"),  # one object with a gap
        ("1201001", "2222002"),
        ("1 0 2 0 0 3", "2 2 2 2 2 2"),
        ("1000 0000 0002", "2000 0000 0002"),
        ("10000 00000 00200", "20000 02000 00200"),
        ("00010 00000 00000 20000", "00020 00200 02000 20000"),
    ],
)
def test_narrow_background_between_objects_is_border(drawing, expected):
    assert border_of(drawing) == expected.split()


def between(values):
    """Background with different objects on its two sides, at most two pixels of it, pixel by pixel."""
    result = np.zeros(values.shape, bool)
    inside = {(y, x): values[y, x] for y, x in np.argwhere(values > 0)}
    for (y, x), value in inside.items():
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            for steps in (2, 3):
                gap = [(y + n * dy, x + n * dx) for n in range(1, steps)]
                other = inside.get((y + steps * dy, x + steps * dx), value)
                if other != value and not any(place in inside for place in gap):
                    result[tuple(zip(*gap, strict=True))] = True
    return result


@pytest.mark.parametrize("seed", range(3))
def test_border_map_finds_all_narrow_background(seed):
    draw = np.random.RandomState(seed)
    drawing = draw.randint(1, 5, (17, 23)) * (draw.rand(17, 23) < 0.2)
    values = drawing.astype(np.int16)
    found = border_of("\n".join("".join(map(str, row)) for row in drawing.tolist()))
    border = np.array([list(map(int, row)) for row in found]) == 2
    assert (border & (values == 0) == between(values)).all() and border[values > 0].mean() > 0.9


@pytest.mark.parametrize("width", [1, 2, 3])
def test_border_map_is_an_erosion_of_each_object(width):
    shape = (20, 31)
    masks = [
        block(0, 0, 9, 12, shape),
        block(5, 8, 17, 20, shape),
        block(7, 8, 9, 11, shape),
        block(9, 25, 10, 26, shape),
    ]
    values, found = instances.object_map([objects.cut(mask) for mask in masks], shape=shape, classes=[1] * 4)
    expected = np.zeros(shape, int)
    for mask in masks:
        padded = np.pad(mask, width)  # outside the image counts as background
        core = np.lib.stride_tricks.sliding_window_view(padded, (2 * width + 1,) * 2).all(axis=(-1, -2))
        expected = np.maximum(expected, np.where(core, 1, 2) * mask)
    expected[between(values)] = 2
    values[-1, -3:] = -1
    expected[-1, -3:] = -1
    assert (instance_masks.border_map(values, found, width=width) == expected).all()


def test_thousands_of_objects(tmp_path):
    ids = np.kron(np.arange(1, 3001).reshape(50, 60), np.pad(np.ones((4, 5), int), 2)).astype(np.uint16)
    save(tmp_path / "images" / "a.png", noise(*ids.shape))
    save(tmp_path / "labels" / "a.png", ids)
    options = {"images": "images/{stem}.png", "labels": "labels/{stem}.png"}
    begin = time.perf_counter()
    for target in ("objects", "border"):
        dataset = datasets.load("instance_masks", root=tmp_path, target=target, **options)
        sample = dataset.load(dataset.cases[0])
        if target == "objects":
            assert len(sample.objects.classes) == 3000 and (sample.label.data == ids).all()
        else:
            assert np.bincount(sample.label.data.ravel()).tolist()[1:] == [3000 * 2 * 3, 3000 * (4 * 5 - 2 * 3)]
    assert time.perf_counter() - begin < 6  # seconds; about one on a quiet machine


# COCO

SQUARE = [1, 1, 4, 1, 4, 3, 1, 3]  # pixels x 1 to 3, y 1 to 2


def annotation(number, image, category, segmentation, **more):
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation} | more


def write(root, annotations, **changes):
    """A COCO folder of two images, of which the second has another shape and is grey."""
    save(root / "images" / "x.png", noise(*SHAPE, 3))
    save(root / "images" / "sub" / "y.png", noise(9, 4))
    content = {
        "images": [
            {"id": 40, "file_name": "x.png", "height": 5, "width": 7},
            {"id": 7, "file_name": "sub/y.png", "height": 9, "width": 4},
        ],
        "categories": [{"id": 90, "name": "cell"}, {"id": 3, "name": "vessel"}, {"id": 17, "name": "nerve"}],
        "annotations": annotations,
    } | changes
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / "all.json").write_text(json.dumps(content))


def test_coco(tmp_path):
    compressed = run_length.encode(OVERLAPPING[3])
    compressed["counts"] = compressed["counts"].decode()
    plain = {"size": [5, 7], "counts": [10, 5, 20]}  # column by column: the third is full
    annotations = [
        annotation(1, 40, 90, [SQUARE, [5, 0, 7, 0, 7, 2, 5, 2]]),  # two polygons, one object
        annotation(2, 40, 3, compressed),
        annotation(3, 40, 17, plain, iscrowd=1),
        annotation(4, 40, 17, [[-9, 3, 2, 3, 2, 99, -9, 99]]),  # partly outside
        annotation(5, 40, 17, [[20, 20, 30, 20, 30, 30]]),  # wholly outside: left out
        annotation(6, 40, 17, [[1, 1, 3, 1, 5, 1]]),  # no area: left out
    ]
    write(tmp_path, annotations)
    dataset = datasets.load("coco", root=tmp_path)
    assert [case.name for case in dataset.cases] == ["sub_y", "x"]
    assert dataset.classes == ("background", "vessel", "nerve", "cell") and dataset.label_values == (0, 1, 2, 3)
    assert dataset.channels == ("red", "green", "blue") and dataset.regions is None and dataset.flip_pairs == ()
    sample = pickle.loads(pickle.dumps(dataset)).load(dataset.cases[1])
    expected = [block(1, 1, 3, 4) | block(0, 5, 2, 7), OVERLAPPING[3], block(0, 2, 5, 3), block(3, 0, 5, 2)]
    assert same(masks_of(sample), expected) and (sample.image.data == noise(*SHAPE, 3)).all()
    assert sample.objects.classes.tolist() == [3, 1, 2, 2]
    assert sample.objects.crowd.tolist() == [False, False, True, False]
    empty = dataset.load(dataset.cases[0])
    assert empty.image.data.shape == (9, 4, 3) and not empty.label.data.any() and len(empty.objects.classes) == 0
    assert datasets.check(dataset) == []


def test_coco_classes(tmp_path):
    square = [SQUARE]
    write(tmp_path, [annotation(1, 40, 90, square), annotation(2, 40, 3, square), annotation(3, 40, 17, square)])
    dataset = datasets.load("coco", root=tmp_path, classes=("background", "cell", "vessel"))
    assert dataset.classes == ("background", "cell", "vessel")
    assert dataset.load(dataset.cases[1]).objects.classes.tolist() == [1, 2]
    for classes in (("cell", "vessel"), ("background", "cel"), ("background",), ("background", "cell", "cell")):
        with pytest.raises(UserError, match=r"categories of .*all\.json \(vessel, nerve, cell\)"):
            datasets.load("coco", root=tmp_path, classes=classes)
    write(
        tmp_path, [annotation(1, 40, 0, square)], categories=[{"id": 0, "name": "background"}, {"id": 2, "name": "b"}]
    )
    dataset = datasets.load("coco", root=tmp_path)
    assert dataset.classes == ("background", "b") and masks_of(dataset.load(dataset.cases[1])) == []


def test_annotations_of_other_classes_need_no_mask(tmp_path):
    write(tmp_path, [annotation(1, 40, 90, []), annotation(2, 40, 3, [SQUARE])])
    dataset = datasets.load("coco", root=tmp_path, classes=("background", "vessel"))
    assert same(masks_of(dataset.load(dataset.cases[1])), [block(1, 1, 3, 4)])
    with pytest.raises(UserError, match="annotation 1 has no segmentation"):
        datasets.load("coco", root=tmp_path)


def test_coco_region_of_interest(tmp_path):
    write(tmp_path, [annotation(1, 40, 90, [SQUARE])])
    save(tmp_path / "roi" / "x.png", block(0, 0, 2, 7))
    with pytest.raises(UserError, match=r"sub_y should have one mask at .*roi/sub_y\.png, but has 0"):
        datasets.load("coco", root=tmp_path, roi="roi/{stem}.png")
    save(tmp_path / "roi" / "sub_y.png", block(0, 0, 9, 4, (9, 4)))
    dataset = datasets.load("coco", root=tmp_path, roi="roi/{stem}.png")
    found = dataset.load(dataset.cases[1]).label.data
    assert found.tolist() == [[0] * 7, [0, 1, 1, 1, 0, 0, 0]] + [[-1] * 7] * 3
    before = dataset.digest(dataset.cases[1])
    save(tmp_path / "roi" / "x.png", block(0, 0, 3, 7))
    assert dataset.digest(dataset.cases[1]) != before


def test_coco_places(tmp_path):
    write(tmp_path, [])
    (tmp_path / "annotations" / "all.json").rename(tmp_path / "images" / "val.json")
    with pytest.raises(UserError, match=r"expects one annotation file .* finds none"):
        datasets.load("coco", root=tmp_path)
    assert len(datasets.load("coco", root=tmp_path / "images").cases) == 2  # images and the only file in root itself
    assert len(datasets.load("coco", root=tmp_path, labels="images/val.json", images="images").cases) == 2
    with pytest.raises(UserError, match=r"there is no .*train\.json"):
        datasets.load("coco", root=tmp_path, labels="train.json")
    for name in ("a.json", "annotations/b.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=r"finds a\.json, annotations/b\.json; name it as data\.labels"):
        datasets.load("coco", root=tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"images": [', r"all\.json should be JSON"),
        ("[1]", r"all\.json should be a COCO file with a list 'images'"),
        ('{"images": [], "annotations": [3]}', r"a list 'annotations'"),
        ('{"images": [], "annotations": [], "categories": [{"name": "a"}]}', r"each category an id and a name"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', r"should list images"),
        ('{"images": [], "annotations": [], "categories": []}', r"data\.classes .* \(none\)"),
    ],
)
def test_broken_coco_files(tmp_path, text, words):
    write(tmp_path, [])
    (tmp_path / "annotations" / "all.json").write_text(text)
    with pytest.raises(UserError, match=words):
        datasets.load("coco", root=tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_id": 41}, "annotation 12 names the unknown image 41"),
        ({"image_id": [40]}, r"annotation 12 names the unknown image \[40\]"),
        ({"category_id": 4}, "annotation 12 names the unknown category 4"),
        ({"segmentation": [SQUARE, [1, 1, 3, 3]]}, "annotation 12 has a polygon of 2 points, which needs 3"),
        ({"segmentation": [[1, 1, 3, 3, 5, 5, 6]]}, "annotation 12 has a polygon with an odd number"),
        ({"segmentation": [[1, 1, 3, 3, 5, None]]}, "annotation 12 has a polygon with a coordinate"),
        ({"segmentation": [[1, 1, 3, 3, 5, 1e12]]}, "annotation 12 has a polygon with a coordinate"),
        ({"segmentation": [[1, 1, 3, 3, 5, float("nan")]]}, "annotation 12 has a polygon with a coordinate"),
        ({"segmentation": SQUARE}, r"annotation 12 has no segmentation of polygons \[\[x, y"),
        ({"segmentation": []}, "annotation 12 has no segmentation"),
        ({"segmentation": None}, "annotation 12 has no segmentation"),
        ({"segmentation": {"counts": [35]}}, "annotation 12 has a run length without size"),
    ],
)
def test_bad_annotations(tmp_path, changes, words):
    write(tmp_path, [annotation(11, 40, 3, [SQUARE]), annotation(12, 40, 3, [SQUARE]) | changes])
    with pytest.raises(UserError, match=words) as caught:
        datasets.load("coco", root=tmp_path)
    assert "all.json" in str(caught.value) and "correct or remove it" in str(caught.value)


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ({"size": [7, 5], "counts": [35]}, r"has the size \[7, 5\] in an image of \[5, 7\]"),
        ({"size": [5, 7], "counts": [3, 4]}, "do not add up to the 35 pixels"),
        ({"size": [5, 7], "counts": [3, 4, 99]}, "do not add up to the 35 pixels"),
        ({"size": [5, 7], "counts": [40, -5]}, "do not add up to the 35 pixels"),
        ({"size": [5, 7], "counts": "5"}, "do not add up to the 35 pixels"),
        ({"size": [5, 7], "counts": "5S"}, "break off"),
        ({"size": [5, 7], "counts": "5 "}, "the unknown letter ' '"),
    ],
)
def test_bad_run_lengths_are_listed_together(tmp_path, segmentation, words):
    write(tmp_path, [annotation(number, 40, 3, segmentation) for number in (8, 9)])
    dataset = datasets.load("coco", root=tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        dataset.load(dataset.cases[1])
    assert all(part in str(caught.value) for part in ("x.png", "all.json", "annotation 8", "annotation 9"))


@pytest.mark.parametrize("seed", range(4))
def test_compressed_run_lengths_unpack_as_pycocotools_packs(seed):
    draw = np.random.RandomState(seed)
    mask = draw.rand(41, 67) < 0.5 if seed % 2 else np.kron(draw.rand(4, 3) < 0.5, np.ones((97, 211))) > 0
    text = run_length.encode(mask)["counts"].decode()
    flat = mask.ravel(order="F").astype(int)
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *ends, flat.size]).tolist()
    assert coco.unpack(text) == ([0] if flat[0] else []) + runs


@pytest.mark.parametrize("seed", range(6))
def test_polygons_are_drawn_as_pycocotools_does(seed):
    from pycocotools import mask as reference

    draw = np.random.RandomState(seed)
    polygons = [(draw.rand(2 * draw.randint(3, 9)) * 60 - 5).round(1).tolist() for _ in range(1 + seed % 3)]
    whole = np.zeros((37, 53), bool)
    (top, left), mask = coco.cut(coco.runs(polygons, *whole.shape), 37)
    whole[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    assert (whole == (reference.decode(reference.frPyObjects(polygons, *whole.shape)) > 0).any(axis=-1)).all()
    assert mask.any(axis=1)[[0, -1]].all() and mask.any(axis=0)[[0, -1]].all()  # the box is tight
    assert coco.cut([0, 0, 20, 0, 15], 5) is None


def test_missing_and_odd_images(tmp_path):
    rows = [{"id": number, "file_name": f"{number}.png"} for number in range(12)]
    write(tmp_path, [], images=rows)
    with pytest.raises(UserError, match=r"0\.png is missing.*/9\.png is missing, add it \.\.\. and 2 more") as caught:
        datasets.load("coco", root=tmp_path)
    assert "10.png" not in str(caught.value)
    write(
        tmp_path,
        [],
        images=[{"id": 1, "file_name": "x.png"}, {"id": 1, "file_name": "sub/y.png"}, {"id": 2, "file_name": "."}],
    )
    with pytest.raises(UserError, match=r"sub/y\.png'\} has no id of its own.*\{'id': 2, .* has no id"):
        datasets.load("coco", root=tmp_path)
    write(tmp_path, [], images=[{"id": 1, "file_name": "x.png", "height": 7, "width": 5}])
    dataset = datasets.load("coco", root=tmp_path)
    with pytest.raises(UserError, match=r"x\.png should have the size \(7, 5\) .* but has \(5, 7\)"):
        dataset.load(dataset.cases[0])


def test_digest_of_coco(tmp_path):
    def digests():
        dataset = datasets.load("coco", root=tmp_path)
        return {case.name: dataset.digest(case) for case in dataset.cases}

    write(tmp_path, [annotation(1, 40, 90, [SQUARE])])
    first = digests()
    assert digests() == first
    write(tmp_path, [annotation(1, 40, 90, [SQUARE]), annotation(2, 7, 3, [SQUARE])])
    second = digests()
    assert second["x"] == first["x"] and second["sub_y"] != first["sub_y"]
    write(tmp_path, [annotation(1, 40, 3, [SQUARE]), annotation(2, 7, 3, [SQUARE])])
    third = digests()
    assert third["x"] != second["x"] and third["sub_y"] == second["sub_y"]
    save(tmp_path / "images" / "x.png", noise(*SHAPE, 3) // 2)
    assert digests()["x"] != third["x"] and digests()["sub_y"] == third["sub_y"]


def test_thousands_of_annotations(tmp_path):
    corners = [(8 * column, 8 * row) for row in range(50) for column in range(60)]
    polygons = [[[x + 2, y + 3, x + 6, y + 3, x + 6, y + 6, x + 2, y + 6]] for x, y in corners]
    rows = [annotation(number, 1, 3, polygon) for number, polygon in enumerate(polygons)]
    write(tmp_path, rows, images=[{"id": 1, "file_name": "big.png"}])
    save(tmp_path / "images" / "big.png", noise(400, 480))
    begin = time.perf_counter()
    dataset = datasets.load("coco", root=tmp_path)
    sample = dataset.load(dataset.cases[0])
    assert time.perf_counter() - begin < 4  # seconds; below one on a quiet machine
    assert len(sample.objects.classes) == 3000 and (np.bincount(sample.label.data.ravel())[1:] == 4 * 3).all()


@pytest.mark.realdata
def test_nuclei(data_root):
    with (data_root / "dsb2018_nuclei" / "cases.csv").open(newline="") as file:
        known = {row["id"]: row for row in csv.DictReader(file)}
    dataset = datasets.load("instance_masks", root=data_root / "dsb2018_nuclei" / "stage1_train")
    assert len(dataset.cases) == 100 and {case.name for case in dataset.cases} == set(known)
    assert sum(int(row["instances"]) for row in known.values()) == 4454
    for case in dataset.cases:
        row, sample = known[case.name], dataset.load(case)
        assert sample.image.data.shape == (int(row["height"]), int(row["width"]), 3)
        assert sample.label.data.shape == sample.image.data.shape[:2]
        assert len(sample.objects.classes) == int(row["instances"])
        assert set(np.unique(sample.label.data)) == set(range(len(sample.objects.members)))
