"""Translation without pairs by hand: there and back, who judges what, and a pool that is replayed image by image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rivals
import toys

from jaxseg import models, tasks
from jaxseg.tasks.cycle import BACKWARD, FORWARD, POOL
from jaxseg.tasks.players import DISCRIMINATOR, GENERATOR, JUDGED, Rules
from jaxseg.train import optim, step
from jaxseg.train import state as states

KEY = jax.random.key(4)
HINGE = Rules(loss="hinge", feature_matching=7.0)
TWO = tasks.Intensities(("zscore", "unit"))


def unpaired(*, gains=(1.0, 1.0), channels=(1, 1), rules=HINGE, cycle=None, judge=None, **options):
    """Of the source's channel 0 a zscore is given, of the target's channel 1 values from 0 to 1 are made."""
    makers = [rivals.Generator(gain=gain, channels=count) for gain, count in zip(gains, channels)]
    own = {"source": (0,), "target": (1,), "intensities": TWO, "other": TWO}
    return tasks.unpaired(
        {FORWARD: makers[0], BACKWARD: makers[1]},
        judge or rivals.Judge(),
        rules,
        cycle or tasks.Cycle(pool=3),
        **{**own, **options},
    )


def images(count=2, *, seed=0):
    draw = np.random.default_rng(seed)
    high = draw.uniform(0.0, 0.9, (2, count, 4, 6))  # encoded
    source = np.stack([3 * high[0], np.full_like(high[0], 0.9)], -1)
    target = np.stack([np.full_like(high[1], -2.0), high[1] / 2 + 0.5], -1)
    batch = {"image": source, "other": target}
    return jax.tree.map(jnp.float32, batch) | {"index": jnp.arange(count, dtype=jnp.int32)}, high[0], high[1]


def begun(task, batch):
    """(parameters, the rest), after a first lesson of the judges, so that they have a say."""
    params, extra = task.init(KEY, batch["image"][:1])
    return params, {**extra, JUDGED: jnp.int32(1)}


def test_generators_that_change_nothing_err_nowhere():
    batch, _, _ = images()
    task = unpaired()
    params, extra = begun(task, batch)
    value, (figures, _) = task.losses[GENERATOR](params, extra, batch, KEY)
    assert float(figures["error/cycle"]) == float(figures["error/identity"]) == 0.0
    assert float(value) == float(figures["loss/generator"]) == pytest.approx(float(figures["loss/adversarial"]))
    assert "loss/feature_matching" not in figures  # there are no pairs
    variables = {"params": params, "extra": extra}
    made = task.predict(variables, jnp.array([-3.0, 0.0, 1.5, 60.0]).reshape(1, 2, 2, 1))
    np.testing.assert_allclose(made.ravel(), [0.0, 0.5, 0.75, 1.0])  # the source's range to the target's


def test_there_and_back_and_identity_by_hand():
    batch, source, target = images()
    there, back = 0.5, 0.8
    task = unpaired(gains=(there, back), cycle=tasks.Cycle(cycle=4.0, identity=0.25, pool=0))
    params, extra = begun(task, batch)
    value, (figures, after) = task.losses[GENERATOR](params, extra, batch, KEY)
    cycle = (1 - there * back) * (source.mean() + target.mean())  # the sum of both sides
    identity = (1 - there) * target.mean() + (1 - back) * source.mean()
    fooled = -(there * source.mean() + back * target.mean())  # each side's judge says what it sees
    assert float(figures["error/cycle"]) == pytest.approx(cycle, rel=1e-5)
    assert float(figures["error/identity"]) == pytest.approx(identity, rel=1e-5)
    assert float(figures["loss/adversarial"]) == pytest.approx(fooled, rel=1e-5)
    assert float(value) == pytest.approx(fooled + 4 * cycle + 4 * 0.25 * identity, rel=1e-5)
    assert {way: float(after[GENERATOR][way]["seen"]["calls"]) for way in (FORWARD, BACKWARD)} == {
        FORWARD: 1,
        BACKWARD: 1,
    }
    assert float(figures["diversity"]) == pytest.approx(
        float(np.std(there * source, axis=0).mean() / np.std(target, axis=0).mean()), rel=1e-4
    )


def test_sides_of_unequal_channels_have_no_identity():
    batch, _, _ = images()
    maker = models.create_generator("resnet_generator", channels=2, features=2, downs=1, blocks=1)
    task = tasks.unpaired(
        {FORWARD: rivals.Generator(gain=0.5), BACKWARD: maker},
        rivals.Judge(),
        HINGE,
        tasks.Cycle(cycle=1.0, identity=0.0, pool=2),
        source=(0, 1),
        target=(1,),
        intensities=TWO,
        other=TWO,
    )
    params, extra = jax.eval_shape(task.init, KEY, batch["image"][:1])
    assert {side: pool.images.shape for side, pool in extra[POOL].items()} == {
        "source": (2, 4, 6, 2),
        "target": (2, 4, 6, 1),
    }
    _, (figures, _) = jax.eval_shape(task.losses[GENERATOR], params, extra, batch, KEY)
    assert "error/identity" not in figures and "error/cycle" in figures


def test_each_side_has_a_judge_of_its_own():
    batch, source, target = images()
    task = unpaired(gains=(0.5, 0.8), cycle=tasks.Cycle(cycle=0.0, identity=0.0, pool=0))
    params, extra = begun(task, batch)
    numbers = {"source": (0.1, 0.2), "target": (-0.3, 0.4)}
    params[DISCRIMINATOR] = {
        side: {"weight": jnp.float32(weight), "bias": jnp.float32(bias)} for side, (weight, bias) in numbers.items()
    }

    def says(side, image):
        weight, bias = numbers[side]
        return weight * image + bias

    fooled = -says("target", 0.5 * source).mean() - says("source", 0.8 * target).mean()
    assert float(task.losses[GENERATOR](params, extra, batch, KEY)[0]) == pytest.approx(fooled, rel=1e-5)
    value, (figures, after) = task.losses[DISCRIMINATOR](params, extra, batch, KEY)
    judged = [(1 - says("target", target)).mean() + (1 + says("target", 0.5 * source)).mean()]
    judged += [(1 - says("source", source)).mean() + (1 + says("source", 0.8 * target)).mean()]
    assert float(value) == float(figures["loss/discriminator"]) == pytest.approx(sum(judged), rel=1e-5)
    shares = [(says("target", target) > 0).mean(), (says("source", source) > 0).mean()]
    assert float(figures["accuracy/real"]) == pytest.approx(np.mean(shares), rel=1e-5)
    assert float(figures["accuracy/fake"]) == pytest.approx(0.0)
    assert {side: float(own["spectral"]["calls"]) for side, own in after[DISCRIMINATOR].items()} == {
        "source": 1,
        "target": 1,
    }


def replayed(pool, filled, made, key):
    """One exchange, image by image: (pool, filled, what is shown)."""
    pool, shown = pool.copy(), []
    for number, image in enumerate(made):
        whether, where = jax.random.split(jax.random.fold_in(key, number))
        if filled < len(pool):
            pool[filled], filled = image, filled + 1
            shown.append(image)
        elif float(jax.random.uniform(whether)) < 0.5:
            place = int(jax.random.randint(where, (), 0, len(pool)))
            shown.append(pool[place].copy())
            pool[place] = image
        else:
            shown.append(image)
    return pool, filled, np.stack(shown)


def test_the_pool_changes_in_the_judges_loss_alone_as_replayed_by_hand():
    judge = rivals.Judge()
    task = unpaired(gains=(0.5, 0.8), judge=judge)
    batch, _, _ = images()
    params, extra = begun(task, batch)
    pools = {side: (np.zeros((3, 4, 6, 1), np.float32), 0) for side in ("target", "source")}
    swapped = 0
    for turn in range(4):
        batch, source, target = images(seed=turn)
        key = jax.random.fold_in(KEY, turn)
        _, (_, same) = task.losses[GENERATOR](params, extra, batch, key)
        assert same[POOL] is extra[POOL] and same[DISCRIMINATOR] is extra[DISCRIMINATOR]
        judge.shown.clear()
        _, (_, after) = task.losses[DISCRIMINATOR](params, extra, batch, key)
        assert after[GENERATOR] is extra[GENERATOR] and int(after[JUDGED]) == turn + 2
        made = {"target": 0.5 * source[..., None], "source": 0.8 * target[..., None]}
        true = {"target": target[..., None], "source": source[..., None]}
        for number, side in enumerate(("target", "source")):
            own = jax.random.fold_in(key, 10 + number)
            *pools[side], shown = replayed(*pools[side], made[side].astype(np.float32), own)
            np.testing.assert_allclose(judge.shown[number], np.concatenate([true[side], shown]), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(after[POOL][side].images, pools[side][0], rtol=1e-5, atol=1e-6)
            assert int(after[POOL][side].filled) == pools[side][1]
            swapped += not np.allclose(shown, made[side], atol=1e-6)
        extra = after
    assert swapped > 0


def test_only_whose_loss_it_is_learns():
    batch, _, _ = images()
    task = unpaired(gains=(0.5, 0.8), rules=Rules(loss="logistic"))
    params, extra = begun(task, batch)

    def value(params, group):
        return task.losses[group](params, extra, batch, KEY)[0]

    judging, making = jax.jit(lambda params: [jax.grad(value)(params, group) for group in GROUPS])(params)
    assert not any(map(float, jax.tree.leaves(judging[GENERATOR])))
    assert all(map(float, jax.tree.leaves((judging[DISCRIMINATOR], making[GENERATOR]))))


GROUPS = (DISCRIMINATOR, GENERATOR)


def optimizers():
    return {group: optim.optimizer("adam", weight_decay=0.0, no_decay="") for group in GROUPS}


def stepper(task, **options):
    return step.make_step(task, optimizers(), optim.schedule("constant", lr=0.02), **options)


def begin(task, batch):
    return states.create(KEY, task, batch["image"][:1], optimizers(), horizon=10, ema=False)


def test_devices_together_share_pools_and_do_as_one():
    rules = Rules(loss="least_squares", augment={"brightness": 0.5, "translation": 0.0, "cutout": 0.0})
    task = unpaired(gains=(0.5, 0.8), rules=rules)
    batch, _, _ = images(4)
    run, one = stepper(task), begin(task, batch)
    two, alone = one, jax.jit(run)
    together = jax.jit(
        jax.vmap(functools.partial(run, axis_name="batch"), axis_name="batch", in_axes=(None, 0, None), out_axes=None)
    )
    for turn in range(3):
        batch, _, _ = images(4, seed=turn)
        parts = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), batch)
        (one, figures), (two, theirs) = alone(one, batch, KEY), together(two, parts, KEY)
        for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(two)):
            np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)
        for name in set(figures) - {"diversity"}:  # of each device's own images
            np.testing.assert_allclose(figures[name], theirs[name], rtol=1e-4, atol=1e-6)
    assert int(two.extra[POOL]["source"].filled) == 3 and float(jnp.abs(two.extra[POOL]["source"].images).min()) > 0


def test_a_step_of_real_players_is_finite_and_moves_both():
    draw = np.random.default_rng(0)
    batch = {name: draw.uniform(-1, 1, (1, 12, 16, 2)).astype(np.float32) for name in ("image", "other")}
    batch["index"] = np.arange(1, dtype=np.int32)
    maker = models.create_generator("pix2pix", features=2, n_downs=2, dropout=0.0)
    task = tasks.unpaired(
        {FORWARD: maker, BACKWARD: maker},
        models.create_discriminator("patch_gan", features=2, layers=1, spectral=True),
        Rules(loss="least_squares"),
        tasks.Cycle(pool=2),
        source=(0,),
        target=(1,),
        intensities=TWO,
        other=TWO,
    )
    before = begin(task, batch)
    traces, run = [], stepper(task)

    def counted(*given):
        traces.append(1)
        return run(*given)

    compiled = jax.jit(counted)
    after, metrics = compiled(before, batch, KEY)
    assert all(np.isfinite(value).all() for value in metrics.values())
    for group in GROUPS:
        kernels = [toys.kernels(state.params[group]) for state in (before, after)]
        assert all(not np.array_equal(*pair) for pair in zip(*kernels))
    for ways in after.params.values():
        first, second = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(own)]) for own in ways.values())
        assert not np.allclose(first, second)  # two networks of one kind, each with a start of its own
    assert [int(pool.filled) for pool in after.extra[POOL].values()] == [1, 1]
    after, metrics = compiled(after, batch, KEY)
    assert all(np.isfinite(value).all() for value in metrics.values()) and len(traces) == 1
