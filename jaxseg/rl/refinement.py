"""Refinement of a segmentation as a Task: every pixel is an agent of `rl.refine`, all share one actor and critic.

The batch is a rollout: an episode a sample, from the probabilities of a `Start`. One synchronous update follows (A2C).
With learner="supervised" the same network, in the same episodes, says the next probabilities itself and learns them by
cross-entropy and Dice, as segmentation networks do: what reinforcement has to be compared with.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseg import losses
from jaxseg.rl import refine, returns
from jaxseg.rl.planes import Planes, read_planes, seen
from jaxseg.rl.refine import State, World
from jaxseg.rl.start import START, Start, given
from jaxseg.tasks.semantic import read_outputs, train_call
from jaxseg.typing import IGNORE, Task

LEARNERS = ("actor_critic", "supervised")
NETWORK, REWARD_MAP = "network", "reward_map"  # in the parameter group
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
      first: `(variables, image) -> planes (B, *S, P)` that an episode starts with.
      advance: `(variables, (B, *S, C + P + H)) -> (B, *S, P + P A)`: image, planes and hints in; the planes after one
        step and each pixel's action as A planes of 0 and 1 out. So windows of large images can be joined step by step.
      planes: how probabilities and planes become one another.
      hints: how many channels of hints the agents see.
    """

    task: Task
    trace: Callable[..., Trace]
    first: Callable[..., Float[Array, "B *S P"]]
    advance: Callable[..., Float[Array, "B *S D"]]
    planes: Planes
    hints: int


class Decision(NamedTuple):
    """What the agents of a batch do at one step; `logits` are those of a supervised network, for its loss."""

    planes: Float[Array, "B *S P"]
    action: Int[Array, "B *S P"]
    log_probability: Float[Array, "B *S P"]
    entropy: Float[Array, "B *S P"]
    value: Float[Array, "B *S P"]
    logits: Float[Array, "B *S P"]


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
    played: int | None = None,
    sync_batch_norm: bool = False,
) -> Refiner:
    """Binds a network that is actor and critic into a Task.

    `Task.predict` takes images of `channels` channels, and starts where `start` says; or with K probabilities behind
    them, and starts there; or with `hints` channels of hints behind those. At every step each pixel does what is most
    likely.

    Args:
      model: a Flax module with `outputs(P)` output channels.
      start: the first probabilities.
      rules: of learning.
      world: of the episodes.
      num_classes: classes with background.
      channels: of an image.
      regions: None for exclusive classes; else the class ids of each overlapping region.
      group: name of the one parameter group.
      played: steps that `Task.predict` plays; None: those of an episode.
      sync_batch_norm: batch norm takes its statistics over all devices of the mapped axis.
    """
    planes = read_planes(num_classes=num_classes, regions=regions)
    count = read_outputs(num_classes=num_classes, regions=regions).count
    observe, reset, arrive = _of_batches(world)
    hints = refine.hint_channels(world, planes.number)

    def init(key: Array, image: Array) -> tuple[dict, dict]:
        shown = jnp.zeros((*image.shape[:-1], channels + planes.number + hints))
        variables = dict(model.init(key, shown, train=False))
        params = {NETWORK: variables.pop("params")}
        if rules.reward_map:
            params[REWARD_MAP] = returns.identity_kernel(rules.reward_map, ndim=image.ndim - 2)
        return {group: params}, {group: variables, START: start.variables}

    def begin(extra: dict, image: Array, labels: Array | None) -> tuple[Array, State]:
        """Returns the image alone and the first state, at the start's probabilities or those behind the image."""
        image, probabilities, shown = given(
            start, extra[START], image, channels=channels, num_outputs=planes.outputs, hints=hints
        )
        known = jnp.zeros(image.shape[:-1], jnp.int32) if labels is None else labels
        state = reset(planes.of(probabilities), planes.true(known), seen(known))
        if shown is None and labels is None:
            shown = jnp.zeros_like(state.hints)  # nobody is there who clicks
        return image, state if shown is None else state._replace(hints=shown)

    def compute_loss(params, extra, batch, key, *, axis_name=None):
        image, state = begin(extra, batch["image"], batch["label"])
        draws = uniform(key, batch["index"], (world.steps, *state.planes.shape))
        collections, steps = extra[group], []
        # Not `lax.scan`: in its loop XLA's convolutions take twenty times as long on CPU.
        for place in range(world.steps):
            (scores, _), updated = train_call(
                model,
                {"params": params[group][NETWORK], **collections},
                observe(image, state),
                jax.random.fold_in(key, place),
                axis_name=axis_name if sync_batch_norm else None,
            )
            collections = {**collections, **updated}
            decision = decide(scores, state.planes, draws[place], learner=rules.learner)
            state, reward, _ = arrive(state, jax.lax.stop_gradient(decision.planes))
            steps.append((decision, reward))
        decisions, rewards = jax.tree.map(lambda *parts: jnp.stack(parts), *steps)
        loss, figures = _loss(decisions, rewards, state, rules, params[group].get(REWARD_MAP))
        figures["counts"] = count(planes.back(state.planes), batch["label"])
        return loss, (figures, {**extra, group: collections})

    def act(variables, image: Array, state: State) -> Decision:
        """The most likely actions of a batch."""
        own = {"params": variables["params"][group][NETWORK], **variables["extra"][group]}
        scores, _ = model.apply(own, observe(image, state), train=False)
        return decide(scores, state.planes, None, learner=rules.learner)

    def trace(variables, image, *, labels=None, steps: int | None = None) -> Trace:
        image, state = begin(variables["extra"], image, labels)
        states, actions, rewards = [state], [], []
        for _ in range(world.steps if steps is None else steps):
            decision = act(variables, image, state)
            after, reward, _ = arrive(state, decision.planes)
            state = after if labels is not None else after._replace(hints=state.hints)
            states.append(state)
            actions.append(decision.action)
            rewards.append(reward)
        return Trace(
            jnp.stack([each.planes for each in states]),
            jnp.stack([each.hints for each in states]),
            jnp.stack(actions) if actions else jnp.zeros((0, *state.planes.shape), jnp.int32),
            jnp.stack(rewards) if rewards else jnp.zeros((0, *state.planes.shape)),
        )

    def first(variables, image):
        return begin(variables["extra"], image, None)[1].planes

    def advance(variables, shown):
        current = shown[..., channels : channels + planes.number]
        state = State(current, shown[..., channels + planes.number :], current, current[..., :1], jnp.zeros((), int))
        decision = act(variables, shown[..., :channels], state)
        taken = jax.nn.one_hot(decision.action, len(refine.ACTIONS))
        return jnp.concatenate([decision.planes, taken.reshape(*taken.shape[:-2], -1)], axis=-1)

    def predict(variables, image):
        return planes.back(trace(variables, image, steps=played).planes[-1])

    def counts(variables, batch):
        return count(predict(variables, batch["image"]), batch["label"])

    return Refiner(Task(init, {group: compute_loss}, counts, predict), trace, first, advance, planes, hints)


def _of_batches(world: World) -> tuple[Callable, Callable, Callable]:
    """Returns `observe`, `reset` and `arrive` of `rl.refine` for a batch."""
    observe = jax.vmap(refine.observe, in_axes=(0, AXES))
    reset = jax.vmap(functools.partial(refine.reset, world=world), out_axes=AXES)
    arrive = jax.vmap(functools.partial(refine.arrive, world=world), in_axes=(AXES, 0), out_axes=(AXES, 0, None))
    return observe, reset, arrive


def decide(
    scores: Float[Array, "B *S K"],
    planes: Float[Array, "B *S P"],
    draws: Float[Array, "B *S P"] | None,
    *,
    learner: str,
) -> Decision:
    """Returns what the network's outputs mean for the probabilities.

    Args:
      scores: P times A scores of actions, then P values.
      planes: the probabilities now.
      draws: numbers from 0 to 1 that choose the actions; None: the most likely ones.
      learner: "supervised": the first P scores are the logits of the next probabilities.
    """
    number = planes.shape[-1]
    policy, value = scores[..., :-number], scores[..., -number:]
    if learner == "supervised":
        logits, nothing = policy[..., :number], jnp.zeros_like(value)
        after = jnp.clip(jax.nn.sigmoid(logits), refine.LEAST, 1.0 - refine.LEAST)
        return Decision(after, jnp.zeros(logits.shape, jnp.int32), nothing, nothing, nothing, logits)
    logits = jax.nn.log_softmax(policy.reshape(*policy.shape[:-1], number, -1))
    action = jnp.argmax(logits, -1).astype(jnp.int32) if draws is None else sample(logits, draws)
    taken = (jax.nn.one_hot(action, logits.shape[-1]) * logits).sum(-1)  # a gather's gradient is slow on CPU
    entropy = -(jnp.exp(logits) * logits).sum(-1)
    return Decision(jax.vmap(refine.act)(planes, action), action, taken, entropy, value, jnp.zeros_like(value))


def _loss(
    decisions: Decision, rewards: Float[Array, "T B *S P"], last: State, rules: Rules, kernel: Array | None
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Returns the loss of an episode and what to log of it."""
    figures: dict[str, Array] = {"reward": returns.pixel_mean(rewards, last.seen)}
    if rules.learner == "supervised":
        logits = decisions.logits
        entropy = returns.pixel_mean(jax.nn.softplus(logits) - last.true * logits, last.seen)
        return entropy + dice_loss(logits, last.true, last.seen), figures
    worth = returns.n_step_returns(
        rewards,
        jax.lax.stop_gradient(decisions.value),
        discount=rules.discount,
        horizon=rules.horizon,
        kernel=kernel,
    )
    loss, parts = returns.actor_critic_loss(
        decisions.log_probability,
        decisions.entropy,
        decisions.value,
        worth,
        last.seen,
        entropy=rules.entropy,
        value=rules.value,
    )
    return loss, {**figures, **parts}


def dice_loss(
    logits: Float[Array, "T B *S P"], true: Float[Array, "B *S P"], seen: Float[Array, "B *S 1"]
) -> Float[Array, ""]:
    """Returns the soft Dice loss, summed over steps as the cross-entropy is, mean over images and planes.

    Cross-entropy alone would leave a small class out wherever it is less likely than not.
    """
    options: dict[str, Any] = {"activation": "sigmoid", "smooth": refine.SMOOTH, "ignore_label": IGNORE}
    targets = jnp.where(seen > 0.0, true, float(IGNORE))
    return jax.vmap(lambda step: losses.dice_loss(step, targets, **options))(logits).mean(1).sum()


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
    return (draws[..., None] >= reached).sum(-1).astype(jnp.int32)
