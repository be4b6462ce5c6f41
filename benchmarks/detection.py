"""Suppression, RoIAlign and a train step of Mask R-CNN, ours and torchvision's, in turns in one run.

    python -m benchmarks.detection --peer=python          # any Python that has torch and torchvision

Both sides do the same work: 1,000 boxes at IoU 0.7; 512 boxes from a pyramid of 256 channels of a 512 x 512 image,
7 x 7 cells with 2 x 2 samples; a step of ResNet-50-FPN with frozen batch norm on 2 such images with 20 objects each,
512 boxes an image for the heads, momentum SGD; but for the mask head, which torchvision runs on the boxes that happen
to be an object's (about as many as there are objects, with these random weights) and we on a fixed number: its default
of 128 an image, and 32. float32. Figures are medians of 3 calls, the better of two turns.
"""

import functools
import json
import os
import pathlib
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from benchmarks import detection_torchvision as peer
from benchmarks.timing import seconds
from jaxseg import models, ops, tasks
from jaxseg.data import instances

PEER = flags.DEFINE_string("peer", None, "A Python with torch and torchvision; without it only ours is timed.")


def operations() -> dict[str, float]:
    """Returns seconds of suppression and of RoIAlign."""
    boxes, scores = map(jnp.asarray, peer.boxes_and_scores(1000))
    suppress = jax.jit(functools.partial(ops.nms, threshold=0.7, max_output=1000))
    result = {"NMS, 1,000 boxes": seconds(lambda: jax.block_until_ready(suppress(boxes, scores)))}
    levels = [jnp.asarray(level) for level in peer.pyramid()]
    rois = jnp.asarray(peer.boxes_and_scores(512)[0])[None]

    def align(levels, rois):
        chosen = ops.pyramid_level(rois) - 2
        scales = [1 / stride for stride in (4, 8, 16, 32)]
        return ops.pyramid_roi_align(levels, rois, chosen, output_size=7, scales=scales, sampling_ratio=2)

    forward, gradient = jax.jit(align), jax.jit(jax.grad(lambda levels, rois: align(levels, rois).sum()))
    result["RoIAlign, 512 boxes"] = seconds(lambda: jax.block_until_ready(forward(levels, rois)))
    result["RoIAlign with gradient"] = seconds(lambda: jax.block_until_ready(gradient(levels, rois)))
    return result


def batch() -> dict[str, jax.Array]:
    """Returns images with rectangles, as the loader gives them."""
    rows = []
    for number in range(peer.BATCH):
        boxes = np.round(peer.boxes_and_scores(peer.OBJECTS, seed=number)[0]).astype(int)
        masks = [((top, left), np.ones((bottom - top, right - left), bool)) for left, top, right, bottom in boxes]
        rows.append(instances.object_map(masks, shape=(peer.SIZE, peer.SIZE), classes=[1] * peer.OBJECTS))
    deep, wide = (max(objects.members.shape[axis] for _, objects in rows) for axis in (0, 1))
    members = np.zeros((peer.BATCH, deep, wide), np.int32)
    for row, (_, objects) in enumerate(rows):
        members[row, : objects.members.shape[0], : objects.members.shape[1]] = objects.members
    image = np.random.default_rng(0).random((peer.BATCH, peer.SIZE, peer.SIZE, 3), np.float32)
    return {
        "image": jnp.asarray(image),
        "label": jnp.asarray(np.stack([values for values, _ in rows]), jnp.int32),
        "members": jnp.asarray(members),
        "classes": jnp.ones((peer.BATCH, peer.OBJECTS), jnp.int32),
        "crowd": jnp.zeros((peer.BATCH, peer.OBJECTS), bool),
    }


def train_step(masks: int | None = None) -> float:
    """Returns seconds of one step: loss, gradients, update; parameters and momentum are donated."""
    sampling = tasks.Sampling(masks=masks)
    task = tasks.instance(models.create("mask_rcnn", num_classes=2), max_objects=peer.OBJECTS, sampling=sampling)
    data = batch()
    params, extra = jax.jit(task.init)(jax.random.key(0), data["image"])
    optimizer = optax.sgd(1e-4, momentum=0.9)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, momentum, data):
        gradients = jax.grad(task.losses["model"], has_aux=True)(params, extra, data, jax.random.key(1))[0]
        updates, momentum = optimizer.update(gradients, momentum)
        return optax.apply_updates(params, updates), momentum

    held = [params, jax.jit(optimizer.init)(params)]

    def run():
        held[:] = step(*held, data)
        jax.block_until_ready(held)

    return seconds(run)


def theirs(python: str) -> dict[str, float]:
    """Runs torchvision's side on as many threads as this process may use cores."""
    command = [python, "-m", peer.__name__, str(len(os.sched_getaffinity(0)))]
    root = pathlib.Path(peer.__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    return json.loads(done.stdout.splitlines()[-1])


def main(_) -> None:
    turns = 2 if PEER.value else 1
    ours, others = [], []
    for _ in range(turns):
        ours.append({**operations(), "train step": train_step(), "train step, 32 masks": train_step(32)})
        if PEER.value:
            others.append(theirs(PEER.value))
    print(
        f"{'':24} {'ours':>11} {'torchvision':>12} {'torchvision / ours':>19}   ({len(os.sched_getaffinity(0))} cores)"
    )
    for name in ours[0]:
        own = min(turn[name] for turn in ours)
        other = min((turn[name.split(", 32")[0]] for turn in others), default=float("nan"))
        print(f"{name:24} {1e3 * own:8.1f} ms {1e3 * other:9.1f} ms {other / own:19.2f}", flush=True)


if __name__ == "__main__":
    app.run(main)
