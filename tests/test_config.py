"""Configs: every file builds, every problem is told at once."""

import importlib.util
import math
import pathlib

import jax
import jax.numpy as jnp
import pytest

from jaxseg import config as configs
from jaxseg import models, registry, validation
from jaxseg.cli import member
from jaxseg.typing import UserError

FILES = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("arg", [None, "debug"])
def test_every_config_is_valid(path, arg):
    config = load(path).get_config(arg)
    if config.data.name is None:
        config.data.name = "msd"
    validation.validate(config)
    assert f"python launch.py --config configs/{path.name}" in load(path).__doc__


VOLUMES = ("vnet", "segresnet")  # published for volumes: 3D unless somebody says otherwise


@pytest.mark.parametrize("name, ndim", [*((name, 2) for name in configs.NETWORKS), *((name, 3) for name in VOLUMES)])
def test_every_small_network_is_one_of_the_models(name, ndim):
    default = configs.network(name).to_dict()
    assert default["ndim"] == (3 if name in VOLUMES else 2)
    fields = configs.network(name, ndim=ndim).to_dict()
    assert fields == member.network(name, ndim=ndim).to_dict() == {**default, "ndim": ndim}
    model = models.create(fields.pop("name"), num_classes=4, **fields)
    image = jax.ShapeDtypeStruct((1, *(32, 64, 16)[:ndim], 3), jnp.float32)
    (logits, _), variables = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    assert logits.shape == (*image.shape[:-1], 4)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) < 3_000_000


def test_an_unknown_small_network_is_told():
    with pytest.raises(UserError, match="no small network 'unett'; there are unet, "):
        configs.network("unett")


def test_problems_of_weights_and_rates_are_told():
    config = configs.base_config()
    config.data.name, config.train.total_steps = "msd", 1
    config.init.skip, config.init.stem = "(", "first"
    config.optim.lr_factors = (("^head", 2.0), ("(", 1.0), ("lonely",))
    config.optim.freeze = "["
    with pytest.raises(UserError) as caught:
        validation.validate(config)
    for text in ("init.path, which is not set", "init.stem must be sum or repeat", "init.skip is not a regular",
                 "optim.freeze is not a regular", "lr_factors '(' is not a regular", "got ('lonely',)"):  # fmt: skip
        assert text in str(caught.value)


def test_all_problems_are_reported_together():
    config = configs.base_config()
    config.data.fold = "9"
    config.data.patch_size = (8, 8)
    config.optim.lr = -1.0
    config.parallel.kind = "magic"
    with pytest.raises(UserError) as caught:
        validation.validate(config)
    text = str(caught.value)
    for field in ("train.total_steps", "data.name", "data.fold", "data.patch_size", "optim.lr", "parallel.kind"):
        assert field in text


def test_problems_of_prediction_are_told():
    config = configs.base_config()
    config.data.name, config.train.total_steps = "msd", 5
    config.data.axis_order, config.predict.flip_axes = (2, 0, 1), (0, 2)
    config.predict.weight, config.predict.average = "nnunet", "logits"
    validation.validate(config)
    config.data.axis_order, config.predict.flip_axes = (2, 0), (0, 3)
    config.predict.weight, config.predict.average = "triangle", "votes"
    config.predict.memory_gib = -1.0
    with pytest.raises(UserError) as caught:
        validation.validate(config)
    for field in ("data.axis_order", "predict.flip_axes", "predict.weight", "predict.average", "predict.memory_gib"):
        assert field in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"predict.format": "seg"}, "predict.format must be same or some of nifti, dicom_seg, rtstruct"),
        ({"predict.format": "same|nifti"}, "predict.format must be same or some of"),
        ({"predict.format": "nifti,nifti"}, "predict.format must be same or some of"),
        ({"predict.format": ""}, "predict.format must be same or some of"),
        ({"task": "instance", "model.name": "mask_rcnn"}, "predict.format is of class maps; leave it at 'same'"),
        ({"data.terms": "liver"}, "data.terms cannot be read: 'liver' should read class = SCHEME:VALUE:MEANING"),
    ],
)
def test_problems_of_formats_and_terms_are_told(fields, message):
    config = configs.base_config()
    config.data.name, config.train.total_steps = "msd", 5
    config.predict.format, config.data.terms = "dicom_seg | rtstruct", "liver = SCT:10200004:Liver"
    validation.validate(config)
    assert validation.formats(config.predict.format) == ("dicom_seg", "rtstruct")
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError) as caught:
        validation.validate(config)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data.extra": ("a", 3)}, "data.extra must be a tuple of folders of made images, such as ('runs/made',), got"),
        ({"data.extra": ("a", "")}, "data.extra must be a tuple of folders"),
        ({"data.extra": ("a", "b", "a")}, "data.extra names a folder twice: a, b, a"),
        ({"data.extra_share": 1.0}, "data.extra_share is a fraction from 0 to below 1, got 1.0"),
        ({"data.extra_share": -0.5}, "data.extra_share is a fraction from 0 to below 1, got -0.5"),
        ({"data.extra": ("a",), "task": "instance"}, "leave it empty where task='instance'"),
        ({"data.extra": ("a",), "data.previous": "runs/low"}, "leave data.extra or data.previous out"),
    ],
)
def test_problems_of_made_images_are_told(fields, message):
    config = configs.base_config()
    config.data.name, config.train.total_steps = "msd", 5
    config.data.extra, config.data.extra_share = ("a", "b"), 0.3
    validation.validate(config)
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError) as caught:
        validation.validate(config)
    assert message in str(caught.value)


def test_two_durations_are_refused():
    config = configs.base_config()
    config.data.name = "msd"
    config.train.total_steps = 5
    config.train.total_minutes = 1.0
    with pytest.raises(UserError, match="exactly one of"):
        validation.validate(config)


def test_parse_arg():
    arg = configs.parse_arg("debug,minutes=2.5,name=abc", debug=False, minutes=10.0, name="")
    assert arg.debug is True and arg.minutes == 2.5 and arg.name == "abc"
    assert configs.parse_arg(None, debug=False).debug is False
    with pytest.raises(UserError, match="no argument 'debgu'"):
        configs.parse_arg("debgu", debug=False)


def test_registry_names_the_nearest():
    table = {"dice_loss": "jaxseg.losses:dice_loss", "focal_loss": "jaxseg.losses:focal_loss"}
    with pytest.raises(UserError, match="did you mean dice_loss"):
        registry.resolve("dice_lose", table, kind="loss")
    assert registry.resolve("math:sqrt", table, kind="loss")(4.0) == 2.0
    with pytest.raises(UserError, match="cannot be imported"):
        registry.resolve("math:nothing", table, kind="loss")


@pytest.mark.parametrize("text", ["f(1)", "f(a=", "(a=1)", "f(a=b)"])
def test_bad_calls_are_told(text):
    with pytest.raises(UserError, match="should read name"):
        registry.parse_call(text)


def test_spacing_forms():
    config = configs.base_config()
    assert configs.spacing_of(config) == "keep"
    config.data.spacing = "1.5,1,1"
    assert configs.spacing_of(config) == (1.5, 1.0, 1.0)
    config.data.spacing = "0,1,1"
    with pytest.raises(UserError, match="positive mm"):
        validation.validate(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"coordinator": "10.0.0.1:8476"}, "needs parallel.processes and parallel.process beside it"),
        ({"processes": 2}, "parallel.processes > 1 needs parallel.coordinator"),
        ({"coordinator": "10.0.0.1", "processes": 2, "process": 0}, "must be address:port, such as 10.0.0.1:8476"),
        ({"coordinator": "10.0.0.1:1", "processes": 2, "process": 2}, "parallel.process must be 0 to 1, got 2"),
        ({"heartbeat_seconds": 1}, "parallel.heartbeat_seconds must be at least 10"),
    ],
)
def test_problems_of_several_processes_are_told(fields, message):
    config = configs.base_config()
    config.data.name, config.train.total_steps = "msd", 1
    config.parallel.update(fields)
    with pytest.raises(UserError, match=message):
        validation.validate(config)
