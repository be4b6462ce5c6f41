"""A trained run as a fixed network: what its layers see in an image, for losses and for distances between sets."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import config as configs
from jaxseg import paths
from jaxseg.cli import build, images, inference, workdir
from jaxseg.train import state as states
from jaxseg.typing import UserError


@functools.cache
def of_run(folder: str) -> Callable[[Float[Array, "B *S C"]], list[Array]]:
    """Returns `normalised image -> features` of the network of a segmentation run: its `aux`, and its logits.

    No gradient reaches the network's parameters; one reaches the image. It may be asked for the first time while a
    program is traced.

    Raises:
      UserError: the folder holds no trained segmentation run, or (when asked) one of other images.
    """
    with jax.ensure_compile_time_eval():
        return _load(folder)


def _load(folder: str) -> Callable[[Float[Array, "B *S C"]], list[Array]]:
    place = paths.path(folder)
    config, record = workdir.stored_config(place), workdir.record(place)
    _check(folder, config.task, record)
    _, known, _, restored = inference.open_run(place, config)
    variables = states.inference_variables(restored.state)
    own = {"params": variables["params"][images.MODEL], **variables["extra"].get(images.MODEL, {})}
    network = build.model(config, known)

    wanted = (configs.ndim_of(config), build.input_channels(config, known))

    def features(image: Float[Array, "B *S C"]) -> list[Array]:
        found = (image.ndim - 2, image.shape[-1])
        if found != wanted:
            raise UserError(
                f"{folder} does not take images of {found[0]} axes and {found[1]} channels, as are made here, but of "
                f"{wanted[0]} and {wanted[1]}; name another run in adversarial.network."
            )
        logits, aux = network.apply(own, image, train=False)
        return [leaf.astype(jnp.float32) for leaf in jax.tree.leaves((aux, logits))]

    return features


def divisor(folder: str) -> tuple[int, ...]:
    """What the images that a run's network sees must be divisible by. Raises as `of_run`."""
    place = paths.path(folder)
    config, record = workdir.stored_config(place), workdir.record(place)
    _check(folder, config.task, record)
    return build.divisor(config, build.stored_facts(record))


def check_classes(folder: str, num_classes: int) -> None:
    """Raises a UserError unless the last layer of a run's network has one score for each of so many classes."""
    known = build.stored_facts(workdir.record(paths.path(folder)))
    if known.regions or len(known.classes) != num_classes:
        found = "overlapping regions" if known.regions else f"{len(known.classes)} classes"
        raise UserError(
            f"adversarial.label_consistency needs a run that tells the {num_classes} classes of the label maps apart, "
            f"but {folder} tells {found}; name another in adversarial.network, or leave the option at 0."
        )


def _check(folder: str, task: str, record: dict) -> None:
    if task != "semantic" or "dataset" not in record:
        raise UserError(f"{folder} holds no trained segmentation run, whose features could be compared; name another.")


def pooled(features: list[Array]) -> Float[Array, "B F"]:
    """Returns the mean over space of every feature, side by side: one vector an image."""
    return jnp.concatenate([layer.mean(tuple(range(1, layer.ndim - 1))) for layer in features], axis=-1)
