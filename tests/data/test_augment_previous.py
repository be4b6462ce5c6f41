"""The previous stage's class map: it moves with the label, gets plausible mistakes, and ends as channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jaxseg.data import augment
from jaxseg.data.augment import previous
from jaxseg.typing import IGNORE

SHAPE = (7, 9, 11)


def made(seed=0, shape=SHAPE, classes=3):
    draw = np.random.default_rng(seed)
    label = draw.integers(-1, classes, (2, *shape)).astype(np.int32)
    return {
        "image": jnp.asarray(draw.normal(size=(2, *shape, 1)), jnp.float32),
        "label": jnp.asarray(label),
        "previous": jnp.asarray(draw.integers(0, classes, (2, *shape)), jnp.int32),
        "index": jnp.arange(2),
    }


def quiet(function, **options):
    return previous.with_previous(
        function, num_classes=3, morphology_probability=0.0, removal_probability=0.0, **options
    )


def test_channels_behind_the_image():
    image = np.full((2, 2, 1), 5.0, np.float32)
    joined = previous.append(image, np.array([[0, 1], [2, 1]]), num_classes=3)
    assert isinstance(joined, np.ndarray) and joined.dtype == np.float32
    np.testing.assert_array_equal(joined[..., 0], 5)
    np.testing.assert_array_equal(joined[..., 1], [[0, 1], [0, 1]])
    np.testing.assert_array_equal(joined[..., 2], [[0, 0], [1, 0]])


def test_without_transforms_nothing_moves():
    batch = made()
    found = quiet(augment.none)(jax.random.key(0), batch)
    assert set(found) == {"image", "label", "index"}
    np.testing.assert_array_equal(found["label"], batch["label"])  # IGNORE too
    expected = previous.append(batch["image"], batch["previous"], num_classes=3)
    np.testing.assert_array_equal(found["image"], expected)


def test_both_maps_move_alike_and_flips_exchange_pairs_in_both():
    batch = made()
    batch["label"] = batch["previous"]  # then what becomes of both must agree, whatever is drawn
    pairs = previous.packed_pairs(((1, 2),), num_classes=3)

    def function(key, sample):
        first, second = jax.random.split(key)
        turned = augment.rotate_scale(first, sample, probability=1.0)
        return augment.mirror(second, turned, probability=0.5, pairs=pairs)

    found = jax.jit(quiet(function))(jax.random.key(3), batch)
    planes = np.asarray(found["image"][..., 1:])
    for number in (1, 2):
        np.testing.assert_array_equal(planes[..., number - 1] == 1, found["label"] == number)
    assert (np.asarray(found["label"]) != np.asarray(batch["label"])).any()


def test_pairs_of_the_joined_map_are_an_exchange_of_both():
    pairs = previous.packed_pairs(((1, 2),), num_classes=3)
    label, before = np.meshgrid([0, 1, 2, 3], [0, 1, 2], indexing="ij")  # 3: IGNORE
    swap = np.array([0, 2, 1, 3])
    turned = augment.spatial.exchange(jnp.asarray(label + 4 * before), pairs)
    np.testing.assert_array_equal(turned, swap[label] + 4 * swap[before])
    assert previous.packed_pairs((), num_classes=5) == ()


def test_a_fill_with_ignore_stays_ignore():
    batch = made(shape=(9, 9))
    found = quiet(
        lambda key, sample: augment.rotate_scale(key, sample, probability=1.0, scale=(2.0, 2.0), label_fill=-1)
    )(jax.random.key(0), batch)
    corner = np.asarray(found["label"])[:, 0, 0]
    np.testing.assert_array_equal(corner, IGNORE)
    np.testing.assert_array_equal(found["image"][:, 0, 0, 1:], 0)


@pytest.mark.parametrize(("which", "name"), list(enumerate(["dilation", "erosion", "opening", "closing"])))
def test_balls_are_scipys(which, name):
    """Each of the four with the radius that was drawn, against a ball as structuring element on an unbounded grid."""
    mask = np.zeros((21, 23), bool)
    mask[8:14, 7:16] = True
    mask[10, 11] = False
    before = np.where(mask, 1, 0)
    before[1, 1] = 2
    for seed in range(40):
        key = jax.random.key(seed)
        kind, size = jax.random.split(key)
        radius = float(jax.random.uniform(size)) * 7 + 1
        if int(jax.random.randint(kind, (), 0, 4)) == which and radius < 4:
            break
    else:
        raise AssertionError("no seed draws this operation")
    found = np.asarray(previous._reshape(key, jnp.asarray(before), number=jnp.asarray(1)))
    reach = np.arange(-8, 9)
    ball = np.hypot(*np.meshgrid(reach, reach)) <= radius
    operation = getattr(scipy.ndimage, f"binary_{name}")
    expected = operation(np.pad(mask, 10), ball)[10:-10, 10:-10]
    np.testing.assert_array_equal(found == 1, expected)
    assert found[1, 1] == (
        1 if expected[1, 1] else 2
    )  # what is gained is taken from others, what is lost is background
    assert not (found[mask & ~expected]).any()


def test_one_small_part_is_removed_and_a_large_one_stays():
    before = np.zeros((10, 10), np.int32)
    before[:5, :6] = 1  # 30 %: too large
    before[7, 1:3] = before[7, 5] = before[9, 9] = 1
    before[8, 1] = 2
    seen = set()
    for seed in range(30):
        found = np.asarray(previous._remove_part(jax.random.key(seed), jnp.asarray(before), number=jnp.asarray(1)))
        gone = np.argwhere(found != before)
        seen.add(tuple(map(tuple, gone.tolist())))
    assert seen == {((7, 1), (7, 2)), ((7, 5),), ((9, 9),)}
    whole = jnp.ones((4, 4), jnp.int32)
    np.testing.assert_array_equal(previous._remove_part(jax.random.key(0), whole, number=jnp.asarray(1)), 1)


def test_how_often_mistakes_are_made():
    before = np.zeros((12, 12), np.int32)
    before[3:8, 3:8], before[9:11, 9:11] = 1, 2
    keys = jax.random.split(jax.random.key(1), 600)

    @jax.jit
    def changed(keys):
        corrupt = lambda key: previous.corrupt(key, jnp.asarray(before), num_classes=3, removal_probability=0.0)  # noqa: E731
        return jax.lax.map(lambda key: (corrupt(key) != before).any(), keys)

    # 0.4 for any class at all, then 1/2 for each of two; opening may leave a class as it is
    share = float(changed(keys).mean())
    assert 0.2 < share < 0.4 * 0.75 + 0.05


def test_a_pipeline_named_in_a_config():
    run = jax.jit(augment.from_string("rotate_scale|gamma|mirror", patch_size=SHAPE, num_classes=3, with_previous=True))
    found = run(jax.random.key(0), made())
    assert found["image"].shape == (2, *SHAPE, 3) and set(np.unique(found["image"][..., 1:])) <= {0.0, 1.0}
