"""--mode export: a trained workdir becomes one file that segments images without jaxseg."""

import hashlib
import io
import json
import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import numpy as np
from ml_collections import ConfigDict

import jaxseg
from jaxseg import config as configs
from jaxseg import paths, predict
from jaxseg.cli import agents, buckets, build, images, inference, workdir
from jaxseg.data import preprocess, writers
from jaxseg.data.datasets import inputs
from jaxseg.predict import load as loader
from jaxseg.predict.programs import Bucket, Programs, Rules, programs
from jaxseg.predict.sliding_window import window_starts
from jaxseg.typing import UserError

LOADER = "load.py"
MANIFEST, WEIGHTS, STARTS = "manifest.json", "weights/", "starts.json"
MADE = (1980, 1, 1, 0, 0, 0)  # date of every part, so that the same model gives the same file
VERSION = 1


def export(arguments: workdir.Arguments) -> None:
    """Writes --output, and the loader beside it; with --input, compares the file's mask with that of `predict`.

    Raises:
      UserError: flags are missing, the run is of a kind that no program holds, or a file exists.
    """
    if not arguments.output or len(arguments.inputs) > 1:
        raise UserError(
            "--mode export needs --workdir and --output, a file such as model.jaxseg; one --input FILE checks it."
        )
    check(arguments.config, arguments.workdir)
    if arguments.config.export.format == "onnx":
        from jaxseg.cli import onnx

        onnx.run(arguments)
        return
    output = pathlib.Path(arguments.output)
    refuse_existing(output, arguments.overwrite)
    trained = load(arguments)
    parts, about = contents(trained, arguments.workdir)
    write(output, {MANIFEST: json.dumps(about, indent=1).encode(), **parts, LOADER: _loader()}, arguments.overwrite)
    for room in about["buckets"]:
        print(f"bucket {room['name']}: {times(room['grid'])} voxels of images up to {times(room['image'])}")
    print(
        f"{output} ({output.stat().st_size / 2**20:.1f} MB, checkpoint {trained.step} of {arguments.workdir}); "
        f"python {output.with_name(LOADER)} {output} IMAGE MASK runs it"
    )
    if arguments.inputs:
        print(compare(output, trained, arguments.inputs[0]))


def check(config: ConfigDict, folder: paths.Path) -> None:
    """Raises a UserError, with what to do, where a run is more than one network that segments."""
    refused = ""
    if configs.is_ensemble(config):
        refused = f"it is an ensemble; export its members, as in --workdir {folder}/member_0 --average ..._1, or one"
    elif config.task == "instance" or config.predict.watershed:
        refused = "it tells objects apart, which is work of the host; export a semantic run, without predict.watershed"
    elif images.makes_images(config):
        refused = f"it makes images (task={config.task!r}); export a run with task='semantic'"
    elif agents.is_agent(config):
        refused = f"its network acts step by step (task={config.task!r}); export a run with task='semantic'"
    elif config.data.previous:
        refused = "its network follows an earlier run (data.previous), whose masks it needs; export that one"
    elif config.predict.postprocess:
        refused = (
            f"its masks are cleaned on the host (predict.postprocess={config.predict.postprocess!r}), which no program "
            "does; add --set predict.postprocess='' and clean the masks yourself where that matters"
        )
    if refused:
        raise UserError(f"{folder} cannot be exported as it is: {refused}.")


def load(arguments: workdir.Arguments) -> inference.Trained:
    """Restores the networks; their config then computes in the type that the programs shall.

    Raises:
      UserError: there is none, or they are of different kinds.
    """
    trained = inference.load(arguments.workdir, arguments.config, others=arguments.average)
    check(trained.config, arguments.workdir)
    if not trained.networks:
        raise UserError(
            "One file holds networks of one kind that see the same windows, but --average names others; export each "
            "by itself."
        )
    # Of a run of all folds, the config is that of the first.
    trained.config.export = arguments.config.export
    trained.config.train.dtype = arguments.config.export.dtype
    return trained


def contents(trained: inference.Trained, folder: paths.Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Returns the parts of the file by name, and what the manifest says of them."""
    common = rules(trained)
    task = build.task(trained.config, trained.known, logits=common.logits)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), trained.networks[0])
    names, structure = list(_flat(shapes)), jax.tree.structure(shapes)

    def predict_fn(variables, image):
        return task.predict(jax.tree.unflatten(structure, [variables[name] for name in names]), image)

    parts = {f"{WEIGHTS}{number}.npz": _weights(one) for number, one in enumerate(trained.networks)}
    rooms, starts = [], {}
    for number, room in enumerate(buckets.choose(trained, folder)):
        made = programs(predict_fn, _flat(shapes), common, room)
        parts |= _exported(made, f"programs/{number}", tuple(trained.config.export.platforms))
        rooms.append({"name": str(number), "image": room.image, "grid": room.grid, "slab": made.slab})
        starts[str(number)] = _starts(room, common.window, trained.config.predict.overlap)
    parts[STARTS] = json.dumps(starts).encode()
    about = {
        "format": VERSION,
        "calling_convention": jax.export.maximum_supported_calling_convention_version,
        "platforms": list(trained.config.export.platforms),
        **facts(trained),
        "buckets": rooms,
        "sha256": {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()},
    }
    return parts, about


def rules(trained: inference.Trained) -> Rules:
    config, known = trained.config, trained.known
    options = build.predict_options(config)
    return Rules(
        settings=preprocess.settings_from_json(trained.record["settings"]),
        channels=len(known.channels),
        outputs=len(known.regions or known.classes),
        label_values=known.label_values,
        regions=known.regions,
        logits=config.predict.average == "logits",
        flip_pairs=build.output_pairs(known),
        **{name: options[name] for name in ("window", "weight", "batch_size", "flip_axes")},
    )


def _flat(tree: Any) -> dict[str, Any]:
    """Returns the arrays of nested dicts by their path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _weights(network: Any) -> bytes:
    """The arrays of one network by their path: stored once, whatever the number of programs."""
    file = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in _flat(network).items()}
    np.savez(file, **arrays)
    return file.getvalue()


def _exported(made: Programs, folder: str, platforms: tuple[str, ...]) -> dict[str, bytes]:
    """Lowers the programs of a bucket for all platforms at once; none of them holds a weight."""
    functions: dict[str, Callable] = {"prepare": made.prepare, "look": made.look, "finish": made.finish}
    lowered = {
        name: jax.export.export(jax.jit(function), platforms=platforms)(*made.arguments[name])
        for name, function in functions.items()
    }
    try:
        return {f"{folder}/{name}.bin": bytes(program.serialize()) for name, program in lowered.items()}
    except ImportError as error:
        raise UserError("JAX writes programs with the package flatbuffers; pip install flatbuffers.") from error


def _starts(room: Bucket, window: Sequence[int], overlap: float) -> list[list[tuple[int, ...]]]:
    """Returns where windows begin: for each axis, for each size that an image may have on the grid, from 1 on."""
    thick = (1,) * (len(room.grid) - len(window)) + tuple(window)
    return [
        [window_starts(max(size, length), length, overlap=overlap) for size in range(1, most + 1)]
        for most, length in zip(room.grid, thick)
    ]


def facts(trained: inference.Trained) -> dict[str, Any]:
    """Returns what a user of the networks must know, as JSON has it; no path of this machine."""
    config, known, record, common = trained.config, trained.known, trained.record, rules(trained)
    of_image = ("spacing", "orientation", "axis_order", "crop", "normalize", "statistics")
    return {
        "versions": {"jaxseg": jaxseg.__version__, "jax": jax.__version__},
        "classes": known.classes,
        "values": known.label_values,
        "regions": known.regions,
        "channels": known.channels,
        **{name: getattr(common.settings, name) for name in of_image},
        "outputs": common.outputs,
        "averages": config.predict.average,
        "window": common.window,
        "overlap": config.predict.overlap,
        "weight": common.weight,
        "batch_size": common.batch_size,
        "flips": len(common.flip_axes),
        "flip_axes": common.flip_axes,
        "networks": len(trained.networks),
        "dtype": config.export.dtype,
        "model": config.model.to_dict(),
        "trained": {
            "step": trained.step,
            **{name: record.get(name) for name in ("created", "versions", "device")},
            "data": config.data.name,
            "fold": config.data.fold,
        },
    }


def _loader() -> bytes:
    return pathlib.Path(str(loader.__file__)).read_bytes()


def refuse_existing(output: pathlib.Path, overwrite: bool) -> None:
    """Before the long part."""
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; name a file, such as {output / 'model.jaxseg'}.")
    if output.name == LOADER:
        raise UserError(f"{LOADER} is what the loader is called that is put beside --output; name it otherwise.")
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists already; name another --output, or add --overwrite.")


def write(output: pathlib.Path, parts: Mapping[str, bytes], overwrite: bool) -> None:
    """Writes the parts as one file, and the loader beside it, unless that would replace somebody's own `load.py`."""
    with writers.replacing(output, overwrite=overwrite) as partial, zipfile.ZipFile(partial, "w") as file:
        for name, content in parts.items():
            packed = zipfile.ZIP_STORED if name.startswith(WEIGHTS) else zipfile.ZIP_DEFLATED
            file.writestr(zipfile.ZipInfo(name, MADE), content, compress_type=packed)
    beside, first_line = output.with_name(LOADER), parts[LOADER].partition(b"\n")[0]
    if beside.exists() and not beside.read_bytes().startswith(first_line):
        print(f"{beside} is another file and stays; the loader is {LOADER} inside {output}, which is a zip")
        return
    with writers.replacing(beside, overwrite=True) as partial:
        partial.write_bytes(parts[LOADER])


def compare(output: pathlib.Path, trained: inference.Trained, path: str) -> str:
    """Returns how far the file's mask of one image is that of `predict`, as a sentence."""
    cases = inputs.list_inputs(path, channels=len(trained.known.channels))
    if len(cases) != 1:
        raise UserError(f"--input of --mode export is one image to check the file with, but {path} has {len(cases)}.")
    volume = inputs.read_case(cases[0])
    try:
        found = loader.load(output)(volume.data, volume.spacing, volume.affine)
    except ValueError as error:
        raise UserError(f"{output} is written, but does not take {path}: {error}") from error
    expected = predict.label_map(trained.predict(volume).labels, trained.known.label_values)
    same = int((found == expected).sum())
    return f"{same} of {expected.size} voxels of {path} ({same / expected.size:.4%}) are as --mode predict has them"


def times(shape: Sequence[int]) -> str:
    """Returns a shape as messages have it."""
    return "x".join(map(str, shape))
