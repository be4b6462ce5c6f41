"""Several networks at once, as one program, each equal to the one trained alone: folds, members of an ensemble."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import plan as plans
from jaxseg.cli import build, cache, cascade, extra, initial, prepare, splitting, workdir
from jaxseg.cli import compile as compiling
from jaxseg.cli import train as one_training
from jaxseg.data import prefetch, store
from jaxseg.train import checkpoint, logging, loop, parallel, processes
from jaxseg.train import state as states
from jaxseg.typing import Task, UserError


class _Fold(NamedTuple):
    """What one of the folds has to itself."""

    arguments: workdir.Arguments
    training: Sequence[store.StoredCase]
    drawn: extra.Drawn  # of them, and of made cases
    held_out: Sequence[store.StoredCase]
    checkpoints: checkpoint.Checkpoints
    other_duration: bool  # than the command before


class _Checkpoints:
    """Stands in for `Checkpoints` in the loop: the state of each fold goes into the fold's own workdir."""

    def __init__(self, folds: Sequence[_Fold]):
        self.folder = folds[0].arguments.workdir.parent
        self.scores: list[float] = []  # of the last evaluation, one a fold
        self._folds = folds

    def save(self, state: states.State, metadata: dict[str, Any], *, score: float | None = None) -> None:
        for place, (fold, member) in enumerate(zip(self._folds, states.unstack(state))):
            own = {**metadata, "held_out": [case.name for case in fold.held_out]}
            fold.checkpoints.save(member, own, score=None if score is None else self.scores[place])

    def close(self) -> None:
        for fold in self._folds:
            fold.checkpoints.close()


def train(
    each: Sequence[workdir.Arguments],
    *,
    prepared: dict[str, Any],
    how: str,
    start: Callable[[states.State], states.State] | None = None,
) -> loop.Outcome:
    """Trains all folds (or members of an ensemble) in lockstep, from the latest step that all have stored.

    They may differ in their data and in their seed, and in nothing else.

    Early stopping (`train.patience`) looks at the mean score of the folds; each fold keeps its own best checkpoint.

    Args:
      each: the arguments of every fold.
      prepared: record of the run that has prepared the data.
      how: auto, vmap or unroll (see `parallel.wrap_members`).
      start: what a run that is not resumed makes of each fresh state.

    Raises:
      UserError: the folds have no stored step in common, or several hosts take part.
      TooLarge: how is auto, and all of them do not fit into a device's memory at once.
    """
    cache.enable()
    if processes.several():
        raise UserError("Training together is for one host; leave .together empty, and every network uses all hosts.")
    config = each[0].config
    begun = [any((own.workdir / checkpoint.FOLDER).glob("[0-9]*")) for own in each]
    weights = None if any(begun) else initial.read(config)
    with contextlib.ExitStack() as stack:
        folds = [_fold(own, prepared) for own in each]
        checkpoints = _Checkpoints(folds)
        stack.callback(checkpoints.close)
        began = time.monotonic()
        outcome = _train(folds, checkpoints, build.stored_facts(prepared), how, (weights, start))
        seconds = time.monotonic() - began
    for fold in folds:
        record = workdir.record(fold.arguments.workdir)
        workdir.update_record(fold.arguments.workdir, seconds=record.get("seconds", 0.0) + seconds / len(folds))
    done = f"trained {loop.position(outcome.state)[0]} steps of {len(folds)} networks together"
    pattern = re.sub(r"\d+$", "*", each[0].workdir.name)
    print(outcome.interrupted or f"{done}; checkpoints in {checkpoints.folder}/{pattern}")
    return outcome


def _fold(own: workdir.Arguments, prepared: dict[str, Any]) -> _Fold:
    previous = workdir.begin(own.workdir, own.config)
    prepare.adopt(own.config, own.workdir, prepared)
    known = build.stored_facts(prepared)
    cases = cascade.ensure(own.config, own.workdir, known, store.open(build.store_folder(own.config, own.workdir)))
    training, held_out = splitting.split(own.config, cases)
    names = {"training": [case.name for case in training], "held out": [case.name for case in held_out]}
    workdir.update_record(own.workdir, split=names)
    extra.warn(own.config, names["held out"])
    drawn = extra.beside(own.config, own.workdir, training)
    # Two are kept: a run that is cut between the saves of two folds has the step before in all of them.
    other = one_training.duration(previous.get("config", {}).get("train")) != one_training.duration(own.config.train)
    return _Fold(own, training, drawn, held_out, checkpoint.Checkpoints(own.workdir, latest=2), other)


class TooLarge(Exception):
    """Members that do not fit into memory together; the text says what they need and what there is."""


def _check_memory(step: Any, state: states.State, batch: dict[str, Any], key: jax.Array, count: int, how: str) -> None:
    """Asks the compiler, where nobody has insisted on training all at once."""
    limit = parallel.memory_limit()
    if how != "auto" or limit is None:
        return
    try:
        needed = plans.cost(parallel.compile_members(step, state, batch, key, count=count, how=how)).peak
    except jax.errors.JaxRuntimeError as error:
        if compiling.EXHAUSTED not in str(error):
            raise
        raise TooLarge(f"{count} networks at once do not fit into a device's memory") from error
    if needed > limit:
        sizes = f"{needed / 2**30:.2f} GiB on a device that has {limit / 2**30:.2f}"
        raise TooLarge(f"{count} networks at once need {sizes}")


def _train(
    folds: Sequence[_Fold], checkpoints: _Checkpoints, known: build.Facts, how: str, begin: tuple
) -> loop.Outcome:
    config = folds[0].arguments.config
    task = build.task(config, known)
    keys = [jax.random.key(fold.arguments.config.seed) for fold in folds]
    step = build.train_step(config, known, task)
    step_fn, put = parallel.wrap_members(step, count=len(folds), how=how)
    members, metadata = _start(folds, known, task, keys, begin)
    for fold, member in zip(folds, members):
        workdir.update_record(fold.arguments.workdir, parameters=states.parameter_counts(member))
    shapes = compiling.batch_shapes(config, known, folds[0].arguments.workdir)
    _check_memory(step, members[0], shapes, keys[0], len(folds), how)
    state, key = states.stack(members), jnp.stack(keys)
    evaluate = _evaluator(folds, known, task, checkpoints)

    def batches(start_step: int) -> Iterator[dict[str, np.ndarray]]:
        streams = [
            build.batches(fold.arguments.config, fold.drawn.cases, start_step=start_step, weights=fold.drawn.weights)
            for fold in folds
        ]
        with contextlib.ExitStack() as stack:
            for stream in streams:
                stack.callback(stream.close)
            for parts in zip(*streams):
                yield {name: np.stack([part[name] for part in parts]) for name in parts[0]}

    start = loop.position(state)[0]
    if start == 0 or folds[0].other_duration:
        cases = len(folds[0].training)
        horizon = one_training.horizon(
            config, cases, step_fn, state, key, lambda: prefetch.prefetch(batches(0), size=2, transfer=put), evaluate
        )
        state = state._replace(horizon=jnp.full_like(state.horizon, horizon))
        checkpoints.save(state, metadata)
    if 0 < start < loop.position(state)[1]:
        print(f"resuming all folds at step {start} of {loop.position(state)[1]}")
    for fold in folds:
        logging.truncate(fold.arguments.workdir / logging.METRICS, step=start)
    with (
        _writers(folds) as write,
        logging.progress(loop.position(state)[1], start=start) as show,
        prefetch.prefetch(batches(start), size=2, transfer=put) as device_batches,
    ):
        return loop.run(
            state,
            step_fn=step_fn,
            batches=device_batches,
            key=key,
            cadence=one_training.cadence(config),
            checkpoints=checkpoints,
            metadata=metadata,
            evaluate=evaluate,
            summarize=lambda metrics: _summarize(metrics, regions=bool(known.regions)),
            write=write,
            show=show,
        )


def _start(
    folds: Sequence[_Fold], known: build.Facts, task: Task, keys: Sequence[jax.Array], begin: tuple
) -> tuple[list[states.State], dict[str, Any]]:
    """Returns a state for each fold, fresh or of the latest step that all have stored, and the metadata."""
    config, (weights, change) = folds[0].arguments.config, begin
    image = np.zeros((1, *config.data.patch_size, build.input_channels(config, known)), np.float32)
    options = {"horizon": 1, "ema": config.optim.ema > 0}
    fresh = [states.create(key, task, image, build.optimizers(config), **options) for key in keys]
    metadata: dict[str, Any] = {"batch_size": config.data.batch_size * len(folds)}
    stored = [fold.checkpoints.steps() for fold in folds]
    if not any(stored):
        if weights is not None:
            filled = [initial.fill(config, one, weights) for one in fresh]
            print(f"weights of {config.init.path}: {filled[0][1]}")
            fresh = [one for one, _ in filled]
        return [change(one) for one in fresh] if change else fresh, metadata
    common = set.intersection(*map(set, stored))
    if not common:
        steps = ", ".join(str(max(steps, default=0)) for steps in stored)
        raise UserError(
            f"The networks were trained to different steps ({steps}) and cannot go on together; leave .together empty."
        )
    restored = [fold.checkpoints.restore(one, step=max(common)) for fold, one in zip(folds, fresh)]
    return [one.state for one in restored], {**restored[0].metadata, **metadata}


def _evaluator(
    folds: Sequence[_Fold], known: build.Facts, task: Task, checkpoints: _Checkpoints
) -> Callable[[states.State], dict[str, Any]]:
    each = [one_training.evaluator(fold.arguments.config, known, task, fold.held_out) for fold in folds]

    def evaluate(state: states.State) -> dict[str, Any]:
        found = [one(member) for one, member in zip(each, states.unstack(state))]
        scores = [values["dice"] for values in found]
        checkpoints.scores = [score if np.isfinite(score) else 0.0 for score in scores]
        return {"dice": float(np.mean(checkpoints.scores)), "folds": found}

    return evaluate


def _summarize(metrics: dict, *, regions: bool) -> dict[str, Any]:
    """Means over the folds for the bar, and each fold's own figures for its log."""
    count = len(metrics["loss"])
    each = [
        one_training.summarize({name: value[place] for name, value in metrics.items()}, regions=regions)
        for place in range(count)
    ]
    return {**{name: float(np.mean([one[name] for one in each])) for name in each[0]}, "folds": each}


@contextlib.contextmanager
def _writers(folds: Sequence[_Fold]) -> Iterator[Callable[[int, dict], None]]:
    """Yields `write(step, values)` that gives each fold its own figures."""
    with contextlib.ExitStack() as stack:
        each = [stack.enter_context(logging.writer(fold.arguments.workdir)) for fold in folds]

        def write(step: int, values: dict[str, Any]) -> None:
            group = next(name.split("/")[0] for name in values if name.endswith("/folds"))
            shared = {name: value for name, value in values.items() if not name.startswith(f"{group}/")}
            for own_write, own in zip(each, values[f"{group}/folds"]):
                own_write(step, {**{f"{group}/{name}": value for name, value in own.items()}, **shared})

        yield write
