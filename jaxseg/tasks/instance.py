"""Instance segmentation as a Task: Mask R-CNN's targets, sampling and five losses on object maps.

A batch is {"image" (B, H, W, C), "label" (B, H, W) object map, "members" (B, V, L), "classes" (B, M), "crowd" (B, M)}
(see `typing.Objects`; padded with zeros). Boxes and masks are taken from the map after augmentation, so whatever moves
a label map moves the objects, and those that left the patch are gone. Boxes that lie by more than half in crowd regions
or in IGNORE pixels (outside the region of interest) are never taught as background.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxseg import ops
from jaxseg.losses import detection
from jaxseg.models import proposals
from jaxseg.typing import IGNORE, Task


class Truth(NamedTuple):
    """The G largest objects that a patch shows.

    Attributes:
      boxes: xyxy; [0, 0, 1, 1] where there is none.
      labels: class ids; 0 where there is none.
      numbers: of the objects in the map's members, from 1.
      valid: objects to be found; crowd regions are not.
      crowd: crowd regions.
      ignored: pixels that may not count.
      cut: how many objects of the patch found no place.
    """

    boxes: Float[Array, "G 4"]
    labels: Int[Array, " G"]
    numbers: Int[Array, " G"]
    valid: Bool[Array, " G"]
    crowd: Bool[Array, " G"]
    ignored: Bool[Array, "H W"]
    cut: Int[Array, ""]


class Sampling(NamedTuple):
    """How many anchors and boxes of each image are trained on, and which count as an object's (torchvision's values).

    Attributes:
      anchors, boxes: drawn an image.
      masks: the most positive boxes whose masks are trained, drawn among them; None: all that may be positive.
      positive_anchors, positive_boxes: the largest share of them that may be positive.
      high, low: overlaps of anchors from which and below which they are positive and negative.
      foreground: overlap from which a box is an object's.
    """

    anchors: int = 256
    boxes: int = 512
    masks: int | None = None
    positive_anchors: float = 0.5
    positive_boxes: float = 0.25
    high: float = 0.7
    low: float = 0.3
    foreground: float = 0.5


TORCHVISION = Sampling()


def object_layers(label: Int[Array, "H W"], members: Int[Array, "V L"]) -> Int[Array, "H W L"]:
    """Returns the objects at each pixel, numbered from 1; 0 fills up."""
    return jnp.where((label > 0)[..., None], members[jnp.maximum(label, 0)], 0)


def visible_objects(
    label: Int[Array, "H W"],
    members: Int[Array, "V L"],
    classes: Int[Array, " M"],
    crowd: Bool[Array, " M"],
    *,
    most: int,
) -> Truth:
    """Returns boxes and classes of the objects that a patch shows: the `most` largest, where there are more."""
    layers = object_layers(label, members)
    height, width, depth = layers.shape
    flat, count = layers.reshape(-1), len(classes) + 1
    y, x = jnp.mgrid[:height, :width]
    y, x = (jnp.repeat(axis.reshape(-1), depth) for axis in (y, x))
    area = jax.ops.segment_sum(jnp.ones_like(flat), flat, count)[1:]
    low = jnp.stack([jax.ops.segment_min(axis, flat, count)[1:] for axis in (x, y)], axis=1)
    high = jnp.stack([jax.ops.segment_max(axis, flat, count)[1:] for axis in (x, y)], axis=1) + 1
    most = min(most, len(classes))
    largest, rows = jax.lax.top_k(area, most)
    there = largest > 0
    boxes = jnp.where(there[:, None], jnp.concatenate([low, high], axis=1)[rows], 0).astype(jnp.float32)
    crowd = there & crowd[rows]
    return Truth(
        boxes=proposals.harmless(boxes, there),
        labels=jnp.where(there, classes[rows], 0),
        numbers=(rows + 1).astype(jnp.int32),
        valid=there & ~crowd,
        crowd=crowd,
        ignored=label == IGNORE,
        cut=(area > 0).sum() - there.sum(),
    )


def mask_targets(
    layers: Int[Array, "H W L"], numbers: Int[Array, " K"], rois: Float[Array, "K 4"], *, size: int, aligned: bool
) -> Float[Array, "K m m"]:
    """Returns the share of each cell of a box that its object covers (RoIAlign of the object's mask, adaptive)."""
    height, width, _ = layers.shape
    rows = ops.roi_axis_weights(rois, axis="y", output_size=size, extent=height, aligned=aligned)
    columns = ops.roi_axis_weights(rois, axis="x", output_size=size, extent=width, aligned=aligned)

    def one(number: Array, rows: Array, columns: Array) -> Float[Array, "m m"]:
        return rows @ (layers == number).any(-1).astype(jnp.float32) @ columns.T

    def in_turns(*given: Array) -> Float[Array, "K m m"]:
        return jax.lax.map(lambda each: one(*each), given)

    # On a CPU box after box: masks of all boxes at once do not fit its caches.
    return jax.lax.platform_dependent(numbers, rows, columns, cpu=in_turns, default=jax.vmap(one))


def instance(
    model: Any,
    *,
    max_objects: int = 100,
    sampling: Sampling = TORCHVISION,
    group: str = "model",
    sync_batch_norm: bool = False,
) -> Task:
    """Binds a Mask R-CNN into a Task. The losses are reported by name: objectness, anchor_box, class, box, mask.

    `predict(variables, image, size=None)` gives detections (see `models.mask_rcnn`), not probabilities.

    Args:
      model: `models.create("mask_rcnn", ...)`, or a module with the same methods.
      max_objects: trained on an image; the figure "objects_cut" counts those beyond, a sample.
      sampling: numbers and thresholds.
      group: name of the one parameter group.
      sync_batch_norm: batch norm takes its statistics over all devices of the mapped axis.
    """

    def init(key, image):
        variables = dict(model.init(key, image, train=False))
        return {group: variables.pop("params")}, {group: variables}

    def compute_loss(params, extra, batch, key, *, axis_name=None):
        network = model.clone(axis_name=axis_name) if sync_batch_norm and axis_name else model
        variables = {"params": params[group], **extra[group]}
        image = batch["image"]
        dense, updated = network.apply(variables, image, True, mutable=list(extra[group]), method="dense")
        canvas = image.shape[1:3]
        limits = jnp.tile(jnp.array(canvas, jnp.float32), (len(image), 1))
        truth = jax.vmap(lambda *given: visible_objects(*given, most=max_objects))(
            batch["label"], batch["members"], batch["classes"], batch["crowd"]
        )
        keys = jax.vmap(lambda index: jax.random.split(jax.random.fold_in(key, index), 2))(_places(batch))
        anchors = jnp.concatenate(network.anchors(canvas, dense["pyramid"]))
        objectness, anchor_box = _proposal_losses(dense, anchors, truth, keys[:, 0], sampling)
        found = network.apply(variables, dense, canvas, limits, True, method="propose")
        rois, samples = jax.vmap(lambda *given: _rois(*given, sampling=sampling))(keys[:, 1], found, truth)
        logits, deltas = network.apply(variables, dense["pyramid"], rois, method="box_outputs")
        classes, box = _box_losses(logits, deltas, rois, samples, truth)
        most = int(sampling.boxes * sampling.positive_boxes)  # positives come first
        most = most if sampling.masks is None else min(most, sampling.masks)
        few = jax.tree.map(lambda value: value[:, :most], samples)
        masks = network.apply(variables, dense["pyramid"], rois[:, :most], True, method="mask_outputs")
        layers = jax.vmap(object_layers)(batch["label"], batch["members"])
        mask = _mask_loss(masks, layers, rois[:, :most], few, truth, aligned=model.aligned)
        values = {"objectness": objectness, "anchor_box": anchor_box, "class": classes, "box": box, "mask": mask}
        figures = {f"loss/{name}": value for name, value in values.items()}
        figures |= {"objects_cut": truth.cut.mean(dtype=jnp.float32), "positives": samples.positive.sum(1).mean()}
        return sum(values.values()), (figures, {**extra, group: {**extra[group], **updated}})

    def predict(variables, image, size=None):
        own = {"params": variables["params"][group], **variables["extra"][group]}
        return model.apply(own, image, train=False, size=size)[0]

    return Task(init=init, losses={group: compute_loss}, counts=lambda variables, batch: {}, predict=predict)


def _places(batch) -> Int[Array, " B"]:
    """Each sample's place in the global batch, so that its draws do not depend on the number of devices."""
    return batch.get("index", jnp.arange(len(batch["image"])))


def _proposal_losses(dense, anchors, truth: Truth, keys, sampling: Sampling) -> tuple[Array, Array]:
    def one(key, logits, deltas, truth: Truth):
        overlaps = ops.box_iou(truth.boxes, anchors)
        neutral = _neutral(anchors, truth)
        matches = detection.match(
            overlaps, truth.valid, high=sampling.high, low=sampling.low, keep_best=True, neutral=neutral
        )
        drawn = detection.draw(key, matches, number=sampling.anchors, positive_share=sampling.positive_anchors)
        return detection.proposal_losses(logits, deltas, anchors, matches, *drawn, truth.boxes)

    logits = jnp.concatenate(dense["objectness"], axis=1)
    deltas = jnp.concatenate(dense["box_deltas"], axis=1)
    objectness, moved, count = jax.vmap(one)(keys, logits, deltas, truth)
    total = jnp.maximum(count.sum(), 1.0)
    return objectness.sum() / total, moved.sum() / total


def _neutral(boxes: Float[Array | np.ndarray, "A 4"], truth: Truth) -> Bool[Array, " A"]:
    """Tells which boxes lie in a crowd region or outside the region of interest, where nothing is known."""
    in_crowd = (jnp.where(truth.crowd, ops.box_coverage(boxes, truth.boxes), 0.0) > detection.NEUTRAL).any(axis=1)
    return in_crowd | (ops.box_mask_share(boxes, truth.ignored) > detection.NEUTRAL)


def _rois(key, found: proposals.Proposals, truth: Truth, *, sampling: Sampling):
    """Draws boxes to train the heads on; the objects' own boxes are among the candidates."""
    boxes = jnp.concatenate([found.boxes, truth.boxes])
    present = jnp.concatenate([found.valid, truth.valid])
    matches = detection.match(
        ops.box_iou(truth.boxes, boxes),
        truth.valid,
        high=sampling.foreground,
        low=sampling.foreground,
        neutral=_neutral(boxes, truth),
    )
    matches = matches._replace(positive=matches.positive & present, negative=matches.negative & present)
    samples = detection.sample(
        key, matches, number=min(sampling.boxes, len(boxes)), positive_share=sampling.positive_boxes
    )
    return jax.lax.stop_gradient(proposals.harmless(boxes[samples.chosen], samples.counts)), samples


def _box_losses(logits, deltas, rois, samples, truth: Truth) -> tuple[Array, Array]:
    def one(logits, deltas, rois, samples, truth: Truth):
        return detection.box_losses(
            logits, deltas, rois, samples, truth.boxes, truth.labels, weights=proposals.BOX_WEIGHTS
        )

    classes, moved, count = jax.vmap(one)(logits, deltas, rois, samples, truth)
    total = jnp.maximum(count.sum(), 1.0)
    return classes.sum() / total, moved.sum() / total


def _mask_loss(masks, layers, rois, samples, truth: Truth, *, aligned: bool) -> Array:
    def one(logits, layers, rois, samples, truth: Truth):
        target = mask_targets(layers, truth.numbers[samples.row], rois, size=logits.shape[1], aligned=aligned)
        return detection.mask_loss(logits, target, truth.labels[samples.row], samples.positive)

    total, count = jax.vmap(one)(masks, layers, rois, samples, truth)
    return total.sum() / jnp.maximum(count.sum(), 1.0)
