"""--mode plan with plan.device: patch, batch, compute type and recomputation that fit, asked of its compiler."""

import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxseg import evaluate as evaluation
from jaxseg import plan as plans
from jaxseg.cli import build, compile, taken
from jaxseg.plan import targets
from jaxseg.typing import UserError

UNMEASURED = 0.25  # of the compiler's sum is added where no step can be run (docs/planning.md)


def plan(
    config: ConfigDict,
    known: build.Facts,
    machine: targets.Machine,
    *,
    by_rule: Callable[..., dict[str, dict[str, Any]]],
    settings_of: Callable[[Mapping[str, Any]], ConfigDict],
    problem_of: Callable[[ConfigDict], str],
) -> dict[str, dict[str, Any]]:
    """Returns the configurations of `rule_plan` with patch and batch as the device takes them, and prints each trial.

    A configuration also has dtype, remat, device, peak_bytes and limit_bytes (a device) and the trials. "3d_lowres" is
    there where the patch that fits at full resolution shows less than a quarter of the median volume.

    Args:
      config: of the user.
      known: the data set's facts.
      machine: what must hold the train step.
      by_rule: `rule_plan` of the data set, still without a planner.
      settings_of: from a configuration to its config.
      problem_of: why a config would be refused, "" if it would not; such a configuration is left out, which is said.

    Raises:
      UserError: the device's compiler is not here, or the smallest patch does not fit, or all are left out.
    """
    jax.config.update("jax_platforms", "cpu")  # shapes only: no accelerator is asked for
    devices = targets.devices(machine.target)[: machine.size]
    if machine.remark:
        print(f"{machine.name}: {machine.remark}")
    planner, result, problem = plans.PLANNERS[config.plan.planner], {}, ""
    for name in ("2d", "3d_fullres", "3d_lowres"):
        configuration = by_rule(planner=planner).get(name)
        if configuration is None or name not in config.plan.configurations:
            continue
        problem = problem_of(settings_of(configuration))
        if problem:
            print(f"{name:<12} is left out: {problem}")
            continue
        result[name] = chosen = _fitted(name, configuration, config, known, machine, devices, settings_of)
        if name == "3d_fullres" and "dtype" in chosen:  # what fits says whether, and how coarse, a lower one is needed
            topology = plans.network_topology(chosen["spacing"], chosen["patch_size"])
            score = plans.memory_score(topology, num_classes=len(known.regions or known.classes), planner=planner)
            planner = planner._replace(reference={**planner.reference, 3: score})
    if problem and not result:
        raise UserError(f"No configuration can be planned for {machine.name}. {problem}")
    return result


def _fitted(name, configuration, config, known, machine, devices, settings_of) -> dict[str, Any]:
    topologies = tuple(plans.patches(configuration["spacing"], configuration["median_image_size_in_voxels"]))
    beyond: list[plans.Allowance] = []

    def settings(candidate: plans.Candidate) -> ConfigDict:
        return settings_of({**configuration, **_entries(candidate)})

    def measure(candidate: plans.Candidate) -> int | None:
        peak = compile.train_peak(settings(candidate), known, devices, pathlib.Path())
        if peak is None or not machine.runs:
            return peak
        if not beyond:  # the first program says about how large a batch will be
            load = min(candidate.load * machine.limit / peak, configuration["largest_batch_voxels"])
            pair = plans.small_candidates(topologies, load=load, dtype=candidate.dtype)
            beyond.append(_allowance(name, pair, settings, known, peak / candidate.load))
        return peak + beyond[0].bytes(candidate.load)

    best, trials = plans.search(
        topologies,
        measure,
        limit=machine.limit,
        largest_batch_voxels=configuration["largest_batch_voxels"],
        dtypes=machine.dtypes,
        ways=max(1, len(devices) // config.parallel.spatial),
        show=lambda trial: print(f"{name:<12} {describe(trial, machine)}", flush=True),
    )
    if best is None:
        least = min((trial.peak for trial in trials if trial.peak), default=0)
        raise UserError(
            f"{name}: the smallest patch takes {_gib(least)} GiB, and {machine.name} has {_gib(machine.limit)}; "
            "name a larger plan.device, or leave this one out of plan.configurations."
        )
    return {
        **configuration,
        **_entries(best),
        "device": machine.name,
        "estimate": bool(machine.remark),
        "peak_bytes": next(trial.peak for trial in trials if trial.candidate == best),
        "limit_bytes": machine.limit,
        "beyond": beyond[0]._asdict() if beyond else None,
        "trials": [_row(trial) for trial in trials],
    }


def _allowance(name, pair, settings, known, a_voxel: float) -> plans.Allowance:
    """Runs two small steps for what they take beyond the compiler's sum; `a_voxel` of it where they cannot be run."""
    print(f"{name:<12} two small steps are run to see what they take beyond the compiler's sum", flush=True)
    try:
        allowance, found = taken.beyond(pair, settings, known)
    except taken.NotMeasured as error:
        print(f"{name:<12} no step could be run here ({error}): {UNMEASURED:.0%} of the compiler's sum is added")
        return plans.Allowance(0.0, UNMEASURED * a_voxel)
    for candidate, own in zip(pair, found):
        print(
            f"{name:<12} patch {times(candidate.topology.patch)}, batch {candidate.batch} was run: it took "
            f"{_gib(own.taken)} GiB, {_gib(own.predicted)} by the compiler",
            flush=True,
        )
    return allowance


def _entries(candidate: plans.Candidate) -> dict[str, Any]:
    """The entries of a configuration that a candidate decides."""
    chosen = {"batch_size": candidate.batch, "dtype": candidate.dtype, "remat": candidate.remat}
    return {**plans.network(candidate.topology), **chosen}


def _row(trial: plans.Trial) -> dict[str, Any]:
    own = trial.candidate
    return {
        "patch_size": own.topology.patch,
        "batch_size": own.batch,
        "dtype": own.dtype,
        "remat": own.remat,
        "peak_bytes": trial.peak,
        "fits": trial.fits,
    }


def describe(trial: plans.Trial, machine: targets.Machine) -> str:
    """One line for the terminal; sizes in GiB a device."""
    own = trial.candidate
    peak = "more than there is" if trial.peak is None else f"{_gib(trial.peak)} GiB"
    return (
        f"patch {times(own.topology.patch)}, batch {own.batch}, {own.dtype}{', recomputed' * own.remat}: {peak} of "
        f"{_gib(machine.limit)}, {'fits' if trial.fits else 'too much'}"
    )


def remark(chosen: Mapping[str, Any]) -> str:
    """What a config file says about its device; "" where it was planned by rule."""
    if "device" not in chosen:
        return ""
    kind, peak = "estimated" if chosen["estimate"] else "predicted", _gib(chosen["peak_bytes"])
    limit = _gib(chosen["limit_bytes"])
    return f"For {chosen['device']}: {kind} peak {peak} GiB a device, of {limit} that a train step may take."


def section(machine: targets.Machine, planned: Mapping[str, Mapping[str, Any]]) -> str:
    """The page's table of all trials, in order."""
    page = evaluation.page
    head = ("", "patch", "batch", "type", "recomputed", "peak (GiB a device)", "fits")
    rows = []
    for name, chosen in planned.items():
        for trial in chosen.get("trials", ()):
            peak = "more than there is" if trial["peak_bytes"] is None else _gib(trial["peak_bytes"])
            taken = all(trial[field] == chosen[field] for field in ("patch_size", "batch_size", "dtype", "remat"))
            cells = (
                name,
                times(trial["patch_size"]),
                trial["batch_size"],
                trial["dtype"],
                "yes" if trial["remat"] else "no",
                peak,
                ("yes" if trial["fits"] else "no") + ", taken" * taken,
            )
            rows.append([page.Cell(page.text(cell)) for cell in cells])
    devices = f"{machine.size} device{'s' * (machine.size > 1)}"
    limit = f"{machine.name}, {devices}: {_gib(machine.limit)} GiB each ({machine.share})."
    beyond = " and what two small steps took beyond it when they were run" * machine.runs
    note = f"{limit} Peaks are the compiler's, of the real train step{beyond}. {machine.remark}".strip()
    return f"<p>{page.text(note)}</p>{page.table(head, rows)}"


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}" if size < 10 * 2**30 else f"{size / 2**30:.1f}"


def times(values: Iterable[float]) -> str:
    """Sizes along the axes as people write them."""
    return " x ".join(f"{value:g}" for value in values)
