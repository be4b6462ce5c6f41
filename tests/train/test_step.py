"""The step: same numbers under jit, pmap and a mesh, one trace, safe against numbers that are not finite."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toys
from annotations import unchecked
from devices import several

from jaxseg.train import optim, parallel
from jaxseg.typing import UserError


def test_sgd_step_by_hand():
    run, state = toys.make()
    data = toys.batch()
    state, metrics = jax.jit(run)(state, data, toys.KEY)
    error = data["image"] @ np.ones(3) - data["label"]
    gradient = 2 * data["image"].T @ error / 4
    # Nesterov's first step: gradient + momentum * gradient.
    np.testing.assert_allclose(state.params["model"]["kernel"], 1 - 0.1 * 1.9 * gradient, rtol=1e-5)
    assert float(metrics["loss"]) == pytest.approx(float((error**2).mean()), rel=1e-5)
    assert int(state.step) == 1 and float(state.extra["model"]["seen"]) == 1


def test_accumulation_equals_the_whole_batch():
    whole, state = toys.make(augment=toys.add_noise)
    parts, _ = toys.make(augment=toys.add_noise, accumulate=2)
    one, _ = jax.jit(whole)(state, toys.batch(), toys.KEY)
    two, _ = jax.jit(parts)(state, toys.batch(), toys.KEY)
    np.testing.assert_allclose(one.params["model"]["kernel"], two.params["model"]["kernel"], rtol=1e-5)


def test_ema_follows_with_a_late_decay():
    run, state = toys.make(ema=0.99)
    state, _ = jax.jit(run)(state, toys.batch(), toys.KEY)
    expected = 0.1 * 1.0 + 0.9 * state.params["model"]["kernel"]  # first decay (1 + 0) / (10 + 0)
    np.testing.assert_allclose(state.ema["model"]["kernel"], expected, rtol=1e-5)


def test_not_finite_keeps_the_state():
    run, state = toys.make(toys.toy_task(float("inf")), ema=0.9)
    after, metrics = jax.jit(run)(state, toys.batch(), toys.KEY)
    assert not bool(metrics["finite"])
    assert int(after.step) == 1
    for left, right in zip(jax.tree.leaves(state._replace(step=0)), jax.tree.leaves(after._replace(step=0))):
        np.testing.assert_array_equal(left, right)


def test_one_trace_for_many_steps():
    traces = []
    run, state = toys.make()

    def counted(*args):
        traces.append(1)
        return run(*args)

    compiled = jax.jit(counted)
    for number in range(3):
        state, _ = compiled(state, toys.batch(number), toys.KEY)
    assert len(traces) == 1


@pytest.mark.parametrize("kind", ["pmap", "mesh"])
def test_one_program_for_the_first_state_and_for_those_that_the_step_returns(kind):
    run, state = toys.make()
    traces = []

    def counted(*args, **options):
        traces.append(1)
        return run(*args, **options)

    compiled, put = parallel.wrap(counted, kind=kind)
    for number in range(3):
        state, _ = compiled(state, put(toys.batch(number)), toys.KEY)
    assert len(traces) == 1


def test_augmentation_differs_between_steps_and_samples():
    run, state = toys.make(augment=toys.add_noise)
    first, _ = jax.jit(run)(state, toys.batch(), toys.KEY)
    later, _ = jax.jit(run)(state._replace(step=jnp.int32(5)), toys.batch(), toys.KEY)
    assert not np.allclose(first.params["model"]["kernel"], later.params["model"]["kernel"])


DEVICES = """
import sys; sys.path.insert(0, {folder!r})
import jax, numpy as np, toys as t
from jaxseg.train import parallel
for kind, accumulate in {cases!r}:
    run, state = t.make(augment=t.add_noise, ema=0.9, accumulate=accumulate)
    compiled, put = parallel.wrap(run, kind=kind)
    for number in range(3):
        state, metrics = compiled(state, put(t.batch(number, 8)), t.KEY)
    print(*np.asarray(state.params["model"]["kernel"]).tolist(), float(metrics["loss"]), jax.device_count())
"""


@pytest.mark.parametrize(
    "devices, cases",
    [(1, [("pmap", 1)]), (4, [("pmap", 1), ("mesh", 1)]), (2, [("pmap", 2)])],  # with the batches of each accumulated
    ids=["1", "4", "2"],
)
def test_same_numbers_on_any_number_of_devices(devices, cases):
    code = DEVICES.format(folder=os.path.dirname(toys.__file__), cases=cases)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **several(devices)}
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(cases)
    run, state = toys.make(augment=toys.add_noise, ema=0.9)
    for number in range(3):
        state, metrics = jax.jit(run)(state, toys.batch(number, 8), toys.KEY)
    expected = [*np.asarray(state.params["model"]["kernel"]), float(metrics["loss"])]
    for case, line in zip(cases, lines):
        *numbers, count = map(float, line.split())
        assert count == devices
        np.testing.assert_allclose(numbers, expected, rtol=2e-5, err_msg=str(case))


def test_batch_that_does_not_divide_is_told(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    parallel.check_batch(8)
    parallel.check_batch(2, spatial=2)
    with pytest.raises(UserError, match="multiple of the 4 devices, such as 4"):
        parallel.check_batch(6)


@pytest.mark.parametrize("name", optim.NAMES)
def test_every_optimizer_descends(name):
    run, state = toys.make(name=name, clip_norm=1.0, decay=1e-4)
    compiled = jax.jit(run)
    losses = []
    for _ in range(20):
        state, metrics = compiled(state, toys.batch(), toys.KEY)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]


def test_schedules_by_hand():
    rate = optim.schedule("poly(power=0.9)", lr=0.01)
    assert float(rate(jnp.int32(0), jnp.int32(100))) == pytest.approx(0.01)
    assert float(rate(jnp.int32(50), jnp.int32(100))) == pytest.approx(0.01 * 0.5**0.9)
    warm = optim.schedule("cosine(final=0.1)", lr=1.0, warmup_steps=4)
    assert float(warm(jnp.int32(0), jnp.int32(10))) == pytest.approx(0.2)
    assert float(warm(jnp.int32(10), jnp.int32(10))) == pytest.approx(0.1)


def test_cycles_restart_on_their_step():
    rate = jax.jit(optim.schedule("cycles(count=4, final=0.2)", lr=0.5))
    horizon = jnp.int32(12)  # cycles of 3 steps; by hand: 0.2 + 0.8 (1 + cos(pi k / 3)) / 2 = 1, 0.8, 0.4
    found = [float(rate(jnp.int32(step), horizon)) for step in range(12)]
    np.testing.assert_allclose(found, [0.5, 0.4, 0.2] * 4, rtol=1e-5)
    assert float(rate(horizon, horizon)) == float(rate(horizon + 5, horizon)) == pytest.approx(0.1)  # no fifth cycle
    one, cosine = optim.schedule("cycles(count=1)", lr=1.0), optim.schedule("cosine", lr=1.0)
    assert float(one(jnp.int32(3), jnp.int32(7))) == pytest.approx(float(cosine(jnp.int32(3), jnp.int32(7))))


@pytest.mark.parametrize("count", [5, 22])  # in float32 21 / 22 * 22 is less than 21
def test_cycles_restart_although_progress_is_rounded(count):
    rate = jax.jit(jax.vmap(optim.schedule(f"cycles(count={count})", lr=1.0)))
    length = jnp.repeat(jnp.arange(2, 400), count)  # steps a cycle
    cycle = jnp.tile(jnp.arange(count), 398)
    np.testing.assert_allclose(rate(length * cycle, length * count), 1.0, atol=1e-6)
    last = rate(length * (cycle + 1) - 1, length * count)  # the step before a restart still ends its cycle
    np.testing.assert_allclose(last, 0.5 * (1 + np.cos(np.pi * (length - 1) / length)), atol=1e-5)


@pytest.mark.parametrize("count", [0, -2, 2.5])
def test_cycles_without_a_whole_count_are_told(count):
    rate = optim.schedule(f"cycles(count={count})", lr=1.0)
    with unchecked(), pytest.raises(UserError, match="whole number of 1 or more"):
        rate(jnp.int32(0), jnp.int32(10))


def test_decay_mask_by_name():
    params = {"conv": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}}
    mask = optim.decay_mask(params, no_decay=r"(bias|scale)$")
    assert mask == {"conv": {"kernel": True, "bias": False}, "norm": {"scale": False}}
    direction = optim.optimizer("sgd", weight_decay=0.5, no_decay=r"(bias|scale)$", momentum=0.0)
    updates, _ = direction.update(jax.tree.map(jnp.zeros_like, params), direction.init(params), params)
    assert float(optax.tree.norm(updates["norm"])) == 0 and float(updates["conv"]["kernel"][0]) == 0.5


def test_each_parameter_has_its_own_factor():
    params = {"backbone": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
    gradients = jax.tree.map(jnp.ones_like, params)

    def moves(steps=1, **options):
        last = optim.parameter_factors(**options)
        direction = optim.optimizer("adamw", weight_decay=0.5, no_decay="", last=last)
        state = direction.init(params)
        for _ in range(steps):
            updates, state = direction.update(gradients, state, params)
        return {layer: float(tree["kernel"][0]) for layer, tree in updates.items()}

    full = pytest.approx(1.5, rel=1e-4)  # Adam's first step is 1, the decay 0.5
    assert optim.parameter_factors() is None
    assert moves() == {"backbone": full, "head": full}
    assert moves(factors=(("^back", 0.1), ("^b", 0.5))) == {"backbone": pytest.approx(0.15, rel=1e-4), "head": full}
    assert moves(freeze="^backbone") == {"backbone": 0.0, "head": full}
    assert moves(2, freeze="^backbone", freeze_steps=2)["backbone"] == 0.0
    later = moves(3, freeze="^backbone", freeze_steps=2, factors=(("", 0.5),))
    assert later == {"backbone": pytest.approx(0.75, rel=1e-4), "head": pytest.approx(0.75, rel=1e-4)}


def test_what_the_loss_hands_through_is_not_averaged_over_devices():
    """Three devices: a third of x, three times, is not x for one number in ten."""
    plain = toys.toy_task()
    frozen = {"weights": jax.random.normal(toys.KEY, (1000,))}

    def loss(params, extra, batch, key, *, axis_name=None):
        value, (metrics, own) = plain.losses["model"](params, extra, batch, key)
        return value, (metrics, {**own, "earlier": extra["earlier"], "count": extra["count"] + 1})

    def init(key, image):
        params, extra = plain.init(key, image)
        return params, {**extra, "earlier": frozen, "count": jnp.int32(0)}

    step, state = toys.make(plain._replace(init=init, losses={"model": loss}))
    parts = jax.tree.map(lambda *values: np.stack(values), *[toys.batch(seed) for seed in range(3)])
    after, _ = jax.vmap(
        functools.partial(step, axis_name="batch"), axis_name="batch", in_axes=(None, 0, None), out_axes=None
    )(state, parts, toys.KEY)
    np.testing.assert_array_equal(after.extra["earlier"]["weights"], frozen["weights"])
    assert not np.array_equal(np.asarray(frozen["weights"]) * np.float32(3) / np.float32(3), frozen["weights"])
    assert float(after.extra["model"]["seen"]) == 1.0
    assert after.extra["count"].dtype == jnp.int32 and after.extra["count"] == 1
