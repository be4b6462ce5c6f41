"""Weights from elsewhere through the commands: convert, start from them, freeze, go on from another run."""

import importlib.util
import json
import os
import pickle

import clinic
import jax
import numpy as np
import pytest
import torch_files
from ml_collections import ConfigDict

from jaxseg import models, validation
from jaxseg.cli import build, convert, initial, workdir
from jaxseg.train import checkpoint
from jaxseg.train import state as states
from jaxseg.transfer import stored, torch_layout
from jaxseg.typing import UserError

CONFIG = """
from jaxseg.config import base_config, parse_arg

def get_config(arg=None):
    arg = parse_arg(arg, init="", skip="", freeze="", classes=3)
    config = base_config()
    config.data.name, config.data.root = "msd", {root!r}
    config.data.folds, config.data.patch_size = 3, (8, 8, 8)
    config.data.batch_size = 1
    config.model = {{"name": "unet", "ndim": 3, "features": (8, 16, 32), "strides": (1, (1, 2, 2), 2)}}
    config.model.kernels = ((1, 3, 3), (3, 3, 3), (3, 3, 3))
    config.model.deep_supervision = True
    config.augment = "mirror"
    config.optim.warmup_steps = 0
    config.train.total_steps = 2
    config.train.eval_cases = 1
    if arg.init:
        config.init.path = arg.init
    config.init.skip, config.optim.freeze = arg.skip, arg.freeze
    {init}
    return config
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, golden, seeded):
    """A data set, a config, and nnU-Net weights of that network, converted."""
    folder = tmp_path_factory.mktemp("transfer")
    clinic.msd(folder / "data")
    (folder / "experiment.py").write_text(CONFIG.format(root=str(folder / "data"), init=""))
    weights = seeded.state_dict(json.loads((golden / "nnunet_plain_3d.json").read_text()))
    np.savez(folder / "weights.npz", **weights)
    done = clinic.launch(
        "--mode=convert", "--source=nnunet:PlainConvUNet", f"--input={folder / 'weights.npz'}",
        "--field=strides=(1,(1,2,2),2)", f"--output={folder / 'converted'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "UNet with" in done.stdout and "use it with init.path" in done.stdout
    return folder


def config_of(place, name, **init):
    """A config file that sets `config.init = dict(...)` whole, as loaded and locked by the command line."""
    path = place / f"{name}.py"
    path.write_text(CONFIG.format(root=str(place / "data"), init=f"config.init = dict(**{init!r})"))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.lock()
    return path, config


@pytest.mark.parametrize("skip", ["^head", ("^head", "/bias$"), ["^head", "/bias$"]])
def test_init_as_one_dict_with_a_pattern_or_several(place, skip):
    source = {"source": "nnunet:PlainConvUNet", "fields": {"strides": (1, (1, 2, 2), 2)}}
    _, config = config_of(place, "whole", path=str(place / "weights.npz"), skip=skip, **source)
    validation.validate(config)
    assert config.is_locked and (config.init.stem, config.init.inflate) == ("sum", "centre")
    filled, merged = initial.fill(config, zero_state(config), initial.read(config))
    biases = not isinstance(skip, str)
    for path, array in torch_layout.leaves(filled.params):
        skipped = path[1].startswith("head") or (biases and path[-1] == "bias")
        assert ("/".join(path[1:]) in merged.fresh) == skipped != bool(np.abs(array).sum()), path
    assert merged.copied and not merged.unused


def zero_state(config):
    """A state of zeros for the config's network, nothing compiled."""
    known = build.Facts(("MRI",), ("background", "shell", "core"), (0, 1, 2), (), None, None)
    image = np.zeros((1, *config.data.patch_size, 1), np.float32)
    shapes = jax.eval_shape(build.task(config, known).init, jax.random.key(0), image)
    params, extra = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return states.State(np.int32(0), np.int32(1), params, extra, {}, {})


def test_flat_weights_meet_the_strides_of_the_config(place):
    _, config = config_of(place, "inflated", inflate="mean")
    with config.unlocked():
        config.model = {"name": "residual_unet", "ndim": 3, "features": (4, 8), "strides": (2,), "norm": "batch"}
    flat = models.create("residual_unet", features=(4, 8), strides=(2,), norm="batch", num_classes=3)
    shapes = jax.eval_shape(flat.init, jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    filled, merged = initial.fill(config, zero_state(config), ones)
    kernel = filled.params["model"]["decoder_0_up"]["conv"]["kernel"]
    assert "decoder_0_up/conv/kernel" in merged.adapted
    np.testing.assert_allclose(kernel[:, 0, 0, 0, 0], [0.5, 1, 0.5])
    kernel = filled.params["model"]["encoder_0"]["unit_1"]["conv"]["kernel"]
    np.testing.assert_allclose(kernel[:, 0, 0, 0, 0], [1 / 3] * 3)


def test_a_foreign_first_layer_is_named_in_the_config(place):
    _, config = config_of(place, "foreign", path="anywhere", stem_layer="^conv_0/")
    with config.unlocked():
        config.model = {"name": "docs.examples.foreign_networks:MeshNet", "dilations": (1,)}
    validation.validate(config)
    state = zero_state(config)
    weights = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), {"params": state.params["model"]})
    weights["params"]["conv_0"]["kernel"] = np.ones((3, 3, 3, 4, 5), np.float32)
    filled, merged = initial.fill(config, state, weights)
    assert merged.adapted == ("conv_0/kernel",)
    assert np.unique(filled.params["model"]["conv_0"]["kernel"]).tolist() == [4]


def test_a_wrong_init_is_told_by_field(place):
    path, config = config_of(place, "wrong", path="x", skip=["^head", "("], paht="y")
    with pytest.raises(UserError, match=r"init\.skip\[1\] is not a regular.*init has no field paht; "):
        validation.validate(config)
    done = clinic.launch("--mode=train", f"--config={path}", f"--workdir={place / 'wrong_run'}")
    assert done.returncode == 2 and "init.skip[1] is not a regular expression" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    _, config = config_of(place, "number", path="x", skip=[3])
    with pytest.raises(UserError, match=r"init\.skip\[0\] must be a pattern, got 3"):
        validation.validate(config)


def train(place, name, *more, **arguments):
    text = ",".join(f"{key}={value}" for key, value in arguments.items())
    return clinic.launch(
        "--mode=train", f"--config={place / 'experiment.py'}:{text}", f"--workdir={place / name}", *more
    )


def weights_of(workdir):
    checkpoints = checkpoint.Checkpoints(workdir)
    tree = checkpoints.read(checkpoints.pick("latest"))["params"]
    checkpoints.close()
    return dict(torch_layout.leaves(tree))


def test_frozen_layers_keep_the_converted_numbers(place):
    done = train(place, "first", init=place / "converted", freeze="^encoder")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "arrays taken over\n" in done.stdout  # all of them: nothing is initialised or left behind
    _, variables = stored.load(place / "converted")
    before, after = dict(torch_layout.leaves({"model": variables["params"]})), weights_of(place / "first")
    assert before.keys() == after.keys()
    for path, array in after.items():
        if path[1].startswith("encoder"):
            np.testing.assert_array_equal(array, before[path])
        elif path[-1] == "kernel" and path[1] != "head_1":  # the lowest head's weight in the loss is 0
            assert not np.array_equal(array, before[path]), path
    assert "arrays taken over" in json.loads((place / "first" / "config.json").read_text())["init"]


def test_a_run_goes_on_from_another_and_resumes_without_it(place):
    if not (place / "first").exists():
        train(place, "first", init=place / "converted", freeze="^encoder")
    done = train(place, "second", init=place / "first", skip="^head")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "initialised head" in done.stdout and not done.stderr, done.stderr
    # resumed from its own checkpoint: the source may be gone by then
    again = train(place, "second", "--config.train.total_steps=3", init=place / "gone", skip="^head")
    assert again.returncode == 0 and "resuming at step 2 of 3" in again.stdout, again.stdout + again.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"init": "nowhere"}, "init.path nowhere is not there"),
        ({"init": "{place}/weights.npz"}, "is a file: add init.source"),
        ({"init": "{place}/data"}, "is not the workdir of a run"),
        ({"freeze": "^backbone"}, "optim.freeze '^backbone' matches no parameter"),
        ({"freeze": "("}, "optim.freeze is not a regular expression"),
        ({"skip": "^head"}, "init.source and init.skip say how to read init.path, which is not set"),
    ],
)
def test_what_is_wrong_is_one_sentence(place, arguments, message):
    given = {key: value.format(place=place) for key, value in arguments.items()}
    done = train(place, "refused", **given)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not list((place / "refused").glob("checkpoints/*"))


@pytest.mark.parametrize("channels", [1, 2])
def test_convert_records_the_channels_of_any_layout(tmp_path, channels):
    """TensorFlow.js keeps kernels as depth, rows, columns, input, output; MeshNet reads one channel."""
    widths = (channels, 5, 5)
    arrays = {f"conv_{i}/kernel": np.ones((3, 3, 3, width, 5), np.float32) for i, width in enumerate(widths)}
    arrays |= {f"conv_{i}/bias": np.ones(5, np.float32) for i in range(3)}
    arrays |= {"head/kernel": np.ones((1, 1, 1, 5, 3), np.float32), "head/bias": np.ones(3, np.float32)}
    np.savez(tmp_path / "meshnet.npz", **arrays)
    source = "docs.examples.foreign_networks:meshnet"
    asked = workdir.Arguments(
        ConfigDict(), tmp_path, (str(tmp_path / "meshnet.npz"),), str(tmp_path / "new"), None, False,
        source=source, fields=("dilations=(1,2,1)",),
    )  # fmt: skip
    convert.convert(asked)
    assert json.loads((tmp_path / "new" / stored.MODEL).read_text())["in_channels"] == channels


@pytest.mark.parametrize("save", [torch_files.save_zip, torch_files.save_safetensors])
def test_convert_reads_files_of_pytorch_and_safetensors(place, save, tmp_path):
    weights = dict(np.load(place / "weights.npz"))
    file = save(tmp_path / ("weights.pth" if save is torch_files.save_zip else "weights.safetensors"), weights)
    done = clinic.launch(
        "--mode=convert", "--source=nnunet:PlainConvUNet", f"--input={file}", "--field=strides=(1,(1,2,2),2)",
        f"--output={tmp_path / 'new'}", fresh=save is torch_files.save_zip,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    assert f"parameters in {tmp_path / 'new'}; use it with init.path" in done.stdout
    (_, expected), (_, found) = (stored.load(folder) for folder in (place / "converted", tmp_path / "new"))
    expected, found = dict(torch_layout.leaves(expected)), dict(torch_layout.leaves(found))
    assert expected.keys() == found.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array)


def test_convert_runs_no_code_of_a_file(tmp_path):
    ran, file = tmp_path / "ran", tmp_path / "hostile.pth"
    trap = pickle.dumps({"state_dict": {"weight": torch_files.Call(os.system, f"touch {ran}")}}, 2)
    torch_files.write_zip(file, trap)
    done = clinic.launch(
        "--mode=convert", "--source=torchvision:resnet18", f"--input={file}", f"--output={tmp_path / 'new'}"
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stdout + done.stderr
    assert str(file) in done.stderr and "asks for 'posix.system'" in done.stderr
    assert [place.name for place in tmp_path.iterdir()] == ["hostile.pth"]
    pickle.loads(trap)
    assert ran.exists()  # the trap was a live one


def test_convert_refuses_what_does_not_fit(place):
    def convert_with(*flags):
        done = clinic.launch("--mode=convert", *flags)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stdout + done.stderr
        return done.stderr

    file, new = f"--input={place / 'weights.npz'}", f"--output={place / 'new'}"
    assert "needs --input FILE, --output DIR and --source" in convert_with(file, new)
    assert "There is no source of weights named 'x:y'" in convert_with(file, new, "--source=x:y")
    assert "needs strides" in convert_with(file, new, "--source=nnunet:PlainConvUNet")
    assert "NAME=VALUE" in convert_with(file, new, "--source=nnunet:PlainConvUNet", "--field=strides")
    assert "missing conv1.weight" in convert_with(file, new, "--source=torchvision:resnet18")
    assert "There is no file" in convert_with("--input=nowhere.pth", new, "--source=torchvision:resnet18")
    full = f"--output={place / 'converted'}"
    strides = ("--source=nnunet:PlainConvUNet", "--field=strides=(1,(1,2,2),2)")
    assert "is not empty; name a new folder" in convert_with(file, full, *strides)
    assert not (place / "new").exists()


def test_fields_of_a_backbone_reach_it_from_a_config(place):
    text = (place / "experiment.py").read_text()
    start, end = text.index("    config.model ="), text.index("    config.augment")
    model = """    config.model = {"name": "unet", "ndim": 3, "encoder": "resnet18", "features": (2, 2, 2)}
    config.model.encoder_fields = {"blocks": (1, 1), "width": 4}
"""
    (place / "encoder.py").write_text(text[:start] + model + text[end:])
    done = clinic.launch("--mode=train", f"--config={place / 'encoder.py'}", f"--workdir={place / 'encoder'}")
    assert done.returncode == 0, done.stdout + done.stderr
    stem = weights_of(place / "encoder")["model", "backbone", "stem", "conv", "kernel"]
    assert stem.shape == (7, 7, 7, 1, 4)
