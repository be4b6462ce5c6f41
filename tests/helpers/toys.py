"""A task small enough to check by hand, shared by the tests of the step and of the loop."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.train import optim, step
from jaxseg.train import state as states
from jaxseg.typing import Task

KEY = jax.random.key(0)


def toy_task(scale: float = 1.0) -> Task:
    """Linear regression whose noise depends on each sample's place in the batch; hand-sized gradients."""

    def loss(params, extra, batch, key, *, axis_name=None):
        error = batch["image"] @ params["model"]["kernel"] - batch["label"]
        value = scale * (error**2).mean()
        return value, ({"counts": jnp.ones((2, 2))}, {"model": {"seen": extra["model"]["seen"] + 1.0}})

    return Task(
        init=lambda key, image: ({"model": {"kernel": jnp.ones(3)}}, {"model": {"seen": jnp.zeros(())}}),
        losses={"model": loss},
        counts=lambda variables, batch: jnp.ones((2, 2)),
        predict=lambda variables, image: image @ variables["params"]["model"]["kernel"],
    )


def make(task=None, *, name="sgd", accumulate=1, ema=0.0, augment=None, clip_norm=0.0, decay=0.0):
    task = task or toy_task()
    optimizers = {"model": optim.optimizer(name, weight_decay=decay, no_decay="", momentum=0.9, clip_norm=clip_norm)}
    state = states.create(KEY, task, jnp.zeros((1, 3)), optimizers, horizon=10, ema=ema > 0)
    schedule = optim.schedule("constant", lr=0.1)
    return step.make_step(task, optimizers, schedule, augment=augment, accumulate=accumulate, ema=ema), state


def batch(seed=0, size=4):
    draw = np.random.default_rng(seed)
    image = draw.normal(size=(size, 3)).astype(np.float32)
    return {"image": image, "label": image.sum(-1) * 2, "index": np.arange(size, dtype=np.int32)}


def add_noise(key, batch):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])
    return {**batch, "image": batch["image"] + jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys)}


def kernels(params):
    """The kernels of a network, all of which learn; a bias before an instance norm does not."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    found = [leaf for path, leaf in leaves if path[-1].key == "kernel"]
    assert found
    return found
