"""Two players as a Task: a network that makes something, and a discriminator that tells it from the real thing.

`versus` binds any maker: a generator of images (`tasks.images`), of images there and back (`tasks.cycle`), or a network
that segments (`tasks.critic`). The discriminator's group comes first: both then see what the maker made with one set of
parameters, and XLA computes it once.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseg import losses
from jaxseg.data.augment import differentiable_augment

GENERATOR, DISCRIMINATOR = "generator", "discriminator"
JUDGED = "judged"  # in `extra`: how often the discriminator has learnt
PENALTY_EVERY = 16  # steps between two gradient penalties (StyleGAN's lazy regularisation)
CENTRE = {"least_squares": 0.5}  # the logit that is neither real nor made; 0 for the other losses


class Rules(NamedTuple):
    """How the players play.

    Attributes:
      loss: of `losses.adversarial.KINDS`.
      weight: of the adversarial loss in the maker's.
      start: steps before it counts.
      feature_matching: weight of the mean absolute error in the discriminator's features.
      gradient_penalty: gamma of R1, on real images; 0: none.
      augment: strengths of `differentiable_augment` for all that is judged; empty: none.
    """

    loss: str = "hinge"
    weight: float = 1.0
    start: int = 0
    feature_matching: float = 0.0
    gradient_penalty: float = 0.0
    augment: Mapping[str, float] = MappingProxyType({})


class Pair(NamedTuple):
    """What is judged: real and made images `(B, *S, C)`, what both show `(B, *S, D)` or None, places in the batch."""

    real: Float[Array, "B *S C"]
    made: Float[Array, "B *S C"]
    condition: Float[Array, "B *S D"] | None
    places: Int[Array, "B"]


class Judged(NamedTuple):
    """Logits and features of both halves, one entry a scale, and the discriminator's updated collections."""

    real: list[Array]
    made: list[Array]
    real_features: list
    made_features: list
    updated: dict[str, Any]


def start(discriminator, key: Array, pair: Pair) -> tuple[Any, dict[str, Any]]:
    """Returns the discriminator's (parameters, collections) for images of the pair's shapes."""
    variables = dict(discriminator.init(key, _with_condition(pair.real, pair.condition), train=False))
    return variables.pop("params"), variables


def add(params: dict, extra: dict, discriminator, key: Array, pair: Pair) -> tuple[dict, dict]:
    """Returns a maker's (parameters, extra) with those of one discriminator, for images of the pair's shapes."""
    own, collections = start(discriminator, key, pair)
    return {**params, DISCRIMINATOR: own}, {**extra, DISCRIMINATOR: collections, JUDGED: jnp.zeros((), jnp.int32)}


def learn(
    discriminator, rules: Rules, params: dict, extra: dict, pair: Pair, key: Array, *, axis_name=None
) -> tuple[Float[Array, ""], tuple[dict[str, Array], dict]]:
    """The loss of a task's one discriminator as a `Task` has it: (loss, (figures, extra))."""
    own = {"params": params[DISCRIMINATOR], **extra[DISCRIMINATOR]}
    count = extra[JUDGED]
    loss, figures, updated = discriminator_loss(discriminator, own, pair, key, rules, count=count, axis_name=axis_name)
    return loss, (figures, {**extra, DISCRIMINATOR: {**extra[DISCRIMINATOR], **updated}, JUDGED: count + 1})


def persuade(
    discriminator, rules: Rules, params: dict, extra: dict, pair: Pair, key: Array, *, axis_name=None
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """What a task's one discriminator adds to the maker's loss: (loss, figures)."""
    own = {"params": params[DISCRIMINATOR], **extra[DISCRIMINATOR]}
    return adversarial_loss(discriminator, own, pair, key, rules, count=extra[JUDGED], axis_name=axis_name)


def judge(
    discriminator,
    variables: Mapping[str, Any],
    pair: Pair,
    key: Array,
    rules: Rules,
    *,
    train: bool,
    alone: bool = False,
) -> Judged:
    """Shows the discriminator real and made images as one batch; with `train` its collections are updated.

    With batch norm both halves share their statistics in training; the default, instance norm, knows no such question.
    With `alone` the made images only are shown, and the real half of the answer is empty.
    """
    halves = (pair.made,) if alone else (pair.real, pair.made)
    first = 2 - len(halves)  # a half has the same draws whether the other one is shown or not
    shown = jnp.concatenate([_shown(image, pair, key, rules, half) for half, image in enumerate(halves, start=first)])
    updated: Any = {}
    if train:
        collections = collections_of(variables)
        (logits, aux), updated = discriminator.apply(variables, shown, train=True, mutable=collections)
    else:
        logits, aux = discriminator.apply(variables, shown, train=False)
    scales = list(logits) if isinstance(logits, list | tuple) else [logits]
    features = list(aux["features"]) if isinstance(logits, list | tuple) else [list(aux["features"])]
    count = 0 if alone else len(pair.real)
    real, made = ([scale[part] for scale in scales] for part in (slice(count), slice(count, None)))
    real_features, made_features = (
        [[layer[part] for layer in scale] for scale in features] for part in (slice(count), slice(count, None))
    )
    return Judged(real, made, real_features, made_features, dict(updated))


def _shown(image: Array, pair: Pair, key: Array, rules: Rules, half: int) -> Array:
    """One half as it is judged: augmented, with its condition, which is shifted and cut as its image."""
    if not rules.augment:
        return _with_condition(image, pair.condition)
    key = jax.random.fold_in(key, half)
    image = differentiable_augment(key, image, index=pair.places, **rules.augment)
    if pair.condition is None:
        return image
    strengths = {**rules.augment, "brightness": 0.0}
    return _with_condition(image, differentiable_augment(key, pair.condition, index=pair.places, **strengths))


def _with_condition(image: Array, condition: Array | None) -> Array:
    return image if condition is None else jnp.concatenate([condition, image], axis=-1)


def discriminator_loss(
    discriminator, variables: Mapping[str, Any], pair: Pair, key: Array, rules: Rules, *, count: Array, axis_name=None
) -> tuple[Float[Array, ""], dict[str, Array], dict[str, Any]]:
    """Returns (loss, figures, updated collections) of one discriminator; no gradient reaches the maker.

    Args:
      discriminator, variables: the network and its parameters and collections.
      pair: what it is shown.
      key: of the augmentation.
      rules: of the game.
      count: how often it has learnt, which says when a gradient penalty is due.
      axis_name: the devices' axis, for the relativistic loss.
    """
    pair = jax.lax.stop_gradient(pair)
    judged = judge(discriminator, variables, pair, key, rules, train=True)
    loss = losses.discriminator_loss(judged.real, judged.made, kind=rules.loss, axis_name=axis_name).mean()
    figures = {**_accuracies(judged, rules), "loss/discriminator": loss}
    if rules.gradient_penalty:
        penalty = _penalty(discriminator, variables, pair, rules, count)
        loss, figures["loss/gradient_penalty"] = loss + penalty, penalty
    return loss, figures, judged.updated


def _penalty(discriminator, variables: Mapping[str, Any], pair: Pair, rules: Rules, count: Array) -> Array:
    """R1 at every sixteenth step, sixteen times as heavy, so that its mean over steps is what gamma says."""

    def apply(image: Array) -> Any:
        return discriminator.apply(variables, _with_condition(image, pair.condition), train=False)[0]

    def due() -> Array:
        penalty = losses.gradient_penalty_r1(apply, pair.real, gamma=rules.gradient_penalty)
        return PENALTY_EVERY * penalty.mean()

    return jax.lax.cond(count % PENALTY_EVERY == 0, due, lambda: jnp.zeros(()))


def _accuracies(judged: Judged, rules: Rules) -> dict[str, Array]:
    """The share of patches of each half that the discriminator takes for what they are."""
    right: dict[str, list[Array]] = {"real": [], "fake": []}
    for real, made in zip(judged.real, judged.made):
        relative = rules.loss == "relativistic"
        centre = CENTRE.get(rules.loss, 0.0)
        right["real"].append(jnp.mean(real > (made.mean() if relative else centre)))
        right["fake"].append(jnp.mean(made < (real.mean() if relative else centre)))
    return {f"accuracy/{half}": jnp.mean(jnp.stack(shares)) for half, shares in right.items()}


def adversarial_loss(
    discriminator, variables: Mapping[str, Any], pair: Pair, key: Array, rules: Rules, *, count: Array, axis_name=None
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Returns (loss, figures) of who made `pair.made`; the discriminator's collections stay. Args as above."""
    compared = rules.loss == "relativistic" or bool(rules.feature_matching)
    judged = judge(discriminator, variables, pair, key, rules, train=False, alone=not compared)
    real = judged.real if compared else None
    fooled = losses.generator_loss(judged.made, kind=rules.loss, real_logits=real, axis_name=axis_name).mean()
    figures = {"loss/adversarial": fooled}
    counts = jnp.where(count > rules.start, rules.weight, 0.0)
    total = counts * fooled
    if rules.feature_matching:
        matching = losses.feature_matching(judged.real_features, judged.made_features).mean()
        total = total + jnp.where(count > rules.start, rules.feature_matching, 0.0) * matching
        figures["loss/feature_matching"] = matching
    return total, figures


def diversity(made: Float[Array, "B *S C"], real: Float[Array, "B *S C"]) -> dict[str, Array]:
    """How much images of a batch differ from one another, over how much real ones do; nothing for a batch of one."""
    if len(real) < 2:
        return {}
    spread = [jnp.mean(jnp.std(images, axis=0)) for images in (made, real)]
    return {"diversity": spread[0] / jnp.maximum(spread[1], 1e-6)}


def collections_of(variables: Mapping[str, Any]) -> list[str]:
    """Names of what a network carries beside its parameters."""
    return [name for name in variables if name != "params"]


def per_sample(key: Array, index: Int[Array, "B"], length: int) -> Float[Array, "B Z"]:
    """Standard normal vectors, each of which depends on the key and its sample's place in the global batch."""
    return jax.vmap(lambda place: jax.random.normal(jax.random.fold_in(key, place), (length,)))(index)


def mean_absolute(made: Any, true: Any) -> Float[Array, ""]:
    """The mean absolute difference of two trees of arrays, each array counting alike."""
    parts = [jnp.mean(jnp.abs(a - b)) for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(true))]
    return jnp.mean(jnp.stack(parts))


Perceive = Callable[[Float[Array, "B *S C"]], list[Array]]  # normalised images -> features of a fixed network
