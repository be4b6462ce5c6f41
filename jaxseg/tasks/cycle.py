"""Translation without pairs as a Task: there and back, and two discriminators (CycleGAN, Zhu et al. 2017)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import ops
from jaxseg.tasks import images, players
from jaxseg.tasks.images import Intensities
from jaxseg.tasks.players import DISCRIMINATOR, GENERATOR, JUDGED, Pair, Rules
from jaxseg.typing import Task

FORWARD, BACKWARD = "forward", "backward"  # generators: source to target, and the other way
SIDES = {"target": FORWARD, "source": BACKWARD}  # each side's images are judged against those its generator makes
POOL = "pool"


class Cycle(NamedTuple):
    """Weights of what keeps a translation true to its source.

    Attributes:
      cycle: of the mean absolute error after there and back, both ways.
      identity: of leaving alone what is of the target kind already, as a share of `cycle`; needs equal channels.
      pool: how many earlier images the discriminators are shown some of.
    """

    cycle: float = 10.0
    identity: float = 0.5
    pool: int = 50


def unpaired(
    generators: dict[str, Any],
    discriminator: Any,
    rules: Rules,
    cycle: Cycle,
    *,
    source: Sequence[int],
    target: Sequence[int],
    intensities: Intensities,
    other: Intensities,
) -> Task:
    """Binds two generators and two discriminators; a batch holds "image" (source side) and "other" (target side).

    `predict(variables, image)` goes from the source channels to the target's; images are normalised.

    Args:
      generators: by FORWARD and BACKWARD, each `(image, train)`.
      discriminator: judges either side, with parameters of their own.
      rules: of the game; feature matching has no pairs here and is left out.
      cycle: what keeps content.
      source: places of the source channels in `batch["image"]`.
      target: places of the target channels in `batch["other"]`.
      intensities: of the channels of `batch["image"]`.
      other: of those of `batch["other"]`.
    """
    coding = {"source": intensities.of(source), "target": other.of(target)}
    rules = rules._replace(feature_matching=0.0)

    def read(batch: dict) -> dict[str, Array]:
        return {
            "source": coding["source"].encode(images.channels_of(batch["image"], source)),
            "target": coding["target"].encode(images.channels_of(batch["other"], target)),
        }

    def init(key: Array, image: Array) -> tuple[dict, dict]:
        shapes = {"source": len(source), "target": len(target)}
        blank = {side: jnp.zeros((*image.shape[:-1], channels)) for side, channels in shapes.items()}
        params: dict[str, dict] = {GENERATOR: {}, DISCRIMINATOR: {}}
        extra: dict[str, Any] = {GENERATOR: {}, DISCRIMINATOR: {}, JUDGED: jnp.zeros((), jnp.int32)}
        keys = jax.random.split(key, 4)
        for number, (side, way) in enumerate(SIDES.items()):
            given = blank["source" if way == FORWARD else "target"]
            variables = dict(generators[way].init({"params": keys[number], "dropout": keys[number]}, given))
            params[GENERATOR][way], extra[GENERATOR][way] = variables.pop("params"), variables
            pair = Pair(blank[side], blank[side], None, jnp.zeros(len(image), jnp.int32))
            params[DISCRIMINATOR][side], extra[DISCRIMINATOR][side] = players.start(
                discriminator, keys[2 + number], pair
            )
        shape = image.shape[1:-1]
        extra[POOL] = {side: ops.image_pool.start(cycle.pool, (*shape, count)) for side, count in shapes.items()}
        return params, extra

    def run(way: str, params: dict, extra: dict, image: Array, key: Array):
        variables = {"params": params[GENERATOR][way], **extra[GENERATOR][way]}
        return images.call(generators[way], variables, (image,), train=True, key=key)

    def play(params: dict, extra: dict, shown: dict, key: Array) -> tuple[dict, dict]:
        """Both translations, the same in both losses, so that they are computed once."""
        target, there = run(FORWARD, params, extra, shown["source"], jax.random.fold_in(key, 1))
        source, back = run(BACKWARD, params, extra, shown["target"], jax.random.fold_in(key, 2))
        return {"target": target, "source": source}, {FORWARD: there, BACKWARD: back}

    def judging(params, extra, batch, key, *, axis_name=None):
        shown = read(batch)
        made, _ = play(params, extra, shown, key)
        loss, pools, updates = jnp.zeros(()), {}, {}
        figures: dict[str, Array] = {}
        for number, side in enumerate(SIDES):
            own = jax.random.fold_in(key, 10 + number)
            pools[side], old = ops.image_pool.exchange(own, extra[POOL][side], made[side], axis_name=axis_name)
            value, found, updated = players.discriminator_loss(
                discriminator,
                {"params": params[DISCRIMINATOR][side], **extra[DISCRIMINATOR][side]},
                Pair(shown[side], old, None, batch["index"]),
                jax.random.fold_in(own, 1),
                rules,
                count=extra[JUDGED],
                axis_name=axis_name,
            )
            loss, updates[side] = loss + value, {**extra[DISCRIMINATOR][side], **updated}
            figures = _joined(figures, found)
        return loss, (figures, {**extra, POOL: pools, DISCRIMINATOR: updates, JUDGED: extra[JUDGED] + 1})

    def making(params, extra, batch, key, *, axis_name=None):
        shown = read(batch)
        made, updated = play(params, extra, shown, key)
        loss = jnp.zeros(())
        figures: dict[str, Array] = {}
        for number, side in enumerate(SIDES):
            value, found = players.adversarial_loss(
                discriminator,
                {"params": params[DISCRIMINATOR][side], **extra[DISCRIMINATOR][side]},
                Pair(shown[side], made[side], None, batch["index"]),
                jax.random.fold_in(key, 20 + number),
                rules,
                count=extra[JUDGED],
                axis_name=axis_name,
            )
            loss, figures = loss + value, _joined(figures, found)
        returned = {
            "source": run(BACKWARD, params, extra, made["target"], jax.random.fold_in(key, 3))[0],
            "target": run(FORWARD, params, extra, made["source"], jax.random.fold_in(key, 4))[0],
        }
        error = players.mean_absolute(returned, shown) * 2  # the sum of both sides, as published
        loss, figures["error/cycle"] = loss + cycle.cycle * error, error
        if cycle.identity:
            kept = {
                "target": run(FORWARD, params, extra, shown["target"], jax.random.fold_in(key, 5))[0],
                "source": run(BACKWARD, params, extra, shown["source"], jax.random.fold_in(key, 6))[0],
            }
            left = players.mean_absolute(kept, shown) * 2
            loss, figures["error/identity"] = loss + cycle.cycle * cycle.identity * left, left
        figures = {**figures, "loss/generator": loss, **players.diversity(made["target"], shown["target"])}
        collections = {way: {**extra[GENERATOR][way], **updated[way]} for way in updated}
        return loss, (figures, {**extra, GENERATOR: collections})

    def predict(variables: dict, image: Float[Array, "B *S C"]) -> Float[Array, "B *S D"]:
        given = coding["source"].encode(image)
        made = _plain(generators[FORWARD], variables, given)
        return coding["target"].decode(made)

    def counts(variables: dict, batch: dict) -> dict[str, Array]:
        shown = read(batch)
        made = _plain(generators[FORWARD], variables, shown["source"])
        return {"absolute_error": jnp.sum(jnp.abs(made - shown["target"])), "values": jnp.float32(made.size)}

    return Task(init=init, losses={DISCRIMINATOR: judging, GENERATOR: making}, counts=counts, predict=predict)


def _plain(generator, variables: dict, given: Array) -> Array:
    own = {"params": variables["params"][GENERATOR][FORWARD], **variables["extra"][GENERATOR][FORWARD]}
    return images.call(generator, own, (given,), train=False)[0]


def _joined(figures: dict[str, Array], found: dict[str, Array]) -> dict[str, Array]:
    """Losses of both sides add up, shares are averaged."""
    if not figures:
        return found
    means = {name: 0.5 if name.startswith("accuracy") else 1.0 for name in found}
    return {name: (figures[name] + value) * means[name] for name, value in found.items()}
