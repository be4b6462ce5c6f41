import importlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses
from jaxseg.losses import combine
from jaxseg.typing import UserError

RNG = np.random.default_rng(6)
LOGITS = RNG.normal(size=(2, 8, 12, 3)).astype(np.float32)
LABELS = RNG.integers(0, 3, (2, 8, 12))
LABELS[0, :2] = -1


def test_a_string_is_the_weighted_sum_of_its_terms():
    loss = losses.from_string("dice_loss(ignore_background=True, smooth=1e+0) + 0.5*cross_entropy+focal_loss * 2")
    expected = (
        losses.dice_loss(LOGITS, LABELS, ignore_background=True, smooth=1.0, ignore_label=-1)
        + 0.5 * losses.cross_entropy(LOGITS, LABELS, ignore_label=-1)
        + 2 * losses.focal_loss(LOGITS, LABELS, ignore_label=-1)
    )
    np.testing.assert_allclose(loss(LOGITS, LABELS), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(loss)(LOGITS, LABELS), expected, rtol=1e-5)


def test_the_ignored_label_can_be_another_or_none():
    labels = np.where(LABELS == -1, 2, LABELS)
    counted = losses.cross_entropy(LOGITS, labels)
    np.testing.assert_allclose(
        losses.from_string("cross_entropy", ignore_label=None)(LOGITS, labels), counted, rtol=1e-6
    )
    own = losses.from_string("cross_entropy(ignore_label=2)")(LOGITS, labels)
    np.testing.assert_allclose(own, losses.cross_entropy(LOGITS, labels, ignore_label=2), rtol=1e-6)


def test_the_axis_name_reaches_the_terms():
    loss = losses.from_string("dice_loss(batch=True) + cross_entropy")
    mapped = jax.vmap(lambda x, y: loss(x, y, axis_name="devices"), axis_name="devices")
    found = mapped(LOGITS[:, None], LABELS[:, None]).reshape(2)
    np.testing.assert_allclose(found, loss(LOGITS, LABELS), rtol=1e-5)


def test_losses_from_outside(monkeypatch):
    outside = types.ModuleType("my_lab")
    outside.plain = lambda logits, labels, *, scale: jnp.full(logits.shape[0], scale)
    outside.open = lambda logits, labels, **options: jnp.full(logits.shape[0], float(options["ignore_label"]))
    monkeypatch.setitem(sys.modules, "my_lab", outside)
    found = losses.from_string("2*my_lab:plain(scale=3.0) + my_lab:open")(LOGITS, LABELS)
    np.testing.assert_allclose(found, [5.0, 5.0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dise_loss", "did you mean dice_loss"),
        ("dice_loss + ", "a term is empty"),
        ("", "a term is empty"),
        ("dice_loss(smoth=1.0)", "did you mean smooth"),
        ("dice_loss(1.0)", "only keyword arguments"),
        ("dice_loss(smooth=", "should read like"),
        ("big*dice_loss", "should be a number, but is 'big'"),
        ("dice_loss - cross_entropy", "There is no loss named"),
        ("dice_loss cross_entropy", "There is no loss named 'dice_loss cross_entropy'"),
        ("no_such_package:loss", "cannot be imported"),
        ("my_lab:plain", "needs the option scale"),
    ],
)
def test_bad_strings_are_answered_in_a_sentence(text, message, monkeypatch):
    outside = types.ModuleType("my_lab")
    outside.plain = lambda logits, labels, *, scale: scale
    monkeypatch.setitem(sys.modules, "my_lab", outside)
    with pytest.raises(UserError, match=message) as caught:
        losses.from_string(text)
    assert "\n" not in str(caught.value)


def test_the_table_and_the_package_agree():
    assert losses.names() == tuple(sorted(losses.TABLE))
    for name, path in losses.TABLE.items():
        module, attribute = path.split(":")
        assert getattr(losses, name) is getattr(importlib.import_module(module), attribute)
        assert callable(losses.from_string(name))


def test_level_weights_are_those_of_nnunet():
    assert combine.level_weights(1) == (1.0,)
    assert combine.level_weights(2) == (1.0, 0.0)
    np.testing.assert_allclose(combine.level_weights(3), (2 / 3, 1 / 3, 0))
    np.testing.assert_allclose(combine.level_weights(4), (4 / 7, 2 / 7, 1 / 7, 0))


@pytest.mark.parametrize(
    ("size", "rows", "columns"), [((4, 6), [1, 3, 5, 7], [1, 3, 5, 7, 9, 11]), ((3, 5), [1, 4, 6], [1, 3, 6, 8, 10])]
)
def test_labels_are_taken_at_the_centre(size, rows, columns):
    found = combine.downsample_labels(jnp.asarray(LABELS), size)
    np.testing.assert_array_equal(found, LABELS[:, rows][:, :, columns])
    soft = jnp.asarray(LOGITS)
    np.testing.assert_array_equal(combine.downsample_labels(soft, size), LOGITS[:, rows][:, :, columns])


def test_labels_of_volumes_shrink_axis_by_axis():
    labels = np.arange(2 * 2 * 9 * 8).reshape(2, 2, 9, 8)
    np.testing.assert_array_equal(combine.downsample_labels(labels, (2, 3, 2)), labels[:, :, 1::3, 2::4])


def test_deep_supervision_adds_the_levels():
    levels = [LOGITS, LOGITS[:, ::2, ::2], LOGITS[:, ::4, ::4]]
    loss = losses.from_string("dice_loss + cross_entropy")
    deep = losses.deep_supervision(loss)
    first, second = loss(LOGITS, LABELS), loss(levels[1], LABELS[:, 1::2, 1::2])
    np.testing.assert_allclose(deep(levels, LABELS), first * 2 / 3 + second / 3, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(deep)(levels, LABELS), first * 2 / 3 + second / 3, rtol=1e-5)
    np.testing.assert_allclose(deep([LOGITS], LABELS), first, rtol=1e-6)
    third = loss(levels[2], LABELS[:, 2::4, 2::4])
    np.testing.assert_allclose(deep(levels, LABELS, weights=(0, 0, 2)), 2 * third, rtol=1e-5)
    np.testing.assert_allclose(losses.deep_supervision(loss, (0, 0, 2))(levels, LABELS), 2 * third, rtol=1e-5)
    soft = np.where(LABELS[..., None] == -1, -1, np.eye(3)[LABELS]).astype(np.float32)
    np.testing.assert_allclose(deep(levels, soft), deep(levels, LABELS), rtol=1e-5)
    with pytest.raises(ValueError, match="one weight a level"):
        deep(levels, LABELS, weights=(1, 1))


def test_the_package_is_light():
    code = (
        "import sys, jax, optax, jaxtyping; base = {m.split('.')[0] for m in sys.modules}\n"
        "import jaxseg.losses; print(*sorted({m.split('.')[0] for m in sys.modules} - base))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added = set(done.stdout.split())
    assert "jaxseg" in added and added <= {"jaxseg", *sys.stdlib_module_names}
