"""Cross-validation folds: the same on every machine, and no subject on both sides."""

import json
from collections.abc import Sequence

import numpy as np

from jaxseg import paths
from jaxseg.typing import UserError

Fold = tuple[tuple[str, ...], tuple[str, ...]]  # names to train on, names to validate on
KINDS = ("nnunet", "subject", "blocks")


def folds(
    names: Sequence[str],
    subjects: Sequence[str] | None = None,
    *,
    n_folds: int = 5,
    seed: int = 12345,
    kind: str = "nnunet",
) -> list[Fold]:
    """Cuts the cases into `n_folds` parts; fold i validates on part i and trains on the others.

    Args:
      names: unique case names, in any order.
      subjects: the subject of each case ("" stands for the case's own name). Cases of one subject stay together: the
        procedure then runs over the sorted subjects. Without it every case is a subject of its own.
      n_folds: number of parts.
      seed: for "nnunet" and "subject".
      kind: "nnunet" shuffles the sorted names with NumPy's `RandomState(seed)` and cuts them into consecutive parts,
        which is scikit-learn's `KFold(n_folds, shuffle=True, random_state=seed)` and, with 5 and 12345, nnU-Net's
        split. "subject" is the same and insists on `subjects`. "blocks" does not shuffle: neighbours in the sorted
        order, such as slices of one volume, stay together.

    Returns:
      (train names, validation names) for each fold, both sorted.

    Raises:
      UserError: duplicated names, an unknown kind, or fewer cases (subjects) than folds.
    """
    units = _units(names, subjects, kind)
    members = sorted(set(units.values()))
    if n_folds < 2 or len(members) < n_folds:
        what = "cases" if members == sorted(units) else "subjects"
        raise UserError(
            f"{n_folds} folds need at least 2 folds and as many {what} as folds, got {len(members)} {what}; "
            f"set the number of folds between 2 and {max(len(members), 2)}."
        )
    order = np.arange(len(members))
    if kind != "blocks":
        np.random.RandomState(seed).shuffle(order)
    result = []
    for part in np.array_split(order, n_folds):
        held_out = {members[i] for i in part}
        train = tuple(name for name in sorted(units) if units[name] not in held_out)
        result.append((train, tuple(name for name in sorted(units) if units[name] in held_out)))
    return result


def blocks(names: Sequence[str], subjects: Sequence[str] | None = None, *, n_folds: int = 5) -> list[Fold]:
    """Returns `folds(..., kind="blocks")`: contiguous parts of the sorted names."""
    return folds(names, subjects, n_folds=n_folds, kind="blocks")


def read(path: str, names: Sequence[str], *, n_folds: int) -> list[Fold]:
    """Reads folds from a file in the form of nnU-Net's splits_final.json: a list of {"train": [...], "val": [...]}.

    Cases that a fold names on neither side are left out of it.

    Args:
      path: the file.
      names: the cases that there are.
      n_folds: how many folds the file should hold.

    Returns:
      (train names, validation names) for each fold, both sorted.

    Raises:
      UserError: the file cannot be read, is of another form or length, names a case that is not there, or one case on
        both sides of a fold.
    """
    try:
        found = json.loads(paths.path(path).read_text())
        parts = [(tuple(sorted(part["train"])), tuple(sorted(part["val"]))) for part in found]
    except OSError as error:
        raise UserError(f"data.split_file {path} cannot be read ({error.strerror}); check the path.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'data.split_file {path} should be a JSON list with {{"train": [names], "val": [names]}} for each fold '
            f"({type(error).__name__}: {error})."
        ) from error
    if len(parts) != n_folds:
        raise UserError(f"data.split_file {path} holds {len(parts)} folds; set data.folds={len(parts)}.")
    for number, (train, held_out) in enumerate(parts):
        if unknown := sorted({*train, *held_out} - set(names)):
            raise UserError(
                f"Fold {number} of data.split_file {path} names {len(unknown)} cases that are not in the data: "
                f"{', '.join(unknown[:5])}; the data have, for example, {min(names)}."
            )
        if both := sorted(set(train) & set(held_out)):
            raise UserError(
                f"Fold {number} of data.split_file {path} trains and validates on the same cases, such as {both[0]}."
            )
    return parts


def select(folds: Sequence[Fold], fold: str | int) -> Fold:
    """Picks one fold by its config string: "0", "1", ..., or "none", which holds no case out.

    Raises:
      UserError: the fold is neither "none" nor one of those there are.
    """
    if fold == "none":
        return tuple(sorted({name for part in folds for name in (*part[0], *part[1])})), ()
    known = {str(i): part for i, part in enumerate(folds)}
    if str(fold) not in known:
        raise UserError(f"data.fold should be 'none' or one of '0' to '{len(folds) - 1}', got {fold!r}.")
    return known[str(fold)]


def _units(names: Sequence[str], subjects: Sequence[str] | None, kind: str) -> dict[str, str]:
    """Returns name -> subject after checking both."""
    if kind not in KINDS:
        raise UserError(f"The kind of split should be one of {', '.join(KINDS)}, got {kind!r}.")
    repeated = sorted({name for name in names if list(names).count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise UserError(
            f"Case names should be unique, but these occur twice: {', '.join(repeated[:10])}; rename the files."
        )
    if subjects is None:
        if kind == "subject":
            raise UserError(
                "A split by subject needs the subject of every case; give a subject table or use kind 'nnunet'."
            )
        subjects = names
    if len(subjects) != len(names):
        raise UserError(f"There should be one subject a case, got {len(subjects)} subjects for {len(names)} cases.")
    return {name: subject or name for name, subject in zip(names, subjects)}
