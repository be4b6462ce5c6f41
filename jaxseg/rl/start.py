"""Where an episode starts: a probability map of a network that is trained already, of a threshold, or of nothing."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxseg import ops, registry
from jaxseg.typing import UserError

START = "start"  # where `extra` keeps the variables of the network that episodes start from
NAMES = ("threshold", "blank")  # those of `from_string`
BINS = 64  # of the histogram that a threshold is chosen by
SOFTNESS = 0.25  # standard deviations from the threshold to a probability of 0.73


class Start(NamedTuple):
    """What makes the first probabilities of an episode.

    Attributes:
      variables: of a fixed network, as arrays; kept in a checkpoint with the agent's own. {} where there is none.
      apply: `(variables, image (B, *S, C)) -> probabilities (B, *S, K)`; no gradient goes through.
    """

    variables: PyTree
    apply: Callable[[Any, Float[Array, "B *S C"]], Float[Array, "B *S K"]]


def is_named(text: str) -> bool:
    """Whether a text means a start of `from_string`, and not a trained run."""
    return text.split("(")[0] in NAMES


def from_string(text: str, *, num_classes: int, regions: bool = False) -> Start:
    """Returns the start called "blank", or "threshold" with its options, such as "threshold(channel=1,above=False)".

    Raises:
      UserError: an unknown name or option, or a threshold where there are not two classes.
    """
    name, options = registry.parse_call(text)
    if name == "blank" and not options:
        return blank(num_classes=num_classes, regions=regions)
    if name != "threshold" or set(options) - {"channel", "above"}:
        raise UserError(
            "rl.initial should be the workdir of a trained run, blank, or threshold(channel=0,above=True), got "
            f"{text!r}."
        )
    if num_classes != 2 or regions:
        raise UserError("rl.initial=threshold finds one class; name the workdir of a trained run for several.")
    return threshold(**options)


def blank(*, num_classes: int, regions: bool = False) -> Start:
    """Knows nothing: every class is as likely as the others, every region 1/2."""
    value = 0.5 if regions else 1.0 / num_classes

    def apply(_: Any, image: Float[Array, "B *S C"]) -> Float[Array, "B *S K"]:
        return jnp.full((*image.shape[:-1], num_classes), value, jnp.float32)

    return Start({}, apply)


def threshold(*, channel: int = 0, above: bool = True) -> Start:
    """The class lies above (or below) each image's own threshold, which parts its histogram best (Otsu 1979).

    Args:
      channel: of the image, as the network gets it.
      above: False where the class is darker than the rest.
    """

    def apply(_: Any, image: Float[Array, "B *S C"]) -> Float[Array, "B *S K"]:
        probability = jax.vmap(lambda values: _soft_threshold(values, above=above))(image[..., channel])
        return jnp.stack([1.0 - probability, probability], axis=-1)

    return Start({}, apply)


def reduced(start: Start, *, factor: int) -> Start:
    """Returns a start whose network sees the image `factor` times smaller along each axis, its map enlarged again."""
    if factor == 1:
        return start

    def apply(variables: Any, image: Float[Array, "B *S C"]) -> Float[Array, "B *S K"]:
        whole = image.shape[1:-1]
        if any(size % factor for size in whole):
            raise UserError(f"rl.factor = {factor} should divide the image, but that is {whole}; choose another patch.")
        small = ops.average_pool(image, (factor,) * len(whole))
        return ops.resize(start.apply(variables, small), whole)

    return Start(start.variables, apply)


def _soft_threshold(values: Float[Array, "*S"], *, above: bool) -> Float[Array, "*S"]:
    distance = (values - otsu(values)) / (SOFTNESS * jnp.maximum(jnp.std(values), 1e-6))
    return jax.nn.sigmoid(distance if above else -distance)


def otsu(values: Float[Array, "*S"]) -> Float[Array, ""]:
    """Returns the threshold with the largest variance between the two classes it makes, in a histogram of 64 bins.

    Source: Otsu 1979; as `skimage.filters.threshold_otsu`, which takes 256 bins.
    """
    low, high = values.min(), values.max()
    width = jnp.maximum(high - low, 1e-6) / BINS
    place = jnp.clip(((values - low) / width).astype(jnp.int32), 0, BINS - 1).reshape(-1)
    counts = jnp.zeros(BINS).at[place].add(1.0)
    centres = low + (jnp.arange(BINS) + 0.5) * width
    below = jnp.cumsum(counts)
    sums = jnp.cumsum(counts * centres)
    over, rest = below[-1] - below, sums[-1] - sums
    gap = sums / jnp.maximum(below, 1.0) - rest / jnp.maximum(over, 1.0)
    between = below * over * gap**2
    return centres[jnp.argmax(between[:-1])]


def given(
    start: Start, variables: PyTree, image: Float[Array, "B *S D"], *, channels: int, num_outputs: int, hints: int = 0
) -> tuple[Float[Array, "B *S C"], Float[Array, "B *S K"], Float[Array, "B *S H"] | None]:
    """Returns the image alone, the first probabilities, and hints or None.

    Behind an image's channels there may be the probabilities to start from, in place of those of `start`, and hints
    behind those: so windows, flips and files treat all alike.

    Args:
      start: where there are none.
      variables: of its network.
      image: C channels; or C + K; or more, then with hints.
      channels: C.
      num_outputs: K.
      hints: H of agents that know any.

    Raises:
      UserError: another number of channels.
    """
    own, rest = image[..., :channels], image[..., channels:]
    if image.shape[-1] not in (channels, channels + num_outputs, channels + num_outputs + hints):
        raise UserError(
            f"An image to refine should have {channels} channels, or {channels + num_outputs} with the probabilities "
            f"to start from{f', or {hints} more with hints' if hints else ''}; it has {image.shape[-1]}."
        )
    if not rest.shape[-1]:
        return own, jax.lax.stop_gradient(start.apply(variables, own)), None
    shown = rest[..., num_outputs:] if rest.shape[-1] > num_outputs else None
    return own, rest[..., :num_outputs], shown
