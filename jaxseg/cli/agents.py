"""What the parts of a run are otherwise where agents change a segmentation: network, start, rules, task."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxseg import paths, rl
from jaxseg.cli import workdir
from jaxseg.config import AGENTS
from jaxseg.rl import operators, q_learning
from jaxseg.train import processes
from jaxseg.train import state as states
from jaxseg.typing import Task, UserError

CERTAINTY = 0.9  # of a class where a given mask says it is
SAME = ("normalize", "orientation", "axis_order", "crop")  # settings of data that a start must share


def is_agent(config: ConfigDict) -> bool:
    """Whether the run's network says what to do with a segmentation, and not what a pixel is."""
    return config.task in AGENTS


def fields(config: ConfigDict, known: Any) -> dict[str, Any]:
    """Returns the fields of the network that the data decide."""
    if config.task == "operators":
        return {"num_classes": len(operators.OPERATORS)}
    number = planes(known).number
    own = {"values": number} if config.model.name == "pixel_actor_critic" else {}
    return {"num_classes": rl.outputs(number), **own}


def planes(known: Any) -> rl.Planes:
    """The yes-or-no maps of the data's classes or regions."""
    return rl.read_planes(num_classes=len(known.classes), regions=known.regions)


def task(config: ConfigDict, known: Any, network: Any) -> Task:
    """Binds network, start and rules into a Task."""
    if config.task == "refinement":
        return refiner(config, known, network).task
    return q_learning.q_learning(network, start(config, known), operator_rules(config), **data_of(known))


def operator_rules(config: ConfigDict) -> q_learning.Rules:
    """How the agent over operators learns, and what its actions do."""
    options = config.rl
    return q_learning.Rules(
        environment=operators.Rules(steps=options.steps, threshold=options.threshold_step, cost=options.step_cost),
        updates=(config.train.total_steps or 1) * config.optim.accumulate,
        explore=options.explore,
        first_epsilon=options.epsilon[0],
        last_epsilon=options.epsilon[1],
        discount=options.discount,
        capacity=options.replay,
        transitions=options.transitions,
        target_rate=options.target_rate,
    )


def refiner(config: ConfigDict, known: Any, network: Any) -> rl.Refiner:
    """Binds the agents that are pixels; what an evaluation plays their episodes with."""
    options = config.rl
    names = ("learner", "discount", "entropy", "value", "horizon", "reward_map")
    return rl.refinement(
        network,
        start(config, known),
        rl.Rules(**{name: options[name] for name in names}),
        world(config),
        played=config.predict.steps,
        sync_batch_norm=config.train.sync_batch_norm,
        **data_of(known),
    )


def world(config: ConfigDict) -> rl.World:
    """The rules of an episode of agents that are pixels."""
    options = config.rl
    return rl.World(options.steps, options.reward, options.clicks, options.click_scale)


def data_of(known: Any) -> dict[str, Any]:
    """What the tasks of agents need to know of the data."""
    return {"num_classes": len(known.classes), "channels": len(known.channels), "regions": known.regions}


def start(config: ConfigDict, known: Any) -> rl.Start:
    """Returns where episodes start.

    Raises:
      UserError: rl.initial names no start and no trained run, or one of other images or classes.
    """
    text = str(config.rl.initial)
    if rl.start.is_named(text):
        return rl.start.from_string(text, num_classes=planes(known).outputs, regions=bool(known.regions))
    opened = _run(str(_folder(config)))
    _check(config, known, *opened[:2])
    return rl.start.reduced(opened[2], factor=config.rl.factor)


def divisor(config: ConfigDict) -> tuple[int, ...]:
    """What the images must be divisible by, so that the network where episodes start takes them."""
    if rl.start.is_named(str(config.rl.initial)):
        return (1,) * len(config.data.patch_size)
    return tuple(config.rl.factor * size for size in _run(str(_folder(config)))[3])


def common(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    """The smallest sizes that both divide, axis by axis."""
    return tuple(math.lcm(one, other) for one, other in zip(first, second))


def _folder(config: ConfigDict) -> paths.Path:
    """The workdir of the run that rl.initial names; of a run of all folds, that of this run's fold."""
    from jaxseg.cli import inference  # which loads `build`, and that this module

    folder = paths.path(config.rl.initial)
    if (folder / inference.FOLD.format(0)).is_dir() and config.data.fold.isdigit():
        return folder / inference.FOLD.format(config.data.fold)
    return folder


@functools.cache
def _run(folder: str) -> tuple[ConfigDict, Any, rl.Start, tuple[int, ...]]:
    """Returns a trained run's (config, facts, start, divisor)."""
    from jaxseg.cli import build, inference  # which build tasks, through here

    place = paths.path(folder)
    if not (place / workdir.RECORD).exists():
        names = ", ".join(rl.start.NAMES)
        raise UserError(f"rl.initial = {folder} is not the workdir of a trained run; name one, or one of {names}.")
    config = workdir.stored_config(place)
    if config.task != "semantic" or config.ensemble.kind:
        raise UserError(f"rl.initial = {folder} should be a run of one semantic network; name another.")
    with jax.ensure_compile_time_eval():
        _, known, task, restored = inference.open_run(place, config)
    variables = states.inference_variables(restored.state)
    return config, known, rl.Start(variables, task.predict), build.divisor(config, known)


def _check(config: ConfigDict, known: Any, theirs: ConfigDict, found: Any) -> None:
    from jaxseg.cli import inference

    remedy = "name a run on the same data"
    inference.check_data(f"rl.initial = {config.rl.initial}", found, known, remedy=remedy)
    differing = [name for name in SAME if theirs.data[name] != config.data[name]]
    if differing:
        name = differing[0]
        raise UserError(
            f"rl.initial = {config.rl.initial} was trained with data.{name} = {theirs.data[name]!r}, not "
            f"{config.data[name]!r}; its network would see other images: set it alike."
        )


def warn(config: ConfigDict, held_out: Sequence[str]) -> None:
    """Says where the network that episodes start from was trained on cases that are held out here."""
    if not is_agent(config) or not processes.is_first() or rl.start.is_named(str(config.rl.initial)):
        return
    seen = sorted(set(held_out) & set(workdir.record(_folder(config)).get("split", {}).get("training", ())))
    if seen:
        print(
            f"warning: {len(seen)} of {len(held_out)} held-out cases, such as {seen[0]}, trained the network of "
            "rl.initial, so that episodes start too well there; name a run on the same fold"
        )


def given(labels: np.ndarray, known: Any) -> np.ndarray:
    """Returns the probabilities `(*S, K)` that a given mask of class ids stands for."""
    if known.regions:
        inside = np.stack([np.isin(labels, region) for region in known.regions], axis=-1)
        return np.where(inside, CERTAINTY, 1.0 - CERTAINTY).astype(np.float32)
    count = len(known.classes)
    here = labels[..., None] == np.arange(count)
    return np.where(here, CERTAINTY, (1.0 - CERTAINTY) / (count - 1)).astype(np.float32)


def resting(config: ConfigDict, known: Any, own: Task) -> Task:
    """Returns the task of agents that do nothing: it predicts what episodes start with."""
    first = start(config, known)
    return own._replace(predict=lambda variables, image: first.apply(variables["extra"][rl.start.START], image))


def evaluator(
    evaluate: Callable[[states.State], dict[str, float]], before: Callable[[states.State], dict[str, float]]
) -> Callable[[states.State], dict[str, float]]:
    """Returns what also tells the Dice that episodes start with, which is measured once."""
    found: dict[str, float] = {}

    def both(state: states.State) -> dict[str, float]:
        if not found:
            found["dice_initial"] = before(state)["dice"]
        return {**evaluate(state), **found}

    return both
