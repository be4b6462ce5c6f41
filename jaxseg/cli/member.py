"""One member of an ensemble: its config, its place, its training."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxseg import models, registry
from jaxseg.cli import build, inference, splitting, workdir
from jaxseg.cli import train as training
from jaxseg.config import NETWORKS, ndim_of
from jaxseg.train import loop
from jaxseg.train import state as states
from jaxseg.typing import UserError
from jaxseg.validation import COMBINE


class Stopped(Exception):
    """A training was told to stop, and with it the whole command."""


def combination(config: ConfigDict) -> str:
    """Returns how the members become one: what `ensemble.combine` says, "auto" resolved."""
    options = config.ensemble
    return COMBINE[options.kind][0] if options.combine == "auto" else options.combine


def check_regions(config: ConfigDict, known: build.Facts) -> None:
    """Raises a UserError where the members cannot become one because the data names overlapping regions."""
    how = combination(config)
    if known.regions and how in ("learner", "vote", "staple"):
        what = "kind='stacking'" if how == "learner" else f"combine={how!r}"
        raise UserError(f"ensemble.{what} needs exclusive classes, but the data names overlapping regions.")


def each(arguments: workdir.Arguments) -> list[workdir.Arguments]:
    """Returns the arguments of every member: its number, its seed, its network, its own workdir."""
    options = arguments.config.ensemble
    count = len(options.networks) * options.folds if options.kind == "stacking" else options.members
    return [own(arguments, number) for number in range(count)]


def own(arguments: workdir.Arguments, number: int) -> workdir.Arguments:
    """Returns the arguments of one member."""
    config, options = ConfigDict(arguments.config.to_dict(), type_safe=False), arguments.config.ensemble
    config.ensemble.member = number
    config.seed += splitting.MEMBER_SEED * number
    config.data.store = str(build.store_folder(arguments.config, arguments.workdir))
    # These are of what the members say together.
    config.predict.postprocess = config.predict.uncertainty = config.predict.temperature = ""
    if options.kind == "stacking":
        config.model = network(options.networks[number // options.folds], ndim=ndim_of(config))
    if options.kind in ("bagging", "stacking", "snapshots") and config.predict.checkpoint == "best":
        # The best one was chosen on cases that the member shall not have seen; a snapshot is the end of its cycle.
        config.predict.checkpoint = "latest"
    if options.kind == "snapshots":
        shorten(config, 1 / options.members)
    if options.kind == "soup":
        shorten(config, 1 - options.trunk)
    return arguments._replace(config=config, workdir=arguments.workdir / inference.MEMBER.format(number), output=None)


def network(text: str, *, ndim: int) -> ConfigDict:
    """Returns the `config.model` of an entry of `ensemble.networks`: a network of jaxseg.config, or any of models.

    Args:
      text: its name, perhaps with options: "segnet(width=8)".
      ndim: 2 or 3.

    Raises:
      UserError: there is none of that name.
    """
    name, options = registry.parse_call(text)
    if name not in NETWORKS and ":" not in name and name not in models.names():
        raise UserError(f"ensemble.networks names {name!r}; there are {', '.join(models.names())}.")
    return ConfigDict({"name": name, **NETWORKS.get(name, {}), "ndim": ndim, **options})


def shorten(config: ConfigDict, share: float) -> None:
    """Leaves a share of the training's duration."""
    train = config.train
    if train.total_steps is not None:
        train.total_steps = max(1, round(train.total_steps * share))
    for name in ("total_epochs", "total_minutes"):
        if train[name] is not None:
            train[name] = train[name] * share


def train(one: workdir.Arguments, prepared: Mapping[str, Any], **options: Any) -> None:
    """Trains one member, or goes on with it; `options` are those of `cli.train.train`.

    Raises:
      Stopped: it was told to stop; a checkpoint is stored.
    """
    print(f"{one.workdir.name} of {one.workdir.parent}", flush=True)
    outcome = training.train(one, prepared=dict(prepared), **options)
    if outcome.end is loop.End.STOPPED:
        raise Stopped


def state_of(one: workdir.Arguments, like: states.State) -> states.State:
    """Returns the trained state of a member, of the checkpoint that its `predict.checkpoint` names.

    Args:
      one: the member.
      like: a state (or shapes) of its network.
    """
    return inference.restore(one.workdir, one.config, like).state
