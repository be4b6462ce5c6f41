"""Several states as one program: each equals the one trained alone, whatever the form and the number of devices."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import toys
from devices import several

from jaxseg import plan
from jaxseg.cli import together
from jaxseg.train import parallel
from jaxseg.train import state as states

CODE = """
import sys; sys.path.insert(0, {folder!r})
import jax, numpy as np, toys
from jaxseg.train import parallel, state as states
step, state = toys.make(augment=toys.add_noise, ema=0.9)
run, put = parallel.wrap_members(step, count=6, how={how!r})
stacked, keys = states.stack([state] * 6), jax.random.split(toys.KEY, 6)
for number in range(3):
    parts = [toys.batch(10 * number + member) for member in range(6)]
    batch = {{name: np.stack([part[name] for part in parts]) for name in parts[0]}}
    stacked, metrics = run(stacked, put(batch), keys)
print(len(metrics["loss"].devices()), *np.asarray(stacked.params["model"]["kernel"]).ravel().tolist())
"""


@pytest.mark.parametrize(("how", "devices", "used"), [("vmap", 1, 1), ("unroll", 4, 3), ("auto", 2, 2)])
def test_each_member_is_the_one_trained_alone(how, devices, used):
    code = CODE.format(folder=os.path.dirname(toys.__file__), how=how)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **several(devices)}
    )
    assert done.returncode == 0, done.stderr
    count, *numbers = map(float, done.stdout.split())
    assert count == used  # the most devices that divide the members
    step, first = toys.make(augment=toys.add_noise, ema=0.9)
    alone, keys = jax.jit(step), jax.random.split(toys.KEY, 6)
    for member, found in enumerate(np.reshape(numbers, (6, 3))):
        state = first
        for number in range(3):
            state, _ = alone(state, toys.batch(10 * number + member), keys[member])
        np.testing.assert_allclose(found, state.params["model"]["kernel"], rtol=1e-5)


def test_stacked_states_come_apart_again():
    step, state = toys.make()
    other, _ = jax.jit(step)(state, toys.batch(), toys.KEY)
    for before, after in zip((state, other), states.unstack(states.stack([state, other])), strict=True):
        jax.tree.map(np.testing.assert_array_equal, before, after)


def test_one_trace_for_many_steps():
    step, state = toys.make()
    traces = []

    def counted(*arguments, **options):
        traces.append(1)
        return step(*arguments, **options)

    run, put = parallel.wrap_members(counted, count=2, how="vmap")
    stacked, keys = states.stack([state, state]), jax.random.split(toys.KEY)
    for number in range(3):
        stacked, _ = run(stacked, put({name: np.stack([v, v]) for name, v in toys.batch(number).items()}), keys)
    assert len(traces) == 1


def test_the_compiler_says_what_all_of_them_need(monkeypatch):
    """More members need more memory; on "auto" what does not fit is refused, which makes the caller train in turn."""
    step, state = toys.make()
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), np.asarray(leaf).dtype), toys.batch())
    peaks = [
        plan.cost(parallel.compile_members(step, state, shapes, toys.KEY, count=count, how="vmap")).peak
        for count in (1, 4)
    ]
    assert peaks[1] > peaks[0] > 0
    assert parallel.memory_limit() > 2**30
    monkeypatch.setattr(parallel, "memory_limit", lambda: 1)
    together._check_memory(step, state, shapes, toys.KEY, 2, "unroll")  # insisted on
    with pytest.raises(together.TooLarge, match="2 networks at once need"):
        together._check_memory(step, state, shapes, toys.KEY, 2, "auto")
