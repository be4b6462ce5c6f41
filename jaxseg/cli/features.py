"""A trained run as a fixed network: what its layers see in an image, for losses and for distances between sets."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import paths
from jaxseg.cli import build, images, inference, workdir
from jaxseg.train import state as states
from jaxseg.typing import UserError


@functools.cache
def of_run(folder: str) -> Callable[[Float[Array, "B *S C"]], list[Array]]:
    """Returns `normalised image -> features` of the network of a segmentation run: its `aux`, and its logits.

    No gradient reaches the network's parameters; one reaches the image.

    Raises:
      UserError: the folder holds no trained segmentation run.
    """
    place = paths.path(folder)
    config, record = workdir.stored_config(place), workdir.record(place)
    _check(folder, config.task, record)
    known = build.stored_facts(record)
    config.data.patch_size = tuple(record.get("patch_size", config.data.patch_size))
    task = build.task(config, known)
    restored = inference.restore(place, config, build.state_shapes(config, known, task))
    variables = states.inference_variables(restored.state)
    own = {"params": variables["params"][images.MODEL], **variables["extra"].get(images.MODEL, {})}
    network = build.model(config, known)

    def features(image: Float[Array, "B *S C"]) -> list[Array]:
        logits, aux = network.apply(own, image, train=False)
        return [leaf.astype(jnp.float32) for leaf in jax.tree.leaves((aux, logits))]

    return features


def divisor(folder: str) -> tuple[int, ...]:
    """What the images that a run's network sees must be divisible by. Raises as `of_run`."""
    place = paths.path(folder)
    config, record = workdir.stored_config(place), workdir.record(place)
    _check(folder, config.task, record)
    return build.divisor(config, build.stored_facts(record))


def _check(folder: str, task: str, record: dict) -> None:
    if task != "semantic" or "dataset" not in record:
        raise UserError(f"{folder} holds no trained segmentation run, whose features could be compared; name another.")


def pooled(features: list[Array]) -> Float[Array, "B F"]:
    """Returns the mean over space of every feature, side by side: one vector an image."""
    return jnp.concatenate([layer.mean(tuple(range(1, layer.ndim - 1))) for layer in features], axis=-1)
