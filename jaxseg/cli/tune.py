"""--mode tune: search over named fields of the config; trials in WORKDIR/trial_000, ..., findings in WORKDIR/tune."""

import functools
import multiprocessing
import os
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from jaxseg import config as configs
from jaxseg import evaluate as evaluation
from jaxseg import space
from jaxseg.cli import build, config_file, image_cases, images, prepare, shares, trials, workdir
from jaxseg.cli.study import ENDED, FAILED, FINISHED, STOPPED, Result, Study
from jaxseg.train import loop
from jaxseg.typing import UserError

FOLDER, BEST = "tune", "best.py"
# All trials of a search are alike in these, also where a training may go on with others.
FIXED = (
    *workdir.FIXED, "train.", "predict.", "tune.space", "tune.sampler", "tune.startup", "tune.pruner",
    "tune.first_rung", "tune.reduction",
)  # fmt: skip


class Search(NamedTuple):
    """What all trials share: the command, the record of the prepared data, the space and the study."""

    arguments: workdir.Arguments
    prepared: dict[str, Any]
    domains: Mapping[str, space.Domain]
    study: Study


def tune(arguments: workdir.Arguments) -> None:
    """Runs trials until `tune.trials` have ended; the same command goes on where an earlier one was stopped.

    Raises:
      UserError: settings that cannot be searched, or no trial that finished.
    """
    config, folder = arguments.config, arguments.workdir
    domains = _check(config)
    parts = _shares(config.tune.together)
    workdir.begin(folder, config, fixed=FIXED)
    options = ConfigDict(config.tune.to_dict())
    options.first_rung = options.first_rung or config.train.eval_steps
    study = Study(folder / FOLDER, options, domains, seed=config.seed)
    dataset, prepared = prepare.ensure(ConfigDict(config.to_dict(), type_safe=False), folder)
    _check_network(config, domains, build.facts(dataset))
    search = Search(arguments, prepared, domains, study)
    done = _one_by_one(search) if len(parts) == 1 else _together(search, parts)
    _tell(search)
    if done:
        _check_outcome(study)
    else:
        print("stopped; the same command goes on with what is not finished")


def _check(config: ConfigDict) -> dict[str, space.Domain]:
    """Returns what is searched."""
    problems = []
    if not config.tune.space.strip():
        problems.append(
            "tune.space is empty; name fields, such as optim.lr=log(1e-4,1e-2); augment=choice(none,light)."
        )
    if config.ensemble.kind:
        problems.append(
            f"ensemble.kind = {config.ensemble.kind!r}: the settings of one network are searched; leave it empty, and "
            "give it with the config that comes out."
        )
    if config.data.fold in ("all", "none"):
        problems.append(f"data.fold = {config.data.fold!r} holds out no single part to score; set data.fold='0'.")
    if images.makes_images(config) and not image_cases.has_truth(config):
        problems.append(
            f"task = {config.task!r} has no true images to score a trial by; search a paired translation or "
            "super-resolution, and look at panels of this one."
        )
    if problems:
        raise UserError("Nothing can be searched: " + " ".join(f"({n}) {text}" for n, text in enumerate(problems, 1)))
    return space.parse(config.tune.space, configs.flat(config.to_dict()))


def _shares(together: int) -> list[shares.Share]:
    if together == 1:
        return [shares.Share((), {})]
    platform, devices = shares.survey()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    parts = shares.divide(platform, devices, together, available=shares.cores(), visible=visible)
    jax.config.update("jax_platforms", "cpu")  # the accelerators belong to the trials
    return parts


def _check_network(config: ConfigDict, domains: Mapping[str, space.Domain], known: build.Facts) -> None:
    """Tells a field that the network has not before the first trial; networks that are searched differ in theirs."""
    if "model.name" in domains:
        return
    first = {
        name: domain.values[0] if isinstance(domain, space.Choice) else domain.value(domain.low)
        for name, domain in domains.items()
        if name.startswith("model.")
    }
    build.model(trials.configure(config, first, prepared=None), known)


def _one_by_one(search: Search) -> bool:
    """Runs trials in this process, and returns whether all have ended."""
    study = search.study
    while study.ended() < search.arguments.config.tune.trials:
        number, own = _next(search)
        result = trials.run(own, search.prepared, functools.partial(study.report, number))
        study.tell(number, result)
        if result.end == STOPPED:
            return False
        _show(search, number)
    return True


def _together(search: Search, parts: list[shares.Share]) -> bool:
    """Runs as many trials at a time as there are shares, each a process; returns whether all have ended."""
    study, free = search.study, list(parts)
    running: dict[Connection, tuple[int, Any, shares.Share]] = {}
    told = False
    with loop.stop_signals() as stopped:
        while True:
            while free and not stopped and study.ended() + len(running) < search.arguments.config.tune.trials:
                share = free.pop(0)
                number, process, connection = _start(search, share)
                running[connection] = number, process, share
            if not running:
                return not stopped
            ready = wait(list(running), timeout=0.5)
            for connection in [each for each in running if each in ready]:
                number, process, share = running[connection]
                result = _listen(connection, process, bool(stopped), functools.partial(study.report, number))
                if result is not None:
                    del running[connection]
                    free.append(share)
                    study.tell(number, result)
                    if result.end != STOPPED:
                        _show(search, number)
            if stopped and not told:
                told = True
                for _, process, _ in running.values():
                    process.terminate()  # its loop saves and ends


def _start(search: Search, share: shares.Share) -> tuple[int, Any, Connection]:
    """Starts the next trial as a process and returns its number, the process, and the connection that it reports to."""
    context = multiprocessing.get_context("spawn")  # a fork of a process that runs JAX may hang
    number, own = _next(search)
    here, there = context.Pipe()
    process = context.Process(target=trials.run_apart, args=(there, share, own, search.prepared))
    process.start()
    there.close()  # so that the child's end closes with the child
    return number, process, here


def _listen(connection: Connection, process, stopped: bool, report: Callable[[int, float], bool]) -> Result | None:
    """Answers a score that a trial's process has sent, or returns the trial's result when it has ended."""
    try:
        message = connection.recv()
        if not isinstance(message, Result):
            connection.send(report(*message))
            return None
    except (EOFError, BrokenPipeError, ConnectionResetError):
        message = None
    process.join()
    connection.close()
    if message is not None:
        return message
    if stopped:
        return Result(STOPPED)
    return Result(FAILED, reason=f"Its process ended with status {process.exitcode}; {trials.OUTPUT} may say why.")


def _next(search: Search) -> tuple[int, workdir.Arguments]:
    """Number and arguments of the next trial, which is announced."""
    arguments = search.arguments
    number, values = search.study.next()
    own = trials.configure(arguments.config, values, prepared=build.store_folder(arguments.config, arguments.workdir))
    folder = arguments.workdir / trials.FOLDER.format(number)
    shown = ", ".join(f"{name} {value}" for name, value in values.items())
    print(f"trial {number}, in {folder}: {shown}", flush=True)
    return number, arguments._replace(config=own, workdir=folder, output=None)


def _show(search: Search, number: int) -> None:
    """One line for the trial that has just ended; the page and the table are written anew."""
    rows = _write(search)
    row = next(row for row in rows if row["trial"] == number)
    best = f"; best so far {rows[0]['score']:.4f}, trial {rows[0]['trial']}" if rows[0]["state"] == FINISHED else ""
    score = f"score {row['score']:.4f} " if row["score"] == row["score"] else ""
    reason = f": {row['reason']}" if row["state"] == FAILED else ""
    print(f"trial {number} {row['state']}, {score}after {row['steps']} steps{reason}{best}", flush=True)


def _write(search: Search) -> list[dict[str, Any]]:
    """Writes table, page and best config, and returns the rows, best first."""
    arguments, rows = search.arguments, search.study.rows()
    folder = arguments.workdir / FOLDER
    best = folder / BEST
    found = rows and rows[0]["state"] == FINISHED
    if found:
        values = {name: rows[0][name] for name in search.domains}
        config = trials.configure(arguments.config, values, prepared=None)
        text = config_file.text(
            config,
            title=f"The best of {search.study.ended()} trials, trial {rows[0]['trial']}: {_words(values)}.",
            path=best,
            made="Found",
            remark=f"Its best validation score was {rows[0]['score']:.4f}; the highest of many is a little too high.",
        )
        evaluation.files.replace(best, text)
    evaluation.search.write(folder, rows, search.domains, name=arguments.workdir.resolve().name)
    return rows


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _tell(search: Search) -> None:
    rows, folder = _write(search), search.arguments.workdir / FOLDER
    print(evaluation.search.table(rows, search.domains))
    print(f"table        {folder / evaluation.search.TABLE}")
    print(f"page         {folder / evaluation.search.PAGE}")
    if (folder / BEST).exists():
        print(f"best config  {folder / BEST}")


def _check_outcome(study: Study) -> None:
    rows = study.rows()
    if not any(row["state"] in (FINISHED, ENDED) for row in rows):
        raise UserError(f"None of the {len(rows)} trials could be trained; the first said: {rows[0]['reason']}")
