"""Weights in another network: channels, inflation, skips, frozen layers, and folders of converted weights."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from docs.examples import foreign_networks
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


def test_vnet_is_not_robbed_of_the_layer_that_reads_the_image():
    fields = {"ndim": 2, "features": (4, 8), "encoder_convs": (1, 1), "decoder_convs": (1,)}
    tiling, plain = (models.create("vnet", tile_image=tile, **fields) for tile in (True, False))
    shapes = [
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, channels)))
        for model, channels in ((tiling, 3), (tiling, 1), (plain, 1))
    ]
    source, tiled, convolved = (random_like(tree) for tree in shapes)
    with pytest.raises(UserError, match=r"through encoder_0_skip/conv/bias, which .* give it model\.tile_image=False"):
        transfer.merge(tiled, source)
    merged = transfer.merge(tiled, source, skip="^encoder_0_skip")
    assert "encoder_0_skip/conv/kernel" in merged.unused
    merged = transfer.merge(convolved, source)
    assert set(merged.adapted) == {"encoder_0_conv_0/conv/kernel", "encoder_0_skip/conv/kernel"}
    image = jax.random.normal(jax.random.key(2), (1, 8, 8, 1))
    ours, _ = jax.jit(plain.apply)(merged.variables, image)
    theirs, _ = jax.jit(tiling.apply)(source, jnp.repeat(image, 3, axis=-1))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_foreign_network_names_the_layer_that_reads_the_image():
    model = foreign_networks.MeshNet(dilations=(1,))
    source, target = (
        random_like(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 5, 6, channels))))
        for channels in (1, 2)
    )
    assert models.input_channels(model, source) == 1 and models.input_channels(model, target) == 2
    with pytest.raises(UserError, match=r"conv_0/kernel \(3, 3, 3, 1, 5\) for \(3, 3, 3, 2, 5\).*init\.stem_layer"):
        transfer.merge(target, source)
    merged = transfer.merge(target, source, stem_layer="^conv_0/")
    assert merged.adapted == ("conv_0/kernel",) and not merged.fresh
    image = jax.random.normal(jax.random.key(2), (1, 4, 5, 6, 1))
    ours, _ = model.apply(merged.variables, jnp.repeat(image, 2, axis=-1))
    np.testing.assert_allclose(ours, model.apply(source, image)[0], atol=1e-5)
    with pytest.raises(UserError, match=r"init\.stem_layer '\(' is not a regular expression"):
        transfer.merge(target, source, stem_layer="(")


def test_names_that_do_not_match_come_with_their_shapes():
    expected = {"params": {"conv": {"kernel": np.zeros((3, 3, 1, 2)), "bias": np.zeros(2)}}}
    with pytest.raises(
        UserError, match=r"missing conv\.kernel \(3, 3, 1, 2\) \(in our .*; unused other \(2, 1, 5, 5\); "
    ):
        torch_layout.fill(
            expected,
            {"conv.bias": np.zeros(2), "other": np.zeros((2, 1, 5, 5))},
            name_of=lambda path: ".".join(path[1:]),
            layout_of=torch_layout.layout,
            source="theirs",
        )


def test_channels_by_hand():
    kernel = np.arange(6.0).reshape(1, 1, 3, 2)  # three channels in: (0, 1), (2, 3), (4, 5)
    assert transfer.adapt_channels(kernel, 1).ravel().tolist() == [6, 9]
    assert transfer.adapt_channels(kernel, 2)[0, 0].tolist() == [[3, 4.5], [3, 4.5]]
    repeated = transfer.adapt_channels(kernel, 4, method="repeat")[0, 0]
    assert repeated.tolist() == [[0, 0.75], [1.5, 2.25], [3, 3.75], [0, 0.75]]
    with pytest.raises(ValueError, match="sum or repeat"):
        transfer.adapt_channels(kernel, 2, method="mean")


def random_like(tree, seed=0):
    """Numbers in place of zeros (FCN's scores) and identities (its upsampling), variances positive."""
    draw = np.random.default_rng(seed)

    def leaf(path, x):
        values = draw.normal(size=x.shape) / np.sqrt(np.prod(x.shape[:-1]))
        return jnp.asarray(np.abs(values) + 0.5 if path[-1].key == "var" else values, jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, tree)


def quickly(function):
    """Compiles with little optimisation: what runs once on a few voxels takes longer to compile than to compute."""
    return jax.jit(
        function, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    )


def inflated(name, size, depth, *, method="centre", **fields):
    """The 2D network's answer to a slice and the inflated one's to a volume of such slices, with their aux."""
    flat, deep = models.create(name, ndim=2, **fields), models.create(name, ndim=3, **fields)
    image = jax.random.normal(jax.random.key(2), (1, *size, 1))
    volume = jnp.repeat(image[:, None], depth, axis=1)
    source = random_like(jax.eval_shape(flat.init, jax.random.key(0), image))
    target = random_like(jax.eval_shape(deep.init, jax.random.key(0), volume), seed=1)
    strides = models.transposed_strides(deep, volume.shape)
    merged = transfer.merge(target, source, inflate=method, strides=strides)
    assert not merged.fresh and not merged.unused
    return quickly(deep.apply)(merged.variables, volume), quickly(flat.apply)(source, image)


RESIDUAL = {"features": (4, 8), "strides": (2,), "norm": "batch"}
INFLATED = [
    ("unet", (8, 12), 16, {"features": (4, 8), "norm": "none", "convs": 1, "decoder_convs": 1}),  # kernel 2, stride 2
    ("residual_unet", (8, 12), 16, RESIDUAL),  # 3 taps, stride 2
    ("residual_unet", (8, 12), 16, {**RESIDUAL, "num_res_units": 0, "up_kernel": 5}),  # 5 taps, stride 2
    ("fcn", (16, 24), 9, {"width": 2, "fc_features": 4, "learn_upsampling": True}),  # 4 taps, stride 2; 16, stride 8
]


@pytest.mark.parametrize("name, size, depth, fields", INFLATED)
def test_inflated_network_answers_a_constant_volume_as_its_slices(name, size, depth, fields):
    (ours, _), (theirs, _) = inflated(name, size, depth, **fields)
    assert np.abs(theirs).max() > 0.01
    np.testing.assert_allclose(ours, np.broadcast_to(theirs[:, None], ours.shape), atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("name, size, _, fields", INFLATED[:2])
def test_means_along_depth_answer_alike_where_no_padding_is_read(name, size, _, fields):
    (ours, _), (theirs, _) = inflated(name, size, 32, method="mean", **fields)
    inside = ours[:, 12:20]
    np.testing.assert_allclose(inside, np.broadcast_to(theirs[:, None], inside.shape), atol=1e-5 * np.abs(theirs).max())
    assert not np.allclose(ours[:, 0], theirs, atol=0.01 * np.abs(theirs).max())  # the first slice does read some


def test_segnet_keeps_its_encoder_but_not_its_unpooling():
    # Equal slices have equal maxima, and the first one's place is remembered: the other slices stay empty.
    (ours, deep), (theirs, flat) = inflated("segnet", (8, 12), 8, convs=(1, 1), width=4)
    for stride, stage in flat["stages"].items():
        volume = deep["stages"][stride]
        np.testing.assert_allclose(volume, np.broadcast_to(stage[:, None], volume.shape), atol=1e-5)
    first = ours[:, ::4]  # 2 x 2 slices are one at the bottom
    np.testing.assert_allclose(first, np.broadcast_to(theirs[:, None], first.shape), atol=1e-5)
    for other in (1, 2, 3):
        assert not np.allclose(ours[:, other], theirs, atol=0.01 * np.abs(theirs).max())


@pytest.mark.parametrize("method", ["centre", "mean"])
def test_every_phase_of_a_transposed_kernel_adds_up_to_the_flat_one(method):
    for taps in range(1, 17):
        for stride in range(1, taps + 1):
            kernel = transfer.inflate_kernel(np.full((1, 2, 3, 1), 3.0), taps, method=method, transposed_stride=stride)
            for phase in range(stride):
                own = kernel[phase::stride, 0, 0, 0, 0]
                assert own.sum() == pytest.approx(3)
                assert np.count_nonzero(own) == (1 if method == "centre" else len(own))


def test_inflation_by_hand():
    kernel = np.ones((1, 1, 1, 1))

    def taps(depth, **options):
        return transfer.inflate_kernel(kernel, depth, **options).ravel().tolist()

    assert taps(3) == [0, 1, 0]
    assert taps(4, method="mean") == [0.25] * 4
    assert taps(2, transposed_stride=2) == [1, 1]
    assert taps(3, transposed_stride=2) == [0, 1, 1]
    assert taps(3, transposed_stride=2, method="mean") == [0.5, 1, 0.5]
    assert taps(4, transposed_stride=2) == [0, 1, 1, 0]
    assert taps(4, transposed_stride=2, method="mean") == [0.5] * 4
    with pytest.raises(ValueError, match="centre or mean"):
        transfer.inflate_kernel(kernel, 3, method="first")
    with pytest.raises(ValueError, match="2 taps along depth leaves slices empty at stride 3; give it 3 or more"):
        transfer.inflate_kernel(kernel, 2, transposed_stride=3)


def test_an_unknown_stride_is_not_guessed():
    source = {"params": {"decoder_0_up": {"conv": {"kernel": np.ones((3, 3, 2, 2), np.float32)}}}}
    target = {"params": {"decoder_0_up": {"conv": {"kernel": np.ones((3, 3, 3, 2, 2), np.float32)}}}}
    with pytest.raises(
        UserError, match="decoder_0_up/conv/kernel cannot be made 3D without its stride; give merge str"
    ):
        transfer.merge(target, source)
    merged = transfer.merge(target, source, strides={"decoder_0_up/conv": (2, 2, 2)})
    assert merged.adapted == ("decoder_0_up/conv/kernel",)


def test_strides_of_transposed_convolutions():
    fields = {"ndim": 3, "features": (4, 8, 8), "strides": (2, (1, 2, 2))}
    found = models.transposed_strides(models.create("residual_unet", **fields), (1, 4, 8, 8, 1))
    assert found == {"decoder_0_up/conv": (2, 2, 2), "decoder_1_up/conv": (1, 2, 2)}
    again = models.transposed_strides(models.create("unet", features=(4, 8), remat=True), (1, 8, 8, 1))
    assert again == {"decoder_0_up": (2, 2)}
    plain = models.create("segresnet", ndim=2, blocks_down=(1, 1), blocks_up=(1,))  # its layers "up" are convolutions
    assert models.transposed_strides(plain, (1, 8, 8, 1)) == {}
    for strides, wanted in ((None, (1, 1)), ((2, 3), (2, 3))):
        assert models.transposed_strides(nn.ConvTranspose(2, (3, 3), strides), (1, 8, 8, 1)) == {"": wanted}


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
