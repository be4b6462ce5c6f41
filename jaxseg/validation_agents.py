"""What is wrong with a config whose agents change a segmentation step by step: part of `validation`."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from jaxseg.config import AGENTS

REFINEMENT, OPERATORS = AGENTS
LEAST = {"factor": 1, "steps": 1, "entropy": 0.0, "value": 0.0, "horizon": 0, "reward_map": 0, "clicks": 0}
LEAST_OF_OPERATORS = {"replay": 1, "transitions": 1, "step_cost": 0.0}


def problems(config: ConfigDict) -> Iterator[str]:
    """Yields a sentence for every setting that cannot be, with its field and the fix."""
    if config.predict.steps is not None and config.predict.steps < 0:
        yield f"predict.steps must be 0 or more, got {config.predict.steps}."
    for name in ("steps", "clicks"):
        if config.evaluate[name] < 0:
            yield f"evaluate.{name} must be 0 or more, got {config.evaluate[name]}."
    if config.task not in AGENTS:
        return
    yield from _place_problems(config)
    yield from _number_problems(config.rl)
    if config.task == REFINEMENT:
        yield from _refinement_problems(config)
    else:
        yield from _operator_problems(config)


def _place_problems(config: ConfigDict) -> Iterator[str]:
    """What agents do not go with."""
    if not config.rl.initial:
        yield "rl.initial is not set; name the workdir of a trained run, or threshold, or blank."
    if config.data.previous:
        yield "data.previous is for semantic tasks; name the earlier run in rl.initial."
    if config.predict.average != "probabilities":
        yield "predict.average must be probabilities, which are what agents change."
    if config.predict.watershed:
        yield "predict.watershed is for semantic tasks; leave it out where agents refine a mask."
    if config.adversarial.weight:
        yield "adversarial.weight is not for agents; set it to 0."
    if config.parallel.spatial > 1:
        yield "parallel.spatial > 1 works for semantic tasks only."


def _number_problems(options: ConfigDict) -> Iterator[str]:
    for name, least in {**LEAST, **LEAST_OF_OPERATORS}.items():
        if not least <= options[name] < float("inf"):
            yield f"rl.{name} must be {least:g} or more, got {options[name]}."
    if not 0 <= options.discount <= 1:
        yield f"rl.discount must lie from 0 to 1, got {options.discount}."
    if options.click_scale <= 0:
        yield f"rl.click_scale must be positive, in pixels, got {options.click_scale}."
    if not 0 < options.target_rate <= 1:
        yield f"rl.target_rate must be above 0 and at most 1, got {options.target_rate}."
    if len(options.epsilon) != 2 or not all(0 <= share <= 1 for share in options.epsilon):
        yield f"rl.epsilon must be two shares, at the start and the end, such as (1.0, 0.05); got {options.epsilon}."
    if not 0 < options.explore <= 1:
        yield f"rl.explore is the share of the updates that explore, above 0 and at most 1, got {options.explore}."
    if not 0 < options.threshold_step < 0.5:
        yield f"rl.threshold_step must lie between 0 and 0.5, got {options.threshold_step}."


def _refinement_problems(config: ConfigDict) -> Iterator[str]:
    options = config.rl
    for field, known in (("learner", ("actor_critic", "supervised")), ("reward", ("cross_entropy", "dice"))):
        if options[field] not in known:
            yield f"rl.{field} must be {' or '.join(known)}, got {options[field]!r}."
    if options.reward_map and options.reward_map % 2 == 0:
        yield f"rl.reward_map is the width of a kernel with a middle, an odd number, got {options.reward_map}."
    if options.clicks and options.steps % options.clicks:
        yield f"rl.steps = {options.steps} must be a multiple of rl.clicks = {options.clicks}, so many steps a click."
    if options.horizon and not options.value:
        yield "rl.horizon lets the critic's value stand for later rewards; set rl.value above 0, or rl.horizon=0."
    if options.clicks and config.predict.tta:
        yield "predict.tta flips images but not what hints say; leave it off with rl.clicks."
    if config.model.name == "q_network":
        yield "model.name='q_network' is for task='operators'; set model.name='pixel_actor_critic', or unet."


def _operator_problems(config: ConfigDict) -> Iterator[str]:
    if config.model.name != "q_network":
        yield f"task='operators' learns values of actions; set model.name='q_network', got {config.model.name!r}."
    if config.predict.steps is not None:
        yield "predict.steps is for task='refinement'; leave it unset, an agent over operators stops by itself."
    if config.train.total_steps is None:
        yield "task='operators' explores for a share of the updates; set train.total_steps."
    if config.rl.replay < config.data.batch_size:
        least = config.data.batch_size
        yield f"rl.replay = {config.rl.replay} must hold the episodes of a batch; set it to {least} or more."
    if config.rl.clicks:
        yield "rl.clicks are for task='refinement'; set it to 0."
