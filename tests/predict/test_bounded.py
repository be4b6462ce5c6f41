"""Class ids in bounded memory: bit by bit those of sums over the whole case, and no array of the size of a case."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxseg import predict
from jaxseg.data import orientation, preprocess, resample
from jaxseg.data.volume import identity_affine
from jaxseg.predict.bounded import plan_blocks
from jaxseg.predict.planes import layout
from jaxseg.predict.sliding_window import importance
from jaxseg.typing import Volume


def volume_of(shape, spacing, *, seed=0, channels=1):
    """A case with structure at the scale of some voxels, in a box of zeros."""
    draw = np.random.default_rng(seed)
    data = np.zeros((*shape, channels), np.float32)
    inside = tuple(slice(size // 6, size - size // 9) for size in shape)
    data[inside] = draw.normal(size=data[inside].shape)
    affine = identity_affine(len(shape))
    affine[:, : len(shape)] *= spacing
    return Volume(data, spacing, affine, None, "scan.nii.gz")


def network(outputs, *, sigmoid=False):
    """A small predictor that sees neighbours and its place in the window, so that blending matters."""

    @jax.jit
    def apply(image):
        place = sum(
            jnp.cos(jnp.arange(n) * 0.7).reshape(-1, *[1] * (image.ndim - 2 - axis))
            for axis, n in enumerate(image.shape[1:-1])
        )
        seen = image[..., :1] + jnp.roll(image[..., -1:], 1, axis=1) + 0.5 * jnp.roll(image[..., :1], 1, axis=2)
        scores = jnp.sin(seen * jnp.arange(1, outputs + 1) + place * 0.3)
        return jax.nn.sigmoid(4 * scores) if sigmoid else jax.nn.softmax(4 * scores)

    return apply


def plain(fn, volume, settings, *, ndim, window, overlap=0.5, regions=None, flip_axes=(), batch_size=1):
    """Class ids by sums over the whole padded case and one resampling of all of it; nothing is cut."""
    image, record = preprocess.forward(volume, settings)
    place = layout(image.shape[:-1], ndim=ndim, window=window, overlap=overlap)
    fn = predict.flip_tta(fn, axes=flip_axes)
    padded = np.pad(image, (*place.pads, (0, 0)))
    weights = np.asarray(importance(window, "gaussian"))
    probs, total = 0, np.zeros((*padded.shape[:-1], 1), np.float32)
    corners = list(itertools.product(*place.starts))
    for first in range(0, len(corners), batch_size):
        some = [tuple(slice(a, a + n) for a, n in zip(corner, place.window)) for corner in corners[first:][:batch_size]]
        batch = np.zeros((batch_size, *window, image.shape[-1]), np.float32)
        for index, region in enumerate(some):
            batch[index] = padded[region].reshape(batch.shape[1:])
        for region, output in zip(some, np.asarray(fn(batch))):
            if isinstance(probs, int):
                probs = np.zeros((*padded.shape[:-1], output.shape[-1]), np.float32)
            probs[region] += (output * weights[..., None]).reshape(probs[region].shape)
            total[region] += weights.reshape(total[region].shape)
    probs = (probs / total)[tuple(slice(a, a + n) for (a, _), n in zip(place.pads, image.shape))]
    box = tuple(slice(*edges) for edges in record["box"])
    orders = resample.axis_orders(record["target_spacing"], record["spacing"], order=1)
    for axis, (edges, order) in enumerate(zip(record["box"], orders)):
        probs = resample.gather(probs, axis, resample.taps(probs.shape[axis], edges[1] - edges[0], order))
    labels = np.zeros([record["shape"][axis] for axis in record["axes"]], np.int16)
    if regions is None:
        labels[box] = probs.argmax(-1)
    else:
        for index, region in enumerate(regions):
            labels[box][probs[..., index] > 0.5] = region[0]
    return orientation.undo(labels, tuple(record["axes"]), tuple(record["flips"]))


CASES = {
    "3D": dict(shape=(19, 23, 17), ndim=3, window=(6, 8, 5)),
    "resampled": dict(shape=(16, 19, 22), ndim=3, window=(6, 8, 5), spacing=(1.3, 0.8, 1.7)),
    "anisotropic": dict(shape=(9, 21, 24), ndim=3, window=(3, 8, 10), spacing=(2.0, 0.5, 0.7), of_file=(5.0, 0.9, 0.8)),
    "coarser": dict(shape=(9, 13, 11), ndim=3, window=(6, 8, 5), spacing=(0.6, 0.5, 0.4)),
    "2D": dict(shape=(31, 26), ndim=2, window=(8, 9), spacing=(0.8, 1.1)),
    "slices": dict(shape=(5, 21, 26), ndim=2, window=(8, 9), spacing=(1.0, 1.4, 0.9)),
    "window longer than the case": dict(shape=(7, 12, 26), ndim=3, window=(10, 16, 8), spacing=(0.8, 1.2, 1.0)),
    "flips": dict(shape=(13, 20, 11), ndim=3, window=(6, 8, 5), flip_axes=(0, 2), batch_size=3),
    "dense windows": dict(shape=(13, 20, 11), ndim=3, window=(6, 8, 5), overlap=0.8, spacing=(1.2, 1.2, 1.2)),
}


def made(case):
    options = dict(case)
    shape, spacing, of_file = options.pop("shape"), options.pop("spacing", None), options.pop("of_file", None)
    volume = volume_of(shape, of_file or (1.0,) * len(shape))
    return volume, preprocess.Settings(spacing=spacing, normalize=("none",), crop=True), options


@pytest.mark.parametrize("outputs", [3, 40])
@pytest.mark.parametrize("name", CASES)
def test_labels_are_those_of_the_whole_case_however_many_blocks(name, outputs):
    volume, settings, options = made(CASES[name])
    fn = network(outputs)
    expected = plain(fn, volume, settings, **options)
    assert len(np.unique(expected)) > 2
    for memory in blocks_of(volume, settings, options, outputs):
        found = predict.predict_case(fn, volume, settings, num_classes=outputs, memory=memory, **options)
        assert_array_equal(found.labels, expected)


def blocks_of(volume, settings, options, outputs):
    """Memory for one block, for two and for as many as there can be."""
    image, record = preprocess.forward(volume, settings)
    names = ("ndim", "window", "overlap")
    place = layout(image.shape[:-1], **{name: options[name] for name in names if name in options})
    sizes = dict(channels=outputs, image_channels=1, batch_size=options.get("batch_size", 1))
    plans = [plan_blocks(record, place, **sizes), plan_blocks(record, place, memory=0, **sizes)]
    assert len(plans[0].rows) == 1 and (len(plans[1].rows) > 1 or len(place.starts[1]) == 1)
    return [None, *(plan.bytes for plan in plans)]
