"""A trained ensemble as a function: volume in, what its members say together out."""

import functools
from collections.abc import Sequence

from ml_collections import ConfigDict

from jaxseg import paths
from jaxseg.cli import averaged, inference, instances, member, mixture, stacking, workdir
from jaxseg.typing import UserError

OF_ENSEMBLE = ("postprocess", "uncertainty", "temperature", "checkpoint")  # fields of config.predict no member takes


def load(folder: paths.Path, config: ConfigDict, *, others: Sequence[str] = ()) -> inference.Trained:
    """Restores the members of an ensemble; `parts` of what comes holds each of them.

    Raises:
      UserError: it is not finished, or its members cannot become one as `ensemble.combine` says.
    """
    if others:
        raise UserError(f"{folder} is an ensemble and averages its own members; leave out --average.")
    record = workdir.record(folder)
    if "ensemble" not in record:
        raise UserError(f"{folder} holds no finished ensemble; run --mode train with this --workdir again.")
    found, how = record["ensemble"], member.combination(config)
    if how != found["combine"] and {how, found["combine"]} & {"weights", "greedy"}:
        raise UserError(f"{folder} was combined by {found['combine']}; run --mode train with ensemble.combine={how}.")
    held_out = tuple(record["split"]["held out"])
    own = functools.partial(_member, folder, config)
    names = found["members"]
    if how in ("weights", "greedy", "sum"):  # one network
        single = own(averaged.FOLDER if "averaged" in found else names[0])
        return _whole(single, folder, config, record, held_out, single.predict, ())
    if config.ensemble.kind == "stacking":
        folds, networks = config.ensemble.folds, config.ensemble.networks
        groups = [names[place * folds : (place + 1) * folds] for place in range(len(networks))]
        parts = tuple((text, own(*group)) for text, group in zip(networks, groups))
        rule = mixture.Rule(how, (1.0,) * len(parts), stacking.load(folder))
    else:
        parts = tuple((name, own(name)) for name in names)
        rule = mixture.Rule(how, tuple(found.get("weights") or (1.0,) * len(parts)))
    known = parts[0][1].known
    member.check_regions(config, known)
    run = functools.partial(mixture.predict_together, [one.predict for _, one in parts], rule, known)
    return _whole(parts[0][1], folder, config, record, held_out, run, parts)


def _member(folder: paths.Path, config: ConfigDict, first: str, *rest: str) -> inference.Trained:
    """Loads one member, or several of one network as their mean, with the options that this command has given."""
    own = workdir.stored_config(folder / first)
    for field in config.predict:
        if field not in OF_ENSEMBLE or (field == "checkpoint" and config.predict.checkpoint != "best"):
            own.predict[field] = config.predict[field]
    own.evaluate, own.data.root = config.evaluate, config.data.root
    return inference.load(folder / first, own, others=[str(folder / name) for name in rest])


def _whole(first: inference.Trained, folder, config, record, held_out, run, parts) -> inference.Trained:
    config.data.patch_size = first.config.data.patch_size
    clean = functools.partial(mixture.cleaned, run, config.predict.postprocess)
    find = instances.watershed(config, clean) if config.predict.watershed else None
    own = {"config": config, "record": record, "held_out": held_out, "predict": clean, "find": find}
    return first._replace(**own, parts=parts, networks=())
