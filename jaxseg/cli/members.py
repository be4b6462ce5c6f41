"""config.ensemble: several networks as one, each in WORKDIR/member_<i>; the commands are those of a single network."""

from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxseg.cli import averaged, boosting, build, certainty, member, prepare, splitting, stacking, together, workdir
from jaxseg.cli import evaluate as evaluation
from jaxseg.data import store
from jaxseg.evaluate import files
from jaxseg.train import loop, parallel, processes
from jaxseg.train import state as states
from jaxseg.typing import UserError

TRUNK = "trunk"  # folder of what the members of a soup have in common


def run(arguments: workdir.Arguments) -> None:
    """Trains all members and scores what they say together; the same command goes on with what is not finished."""
    if train(arguments):
        evaluate(arguments)


def train(arguments: workdir.Arguments) -> bool:
    """Trains the members on data that are prepared once, and returns whether all are finished.

    Raises:
      UserError: too few cases or subjects for this kind, or settings that do not fit a member.
    """
    config, folder = arguments.config, arguments.workdir
    kind = config.ensemble.kind
    if config.model.get("remat"):
        parallel.keep_barriers()
    fixed = (*workdir.FIXED, *(("ensemble.members",) if kind == "snapshots" else ()))
    processes.first(lambda: workdir.begin(folder, config, fixed=fixed))
    known = build.facts(build.dataset(config))
    member.check_regions(config, known)
    if kind == "stacking" and processes.several():
        raise UserError("ensemble.kind='stacking' is for one host: the learner is fitted by one process.")
    _check_networks(arguments, known)
    open_patch = 0 in config.data.patch_size
    prepared = _prepare(config, folder)
    members = member.each(arguments)  # now that the patch is known
    if open_patch:
        _check_networks(arguments, known)
    try:
        finished = KINDS[kind](arguments, members, prepared)
    except member.Stopped:
        return False
    entry = {"combine": member.combination(config), **finished}
    processes.first(lambda: workdir.update_record(folder, ensemble=entry))  # who scores next reads it on every process
    return True


def evaluate(arguments: workdir.Arguments) -> None:
    """Scores the ensemble as a single network is scored; of bagging also each case by the members that did not see it.

    Raises:
      UserError: the members are not trained yet.
    """
    config = arguments.config
    whole = arguments.workdir / files.FOLDER
    if config.ensemble.kind == "bagging" and not arguments.inputs:
        scored = config.data.fold == "none"  # nothing else is
        print("each training case by the members that have not seen it (out-of-bag)")
        place = whole if scored else whole / certainty.OUT_OF_BAG
        evaluation.evaluate(arguments, unseen=_unseen(arguments), folder=place)
    if config.data.fold != "none" or arguments.inputs:
        evaluation.evaluate(arguments)
    elif config.ensemble.kind != "bagging" and processes.is_first():
        evaluation.report(arguments)


def _unseen(arguments: workdir.Arguments) -> dict[str, tuple[int, ...]]:
    """Returns, for each training case that some bootstrap resample left out, the numbers of those members."""
    found: dict[str, tuple[int, ...]] = {}
    for number, one in enumerate(member.each(arguments)):
        for name in workdir.record(one.workdir)["split"]["held out"]:
            found[name] = (*found.get(name, ()), number)
    return found


def _check_networks(arguments: workdir.Arguments, known: build.Facts) -> None:
    """Builds every network of a stacking without data; that of the other kinds is checked by who prepares the data."""
    if arguments.config.ensemble.kind == "stacking":
        different = {str(one.config.model): one.config for one in member.each(arguments)}
        for config in different.values():
            build.check_model(config, known)


def _prepare(config: ConfigDict, folder: Any) -> dict[str, Any]:
    """Prepares the data, records who is trained on and who is held out, and returns the record."""
    _, record = prepare.ensure(config, folder)
    training, held_out = splitting.outer_split(config, store.open(build.store_folder(config, folder)))
    if not training:
        raise UserError(f"No training case is left in fold {config.data.fold}; use fewer data.folds or more cases.")
    split = {"training": [case.name for case in training], "held out": [case.name for case in held_out]}
    workdir.update_record(folder, split=split)
    return record


def _independent(
    arguments: workdir.Arguments,
    members: Sequence[workdir.Arguments],
    prepared: dict[str, Any],
    start: Callable[[states.State], states.State] | None = None,
) -> dict[str, Any]:
    """Members that know nothing of each other: at once where `ensemble.together` says so, else one by one."""
    how = arguments.config.ensemble.together
    if how:
        try:
            outcome = together.train(members, prepared=prepared, how=how, start=start)
        except together.TooLarge as reason:
            print(f"{reason}: they are trained one after the other")
            how = ""
        else:
            if outcome.end is loop.End.STOPPED:
                raise member.Stopped
    if not how:
        for one in members:
            member.train(one, prepared, start=start)
    return {"members": [one.workdir.name for one in members]}


def _outputs_or_weights(arguments, members, found: dict[str, Any]) -> dict[str, Any]:
    """Adds the network of the averaged weights, where that is how the members become one."""
    if member.combination(arguments.config) in ("weights", "greedy"):
        return {**found, **averaged.make(arguments, members)}
    return found


def _snapshots(arguments, members, prepared) -> dict[str, Any]:
    """One training in as many cycles of the learning rate as there are members, each kept at its end."""
    for place, one in enumerate(members):
        before = members[place - 1] if place else None
        member.train(one, prepared, start=_go_on(before) if before else None)
    return _outputs_or_weights(arguments, members, {"members": [one.workdir.name for one in members]})


def _soup(arguments, members, prepared) -> dict[str, Any]:
    """Members that part ways after a common start, so that their weights can still be averaged."""
    trunk = member.own(arguments, 0)._replace(workdir=arguments.workdir / TRUNK)
    options = trunk.config.ensemble
    trunk.config.train = arguments.config.train.copy_and_resolve_references()
    member.shorten(trunk.config, options.trunk)
    trunk.config.optim.schedule, trunk.config.predict.checkpoint = "constant", "latest"
    member.train(trunk, prepared)
    return _outputs_or_weights(arguments, members, _independent(arguments, members, prepared, start=_go_on(trunk)))


def _go_on(before: workdir.Arguments) -> Callable[[states.State], states.State]:
    """Returns what puts a fresh state where another training has come to: weights, statistics, optimiser."""

    def start(state: states.State) -> states.State:
        found = member.state_of(before, state)
        return state._replace(params=found.params, extra=found.extra, opt_state=found.opt_state, ema=found.ema)

    return start


KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    "seeds": _independent,
    "bagging": _independent,
    "snapshots": _snapshots,
    "soup": _soup,
    "boosting": boosting.cases,
    "gradient_boosting": boosting.logits,
    "stacking": stacking.train,
}
