"""A folder that nnU-Net v2 trained (plans.json, dataset.json, fold_0/checkpoint_final.pth, ...), with its networks."""

import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxseg import transfer
from jaxseg.transfer import nnunet_plan
from jaxseg.transfer.nnunet_plan import Network, Plan
from jaxseg.typing import UserError

CHECKPOINT = "checkpoint_final.pth"
FOLD = re.compile(r"fold_(\d+|all)")
TRAINER = "nnUNetTrainer"
# What nnU-Net's own trainers are called behind that, N for any number: they differ in loss, augmentation and schedule,
# not in the network; but for BN, whose norm the weights show.
_OWN = """
BN Adam Adam1en3 Adam3en4 Adan Adan1en1 Adan1en3 Adan3en4 AdanCosAnneal Benchmark_N Benchmark_N_noDataLoading CELoss
CELoss_N CosAnneal DA5 DA5_N DA5Segord0 DA5ord0 DiceCELoss_noSmooth DiceLoss DiceTopK10Loss NoDA NoDeepSupervision
NoMirroring Topk10Loss Topk10LossLS01 VanillaAdam VanillaAdam1en3 VanillaAdam3en4 _DASegOrd0 _DASegOrd0_NoMirroring _N
_N_NoMirroring _noDummy2DDA _onlyMirror01 _onlyMirror01_N _onlyMirror01_DA5 _onlyMirror01_DASegOrd0
_probabilisticOversampling _probabilisticOversampling_N _warmup
"""
TRAINERS = frozenset(("", *_OWN.split()))
NUMBER = re.compile(r"_\d+(ep(ochs?)?)?(?=_|$)")


class Member(NamedTuple):
    """One trained fold.

    Attributes:
      fold: its number, or "all".
      path: of the checkpoint.
      model, variables: of `transfer.from_torch`.
      epochs: that it was trained for; 0 where the checkpoint does not say.
    """

    fold: str
    path: pathlib.Path
    model: Any
    variables: dict[str, Any]
    epochs: int


class Trained(NamedTuple):
    """What nnU-Net's predictor would use.

    Attributes:
      trainer: name of the class that trained.
      plan: see `nnunet_plan.Plan`.
      flip_axes: of the network's input, over which predictions are averaged.
      members: the folds.
    """

    trainer: str
    plan: Plan
    flip_axes: tuple[int, ...]
    members: tuple[Member, ...]


def read(
    folder: Any, *, folds: Sequence[int | str] | None = None, checkpoint: str = CHECKPOINT, trainer: str | None = None
) -> Trained:
    """Reads a trained folder without running any code in it.

    Args:
      folder: nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION.
      folds: numbers, or "all"; None: every numbered one that has the checkpoint, else fold_all.
      checkpoint: name of the file in each fold.
      trainer: says which trainer's network it is, where the name in the checkpoint is not known here.

    Raises:
      UserError: files are missing or damaged, or they ask for something that would not be predicted as nnU-Net does.
    """
    folder = pathlib.Path(folder)
    _check_place(folder)
    paths = _checkpoints(folder, folds, checkpoint)
    members, first, plan = [], {}, None
    for fold, path in paths.items():
        weights, beside = transfer.read_checkpoint(path)
        if plan is None:
            first = _facts(folder, beside)
            _check_trainer(trainer or first["trainer"], path)
            plan = nnunet_plan.read(folder, first["configuration"])
        model, variables = _convert(weights, plan, path, folder / nnunet_plan.PLANS)
        epochs = beside.get("current_epoch")
        members.append(Member(fold, path, model, variables, epochs if isinstance(epochs, int) else 0))
    assert plan is not None  # there is at least one path
    axes = first["mirroring"]
    if not set(axes) <= set(range(len(plan.patch_size))):
        raise UserError(f"{members[0].path} mirrors along the axes {axes}, which a {plan.name} network does not have.")
    return Trained(first["trainer"], plan, axes, tuple(members))


def _check_place(folder: pathlib.Path) -> None:
    if not folder.is_dir():
        raise UserError(
            f"{folder} should be the folder of a trained nnU-Net (TRAINER__PLANS__CONFIGURATION), but is "
            f"{'a file' if folder.exists() else 'not there'}."
        )
    if (folder / nnunet_plan.PLANS).exists():
        return
    near = [folder.parent] if (folder.parent / nnunet_plan.PLANS).exists() else []
    near += sorted(path.parent for path in folder.glob(f"*/{nnunet_plan.PLANS}"))
    fix = f"name {' or '.join(map(str, near[:4]))}" if near else "copy the whole folder that nnU-Net has written"
    raise UserError(f"{folder} has no {nnunet_plan.PLANS}; {fix}.")


def _checkpoints(folder: pathlib.Path, folds: Sequence[int | str] | None, checkpoint: str) -> dict[str, pathlib.Path]:
    """The checkpoint of each fold, in order."""
    found = {match[1]: path for path in folder.iterdir() if path.is_dir() and (match := FOLD.fullmatch(path.name))}
    there = {fold: path / checkpoint for fold, path in found.items() if (path / checkpoint).is_file()}
    if not there:
        others = sorted({file.name for path in found.values() for file in path.glob("*.pth")})
        fix = f"add --field checkpoint={others[0]}" if others else "train a fold with nnU-Net, or copy one here"
        raise UserError(f"{folder} has no fold with a {checkpoint} ({folder}/fold_0/{checkpoint}); {fix}.")
    if folds is None:
        numbered = sorted((fold for fold in there if fold.isdigit()), key=int)
        return {fold: there[fold] for fold in numbered or ["all"]}
    missing = [str(fold) for fold in folds if str(fold) not in there]
    if missing or not folds:
        raise UserError(
            f"{folder} has no {checkpoint} of fold {', '.join(missing) or '(none named)'}; it has that of "
            f"{', '.join(sorted(there))}."
        )
    return {str(fold): there[str(fold)] for fold in folds}


def _facts(folder: pathlib.Path, beside: Mapping[str, Any]) -> dict[str, Any]:
    """Trainer, configuration and flips, as the checkpoint says, else as the folder is called."""
    parts = folder.resolve().name.split("__")
    arguments = beside.get("init_args")
    configuration = arguments.get("configuration") if isinstance(arguments, dict) else None
    trainer = beside.get("trainer_name")
    if len(parts) != 3 and not (isinstance(configuration, str) and isinstance(trainer, str)):
        raise UserError(
            f"The checkpoint does not name its trainer and configuration, and {folder} is not called "
            "TRAINER__PLANS__CONFIGURATION; give the folder the name that nnU-Net gave it."
        )
    axes = beside.get("inference_allowed_mirroring_axes") or ()
    return {
        "trainer": trainer if isinstance(trainer, str) else parts[0],
        "configuration": configuration if isinstance(configuration, str) else parts[2],
        "mirroring": tuple(int(axis) for axis in axes),
    }


def _check_trainer(name: str, path: pathlib.Path) -> None:
    kind = NUMBER.sub("_N", name.removeprefix(TRAINER))
    if not name.startswith(TRAINER) or kind not in TRAINERS:
        raise UserError(
            f"{path} was trained by {name}, whose network is not known here; if it is the one of the plans file, add "
            f"--field trainer={TRAINER}."
        )


def _convert(weights: Mapping[str, Any], plan: Plan, path: pathlib.Path, plans: pathlib.Path) -> tuple[Any, dict]:
    """The network of the plan with a checkpoint's weights.

    Raises:
      UserError: they do not fit each other, in one sentence with what differs.
    """
    network = plan.network
    try:
        model, variables = transfer.from_torch(weights, network.source, **network.given)
    except UserError as error:
        raise UserError(f"{path} does not fit {plans}: {error}") from error
    stem = next(array.shape[1] for array in weights.values() if array.ndim >= 4)  # it comes first
    differing = list(_differing(network, model))
    outputs = len(plan.regions or plan.classes)
    differing += _unless(model.num_classes, outputs, "outputs") + _unless(stem, len(plan.channels), "input channels")
    if differing:
        raise UserError(f"{path} does not fit {plans} and {nnunet_plan.DATASET}: {'; '.join(differing)}.")
    return model, variables


def _differing(network: Network, model: Any) -> Iterator[str]:
    for field, planned in network.shown.items():
        # The trainer may have put batch norm in place of the planned norm: the weights show that.
        if field != "norm":
            yield from _unless(getattr(model, field), planned, field)


def _unless(found: Any, planned: Any, what: str) -> list[str]:
    return [] if found == planned else [f"{what} {found} in the checkpoint, {planned} in the plan"]
