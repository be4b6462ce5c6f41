"""The folder of a run: what it records, and what may change between two commands that share it."""

import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxseg import paths
from jaxseg.config import base_config, flat
from jaxseg.typing import UserError

RECORD = "config.json"
# These may differ between the first and a later command on the same workdir; anything else makes another experiment.
MAY_CHANGE = (
    "train.",
    "predict.",
    "evaluate.",
    "report.",
    "parallel.",
    "plan.",
    "tune.",
    "synthesis.",
    "export.",
    "ensemble.together",
    "ensemble.combine",
    "ensemble.learner",
    "ensemble.patience",
    "ensemble.members",
    "model.remat",
    "data.workers",
    "data.root",
    "data.previous",
    "data.store",
    "data.terms",
    "init.path",
    "translation.other.root",
    "adversarial.network",
    "rl.initial",
)
OF_PROCESS = ("marker", "parallel.process", "data.patch_size")
FIXED = ("train.dtype", "train.sync_batch_norm")


class Arguments(NamedTuple):
    """The parsed command line; config and workdir are empty for the modes that need none (compare, convert)."""

    config: ConfigDict
    workdir: paths.Path
    inputs: tuple[str, ...]
    output: str | None
    labels: str | None
    overwrite: bool
    average: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    source: str | None = None
    fields: tuple[str, ...] = ()
    pairs: int = 0  # how many to make, or to show
    initial: str | None = None  # folder of masks that agents start from
    clicks: str | None = None  # table of what a user has clicked on in them
    port: int = 0  # to serve at; 0: a free one


def stored_config(workdir: paths.Path) -> ConfigDict:
    """Returns the config that a workdir was made with; options that did not exist then have their defaults."""
    config = as_config(_completed(record(workdir)["config"]))
    for name in ("coordinator", "processes", "process"):  # of the command that trained, not of this one
        config.parallel[name] = None
    return config


def record(workdir: paths.Path) -> dict[str, Any]:
    """Returns the parsed config.json.

    Raises:
      UserError: the folder is no workdir, or its record is damaged.
    """
    path = workdir / RECORD
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{workdir} is not the workdir of a run: it has no {RECORD}; train first, or name another."
        ) from error
    except (json.JSONDecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it or train into another --workdir.") from error


def as_config(tree: Mapping[str, Any]) -> ConfigDict:
    """JSON knows lists only; sequences of a config are tuples."""

    def convert(value):
        if isinstance(value, Mapping):
            return {name: convert(item) for name, item in value.items()}
        return tuple(convert(item) for item in value) if isinstance(value, list) else value

    return ConfigDict(convert(tree), type_safe=False)


def _completed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Adds what an earlier version did not know yet; `model` differs from network to network and stays."""
    defaults = json.loads(base_config().to_json())
    return {
        **defaults,
        **{
            name: {**defaults[name], **value} if isinstance(defaults.get(name), dict) and name != "model" else value
            for name, value in tree.items()
        },
    }


def begin(workdir: paths.Path, config: ConfigDict, *, fixed: Sequence[str] = FIXED) -> dict[str, Any]:
    """Makes the folder, refuses one of another experiment, and returns its record (empty when it is new).

    Fields whose names start as one of `fixed` may not change, even if MAY_CHANGE has them.

    Raises:
      UserError: not writable, or it holds a run with other settings.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".writable-{socket.gethostname()}-{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"--workdir {workdir} cannot be written to ({error.strerror}); name another folder.") from error
    if not (workdir / RECORD).exists():
        return {}
    stored = record(workdir)
    before, now = flat(_completed(stored["config"])), flat(json.loads(config.to_json()))
    differing = [
        name
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and (name.startswith(tuple(fixed)) or not name.startswith(MAY_CHANGE))
    ]
    if differing:
        first = differing[0]
        raise UserError(
            f"--workdir {workdir} holds a run of another config: {', '.join(differing)} differ "
            f"({first} was {before.get(first)!r}, now {now.get(first)!r}); use those settings or another --workdir."
        )
    return stored


def check_shared(workdir: paths.Path, config: ConfigDict) -> None:
    """Checks that all processes see one workdir and were given one config.

    Raises:
      UserError: they do not.
    """
    from jaxseg.train import processes

    if not processes.several():
        return
    marker = workdir / f".shared-{os.getpid()}"
    own = {"marker": str(marker), **flat(json.loads(config.to_json()))}
    if processes.is_first():
        marker.touch()
    theirs = processes.gather(own)[0]
    differing = sorted(name for name in own if not name.startswith(OF_PROCESS) and own[name] != theirs.get(name))

    def look() -> None:
        if not paths.path(theirs["marker"]).exists():
            raise UserError(f"--workdir {workdir} must be a folder that all hosts share, such as NFS or gs://.")
        if differing:
            raise UserError(f"The processes were started with different settings: {', '.join(differing)}.")

    try:
        processes.together(look)
    finally:
        if processes.is_first():
            marker.unlink()


def save_record(workdir: paths.Path, config: ConfigDict, **entries) -> dict[str, Any]:
    """Writes config.json (on process 0) with the command, versions, device and what `entries` add; returns it."""
    import jax

    import jaxseg
    from jaxseg.data.fingerprint import write_json
    from jaxseg.train import processes

    content = {
        "config": json.loads(config.to_json()),
        "command": " ".join(["python", *sys.argv]),
        "created": time.strftime("%Y-%m-%d %H:%M:%S"),
        "versions": {"jaxseg": jaxseg.__version__, "jax": jax.__version__, "python": sys.version.split()[0]},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processes": jax.process_count(),
        **entries,
    }
    if processes.is_first():
        write_json(workdir / RECORD, content)
    return content


def update_record(workdir: paths.Path, **entries) -> None:
    """Adds entries to config.json or replaces them, on process 0."""
    from jaxseg.data.fingerprint import write_json
    from jaxseg.train import processes

    if processes.is_first():
        write_json(workdir / RECORD, {**record(workdir), **entries})
