"""An agent that finds a strategy over operators by Q-learning, as a Task.

Double (van Hasselt et al. 2016) and duelling (Wang et al. 2016: `models.q_network`), with a replay buffer and a target
network (Mnih et al. 2015). The images of a batch begin new episodes; one update plays them, remembers them, and learns
from actions drawn from all that is remembered.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxseg.rl import operator_agent, operators, replay
from jaxseg.rl.operator_agent import Agent
from jaxseg.rl.operators import OPERATORS, State
from jaxseg.rl.planes import seen
from jaxseg.rl.replay import Buffer, Episodes, Transitions
from jaxseg.rl.start import START, Start
from jaxseg.tasks.semantic import read_outputs
from jaxseg.typing import Task, UserError

TARGET, REPLAY, UPDATES = "target", "replay", "updates"  # in `extra`


class Rules(NamedTuple):
    """How the agent learns.

    Attributes:
      environment: what its actions do.
      updates: in all, micro-batches (`accumulate`) counted one by one.
      explore: share of the updates after which `last_epsilon` is reached.
      first_epsilon: share of actions drawn at random in the first update,
      last_epsilon: and in the last ones; in between a straight line.
      discount: of a reward one step later.
      capacity: of the replay buffer, in episodes: one a plane of an image.
      transitions: drawn from it at each update, over all devices.
      target_rate: by which the target network follows at each update.
      double: the network chooses the next action, the target network tells its worth; False: the latter does both.
    """

    environment: operators.Rules = operators.Rules()
    updates: int = 1000
    explore: float = 0.5
    first_epsilon: float = 1.0
    last_epsilon: float = 0.05
    discount: float = 0.95
    capacity: int = 500
    transitions: int = 64
    target_rate: float = 0.01
    double: bool = True


def q_learning(
    model,
    start: Start,
    rules: Rules,
    *,
    num_classes: int,
    regions: Sequence[Sequence[int]] | None = None,
    channels: int,
    group: str = "model",
) -> Task:
    """Binds a network that tells what actions are worth into a Task.

    Each plane (class but the background, or region) is an episode of its own of the one agent. A training step's
    figures are those of the exploring agent: "counts" of the masks that it ends with, "reward" and "actions" of an
    episode, and "epsilon"; "q" is the mean worth of the remembered actions.

    `predict(variables, image)` plays greedily and gives 1 for the class of a pixel, 0 for others; where planes of
    exclusive classes overlap, the class that was likelier at the start wins. Behind its `channels` channels the image
    may hold the probabilities to start from, one a class or region. `operator_agent.tracer` shows the episodes.

    Args:
      model: `(image (B, *S, D), train) -> (values (B, len(OPERATORS)), aux)`; it keeps no statistics.
      start: where episodes start.
      rules: of learning and of the environment.
      num_classes: classes with background.
      regions: None for exclusive classes; else the class ids of each region.
      channels: of an image.
      group: name of the one parameter group.
    """
    outputs = read_outputs(num_classes=num_classes, regions=regions)
    kind: dict[str, Any] = {"num_classes": num_classes, "regions": regions, "channels": channels}
    agent = operator_agent.make_agent(model, start, rules.environment, **kind)
    trace = operator_agent.tracer(model, start, rules.environment, group=group, **kind)

    def init(key: Array, image: Array) -> tuple[dict, dict]:
        shape = image.shape[1:-1]
        blank = (jnp.zeros((1, *shape), dtype) for dtype in (jnp.float32, bool, bool))
        inputs = agent.inputs(image[:1, ..., :channels], jax.vmap(operators.reset)(*blank), jnp.zeros(1, jnp.int32))
        variables = dict(model.init(key, inputs, train=False))
        own = variables.pop("params")
        if variables:
            raise UserError(
                f"A network of Q-learning should keep no statistics, but this one has {', '.join(variables)}; choose "
                "another norm."
            )
        buffer = replay.empty(rules.capacity, shape, channels=channels, steps=rules.environment.steps)
        extra = {group: {}, START: start.variables, TARGET: own, REPLAY: buffer, UPDATES: jnp.zeros((), jnp.int32)}
        return {group: own}, extra

    def learn(params, extra, batch, key, *, axis_name=None):
        count, frozen = extra[UPDATES], jax.lax.stop_gradient(params[group])
        epsilon = exploration(count, rules)
        exploring, drawing = (jax.random.fold_in(key, number) for number in (1, 2))
        image, probability = agent.begin(extra[START], batch["image"])
        seen_by_plane = jnp.repeat(seen(batch["label"])[..., 0] > 0.5, agent.planes, axis=0)
        states = jax.vmap(operators.reset)(probability, agent.true(batch["label"]), seen_by_plane)
        keys = _keys(exploring, batch["index"], agent.planes)
        episodes, final = explore(agent, frozen, image, states, keys, epsilon=epsilon, rules=rules)
        buffer = replay.add(extra[REPLAY], _gathered(episodes, axis_name))
        lesson = _drawn(jax.random.fold_in(drawing, count), buffer, rules.transitions, axis_name)
        loss, chosen = temporal_difference(agent, params[group], extra[TARGET], lesson, rules)
        target = jax.tree.map(lambda old, new: old + rules.target_rate * (new - old), extra[TARGET], frozen)
        figures = {
            "counts": outputs.count(agent.back(probability, final.mask), batch["label"]),
            "reward": episodes.rewards.sum(1).mean(),
            "actions": episodes.lengths.mean(dtype=jnp.float32),
            "epsilon": epsilon,
            "q": chosen.mean(),
        }
        return loss, (figures, {**extra, TARGET: target, REPLAY: buffer, UPDATES: count + 1})

    def predict(variables, image):
        return trace(variables, image).probabilities[-1]

    def counts(variables, batch):
        return outputs.count(predict(variables, batch["image"]), batch["label"])

    return Task(init=init, losses={group: learn}, counts=counts, predict=predict)


def exploration(count: Int[Array, ""], rules: Rules) -> Float[Array, ""]:
    """Returns the share of actions that are drawn at random in update number `count`, from 0."""
    way = jnp.clip(count / max(rules.explore * rules.updates, 1.0), 0.0, 1.0)
    return rules.first_epsilon + way * (rules.last_epsilon - rules.first_epsilon)


def explore(
    agent: Agent,
    params: PyTree,
    image: Float[Array, "N *S C"],
    states: State,
    keys: Array,
    *,
    epsilon: float | Float[Array, ""],
    rules: Rules,
) -> tuple[Episodes, State]:
    """Plays N episodes, each action with probability `epsilon` at random, else the one that seems worth most.

    Args:
      agent: that plays.
      params: of its network.
      image, states: as `Agent` says.
      keys: one an episode.
      epsilon: from 0 to 1.
      rules: of the environment.

    Returns:
      The episodes as they are remembered, and their last states.
    """

    def choose(time: Array, values: Array) -> Array:
        def one(key: Array, own: Array) -> Array:
            whether, which = jax.random.split(jax.random.fold_in(key, time))
            free = jax.random.uniform(whether) < epsilon
            return jnp.where(free, jax.random.randint(which, (), 0, len(OPERATORS)), own.argmax(-1))

        return jax.vmap(one)(keys, values)

    final, path = operator_agent.play(agent, params, image, states, choose, rules=rules.environment)
    episodes = Episodes(
        image=image,
        probability=states.probability,
        plane=operator_agent.plane_of(len(image), agent.planes),
        masks=jnp.concatenate([states.mask[None], path.masks]).swapaxes(0, 1),
        thresholds=jnp.concatenate([states.threshold[None], path.thresholds]).T,
        actions=path.actions.T,
        rewards=path.rewards.T,
        lengths=path.running.sum(0, dtype=jnp.int32),
    )
    return episodes, final


def temporal_difference(
    agent: Agent, params: PyTree, target: PyTree, lesson: Transitions, rules: Rules
) -> tuple[Float[Array, ""], Float[Array, "N"]]:
    """Returns the mean Huber loss between actions' worth and what they turned out to be, and that worth.

    Args:
      agent: whose worth it is.
      params: of the network that learns.
      target: of the target network.
      lesson: remembered actions.
      rules: of learning.
    """
    before = _state(lesson, lesson.mask, lesson.threshold, lesson.time)
    after = _state(lesson, lesson.next_mask, lesson.next_threshold, lesson.time + 1)
    values = agent.values(params, agent.inputs(lesson.image, before, lesson.plane))
    later = agent.inputs(lesson.image, after, lesson.plane)
    ahead = agent.values(target, later)
    judge = agent.values(params, later) if rules.double else ahead
    best = jnp.take_along_axis(ahead, judge.argmax(-1, keepdims=True), axis=-1)[:, 0]
    worth = jax.lax.stop_gradient(lesson.reward + rules.discount * jnp.where(lesson.done, 0.0, best))
    chosen = jnp.take_along_axis(values, lesson.action[:, None], axis=-1)[:, 0]
    return optax.huber_loss(chosen, worth).mean(), chosen


def _state(lesson: Transitions, mask: Bool[Array, "N *S"], threshold: Array, time: Array) -> State:
    """A remembered state as a network sees it; the truth is not needed any more."""
    blank = jnp.zeros(mask.shape, bool)
    done = jnp.zeros(time.shape, bool)
    return State(lesson.probability, mask, blank, blank, threshold, time, done)


def _keys(key: Array, index: Int[Array, "B"], planes: int) -> Array:
    """One an episode, whose draws depend on the sample's place in the global batch and on the plane."""

    def one(place: Array, plane: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(key, place), plane)

    places = jnp.repeat(index, planes)
    return jax.vmap(one)(places, operator_agent.plane_of(len(places), planes))


def _gathered(episodes: Episodes, axis_name: str | None) -> Episodes:
    """The episodes of all devices, since they share one memory."""
    if axis_name is None:
        return episodes
    return jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name, axis=0, tiled=True), episodes)


def _drawn(key: Array, buffer: Buffer, count: int, axis_name: str | None) -> Transitions:
    """This device's part of what one device would draw."""
    if axis_name is None:
        return replay.draw(key, buffer, count)
    devices = jax.lax.axis_size(axis_name)
    if count % devices:
        raise UserError(f"rl.transitions = {count} should be divisible by the {devices} devices that share them.")
    own = count // devices
    return replay.draw(key, buffer, own, first=jax.lax.axis_index(axis_name) * own)
