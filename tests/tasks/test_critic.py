"""A critic of masks: what it sees, what it hides, and that it adds to the network's own loss and nothing else."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rivals

from jaxseg import losses, tasks
from jaxseg.tasks.players import DISCRIMINATOR, JUDGED, Rules
from jaxseg.train import optim, step
from jaxseg.train import state as states

KEY = jax.random.key(2)
REGIONS = ((1, 2), (2,))
MODEL = "model"


class Linear(nn.Module):
    """A network that is one matrix, with batch norm before it on request."""

    num_classes: int = 3
    norm: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image, train=False):
        if self.norm:
            image = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name, name="norm")(image)
        return nn.Dense(self.num_classes, name="head")(image), {}


def made(*, judge=None, rules=None, regions=None, norm=False, sync=False):
    """(the semantic task, the same with a critic)"""
    text = "dice_loss(activation='sigmoid') + binary_cross_entropy" if regions else "cross_entropy"
    loss, model = losses.from_string(text), Linear(2 if regions else 3, norm)
    options = {"num_classes": 3, "regions": regions, "sync_batch_norm": sync}
    plain = tasks.semantic(model, loss, **options)
    return plain, tasks.with_critic(plain, model, judge or rivals.Judge(), rules or Rules(), loss, **options)


def batch(count=2):
    image = jax.random.normal(jax.random.key(0), (count, 4, 6, 2))
    label = jnp.zeros((count, 4, 6), jnp.int32).at[:, 1:3, 2:5].set(1).at[:, 2, 3].set(2).at[:, 0].set(-1)
    return {"image": image, "label": label, "index": jnp.arange(count, dtype=jnp.int32)}


def same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("regions", [None, REGIONS])
@pytest.mark.parametrize("rules", [Rules(weight=0.0), Rules(start=1)])
def test_a_critic_without_a_say_changes_nothing(rules, regions):
    data = batch()
    plain, both = made(rules=rules, regions=regions)
    params, extra = jax.jit(both.init)(KEY, data["image"][:1])
    own = jax.jit(plain.init)(KEY, data["image"][:1])
    same((params[MODEL], extra[MODEL]), (own[0][MODEL], own[1][MODEL]))
    assert tuple(both.losses) == (DISCRIMINATOR, MODEL)

    def value(task, params, extra):
        derive = jax.jit(jax.value_and_grad(task.losses[MODEL], has_aux=True))
        (value, (figures, _)), gradient = derive(params, extra, data, KEY)
        return value, figures["counts"], gradient[MODEL]

    extra[JUDGED] = jnp.int32(1)
    same(value(both, params, extra), value(plain, *own))
    variables = {"params": params, "extra": extra}
    same(both.predict(variables, data["image"]), plain.predict({"params": own[0], "extra": own[1]}, data["image"]))


def test_what_the_critic_says_is_added():
    data = batch()
    plain, both = made(rules=Rules(loss="hinge", weight=3.0))
    params, extra = both.init(KEY, data["image"][:1])
    extra[JUDGED] = jnp.int32(1)
    value, (figures, after) = both.losses[MODEL](params, extra, data, KEY)
    own = plain.losses[MODEL]({MODEL: params[MODEL]}, {MODEL: extra[MODEL]}, data, KEY)[0]
    # its logit is the mean of two channels of the image and of a mask whose three planes add up to 1 where it is seen
    seen = np.asarray(data["label"]) >= 0
    fooled = -((np.asarray(data["image"]).sum(-1) + seen) / 5).mean()
    assert float(figures["loss/segmentation"]) == float(own)
    assert float(figures["loss/adversarial"]) == pytest.approx(fooled, rel=1e-5)
    assert float(value) == pytest.approx(float(own) + 3 * fooled, rel=1e-5)
    assert after[DISCRIMINATOR] == extra[DISCRIMINATOR] and int(after[JUDGED]) == 1


@pytest.mark.parametrize("regions", [None, REGIONS])
def test_both_masks_hide_what_nobody_labelled(regions):
    data, judge = batch(), rivals.Judge()
    _, both = made(judge=judge, regions=regions)
    params, extra = both.init(KEY, data["image"][:1])

    def masks(image):
        _, (_, after) = both.losses[DISCRIMINATOR](params, extra, {**data, "image": image}, KEY)
        assert int(after[JUDGED]) == 1 and float(after[DISCRIMINATOR]["spectral"]["calls"]) == 1
        np.testing.assert_array_equal(judge.shown[-1][..., :2], np.concatenate([image, image]))
        return np.split(np.asarray(judge.shown[-1][..., 2:]), 2)

    true, guessed = masks(data["image"])
    label = np.asarray(data["label"])
    planes = [label == 0, label == 1, label == 2] if regions is None else [label > 0, label == 2]
    np.testing.assert_array_equal(true, np.stack(planes, -1))
    assert not guessed[:, 0].any() and (guessed[:, 1:] > 0).all()
    logits = np.asarray(data["image"]) @ params[MODEL]["head"]["kernel"] + params[MODEL]["head"]["bias"]
    sure = jax.nn.softmax(logits) if regions is None else jax.nn.sigmoid(logits)
    np.testing.assert_allclose(guessed[:, 1:], sure[:, 1:], rtol=1e-5)
    same(masks(data["image"].at[:, 0].add(5.0)), [true, guessed])  # another prediction there


def test_only_whose_loss_it_is_learns():
    data = batch()
    _, both = made(rules=Rules(loss="logistic"))
    params, extra = both.init(KEY, data["image"][:1])
    extra[JUDGED] = jnp.int32(1)
    judging = jax.jit(jax.grad(lambda p: both.losses[DISCRIMINATOR](p, extra, data, KEY)[0]))(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(judging[MODEL]))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(judging[DISCRIMINATOR]))


def test_batch_statistics_are_those_of_all_devices_on_request():
    data = batch(4)
    data["image"] = data["image"].at[2:].add(3.0)  # the second device's images are brighter
    parts = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), data)

    def variance(task, given, **options):
        params, extra = jax.jit(task.init)(KEY, data["image"])

        def run(part):
            return task.losses[MODEL](params, extra, part, KEY, **options)[1][1][MODEL]["batch_stats"]["norm"]["var"]

        return jax.jit(jax.vmap(run, axis_name="batch") if options else run)(given)

    whole = variance(made(norm=True)[1], data)
    together = variance(made(norm=True, sync=True)[1], parts, axis_name="batch")
    np.testing.assert_allclose(together, jnp.stack([whole, whole]), rtol=1e-5)
    apart = variance(made(norm=True)[1], parts, axis_name="batch")
    assert (apart.mean(0) < 0.99 * whole).all()


def test_steps_alone_and_on_devices_together_are_alike():
    data = batch(4)
    rules = Rules(
        loss="relativistic", feature_matching=1.0, augment={"brightness": 0.5, "translation": 0.0, "cutout": 0.0}
    )
    _, both = made(rules=rules)
    optimizers = {group: optim.optimizer("sgd", weight_decay=0.0, no_decay="", momentum=0.5) for group in both.losses}
    run = step.make_step(both, optimizers, optim.schedule("constant", lr=0.01))
    state = states.create(KEY, both, data["image"][:1], optimizers, horizon=2, ema=False)
    one, figures = jax.jit(run)(state, data, KEY)
    parts = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), data)
    mapped = jax.vmap(
        functools.partial(run, axis_name="batch"), axis_name="batch", in_axes=(None, 0, None), out_axes=None
    )
    two, theirs = jax.jit(mapped)(state, parts, KEY)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(two)):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(figures["counts"], 2 * theirs["counts"])  # their mean over devices has the same ratios
    for name in ("loss", "loss/segmentation", "loss/adversarial", "loss/feature_matching", "loss/discriminator"):
        np.testing.assert_allclose(figures[name], theirs[name], rtol=1e-4)
    assert not np.array_equal(one.params[MODEL]["head"]["kernel"], state.params[MODEL]["head"]["kernel"])
