"""An agent over operators: what it sees of an image's planes, how it plays, and how its masks become probabilities."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxseg.rl import operators
from jaxseg.rl.operators import STOP, State
from jaxseg.rl.planes import read_planes
from jaxseg.rl.start import START, Start, given


class Agent(NamedTuple):
    """One network that acts on each of P planes (classes but the background, or regions) as an episode of its own.

    Everything below comes plane by plane: N = B * P, all planes of one image one after another.

    Attributes:
      planes: P.
      begin: `(the start's variables, image with or without probabilities) -> (image (N, *S, C), probability (N, *S))`.
      inputs: `(image, states, plane (N,)) -> what the network sees`: the image, the state, and which plane, where there
        are several.
      values: `(params, inputs) -> what each action is worth (N, A)`.
      true: labels `(B, *S)` -> masks.
      back: `(probability, masks) -> probabilities (B, *S, K)`.
    """

    planes: int
    begin: Callable[[PyTree, Float[Array, "B *S C"]], tuple[Array, Array]]
    inputs: Callable[[Float[Array, "N *S C"], State, Int[Array, "N"]], Float[Array, "N *S D"]]
    values: Callable[[PyTree, Float[Array, "N *S D"]], Float[Array, "N A"]]
    true: Callable[[Int[Array, "B *S"]], Bool[Array, "N *S"]]
    back: Callable[[Float[Array, "N *S"], Bool[Array, "N *S"]], Float[Array, "B *S K"]]


class Trace(NamedTuple):
    """Greedy episodes of T steps on B images.

    Attributes:
      masks: before the first action and after each.
      probabilities: the same as `Task.predict` gives them.
      thresholds: the same.
      actions: of each step, places in `OPERATORS`; "stop" from the end of an episode on.
      values: what the network told of each action before each step.
    """

    masks: Bool[Array, "T+1 B *S P"]
    probabilities: Float[Array, "T+1 B *S K"]
    thresholds: Float[Array, "T+1 B P"]
    actions: Int[Array, "T B P"]
    values: Float[Array, "T B P A"]


class Path(NamedTuple):
    """What one step of N episodes leaves behind, stacked over T steps."""

    masks: Bool[Array, "T N *S"]
    thresholds: Float[Array, "T N"]
    actions: Int[Array, "T N"]
    rewards: Float[Array, "T N"]
    running: Bool[Array, "T N"]
    values: Float[Array, "T N A"]


def make_agent(
    model,
    start: Start,
    environment: operators.Rules,
    *,
    num_classes: int,
    regions: Sequence[Sequence[int]] | None = None,
    channels: int,
) -> Agent:
    """Binds a network and a start into an agent; arguments as `q_learning` has them."""
    planes = read_planes(num_classes=num_classes, regions=regions)
    background = int(not regions and num_classes > 2)  # the first plane of several exclusive classes: no agent acts
    count = planes.number - background

    def begin(variables: PyTree, image: Array) -> tuple[Array, Array]:
        image, probabilities, _ = given(start, variables, image, channels=channels, num_outputs=planes.outputs)
        return jnp.repeat(image, count, axis=0), fold(planes.of(probabilities)[..., background:])

    def inputs(image: Array, states: State, plane: Array) -> Array:
        parts = [image, jax.vmap(functools.partial(operators.observe, rules=environment))(states)]
        if count > 1:
            which = jax.nn.one_hot(plane, count, dtype=image.dtype)
            spread = which.reshape(len(which), *(1,) * (image.ndim - 2), count)
            parts.append(jnp.broadcast_to(spread, (*image.shape[:-1], count)))
        return jnp.concatenate(parts, axis=-1)

    def back(probability: Array, masks: Array) -> Array:
        inside = unfold(masks, count)
        if not background:
            return planes.back(inside.astype(jnp.float32))
        likeliest = jnp.where(inside, unfold(probability, count), -1.0).argmax(-1)
        return jax.nn.one_hot(jnp.where(inside.any(-1), likeliest + 1, 0), num_classes, dtype=jnp.float32)

    return Agent(
        planes=count,
        begin=begin,
        inputs=inputs,
        values=lambda params, seen: model.apply({"params": params}, seen, train=False)[0],
        true=lambda labels: fold(planes.true(labels)[..., background:]) > 0.5,
        back=back,
    )


def tracer(
    model,
    start: Start,
    environment: operators.Rules,
    *,
    num_classes: int,
    regions: Sequence[Sequence[int]] | None = None,
    channels: int,
    group: str = "model",
) -> Callable[..., Trace]:
    """Returns `(variables, image, *, steps=None) -> Trace`, greedy episodes of `environment.steps` steps, or of others.

    Whatever the number, the network is told of no later step than the last one that it was trained for.

    Args:
      model, start, num_classes, regions, channels, group: as `q_learning` got them.
      environment: rules of its actions.
    """
    agent = make_agent(model, start, environment, num_classes=num_classes, regions=regions, channels=channels)

    def trace(variables: dict[str, Any], image: Float[Array, "B *S C"], *, steps: int | None = None) -> Trace:
        rules = environment if steps is None else environment._replace(steps=steps)
        image, probability = agent.begin(variables["extra"][START], image)
        unknown = jnp.zeros(probability.shape, bool)
        states = jax.vmap(operators.reset)(probability, unknown, unknown)
        params = variables["params"][group]
        _, path = play(agent, params, image, states, lambda _, values: values.argmax(-1), rules=rules)
        masks = jnp.concatenate([states.mask[None], path.masks])
        thresholds = jnp.concatenate([states.threshold[None], path.thresholds])

        def by_image(x: Array) -> Array:
            return x.reshape(len(x), -1, agent.planes, *x.shape[2:])

        return Trace(
            masks=jax.vmap(lambda mask: unfold(mask, agent.planes))(masks),
            probabilities=jax.vmap(lambda mask: agent.back(probability, mask))(masks),
            thresholds=by_image(thresholds),
            actions=by_image(path.actions),
            values=by_image(path.values),
        )

    return trace


def play(
    agent: Agent,
    params: PyTree,
    image: Float[Array, "N *S C"],
    states: State,
    choose: Callable[[Int[Array, ""], Float[Array, "N A"]], Int[Array, "N"]],
    *,
    rules: operators.Rules,
) -> tuple[State, Path]:
    """Plays N episodes of `rules.steps` steps with actions `choose(time, values)`; returns (last states, path)."""
    plane = plane_of(len(image), agent.planes)

    def one(states: State, time: Array) -> tuple[State, Path]:
        values = agent.values(params, agent.inputs(image, states, plane))
        action = jnp.where(states.done, STOP, choose(time, values)).astype(jnp.int32)
        new, reward, _ = jax.vmap(lambda state, own: operators.step(state, own, rules=rules))(states, action)
        return new, Path(new.mask, new.threshold, action, reward, ~states.done, values)

    return jax.lax.scan(one, states, jnp.arange(rules.steps))


def plane_of(count: int, planes: int) -> Int[Array, "N"]:
    """Returns which plane each of N = `count` episodes acts on."""
    return jnp.arange(count, dtype=jnp.int32) % planes


def fold(x: Float[Array, "B *S P"]) -> Float[Array, "N *S"]:
    """Puts planes side by side into the batch."""
    x = jnp.moveaxis(x, -1, 1)
    return x.reshape(-1, *x.shape[2:])


def unfold(x: Array, planes: int) -> Array:
    """Takes planes out of the batch again: `(N, *S) -> (B, *S, P)`."""
    return jnp.moveaxis(x.reshape(-1, planes, *x.shape[1:]), 1, -1)
