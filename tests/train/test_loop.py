"""The loop: exact resume, early stopping, signals, and what stays after a loss that is not finite."""

import itertools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from jaxseg.train import checkpoint, logging, loop
from jaxseg.typing import UserError

CADENCE = loop.Cadence(log=1, evaluate=100, checkpoint=2)


def run(workdir, state, step_fn, *, cadence=CADENCE, evaluate=None, batch_at=toys.batch, horizon=6, watch=None):
    """Restores what is there, then runs to the horizon with the toy task."""
    checkpoints = checkpoint.Checkpoints(workdir)
    metadata = {"batch_size": 4}
    latest = checkpoints.pick("latest")
    state = jax.tree.map(lambda x: x.copy(), state._replace(horizon=jnp.int32(horizon)))
    if latest is not None:
        restored = checkpoints.restore(state, step=latest)
        state, metadata = restored.state, restored.metadata
    rows = []
    try:
        outcome = loop.run(
            state,
            step_fn=step_fn,
            batches=(batch_at(number) for number in itertools.count(int(state.step))),
            key=toys.KEY,
            cadence=cadence,
            checkpoints=checkpoints,
            metadata=metadata,
            evaluate=evaluate,
            summarize=lambda metrics: {name: float(value) for name, value in metrics.items() if name != "counts"},
            write=lambda step, values: rows.append((step, values)),
            show=lambda *args, **figures: None,
            watch=watch,
        )
    finally:
        checkpoints.close()
    return outcome, rows


@pytest.fixture(scope="module")
def machine():
    step_fn, state = toys.make(augment=toys.add_noise, ema=0.9, name="adamw")
    return jax.jit(step_fn), state


def equal(left, right):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right)))


def test_interrupted_and_resumed_is_bit_equal(tmp_path, machine):
    step_fn, state = machine
    whole, _ = run(tmp_path / "whole", state, step_fn)

    def interrupt_at(number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return toys.batch(number)

    first, _ = run(tmp_path / "parts", state, step_fn, batch_at=interrupt_at)
    assert "SIGTERM" in first.interrupted and int(first.state.step) == 4
    second, rows = run(tmp_path / "parts", state, step_fn)
    assert second.interrupted == "" and rows[0][0] == 5
    assert equal(whole.state, second.state)


def test_who_watches_the_scores_may_end_the_run(tmp_path, machine):
    step_fn, state = machine
    seen = []

    def watch(step, score):
        seen.append((step, score))
        return step >= 4

    cadence = loop.Cadence(log=1, evaluate=2, checkpoint=100)
    options = {"cadence": cadence, "evaluate": lambda state: {"dice": int(state.step) / 10}}
    outcome, _ = run(tmp_path, state, step_fn, watch=watch, **options)
    assert outcome.interrupted == "ended after step 4 by who watches its scores" and int(outcome.state.step) == 4
    assert seen == [(2, 0.2), (4, 0.4)]
    resumed, rows = run(tmp_path, state, step_fn, watch=lambda step, score: True, **options)
    assert resumed.interrupted == "" and rows[0][0] == 5  # the checkpoint was kept; at the last step there is no early


def test_finished_run_does_nothing_more(tmp_path, machine):
    step_fn, state = machine
    run(tmp_path, state, step_fn)
    outcome, rows = run(tmp_path, state, step_fn)
    assert rows == [] and int(outcome.state.step) == 6


def test_best_and_latest_are_kept(tmp_path, machine):
    step_fn, state = machine
    scores = iter([0.3, 0.9, 0.5])
    run(tmp_path, state, step_fn, evaluate=lambda state: {"dice": next(scores)}, cadence=loop.Cadence(1, 2, 2))
    checkpoints = checkpoint.Checkpoints(tmp_path)
    assert checkpoints.steps() == [4, 6]
    assert checkpoints.pick("best") == 4 and checkpoints.pick("latest") == 6 and checkpoints.pick("6") == 6
    assert checkpoints.metadata(6)["progress"] == {"best": 0.9, "best_step": 4, "stale": 1}
    with pytest.raises(UserError, match="stored step"):
        checkpoints.pick("5")
    checkpoints.close()


def test_patience_stops_and_stays_stopped(tmp_path, machine):
    step_fn, state = machine
    cadence = loop.Cadence(log=1, evaluate=1, checkpoint=2, patience=2)
    scores = iter([0.5, 0.4, 0.3])
    outcome, _ = run(tmp_path, state, step_fn, evaluate=lambda state: {"dice": next(scores)}, cadence=cadence)
    assert "no better score" in outcome.interrupted and int(outcome.state.step) == 3
    again, rows = run(tmp_path, state, step_fn, evaluate=lambda state: {"dice": 1.0}, cadence=cadence)
    assert rows == [] and int(again.state.step) == 3


def test_not_finite_stops_and_says_where(tmp_path, machine):
    step_fn, state = machine

    def poisoned(number):
        data = toys.batch(number)
        return {**data, "label": data["label"] * np.float32("nan")} if number == 2 else data

    with pytest.raises(UserError, match="Step 3 gave a loss or gradient that is not finite"):
        run(tmp_path, state, step_fn, batch_at=poisoned)
    checkpoints = checkpoint.Checkpoints(tmp_path)
    latest = checkpoints.restore(state, step=checkpoints.pick("latest"))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(latest.state))
    checkpoints.close()


def test_checkpoint_of_another_model_is_refused(tmp_path, machine):
    step_fn, state = machine
    run(tmp_path, state, step_fn)
    other = state._replace(params={"model": {"kernel": np.ones(5, np.float32)}})
    checkpoints = checkpoint.Checkpoints(tmp_path)
    with pytest.raises(UserError, match=r"another model: .* params/model/kernel \(stored \(3,\), config \(5,\)\)"):
        checkpoints.restore(other, step=6)
    checkpoints.close()


def test_damaged_checkpoint_is_refused(tmp_path, machine):
    step_fn, state = machine
    run(tmp_path, state, step_fn)
    checkpoints = checkpoint.Checkpoints(tmp_path)
    folder = checkpoints.folder / "6" / "state"
    max(folder.rglob("d/*"), key=lambda path: path.stat().st_size).unlink()
    for read in (lambda: checkpoints.restore(state, step=6), lambda: checkpoints.read(6)):
        with pytest.raises(UserError, match=r"6/state cannot be read \(.*\); it may be damaged"):
            read()
    checkpoints.close()


def test_metrics_rows_after_the_restored_step_are_dropped(tmp_path):
    path = tmp_path / logging.METRICS
    with logging.writer(tmp_path) as write:
        for number in range(1, 5):
            write(number, {"train/loss": 1.0 / number, "val/dice": float("nan")})
    path.write_text(path.read_text() + '{"step": 5, "tr')  # cut short by kill -9
    logging.truncate(path, step=3)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3] and rows[0]["val/dice"] is None
