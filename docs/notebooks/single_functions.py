# %% [markdown]
# # Single functions in research code
#
# Every loss, metric, operation and augmentation of jaxseg is a pure function that can be taken alone: no config, no
# trainer. This page takes a handful of them to the MNI152 brain template, which comes with the `nilearn` package, so
# nothing is downloaded.
#
# Run it as a notebook (`jupytext --to ipynb single_functions.py`) or as it stands (`python single_functions.py`).

# %%
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxseg import losses, metrics, ops, predict, viz
from jaxseg.data import augment, readers

# %% [markdown]
# ## Images
#
# A reader gives a `Volume`: an array `(z, y, x, C)`, its spacing in mm in the same order, and its affine. Every
# fourth voxel is enough here. The label is 1 where the map of white matter says at least one half.

# %%
folder = pathlib.Path(importlib.util.find_spec("nilearn").origin).parent / "datasets" / "data"
names = {kind: folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz" for kind in ("t1", "gm", "wm")}
step = 4
t1, grey, white = (readers.read(names[kind]).data[::step, ::step, ::step] for kind in ("t1", "gm", "wm"))
spacing_mm = tuple(step * value for value in readers.read(names["t1"]).spacing)
image = jnp.asarray(t1, jnp.float32)[None] / 255  # (1, z, y, x, 1)
labels = jnp.asarray((white[..., 0] > 127) & (t1[..., 0] > 0), jnp.int32)[None]  # (1, z, y, x)
print(image.shape, spacing_mm, int(labels.sum()), "voxels of white matter")

# %% [markdown]
# ## A loss with a gradient
#
# A loss takes `(logits, labels)` and gives one value a sample. The smallest "network" there is has two numbers, a
# threshold and how sharp it is; gradient descent on the Dice loss finds them.


# %%
def logits_of(parameters, image):
    """Two classes: nothing, and how far the intensity lies above the threshold."""
    above = (image - parameters["threshold"]) * jnp.exp(parameters["sharpness"])
    return jnp.concatenate([jnp.zeros_like(above), above], axis=-1)


def mean_loss(parameters):
    return losses.dice_loss(logits_of(parameters, image), labels, ignore_background=True).mean()


parameters = {"threshold": jnp.float32(0.5), "sharpness": jnp.float32(1.0)}
optimizer = optax.adam(0.1)
state, update = optimizer.init(parameters), jax.jit(jax.value_and_grad(mean_loss))
history = []
for _ in range(40):
    value, gradient = update(parameters)
    change, state = optimizer.update(gradient, state)
    parameters = optax.apply_updates(parameters, change)
    history.append(float(value))
print(f"loss {history[0]:.3f} -> {history[-1]:.3f} at a threshold of {float(parameters['threshold']):.3f}")
assert history[-1] < history[0] / 2

# %% [markdown]
# ## Inference as a stack of wrappers
#
# What predicts is a function `image -> probabilities`. A sliding window and flips take such a function and return
# another one. A threshold looks at one voxel at a time, so here all of them must agree, to rounding.


# %%
def predict_fn(image):
    return jax.nn.softmax(logits_of(parameters, image))


whole = predict_fn(image)
windowed = predict.sliding_window(predict_fn, window=(24, 32, 32), overlap=0.25, batch_size=4)
flipped = predict.flip_tta(windowed, axes=(2,))
difference = float(jnp.abs(flipped(image) - whole).max())
print(f"largest difference {difference:.1e}")
assert difference < 1e-5

# %% [markdown]
# ## Scores in millimetres
#
# `case_rows` gives what `cases.csv` holds of one case. Distances are in mm and know that voxels need not be cubes.

# %%
mask = np.asarray(whole[0].argmax(-1))
row = metrics.case_rows(mask, np.asarray(labels[0]), classes=("other", "white matter"), spacing_mm=spacing_mm)[0]
print({name: round(row[name], 3) for name in ("dice", "precision", "recall", "hd95_mm", "assd_mm", "nsd")})
assert row["dice"] > 0.9

# %% [markdown]
# ## Operations inside jit
#
# Distances and connected components have static shapes, so they may stand in a compiled function, on any device.


# %%
@jax.jit
def depth_and_parts(mask):
    """The largest depth in mm, and how many parts touch across faces."""
    parts = ops.connected_components(mask)
    return ops.distance_transform(mask, spacing=spacing_mm).max(), parts.max()


depth_mm, count = depth_and_parts(jnp.asarray(mask, bool))
print(f"deepest point {float(depth_mm):.1f} mm inside; {int(count)} parts")

# %% [markdown]
# ## Augmentation, a key a sample
#
# A pipeline is written as it stands in a config. Image and label move together, and the same key gives the same
# batch.

# %%
change = augment.from_string("rotate_scale|mirror(axes=(2,))|bias_field|gaussian_noise", patch_size=(32, 48, 40))
batch = {"image": jnp.repeat(image, 2, axis=0), "label": jnp.repeat(labels, 2, axis=0)}
batch["index"] = jnp.arange(2)  # which samples these are: together with the key it decides what is drawn
first, again = change(jax.random.key(0), batch), change(jax.random.key(0), batch)
assert first["image"].shape == (2, 32, 48, 40, 1) and jnp.array_equal(first["label"], again["label"])
assert not jnp.array_equal(first["image"][0], first["image"][1])  # each sample has a key of its own

# %% [markdown]
# ## A picture
#
# The truth is drawn as a solid line, the prediction dashed.

# %%
middle = mask.shape[0] // 2
# The axes of the file increase upwards, to the front and to the right; radiologists have the right side on the left.
shown, true, pred = (volume[middle, ::-1, ::-1] for volume in (t1, np.asarray(labels[0]), mask))
picture = viz.slice_overlay(shown, true=true, pred=pred, size=(4 * shown.shape[0], 4 * shown.shape[1]))
viz.save_png("white_matter.png", picture)
print("white_matter.png", picture.shape)
