"""Agents that are pixels: their world, clicks, returns, and what they learn."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.ndimage

from jaxseg import rl
from jaxseg.rl import clicks, refine, returns
from jaxseg.rl.refinement import dice_loss, sample, uniform
from jaxseg.train import state as states
from jaxseg.train.step import make_step
from jaxseg.typing import IGNORE, UserError


class Linear(nn.Module):
    """Every pixel by itself."""

    channels: int

    @nn.compact
    def __call__(self, image, train=False):
        return nn.Dense(self.channels, kernel_init=nn.initializers.zeros, name="dense")(image), {}


def refiner(world=None, rules=None, *, start=None, num_classes=2, regions=None):
    world, rules = world or refine.World(steps=2), rules or rl.Rules()
    planes = rl.read_planes(num_classes=num_classes, regions=regions).number
    count = len(regions) if regions else num_classes
    start = rl.start.blank(num_classes=count, regions=bool(regions)) if start is None else start
    return rl.refinement(
        Linear(rl.outputs(planes)), start, rules, world, num_classes=num_classes, regions=regions, channels=1
    )


def scene(batch=2, shape=(6, 5)):
    draw = np.random.default_rng(3)
    label = jnp.asarray(draw.integers(0, 2, (batch, *shape)), jnp.int32)
    return {"image": label[..., None] * 2.0 - 1.0, "label": label, "index": jnp.arange(batch)}


def test_blur_equals_scipys():
    planes = np.random.default_rng(0).random((9, 7, 2)).astype(np.float32)
    for sigma, reach in refine.BLURS:
        wanted = scipy.ndimage.gaussian_filter(planes, (sigma, sigma, 0), mode="nearest", radius=(reach, reach, 0))
        np.testing.assert_allclose(refine.blur(jnp.asarray(planes), sigma=sigma, reach=reach), wanted, atol=1e-6)


def test_actions_do_what_their_names_say():
    planes = jnp.full((3, 4, 1), 0.5)
    for action, name in enumerate(refine.ACTIONS):
        after = refine.act(planes, jnp.full(planes.shape, action, jnp.int32))
        wanted = 0.5 + (float(name) if name[0] in "+-" else 0.0)
        np.testing.assert_allclose(after, wanted, atol=1e-6)


def test_probabilities_stay_within_their_limits():
    up, down = (refine.ACTIONS.index(name) for name in ("+0.4", "-0.4"))
    planes = jnp.array([[[0.9], [0.1]]])
    after = refine.act(planes, jnp.array([[[up], [down]]], jnp.int32))
    np.testing.assert_allclose(after[..., 0], [[1 - refine.LEAST, refine.LEAST]], atol=1e-6)


@pytest.mark.parametrize("reward", refine.REWARDS)
def test_rewards_sum_to_the_whole_gain(reward):
    draw = np.random.default_rng(1)
    world = refine.World(steps=4, reward=reward)
    true = jnp.asarray(draw.integers(0, 2, (5, 6, 1)), jnp.float32)
    seen = jnp.asarray(draw.integers(0, 2, (5, 6, 1)), jnp.float32)
    state = first = refine.reset(jnp.asarray(draw.random((5, 6, 1)), jnp.float32), true, seen, world=world)
    total = jnp.zeros((5, 6, 1))
    for place in range(world.steps):
        action = jnp.asarray(draw.integers(0, len(refine.ACTIONS), (5, 6, 1)), jnp.int32)
        state, gained, done = refine.step(state, action, world=world)
        total, ended = total + gained, bool(done)
        assert ended == (place == world.steps - 1)
    if reward == "dice":
        gain = refine.dice(state.planes, true, seen) - refine.dice(first.planes, true, seen)
        wanted = jnp.broadcast_to(gain, true.shape) * seen
    else:
        wanted = (refine.surprise(first.planes, true) - refine.surprise(state.planes, true)) * seen
    np.testing.assert_allclose(total, wanted, atol=1e-5)


def test_a_click_lies_deepest_in_what_is_wrong():
    true = np.zeros((9, 11, 1), np.float32)
    true[1:6, 1:6] = 1.0  # missed: its middle is 3 deep
    planes = np.zeros_like(true)
    planes[7:9, 8:10] = 1.0  # added, and less deep
    hints = jnp.zeros((9, 11, 2))
    found = clicks.worst(jnp.asarray(planes), jnp.asarray(true), jnp.ones_like(true), hints)
    assert found.place.tolist() == [3, 3] and bool(found.inside[0]) and bool(found.made)
    hint = clicks.hint(found, (9, 11), scale=2.0)
    assert hint.shape == (9, 11, 2)
    assert float(hint[3, 3, 0]) == 1.0 and float(hint[..., 1].max()) == 0.0
    assert float(hint[3, 5, 0]) == pytest.approx(np.exp(-0.5))
    hints = clicks.add(hints, found, scale=2.0)
    again = clicks.worst(jnp.asarray(planes), jnp.asarray(true), jnp.ones_like(true), hints)
    assert again.place.tolist() == [2, 2] and bool(again.made)  # the first of those that are 2 deep


def test_where_nothing_is_wrong_nothing_is_clicked():
    true = jnp.ones((4, 4, 1))
    found = clicks.worst(true, true, true, jnp.zeros((4, 4, 2)))
    assert not bool(found.made)
    assert float(clicks.hint(found, (4, 4), scale=2.0).max()) == 0.0


def test_pixels_that_do_not_count_are_not_clicked():
    true, seen = np.ones((5, 5, 1), np.float32), np.ones((5, 5, 1), np.float32)
    seen[:, :3] = 0.0
    found = clicks.worst(jnp.zeros((5, 5, 1)), jnp.asarray(true), jnp.asarray(seen), jnp.zeros((5, 5, 2)))
    assert found.place[1] >= 3


@pytest.mark.parametrize("horizon", [0, 1, 2])
def test_returns_equal_a_numpy_loop(horizon):
    draw = np.random.default_rng(2)
    rewards, values = (draw.random((4, 1, 5, 6, 2)).astype(np.float32) for _ in range(2))
    kernel = draw.random((3, 3)).astype(np.float32)

    def spread(maps):
        return scipy.ndimage.correlate(maps, kernel[None, :, :, None], mode="constant")

    wanted = np.zeros_like(rewards)
    for start in range(4):
        end = min(start + (horizon or 4), 4)
        value = values[end] if end < 4 else np.zeros_like(rewards[0])
        for time in reversed(range(start, end)):
            value = rewards[time] + 0.9 * spread(value)
        wanted[start] = value
    found = returns.n_step_returns(
        jnp.asarray(rewards),
        jnp.asarray(values),
        discount=0.9,
        horizon=horizon,
        kernel=jnp.asarray(kernel)[..., None, None],
    )
    np.testing.assert_allclose(found, wanted, rtol=2e-4)


def test_the_identity_kernel_spreads_nothing():
    maps = jnp.asarray(np.random.default_rng(0).random((2, 4, 5, 3)), jnp.float32)
    np.testing.assert_allclose(returns.spread(maps, returns.identity_kernel(5, ndim=2)), maps, atol=1e-6)


def test_actions_are_drawn_as_often_as_the_policy_says():
    logits = jnp.log(jnp.array([0.2, 0.5, 0.3])).reshape(1, 1, 1, 1, 3)
    draws = ((jnp.arange(1000) + 0.5) / 1000).reshape(1, 1000, 1, 1)
    found = sample(jnp.broadcast_to(logits, (1, 1000, 1, 1, 3)), draws)
    assert np.bincount(np.asarray(found).reshape(-1), minlength=3).tolist() == [200, 500, 300]


def test_draws_depend_on_the_key_and_the_place_in_the_batch_alone():
    key = jax.random.key(0)
    both = uniform(key, jnp.array([3, 8]), (2, 2, 4, 5, 1))
    alone = uniform(key, jnp.array([8]), (2, 1, 4, 5, 1))
    np.testing.assert_array_equal(both[:, 1], alone[:, 0])


def test_the_policy_gradient_agrees_with_all_actions_weighed_by_their_probability():
    """One step of a world of two pixels: the expected loss is a sum over actions, whose gradient is exact."""
    world = refine.World(steps=1)
    true, seen = jnp.array([[[1.0], [0.0]]]), jnp.ones((1, 2, 1))
    state = refine.reset(jnp.full((1, 2, 1), 0.4), true, seen, world=world)
    scores = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 1, len(refine.ACTIONS))), jnp.float32)
    rewards = jnp.stack(
        [refine.step(state, jnp.full((1, 2, 1), a, jnp.int32), world=world)[1] for a in range(len(refine.ACTIONS))], -1
    )

    def expected(scores):
        return -(jax.nn.softmax(scores) * rewards).sum(-1).mean()

    draws = uniform(jax.random.key(1), jnp.arange(4096), (1, 4096, 1, 2, 1))[0]

    def surrogate(scores):
        logits = jnp.broadcast_to(jax.nn.log_softmax(scores), (4096, *scores.shape))
        action = sample(logits, draws)
        taken = jnp.take_along_axis(logits, action[..., None], -1)[..., 0]
        gained = jnp.take_along_axis(jnp.broadcast_to(rewards, logits.shape), action[..., None], -1)[..., 0]
        nothing = jnp.zeros_like(taken)[None]
        loss, _ = returns.actor_critic_loss(
            taken[None], nothing, nothing, gained[None], jnp.ones((4096, 1, 2, 1)), entropy=0.0, value=0.0
        )
        return loss

    one, other = (jax.grad(each)(scores).reshape(-1) for each in (expected, surrogate))
    assert float(one @ other / jnp.linalg.norm(one) / jnp.linalg.norm(other)) > 0.99


def trained(made, batch, *, updates, seed=0):
    optimizers = {"model": optax.scale_by_adam()}
    state = states.create(jax.random.key(seed), made.task, batch["image"], optimizers, horizon=updates, ema=False)
    step = jax.jit(make_step(made.task, optimizers, lambda step, horizon: 0.1))
    for _ in range(updates):
        state, figures = step(state, batch, jax.random.key(seed))
    return states.inference_variables(state), figures


@pytest.mark.parametrize("learner", ["actor_critic", "supervised"])
def test_agents_learn_what_the_image_shows(learner):
    made, batch = refiner(rules=rl.Rules(learner=learner)), scene(batch=4)
    variables, figures = trained(made, batch, updates=60)
    found = jax.jit(made.task.predict)(variables, batch["image"])
    assert float((found.argmax(-1) == batch["label"]).mean()) > 0.95
    assert figures["counts"].shape == (2, 2)


def test_dice_loss_counts_seen_pixels_of_each_plane():
    probabilities = jnp.asarray([[[[0.5, 1.0], [1.0, 0.0], [0.25, 1.0]]]])  # one step, one image, three pixels
    true = jnp.asarray([[[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]]])
    seen = jnp.asarray([[[1.0], [1.0], [0.0]]])
    # planes: 2 * 1.5 of 1.5 + 2, and 2 * 1 of 1 + 2, each with one pixel more on either side
    wanted = 1 - ((3 + 1) / (3.5 + 1) + (2 + 1) / (3 + 1)) / 2
    logits = jnp.clip(jnp.log(probabilities) - jnp.log1p(-probabilities), -40.0, 40.0)
    assert float(dice_loss(logits, true, seen)) == pytest.approx(wanted, abs=1e-6)


def test_a_reward_map_without_a_critic_learns_too():
    made, batch = refiner(rules=rl.Rules(value=0.0, reward_map=3)), scene(batch=4)
    variables, _ = trained(made, batch, updates=60)
    assert variables["params"]["model"]["reward_map"].shape == (3, 3, 1, 1)
    found = jax.jit(made.task.predict)(variables, batch["image"])
    assert float((found.argmax(-1) == batch["label"]).mean()) > 0.95


@pytest.mark.parametrize("regions", [None, ((1, 2), (2,))])
def test_several_classes_have_a_plane_each(regions):
    made = refiner(num_classes=3, regions=regions)
    image = jnp.zeros((1, 4, 5, 1))
    params, extra = made.task.init(jax.random.key(0), image)
    found = made.task.predict({"params": params, "extra": extra}, image)
    assert found.shape == (1, 4, 5, 2 if regions else 3)
    if not regions:
        np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-5)


def test_an_episode_starts_from_the_probabilities_behind_the_image():
    made = refiner()
    image = jnp.zeros((1, 4, 5, 1))
    params, extra = made.task.init(jax.random.key(0), image)
    variables = {"params": params, "extra": extra}
    given = jnp.concatenate([image, jnp.full((1, 4, 5, 1), 0.2), jnp.full((1, 4, 5, 1), 0.8)], -1)
    np.testing.assert_allclose(made.first(variables, image), 0.5)
    np.testing.assert_allclose(made.first(variables, given), 0.8, atol=1e-6)


def test_steps_one_by_one_are_those_of_the_episode():
    made, batch = refiner(), scene()
    params, extra = made.task.init(jax.random.key(0), batch["image"])
    params = jax.tree.map(lambda leaf: jnp.linspace(-1.0, 1.0, leaf.size).reshape(leaf.shape), params)
    variables = {"params": params, "extra": extra}
    trace = made.trace(variables, batch["image"], labels=batch["label"], steps=2)
    planes = made.first(variables, batch["image"])
    for place in range(2):
        found = made.advance(variables, jnp.concatenate([batch["image"], planes], -1))
        planes, taken = found[..., :1], found[..., 1:]
        np.testing.assert_allclose(planes, trace.planes[place + 1], atol=1e-6)
        np.testing.assert_array_equal(taken.argmax(-1)[..., None], trace.actions[place])


def test_clicks_are_made_where_labels_are_there_and_nowhere_else():
    made, batch = refiner(refine.World(steps=2, clicks=2)), scene()
    params, extra = made.task.init(jax.random.key(0), batch["image"])
    variables = {"params": params, "extra": extra}
    assert float(made.trace(variables, batch["image"]).hints.max()) == 0.0
    assert float(made.trace(variables, batch["image"], labels=batch["label"]).hints[0].max()) == 1.0


def test_pixels_that_do_not_count_teach_nothing():
    made, batch = refiner(), scene()
    ignored = {**batch, "label": jnp.full_like(batch["label"], IGNORE)}
    params, extra = made.task.init(jax.random.key(0), batch["image"])
    loss, _ = made.task.losses["model"](params, extra, ignored, jax.random.key(0))
    assert float(loss) == 0.0


def test_otsus_threshold_parts_two_groups():
    values = jnp.concatenate([jnp.linspace(-1.2, -0.8, 50), jnp.linspace(0.9, 1.1, 70)])
    assert -0.8 <= float(rl.start.otsu(values)) <= 0.9


def test_a_dark_class_is_found_below_the_threshold():
    image = jnp.where(jnp.arange(20)[None, None, :, None] < 7, -1.0, 1.0) * jnp.ones((1, 6, 20, 1))
    found = rl.start.threshold(above=False).apply({}, image)
    np.testing.assert_array_equal(found[0, 0].argmax(-1), (np.arange(20) < 7).astype(int))


def test_a_reduced_start_sees_a_smaller_image():
    shapes = []

    def apply(_, image):
        shapes.append(image.shape)
        return jnp.ones((*image.shape[:-1], 2))

    found = rl.start.reduced(rl.Start({}, apply), factor=2).apply({}, jnp.zeros((1, 8, 6, 1)))
    assert shapes == [(1, 4, 3, 1)] and found.shape == (1, 8, 6, 2)
    with pytest.raises(UserError, match=r"rl\.factor = 4 should divide"):
        rl.start.reduced(rl.Start({}, apply), factor=4).apply({}, jnp.zeros((1, 8, 6, 1)))


@pytest.mark.parametrize(
    ("text", "message"),
    [("otsu", "rl.initial should be"), ("threshold(level=3)", "rl.initial should be"), ("blank(x=1)", "rl.initial")],
)
def test_an_unknown_start_is_told(text, message):
    with pytest.raises(UserError, match=message):
        rl.start.from_string(text, num_classes=2)


def test_a_threshold_finds_one_class():
    with pytest.raises(UserError, match="finds one class"):
        rl.start.from_string("threshold", num_classes=3)
