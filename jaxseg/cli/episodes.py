"""Episodes of agents on held-out cases, step by step and click by click, on the grid that they were trained on."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import evaluate as evaluation
from jaxseg import paths, predict, rl, viz
from jaxseg.cli import agents, build, case_dice, inference
from jaxseg.data import preprocess
from jaxseg.evaluate import episodes
from jaxseg.rl import operator_agent, operators
from jaxseg.train import logging
from jaxseg.typing import Case, Sample

PICTURES = ("most gained", "middle", "least gained")


class Shown(NamedTuple):
    """An episode of one case, as it is scored and drawn.

    Attributes:
      probabilities: at the start and after each step, `(T + 1, *S, K)`.
      actions: of each pixel `(T, *S)`, or names, or None where windows or planes have several.
      rewards: of each pixel `(T, *S)`, or of each step.
      clicks: (step, place, inside), where some were made.
    """

    probabilities: list[np.ndarray]
    actions: Any
    rewards: np.ndarray
    clicks: list[tuple[int, tuple[int, ...], bool]]


class Player(NamedTuple):
    """A trained run's agents.

    Attributes:
      play: `(image, label) -> Shown` without clicks.
      click: the same with a click before every so many steps, or None where agents know no hints.
      trained: steps of an episode of the training.
      names: of the actions of a pixel.
    """

    play: Callable[[np.ndarray, np.ndarray], Shown]
    click: Callable[[np.ndarray, np.ndarray], Shown] | None
    trained: int
    names: tuple[str, ...]


def can_play(trained: inference.Trained) -> bool:
    """Whether the run has agents, and is one network and not several that are averaged."""
    return agents.is_agent(trained.config) and trained.variables is not None


def evaluate(
    trained: inference.Trained,
    cases: Sequence[Case],
    load: Callable[[Case], Sample],
    folder: paths.Path,
) -> None:
    """Plays every case, writes what each step and click was worth with three pictures, and prints the table."""
    config, known = trained.config, trained.known
    settings = preprocess.settings_from_json(trained.record["settings"])
    player = _player(trained)

    def read(case: Case) -> tuple[np.ndarray, np.ndarray]:
        sample = load(case)
        image, record = preprocess.forward(sample.image, settings)
        assert sample.label is not None  # who scores a case has its label
        return image, preprocess.forward_label(sample.label, record, settings)

    played = []
    with logging.progress(len(cases), label="episodes") as show:
        for done, case in enumerate(cases, start=1):
            image, label = read(case)
            found, clicked = player.play(image, label), player.click and player.click(image, label)
            played.append(
                episodes.Played(
                    case=case.name,
                    dice=_dice(found, label, known),
                    rewards=np.asarray(found.rewards, np.float64).reshape(len(found.rewards), -1).mean(1),
                    clicks=_dice(clicked, label, known) if clicked else None,
                )
            )
            show(done, case=case.name)
    pictures: dict[str, bytes] = {}
    for title, place in _chosen(played).items():
        case = cases[place]
        image, label = read(case)
        found = (player.click or player.play)(image, label)
        stem = evaluation.evaluator.file_stem(case.name)
        pictures[stem] = _draw(found, image, label, known, player, title=f"{case.name}, {title}")
    summary = episodes.write(
        folder, played, classes=build.scored_classes(known), trained_steps=config.rl.steps, pictures=pictures
    )
    print(episodes.summary_table(summary))


def _dice(found: Shown, label: np.ndarray, known: build.Facts) -> np.ndarray:
    return np.array([case_dice.dice(one, label, known) for one in found.probabilities], np.float64)


def _chosen(played: Sequence[episodes.Played]) -> dict[str, int]:
    """Returns the places of the cases that gained most and least, and of the one between; each case once."""
    gains = [np.nan_to_num(np.nanmean(one.dice[-1]) - np.nanmean(one.dice[0])) for one in played]
    order = np.argsort(gains)[::-1]
    places = [int(order[0]), int(order[len(order) // 2]), int(order[-1])]
    return {title: place for title, place in zip(PICTURES, places) if places.index(place) == PICTURES.index(title)}


def _draw(found: Shown, image, label, known: build.Facts, player: Player, *, title: str) -> bytes:
    steps = min(len(found.probabilities) - 1, player.trained)
    return viz.episode(
        image,
        np.stack([predict.reduce(one, known.regions) for one in found.probabilities[: steps + 1]]),
        label,
        rewards=found.rewards[:steps],
        actions=None if found.actions is None else found.actions[:steps],
        action_names=player.names,
        clicks=[click for click in found.clicks if click[0] <= steps] or None,
        classes=known.classes,
        title=title,
    )


def _player(trained: inference.Trained) -> Player:
    config, known, variables = trained.config, trained.known, trained.variables
    options = {**build.predict_options(config), "flip_axes": ()}
    network = build.model(config, known)
    steps = config.evaluate.steps or 2 * config.rl.steps
    if config.task == "operators":
        trace = operator_agent.tracer(
            network, agents.start(config, known), agents.operator_rules(config).environment, **agents.data_of(known)
        )
        run = jax.jit(functools.partial(trace, variables, steps=steps))
        return Player(functools.partial(_apply_operators, run, options, known), None, config.rl.steps, ())
    refiner = agents.refiner(config, known, network)
    world = agents.world(config)
    names = rl.refine.ACTIONS if config.rl.learner == "actor_critic" else ()  # a supervised network has no actions
    play = functools.partial(
        _refine,
        refiner,
        functools.partial(jax.jit(refiner.first), variables),
        functools.partial(jax.jit(refiner.advance), variables),
        world,
        names,
        options,
    )
    clicked = functools.partial(play, steps=config.evaluate.clicks * rl.refine.every(world), clicks=True)
    return Player(
        functools.partial(play, steps=steps),
        clicked if config.rl.clicks and config.evaluate.clicks else None,
        config.rl.steps,
        names,
    )


def _refine(
    refiner: rl.Refiner,
    first: Callable,
    advance: Callable,
    world: rl.World,
    names: tuple[str, ...],
    options: dict[str, Any],
    image: np.ndarray,
    label: np.ndarray,
    *,
    steps: int,
    clicks: bool = False,
) -> Shown:
    """Plays one case; with `clicks`, only what stands before the next click and at the end is kept."""
    number, every = refiner.planes.number, rl.refine.every(world)
    true, seen = refiner.planes.true(jnp.asarray(label)), rl.planes.seen(jnp.asarray(label))
    planes = predict.predict_array(first, image, **options)
    hints = np.zeros((*image.shape[:-1], refiner.hints), np.float32)

    def state(planes: np.ndarray) -> rl.refine.State:
        return rl.refine.State(jnp.asarray(planes), jnp.asarray(hints), true, seen, jnp.zeros((), jnp.int32))

    kept, made, rewards, actions = [planes], [], [], []
    for place in range(steps):
        if clicks and place % every == 0:
            click = rl.clicks.worst(jnp.asarray(planes), true, seen, jnp.asarray(hints))
            hints = np.asarray(rl.clicks.add(jnp.asarray(hints), click, scale=world.click_scale))
            if bool(click.made):
                made.append((place // every, tuple(int(axis) for axis in click.place), bool(click.inside[0])))
        out = predict.predict_array(advance, np.concatenate([image, planes, hints], -1), **options)
        planes = out[..., :number]
        if not clicks or (place + 1) % every == 0:
            rewards.append(np.asarray(rl.refine.gain(state(kept[-1]), state(planes), world=world).mean(-1)))
            kept.append(planes)
            actions.append(out[..., number:].argmax(-1))
    return Shown(
        [np.asarray(refiner.planes.back(jnp.asarray(one))) for one in kept],
        np.stack(actions) if number == 1 and names and steps else None,
        np.stack(rewards) if rewards else np.zeros((0, *label.shape)),
        made,
    )


def _apply_operators(run, options, known: build.Facts, image: np.ndarray, label: np.ndarray) -> Shown:
    """Plays one case; the reward of a step is the change of the mean Dice, without the cost of an action."""

    if tuple(image.shape[:-1]) == tuple(options["window"]):  # one window: its actions are those of the image
        trace = run(jnp.asarray(image[None]))
        found = np.asarray(trace.probabilities)[:, 0]
        chosen = np.asarray(trace.actions)[:, 0]
        names = [", ".join(operators.OPERATORS[action] for action in step) for step in chosen]
    else:
        found, names = _by_windows(run, options, known, image), None
    dice = np.array([np.nanmean(case_dice.dice(one, label, known)) for one in found])
    return Shown(list(found), names, np.nan_to_num(np.diff(dice)).astype(np.float32), [])


def _by_windows(run, options, known: build.Facts, image: np.ndarray) -> np.ndarray:
    """Returns the probabilities after each step of an image that is larger than a window."""

    def steps(batch):
        found = jnp.moveaxis(run(batch).probabilities, 0, -2)
        return found.reshape(*found.shape[:-2], -1)

    stacked = predict.predict_array(steps, image, **options)
    return np.moveaxis(stacked.reshape(*stacked.shape[:-1], -1, agents.planes(known).outputs), -2, 0)
