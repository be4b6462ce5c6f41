"""Members that become one network by their weights: all (SWA, uniform soup), or those that help (greedy soup)."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxseg import ensemble, metrics, paths, predict
from jaxseg.cli import build, case_dice, extra, member, prepare, splitting, workdir
from jaxseg.cli import train as training
from jaxseg.data import store
from jaxseg.train import checkpoint, parallel, processes
from jaxseg.train import state as states
from jaxseg.typing import Task

FOLDER = "averaged"
REFRESH = 50  # training batches that renew the statistics of batch normalisation


def make(arguments: workdir.Arguments, members: Sequence[workdir.Arguments]) -> dict[str, Any]:
    """Writes the network of the averaged weights as a workdir of its own, and returns what is to be recorded.

    A greedy soup starts with the best member and keeps another only where the mean of the weights does not score worse
    for it (Wortsman et al. 2022), on the cases set aside for that.
    """
    config = members[0].config
    known = build.stored_facts(workdir.record(arguments.workdir))
    task = build.task(config, known)
    like = build.state_shapes(config, known, task)
    trained = [member.state_of(one, like) for one in members]
    trees = [states.inference_variables(state) for state in trained]
    train_cases, validation = splitting.split(config, store.open(build.store_folder(config, arguments.workdir)))
    refresh = _refresher(config, known, task, extra.beside(config, arguments.workdir, train_cases))
    look = training.viewer(config, known, task)

    def score(tree: dict[str, Any]) -> float:
        own = parallel.local({"params": tree["params"], "extra": refresh(tree)})
        table = processes.share(lambda case: case_dice.dice(*look(own, case), known), validation)
        return metrics.finite_mean(predict.choice.mean(table))

    if member.combination(arguments.config) == "greedy":
        soup = ensemble.greedy_soup(score, trees)
        found, chosen, scores = soup.tree, soup.chosen, soup.own
        print(f"greedy soup of {', '.join(members[place].workdir.name for place in chosen)}")
    else:
        found, chosen, scores = ensemble.average_weights(trees), tuple(range(len(trees))), ()
    state = states.with_variables(trained[0], found["params"], refresh(found))
    _write(arguments, members[0], state, [case.name for case in validation])
    kept = [members[place].workdir.name for place in chosen]
    rounds = [
        {"name": one.workdir.name, "validation": float(score) if np.isfinite(score) else None}
        for one, score in zip(members, scores)
    ]
    return {"averaged": FOLDER, "kept": kept, **({"rounds": rounds} if rounds else {})}


def _refresher(config, known: build.Facts, task: Task, drawn: extra.Drawn):
    """Returns `variables -> extra` with statistics of batch normalisation that belong to the averaged weights.

    They are those of training batches: a mean of the members' own would be of other networks' features.
    """
    augment = build.transforms(config, known)
    key = jax.random.key(config.seed)

    @jax.jit
    def renew(params, extra, batch, number):
        augment_key, loss_key = jax.random.split(jax.random.fold_in(key, number))
        batch = augment(augment_key, batch)
        for loss in task.losses.values():
            _, (_, extra) = loss(params, extra, batch, loss_key)
        return extra

    def refresh(tree: dict[str, Any]) -> Any:
        extra = tree["extra"]
        if not jax.tree.leaves(extra):
            return extra
        stream = build.batches(config, drawn.cases, start_step=0, weights=drawn.weights)
        try:
            for number, batch in zip(range(REFRESH), stream):
                extra = renew(tree["params"], extra, batch, number)
        finally:
            stream.close()
        return extra

    return refresh


def _write(
    arguments: workdir.Arguments, first: workdir.Arguments, state: states.State, validation: Sequence[str]
) -> None:
    """Replaces the averaged network of an earlier command."""
    folder = arguments.workdir / FOLDER

    def clear() -> None:
        if folder.exists():
            paths.remove_tree(folder)
        folder.mkdir(parents=True)

    processes.first(clear)
    prepare.adopt(first.config, folder, workdir.record(arguments.workdir))
    checkpoints = checkpoint.Checkpoints(folder)
    try:
        checkpoints.save(parallel.whole(state), {"held_out": list(validation)})
    finally:
        checkpoints.close()
