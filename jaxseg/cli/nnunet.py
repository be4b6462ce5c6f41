"""--mode convert --source nnunet: a folder that nnU-Net v2 trained becomes a workdir that predicts the same."""

import os
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxseg import config as configs
from jaxseg import models, validation
from jaxseg.cli import build, inference, workdir
from jaxseg.data import readers
from jaxseg.train import checkpoint
from jaxseg.train import state as states
from jaxseg.transfer import nnunet_folder
from jaxseg.transfer.nnunet_plan import Plan
from jaxseg.typing import UserError

SOURCE = "nnunet"
FIELDS = ("folds", "checkpoint", "trainer")
STEPS_AN_EPOCH = 250  # nnU-Net's


def convert(arguments: workdir.Arguments, fields: dict[str, Any]) -> None:
    """Writes the workdir --output from the trained folder --input and says what it holds.

    Raises:
      UserError: the folder cannot be imported (see `nnunet_folder.read`), an unknown field, or --output is not empty.
    """
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown:
        raise UserError(f"--source {SOURCE} takes the fields {', '.join(FIELDS)}, not {', '.join(unknown)}.")
    target = pathlib.Path(str(arguments.output)).absolute()
    if target.exists() and any(target.iterdir()):
        raise UserError(f"--output {target} is not empty; name a new folder.")
    if "folds" in fields:
        folds = fields["folds"]
        fields["folds"] = tuple(folds) if isinstance(folds, tuple | list) else (folds,)
    trained = nnunet_folder.read(arguments.inputs[0], **fields)
    temporary = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        _write(temporary, trained, arguments.inputs[0])
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    except OSError as error:
        raise UserError(f"--output {target} cannot be written ({error.strerror}); name another folder.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(_said(trained, str(arguments.output)))


def _said(trained: nnunet_folder.Trained, output: str) -> str:
    plan, members = trained.plan, trained.members
    names = ", ".join(member.fold for member in members)
    text = (
        f"{plan.name} network of nnU-Net ({trained.trainer}, {'folds' if len(members) > 1 else 'fold'} {names}) in "
        f"{output}; use it with --mode predict --workdir {output}"
    )
    if not readers.suffix(f"x{plan.file_ending}"):
        text += f"\nits data set has {plan.file_ending} files, which no reader here knows: convert scans to .nii.gz"
    return text


def _write(folder: pathlib.Path, trained: nnunet_folder.Trained, source: str) -> None:
    """Writes the workdir: of one fold itself, or one of folds with a workdir each."""
    folder.mkdir(parents=True)
    members = trained.members
    if len(members) == 1:
        _write_member(folder, trained, members[0], source)
        return
    config = _config(trained, members[0], fold="all")
    _save_record(folder, config, trained, source)
    for member in members:
        _write_member(folder / inference.FOLD.format(member.fold), trained, member, source)


def _write_member(
    folder: pathlib.Path, trained: nnunet_folder.Trained, member: nnunet_folder.Member, source: str
) -> None:
    fold = "none" if member.fold == "all" else member.fold
    config = _config(trained, member, fold=fold)
    _save_record(folder, config, trained, source, checkpoint=str(member.path))
    known = _known(trained.plan)
    shapes = build.state_shapes(config, known, build.task(config, known))
    fresh = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    steps = jnp.int32(config.train.total_steps)
    variables = dict(member.variables)
    params = {"model": variables.pop("params")}
    state = states.with_variables(fresh._replace(step=steps, horizon=steps), params, {"model": variables})
    workdir.update_record(folder, parameters=states.parameter_counts(state))
    checkpoints = checkpoint.Checkpoints(folder)
    try:
        checkpoints.save(state, {"batch_size": config.data.batch_size, "held_out": []})
    finally:
        checkpoints.close()


def _config(trained: nnunet_folder.Trained, member: nnunet_folder.Member, *, fold: str) -> ConfigDict:
    """The config of a run of ours that does what nnU-Net does with this network."""
    plan, config = trained.plan, configs.base_config()
    data = config.data
    data.name, data.fold = "nnunet_raw", fold
    data.folds = max(5, 1 + max((int(each.fold) for each in trained.members if each.fold.isdigit()), default=0))
    data.patch_size, data.batch_size = plan.patch_size, plan.batch_size
    data.normalize = ",".join(plan.settings.normalize)
    data.orientation, data.axis_order, data.crop = plan.settings.orientation, plan.settings.axis_order, True
    if plan.settings.spacing is not None:
        data.spacing = ",".join("keep" if value is None else repr(value) for value in plan.settings.spacing)
    _, fields = models.describe(member.model)
    fields.pop("num_classes", None)  # the data say
    config.model = ConfigDict({"name": "unet", "ndim": len(plan.patch_size), **fields})
    config.optim.name, config.optim.lr, config.optim.schedule = "sgd", 1e-2, "poly(power=0.9)"
    config.optim.weight_decay, config.optim.no_decay = 3e-5, "(?!)"  # all parameters are decayed
    config.train.total_steps = max(1, member.epochs * STEPS_AN_EPOCH)
    config.train.dtype = "float32"  # bfloat16 would be another prediction
    config.predict.weight, config.predict.average = "nnunet", "logits"
    config.predict.tta, config.predict.flip_axes = bool(trained.flip_axes), trained.flip_axes
    validation.validate(config)
    return config


def _save_record(
    folder: pathlib.Path, config: ConfigDict, trained: nnunet_folder.Trained, source: str, **more: Any
) -> None:
    plan = trained.plan
    imported = {"folder": source, "trainer": trained.trainer, "configuration": plan.name, **more}
    workdir.save_record(
        folder,
        config,
        patch_size=plan.patch_size,
        dataset=_known(plan)._asdict(),
        settings=plan.settings._asdict(),
        imported=imported,
    )


def _known(plan: Plan) -> build.Facts:
    return build.Facts(
        channels=plan.channels,
        classes=plan.classes,
        label_values=plan.label_values,
        flip_pairs=(),  # nnU-Net's mirrors exchange no labels
        regions=plan.regions,
        ignore_value=plan.ignore_value,
    )
