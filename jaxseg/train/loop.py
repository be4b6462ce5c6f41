"""The training loop: effects live here (clock, files, signals), arithmetic does not."""

import contextlib
import enum
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from jaxseg import paths
from jaxseg.train import parallel, processes
from jaxseg.train.state import State
from jaxseg.typing import UserError

Watch = Callable[[int, float], bool]  # (step, validation score) -> should the run end there?


class Cadence(NamedTuple):
    """After how many steps what happens; `patience` counts evaluations without a better score, 0 never stops."""

    log: int
    evaluate: int
    checkpoint: int
    patience: int = 0


class End(enum.Enum):
    """Why a run came to its end."""

    FINISHED = "at its last step"
    STALE = "no better score for long enough"
    WATCHED = "whoever watches its scores said so"
    STOPPED = "by a signal; to be resumed"


class Outcome(NamedTuple):
    """How a run ended: the last state, why, and a sentence where that was before the horizon ("" where it was not)."""

    state: State
    end: End = End.FINISHED
    interrupted: str = ""


@runtime_checkable
class Saver(Protocol):
    """Where states go: `checkpoint.Checkpoints`, or what stands for several of them."""

    folder: paths.Path

    def save(self, state: State, metadata: dict[str, Any], *, score: float | None = None) -> None: ...

    def close(self) -> None: ...


class Progress(NamedTuple):
    """What early stopping has to remember; stored in every checkpoint's metadata."""

    best: float = -1.0
    best_step: int = 0
    stale: int = 0

    def after(self, score: float, step: int) -> "Progress":
        """Returns the record after one more evaluation."""
        if score > self.best:
            return Progress(score, step, 0)
        return self._replace(stale=self.stale + 1)


def position(state: State) -> tuple[int, int]:
    """Returns the updates done and planned; of stacked states, which go in lockstep, the same."""
    step, horizon = jax.device_get(parallel.local((state.step, state.horizon)))
    return int(np.max(step)), int(np.max(horizon))


def run(
    state: State,
    *,
    step_fn: Callable,
    batches: Iterator[dict],
    key: jax.Array,
    cadence: Cadence,
    checkpoints: Saver,
    metadata: dict[str, Any],
    evaluate: Callable[[State], dict[str, float]] | None,
    summarize: Callable[[dict], dict[str, float]],
    write: Callable[[int, dict], None],
    show: Callable[..., None],
    watch: Watch | None = None,
) -> Outcome:
    """Runs from `state.step` to `state.horizon`; saves on the way, at the end, and when asked to stop.

    Args:
      state: fresh or restored; donated.
      step_fn: compiled `(state, batch, key) -> (state, metrics)`.
      batches: device batches from `state.step` on.
      key: the run's root key; the step folds its own number in.
      cadence: how often to log, evaluate, save.
      checkpoints: where states go.
      metadata: stored with each; "progress" is kept up to date in it.
      evaluate: `state -> {"dice": ..., ...}` on held-out cases ("score" in place of Dice where that decides), or None.
      summarize: device metrics of one step -> numbers for logs.
      write: `(step, numbers)` to files.
      show: progress bar.
      watch: is told every validation score, before its checkpoint is written, and may end the run there.

    Raises:
      UserError: loss or gradient was not finite; the state before it has been saved.
    """
    step, horizon = position(state)
    record = Progress(**metadata.get("progress", {}))
    tempo = _Tempo(step)
    metrics, ended = None, False
    with stop_signals() as stopped:
        while step < horizon and not stopped and not ended and not _is_stale(record, cadence):
            batch = next(batches)
            # The check waits for the step before this one only, so the device always has work queued.
            _check_finite(metrics, step, state, checkpoints, metadata)
            first, (state, metrics) = metrics is None, step_fn(state, batch, key)
            step += 1
            if step % cadence.log == 0 or step == horizon or first:
                figures = summarize(jax.device_get(metrics))
                seconds = tempo.lap(step)
                write(step, {**{f"train/{name}": value for name, value in figures.items()}, "seconds_a_step": seconds})
                images = metadata["batch_size"] / seconds
                shown = {"Dice": figures["dice"]} if "dice" in figures else {}
                show(step, loss=figures["loss"], **shown, **{"images/s": images})
            score = None
            if evaluate is not None and (step % cadence.evaluate == 0 or step == horizon):
                _check_finite(metrics, step, state, checkpoints, metadata)
                score, record = _evaluate(evaluate, state, step, record, metadata, write)
                ended = watch is not None and watch(step, score)
                tempo.restart(step)
            if score is not None or step % cadence.checkpoint == 0 or step == horizon:
                _check_finite(metrics, step, state, checkpoints, metadata)
                checkpoints.save(state, metadata, score=score)
            if processes.preempted(step):
                stopped.append("SIGTERM")
        if stopped:
            checkpoints.save(state, metadata)
            return Outcome(
                state, End.STOPPED, f"stopped by {stopped[0]} after step {step}; the same command resumes there"
            )
    if step < horizon and ended:
        return Outcome(state, End.WATCHED, f"ended after step {step} by who watches its scores")
    if step < horizon:
        return Outcome(state, End.STALE, f"no better score in {record.stale} evaluations, best {record.best:.4f}")
    return Outcome(state)


class _Tempo:
    """Seconds a step since the last look, without the time that evaluation takes."""

    def __init__(self, step: int):
        self.restart(step)

    def restart(self, step: int) -> None:
        self._step, self._began = step, time.monotonic()

    def lap(self, step: int) -> float:
        seconds = (time.monotonic() - self._began) / max(1, step - self._step)
        self.restart(step)
        return seconds


def _is_stale(record: Progress, cadence: Cadence) -> bool:
    return bool(cadence.patience) and record.stale >= cadence.patience


def _evaluate(evaluate, state, step, record, metadata, write) -> tuple[float, Progress]:
    """Scores the held-out cases by "score", or else "dice"; one without any counted class is no better than 0."""
    values = evaluate(state)
    write(step, {f"val/{name}": value for name, value in values.items()})
    score = values.get("score", values.get("dice", float("nan")))
    score = score if np.isfinite(score) else 0.0
    record = record.after(score, step)
    metadata["progress"] = record._asdict()
    return score, record


def _check_finite(metrics: dict | None, step: int, state: State, checkpoints: Saver, metadata: dict) -> None:
    if metrics is None or np.all(jax.device_get(metrics["finite"])):
        return
    checkpoints.save(state, metadata)
    checkpoints.close()
    raise UserError(
        f"Step {step} gave a loss or gradient that is not finite (loss {np.asarray(metrics['loss'])}); the "
        f"parameters before it are saved in {checkpoints.folder}: lower optim.lr, set optim.clip_norm, or look for "
        "extreme intensities with data.normalize."
    )


def seconds_a_step(step_fn: Callable, state: State, batches: Iterator[dict], key: jax.Array, *, steps: int) -> float:
    """Returns the median of `steps` real steps on a copy of the state, which is thrown away.

    As many go before, untimed: the first compiles, and the loader has to fill its caches.
    """
    copy = jax.tree.map(lambda x: x.copy(), state)
    times = []
    for _ in range(2 * steps):
        began = time.monotonic()
        copy, metrics = step_fn(copy, next(batches), key)
        jax.block_until_ready(metrics)
        times.append(time.monotonic() - began)
    return float(np.median(times[steps:]))


@contextlib.contextmanager
def stop_signals() -> Iterator[list[str]]:
    """Yields a list that is empty until Ctrl-C or SIGTERM arrives; a second Ctrl-C interrupts at once.

    Several processes must stop after the same step: there JAX's own service hears SIGTERM (`processes.preempted`).
    """
    caught: list[str] = []
    if processes.several():
        yield caught
        return

    def note(number, _):
        if caught:
            raise KeyboardInterrupt
        caught.append(signal.Signals(number).name)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
