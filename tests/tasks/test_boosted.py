"""Gradient boosting as a task: sums of logits by hand, gradients in closed form, earlier networks that stay."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses, models, tasks
from jaxseg.tasks.semantic import region_targets
from jaxseg.train import optim, step
from jaxseg.train import state as states
from jaxseg.typing import UserError

REGIONS = ((1, 2), (2,))
KEY = jax.random.key(1)
SHRINKAGE = 0.25
CROSS_ENTROPY = losses.from_string("cross_entropy", ignore_label=-1)


class Linear(nn.Module):
    """A network that is one matrix, with a second head, and with batch norm before them on request."""

    num_classes: int = 3
    norm: bool = False

    @nn.compact
    def __call__(self, image, train=False):
        if self.norm:
            image = nn.BatchNorm(use_running_average=not train, name="norm")(image)
        logits = nn.Dense(self.num_classes, name="head")(image)
        return logits, {"deep": (nn.Dense(self.num_classes, name="deep_head")(image),)}


def linear(earlier=2, *, outputs=3, loss=CROSS_ENTROPY, norm=False, **options):
    model = Linear(outputs, norm)
    return tasks.boosted(model, loss, earlier=earlier, num_classes=3, **{"shrinkage": SHRINKAGE, **options})


def batch():
    image = jax.random.normal(jax.random.key(0), (2, 4, 6, 1))
    label = jnp.zeros((2, 4, 6), jnp.int32).at[:, 1:3, 2:5].set(1).at[:, 2, 3].set(2).at[0, 0].set(-1)
    return {"image": image, "label": label, "index": jnp.arange(2)}


def two_pixels():
    image = jnp.array([[[0.5, -1.0], [2.0, 0.25], [9.0, 9.0]]])  # (1, 3, 2): the last pixel is ignored
    return {"image": image, "label": jnp.array([[2, 0, -1]]), "index": jnp.arange(1)}


def same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second)):
        np.testing.assert_array_equal(a, b)


def test_round_zero_is_the_semantic_task():
    data = two_pixels()
    plain = tasks.semantic(Linear(norm=True), CROSS_ENTROPY, num_classes=3)
    params, extra = jax.jit(plain.init)(KEY, data["image"])
    value = jax.jit(plain.losses["model"])(params, extra, data, KEY)
    variables = {"params": params, "extra": extra}
    for fits in ("loss", "gradient"):
        task = linear(0, norm=True, fits=fits)
        same(jax.jit(task.init)(KEY, data["image"]), (params, extra))
        same(jax.jit(task.losses["model"])(params, extra, data, KEY), value)
        same(task.predict(variables, data["image"]), plain.predict(variables, data["image"]))
    assert set(extra) == {"model"}


def hand_sum(params, extra, image):
    """f_0 + shrinkage * (f_1 + ...) of linear networks, as matrix products."""
    heads = [network["params"]["head"] for network in tasks.variables_of(params, extra)]
    parts = [np.asarray(image) @ np.asarray(head["kernel"]) + np.asarray(head["bias"]) for head in heads]
    return parts[0] + SHRINKAGE * sum(parts[1:])


def test_predict_is_the_hand_sum_of_logits():
    data = two_pixels()
    task = linear(2)
    params, extra = jax.jit(task.init)(KEY, data["image"])
    variables, expected = {"params": params, "extra": extra}, hand_sum(params, extra, data["image"])
    heads = [network["params"]["head"]["kernel"] for network in tasks.variables_of(params, extra)]
    assert len(heads) == 3 and all((a != b).all() for a, b in itertools.pairwise(heads))  # none can hide another
    np.testing.assert_allclose(linear(2, logits=True).predict(variables, data["image"]), expected, rtol=1e-5)
    probs = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
    np.testing.assert_allclose(task.predict(variables, data["image"]), probs, rtol=1e-5)
    counts = np.zeros((3, 3))
    for true, predicted in zip((2, 0), expected[0, :2].argmax(-1)):
        counts[true, predicted] += 1
    np.testing.assert_array_equal(task.counts(variables, data), counts)
    value, (metrics, _) = jax.jit(task.losses["model"])(params, extra, data, KEY)
    np.testing.assert_array_equal(metrics["counts"], counts)
    assert float(value) == pytest.approx(-np.log(probs[0, [0, 1], [2, 0]]).mean(), rel=1e-5)


def test_gradient_of_the_loss_in_closed_form():
    """d/dkernel of the mean cross-entropy of F + s f: s * mean of image (x) (softmax - one-hot); deep heads get 0."""
    data = two_pixels()
    task = linear(1)
    params, extra = jax.jit(task.init)(KEY, data["image"])
    slope = jax.jit(jax.grad(lambda params: task.losses["model"](params, extra, data, KEY)[0]))(params)["model"]
    logits = hand_sum(params, extra, data["image"])[0, :2]
    difference = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True) - np.eye(3)[[2, 0]]
    expected = SHRINKAGE * np.asarray(data["image"])[0, :2].T @ difference / 2
    np.testing.assert_allclose(slope["head"]["kernel"], expected, rtol=1e-4)
    assert not slope["deep_head"]["kernel"].any()


@pytest.mark.parametrize("regions", [None, REGIONS])
def test_gradient_of_the_pseudo_residuals_in_closed_form(regions):
    """Value and slope of mean |f - r|^2 over two pixels, r = target - probability of F_{m-1}; the third is ignored."""
    data, outputs = two_pixels(), 2 if regions else 3
    task = linear(2, outputs=outputs, regions=regions, fits="gradient")
    params, extra = jax.jit(task.init)(KEY, data["image"])
    derive = jax.jit(jax.value_and_grad(task.losses["model"], has_aux=True))
    (value, (metrics, _)), slope = derive(params, extra, data, KEY)
    image, head = np.asarray(data["image"])[0, :2], params["model"]["head"]
    networks = tasks.variables_of(params, extra)
    before = hand_sum({"model": networks[1]["params"]}, {"earlier": {"0": networks[0]}}, image)
    if regions:
        residual = np.array([[1.0, 1], [0, 0]]) - 1 / (1 + np.exp(-before))
    else:
        residual = np.eye(3)[[2, 0]] - np.exp(before) / np.exp(before).sum(-1, keepdims=True)
    error = image @ np.asarray(head["kernel"]) + np.asarray(head["bias"]) - residual
    assert float(value) == pytest.approx((error**2).sum(-1).mean(), rel=1e-5)
    np.testing.assert_allclose(slope["model"]["head"]["kernel"], image.T @ error, rtol=1e-4)  # 2 / 2 pixels
    np.testing.assert_allclose(slope["model"]["head"]["bias"], error.sum(0), rtol=1e-4)
    assert metrics["counts"].shape == ((2, 3) if regions else (3, 3))


def test_pseudo_residual_is_the_negative_gradient_of_the_cross_entropy():
    """By finite differences of the configured loss at F_{m-1}: what a constant f should equal."""
    data = two_pixels()
    task = linear(1, fits="gradient")
    params, extra = jax.jit(task.init)(KEY, data["image"])
    before = extra["earlier"]["0"]["params"]["head"]
    logits = data["image"] @ before["kernel"] + before["bias"]
    residual, cross_entropy = np.zeros((2, 3)), jax.jit(CROSS_ENTROPY)
    for pixel in range(2):
        for place in range(3):
            shift = jnp.zeros_like(logits).at[0, pixel, place].set(0.01)
            ends = [float(cross_entropy(logits + sign * shift, data["label"])[0]) for sign in (1, -1)]
            residual[pixel, place] = -2 * (ends[0] - ends[1]) / 0.02  # times two pixels: the loss is their mean
    zero = jax.tree.map(jnp.zeros_like, params)  # f = 0: the loss is the mean square of the residuals
    value = jax.jit(task.losses["model"])(zero, extra, data, KEY)[0]
    assert float(value) == pytest.approx((residual**2).sum(-1).mean(), rel=1e-2)


def test_regions_predict_sigmoids_of_the_sum():
    data = two_pixels()
    loss = losses.from_string("binary_cross_entropy", ignore_label=-1)
    task = linear(1, outputs=2, regions=REGIONS, loss=loss)
    params, extra = jax.jit(task.init)(KEY, data["image"])
    variables, total = {"params": params, "extra": extra}, hand_sum(params, extra, data["image"])
    np.testing.assert_allclose(task.predict(variables, data["image"]), 1 / (1 + np.exp(-total)), rtol=1e-5)
    value, (metrics, _) = jax.jit(task.losses["model"])(params, extra, data, KEY)
    expected = loss(jnp.asarray(total), region_targets(data["label"], REGIONS))[0]
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_array_equal(metrics["counts"], task.counts(variables, data))


@pytest.mark.parametrize("fits", ["loss", "gradient"])
def test_steps_leave_earlier_networks_alone_and_lower_the_loss(fits):
    """With batch norm: bit-identical earlier networks, own statistics that move, a loss below that of F_{m-1}."""
    data = batch()
    data["image"] = data["image"] * 0.1 + data["label"][..., None]  # can be learnt
    model = Linear(norm=True)
    if fits == "loss":  # one compilation of a real network is enough
        model = models.create("unet", features=(2, 3), num_classes=3, norm="batch", convs=1, decoder_convs=1)
    task = tasks.boosted(model, CROSS_ENTROPY, earlier=1, num_classes=3, fits=fits)
    optimizers = {"model": optim.optimizer("adam", weight_decay=0.0, no_decay="")}
    start = states.create(KEY, task, data["image"], optimizers, horizon=40, ema=False)
    run = jax.jit(step.make_step(task, optimizers, optim.schedule("constant", lr=0.05)))
    state = start
    for _ in range(40):
        state, metrics = run(state, data, KEY)
    assert bool(metrics["finite"])
    same(state.extra["earlier"], start.extra["earlier"])
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.extra["model"], start.extra["model"])
    assert min(jax.tree.leaves(moved)) > 0

    @jax.jit
    def measure(params, extra):
        first = model.apply(extra["earlier"]["0"], data["image"], train=False)[0]
        total = jnp.log(task.predict({"params": params, "extra": extra}, data["image"]))
        return [CROSS_ENTROPY(logits, data["label"]).mean() for logits in (first, total)]

    before, after = measure(state.params, state.extra)
    # The one matrix, fitted to residuals between -1 and 1, reaches 0.82 of it; the U-Net is below 0.8.
    assert float(after) < 0.9 * float(before)


def test_networks_travel_to_the_next_round():
    data = two_pixels()
    networks, image = [], data["image"]
    for earlier in range(12):  # past "9", where the order of strings is not that of numbers
        task = linear(earlier, logits=True)
        params, extra = jax.jit(task.init)(jax.random.key(earlier), image)
        extra = tasks.with_earlier(extra, networks)
        assert ("earlier" in extra) == (earlier > 0)
        networks = tasks.variables_of(params, extra)
        assert len(networks) == earlier + 1
        same(networks[-1], {"params": params["model"]})
    first = jax.jit(linear(0).init)
    for place in range(12):
        same(networks[place], {"params": first(jax.random.key(place), image)[0]["model"]})
    predicted = linear(11, logits=True).predict({"params": params, "extra": extra}, image)
    np.testing.assert_allclose(predicted, hand_sum(params, extra, image), rtol=1e-5)


def test_collections_travel_too():
    image = two_pixels()["image"]
    params, extra = jax.jit(linear(1, norm=True).init)(KEY, image)
    assert set(extra["earlier"]["0"]) == {"params", "batch_stats"}
    own = {"params": params["model"], "batch_stats": extra["model"]["batch_stats"]}
    same(tasks.variables_of(params, extra)[-1], own)
    filled = tasks.with_earlier(extra, [own])
    same(filled["earlier"]["0"], own)
    same(filled["model"], extra["model"])
    with pytest.raises(UserError, match="missing"):
        tasks.with_earlier(extra, [{"params": own["params"]}])


def test_bad_input():
    for options, message in (
        ({"earlier": -1}, "negative"),
        ({"shrinkage": 0.0}, "shrinkage"),
        ({"shrinkage": 1.5}, "shrinkage"),
        ({"fits": "residual"}, "fits should be 'loss' or 'gradient'"),
        ({"group": "earlier"}, "group"),
    ):
        with pytest.raises(UserError, match=message):
            linear(**options)
    image = two_pixels()["image"]
    params, extra = linear(1).init(KEY, image)
    with pytest.raises(UserError, match="has 1 earlier networks, got 0"):
        tasks.with_earlier(extra, [])
    wider = tasks.variables_of(*linear(0, outputs=4).init(KEY, image))
    with pytest.raises(UserError, match=r"\(4,\) in place of \(3,\)"):
        tasks.with_earlier(extra, wider)
    with pytest.raises(UserError, match="one parameter group, got 2"):
        tasks.variables_of({**params, "other": {}}, extra)
