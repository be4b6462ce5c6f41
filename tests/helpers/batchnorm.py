"""Two training steps of a tiny network with batch norm, for as many devices as there are."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import losses, models, tasks
from jaxseg.train import optim, parallel, step
from jaxseg.train import state as states
from jaxseg.transfer import torch_layout

STEPS = 2


def batch(number: int, *, size: int = 4) -> dict[str, np.ndarray]:
    """Images whose brightness and contrast differ between samples, so that each device alone sees other statistics."""
    draw = np.random.default_rng(number)
    scale = np.arange(1, size + 1, dtype=np.float32).reshape(-1, 1, 1, 1)
    image = scale * (1 + draw.normal(size=(size, 6, 7, 1)))
    label = (image[..., 0] > scale[..., 0]).astype(np.int32)
    return {"image": image.astype(np.float32), "label": label, "index": np.arange(size, dtype=np.int32)}


def train(kind: str, sync: bool) -> dict[str, list[float]]:
    """Returns parameters and running statistics by path after STEPS steps on the devices that there are.

    Args:
      kind: of `parallel.wrap`.
      sync: batch norm takes its statistics over all devices under pmap.
    """
    model = models.create("pixel_features", features=(4,), sigmas=(0.7,))
    loss = losses.from_string("dice_loss + cross_entropy")
    task = tasks.semantic(model, loss, num_classes=2, sync_batch_norm=sync)
    options = {"weight_decay": 0.0, "no_decay": "", "momentum": 0.9, "clip_norm": 0.0}
    optimizers = {"model": optim.optimizer("sgd", **options)}
    state = states.create(jax.random.key(0), task, jnp.zeros((1, 6, 7, 1)), optimizers, horizon=STEPS, ema=False)
    run = step.make_step(task, optimizers, optim.schedule("constant", lr=0.1))
    compiled, put = parallel.wrap(run, kind=kind)
    for number in range(STEPS):
        state, _ = compiled(state, put(batch(number)), jax.random.key(1))
    found = {**dict(torch_layout.leaves(state.params)), **dict(torch_layout.leaves(state.extra))}
    return {"/".join(path): np.asarray(array).ravel().tolist() for path, array in found.items()}


def report() -> None:
    """Prints what each way of training gives."""
    runs = {"synchronised": ("pmap", True), "alone": ("pmap", False), "mesh": ("mesh", False)}
    print(json.dumps({"devices": jax.device_count(), **{name: train(*run) for name, run in runs.items()}}))
