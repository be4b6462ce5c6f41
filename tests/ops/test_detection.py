"""Boxes, suppression, RoIAlign, mask pasting: torchvision's recorded values, plain loops and simple truths."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from annotations import unchecked

from jaxseg import ops

CODE = (10.0, 10.0, 5.0, 5.0)


@pytest.fixture(scope="module")
def recorded(golden):
    return dict(np.load(golden / "ops_detection.npz"))


def random_boxes(rng, count, extent=100.0):
    corner, side = rng.uniform(0, extent, (count, 2)), rng.uniform(2, extent / 3, (count, 2))
    return np.concatenate([corner, corner + side], axis=1).astype(np.float32)


def greedy(boxes, scores, groups, threshold):
    """The textbook loop."""
    overlaps = np.asarray(ops.box_iou(boxes, boxes))
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if all(overlaps[i, j] <= threshold for j in kept if groups[j] == groups[i]):
            kept.append(i)
    return kept


def test_overlaps_of_boxes_by_hand():
    first = np.array([[0, 0, 4, 3], [2, 2, 2, 5]], np.float32)  # 12 square pixels, and an empty box
    second = np.array([[2, 1, 6, 3], [0, 0, 4, 3], [8, 6, 9, 8]], np.float32)  # 8, 12 and 2
    np.testing.assert_allclose(ops.box_intersection(first, second), [[4, 12, 0], [0, 0, 0]])
    np.testing.assert_allclose(ops.box_iou(first, second), [[4 / 16, 1, 0], [0, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(ops.box_coverage(first, second), [[4 / 12, 1, 0], [0, 0, 0]], rtol=1e-6)
    # hulls of the first box: 6x3, 4x3 and 9x8
    expected = [4 / 16 - 2 / 18, 1, -(72 - 14) / 72]
    np.testing.assert_allclose(ops.generalized_box_iou(first, second)[0], expected, rtol=1e-6)


def test_share_of_a_box_in_a_mask():
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:] = True
    boxes = [[2, 1, 6, 3], [0, 0, 6, 4], [-3, 1, 3, 2], [1.6, 0.4, 2.4, 3.6], [8, 8, 9, 9], [3, 2, 3, 3]]
    expected = [1, 8 / 24, 1 / 3, 0, 0, 0]  # clipped to the image, then rounded: the fourth has no width
    np.testing.assert_allclose(ops.box_mask_share(np.array(boxes, np.float32), jnp.asarray(mask)), expected, rtol=1e-6)


def test_overlaps_equal_torchvision(recorded):
    boxes = recorded["nms_boxes"]
    for name, function in (("box_iou", ops.box_iou), ("generalized_box_iou", ops.generalized_box_iou)):
        np.testing.assert_allclose(function(boxes[:40], boxes[40:80]), recorded[name], atol=1e-6)


def test_box_code_equals_torchvision(recorded):
    boxes = recorded["nms_boxes"]
    deltas = ops.encode_boxes(boxes[:40], boxes[40:80], weights=CODE)
    np.testing.assert_allclose(deltas, recorded["box_encode_w10_10_5_5"], rtol=1e-5, atol=1e-5)
    decoded = ops.decode_boxes(recorded["box_deltas"], boxes[:40], weights=CODE)
    np.testing.assert_allclose(decoded, recorded["box_decode_w10_10_5_5"], rtol=1e-5, atol=1e-4)


def test_decoding_inverts_encoding_and_limits_growth():
    rng = np.random.default_rng(3)
    boxes, anchors = random_boxes(rng, 30), random_boxes(rng, 30)
    back = ops.decode_boxes(ops.encode_boxes(boxes, anchors, weights=CODE), anchors, weights=CODE)
    np.testing.assert_allclose(back, boxes, atol=1e-3)
    huge = ops.decode_boxes(np.full((1, 4), 99.0, np.float32), np.array([[0, 0, 2, 4]], np.float32))[0]
    np.testing.assert_allclose([huge[2] - huge[0], huge[3] - huge[1]], [2 * 62.5, 4 * 62.5], rtol=1e-5)


def test_clipping():
    boxes = np.array([[[-3, 4, 90, 70]], [[5, -6, 8, 9]]], np.float32)
    found = ops.clip_boxes(boxes, np.array([[[50, 60]], [[7, 6]]], np.float32))
    np.testing.assert_array_equal(found, [[[0, 4, 60, 50]], [[5, 0, 6, 7]]])


def test_anchors_equal_torchvision(recorded):
    levels = ops.make_anchors((128, 128), [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2)])
    np.testing.assert_array_equal(np.concatenate(levels), recorded["anchors_128px_fpn"])


def test_anchors_by_hand():
    (level,) = ops.make_anchors((16, 24), [(2, 3)], sizes=[(8, 32)], ratios=(0.5,), offset=0.5)
    assert level.shape == (12, 4)  # 6 cells, 2 shapes
    # ratio 0.5: 8 / sqrt(0.5) = 11.3 wide, 5.7 high; half of it, rounded: 6 and 3. Cell (1, 2) is centred at (12, 20)
    np.testing.assert_array_equal(level[10], [20 - 6, 12 - 3, 20 + 6, 12 + 3])
    np.testing.assert_array_equal(level[11], [20 - 23, 12 - 11, 20 + 23, 12 + 11])
    with pytest.raises(ValueError, match="one anchor size a level, 1; got 2"):
        ops.make_anchors((16, 24), [(2, 3)], sizes=(8, 16))


def test_levels():
    side = np.array([1, 111, 113, 224, 447, 449, 5000], np.float32)
    boxes = np.stack([np.zeros(7), np.zeros(7), side, side], axis=1).astype(np.float32)
    np.testing.assert_array_equal(ops.pyramid_level(boxes), [2, 2, 3, 4, 4, 5, 5])
    np.testing.assert_array_equal(ops.pyramid_level(boxes, canonical_size=56.0), [2, 4, 5, 5, 5, 5, 5])


@pytest.mark.parametrize(("name", "threshold"), [("nms_keep_iou05", 0.5), ("nms_keep_iou03", 0.3)])
def test_suppression_equals_torchvision(recorded, name, threshold):
    index, valid = ops.nms(recorded["nms_boxes"], recorded["nms_scores"], threshold=threshold)
    np.testing.assert_array_equal(index[valid], recorded[name])


def test_suppression_by_class_equals_torchvision(recorded):
    boxes, scores, labels = (recorded[f"nms_{name}"] for name in ("boxes", "scores", "labels"))
    index, valid = ops.batched_nms(boxes, scores, labels, threshold=0.5)
    np.testing.assert_array_equal(index[valid], recorded["batched_nms_keep_iou05"])


def test_suppression_equals_the_loop():
    find = jax.jit(lambda *given: ops.batched_nms(*given, threshold=0.4))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        boxes, groups = random_boxes(rng, 150, extent=60), rng.integers(0, 3, 150).astype(np.int32)
        scores = np.round(rng.random(150), 2).astype(np.float32)  # with ties
        index, valid = find(boxes, scores, groups)
        assert index[valid].tolist() == greedy(boxes, scores, groups, 0.4)


def test_a_long_chain_of_overlaps():
    """Each box overlaps its neighbours only: every second one stays, which takes as many rounds as there are boxes."""
    x = 4.0 * np.arange(41)
    boxes = np.stack([x, np.zeros(41), x + 10, np.full(41, 3.0)], axis=1).astype(np.float32)
    index, valid = ops.nms(boxes, np.linspace(1, 0.5, 41).astype(np.float32), threshold=0.3)
    np.testing.assert_array_equal(index[valid], np.arange(0, 41, 2))


def test_suppression_is_stable_under_padding_and_repetition():
    rng = np.random.default_rng(5)
    boxes, scores = random_boxes(rng, 60), rng.random(60).astype(np.float32)
    index, valid = ops.nms(boxes, scores, threshold=0.3)
    kept = np.asarray(index[valid])
    padded = np.concatenate([np.zeros((9, 4), np.float32), boxes])
    present = np.arange(69) >= 9
    index, valid = ops.nms(padded, np.concatenate([np.full(9, 2.0, np.float32), scores]), threshold=0.3, valid=present)
    np.testing.assert_array_equal(np.asarray(index[valid]) - 9, kept)
    again, valid = ops.nms(boxes[kept], scores[kept], threshold=0.3)
    np.testing.assert_array_equal(again[valid], np.arange(len(kept)))
    first, valid = ops.nms(boxes, scores, threshold=0.3, max_output=4)
    assert first.shape == (4,) and valid.all()
    np.testing.assert_array_equal(first, kept[:4])
    nothing, valid = ops.nms(boxes, scores, threshold=0.3, valid=np.zeros(60, bool))
    assert nothing.shape == (60,) and not valid.any()


@pytest.mark.parametrize(
    ("sampling", "method"), [(2, "matrix"), (2, "gather"), (2, "window"), (-1, "matrix"), (-1, "window")]
)
@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_equals_torchvision(recorded, aligned, sampling, method):
    features = np.moveaxis(recorded["roi_features"], 1, -1)
    expected = recorded[f"roi_align_out7_scale0.25_aligned{int(aligned)}_sampling{sampling}"]
    boxes, image = recorded["roi_boxes_xyxy"], recorded["roi_batch_index"]
    options = {"output_size": 7, "scale": 0.25, "aligned": aligned, "sampling_ratio": sampling, "method": method}
    found = ops.roi_align(features, np.broadcast_to(boxes, (2, *boxes.shape)), **options)
    found = np.moveaxis(np.asarray(found)[image, np.arange(len(image))], -1, 1)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("method", ["matrix", "gather", "window"])
def test_roi_align_of_a_ramp_is_the_ramp_at_the_cells(method):
    y, x = np.mgrid[:20, :30].astype(np.float32)
    ramp = (2 * y + 3 * x)[None, ..., None]
    box = np.array([[[10.0, 6.0, 24.0, 18.0]]], np.float32)
    found = ops.roi_align(ramp, box, output_size=4, method=method)[0, 0, ..., 0]
    rows, columns = 6 + 3 * (np.arange(4) + 0.5) - 0.5, 10 + 3.5 * (np.arange(4) + 0.5) - 0.5
    np.testing.assert_allclose(found, 2 * rows[:, None] + 3 * columns[None], rtol=1e-5)


def test_each_box_is_read_from_its_own_level():
    rng = np.random.default_rng(2)
    pyramid = [rng.standard_normal((2, 24 // 2**k, 32 // 2**k, 3)).astype(np.float32) for k in range(3)]
    boxes = np.stack([random_boxes(rng, 7, extent=60) for _ in range(2)])
    levels = rng.integers(0, 3, (2, 7)).astype(np.int32)
    scales = [1 / 4, 1 / 8, 1 / 16]
    alone = [np.asarray(ops.roi_align(f, boxes, output_size=5, scale=s)) for f, s in zip(pyramid, scales)]
    expected = np.take_along_axis(np.stack(alone), levels[None, ..., None, None, None], axis=0)[0]
    for method in ("matrix", "gather", "window", "auto"):
        found = ops.pyramid_roi_align(pyramid, boxes, levels, output_size=5, scales=scales, method=method)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("sampling", [2, -1])
def test_windows_of_every_kind(sampling):
    """Small and large, wide and tall boxes, some beyond the map; on a map smaller than any window too."""
    rng = np.random.default_rng(7)
    pyramid = [jnp.asarray(rng.standard_normal((2, *size, 2)), jnp.float32) for size in ((48, 70), (24, 35), (9, 11))]
    boxes = [[4, 4, 30, 40], [0, 8, 280, 30], [60, 0, 75, 192], [-40, -9, 90, 70], [250, 150, 330, 240], [9, 9, 9, 9]]
    boxes = np.broadcast_to(np.array(boxes * 3, np.float32), (2, 18, 4))
    levels = np.broadcast_to(np.repeat(np.arange(3, dtype=np.int32), 6), (2, 18))
    wanted = rng.standard_normal((2, 18, 5, 5, 2)).astype(np.float32)

    def run(maps, method):
        options = {"output_size": 5, "scales": [1 / 4, 1 / 8, 1 / 20], "sampling_ratio": sampling, "method": method}
        found = ops.pyramid_roi_align(maps, boxes, levels, **options)
        return (found * wanted).sum(), found

    gradients, values = zip(*(jax.grad(run, has_aux=True)(pyramid, method) for method in ("matrix", "window")))
    np.testing.assert_allclose(*values, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *gradients)
    assert all(np.abs(leaf).max() > 0.1 for leaf in gradients[1])


def test_all_formulations_have_the_same_gradient():
    rng = np.random.default_rng(4)
    pyramid = [jnp.asarray(rng.standard_normal((1, 12, 16, 2)), jnp.float32), jnp.ones((1, 6, 8, 2))]
    boxes, levels = random_boxes(rng, 6, extent=40)[None], np.array([[0, 1, 0, 0, 1, 1]], np.int32)
    wanted = rng.standard_normal((1, 6, 3, 3, 2)).astype(np.float32)

    def loss(maps, method):
        found = ops.pyramid_roi_align(maps, boxes, levels, output_size=3, scales=[0.25, 0.125], method=method)
        return (found * wanted).sum()

    gradients = [jax.grad(loss)(pyramid, method) for method in ("matrix", "gather", "window")]
    for other in gradients[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients[0], other)
    assert all(np.abs(leaf).max() > 0.1 for leaf in gradients[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling_ratio": 0}, "sampling_ratio should be 1 or more"),
        ({"method": "loop"}, 'method should be "auto", "matrix", "gather" or "window"'),
        ({"method": "gather", "sampling_ratio": -1}, "matrix formulation only"),
    ],
)
def test_roi_align_refuses(change, message):
    with pytest.raises(ValueError, match=message), unchecked():
        ops.roi_align(np.ones((1, 6, 5, 2), np.float32), np.ones((1, 3, 4), np.float32), output_size=2, **change)


def test_pasting_equals_torchvision(recorded):
    masks, boxes = recorded["paste_masks"][:, 0], recorded["paste_boxes"]
    found = ops.paste_masks(masks, boxes, size=(64, 80), method="torchvision")
    np.testing.assert_allclose(found, recorded["paste_out_64x80"][:, 0], atol=1e-5)


def test_both_ways_of_pasting_agree_about_the_object():
    disc = np.hypot(*(np.mgrid[:28, :28] - 13.5)) < 12
    masks = np.stack([disc] * 2).astype(np.float32)
    boxes = np.array([[3.3, 5.8, 44.1, 50.2], [20.5, 1.5, 77.5, 40.0]], np.float32)
    grid, rounded = (
        np.asarray(ops.paste_masks(masks, boxes, size=(64, 80), method=method)) > 0.5
        for method in ("grid", "torchvision")
    )
    overlap = (grid & rounded).sum((1, 2)) / (grid | rounded).sum((1, 2))
    assert overlap.min() > 0.95


def test_pasting_by_hand():
    found = np.asarray(
        ops.paste_masks(
            np.ones((2, 8, 8), np.float32), np.array([[3, 2, 7, 8], [0, 0, 0, 0]], np.float32), size=(9, 11)
        )
    )
    assert (found[0] > 0.5).sum() == 4 * 6 and (found[0, 2:8, 3:7] > 0.5).all()
    assert found[0, :, 9:].max() == 0 and np.isfinite(found[1]).all()
    with pytest.raises(ValueError, match='"grid" or "torchvision"'), unchecked():
        ops.paste_masks(np.ones((1, 2, 2), np.float32), np.ones((1, 4), np.float32), size=(4, 5), method="nearest")


def test_suppression_and_alignment_trace_once_under_jit_and_vmap():
    rng = np.random.default_rng(6)
    boxes, scores = np.stack([random_boxes(rng, 20) for _ in range(3)]), rng.random((3, 20)).astype(np.float32)
    together = jax.jit(jax.vmap(lambda b, s: ops.nms(b, s, threshold=0.2)))(boxes, scores)
    for row in range(3):
        index, valid = ops.nms(boxes[row], scores[row], threshold=0.2)
        np.testing.assert_array_equal(together[0][row], index)
        np.testing.assert_array_equal(together[1][row], valid)
    assert math.prod(together[0].shape) == 60
