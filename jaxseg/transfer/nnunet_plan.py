"""nnU-Net v2's plans.json and dataset.json: how a trained network wants its images, and what its outputs mean.

Everything that would make our prediction another one than nnU-Net's is refused by name; nothing is left to chance.
Source: nnunetv2 2.8.1 (plans_handler, label_handling, default_preprocessor), dynamic_network_architectures 0.4.4.
"""

import copy
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxseg.data.datasets import layouts, nnunet_raw
from jaxseg.data.preprocess import Settings
from jaxseg.typing import UserError

PLANS, DATASET = "plans.json", "dataset.json"
NETWORKS = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
NORMALIZATIONS = {
    "ZScoreNormalization": "zscore",
    "CTNormalization": "ct",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "unit",
    "RGBTo01Normalization": "rgb",
}
STATISTICS = {"mean": "mean", "std": "std", "p005": "percentile_00_5", "p995": "percentile_99_5"}
READERS = {  # of images: the orientation that each gives them
    **{name: "keep" for name in ("SimpleITKIO", "NibabelIO", "Tiff3DIO", "NaturalImage2DIO")},
    "NibabelIOWithReorient": "canonical",
}
FLAT_READER = "NaturalImage2DIO"  # its images have two axes here, and a first one of length 1 in nnU-Net
RESAMPLING, NO_RESAMPLING = "resample_data_or_seg_to_shape", "no_resampling_data_or_seg_to_shape"
# What a network may have beside the sizes of its stages; any other value changes what it computes.
HARMLESS: dict[str, tuple] = {
    **{name: (None,) for name in ("dropout_op", "bottleneck_channels", "stem_channels")},
    **{name: (None, {}) for name in ("dropout_op_kwargs", "block_kwargs")},
    **{name: (None, False) for name in ("nonlin_first", "squeeze_excitation")},
    "stochastic_depth_p": (None, 0, 0.0),
    "squeeze_excitation_reduction_ratio": (None, 1 / 16, 0.0625),
    "norm_op_kwargs": ({"eps": 1e-5, "affine": True}, {"affine": True}),
    "deep_supervision": (True, False),
}
SIZES = ("n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage_decoder", "conv_bias")
NONLINEARITIES = {"LeakyReLU": "leaky_relu", "ReLU": "relu"}


class Network(NamedTuple):
    """A U-Net as the plan has it, in the fields of `models.unet`.

    Attributes:
      source: for `transfer.from_torch`.
      given: fields that the weights do not show (strides, activation).
      shown: fields that the weights show too, to be compared with them.
    """

    source: str
    given: dict[str, Any]
    shown: dict[str, Any]


class Plan(NamedTuple):
    """One configuration of plans.json with its dataset.json; axes are in the network's order.

    Attributes:
      name: of the configuration, such as "3d_fullres".
      network: see Network.
      patch_size: of the network's input, two or three sizes.
      batch_size: of training.
      settings: preprocessing.
      channels: names.
      classes: names by class id, background first.
      label_values: the value of each class in files.
      regions: None for softmax, else the class ids of each sigmoid output, the one it writes first.
      ignore_value: of voxels that did not count, or None.
      file_ending: of the data set's files.
    """

    name: str
    network: Network
    patch_size: tuple[int, ...]
    batch_size: int
    settings: Settings
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    label_values: tuple[int, ...]
    regions: tuple[tuple[int, ...], ...] | None
    ignore_value: int | None
    file_ending: str


def read(folder: pathlib.Path, configuration: str) -> Plan:
    """Reads one configuration of a trained folder.

    Raises:
      UserError: a file is missing or damaged, there is no such configuration, or it asks for what is not done here.
    """
    plans, dataset = read_json(folder / PLANS), read_json(folder / DATASET)
    path = folder / PLANS
    chosen = _completed(_resolved(plans, configuration, path))
    if chosen.get("previous_stage") or chosen.get("previous_stage_name"):
        raise UserError(
            f"The configuration {configuration} of {path} is the second stage of a cascade, which cannot be imported "
            "yet; import 3d_fullres or 3d_lowres."
        )
    _check_classes(plans, chosen, path)
    names = dataset.get("channel_names", dataset.get("modality"))
    channels = layouts.in_order(names, field="channel_names", path=folder / DATASET)
    values, classes, ignore, regions = nnunet_raw.parse_labels(
        _labels(dataset.get("labels")), dataset.get("regions_class_order"), folder / DATASET
    )
    patch = _sizes(chosen.get("patch_size"), "patch_size", path)
    return Plan(
        name=configuration,
        network=_network(chosen.get("architecture"), path, dimensions=len(patch)),
        patch_size=patch,
        batch_size=int(chosen.get("batch_size", 2)),
        settings=_settings(plans, chosen, path, channels=len(channels)),
        channels=channels,
        classes=classes,
        label_values=values,
        regions=regions,
        ignore_value=ignore,
        file_ending=str(dataset.get("file_ending", ".nii.gz")),
    )


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns a JSON file that holds a table.

    Raises:
      UserError: it is missing or damaged.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; nnU-Net writes it into the folder of a trained network.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); copy it again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold a JSON object as nnU-Net writes it, but holds a {type(content).__name__}.")
    return content


def _resolved(plans: Mapping[str, Any], name: str, path: pathlib.Path) -> dict[str, Any]:
    """A configuration with what it takes over from others (`inherits_from`)."""
    table: Any = plans.get("configurations")
    found: dict[str, Any] = {}
    seen: list[str] = []
    if not isinstance(table, dict):
        raise UserError(f"{path} has no configurations; it is not a plans file of nnU-Net v2.")
    current: str | None = name
    while current is not None:
        if current in seen:
            raise UserError(f"{path}: the configuration {name} inherits from itself ({' -> '.join([*seen, current])}).")
        if not isinstance(table.get(current), dict):
            raise UserError(f"{path} has no configuration {current!r}; it has {', '.join(table) or 'none'}.")
        found = {**table[current], **found}
        seen.append(current)
        current = table[current].get("inherits_from")
    return copy.deepcopy(found)


def _completed(chosen: dict[str, Any]) -> dict[str, Any]:
    """Plans of the first nnU-Net v2 spell the network out in other words; brings these into today's."""
    if "architecture" in chosen or "UNet_class_name" not in chosen:
        return chosen
    name, encoder = chosen["UNet_class_name"], chosen.get("n_conv_per_stage_encoder", [])
    dimensions = len(chosen.get("patch_size", ()))
    base, widest = chosen.get("UNet_base_num_features", 32), chosen.get("unet_max_num_features", 320)
    arguments = {
        "n_stages": len(encoder),
        "features_per_stage": [min(base * 2**stage, widest) for stage in range(len(encoder))],
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": chosen.get("conv_kernel_sizes"),
        "strides": chosen.get("pool_op_kernel_sizes"),
        NETWORKS.get(name, "n_conv_per_stage"): encoder,
        "n_conv_per_stage_decoder": chosen.get("n_conv_per_stage_decoder"),
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "nonlin": "torch.nn.LeakyReLU",
    }
    network = f"dynamic_network_architectures.architectures.unet.{name}"
    return {**chosen, "architecture": {"network_class_name": network, "arch_kwargs": arguments}}


def _check_classes(plans: Mapping[str, Any], chosen: Mapping[str, Any], path: pathlib.Path) -> None:
    """Refuses classes of nnU-Net's that somebody has written anew."""
    known = {
        "image_reader_writer": (plans.get("image_reader_writer"), tuple(READERS)),
        "label_manager": (plans.get("label_manager", "LabelManager"), ("LabelManager",)),
        "preprocessor_name": (chosen.get("preprocessor_name", "DefaultPreprocessor"), ("DefaultPreprocessor",)),
    }
    for field, (value, names) in known.items():
        if value not in names:
            raise UserError(f"{path} asks for the {field} {value!r}, and only {', '.join(names)} can be imported.")


def _network(architecture: Any, path: pathlib.Path, *, dimensions: int) -> Network:
    if not isinstance(architecture, dict) or not isinstance(architecture.get("arch_kwargs"), dict):
        raise UserError(
            f"{path} describes no network (architecture with arch_kwargs); it is not a plans file of nnU-Net."
        )
    place, _, name = str(architecture.get("network_class_name")).rpartition(".")
    given = architecture["arch_kwargs"]
    if name not in NETWORKS or not place.startswith("dynamic_network_architectures."):
        raise UserError(
            f"{path} asks for the network {architecture.get('network_class_name')}, and only "
            f"{' and '.join(NETWORKS)} of dynamic_network_architectures can be imported."
        )
    problems = [
        f"{field} = {given.get(field)!r} in place of {expected}"
        for field, expected, right in (
            ("conv_op", f"Conv{dimensions}d", _last(given.get("conv_op")) == f"Conv{dimensions}d"),
            ("norm_op", "InstanceNorm or BatchNorm", _norm(given.get("norm_op"), dimensions) is not None),
            ("nonlin", " or ".join(NONLINEARITIES), _last(given.get("nonlin")) in NONLINEARITIES),
            ("nonlin_kwargs", "a slope of 0.01", _slope(given.get("nonlin_kwargs")) == 0.01),
            ("block", "BasicBlockD", _last(given.get("block", "BasicBlockD")) == "BasicBlockD"),
        )
        if not right
    ]
    read_above = ("conv_op", "norm_op", "nonlin", "nonlin_kwargs", "block", NETWORKS[name], *SIZES)
    for field, value in given.items():
        if field not in read_above and value not in HARMLESS.get(field, (None,)):
            problems.append(f"{field} = {value!r}")
    if problems:
        raise UserError(f"{path} asks for a {name} that cannot be imported, with {'; '.join(problems)}.")
    stages = len(_list(given, "strides", path))
    decoder = _per_stage(given, "n_conv_per_stage_decoder", path, stages - 1)
    strides, kernels = (
        tuple(_wide(value, dimensions) for value in _per_stage(given, field, path, stages))
        for field in ("strides", "kernel_sizes")
    )
    counts = "blocks" if name == "ResidualEncoderUNet" else "convs"
    return Network(
        source=f"nnunet:{name}",
        given={"strides": strides, "activation": NONLINEARITIES[_last(given["nonlin"])]},
        shown={
            "features": _per_stage(given, "features_per_stage", path, stages),
            "kernels": kernels,
            counts: _per_stage(given, NETWORKS[name], path, stages),
            "decoder_convs": decoder[::-1],  # theirs counts from the lowest level up
            "norm": _norm(given.get("norm_op"), dimensions),
        },
    )


def _settings(plans: Mapping[str, Any], chosen: Mapping[str, Any], path: pathlib.Path, *, channels: int) -> Settings:
    normalize, statistics = _normalization(plans, chosen, path, channels)
    flat = plans.get("image_reader_writer") == FLAT_READER
    order = tuple(plans.get("transpose_forward", (0, 1, 2)))
    if sorted(order) != [0, 1, 2]:
        raise UserError(f"{path} should name each of three axes once in transpose_forward, but has {order}.")
    spacing = _sizes(chosen.get("spacing"), "spacing", path, kind=float)
    if flat and (len(spacing) != 2 or order != (0, 1, 2)):
        raise UserError(
            f"{path} has a network in 3D, or another order of axes, for images of two axes ({FLAT_READER})."
        )
    if len(spacing) == 2 and not flat:
        spacing = (None, *spacing)  # slice by slice; the slices stay where they are
    return Settings(
        spacing=spacing if _resamples(chosen, path) else None,
        normalize=normalize,
        statistics=statistics,
        crop=True,
        orientation=READERS[plans["image_reader_writer"]],
        axis_order=None if order == (0, 1, 2) else order,
    )


def _normalization(
    plans: Mapping[str, Any], chosen: Mapping[str, Any], path: pathlib.Path, channels: int
) -> tuple[tuple[str, ...], tuple[dict[str, float] | None, ...]]:
    schemes: Any = chosen.get("normalization_schemes")
    masked: Any = chosen.get("use_mask_for_norm")
    if not all(isinstance(each, list) and len(each) == channels for each in (schemes, masked)):
        raise UserError(
            f"{path} should give normalization_schemes and use_mask_for_norm for each of {channels} channels of "
            f"{DATASET}, but has {schemes!r} and {masked!r}."
        )
    unknown = [scheme for scheme in schemes if scheme not in NORMALIZATIONS]
    if unknown:
        raise UserError(
            f"{path} asks for the normalisation {unknown[0]!r}, and only {', '.join(NORMALIZATIONS)} can be imported."
        )
    properties: Any = plans.get("foreground_intensity_properties_per_channel")
    properties = plans.get("foreground_intensity_properties_by_modality") if properties is None else properties
    kinds, statistics = [], []
    for channel, (scheme, in_mask) in enumerate(zip(schemes, masked, strict=True)):
        kind = NORMALIZATIONS[scheme]
        kinds.append("zscore_mask" if kind == "zscore" and in_mask else kind)
        try:
            own = {ours: float(properties[str(channel)][theirs]) for ours, theirs in STATISTICS.items()}
        except (KeyError, TypeError) as error:
            if kind == "ct":
                raise UserError(
                    f"{path} normalises channel {channel} as CT, but its foreground_intensity_properties_per_channel "
                    f"lack {', '.join(STATISTICS.values())} of it."
                ) from error
            own = None
        statistics.append(own if kind == "ct" else None)
    return tuple(kinds), tuple(statistics)


def _resamples(chosen: Mapping[str, Any], path: pathlib.Path) -> bool:
    """Whether images are resampled, and logits likewise; refuses other ways to do so than nnU-Net's own."""
    found = []
    for field, order in (("resampling_fn_data", 3), ("resampling_fn_probabilities", 1)):
        function, options = chosen.get(field, RESAMPLING), chosen.get(f"{field}_kwargs") or {}
        known = {
            "is_seg": (False,),
            "order": (order,),
            "order_z": (0,),
            "force_separate_z": (None,),
            "separate_z_anisotropy_threshold": (3, 3.0),
        }
        other = [f"{name}={value!r}" for name, value in options.items() if value not in known.get(name, ())]
        if function not in (RESAMPLING, NO_RESAMPLING) or (function == RESAMPLING and other):
            raise UserError(
                f"{path} resamples by {field} = {function}({', '.join(other)}), and only {RESAMPLING} with nnU-Net's "
                f"own options (order {order}, order_z 0) or none can be imported."
            )
        found.append(function == RESAMPLING)
    if found[0] != found[1]:
        raise UserError(f"{path} resamples images but not logits, or the other way round, which cannot be imported.")
    return found[0]


def _labels(labels: Any) -> Any:
    """The table of labels with lists of one number as that number: they alone make no regions."""
    if not isinstance(labels, dict) or any(isinstance(value, list) and len(value) > 1 for value in labels.values()):
        return labels
    return {name: value[0] if isinstance(value, list) and value else value for name, value in labels.items()}


def _last(dotted: Any) -> str:
    return str(dotted).rpartition(".")[2]


def _norm(dotted: Any, dimensions: int) -> str | None:
    return {f"InstanceNorm{dimensions}d": "instance", f"BatchNorm{dimensions}d": "batch"}.get(_last(dotted))


def _slope(options: Any) -> float:
    """The slope of a LeakyReLU below zero, as its options leave it; another option counts as another slope."""
    options = dict(options or {})
    options.pop("inplace", None)
    slope = options.pop("negative_slope", 0.01)
    return float("nan") if options else slope


def _list(given: Mapping[str, Any], field: str, path: pathlib.Path) -> Sequence[Any]:
    if not isinstance(given.get(field), list) or len(given[field]) < 2:
        raise UserError(f"{path} should list {field} stage by stage, but has {given.get(field)!r}.")
    return given[field]


def _per_stage(given: Mapping[str, Any], field: str, path: pathlib.Path, stages: int) -> tuple:
    """One entry a stage; a single number stands for all."""
    values = given.get(field)
    values = [values] * stages if isinstance(values, int) else values
    if not isinstance(values, list) or len(values) != stages:
        raise UserError(f"{path} should give {field} for {stages} stages, but has {values!r}.")
    return tuple(values)


def _wide(value: Any, dimensions: int) -> tuple[int, ...]:
    return (value,) * dimensions if isinstance(value, int) else tuple(value)


def _sizes(values: Any, field: str, path: pathlib.Path, kind: type = int) -> tuple:
    if (
        not isinstance(values, list)
        or len(values) not in (2, 3)
        or not all(isinstance(value, int | float) and value > 0 for value in values)
    ):
        raise UserError(f"{path} should give {field} as two or three positive numbers, but has {values!r}.")
    return tuple(kind(value) for value in values)
