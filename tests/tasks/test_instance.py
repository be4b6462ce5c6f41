"""Mask R-CNN as a Task: what a patch shows, mask targets, and steps that learn, with objects and without."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import models, ops, predict, tasks
from jaxseg.data import instances
from jaxseg.tasks.instance import mask_targets, object_layers, visible_objects
from jaxseg.typing import IGNORE

TINY = {
    "backbone": "resnet18",
    "backbone_fields": {"blocks": (1, 1, 1, 1), "width": 8},
    "features": 16,
    "box_features": 128,
    "mask_features": 16,
    "mask_convs": 2,
    "anchor_sizes": (8, 16, 32, 64, 128),
    "canonical_size": 32.0,
    "proposals_before": 64,
    "proposals_after": 32,
    "training_proposals_before": 64,
    "training_proposals_after": 32,
    "max_detections": 8,
    "norm": "group8",
}
SAMPLING = tasks.Sampling(anchors=32, boxes=32)
SIZE = (64, 96)


def scene(rng, count):
    """Rectangles on grey ground: tall and bright (class 1), or wide and dark (class 2); (image, map, objects)."""
    image, masks, classes = rng.normal(0, 0.1, (*SIZE, 1)).astype(np.float32), [], []
    for number in range(count):
        wide = bool(rng.integers(2))
        height, width = (10, 22) if wide else (22, 10)
        top, left = int(rng.integers(0, SIZE[0] - height)), 32 * number + int(rng.integers(0, 32 - width))
        image[top : top + height, left : left + width] += -2.0 if wide else 2.0
        masks.append(((top, left), np.ones((height, width), bool)))
        classes.append(2 if wide else 1)
    return image, *instances.object_map(masks, shape=SIZE, classes=classes)


def batch_of(scenes, most=5):
    """Pads and stacks."""
    result = {"image": [], "label": [], "members": [], "classes": [], "crowd": []}
    for image, values, objects in scenes:
        short = most - len(objects.classes)
        result["image"].append(image)
        result["label"].append(values.astype(np.int32))
        members = np.zeros((8, 2), np.int32)
        members[: len(objects.members), : objects.members.shape[1]] = objects.members
        result["members"].append(members)
        result["classes"].append(np.pad(objects.classes, (0, short)))
        result["crowd"].append(np.pad(objects.crowd, (0, short)))
    return {name: jnp.asarray(np.stack(values)) for name, values in result.items()}


@pytest.fixture(scope="module")
def built():
    """The task with its first parameters, and its compiled loss with gradients."""
    task = tasks.instance(models.create("mask_rcnn", num_classes=3, **TINY), max_objects=4, sampling=SAMPLING)
    params, extra = jax.jit(task.init)(jax.random.key(0), jnp.zeros((1, *SIZE, 1)))
    # It runs some 250 times: LLVM's optimisations, which tests leave out, pay for once.
    options = {"xla_backend_optimization_level": 1}
    gradients = jax.jit(jax.value_and_grad(task.losses["model"], has_aux=True), compiler_options=options)
    return task, params, extra, gradients


def test_what_a_patch_shows():
    """Three objects, the second over the first, one a crowd; cropped so that the third has left."""
    ones = np.ones((5, 8), bool)
    values, objects = instances.object_map(
        [((2, 3), ones), ((4, 6), ones), ((20, 20), ones), ((12, 2), ones[:2])],
        shape=(30, 40), classes=[1, 2, 1, 2], crowd=[False, False, False, True],
    )  # fmt: skip
    label, rest = jnp.asarray(values[:16, :18], jnp.int32), map(jnp.asarray, (objects.classes, objects.crowd))
    given = (label, jnp.asarray(objects.members), *rest)
    assert (object_layers(*given[:2]) > 0).sum() == 2 * 40 + 16  # the overlap is in two layers
    found = visible_objects(*given, most=4)
    np.testing.assert_array_equal(found.boxes, [[3, 2, 11, 7], [6, 4, 14, 9], [2, 12, 10, 14], [0, 0, 1, 1]])
    assert found.labels.tolist() == [1, 2, 2, 0] and found.numbers.tolist()[:3] == [1, 2, 4]
    assert found.valid.tolist() == [True, True, False, False] and found.crowd.tolist() == [False, False, True, False]
    assert found.cut == 0 and not found.ignored.any()
    few = visible_objects(*given, most=2)
    assert few.cut == 1 and few.numbers.tolist() == [1, 2]


def test_ignored_pixels_show_nothing():
    layers = object_layers(jnp.array([[-1, 1], [0, -1]]), jnp.array([[0], [7]]))
    np.testing.assert_array_equal(layers[..., 0], [[0, 7], [0, 0]])


def test_mask_targets_are_roi_align_of_the_objects_own_mask():
    rng = np.random.default_rng(3)
    _, values, objects = scene(rng, 3)
    layers = object_layers(jnp.asarray(values, jnp.int32), jnp.asarray(objects.members))
    rois = jnp.array([[2.5, 3.0, 40.0, 60.0], [30.0, 1.0, 62.0, 50.5]])
    numbers = jnp.array([1, 2])
    found = mask_targets(layers, numbers, rois, size=7, aligned=True)
    masks = (np.asarray(layers) == np.array([1, 2])).astype(np.float32)[None]  # (1, H, W, 2)
    expected = ops.roi_align(masks, rois[None], output_size=7, sampling_ratio=-1)[0]
    np.testing.assert_allclose(found, np.stack([expected[0, ..., 0], expected[1, ..., 1]]), atol=1e-5)
    # a box around its object is full of it
    given = (objects.members, objects.classes, objects.crowd)
    tight = visible_objects(jnp.asarray(values, jnp.int32), *map(jnp.asarray, given), most=3)
    full = mask_targets(layers, tight.numbers, tight.boxes, size=7, aligned=True)
    assert full.min() > 0.7 and full[:, 1:-1, 1:-1].min() > 0.999


def test_five_losses_are_reported_and_an_empty_image_trains(built):
    _, params, extra, step = built
    rng = np.random.default_rng(0)
    for scenes in ([scene(rng, 3), scene(rng, 0)], [scene(rng, 0), scene(rng, 0)]):
        (value, (figures, _)), gradients = step(params, extra, batch_of(scenes), jax.random.key(1))
        names = {name for name in figures if name.startswith("loss/")}
        assert names == {"loss/objectness", "loss/anchor_box", "loss/class", "loss/box", "loss/mask"}
        np.testing.assert_allclose(value, sum(figures[name] for name in names), rtol=1e-5)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert figures["loss/mask"] == 0 and figures["loss/box"] == 0 and figures["positives"] == 0


def test_outside_the_region_of_interest_nothing_is_background(built):
    """What an object outside of it looks like does not matter to any head: its boxes are neither drawn nor counted."""
    _, params, extra, step = built
    image, values, objects = scene(np.random.default_rng(0), 0)
    nowhere = np.full_like(values, IGNORE)
    batch = batch_of([(image, nowhere, objects)] * 2)
    (value, (figures, _)), gradients = step(params, extra, batch, jax.random.key(1))
    assert value == 0 and all(not leaf.any() for leaf in jax.tree.leaves(gradients)), figures
    right = values.copy()
    right[:, SIZE[1] // 2 :] = IGNORE
    (_, (figures, _)), _ = step(params, extra, batch_of([(image, right, objects)] * 2), jax.random.key(1))
    assert figures["loss/objectness"] > 0 and figures["loss/class"] > 0


def test_padding_and_the_order_of_objects_do_not_matter(built):
    _, params, extra, step = built
    image, values, objects = scene(np.random.default_rng(5), 3)
    order = [2, 0, 1]
    new_number = {old + 1: place + 1 for place, old in enumerate(order)}
    members = np.vectorize(lambda number: new_number.get(number, 0))(objects.members).astype(np.int32)
    shuffled = objects._replace(classes=objects.classes[order], members=members)
    first = step(params, extra, batch_of([(image, values, objects)] * 2), jax.random.key(1))[0][0]
    second = step(params, extra, batch_of([(image, values, shuffled)] * 2), jax.random.key(1))[0][0]
    np.testing.assert_allclose(first, second, rtol=1e-4)


def test_crowds_are_neither_found_nor_background(built):
    """Everything is a crowd: no anchor is drawn, so that nothing is learnt from the image."""
    _, params, extra, step = built
    image = np.zeros((*SIZE, 1), np.float32)
    values, objects = instances.object_map([((0, 0), np.ones(SIZE, bool))], shape=SIZE, classes=[1], crowd=[True])
    (_, (figures, _)), _ = step(params, extra, batch_of([(image, values, objects)] * 2), jax.random.key(2))
    # anchors reach beyond the image, and those that do by half lie less than half in the crowd: all others are left out
    assert figures["positives"] == 0 and figures["loss/class"] == 0 and figures["loss/mask"] == 0


def test_one_trace_serves_all_images_of_a_bucket(built):
    """Whatever the number of objects in training, and whatever the size of the image in prediction."""
    task, params, extra, _ = built
    traces = {"train": 0, "predict": 0}

    def loss(params, extra, batch, key):
        traces["train"] += 1
        return task.losses["model"](params, extra, batch, key)[0]

    def detect(image, size):
        traces["predict"] += 1
        return task.predict({"params": params, "extra": extra}, image, size)

    step, detector = jax.jit(loss), jax.jit(detect)
    rng = np.random.default_rng(3)
    for number in range(4):
        step.trace(params, extra, batch_of([scene(rng, number % 4), scene(rng, 0)]), jax.random.key(number))
    for size in (SIZE, (40, 50), (100, 131)):
        predict.predict_instances(detector, rng.normal(size=(*size, 1)).astype(np.float32), window=SIZE)
    assert traces == {"train": 1, "predict": 1}


def test_it_learns_two_scenes(built):
    """The loss falls to a fifth, and the objects are found with their classes and masks."""
    task, params, extra, step = built
    rng = np.random.default_rng(2)
    scenes = [scene(rng, 3), scene(rng, 2)]
    batch = batch_of(scenes)
    rate = optax.warmup_cosine_decay_schedule(0.0, 2e-3, 30, 250)  # without a warm-up the box head's ReLUs may die
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rate))
    state, losses = optimizer.init(params), []
    apply = jax.jit(lambda p, s, g: (lambda u, s: (optax.apply_updates(p, u), s))(*optimizer.update(g, s)))
    for number in range(250):
        (value, (_, extra)), gradients = step(params, extra, batch, jax.random.key(number))
        params, state = apply(params, state, gradients)
        losses.append(float(value))
    assert np.mean(losses[-20:]) < losses[0] / 5
    found = jax.jit(task.predict)({"params": params, "extra": extra}, batch["image"])
    for row in range(len(scenes)):
        layers = object_layers(batch["label"][row], batch["members"][row])
        given = (batch[name][row] for name in ("label", "members", "classes", "crowd"))
        truth = visible_objects(*given, most=4)
        sure = np.asarray(found["valid"][row] & (found["scores"][row] > 0.5))
        overlaps = np.asarray(ops.box_iou(truth.boxes, found["boxes"][row])) * sure
        best = overlaps.argmax(1)[np.asarray(truth.valid)]
        assert overlaps.max(1)[np.asarray(truth.valid)].min() > 0.6
        np.testing.assert_array_equal(np.asarray(found["labels"][row])[best], np.asarray(truth.labels)[: len(best)])
        pasted = ops.paste_masks(found["masks"][row], found["boxes"][row], size=SIZE) > 0.5
        for number, place in enumerate(best):
            mask = (layers == truth.numbers[number]).any(-1)
            assert (pasted[place] & mask).sum() / (pasted[place] | mask).sum() > 0.6
