"""Who trains and who is held out: the folds of a data set, and what each member of an ensemble sees of them."""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxseg import ensemble
from jaxseg.data import splits
from jaxseg.typing import UserError

MEMBER_SEED = 1000  # between the seeds of an ensemble's members


def split(config: ConfigDict, cases: Sequence) -> tuple[list, list]:
    """Returns (training, held-out) of cases that have `name` and `subject`; of an ensemble's member, its own.

    A member of a bagging ensemble trains on a bootstrap resample, where a case may stand several times.
    """
    return member_split(config, *outer_split(config, cases))


def outer_split(config: ConfigDict, cases: Sequence) -> tuple[list, list]:
    """Returns (training, held-out) of a fold, whatever a member of an ensemble sees of them."""
    names = [case.name for case in cases]
    subjects = [case.subject or case.name for case in cases]
    if config.data.split_file:
        folds = splits.read(config.data.split_file, names, n_folds=config.data.folds)
    else:
        folds = splits.folds(names, subjects, n_folds=config.data.folds, kind=config.data.split_kind)
    train, held_out = splits.select(folds, fold=config.data.fold)
    wanted = config.data.train_cases
    if wanted > len(train):
        raise UserError(
            f"data.train_cases is {wanted}, but fold {config.data.fold} has {len(train)} cases to train on."
        )
    if wanted:
        # The first of one shuffle: what 20 cases learn from, 50 learn from too.
        train = tuple(train[i] for i in np.random.RandomState(base_seed(config)).permutation(len(train))[:wanted])
    return [case for case in cases if case.name in set(train)], [case for case in cases if case.name in set(held_out)]


def base_seed(config: ConfigDict) -> int:
    """The seed that the user gave; members of an ensemble have their own ones above it."""
    return config.seed - MEMBER_SEED * (config.ensemble.member or 0)


def member_split(config: ConfigDict, training: list, held_out: list) -> tuple[list, list]:
    """Returns what the member `ensemble.member` trains on and is validated on; without a member, what came.

    Only members that differ in nothing but their seed see the fold that is held out, as a single network does. The
    others are validated on training cases that they do not train on: those that a resample left out (bagging), the
    inner fold (stacking), or the share that `ensemble.validation` sets aside.

    Raises:
      UserError: there are too few subjects for that.
    """
    options = config.ensemble
    if options.member is None or options.kind in ("seeds", "snapshots"):
        return training, held_out
    subjects = [case.subject or case.name for case in training]
    if options.kind == "bagging":
        bag = ensemble.bootstrap(subjects, seed=base_seed(config), member=options.member)
        return [training[place] for place in bag.drawn], [training[place] for place in bag.left_out]
    stacking = options.kind == "stacking"
    count = options.folds if stacking else max(2, round(1 / options.validation))
    if len(set(subjects)) < count:
        asked = "ensemble.folds" if stacking else "ensemble.validation"
        raise UserError(
            f"{asked}={options[asked.partition('.')[2]]} takes one of {count} training subjects, but there are "
            f"{len(set(subjects))}; {'lower' if stacking else 'raise'} it, or train on more cases."
        )
    inner = splits.folds([case.name for case in training], subjects, n_folds=count, kind=config.data.split_kind)
    names = set(inner[options.member % count if stacking else 0][1])
    return [case for case in training if case.name not in names], [case for case in training if case.name in names]
