"""Class ids in bounded memory: bit by bit those of sums over the whole case, and no array of the size of a case."""

import itertools
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxseg import predict
from jaxseg.data import orientation, preprocess, resample
from jaxseg.data.volume import identity_affine
from jaxseg.predict import bounded
from jaxseg.predict.bounded import plan_blocks, predict_labels
from jaxseg.predict.planes import layout
from jaxseg.predict.sliding_window import importance
from jaxseg.typing import UserError, Volume


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


MANY = {"resampled": 40, "flips": 40, "slices": 101}


@pytest.mark.parametrize("name", CASES)
def test_labels_are_those_of_the_whole_case_however_many_blocks(name):
    volume, settings, options = made(CASES[name])
    outputs = MANY.get(name, 3)
    fn = network(outputs)
    expected = plain(fn, volume, settings, **options)
    assert len(np.unique(expected)) > 2
    for memory in blocks_of(volume, settings, options, outputs):
        found = predict.predict_case(fn, volume, settings, num_classes=outputs, memory=memory, **options)
        assert_array_equal(found.labels, expected)


def test_regions_are_painted_in_their_order_in_each_block():
    volume, settings, options = made(CASES["resampled"])
    fn, options["regions"] = network(3, sigmoid=True), ((1, 2, 3), (3, 2), (2,))
    expected = plain(fn, volume, settings, **options)
    assert set(np.unique(expected)) == {0, 1, 2, 3}
    for memory in blocks_of(volume, settings, options, 3):
        found = predict.predict_case(fn, volume, settings, num_classes=4, memory=memory, **options)
        assert_array_equal(found.labels, expected)


def test_logits_of_blocks_become_classes_on_the_grid_of_the_file():
    volume, settings, options = made(CASES["anisotropic"])

    raw = network(5)

    def fn(image):
        return jnp.log(raw(image))

    expected = plain(fn, volume, settings, **options)
    for memory in blocks_of(volume, settings, options, 5):
        found = predict.predict_case(fn, volume, settings, num_classes=5, memory=memory, logits=True, **options)
        assert_array_equal(found.labels, expected)


def blocks_of(volume, settings, options, outputs):
    """Memory that is enough for all rows at once, and for as many blocks as there can be."""
    image, record = preprocess.forward(volume, settings)
    names = ("ndim", "window", "overlap")
    place = layout(image.shape[:-1], **{name: options[name] for name in names if name in options})
    sizes = dict(channels=outputs, image_channels=1, batch_size=options.get("batch_size", 1))
    sizes["flips"] = len(options.get("flip_axes", ()))
    plans = [plan_blocks(record, place, **sizes), plan_blocks(record, place, memory=0, **sizes)]
    assert len(plans[0].rows) == 1 and (len(plans[1].rows) > 1 or len(place.starts[1]) == 1)
    return [plan.bytes for plan in plans]


def peak_of(planes, *, outputs=30, rows=1):
    """Bytes that NumPy takes at once for a case of so many planes, and the estimate; the image is there already."""
    shape, window = (planes, 40, 36), (6, 10, 12)
    record = {"shape": shape, "new_shape": shape, "axes": (0, 1, 2), "flips": (False,) * 3}
    record |= {"spacing": (1.0,) * 3, "target_spacing": (1.0,) * 3, "box": [[0, size] for size in shape]}
    image, place = np.zeros((*shape, 1), np.float32), layout(shape, ndim=3, window=window, overlap=0.2)
    output = jnp.ones((1, *window, outputs)) / outputs
    sizes = dict(channels=outputs, image_channels=1)
    memory = None if rows == 1 else 0
    plan = plan_blocks(record, place, memory=memory, **sizes)
    tracemalloc.start()
    predict_labels(lambda batch: output, image, record, place, channels=outputs, memory=plan.bytes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < plan.bytes
    return peak, len(plan.rows)


def test_memory_does_not_grow_with_planes_times_classes(monkeypatch):
    monkeypatch.setattr(bounded, "SLAB_BYTES", 2**16)
    plane = 40 * 36
    (short, _), (long, _) = peak_of(20), peak_of(60)
    # int16 class ids, and nothing else of the 30 float32 a voxel that all outputs would be.
    assert long - short < 3 * 40 * plane
    assert long < 0.3 * 60 * plane * 30 * 4


def test_blocks_of_rows_take_less_at_once(monkeypatch):
    monkeypatch.setattr(bounded, "SLAB_BYTES", 2**16)
    (whole, one), (cut, several) = peak_of(20), peak_of(20, rows=0)
    assert one == 1 and several == 5 and cut < 0.6 * whole


def test_what_cannot_fit_is_told_before_anything_is_predicted():
    volume, settings, options = made(CASES["3D"])

    def never(image):
        raise AssertionError("was asked")

    with pytest.raises(
        UserError, match=r"scan.nii.gz with 3 outputs .* needs about .* 0.0 GiB are left; choose .*predict.memory_gib"
    ):
        predict.predict_case(never, volume, settings, num_classes=3, memory=1000, **options)
    with pytest.raises(UserError, match=r"all probabilities .* predict.probabilities"):
        predict.predict_case(never, volume, settings, num_classes=3, memory=1000, keep_probabilities=True, **options)


def test_another_number_of_outputs_is_a_fault():
    volume, settings, options = made(CASES["2D"])
    with pytest.raises(ValueError, match="should give 4 outputs, got 3"):
        predict.predict_case(network(3), volume, settings, num_classes=4, **options)
