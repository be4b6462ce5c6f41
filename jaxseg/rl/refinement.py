"""Refinement of a segmentation as a Task: every pixel is an agent of `rl.refine`, all share one actor and critic.

The batch is a rollout: an episode a sample, from the probabilities of a `Start`. One synchronous update follows (A2C).
With learner="supervised" the same network, in the same episodes, says the next probabilities itself and learns them by
cross-entropy: what reinforcement has to be compared with.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseg.rl import refine, returns
from jaxseg.rl.planes import Planes, read_planes, seen
from jaxseg.rl.refine import State, World
from jaxseg.rl.start import START, Start, given
from jaxseg.tasks.semantic import read_outputs, train_call
from jaxseg.typing import Task

LEARNERS = ("actor_critic", "supervised")
REWARD_MAP = "reward_map"
# Of a batch; all its episodes are at the same step, so that a click that is not due is not computed either.
AXES = State(planes=0, hints=0, true=0, seen=0, time=None)  # type: ignore[arg-type]


class Rules(NamedTuple):
    """How the agents learn.

    Attributes:
      learner: of LEARNERS.
      discount: of later rewards.
      entropy: weight of the policy's entropy.
      value: weight of the critic's error; 0: no critic, actions are judged by their return alone.
      horizon: steps of reward before the critic's value stands for the rest; 0: all.
      reward_map: width of the kernel through which later rewards of neighbours count, in pixels; 0: none.
    """

    learner: str = "actor_critic"
    discount: float = 0.95
    entropy: float = 0.01
    value: float = 0.5
    horizon: int = 0
    reward_map: int = 0


class Trace(NamedTuple):
    """An episode: planes and hints before each step and at the end, and what was done and gained at each step."""

    planes: Float[Array, "n B *S P"]
    hints: Float[Array, "n B *S H"]
    actions: Int[Array, "T B *S P"]
    rewards: Float[Array, "T B *S P"]


class Refiner(NamedTuple):
    """What `refinement` makes.

    Attributes:
      task: as the training loop takes it.
      trace: `(variables, image, *, labels=None, steps=None) -> Trace` of an episode of the most likely actions. Without
        labels there are no clicks, and rewards mean nothing.
      planes: how probabilities and planes become one another.
      hints: how many channels of hints the agents see.
    """

    task: Task
    trace: Any
    planes: Planes
    hints: int


def outputs(planes: int, *, actions: int = len(refine.ACTIONS)) -> int:
    """How many channels the network needs: a score an action and plane, then a value a plane."""
    return planes * (actions + 1)


def refinement(
    model,
    start: Start,
    rules: Rules,
    world: World,
    *,
    num_classes: int,
    channels: int,
    regions: Sequence[Sequence[int]] | None = None,
    group: str = "model",
    sync_batch_norm: bool = False,
) -> Refiner:
    """Binds a network that is actor and critic into a Task.

    `Task.predict` takes images of `channels` channels, and starts where `start` says; or with K probabilities behind
    them, and starts there; or with `hints` channels of hints behind those. It plays `world.steps` steps, each pixel's
    most likely action at every one.

    Args:
      model: a Flax module with `outputs(P)` output channels.
      start: the first probabilities.
      rules: of learning.
      world: of the episodes.
      num_classes: classes with background.
      channels: of an image.
      regions: None for exclusive classes; else the class ids of each overlapping region.
      group: name of the one parameter group.
      sync_batch_norm: batch norm takes its statistics over all devices of the mapped axis.
    """
    planes = read_planes(num_classes=num_classes, regions=regions)
    read = read_outputs(num_classes=num_classes, regions=regions)
    number, hints = planes.number, refine.hint_channels(world, planes.number)
    observe = jax.vmap(refine.observe, in_axes=(0, AXES))
    arrive = jax.vmap(functools.partial(refine.arrive, world=world), in_axes=(AXES, 0), out_axes=(AXES, 0, None))
    reset = jax.vmap(functools.partial(refine.reset, world=world), out_axes=AXES)

    def init(key: Array, image: Array) -> tuple[dict, dict]:
        shown = jnp.zeros((*image.shape[:-1], channels + number + hints))
        variables = dict(model.init(key, shown, train=False))
        params = {"network": variables.pop("params")}
        if rules.reward_map:
            params[REWARD_MAP] = returns.identity_kernel(rules.reward_map, ndim=image.ndim - 2)
        return {group: params}, {group: variables, START: start.variables}

    def decide(scores: Float[Array, "B *S K"], current: Float[Array, "B *S P"], draws: Array | None):
        """Returns (next planes, actions, their log-probabilities, entropies, values)."""
        policy, values = scores[..., :-number], scores[..., -number:]
        if rules.learner == "supervised":
            chosen = policy[..., :number]
            nothing = jnp.zeros_like(values)
            return jax.nn.sigmoid(chosen), jnp.zeros(chosen.shape, jnp.int32), nothing, nothing, nothing
        logits = jax.nn.log_softmax(policy.reshape(*policy.shape[:-1], number, -1))
        action = jnp.argmax(logits, -1) if draws is None else sample(logits, draws)
        after = jax.vmap(refine.act)(current, action)
        taken = (jax.nn.one_hot(action, logits.shape[-1]) * logits).sum(-1)  # a gather's gradient is slow on CPU
        entropy = -(jnp.exp(logits) * logits).sum(-1)
        return after, action.astype(jnp.int32), taken, entropy, values

    def begin(extra: dict, image: Array, labels: Array | None) -> tuple[Array, State]:
        """Returns the image alone and the first state, at the start's probabilities or those behind the image."""
        image, probabilities, shown = given(start, extra[START], image, channels=channels, num_outputs=read_count)
        known = jnp.zeros(image.shape[:-1], jnp.int32) if labels is None else labels
        state = reset(planes.of(probabilities), planes.true(known), seen(known))
        if shown is None and labels is None:
            shown = jnp.zeros_like(state.hints)  # nobody is there who clicks
        return image, state if shown is None else state._replace(hints=shown)

    def compute_loss(params, extra, batch, key, *, axis_name=None):
        shared_axis = axis_name if sync_batch_norm else None
        image, state = begin(extra, batch["image"], batch["label"])
        kernel = params[group].get(REWARD_MAP)

        def one(carry, place):
            state, collections = carry
            variables = {"params": params[group]["network"], **collections}
            dropout_key = jax.random.fold_in(key, place)
            (scores, _), updated = train_call(
                model, variables, observe(image, state), dropout_key, axis_name=shared_axis
            )
            after, _, taken, entropy, value = decide(scores, state.planes, draws[place])
            own = _cross_entropy(scores[..., :number], state.true) if rules.learner == "supervised" else None
            state, reward, _ = arrive(state, jax.lax.stop_gradient(jnp.clip(after, refine.LEAST, 1 - refine.LEAST)))
            return (state, {**collections, **updated}), (taken, entropy, value, reward, own)

        first = state
        draws = uniform(key, batch["index"], (world.steps, *state.planes.shape))
        # Not `lax.scan`: in its loop XLA's convolutions take twenty times as long on CPU.
        carry, steps = (state, extra[group]), []
        for place in range(world.steps):
            carry, said = one(carry, place)
            steps.append(said)
        (state, collections) = carry
        taken, entropy, value, reward, own = [None if part[0] is None else jnp.stack(part) for part in zip(*steps)]
        figures: dict[str, Array] = {"reward": _mean(reward.sum(0), first.seen)}
        if rules.learner == "supervised":
            loss = _mean(own.sum(0), first.seen)
        else:
            worth = returns.n_step_returns(
                reward, jax.lax.stop_gradient(value), discount=rules.discount, horizon=rules.horizon, kernel=kernel
            )
            loss, parts = returns.actor_critic_loss(
                taken, entropy, value, worth, first.seen, entropy=rules.entropy, value=rules.value
            )
            figures.update(parts)
        figures["counts"] = read.count(planes.back(state.planes), batch["label"])
        return loss, (figures, {**extra, group: collections})

    def trace(variables, image, *, labels=None, steps: int | None = None) -> Trace:
        extra = variables["extra"]
        own = {"params": variables["params"][group]["network"], **extra[group]}
        image, state = begin(extra, image, labels)

        def one(state, _):
            scores, _ = model.apply(own, observe(image, state), train=False)
            after, action, *_ = decide(scores, state.planes, None)
            new, reward, _ = arrive(state, jnp.clip(after, refine.LEAST, 1 - refine.LEAST))
            if labels is None:
                new = new._replace(hints=state.hints)
            return new, (new.planes, new.hints, action, reward)

        length = world.steps if steps is None else steps
        _, (after, hinted, actions, rewards) = jax.lax.scan(one, state, length=length, unroll=min(length, 8))
        return Trace(
            jnp.concatenate([state.planes[None], after]),
            jnp.concatenate([state.hints[None], hinted]),
            actions,
            rewards,
        )

    def predict(variables, image):
        return planes.back(trace(variables, image).planes[-1])

    def counts(variables, batch):
        return read.count(predict(variables, batch["image"]), batch["label"])

    read_count = len(regions) if regions else num_classes
    task = Task(init=init, losses={group: compute_loss}, counts=counts, predict=predict)
    return Refiner(task, trace, planes, hints)


def uniform(key: Array, index: Int[Array, "B"], shape: tuple[int, ...]) -> Float[Array, "T B *S P"]:
    """Returns numbers from 0 to 1, each sample's by the key and its place in the global batch alone."""
    steps, batch, *rest = shape
    count = steps * math.prod(rest)
    # Drawn flat: in more dimensions XLA compiles many times as long.
    drawn = jax.vmap(lambda place: jax.random.uniform(jax.random.fold_in(key, place), (count,)))(index)
    return jnp.moveaxis(drawn.reshape(batch, steps, *rest), 0, 1)


def sample(logits: Float[Array, "B *S P A"], draws: Float[Array, "B *S P"]) -> Int[Array, "B *S P"]:
    """Returns the action whose share of the probability a number from 0 to 1 falls into."""
    count = logits.shape[-1]
    # A product, not `cumsum`: that compiles ten times as long on CPU.
    reached = jnp.exp(logits) @ jnp.triu(jnp.ones((count, count - 1)))
    return (draws[..., None] >= reached).sum(-1)


def _cross_entropy(logits: Float[Array, "B *S P"], true: Float[Array, "B *S P"]) -> Float[Array, "B *S P"]:
    return jax.nn.softplus(logits) - true * logits


def _mean(maps: Float[Array, "B *S P"], seen: Float[Array, "B *S 1"]) -> Float[Array, ""]:
    """Over all planes of the pixels that count."""
    return (maps * seen).sum() / jnp.maximum(seen.sum() * maps.shape[-1], 1.0)
