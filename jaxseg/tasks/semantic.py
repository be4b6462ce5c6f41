"""Semantic segmentation as a Task: exclusive classes (softmax) or overlapping regions (one sigmoid each)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxseg import losses, metrics
from jaxseg.typing import IGNORE, LossFn, Task


def region_targets(labels: Int[Array, "B *S"], regions: Sequence[Sequence[int]]) -> Float[Array, "B *S K"]:
    """Returns one plane a region: 1 where the label belongs to it, 0 elsewhere, IGNORE where the label is IGNORE."""
    member = jnp.stack([jnp.isin(labels, jnp.asarray(region)) for region in regions], axis=-1)
    return jnp.where(labels[..., None] == IGNORE, float(IGNORE), member.astype(jnp.float32))


def semantic(
    model,
    loss: LossFn,
    *,
    num_classes: int,
    regions: Sequence[Sequence[int]] | None = None,
    group: str = "model",
    auxiliary_weight: float = 0.5,
    sync_batch_norm: bool = False,
    logits: bool = False,
) -> Task:
    """Binds a model whose call is `apply(variables, image, train=...) -> (logits, aux)` and a loss into a Task.

    `aux["deep"]`, where a model has it, is supervised too, with nnU-Net's weights 1, 1/2, 1/4 ... 0, and
    `aux["auxiliary"]` with a weight of its own (torchvision: 0.5).

    Args:
      model: a Flax module; K = num_classes logits, or one a region.
      loss: `(logits, targets, *, axis_name) -> (B,)`.
      num_classes: classes with background; counts are (K, K) confusions of them.
      regions: None for softmax; else the class ids of each sigmoid region (pixels of no region are background).
      group: name of the one parameter group.
      auxiliary_weight: of the loss of `aux["auxiliary"]`.
      sync_batch_norm: batch norm takes its statistics over all devices of the mapped axis, not over each one's samples.
      logits: `Task.predict` gives logits in place of probabilities.
    """
    outputs = read_outputs(num_classes=num_classes, regions=regions)
    supervise = supervised(loss, auxiliary_weight=auxiliary_weight)

    def init(key, image):
        variables = dict(model.init(key, image, train=False))
        return {group: variables.pop("params")}, {group: variables}

    def compute_loss(params, extra, batch, key, *, axis_name=None):
        variables = {"params": params[group], **extra[group]}
        # The axis is known here only: the same config runs without one (jit, mesh).
        shared_axis = axis_name if sync_batch_norm else None
        (logits, aux), updated = train_call(model, variables, batch["image"], key, axis_name=shared_axis)
        value = supervise(logits, aux, outputs.targets(batch["label"]), axis_name=axis_name)
        counts = outputs.count_logits(logits, batch["label"])
        return value, ({"counts": counts}, {**extra, group: {**extra[group], **updated}})

    def scores(variables, image):
        own = {"params": variables["params"][group], **variables["extra"][group]}
        return model.apply(own, image, train=False)[0]

    def probabilities(variables, image):
        return outputs.activate(scores(variables, image))

    def counts(variables, batch):
        return outputs.count(probabilities(variables, batch["image"]), batch["label"])

    predict = scores if logits else probabilities
    return Task(init=init, losses={group: compute_loss}, counts=counts, predict=predict)


class Outputs(NamedTuple):
    """What the K values that a network gives a pixel stand for.

    Attributes:
      targets: labels `(B, *S)` -> what a loss compares logits with.
      activate: logits -> probabilities.
      planes: labels -> the true mask as a network would give it for sure, `(B, *S, K)`; IGNORE is 0 in all planes.
      count: (probabilities, labels) -> additive counts.
      count_logits: the same counts of logits, without an activation that changes none of them.
    """

    targets: Callable
    activate: Callable
    planes: Callable
    count: Callable
    count_logits: Callable


def read_outputs(*, num_classes: int, regions: Sequence[Sequence[int]] | None) -> Outputs:
    """Returns how outputs are read: exclusive classes (`regions` None), or one sigmoid a region."""
    if not regions:
        count = _class_counts(num_classes)
        return Outputs(
            targets=lambda labels: labels,
            activate=lambda logits: jax.nn.softmax(logits, axis=-1),
            planes=lambda labels: jax.nn.one_hot(labels, num_classes, dtype=jnp.float32),
            count=count,
            count_logits=count,
        )
    count = _region_counts(regions)
    return Outputs(
        targets=lambda labels: region_targets(labels, regions),
        activate=jax.nn.sigmoid,
        planes=lambda labels: jnp.maximum(region_targets(labels, regions), 0.0),
        count=count,
        count_logits=lambda logits, labels: count(jax.nn.sigmoid(logits), labels),
    )


def train_call(model, variables, image, key, *, axis_name=None):
    """Runs a network as training does: `((logits, aux), updated collections)`; batch norm averages over `axis_name`."""
    network = model.clone(axis_name=axis_name) if axis_name else model
    collections = [name for name in variables if name != "params"]
    return network.apply(variables, image, train=True, mutable=collections, rngs={"dropout": key})


Supervise = Callable[..., Float[Array, ""]]  # (logits, aux, targets, *, axis_name) -> the batch's mean loss


def supervised(loss: LossFn, *, auxiliary_weight: float = 0.5) -> Supervise:
    """Returns `(logits, aux, targets, *, axis_name) -> ()`: the batch's mean loss of all heads that `aux` holds."""
    deep_loss = losses.deep_supervision(loss)

    def supervise(logits, aux, targets, *, axis_name=None):
        value = deep_loss([logits, *aux.get("deep", ())], targets, axis_name=axis_name).mean()
        if "auxiliary" in aux:
            value = value + auxiliary_weight * loss(aux["auxiliary"], targets, axis_name=axis_name).mean()
        return value

    return supervise


def _class_counts(num_classes: int) -> Callable:
    """(K, K) confusion as float32: averaging it over devices or micro-batches leaves every ratio of it unchanged."""

    def count(scores, labels):
        return metrics.confusion(scores.argmax(-1), labels, num_classes=num_classes).astype(jnp.float32)

    return count


def _region_counts(regions: Sequence[Sequence[int]]) -> Callable:
    """(K, 3): true positives, false positives and false negatives of each region."""

    def count(scores, labels):
        targets = region_targets(labels, regions)
        seen = (targets != IGNORE).astype(jnp.float32)
        predicted, true = (scores > 0.5).astype(jnp.float32) * seen, jnp.maximum(targets, 0.0)
        axes = tuple(range(labels.ndim))
        hit = (predicted * true).sum(axes)
        return jnp.stack([hit, predicted.sum(axes) - hit, true.sum(axes) - hit], axis=-1)

    return count


def mean_dice(counts: Float[np.ndarray, "K K"] | Float[np.ndarray, "K 3"], *, regions: bool = False) -> float:
    """Returns the mean Dice of foreground classes (or regions) from host counts, without those absent from both."""
    counts = np.asarray(counts, np.float64)
    if regions:
        hit, wrong = counts[:, 0], counts[:, 1] + counts[:, 2]
    else:
        hit = np.diag(counts)[1:]
        wrong = (counts.sum(0) + counts.sum(1))[1:] - 2 * hit
    present = 2 * hit + wrong > 0
    if not present.any():
        return float("nan")
    return float(np.mean(2 * hit[present] / (2 * hit + wrong)[present]))
