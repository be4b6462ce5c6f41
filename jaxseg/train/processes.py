"""Several processes as one run: how they start, share work and values, and end; with one process all of it is plain.

Every function here is called by all processes in the same order.
"""

import atexit
import functools
import os
import pickle
import re
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxseg.typing import UserError

LOST = 3  # exit status of a process whose run has lost another one
# How the runtimes (gloo, NCCL, the coordination service) call a process that is gone.
_GONE = re.compile(r"gloo|nccl|unavailable|deadline_exceeded|coordination|connection (closed|reset)", re.IGNORECASE)
_LAST_WORDS = 'read -r word || printf "error: %s\\n" "$1" >&2'

Value = TypeVar("Value")


def start(
    *, coordinator: str | None, count: int | None, index: int | None, heartbeat_seconds: int, hint: str = ""
) -> None:
    """Joins the processes of this run, before JAX is used for anything else.

    Without a coordinator the environment decides: TPU pod slices, SLURM and Open MPI tell JAX all it needs; where there
    is nothing of that kind, or with `count` 1, this process is alone.

    Args:
      coordinator: address and port of process 0, such as 10.0.0.1:8476.
      count: number of processes.
      index: number of this process, from 0.
      heartbeat_seconds: after so long without a sign of life a process counts as lost, and the others end.
      hint: what to do then, for the message.

    Raises:
      UserError: the environment is known, but the processes do not find each other.
    """
    if count == 1:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about Kubernetes without its package
            jax.distributed.initialize(
                coordinator,
                count,
                index,
                cluster_detection_method="deactivate" if coordinator else None,
                heartbeat_timeout_seconds=heartbeat_seconds,
            )
    except (ValueError, RuntimeError) as error:
        if coordinator is None and "coordinator_address should be defined" in str(error):
            return
        raise UserError(
            f"The processes of this run do not find each other ({_first_line(error)}); check parallel.coordinator, "
            "processes and process, or set parallel.processes=1 to run alone."
        ) from error
    _leave_last_words(hint)
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 one process talks; errors of each still go to its stderr


def several() -> bool:
    """Whether this run has more than one process; asks no device."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes files and talks."""
    return not several() or jax.process_index() == 0


def gather(value: Value) -> list[Value]:
    """Returns the values of all processes, in their order; any that pickle takes."""
    if not several():
        return [value]
    content = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([len(content)]))[:, 0]
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(content)] = content
    table = multihost_utils.process_allgather(padded)
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(table, sizes)]


def together(function: Callable[[], Any]) -> list[Any]:
    """Calls a function on every process and returns all results, in the order of processes.

    Raises:
      UserError: one of the calls raised it; then it is raised on all, and none waits for another.
    """
    if not several():
        return [function()]
    outcome: tuple[str | None, Any]
    try:
        outcome = None, function()
    except UserError as error:
        outcome = str(error), None
    outcomes = gather(outcome)
    failed = list(dict.fromkeys(sentence for sentence, _ in outcomes if sentence is not None))
    if failed:
        raise UserError(" ".join(failed))
    return [result for _, result in outcomes]


def first(function: Callable[[], Any]) -> Any:
    """Calls a function on process 0 alone and returns its result on all."""
    return together(lambda: function() if is_first() else None)[0]


def in_turn(function: Callable[[], Value]) -> Value:
    """Calls a function on process 0, then on the others, and returns each one's own result.

    For work whose result lies on a disk: where the processes share it, the others find it done; where each has its own,
    they do it for themselves.
    """
    if not several():
        return function()
    own: list[Value] = []

    def work(turn: bool) -> None:
        if is_first() == turn:
            own.append(function())

    for turn in (True, False):
        together(functools.partial(work, turn))
    return own[0]


def mine(items: Sequence[Value]) -> Sequence[Value]:
    """Returns the items of this process: item i belongs to process i mod n."""
    return items[jax.process_index() :: jax.process_count()] if several() else items


def interleave(parts: Iterable[Sequence[Value]]) -> list[Value]:
    """Puts what each process made of `mine(items)` back into the order of the items."""
    parts = list(parts)
    longest = max(map(len, parts), default=0)
    return [part[place] for place in range(longest) for part in parts if place < len(part)]


def share(function: Callable[[Any], Value], items: Sequence[Any]) -> list[Value]:
    """Returns `[function(item) for item in items]`, each computed by one process and known to all."""
    return interleave(together(lambda: [function(item) for item in mine(items)]))


def preempted(step: int) -> bool:
    """Whether a machine was told to stop (SIGTERM) and all processes have agreed to stop after this very step."""
    return several() and multihost_utils.reached_preemption_sync_point(step)


def finish() -> None:
    """Waits for the others at the end of a run, however long the last of them takes."""
    if several():
        gather(None)
    _withdraw_last_words()


def check_lost(error: BaseException) -> None:
    """Ends this process with one sentence and status `LOST` if the error says that another process is gone.

    Called before anything is closed: a background writer would wait for all processes.
    """
    if several() and _GONE.search(str(error)):
        print(f"error: {_hint} ({_first_line(error)})", file=sys.stderr, flush=True)
        _leave(LOST)


def fail(error: BaseException) -> NoReturn:
    """Ends this process at once after an error that only it may have seen, so that the others do not wait for it."""
    check_lost(error)
    traceback.print_exception(error)
    _leave(1)


def _leave(status: int) -> NoReturn:
    """Exits without JAX's goodbye, which would wait for processes that are gone."""
    _withdraw_last_words()
    sys.stderr.flush()
    os._exit(status)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


_hint = ""
_witness: list[subprocess.Popen] = []


def _leave_last_words(hint: str) -> None:
    """Has a sentence printed should this process be ended from outside.

    JAX's runtime aborts a process when another one is lost, without a word of ours. A shell waits at the end of a pipe:
    an end of file without a line before it means that nobody could say goodbye.
    """
    global _hint
    _hint = hint
    command = ["/bin/sh", "-c", _LAST_WORDS, "sh", hint]
    atexit.register(_withdraw_last_words)  # an ordinary end, also with an error that has been told
    _witness.append(subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True))


def _withdraw_last_words() -> None:
    while _witness:
        shell = _witness.pop()
        shell.communicate(b"done\n")
