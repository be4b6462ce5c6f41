"""What --mode plan says a train step takes of a CPU, against what a process really takes while it runs it.

    python -m benchmarks.memory          # U-Nets in 2D and 3D, with and without recomputation and augmentation

"Compiler" is `plan.cost(...).peak` of the compiled step: arguments + outputs - aliased + temporaries + code. "Planned"
adds what two small steps, near 1/16 and 1/4 of the voxels of the largest batch here, took beyond it, on a straight line
over the voxels: what `--mode plan --config.plan.device=cpu-24` does. "Taken" is the highest resident size of a fresh
process while four steps run (VmHWM of /proc/self/status, set back through /proc/self/clear_refs) less its resident size
before them, of which the arguments, which are there by then, are no part (`jaxseg/cli/taken.py`). Linux with glibc.
"""

import math
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxseg import plan
from jaxseg.cli import build, taken
from jaxseg.config import base_config

KNOWN = build.Facts(("image",), ("background", "one", "two"), (0, 1, 2), (), None, None)


class Series(NamedTuple):
    """Steps of one network: the median image, whose patches are tried; (patch, batch) of each, the largest one last."""

    name: str
    median: tuple[int, ...]
    features: tuple[int, ...]
    steps: tuple[tuple[tuple[int, ...], int], ...]
    augment: str = "none"


SERIES = (
    Series("2D", (256, 256), (16, 32, 64, 128), (((256, 256), 4), ((256, 256), 16))),
    Series("3D", (96, 96, 96), (16, 32, 64), (((64, 64, 64), 2), ((96, 96, 96), 2))),
    Series("3D, nnU-Net's augmentation", (96, 96, 96), (16, 32, 64), (((96, 96, 96), 2),), "nnunet"),
)


def settings(series: Series, *, patch: tuple[int, ...], batch: int, remat: bool = False) -> ConfigDict:
    """The config of a step."""
    config = ConfigDict(base_config().to_dict(), type_safe=False)
    config.train.total_steps = 2
    config.augment = series.augment
    config.data.patch_size, config.data.batch_size = patch, batch
    model = {"name": "unet", "ndim": len(patch), "features": series.features, "remat": remat}
    config.model = {**model, "deep_supervision": len(patch) == 3}
    return config


def line(series: Series) -> plan.Allowance:
    """What two small steps take beyond the compiler's sum, as --mode plan asks it."""
    levels = len(series.features)
    topologies = tuple(
        topology
        for topology in plan.patches((1.0,) * len(series.median), series.median)
        if min(topology.patch) >= 2 ** (levels - 1)
    )
    patch, batch = series.steps[-1]
    small = plan.small_candidates(topologies, load=batch * math.prod(patch), dtype="float32")
    beyond, found = taken.beyond(small, lambda own: settings(series, patch=own.topology.patch, batch=own.batch), KNOWN)
    for own, step in zip(small, found):
        name = f"{own.batch} x {' x '.join(map(str, own.topology.patch))}"
        print(f"{series.name}: {name} was run: {step.taken / 2**30:.3f} GiB, compiler {step.predicted / 2**30:.3f}")
    return beyond


def row(series: Series, beyond: plan.Allowance, *, patch: tuple[int, ...], batch: int, remat: bool) -> list[Any]:
    """One step: its name, and GiB by the compiler, as planned and as taken, with the difference of the last two."""
    step = taken.measure(settings(series, patch=patch, batch=batch, remat=remat), KNOWN)
    planned = step.predicted + beyond.bytes(batch * math.prod(patch))
    name = f"{series.name}, {batch} x {' x '.join(map(str, patch))}"
    sizes = [f"{size / 2**30:.3f}" for size in (step.predicted, planned, step.taken)]
    return [name, "yes" if remat else "no", *sizes, f"{step.taken / planned - 1:+.1%}"]


def main() -> None:
    widths = "{:48} {:>10} {:>9} {:>9} {:>9} {:>10}"
    print(widths.format("GiB", "recomputed", "compiler", "planned", "taken", "difference"))
    for series in SERIES:
        beyond = line(series)
        for patch, batch in series.steps:
            for remat in (False, True):
                print(widths.format(*row(series, beyond, patch=patch, batch=batch, remat=remat)), flush=True)


if __name__ == "__main__":
    main()
