"""From a config to the parts of a run: networks that do not say how many axes they have, sentences of models."""

import clinic
import flax.linen as nn
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from jaxseg import config as configs
from jaxseg.cli import build
from jaxseg.typing import UserError

KNOWN = build.Facts(("MRI",), ("background", "shell", "core"), (0, 1, 2), (), None, None)
FOREIGN = {
    "WNet": ({"features": (2,)}, (8, 12)),
    "MeshNet": ({"features": 2, "dilations": (1, 2)}, (6, 8, 10)),
}
CONFIG = """
from jaxseg.config import base_config

def get_config():
    config = base_config()
    config.data.name, config.data.root = "msd", {root!r}
    config.data.folds, config.data.patch_size, config.data.batch_size = 3, {patch!r}, 2
    config.model = dict(name="docs.examples.foreign_networks:{name}", **{fields!r})
    config.augment = "mirror"
    config.train.total_steps, config.train.eval_steps, config.train.eval_cases = 2, 2, 1
    config.predict.window = {window!r}
    return config
"""


def foreign(name):
    config = configs.base_config()
    fields, config.data.patch_size = FOREIGN[name]
    config.model = ConfigDict({"name": f"docs.examples.foreign_networks:{name}", **fields})
    return config


@pytest.mark.parametrize("name", FOREIGN)
def test_a_network_without_ndim_has_the_axes_of_the_patch(name):
    config = foreign(name)
    axes = len(FOREIGN[name][1])
    assert "ndim" not in config.model and configs.ndim_of(config) == axes
    assert build.divisor(config, KNOWN) == (1,) * axes
    assert build.predict_options(config)["ndim"] == axes
    build.check_model(config, KNOWN)
    config.data.patch_size = (0,) * axes  # the data decide
    build.check_model(config, KNOWN)


@pytest.mark.parametrize("name", FOREIGN)
def test_a_network_without_ndim_is_trained_from_a_config(name, tmp_path):
    fields, patch = FOREIGN[name]
    clinic.msd(tmp_path / "data", cases=3)
    # slices of 20 x 20 voxels and volumes: few windows
    given = {"patch": patch, "window": (16, 20, 20)[-len(patch) :], "fields": fields}
    (tmp_path / "experiment.py").write_text(CONFIG.format(root=str(tmp_path / "data"), name=name, **given))
    done = clinic.launch("--mode=train", f"--config={tmp_path / 'experiment.py'}", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {int(place.name) for place in (tmp_path / "run" / "checkpoints").iterdir()} == {2}


class Fussy(nn.Module):
    """Says what is wrong only when it is traced, one time as a user's mistake, one time as any other."""

    num_classes: int = 2
    users: bool = True
    dtype: object = jnp.float32

    def __call__(self, image, train=False):
        raise (UserError if self.users else ValueError)("Fussy.width should be even; it is 3.")


@pytest.mark.parametrize(
    ("users", "begin"), [(True, ""), (False, "data.patch_size (8, 8, 8) does not fit the model: ")]
)
def test_a_sentence_for_the_user_comes_as_it_is(users, begin, monkeypatch):
    config = configs.base_config()
    config.data.patch_size = (8, 8, 8)
    monkeypatch.setattr(build, "model", lambda config, known: Fussy(users=users))
    with pytest.raises(UserError) as caught:
        build.check_model(config, KNOWN)
    assert str(caught.value) == begin + "Fussy.width should be even; it is 3."


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ("gamma|mirror(axes=(2,))", "mirror knows the axes -2 to 1 .* not 2"),
        ("color_jitter", "color_jitter expects an RGB image with 3 channels"),
    ],
)
def test_an_augmentation_that_images_do_not_suit_is_told_before_preparing(augment, message):
    config = configs.base_config()
    config.data.patch_size = (8, 8)
    config.model = ConfigDict({"name": "unet", "ndim": 2, "features": (2, 4)})
    build.check_model(config, KNOWN)
    config.augment = augment
    with pytest.raises(UserError, match=f"does not suit images of 2 axes and 1 channel. {message}"):
        build.check_model(config, KNOWN)
