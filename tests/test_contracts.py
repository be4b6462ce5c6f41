"""One battery over every network of the table: shapes, jit equals eager, finite gradients, bfloat16, both ranks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses, models, tasks, transfer
from jaxseg.models.classifier import Classifier
from jaxseg.models.q_network import QNetwork
from jaxseg.transfer import torch_layout
from jaxseg.typing import UserError

RESNET = {"blocks": (1, 1, 1, 1), "width": 4}
ON_RESNET = {"backbone": "resnet18", "backbone_fields": RESNET}
# One tiny variant a network, of each rank that it has; a new entry of the table must appear here.
TINY = {
    "attention_unet": [{"ndim": n, "features": (4, 8)} for n in (2, 3)],
    "classifier": [{"ndim": 2, **ON_RESNET}],
    "deeplabv3": [{"ndim": 2, **ON_RESNET, "features": 8, "auxiliary": True, "dropout": 0.0}],
    "deeplabv3plus": [
        {"ndim": 2, **ON_RESNET, "features": 8, "low_level_features": 4, "norm": "group4", "dropout": 0.0},
        {"ndim": 3, **ON_RESNET, "features": 4, "norm": "group4", "dropout": 0.0, "separable": False, "rates": (2,)},
    ],
    "fcn": [{"ndim": 2, "width": 2, "fc_features": 4, "norm": "batch", "dropout": 0.0}],
    "fcn_resnet": [{"ndim": 2, **ON_RESNET}],
    "fpn": [{"ndim": 2, **ON_RESNET, "features": 8, "segmentation_features": 4, "segmentation_norm": "group4"}],
    "logistic": [{"ndim": n} for n in (2, 3)],
    "monai_vnet": [{"ndim": 2, "features": (4, 8), "encoder_convs": (1, 1), "decoder_convs": (1,)}],
    "pixel_actor_critic": [{"ndim": n, "features": 4} for n in (2, 3)],
    "pixel_features": [{"ndim": n, "features": (4,)} for n in (2, 3)],
    "q_network": [{"ndim": n, "features": (4, 8), "hidden": 8} for n in (2, 3)],
    "residual_unet": [{"ndim": n, "features": (4, 8), "strides": (2,)} for n in (2, 3)],
    "segnet": [{"ndim": 2, "convs": (1, 2), "width": 4}, {"ndim": 3, "convs": (1,), "width": 4}],
    "segresnet": [{"ndim": n, "blocks_down": (1, 1), "blocks_up": (1,)} for n in (2, 3)],
    "stacking_conv": [{"ndim": n, "features": 4} for n in (2, 3)],
    "unet": [
        {"ndim": 2, "features": (4, 8)},
        {"ndim": 3, "features": (4, 8)},
        {"ndim": 2, "encoder": "resnet18", "encoder_fields": RESNET, "features": (2, 2, 4, 4, 4)},
    ],
    "unet2015": [{"ndim": 2, "features": (4, 8)}],
    "unetplusplus": [{"ndim": n, "features": (4, 8, 8)} for n in (2, 3)],
    "vnet": [{"ndim": n, "features": (4, 8), "encoder_convs": (1, 1), "decoder_convs": (1,)} for n in (2, 3)],
}
VARIANTS = [(name, fields) for name, variants in TINY.items() for fields in variants]
CLASSES = 3
OF_IMAGES = (Classifier, QNetwork)  # K numbers an image, not a pixel
ELSEWHERE = {"mask_rcnn"}  # gives detections, not logits: its own battery is tests/models/test_mask_rcnn.py


def test_every_network_is_covered():
    assert set(models.names()) == set(TINY) | ELSEWHERE


def label_of(variant) -> str:
    name, fields = variant
    return f"{name}{'-encoder' if 'encoder' in fields else ''}-{fields['ndim']}d"


@functools.cache
def initialised(place):
    """(name, fields, model, image, its variables) of VARIANTS[place], made once for all tests."""
    name, fields = VARIANTS[place]
    model = models.create(name, num_classes=CLASSES, **fields)
    size = (8, 12, 16)[: fields["ndim"]]
    if any(length % step for length, step in zip(size, models.divisor(model))):
        size = (32, 64)
    shape = (2, *size, 1)
    image = jax.random.normal(jax.random.key(0), shape)
    variables = jax.jit(model.init, static_argnames="train")(jax.random.key(1), image, train=False)
    return name, fields, model, image, variables


@pytest.fixture(params=range(len(VARIANTS)), ids=lambda place: label_of(VARIANTS[place]))
def variant(request):
    return initialised(request.param)


def test_logits_have_the_shape_and_type_that_all_rely_on(variant):
    _, _, model, image, variables = variant
    logits, aux = jax.jit(model.apply, static_argnames="train")(variables, image, train=False)
    space = () if isinstance(model, OF_IMAGES) else image.shape[1:-1]
    assert logits.shape == (2, *space, CLASSES) and logits.dtype == jnp.float32 and isinstance(aux, dict)
    # Eager equals jitted, and a sample does not depend on its batch: one check, which needs the small programs once.
    alone = [model.apply(variables, image[place : place + 1], train=False)[0] for place in range(2)]
    np.testing.assert_allclose(logits, np.concatenate(alone), atol=1e-4)


def test_gradients_are_finite_on_an_image_without_foreground(variant):
    _, _, model, image, variables = variant
    loss = losses.from_string("dice_loss(ignore_background=True) + cross_entropy")
    task = tasks.semantic(model, loss, num_classes=CLASSES)
    # What `task.init` makes, without compiling it once more.
    extra = {"model": {name: tree for name, tree in variables.items() if name != "params"}}
    # a classifier has one label an image
    labels = jnp.zeros(image.shape[:1] if isinstance(model, OF_IMAGES) else image.shape[:-1], jnp.int32)
    batch = {"image": image, "label": labels}

    def value(own):
        return task.losses["model"]({"model": own}, extra, batch, jax.random.key(3))[0]

    gradients = jax.jit(jax.grad(value))(variables["params"])
    leaves = jax.tree.leaves(gradients)
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert sum(float(jnp.abs(leaf).sum()) for leaf in leaves) > 0


def test_bfloat16_compute_keeps_float32_parameters(variant):
    name, fields, _, image, variables = variant
    model = models.create(name, num_classes=CLASSES, dtype="bfloat16", **fields)
    logits, _ = jax.jit(model.apply, static_argnames="train")(variables, image, train=False)
    assert logits.dtype == jnp.float32 and np.isfinite(logits).all()
    stored = jax.eval_shape(lambda key: model.init(key, image, train=False), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(stored)} == {jnp.dtype("float32")}


BOXES = {
    "backbone": "resnet18", "backbone_fields": RESNET, "features": 4, "anchor_sizes": (8, 16, 32, 64, 128)
}  # fmt: skip


# Channels of a meta-learner are its members' classes, those of agents an image and an episode's state; a filter
# bank has none to adapt, its weights read the responses.
NOT_ADAPTED = ("logistic", "stacking_conv", "pixel_actor_critic", "pixel_features", "q_network")
ADAPTED = [(name, fields) for name, fields in [*VARIANTS, ("mask_rcnn", BOXES)] if name not in NOT_ADAPTED]


@pytest.mark.parametrize("name", NOT_ADAPTED)
def test_weights_of_other_channels_are_refused_where_they_mean_something_else(name):
    model = models.create(name, num_classes=CLASSES)
    images = (jax.ShapeDtypeStruct((1, 8, 12, channels), jnp.float32) for channels in (3, 1))
    source, target = (jax.eval_shape(model.init, jax.random.key(0), image) for image in images)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), source)
    with pytest.raises(UserError, match="arrays do not fit"):
        transfer.merge(target, zeros)


@pytest.mark.parametrize("name, fields", ADAPTED)
def test_weights_meet_images_of_other_channels(name, fields):
    """Every first layer is adapted, nothing else, and equal channels are answered as before: the kernels' sums stay."""
    if name.endswith("vnet"):
        fields = {**fields, "tile_image": False}  # else its first layers depend on the number of channels
    model = models.create(name, num_classes=CLASSES, **fields)
    draw = np.random.default_rng(0)

    def variables(channels):
        image = jax.ShapeDtypeStruct((1, *(32,) * fields.get("ndim", 2), channels), jnp.float32)
        shapes = jax.eval_shape(model.init, jax.random.key(0), image)
        return jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32), shapes)

    source = variables(3)
    assert models.input_channels(model, source) == 3
    for channels in (1,) if name == "mask_rcnn" else (1, 4):  # of the slowest to trace, one direction
        merged = transfer.merge(variables(channels), source)
        before, after = dict(torch_layout.leaves(source)), dict(torch_layout.leaves(merged.variables))
        differing = {path for path in before if before[path].shape != after[path].shape}
        assert differing and {"/".join(path[1:]) for path in differing} == set(merged.adapted)
        assert not merged.fresh and not merged.unused
        for path in differing:
            assert after[path].shape[-2] == channels
            np.testing.assert_allclose(after[path].sum(-2), before[path].sum(-2), atol=1e-5)
        source = merged.variables
