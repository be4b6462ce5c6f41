"""Making images as a Task: of label maps (SPADE, pix2pix), of another contrast (pix2pix), of fewer voxels (ESRGAN).

All three are one generator that is given something and has a true image beside its own; they differ in what `Example`
they read out of a batch. The discriminator may be left out (rules None): then pixels and features alone decide.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseg import losses, ops
from jaxseg.data import value_range
from jaxseg.tasks import players
from jaxseg.tasks.players import DISCRIMINATOR, GENERATOR, Pair, Perceive, Rules
from jaxseg.typing import IGNORE, Task


class Example(NamedTuple):
    """One batch as a generator meets it.

    Attributes:
      given: arguments of the generator, a tuple.
      condition: what the discriminator sees beside every image `(B, *S, D)`; None: the image alone.
      true: the real image, encoded from -1 to 1 `(B, *S, C)`.
      label: classes that the image shows `(B, *S)`, where it is made of them.
    """

    given: tuple[Array, ...]
    condition: Float[Array, "B *S D"] | None
    true: Float[Array, "B *S C"]
    label: Int[Array, "B *S"] | None = None


class Fidelity(NamedTuple):
    """What a made image is compared with the true one by, besides the discriminator.

    Attributes:
      pixel: weight of the mean absolute error of encoded intensities.
      perceptual: of the same in features of a fixed network,
      perceive: which this gives for normalised images.
      label_consistency: weight of the cross-entropy of the network's last layer, its logits, for the classes that an
        image was made of: what segments real images shall find the label map in made ones.
    """

    pixel: float = 0.0
    perceptual: float = 0.0
    perceive: Perceive | None = None
    label_consistency: float = 0.0


class Intensities(NamedTuple):
    """How the images of a data set are normalised: see `value_range.encode`."""

    kinds: tuple[str, ...]
    clip: float = value_range.CLIP

    def of(self, channels: Sequence[int]) -> "Intensities":
        """Returns those of some channels."""
        return self._replace(kinds=tuple(self.kinds[channel] for channel in channels))

    def encode(self, image: Float[Array, "B *S C"]) -> Float[Array, "B *S C"]:
        """Normalised intensities to -1 ... 1."""
        return value_range.encode(image, self.kinds, clip=self.clip)

    def decode(self, image: Float[Array, "B *S C"]) -> Float[Array, "B *S C"]:
        """The way back."""
        return value_range.decode(image, self.kinds, clip=self.clip)


def synthesis(
    generator: Any,
    discriminator: Any,
    rules: Rules | None,
    fidelity: Fidelity,
    *,
    num_classes: int,
    intensities: Intensities,
) -> Task:
    """Images from label maps; `predict(variables, (segmentation, style))`, see `one_hot` and `style_length`.

    The style of a training image is drawn anew at every step; the discriminator sees the label map beside the image.

    Args:
      generator: `(segmentation, style, train)`, as SPADE, or `(segmentation, train)`, as pix2pix.
      discriminator: of `models.create_discriminator`, or None with `rules` None.
      rules: of the game; None: no discriminator.
      fidelity: comparison with the image that the label map belongs to.
      num_classes: classes with background; pixels of IGNORE show no class.
      intensities: of the data set's images.
    """
    length = style_length(generator)

    def read(batch: dict, key: Array) -> Example:
        segmentation = one_hot(batch["label"], num_classes)
        style = players.per_sample(jax.random.fold_in(key, 0), batch["index"], length)
        return Example((segmentation, style), segmentation, intensities.encode(batch["image"]), batch["label"])

    def blank(image: Array) -> Example:
        segmentation = jnp.zeros((*image.shape[:-1], num_classes))
        return Example((segmentation, jnp.zeros((len(image), length))), segmentation, image)

    def given(asked: tuple[Array, Array]) -> tuple[Array, ...]:
        return asked

    return _task(generator, discriminator, rules, fidelity, read, blank, given, intensities)


def translation(
    generator: Any,
    discriminator: Any,
    rules: Rules | None,
    fidelity: Fidelity,
    *,
    source: Sequence[int],
    target: Sequence[int],
    intensities: Intensities,
) -> Task:
    """Some channels of an image from its others, learnt from cases that have both (pix2pix, Isola et al. 2017).

    `predict(variables, image)` takes the source channels alone; images are normalised.

    Args:
      generator, discriminator, rules, fidelity: see `synthesis`; the generator takes `(image, train)`.
      source: places of the given channels in a training image.
      target: places of those that are made.
      intensities: of all channels.
    """
    ours, theirs = intensities.of(source), intensities.of(target)

    def read(batch: dict, key: Array) -> Example:
        del key
        shown = ours.encode(channels_of(batch["image"], source))
        return Example((shown,), shown, theirs.encode(channels_of(batch["image"], target)))

    def blank(image: Array) -> Example:
        shown = channels_of(image, source)
        return Example((shown,), shown, channels_of(image, target))

    return _task(
        generator, discriminator, rules, fidelity, read, blank, lambda image: (ours.encode(image),), theirs
    )  # fmt: skip


def super_resolution(
    generator: Any,
    discriminator: Any,
    rules: Rules | None,
    fidelity: Fidelity,
    *,
    factors: Sequence[int],
    degrade: str,
    intensities: Intensities,
) -> Task:
    """Images of more voxels from the same images of fewer, which training makes itself (Ledig et al. 2017; ESRGAN).

    `predict(variables, image)` takes a normalised image of low resolution. Intensities are scaled and not cut off.

    Args:
      generator, discriminator, rules, fidelity: see `synthesis`; the generator takes `(image, train)`.
      factors: how many times longer the network makes each spatial axis.
      degrade: how training images lose resolution: "fourier" or "gaussian", see `ops.degrade`.
      intensities: of the images.
    """
    factor = max(factors)
    axes = tuple(axis for axis, each in enumerate(factors) if each > 1)

    def scaled(image: Array) -> Array:
        scale, offset = value_range.scales(intensities.kinds, image.shape[-1], clip=intensities.clip)
        return (image - offset) / scale

    def lowered(image: Array) -> Array:
        return jax.vmap(lambda one: ops.degrade(one, factor=factor, axes=axes, method=degrade))(image)

    def read(batch: dict, key: Array) -> Example:
        del key
        true = scaled(batch["image"])
        return Example((lowered(true),), None, true)

    def blank(image: Array) -> Example:
        return Example((lowered(image),), None, image)

    return _task(
        generator, discriminator, rules, fidelity, read, blank, lambda image: (scaled(image),), intensities
    )  # fmt: skip


def one_hot(labels: Int[Array, "B *S"], num_classes: int) -> Float[Array, "B *S K"]:
    """Returns one plane a class; pixels of other values, such as IGNORE, are 0 in all."""
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)


def style_length(generator: Any) -> int:
    """The length of the style vector that a generator takes; 0: it takes none."""
    return int(getattr(generator, "style_features", 0))


def call(
    generator, variables: dict, given: Sequence[Array], *, train: bool, key: Array | None = None
) -> tuple[Float[Array, "B *S C"], dict[str, Any]]:
    """Returns (image, updated collections) of a generator; a style of length 0 is no argument."""
    arguments = _arguments(given)
    rngs = {} if key is None else {"dropout": key}
    if not train:
        return generator.apply(variables, *arguments, train=False, rngs=rngs)[0], {}
    collections = players.collections_of(variables)
    (image, _), updated = generator.apply(variables, *arguments, train=True, mutable=collections, rngs=rngs)
    return image, dict(updated)


def _arguments(given: Sequence[Array]) -> list[Array]:
    """What a generator is called with: a style of length 0 is left out."""
    return [value for value in given if value.shape[-1]]


def channels_of(image: Float[Array, "B *S C"], places: Sequence[int]) -> Float[Array, "B *S D"]:
    """Returns some channels of an image, in the order that is asked for."""
    return jnp.stack([image[..., place] for place in places], axis=-1)


def _task(
    generator: Any,
    discriminator: Any,
    rules: Rules | None,
    fidelity: Fidelity,
    read: Callable[[dict, Array], Example],
    blank: Callable[[Array], Example],
    given: Callable[[Any], tuple[Array, ...]],
    made_as: Intensities,
) -> Task:
    def init(key: Array, image: Array) -> tuple[dict, dict]:
        example, keys = blank(image), jax.random.split(key)
        arguments = _arguments(example.given)
        variables = dict(generator.init({"params": keys[0], "dropout": keys[0]}, *arguments, train=False))
        params: dict[str, Any] = {GENERATOR: variables.pop("params")}
        extra: dict[str, Any] = {GENERATOR: variables}
        if rules is not None:
            pair = Pair(example.true, example.true, example.condition, jnp.zeros(len(image), jnp.int32))
            params, extra = players.add(params, extra, discriminator, keys[1], pair)
        return params, extra

    def play(params: dict, extra: dict, batch: dict, key: Array) -> tuple[Example, Array, dict]:
        """The same in both losses, so that it is computed once."""
        example = read(batch, key)
        variables = {"params": params[GENERATOR], **extra[GENERATOR]}
        made, updated = call(generator, variables, example.given, train=True, key=jax.random.fold_in(key, 1))
        return example, made, updated

    def judging(params, extra, batch, key, *, axis_name=None):
        assert rules is not None  # else this loss is not part of the task
        example, made, _ = play(params, extra, batch, key)
        pair = Pair(example.true, made, example.condition, batch["index"])
        lesson = jax.random.fold_in(key, 2)
        return players.learn(discriminator, rules, params, extra, pair, lesson, axis_name=axis_name)

    def making(params, extra, batch, key, *, axis_name=None):
        example, made, updated = play(params, extra, batch, key)
        loss, figures = fidelity_loss(fidelity, made, example.true, made_as, label=example.label)
        if rules is not None:
            pair = Pair(example.true, made, example.condition, batch["index"])
            trial = jax.random.fold_in(key, 3)
            fooling, found = players.persuade(discriminator, rules, params, extra, pair, trial, axis_name=axis_name)
            loss, figures = loss + fooling, {**figures, **found}
        figures = {**figures, "loss/generator": loss, **players.diversity(made, example.true)}
        return loss, (figures, {**extra, GENERATOR: {**extra[GENERATOR], **updated}})

    def predict(variables: dict, asked: Any) -> Array:
        own = {"params": variables["params"][GENERATOR], **variables["extra"][GENERATOR]}
        return made_as.decode(call(generator, own, given(asked), train=False)[0])

    def counts(variables: dict, batch: dict) -> dict[str, Array]:
        example = read(batch, jax.random.key(0))
        own = {"params": variables["params"][GENERATOR], **variables["extra"][GENERATOR]}
        made, _ = call(generator, own, example.given, train=False)
        return {"absolute_error": jnp.sum(jnp.abs(made - example.true)), "values": jnp.float32(made.size)}

    game = {} if rules is None else {DISCRIMINATOR: judging}
    return Task(init=init, losses={**game, GENERATOR: making}, counts=counts, predict=predict)


def fidelity_loss(
    fidelity: Fidelity,
    made: Float[Array, "B *S C"],
    true: Float[Array, "B *S C"],
    intensities: Intensities,
    *,
    label: Int[Array, "B *S"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Returns (loss, figures) of made images against true ones, both encoded, and against what they were made of."""
    error = players.mean_absolute(made, true)
    loss, figures = fidelity.pixel * error, {"error/pixel": error}
    if fidelity.perceive is None:
        return loss, figures
    found = fidelity.perceive(intensities.decode(made))
    if fidelity.perceptual:
        seen = players.mean_absolute(found, fidelity.perceive(intensities.decode(jax.lax.stop_gradient(true))))
        figures["error/perceptual"] = seen
        loss = loss + fidelity.perceptual * seen
    if fidelity.label_consistency and label is not None:
        missed = jnp.mean(losses.cross_entropy(found[-1], label, ignore_label=IGNORE))
        figures["error/labels"] = missed
        loss = loss + fidelity.label_consistency * missed
    return loss, figures
