# %% [markdown]
# # A network of your own
#
# A network is a Flax module with the fields `num_classes` and `dtype`, whose call gives `(logits, aux)`. It need not
# be part of jaxseg: `config.model.name = "my_lab.nets:MyNet"` names it by its path. Here a small one is written,
# trained for a few steps by the ordinary command, and used alone.
#
# Run it as a notebook (`jupytext --to ipynb own_model.py`) or as it stands (`python own_model.py`); it writes into
# the current folder.

# %%
import importlib
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp

import jaxseg
from jaxseg import evaluate, models
from jaxseg.config import base_config

here = pathlib.Path.cwd()
launch = pathlib.Path(jaxseg.__file__).parents[1] / "launch.py"

# %% [markdown]
# ## The network
#
# Two levels, with the convolutions of `jaxseg.models.layers`, which take the fastest form on each backend. The logits
# are float32 whatever the compute type is; `aux` may hold intermediates, here none. `divisor` says which sizes fit
# along each axis:
# an image is padded to a multiple of it.

# %%
NETWORK = '''
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg import ops
from jaxseg.models import layers


class MyNet(nn.Module):
    """Two levels: features at full size, features at half of it, joined."""

    num_classes: int
    ndim: int = 2
    features: int = 8
    dtype: Any = jnp.float32

    @property
    def divisor(self) -> tuple[int, ...]:
        return (2,) * self.ndim

    @nn.compact
    def __call__(self, image, train=False):
        kernel = (3,) * self.ndim
        fine = nn.relu(layers.Conv(self.features, kernel, dtype=self.dtype, name="fine")(image))
        coarse = ops.max_pool(fine, 2)
        coarse = nn.relu(layers.Conv(2 * self.features, kernel, dtype=self.dtype, name="coarse")(coarse))
        coarse = jax.image.resize(coarse, (*fine.shape[:-1], coarse.shape[-1]), "linear")
        joined = jnp.concatenate([fine, coarse], axis=-1)
        joined = nn.relu(layers.Conv(self.features, kernel, dtype=self.dtype, name="joined")(joined))
        logits = layers.Conv(self.num_classes, (1,) * self.ndim, dtype=self.dtype, name="head")(joined)
        return logits.astype(jnp.float32), {}
'''
(here / "my_lab").mkdir(exist_ok=True)
(here / "my_lab" / "nets.py").write_text(NETWORK)

# %% [markdown]
# ## Alone
#
# `models.create` finds it by its path, with the fields that a config would give. The same call serves every network
# of the house.

# %%
sys.path.insert(0, str(here))
importlib.invalidate_caches()
net = models.create("my_lab.nets:MyNet", num_classes=3, features=4)
image = jnp.zeros((1, 16, 24, 1))
variables = net.init(jax.random.key(0), image, train=False)
logits, aux = net.apply(variables, image, train=False)
print(logits.shape, sum(leaf.size for leaf in jax.tree.leaves(variables)), "parameters")
assert logits.shape == (1, 16, 24, 3) and aux == {}

# %% [markdown]
# ## In a config
#
# A config starts from `base_config()`, which lists every option with its default, and changes what this experiment
# needs. The data are slices of the MNI152 brain template that comes with `nilearn`, every tenth one and coarse: what
# matters here is that everything runs, not the score.

# %%
CONFIG = '''
"""Grey and white matter on axial slices, by a network of our own."""

from ml_collections import ConfigDict

from jaxseg.config import base_config


def get_config():
    config = base_config()
    config.data.name, config.data.step, config.data.downsample, config.data.block = "mni", 10, 3, 10
    config.data.patch_size, config.data.batch_size, config.data.folds = (32, 32), 4, 4
    config.model = ConfigDict({"name": "my_lab.nets:MyNet", "ndim": 2, "features": 8})
    config.augment = "mirror(axes=(1,))"
    config.optim.lr = 1e-2
    config.train.total_steps, config.train.eval_steps = 60, 60
    config.evaluate.surfaces, config.evaluate.overlays = False, 2
    return config
'''
(here / "my_config.py").write_text(CONFIG)
assert "my_lab" not in str(base_config().model)  # the defaults know nothing of it

# %% [markdown]
# ## Trained by the ordinary command
#
#     PYTHONPATH=. python launch.py --config my_config.py --workdir run
#
# One command prepares, trains, scores the held-out slices, and writes the report and the model card.

# %%
environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])])}
command = [sys.executable, str(launch), "--config", "my_config.py", "--workdir", "run"]
done = subprocess.run(command, env=environment, capture_output=True, text=True)
print(done.stdout[-1500:], done.stderr[-1500:])
assert done.returncode == 0

# %% [markdown]
# ## What it came to
#
# Every mean stands beside its interval and its n.

# %%
summary = evaluate.read_summary("run/evaluation/summary.json")
for name, scores in summary["classes"].items():
    dice = scores["dice"]
    print(f"{name}: Dice {dice['mean']:.3f} ({dice['low']:.3f} to {dice['high']:.3f}), n {dice['n']}")
assert summary["mean"]["dice"]["mean"] > 0.5
card = (here / "run" / "model_card.md").read_text()
print(card[: card.index("## How it was trained")])
assert "`my_lab.nets:MyNet`" in card
