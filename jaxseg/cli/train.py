"""--mode train, and the default that prepares, trains, evaluates and reports in one go."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxseg import metrics, predict
from jaxseg.cli import (
    agents,
    build,
    cache,
    cascade,
    case_dice,
    extra,
    image_cases,
    images,
    initial,
    instances,
    prepare,
    splitting,
    workdir,
)
from jaxseg.cli import evaluate as evaluation
from jaxseg.data import prefetch, store
from jaxseg.data.augment.previous import append
from jaxseg.tasks.semantic import mean_dice
from jaxseg.train import checkpoint, logging, loop, parallel, processes
from jaxseg.train import state as states
from jaxseg.typing import Task, UserError

TIMED_STEPS = 8


def prepare_train_evaluate(arguments: workdir.Arguments) -> None:
    """The whole job; ends by saying where everything lies."""
    outcome = train(arguments)
    if outcome.end is loop.End.STOPPED:
        return
    if arguments.config.data.fold == "none":
        if processes.is_first():
            evaluation.report(arguments)  # nothing was held out that could be scored
    else:
        evaluation.evaluate(arguments)


def train(
    arguments: workdir.Arguments,
    *,
    prepared: dict[str, Any] | None = None,
    watch: loop.Watch | None = None,
    sampling: Mapping[str, float] | None = None,
    start: Callable[[states.State], states.State] | None = None,
) -> loop.Outcome:
    """Trains to the horizon, from the latest checkpoint where there is one.

    Args:
      arguments: the command line.
      prepared: record of the run that has just prepared the same data; None: they are prepared here, or checked.
      watch: is told every validation score and may end the training there.
      sampling: case name -> the weight it is drawn with; None: all alike.
      start: what a run that is not resumed makes of its fresh state, such as going on from another run's.
    """
    config, folder = arguments.config, arguments.workdir
    if config.model.get("remat"):
        parallel.keep_barriers()
    cache.enable()
    previous = processes.first(lambda: workdir.begin(folder, config))
    begun = processes.first(lambda: any((folder / checkpoint.FOLDER).glob("[0-9]*")))
    workdir.check_shared(folder, config)
    weights = None if begun else initial.read(config)  # before preparing, so that a wrong path is told at once
    record = prepare.adopt(config, folder, prepared) if prepared else prepare.ensure(config, folder)[1]
    known = build.stored_facts(record)
    cases = cascade.ensure(config, folder, known, store.open(build.store_folder(config, folder)))
    training, held_out = splitting.split(config, cases)
    if not training:
        raise UserError(f"No training case is left in fold {config.data.fold}; use fewer data.folds or more cases.")
    training, others = images.sides(config, training, build.store_folder(config, folder))
    drawn = extra.beside(config, folder, training, sampling=sampling)
    print(f"{len(training)} training cases{drawn.words}, {len(held_out)} held out (fold {config.data.fold})")
    if processes.several():
        print(f"{jax.device_count()} devices of {jax.process_count()} processes")
    names = {"training": [case.name for case in training], "held out": [case.name for case in held_out]}
    workdir.update_record(folder, split=names)
    extra.warn(config, names["held out"])
    agents.warn(config, names["held out"])
    checkpoints, began = checkpoint.Checkpoints(folder), time.monotonic()
    try:
        begin = _Begin(previous, weights, start)
        outcome = _train(config, folder, known, (training, drawn, others), held_out, checkpoints, begin, watch)
    except Exception as error:
        processes.check_lost(error)
        raise
    finally:
        checkpoints.close()
        workdir.update_record(folder, seconds=record.get("seconds", 0.0) + time.monotonic() - began)
    print(outcome.interrupted or f"trained {int(outcome.state.step)} steps; checkpoints in {checkpoints.folder}")
    return outcome


class _Begin(NamedTuple):
    """What a training goes out from: an earlier command's record, weights from elsewhere, a change of the state."""

    record: dict[str, Any]
    weights: dict[str, Any] | None
    change: Callable[[states.State], states.State] | None


def _train(config, folder, known, cases, held_out, checkpoints, begin, watch) -> loop.Outcome:
    training, drawn, others = cases
    task = build.task(config, known)
    optimizers = build.optimizers(config)
    key = jax.random.key(config.seed)
    step_fn, put = parallel.wrap(
        build.train_step(config, known, task), kind=config.parallel.kind, spatial=config.parallel.spatial
    )
    shape = (1, *config.data.patch_size, build.input_channels(config, known))
    state = states.create(key, task, np.zeros(shape, np.float32), optimizers, horizon=1, ema=config.optim.ema > 0)
    state = parallel.whole(state)
    workdir.update_record(folder, parameters=states.parameter_counts(state))
    metadata: dict[str, Any] = {"batch_size": config.data.batch_size, "held_out": [case.name for case in held_out]}
    evaluate: Callable[[states.State], dict[str, float]] | None = None
    if images.makes_images(config):
        evaluate = image_cases.evaluator(config, known, task, held_out, training, folder)
    elif held_out:
        evaluate = evaluator(config, known, task, held_out)
        if agents.is_agent(config):
            evaluate = agents.evaluator(
                evaluate, evaluator(config, known, agents.resting(config, known, task), held_out)
            )
    latest = checkpoints.pick("latest")
    if latest is not None:
        restored = checkpoints.restore(state, step=latest)
        state, metadata = restored.state, {**restored.metadata, "batch_size": config.data.batch_size}
    elif begin.weights is not None:
        state, merged = initial.fill(config, state, begin.weights)
        print(f"weights of {config.init.path}: {merged}")
        workdir.update_record(folder, init=str(merged))
    if latest is None and begin.change is not None:
        state = parallel.whole(begin.change(state))
    if latest is None or duration(begin.record.get("config", {}).get("train")) != duration(config.train):
        steps = horizon(
            config,
            len(training),
            step_fn,
            state,
            key,
            lambda: prefetch.prefetch(
                build.batches(config, drawn.cases, start_step=0, weights=drawn.weights, others=others),
                size=2,
                transfer=put,
            ),
            evaluate,
        )
        state = state._replace(horizon=jnp.int32(processes.gather(steps)[0]))
    if processes.is_first():
        logging.truncate(folder / logging.METRICS, step=int(state.step))
    if latest is None:
        checkpoints.save(state, metadata)  # fixes the horizon before anything can be killed
    elif latest < int(state.horizon):
        print(f"resuming at step {latest} of {int(state.horizon)}")
    weights = drawn.by_step(config.data.extra_until, int(state.horizon))
    host = build.batches(config, drawn.cases, start_step=int(state.step), weights=weights, others=others)
    with (
        logging.writer(folder) if processes.is_first() else contextlib.nullcontext(_write_nothing) as write,
        logging.progress(int(state.horizon), start=int(state.step)) as show,
        prefetch.prefetch(host, size=2, transfer=put) as batches,
    ):
        return loop.run(
            state,
            step_fn=step_fn,
            batches=batches,
            key=key,
            cadence=cadence(config),
            checkpoints=checkpoints,
            metadata=metadata,
            evaluate=evaluate,
            summarize=lambda metrics: summarize(metrics, regions=bool(known.regions)),
            write=image_cases.watched(write, config, folder) if config.adversarial.weight else write,
            show=show,
            watch=watch,
        )


def _write_nothing(step: int, values: dict) -> None:
    """What the processes write that are not the first."""


def duration(train: Any) -> tuple:
    return tuple(train[name] for name in ("total_steps", "total_epochs", "total_minutes")) if train else ()


def cadence(config: ConfigDict) -> loop.Cadence:
    """Returns how often to log, evaluate and save."""
    options = config.train
    return loop.Cadence(
        log=options.log_steps, evaluate=options.eval_steps, checkpoint=options.ckpt_steps, patience=options.patience
    )


def horizon(config: ConfigDict, cases: int, step_fn, state, key, open_batches, evaluate) -> int:
    """Returns the number of steps.

    Minutes are turned into steps by timing a few on a copy of the state, and one evaluation; compiling, timing and the
    evaluations on the way all count as part of the minutes.

    Args:
      config: with the duration.
      cases: number of training cases.
      step_fn, state, key: as in `loop.run`.
      open_batches: gives a context of device batches from step 0 on.
      evaluate: as in `loop.run`.
    """
    train = config.train
    if train.total_steps is not None:
        return train.total_steps
    if train.total_epochs is not None:
        return max(1, math.ceil(train.total_epochs * cases / config.data.batch_size))
    began = time.monotonic()
    with open_batches() as batches:
        seconds = loop.seconds_a_step(step_fn, state, batches, key, steps=TIMED_STEPS)
    looking = 0.0
    if evaluate is not None:
        evaluate(state)  # compiles
        started = time.monotonic()
        evaluate(state)
        looking = time.monotonic() - started
    left = train.total_minutes * 60 - (time.monotonic() - began) - looking
    steps = loop.position(state)[0] + max(1, int(left / (seconds + looking / train.eval_steps)))
    print(f"{seconds:.2f} s a step, {looking:.1f} s an evaluation: {steps} steps fill {train.total_minutes:g} minutes")
    return steps


def summarize(metrics: dict, *, regions: bool) -> dict[str, float]:
    """Host numbers of one step; Dice is that of the augmented batch, not of whole cases."""
    figures = {name: float(value) for name, value in metrics.items() if name != "counts"}
    if "counts" not in metrics:
        return figures
    return {**figures, "dice": mean_dice(metrics["counts"], regions=regions)}


def evaluator(
    config: ConfigDict, known: build.Facts, task, held_out: Sequence[store.StoredCase]
) -> Callable[[states.State], dict[str, float]]:
    """Returns `state -> {"dice", class names...}`: whole held-out cases on the prepared grid, without flips."""
    if config.task == "instance":
        return instances.evaluator(config, task, held_out, num_classes=len(known.classes))
    chosen = held_out[: config.train.eval_cases or None]
    names, look = build.scored_classes(known), viewer(config, known, task)

    def evaluate(state: states.State) -> dict[str, float]:
        variables = parallel.local(states.inference_variables(state))
        means = predict.choice.mean(processes.share(lambda case: case_dice.dice(*look(variables, case), known), chosen))
        values = {f"dice_{name}": float(mean) for name, mean in zip(names, means) if math.isfinite(mean)}
        return {"dice": metrics.finite_mean(means), **values}

    return evaluate


def viewer(
    config: ConfigDict, known: build.Facts, task: Task
) -> Callable[[Any, store.StoredCase], tuple[np.ndarray, np.ndarray]]:
    """Returns `(variables, case) -> (probabilities, labels)` of a whole prepared case, without flips."""
    apply = jax.jit(task.predict)
    options = {**build.predict_options(config), "flip_axes": ()}

    def look(variables: Any, case: store.StoredCase) -> tuple[np.ndarray, np.ndarray]:
        whole = (case, (0,) * len(case.shape), case.shape)
        image, label = store.read_patch(*whole)
        if case.previous is not None:
            image = np.asarray(append(image, store.read_previous(*whole), num_classes=len(known.classes)))
        return predict.predict_array(build.device_predict(apply, variables), image, **options), label

    return look
