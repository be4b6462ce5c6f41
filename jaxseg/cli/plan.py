"""--mode plan: look at the data, choose spacing, patch, batch and network, and write config files that train them."""

import functools
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxseg import evaluate as evaluation
from jaxseg import plan as plans
from jaxseg import validation
from jaxseg.cli import build, config_file, fit, prepare, workdir
from jaxseg.data import fingerprint
from jaxseg.plan import targets
from jaxseg.typing import UserError

FULL, LOW, CASCADE = "3d_fullres", "3d_lowres", "3d_cascade"  # of the configurations
FOLDER, SUMMARY, PAGE = "plan", "plan.json", "plan.html"
CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")


def plan(arguments: workdir.Arguments) -> None:
    """Writes one config file a configuration into WORKDIR/plan (or --output), and plan.json with all figures.

    Raises:
      UserError: the data set cannot be read, the planner is unknown, the task is another, or a file has been edited.
    """
    config, folder = arguments.config, arguments.workdir
    planner = config.plan.planner
    if planner not in plans.PLANNERS:
        raise UserError(f"plan.planner should be one of {', '.join(plans.PLANNERS)}, not {planner!r}.")
    if config.task != "semantic":
        raise UserError(f"--mode plan chooses U-Nets for task='semantic', not for task={config.task!r}.")
    wanted = tuple(config.plan.configurations)
    unknown = sorted(set(wanted) - set(CONFIGURATIONS))
    if unknown:
        raise UserError(f"plan.configurations should be of {', '.join(CONFIGURATIONS)}; it has {', '.join(unknown)}.")
    machine = targets.machine(config.plan.device) if config.plan.device else None
    workdir.begin(folder, config)
    dataset = build.dataset(config)
    found = prepare.measure(config, dataset, build.store_folder(config, folder))
    by_rule = functools.partial(
        plans.rule_plan,
        shapes=found["shapes"],
        spacings=found["spacings"],
        num_classes=len(dataset.regions or dataset.classes),
        num_training=len(dataset.cases),
    )
    settings_of = functools.partial(configure, config, axes=len(found["shapes"][0]))
    if machine is None:
        planned = {name: chosen for name, chosen in by_rule(planner=planner).items() if name in wanted}
    else:
        known = build.facts(dataset)
        problem_of = functools.partial(_problem, known=known)
        planned = fit.plan(config, known, machine, by_rule=by_rule, settings_of=settings_of, problem_of=problem_of)
    target = pathlib.Path(arguments.output) if arguments.output else folder / FOLDER
    texts = {}
    for name, chosen in (planned | _cascade(planned)).items():
        path = target / f"{folder.name}_{name}.py"
        settings = settings_of(chosen)
        if name == CASCADE:
            settings.data.previous = f"runs/{folder.name}_{LOW}"  # where the file beside this one trains
        problem = _problem(settings, build.facts(dataset))
        texts[path] = file_text(settings, path=path, name=name, found=found, problem=problem, fitted=fit.remark(chosen))
        print(describe(name, chosen, path) + (f"\n{'':<12} to be corrected there: {problem}" if problem else ""))
    _write(texts, overwrite=arguments.overwrite)
    sections = {
        "Data": evaluation.data_section(found, channels=dataset.channels, classes=dataset.classes),
        "Configurations": _table(planned),
    }
    if machine is not None:
        sections[f"What fits {machine.name}"] = fit.section(machine, planned)
    written = f"Planned {time.strftime('%Y-%m-%d %H:%M')} by jaxseg"
    evaluation.files.replace(target / PAGE, evaluation.page.page(folder.resolve().name, written, sections))
    print(f"page         {target / PAGE}")
    fingerprint.write_json(
        target / SUMMARY, {"planner": planner, "device": config.plan.device, "configurations": planned}
    )


def _cascade(planned: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Full resolution after low resolution, where a patch of the former shows too little of a case."""
    return {CASCADE: planned[FULL]} if LOW in planned and FULL in planned else {}


def _table(planned: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [
            evaluation.page.Cell(evaluation.page.text(text))
            for text in (
                name,
                fit.times(chosen["patch_size"]),
                chosen["batch_size"],
                fit.times(round(value, 4) for value in chosen["spacing"]),
                fit.times(chosen["median_image_size_in_voxels"]),
                ", ".join(map(str, chosen["features_per_stage"])),
            )
        ]
        for name, chosen in planned.items()
    ]
    return evaluation.page.table(("", "patch", "batch", "spacing (mm)", "median size", "channels a level"), rows)


def describe(name: str, chosen: Mapping[str, Any], path: pathlib.Path) -> str:
    """One line for the terminal."""
    spacing = fit.times(round(value, 3) for value in chosen["spacing"])
    return (
        f"{name:<12} patch {fit.times(chosen['patch_size'])}, batch {chosen['batch_size']}, {spacing} mm, "
        f"{chosen['n_stages']} levels; {path}"
    )


def configure(config: ConfigDict, chosen: Mapping[str, Any], *, axes: int) -> ConfigDict:
    """Returns the config with a planned configuration in it.

    Args:
      config: what the user wrote.
      chosen: of `plan.rule_plan`.
      axes: of the volumes, 2 or 3.
    """
    result = ConfigDict(config.to_dict(), type_safe=False)
    order = chosen["transpose_forward"]
    dimensions = len(chosen["patch_size"])
    result.data.axis_order = None  # the volumes were measured without
    if dimensions < axes:
        back = list(range(dimensions))
        spacing = ["keep", *map(_number, chosen["spacing"])]  # slices stay as they are
        if order[0] != 0:
            result.data.axis_order = tuple(int(place) for place in order)  # networks in 2D take slices across the first
    else:
        back = [int(place) for place in np.argsort(order)]  # from the plan's order of axes to the volumes' own
        spacing = [_number(chosen["spacing"][place]) for place in back]

    def turned(values):
        return tuple(values[place] for place in back)

    strides, kernels = ([turned(level) for level in chosen[name]] for name in ("strides", "kernel_sizes"))
    result.data.patch_size = turned(chosen["patch_size"])
    result.data.batch_size = chosen["batch_size"]
    result.data.spacing = ",".join(spacing)
    model = {"name": "unet", "ndim": dimensions, "features": tuple(chosen["features_per_stage"])}
    if any(max(level) != min(level) or max(level) == 1 for level in strides[1:]):
        model["strides"] = tuple(strides)
    if any(min(level) != 3 for level in kernels):
        model["kernels"] = tuple(kernels)
    if plans.PLANNERS[config.plan.planner].residual:
        model["residual"] = True
    if chosen.get("remat"):
        model["remat"] = True
    result.train.dtype = chosen.get("dtype", result.train.dtype)
    result.model = {**model, "deep_supervision": True}
    return result


def _problem(config: ConfigDict, known: build.Facts) -> str:
    """Returns why a planned config would be refused, as where an option names an axis that it has not; "" if not."""
    try:
        validation.validate(config)
        build.check_model(config, known)
    except UserError as error:
        return str(error)
    return ""


def file_text(
    config: ConfigDict, *, path: pathlib.Path, name: str, found: Mapping[str, Any], problem: str = "", fitted: str = ""
) -> str:
    """Returns the Python of a planned config file."""
    median = fit.times(int(value) for value in np.median(found["shapes"], axis=0))
    spacing = fit.times(round(float(value), 3) for value in np.median(found["spacings"], axis=0))
    title = (
        f"{name} of {len(found['names'])} cases (median {median} voxels of {spacing} mm): {config.plan.planner} U-Net."
    )
    remark = f"To be corrected before it runs: {problem}" if problem else "Nobody has measured it yet."
    remark = f"{fitted}\n{remark}" if fitted else remark
    if name == CASCADE:
        remark += f"\nTrain {path.stem.removesuffix(CASCADE)}{LOW}.py with --config.data.fold=all before it."
    return config_file.text(config, title=title, path=path, made="Planned", remark=remark)


def _write(texts: Mapping[pathlib.Path, str], *, overwrite: bool) -> None:
    """Writes all files or none."""
    changed = [path for path, text in texts.items() if path.exists() and path.read_text() != text]
    if changed and not overwrite:
        raise UserError(f"{changed[0]} is there already and differs; add --overwrite, or choose another --output.")
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            evaluation.files.replace(path, text)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}); name another --output.") from error


def _number(value: float) -> str:
    return repr(round(float(value), 6)).removesuffix(".0")
