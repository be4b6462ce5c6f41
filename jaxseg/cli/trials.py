"""One trial of a search: an ordinary run in a workdir of its own, here or in a process with a share of the devices."""

import contextlib
import os
import pathlib
import sys
import threading
from collections.abc import Mapping
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxseg import config as configs
from jaxseg import validation
from jaxseg.cli import build, shares, workdir
from jaxseg.cli import train as one_training
from jaxseg.cli.compile import EXHAUSTED
from jaxseg.cli.study import ENDED, FAILED, FINISHED, STOPPED, Result
from jaxseg.data import store
from jaxseg.train import logging, loop
from jaxseg.typing import UserError

FOLDER = "trial_{:03d}"
OUTPUT = "output.txt"  # what a trial prints when it is a process of its own


def configure(config: ConfigDict, values: Mapping[str, Any], *, prepared: pathlib.Path | None) -> ConfigDict:
    """Returns the config of one trial: the values in their fields, the shared data, and nothing of the search.

    Args:
      config: of the search.
      values: field by dotted name -> value.
      prepared: where the cases of all trials lie; None leaves the config's own place.
    """
    own = ConfigDict(config.to_dict(), type_safe=False)
    own.tune = configs.base_config().tune
    if prepared is not None:
        own.data.store = str(prepared)
    for name, value in values.items():
        *groups, field = name.split(".")
        place = own
        for group in groups:
            place = place[group]
        place[field] = value
    return own


def run(arguments: workdir.Arguments, prepared: dict[str, Any], watch: loop.Watch) -> Result:
    """Trains one trial, from its last checkpoint where there is one, and returns how it ended.

    What does not fit together, a loss that is not finite and too little memory end the trial, not the search.

    Args:
      arguments: with the trial's own config and workdir.
      prepared: record of the run that has prepared the data.
      watch: is told every validation score and may end the trial.
    """
    config, folder = arguments.config, arguments.workdir
    try:
        validation.validate(config)
        known = build.stored_facts(prepared)
        build.check_model(config, known)
        patch = build.patch_size(config, known, store.open(build.store_folder(config, folder)))  # that of its model
        outcome = one_training.train(arguments, prepared={**prepared, "patch_size": patch}, watch=watch)
    except UserError as error:
        return Result(FAILED, *_effort(folder), str(error))
    except jax.errors.JaxRuntimeError as error:
        if EXHAUSTED not in str(error):
            raise
        return Result(FAILED, *_effort(folder), "It needs more memory than the device has.")
    finally:
        jax.clear_caches()  # the next trial compiles anew, and has the memory for itself
    if outcome.end is loop.End.STOPPED:
        return Result(STOPPED, *_effort(folder))
    if outcome.end is loop.End.WATCHED:
        return Result(ENDED, *_effort(folder), "Others had done better by then.")
    return Result(FINISHED, *_effort(folder), outcome.interrupted)


def _effort(folder: pathlib.Path) -> tuple[int, float]:
    """Steps and seconds of training, of all commands that worked on it."""
    log = folder / logging.METRICS
    rows = logging.read(log) if log.exists() else []
    seconds = workdir.record(folder).get("seconds", 0.0) if (folder / workdir.RECORD).exists() else 0.0
    return (rows[-1]["step"] if rows else 0), seconds


def run_apart(
    connection: Connection, share: shares.Share, arguments: workdir.Arguments, prepared: dict[str, Any]
) -> None:
    """`run` in a process of its own: scores go to the parent, which answers whether to end; last goes the result.

    Ctrl-C in a terminal reaches the parent only, which tells its children once. A child whose parent is killed ends at
    once, so that a second command never meets it in the same workdir.
    """
    if hasattr(os, "setsid"):
        os.setsid()
    shares.enter(share)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def watch(step: int, score: float) -> bool:
        connection.send((step, score))
        return connection.recv()

    arguments.workdir.mkdir(parents=True, exist_ok=True)
    with (
        (arguments.workdir / OUTPUT).open("a", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        result = run(arguments, prepared, watch)
    connection.send(result)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        print("the search was killed", file=sys.stderr)
        os._exit(1)
