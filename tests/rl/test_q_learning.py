"""Q-learning: its target by numpy, a toy that it must solve, and what it shares over devices and planes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage

from jaxseg import models
from jaxseg.rl import operator_agent, operators, q_learning, replay, start
from jaxseg.rl.operator_agent import Agent
from jaxseg.rl.operators import OPERATORS, STOP
from jaxseg.rl.q_learning import REPLAY, TARGET, UPDATES, Rules
from jaxseg.typing import IGNORE, UserError

KEY = jax.random.key(0)
ENVIRONMENT = operators.Rules(steps=3, cost=0.01, radius=1)
RULES = Rules(environment=ENVIRONMENT, updates=150, capacity=64, transitions=32, target_rate=0.05)
SHAPE = (10, 13)
DILATE = OPERATORS.index("dilate")


def network(**fields):
    return models.create("q_network", num_classes=len(OPERATORS), features=(8,), hidden=16, **fields)


def as_image(variables, image):
    """A start that finds the class where the image is bright."""
    inside = jax.nn.sigmoid(image[..., :1])
    return jnp.concatenate([1 - inside, inside], axis=-1)


BRIGHT = start.Start({}, as_image)


def make(model=None, *, rules=RULES, start=BRIGHT, num_classes=2, regions=None):
    options = {"num_classes": num_classes, "regions": regions, "channels": 1}
    model = model or network()
    task = q_learning.q_learning(model, start, rules, **options)
    return task, operator_agent.tracer(model, start, rules.environment, **options)


def batch_of(count, seed=0):
    """Bright boxes, whose true masks are one pixel wider on all four sides."""
    draw = np.random.default_rng(seed)
    inside = np.zeros((count, *SHAPE), bool)
    for own in inside:
        (top, left), (height, width) = draw.integers(2, 5, 2), draw.integers(2, 5, 2)
        own[top : top + height, left : left + width] = True
    true = np.stack([ndimage.binary_dilation(own) for own in inside])
    image = np.where(inside, 4.0, -4.0).astype(np.float32)[..., None]
    return {"image": image, "label": true.astype(np.int32), "index": np.arange(count, dtype=np.int32)}


def begin(task, shape=(*SHAPE, 1)):
    return jax.jit(task.init)(KEY, jnp.zeros((1, *shape)))


@pytest.fixture(scope="module")
def fresh():
    """A loss on batches of four, and what it starts from: (parameters, extra, loss)."""
    task, _ = make()
    return (*begin(task), jax.jit(task.losses["model"]))


@pytest.fixture(scope="module")
def learnt():
    """150 updates on the toy: (variables, figures of all updates, tracer)."""
    task, trace = make()
    params, extra = begin(task)
    optimizer = optax.adam(3e-3)
    state = (params, extra, optimizer.init(params))

    @jax.jit
    def update(state, batch, key):
        params, extra, moments = state
        derive = jax.value_and_grad(lambda own: task.losses["model"](own, extra, batch, key), has_aux=True)
        (loss, (figures, extra)), gradients = derive(params)
        changes, moments = optimizer.update(gradients, moments, params)
        return (optax.apply_updates(params, changes), extra, moments), {"loss": loss, **figures}

    history = []
    for number in range(RULES.updates):
        state, figures = update(state, batch_of(8, seed=number), jax.random.fold_in(KEY, number))
        history.append(jax.tree.map(np.asarray, figures))
    return {"params": state[0], "extra": state[1]}, history, jax.jit(trace, static_argnames="steps")


def test_it_learns_to_dilate_once_and_then_to_stop(learnt):
    variables, history, trace = learnt
    held = batch_of(32, seed=1000)
    found = trace(variables, held["image"])
    before, after = (jax.vmap(dice)(masks[..., 0], held["label"]) for masks in (found.masks[0], found.masks[-1]))
    assert before.mean() < 0.75 and after.mean() > 0.97
    assert (np.asarray(found.actions[0]) == DILATE).mean() > 0.9
    exploring, settled = (np.mean([own["reward"] for own in part]) for part in (history[:10], history[-10:]))
    assert exploring < 0 < settled
    assert history[0]["epsilon"] == 1.0 and history[-1]["epsilon"] == pytest.approx(0.05)
    assert all(np.isfinite(own["loss"]) for own in history) and history[0]["counts"].shape == (2, 2)


def dice(mask, label):
    return operators.dice(mask, label > 0, jnp.ones(mask.shape, bool))


def test_a_longer_episode_goes_on_from_the_shorter_one(learnt):
    variables, _, trace = learnt
    image = batch_of(4, seed=7)["image"]
    short, long = trace(variables, image), trace(variables, image, steps=5)
    assert long.masks.shape == (6, 4, *SHAPE, 1) and long.values.shape == (5, 4, 1, len(OPERATORS))
    np.testing.assert_array_equal(long.masks[:4], short.masks)
    np.testing.assert_array_equal(long.actions[:3], short.actions)
    np.testing.assert_array_equal(short.masks[0, ..., 0], image[..., 0] > 0)
    np.testing.assert_array_equal(short.probabilities[..., 1] > 0.5, short.masks[..., 0])
    stopped = np.asarray(short.actions)[:, :, 0] == STOP
    assert stopped.any() and (stopped[1:] >= stopped[:-1]).all()


def test_what_it_remembers_is_what_it_did(learnt):
    variables, _, _ = learnt
    memory = variables["extra"][REPLAY]
    assert int(memory.filled) == RULES.capacity and int(variables["extra"][UPDATES]) == RULES.updates
    episode, step = jnp.arange(8), jnp.zeros(8, jnp.int32)
    stored = replay.take(memory, episode, step)
    mask = stored.image[..., 0] > 0
    np.testing.assert_array_equal(stored.mask, mask)
    true = jax.vmap(lambda own: operators.ops.dilate(own))(mask)
    gain = jax.vmap(dice)(stored.next_mask, true) - jax.vmap(dice)(mask, true)
    np.testing.assert_allclose(stored.reward, gain - 0.01 * (stored.action != STOP), atol=1e-6)


class Table:
    """An agent whose values are a table by time: the row of the target by numpy."""

    agent = Agent(
        planes=1,
        begin=None,
        inputs=lambda image, states, plane: states.time,
        values=lambda params, time: params[time],
        true=None,
        back=None,
    )


@pytest.mark.parametrize("double", [True, False])
def test_the_temporal_difference_by_numpy(double):
    draw = np.random.default_rng(0)
    online, target = draw.normal(size=(2, 4, len(OPERATORS))).astype(np.float32)
    assert (online.argmax(1) != target.argmax(1)).any()
    count, rules = 12, RULES._replace(double=double, discount=0.7)
    time, action = draw.integers(0, 3, count), draw.integers(0, len(OPERATORS), count)
    reward, done = draw.normal(size=count).astype(np.float32) * 2, draw.random(count) < 0.3
    blank = jnp.zeros((count, *SHAPE))
    lesson = replay.Transitions(
        blank[..., None], blank, jnp.zeros(count, jnp.int32), blank > 0, blank[:, 0, 0], jnp.asarray(time),
        jnp.asarray(action), jnp.asarray(reward), blank > 0, blank[:, 0, 0], jnp.asarray(done),
    )  # fmt: skip
    worth = []
    for t, r, d in zip(time, reward, done):
        best = (online if double else target)[t + 1].argmax()
        worth.append(r + (0.0 if d else 0.7 * target[t + 1, best]))
    error = online[time, action] - np.array(worth)
    huber = np.where(np.abs(error) < 1, 0.5 * error**2, np.abs(error) - 0.5)
    assert (np.abs(error) > 1).any() and (np.abs(error) < 1).any()

    def loss(own, other):
        return q_learning.temporal_difference(Table.agent, own, other, lesson, rules)[0]

    value, (own, other) = jax.value_and_grad(loss, argnums=(0, 1))(jnp.asarray(online), jnp.asarray(target))
    assert float(value) == pytest.approx(huber.mean(), abs=1e-6)
    slope = np.zeros_like(online)
    np.add.at(slope, (time, action), np.clip(error, -1, 1) / count)
    np.testing.assert_allclose(own, slope, atol=1e-6)  # what an action turned out to be is not learnt from
    np.testing.assert_array_equal(other, 0)


def test_exploration_falls_in_a_straight_line_and_stays():
    rules = Rules(updates=100, explore=0.4, first_epsilon=0.9, last_epsilon=0.1)
    found = [float(q_learning.exploration(jnp.int32(count), rules)) for count in (0, 20, 40, 100)]
    np.testing.assert_allclose(found, [0.9, 0.5, 0.1, 0.1], atol=1e-6)


def test_two_devices_learn_what_one_does(fresh):
    params, extra, learn = fresh
    batch = batch_of(4)
    loss, (figures, after) = learn(params, extra, batch, KEY)
    halves = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), batch)
    own = functools.partial(make()[0].losses["model"], axis_name="d")
    shared = jax.vmap(own, in_axes=(None, None, 0, None), axis_name="d")
    losses, (parts, apart) = jax.jit(shared)(params, extra, halves, KEY)
    np.testing.assert_allclose(losses.mean(), loss, rtol=1e-4)
    for name in ("reward", "q", "actions"):
        np.testing.assert_allclose(parts[name].mean(), figures[name], rtol=1e-3)
    for one, both in zip(after[REPLAY], apart[REPLAY]):
        np.testing.assert_array_equal(both[0], both[1])
        np.testing.assert_array_equal(both[0], one)
    moved = jax.tree.map(lambda old, new: np.abs(new - old).max(), extra[TARGET], after[TARGET])
    assert max(jax.tree.leaves(moved)) < 1e-6  # it follows, and both began alike


def test_an_image_that_nobody_labelled_rewards_nothing(fresh):
    params, extra, learn = fresh
    batch = batch_of(4)
    batch["label"] = np.full_like(batch["label"], IGNORE)
    _, (figures, after) = learn(params, extra, batch, KEY)
    assert float(figures["reward"]) <= 0 and float(figures["counts"].sum()) == 0
    taken = replay.take(after[REPLAY], jnp.arange(4), jnp.zeros(4, jnp.int32))
    np.testing.assert_allclose(taken.reward, -0.01 * (taken.action != STOP), atol=1e-6)


def probabilities(*planes):
    return jnp.stack([jnp.asarray(plane, jnp.float32) for plane in planes], axis=-1)


class Still:
    """A network that stops at once, so that masks are those of the start."""

    @staticmethod
    def init(key, image, train):
        return {"params": {"width": jnp.zeros(image.shape[-1])}}

    @staticmethod
    def apply(variables, image, train):
        assert image.shape[-1] == len(variables["params"]["width"])
        return jnp.zeros((len(image), len(OPERATORS))).at[:, STOP].set(1.0), {}


def test_of_exclusive_classes_the_likelier_one_wins_and_the_rest_is_background():
    task, trace = make(Still, num_classes=3)
    params, extra = begin(task, (1, 4, 1))
    assert params["model"]["width"].shape == (1 + operators.CHANNELS + 2,)  # which of the two planes it is
    own = probabilities([[0.0, 0.2, 0.3, 0.4]], [[0.6, 0.7, 0.3, 0.0]], [[0.8, 0.1, 0.4, 0.6]])
    image = jnp.concatenate([jnp.zeros((1, 4, 1)), own], axis=-1)[None]
    variables = {"params": params, "extra": extra}
    found = jax.jit(trace)(variables, image)
    np.testing.assert_array_equal(found.masks[-1, 0, 0], [[1, 1], [1, 0], [0, 0], [0, 1]])
    np.testing.assert_array_equal(found.probabilities[-1, 0, 0].argmax(-1), [2, 1, 0, 2])
    np.testing.assert_array_equal(found.probabilities.sum(-1), 1)
    label = jnp.array([[[2, 1, 0, IGNORE]]])
    counts = jax.jit(task.counts)(variables, {"image": image, "label": label})
    np.testing.assert_array_equal(counts, np.eye(3))


def test_regions_are_planes_of_their_own():
    blank = start.blank(num_classes=2, regions=True)
    task, _ = make(Still, start=blank, num_classes=3, regions=((1, 2), (2,)))
    params, extra = begin(task, (1, 3, 1))
    own = probabilities([[0.9, 0.6, 0.2]], [[0.8, 0.1, 0.7]])
    image = jnp.concatenate([jnp.zeros((1, 3, 1)), own], axis=-1)[None]
    variables = {"params": params, "extra": extra}
    np.testing.assert_array_equal(jax.jit(task.predict)(variables, image)[0, 0], [[1, 1], [1, 0], [0, 1]])


def test_what_does_not_fit_is_said_in_a_sentence():
    task, _ = make(Still)
    params, extra = begin(task)
    with pytest.raises(UserError, match="should have 1 channels, or 3 with the probabilities"):
        task.predict({"params": params, "extra": extra}, jnp.zeros((1, *SHAPE, 2)))
    fields = {"backbone_fields": {"blocks": (1, 1, 1, 1), "width": 2}, "num_classes": len(OPERATORS)}
    counting, _ = make(models.create("classifier", **fields))
    with pytest.raises(UserError, match="keep no statistics, but this one has batch_stats"):
        jax.eval_shape(counting.init, KEY, jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32))
