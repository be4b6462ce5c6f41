"""A trained workdir as a function: volume in, prediction on the volume's own grid out."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxseg import predict
from jaxseg.cli import build, cache, workdir
from jaxseg.data import preprocess
from jaxseg.train import checkpoint
from jaxseg.train import state as states
from jaxseg.typing import UserError, Volume


class Trained(NamedTuple):
    """What a workdir offers: its config and record, what it knows of the data, and the predictor of one volume."""

    config: ConfigDict
    record: dict[str, Any]
    known: build.Facts
    held_out: tuple[str, ...]
    step: int
    predict: Callable[..., predict.Prediction]  # (volume, *, keep_probabilities=False)


def load(folder: pathlib.Path, config: ConfigDict) -> Trained:
    """Restores the checkpoint that `config.predict.checkpoint` names.

    Raises:
      UserError: the folder has no checkpoint, or one of another model.
    """
    cache.enable()
    record = workdir.record(folder)
    if "dataset" not in record or not (folder / checkpoint.FOLDER).exists():
        raise UserError(f"{folder} holds no trained model; run --mode train with this --workdir first.")
    known = build.stored_facts(record)
    task = build.task(config, known)
    optimizers = build.optimizers(config)
    shape = jax.ShapeDtypeStruct((1, *config.data.patch_size, len(known.channels)), np.float32)
    create = functools.partial(states.create, task=task, optimizers=optimizers, horizon=1, ema=config.optim.ema > 0)
    like = jax.eval_shape(lambda key, image: create(key, image=image), jax.random.key(0), shape)
    checkpoints = checkpoint.Checkpoints(folder)
    try:
        step = checkpoints.pick(str(config.predict.checkpoint))
        if step is None:
            raise UserError(f"{folder} holds no finished checkpoint; run --mode train with this --workdir again.")
        restored = checkpoints.restore(like, step=step)
    finally:
        checkpoints.close()
    variables = states.inference_variables(restored.state)
    one = functools.partial(
        predict.predict_case,
        build.device_predict(jax.jit(task.predict), variables),
        settings=preprocess.settings_from_json(record["settings"]),
        num_classes=len(known.classes),
        regions=known.regions,
        postprocess=config.predict.postprocess or None,
        flip_pairs=build.output_pairs(known),
        **build.predict_options(config),
    )
    held_out = tuple(restored.metadata.get("held_out", ()))
    return Trained(config, record, known, held_out, step, lambda volume, **options: _run(one, volume, known, **options))


def _run(one: Callable, volume: Volume, known: build.Facts, **options) -> predict.Prediction:
    channels = volume.data.shape[-1]
    if channels != len(known.channels):
        raise UserError(
            f"{volume.path} has {channels} channels, the model was trained on {len(known.channels)} "
            f"({', '.join(known.channels)}); give the same channels in the same order."
        )
    return one(volume, **options)
