"""Weights in another network: channels, inflation, skips, frozen layers, and folders of converted weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses, models, tasks, transfer
from jaxseg.transfer import stored, torch_layout
from jaxseg.typing import UserError

TINY = {"features": (4, 8), "norm": "batch", "convs": 1, "decoder_convs": 1}


def variables_of(model, size, channels, seed=0):
    image = jnp.zeros((1, *size, channels))
    return jax.jit(model.init)(jax.random.key(seed), image)


def test_grey_stem_equals_the_grey_image_repeated():
    rgb, grey = models.create("unet", **TINY), models.create("unet", **TINY)
    source, target = variables_of(rgb, (8, 8), 3), variables_of(grey, (8, 8), 1, seed=1)
    merged = transfer.merge(target, source)
    assert merged.adapted == ("encoder_0_conv_0/conv/kernel",) and not merged.fresh and not merged.unused
    image = jax.random.normal(jax.random.key(2), (1, 8, 8, 1))
    ours, _ = grey.apply(merged.variables, image)
    theirs, _ = rgb.apply(source, jnp.repeat(image, 3, axis=-1))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_channels_by_hand():
    kernel = np.arange(6.0).reshape(1, 1, 3, 2)  # three channels in: (0, 1), (2, 3), (4, 5)
    assert transfer.adapt_channels(kernel, 1).ravel().tolist() == [6, 9]
    assert transfer.adapt_channels(kernel, 2)[0, 0].tolist() == [[3, 4.5], [3, 4.5]]
    repeated = transfer.adapt_channels(kernel, 4, method="repeat")[0, 0]
    assert repeated.tolist() == [[0, 0.75], [1.5, 2.25], [3, 3.75], [0, 0.75]]
    with pytest.raises(ValueError, match="sum or repeat"):
        transfer.adapt_channels(kernel, 2, method="mean")


@pytest.mark.parametrize("method", ["centre", "mean"])
def test_inflated_network_answers_a_constant_volume_as_its_slices(method):
    fields = {"features": (4, 8), "norm": "none", "convs": 1, "decoder_convs": 1}
    flat, deep = models.create("unet", ndim=2, **fields), models.create("unet", ndim=3, **fields)
    source = variables_of(flat, (8, 12), 1)
    target = variables_of(deep, (16, 8, 12), 1, seed=1)
    merged = transfer.merge(target, source, inflate=method)
    assert not merged.fresh and not merged.unused
    slice_ = jax.random.normal(jax.random.key(2), (1, 8, 12, 1))
    volume = jnp.repeat(slice_[:, None], 16, axis=1)
    ours, theirs = deep.apply(merged.variables, volume)[0], flat.apply(source, slice_)[0]
    depths = slice(None) if method == "centre" else slice(6, 10)  # means read the padding near the ends
    np.testing.assert_allclose(ours[:, depths], np.broadcast_to(theirs[:, None], ours[:, depths].shape), atol=1e-5)


def test_inflation_by_hand():
    kernel = np.ones((1, 1, 1, 1))
    assert transfer.inflate_kernel(kernel, 3).ravel().tolist() == [0, 1, 0]
    np.testing.assert_allclose(transfer.inflate_kernel(kernel, 4, method="mean").ravel(), [0.25] * 4)
    assert transfer.inflate_kernel(kernel, 2, transposed=True).ravel().tolist() == [1, 1]
    with pytest.raises(ValueError, match="centre or mean"):
        transfer.inflate_kernel(kernel, 3, method="first")


def test_skips_and_what_is_told():
    source = variables_of(models.create("unet", num_classes=5, **TINY), (8, 8), 1)
    model = models.create("unet", num_classes=2, **TINY)
    target = variables_of(model, (8, 8), 1, seed=1)
    with pytest.raises(UserError, match=r'head/bias \(5,\) for \(2,\), .* init\.skip, such as "\^head"'):
        transfer.merge(target, source)
    merged = transfer.merge(target, source, skip="^head")
    assert set(merged.fresh) == {"head/bias", "head/kernel"}
    assert merged.variables["params"]["head"]["kernel"] is target["params"]["head"]["kernel"]
    encoder = transfer.merge(target, source, skip=["^(?!encoder)"])
    assert all(name.startswith("encoder") for name in encoder.copied)
    assert set(encoder.fresh) == {"/".join(path[1:]) for path in paths(target) if not path[1].startswith("encoder")}
    assert str(encoder).startswith(f"{len(encoder.copied)} of {len(paths(target))} arrays taken over; initialised ")
    with pytest.raises(UserError, match="None of the stored weights has a name of this model: stored other/kernel"):
        transfer.merge(target, {"params": {"other": {"kernel": np.zeros(3)}}})
    with pytest.raises(UserError, match="not a regular expression"):
        transfer.merge(target, source, skip="(")


def paths(tree):
    return [path for path, _ in torch_layout.leaves(tree)]


def test_a_classifier_gives_its_backbone_to_any_decoder():
    backbone = {"blocks": (1, 1, 1, 1), "width": 4}
    classifier = models.create("classifier", backbone="resnet18", num_classes=7, backbone_fields=backbone)
    source = variables_of(classifier, (32, 32), 3)
    network = models.create("unet", encoder="resnet18", encoder_fields=backbone, features=(2, 2, 2, 2, 2))
    target = variables_of(network, (32, 32), 1, seed=1)
    merged = transfer.merge(target, source, skip="^(?!backbone)")
    assert merged.adapted == ("backbone/stem/conv/kernel",) and not merged.unused  # both have a head: it is skipped
    for path, array in torch_layout.leaves(merged.variables):
        if path[1] == "backbone" and path[2] != "stem":
            stored_array = dict(torch_layout.leaves(source))[path]
            np.testing.assert_array_equal(array, stored_array)


def test_vgg_weights_fit_segnet_and_fcn():
    shapes = {
        name: jax.eval_shape(models.create(name, **fields).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        for name, fields in {
            "classifier": {"backbone": "vgg16_bn"},
            "segnet": {},
            "fcn": {"norm": "batch"},
        }.items()
    }
    of = {name: {p: x.shape for p, x in torch_layout.leaves(tree) if p[1] == "backbone"} for name, tree in
          shapes.items()}  # fmt: skip
    assert of["segnet"] == of["classifier"] == of["fcn"] and len(of["fcn"]) == 13 * 6


def test_frozen_layers_get_no_gradient():
    model = models.create("unet", **TINY)
    task = tasks.semantic(model, losses.from_string("cross_entropy"), num_classes=2)
    image = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    params, extra = jax.jit(task.init)(jax.random.key(1), image)
    batch = {"image": image, "label": jnp.ones((2, 8, 8), jnp.int32)}
    frozen = transfer.freeze(task, "^encoder")
    key = jax.random.key(2)
    gradients = jax.jit(jax.grad(lambda p: frozen.losses["model"](p, extra, batch, key)[0]))(params)["model"]
    moved = {layer for layer, tree in gradients.items() if any(np.abs(leaf).sum() for leaf in jax.tree.leaves(tree))}
    assert moved == {"decoder_0_up", "decoder_0_conv_0", "head"}
    transfer.check_pattern(params["model"], "^encoder", field="optim.freeze")
    with pytest.raises(UserError, match=r"optim\.freeze '\^backbone' matches no parameter; the model's layers are dec"):
        transfer.check_pattern(params["model"], "^backbone", field="optim.freeze")
    with pytest.raises(UserError, match="not a regular expression"):
        transfer.check_pattern(params["model"], "(", field="optim.freeze")


def test_converted_folders(tmp_path):
    model = models.create("unet", encoder="resnet18", encoder_fields={"width": 2}, features=(2, 2, 2, 2, 2))
    variables = variables_of(model, (32, 32), 1)
    folder = tmp_path / "weights"
    stored.save(folder, model, variables, source="smp:Unet", in_channels=1)
    again, loaded = stored.load(folder)
    assert again == model and sorted(p.name for p in tmp_path.iterdir()) == ["weights"]
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert json.loads((folder / stored.MODEL).read_text())["source"] == "smp:Unet"
    with pytest.raises(UserError, match="is not empty; name a new folder"):
        stored.save(folder, model, variables, source="smp:Unet", in_channels=1)
    with pytest.raises(UserError, match="holds no converted weights"):
        stored.load(tmp_path)
    data = max((folder / "variables").rglob("d/*"), key=lambda path: path.stat().st_size)
    whole = data.read_bytes()
    for damaged in (data, folder / "variables" / "manifest.ocdbt"):
        for damage in (lambda path: path.write_bytes(whole[: len(whole) // 2]), lambda path: path.unlink()):
            damage(damaged)
            with pytest.raises(UserError, match="cannot be read"):
                stored.load(folder)
        data.write_bytes(whole)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        stored.save(tmp_path / "file" / "below", model, variables, source="smp:Unet", in_channels=1)


def test_describe_names_any_network():
    for name, fields in (
        ("unet", {"features": (2, 3)}),
        ("unet", {"encoder": "vgg16"}),
        ("segnet", {}),
        ("unet2015", {}),
    ):
        model = models.create(name, **fields)
        found, own = models.describe(model)
        assert models.create(found, **own) == model
    assert models.describe(models.create("segnet", width=8)) == ("segnet", {"width": 8})
    assert models.describe(models.create("unet", encoder="resnet18"))[1] == {"encoder": "resnet18"}
