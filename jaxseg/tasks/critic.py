"""A critic of masks as a further loss of a semantic network (Luc et al. 2016; with feature matching, Xue et al. 2018).

The discriminator sees an image with a mask and tells the annotator's from the network's; the network learns to make
masks that pass. What its own loss says of every pixel by itself, the critic says of shapes.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxseg.tasks import players
from jaxseg.tasks.players import DISCRIMINATOR, Pair, Rules
from jaxseg.tasks.semantic import read_outputs, supervised, train_call
from jaxseg.typing import IGNORE, LossFn, Task


def with_critic(
    task: Task,
    model: Any,
    discriminator: Any,
    rules: Rules,
    loss: LossFn,
    *,
    num_classes: int,
    regions: Sequence[Sequence[int]] | None = None,
    group: str = "model",
    sync_batch_norm: bool = False,
) -> Task:
    """Returns the task with a second player.

    Where the label is IGNORE, the critic sees the same on both masks: nothing.

    Args:
      task: of `semantic`.
      model: its network.
      discriminator: judges `(image, mask)`.
      rules: of the game.
      loss: its own loss, and
      num_classes, regions, group, sync_batch_norm: as `semantic` got them.
    """
    outputs = read_outputs(num_classes=num_classes, regions=regions)
    supervise = supervised(loss)

    def init(key: Array, image: Array) -> tuple[dict, dict]:
        params, extra = task.init(key, image)
        shapes = jax.eval_shape(
            lambda values, collections: model.apply({"params": values, **collections}, image, train=False)[0],
            params[group],
            extra[group],
        )
        mask = jnp.zeros(shapes.shape)
        pair = Pair(mask, mask, image, jnp.zeros(len(image), jnp.int32))
        return players.add(params, extra, discriminator, jax.random.fold_in(key, 1), pair)

    def play(params: dict, extra: dict, batch: dict, key: Array, axis_name: str | None):
        variables = {"params": params[group], **extra[group]}
        shared_axis = axis_name if sync_batch_norm else None
        (logits, aux), updated = train_call(model, variables, batch["image"], key, axis_name=shared_axis)
        seen = (batch["label"] != IGNORE)[..., None].astype(jnp.float32)
        true = outputs.planes(batch["label"])
        pair = Pair(true * seen, outputs.activate(logits) * seen, batch["image"], batch["index"])
        return logits, aux, updated, pair

    def judging(params, extra, batch, key, *, axis_name=None):
        *_, pair = play(params, extra, batch, key, axis_name)
        lesson = jax.random.fold_in(key, 2)
        return players.learn(discriminator, rules, params, extra, pair, lesson, axis_name=axis_name)

    def segmenting(params, extra, batch, key, *, axis_name=None):
        logits, aux, updated, pair = play(params, extra, batch, key, axis_name)
        trial = jax.random.fold_in(key, 3)
        fooling, figures = players.persuade(discriminator, rules, params, extra, pair, trial, axis_name=axis_name)
        own = supervise(logits, aux, outputs.targets(batch["label"]), axis_name=axis_name)
        figures = {**figures, "loss/segmentation": own, "counts": outputs.count_logits(logits, batch["label"])}
        return own + fooling, (figures, {**extra, group: {**extra[group], **updated}})

    return task._replace(init=init, losses={DISCRIMINATOR: judging, group: segmenting})
