"""Episodes of agents on held-out cases, step by step and click by click, on the grid that they were trained on."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import evaluate as evaluation
from jaxseg import paths, predict, rl, viz
from jaxseg.cli import agents, build, case_dice, inference, workdir
from jaxseg.data import preprocess
from jaxseg.evaluate import episodes
from jaxseg.rl import operator_agent, operators
from jaxseg.train import checkpoint, logging
from jaxseg.train import state as states
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


def can_play(arguments: workdir.Arguments, trained: inference.Trained) -> bool:
    """Whether the run has agents, and is one network and not several that are averaged."""
    alone = (arguments.workdir / checkpoint.FOLDER).exists() and not arguments.average
    return agents.is_agent(trained.config) and alone


def evaluate(
    arguments: workdir.Arguments,
    trained: inference.Trained,
    cases: Sequence[Case],
    load: Callable[[Case], Sample],
    folder: paths.Path,
) -> None:
    """Plays every case, writes what each step and click was worth with three pictures, and prints the table."""
    config, known = trained.config, trained.known
    settings = preprocess.settings_from_json(trained.record["settings"])
    player = _player(arguments, trained)

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


def _player(arguments: workdir.Arguments, trained: inference.Trained) -> Player:
    config, known = trained.config, trained.known
    opened = inference.open_run(arguments.workdir, config)
    variables = states.inference_variables(opened.restored.state)
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
    world = rl.World(config.rl.steps, config.rl.reward, config.rl.clicks, config.rl.click_scale)
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
    kept, made, rewards, actions = [planes], [], [], []
    for place in range(steps):
        if clicks and place % every == 0:
            click = rl.clicks.worst(jnp.asarray(planes), true, seen)
            hints = np.asarray(rl.clicks.add(jnp.asarray(hints), click, scale=world.click_scale))
            if bool(click.made):
                made.append((place // every, tuple(int(axis) for axis in click.place), bool(click.inside[0])))
        out = predict.predict_array(advance, np.concatenate([image, planes, hints], -1), **options)
        after = out[..., :number]
        gained = rl.refine.surprise(jnp.asarray(planes), true) - rl.refine.surprise(jnp.asarray(after), true)
        planes = after
        if not clicks or (place + 1) % every == 0:
            kept.append(planes)
            rewards.append(np.asarray((gained * seen).mean(-1)))
            actions.append(out[..., number:].argmax(-1))
    return Shown(
        [np.asarray(refiner.planes.back(jnp.asarray(one))) for one in kept],
        np.stack(actions) if number == 1 and names and steps else None,
        np.stack(rewards) if rewards else np.zeros((0, *label.shape)),
        made,
    )


def _apply_operators(run, options, known: build.Facts, image: np.ndarray, label: np.ndarray) -> Shown:
    """Plays one case; the reward of a step is the change of the mean Dice, without the cost of an action."""

    def masks(batch):
        found = jnp.moveaxis(run(batch).probabilities, 0, -2)
        return found.reshape(*found.shape[:-2], -1)

    count = len(known.regions or known.classes)
    stacked = predict.predict_array(masks, image, **options)
    found = np.moveaxis(stacked.reshape(*stacked.shape[:-1], -1, count), -2, 0)
    dice = np.array([np.nanmean(case_dice.dice(one, label, known)) for one in found])
    whole = tuple(image.shape[:-1]) == tuple(options["window"])
    names = None
    if whole:
        chosen = np.asarray(run(jnp.asarray(image[None])).actions)[:, 0]
        names = [", ".join(operators.OPERATORS[action] for action in step) for step in chosen]
    return Shown(list(found), names, np.nan_to_num(np.diff(dice)).astype(np.float32), [])
