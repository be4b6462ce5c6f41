"""Tasks that make images, with players of a few numbers: what they are given, what is compared, who learns what."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rivals
import toys

from jaxseg import models, ops, tasks
from jaxseg.tasks.images import one_hot
from jaxseg.tasks.players import DISCRIMINATOR, GENERATOR, JUDGED, Rules, per_sample
from jaxseg.train import optim, step
from jaxseg.train import state as states

KEY = jax.random.key(1)
ZSCORE = tasks.Intensities(("zscore",))
PIXELS = tasks.Fidelity(pixel=2.0)
BRIGHTER = {"brightness": 0.5, "translation": 0.0, "cutout": 0.0}  # the others take long to compile


def labelled(count=2, *, size=(4, 6), channels=1):
    """Images of standard deviations from -1.5 to 1.5, that is encoded -0.5 to 0.5, with labels."""
    draw = np.random.default_rng(0)
    label = draw.integers(0, 3, (count, *size)).astype(np.int32)
    label[:, 0] = -1
    image = draw.uniform(-1.5, 1.5, (count, *size, channels)).astype(np.float32)
    return jax.tree.map(jnp.asarray, {"image": image, "label": label, "index": np.arange(count, dtype=np.int32)})


def begun(task, batch):
    params, extra = task.init(KEY, batch["image"][:1])
    return params, extra


def synthesis(generator=None, judge=None, rules=None, fidelity=PIXELS, **options):
    generator = generator or rivals.Generator(style_features=2)
    return tasks.synthesis(generator, judge, rules, fidelity, **{"num_classes": 3, "intensities": ZSCORE, **options})


def test_pixels_without_a_class_are_zero_in_all_planes():
    planes = one_hot(jnp.array([[[0, 2, -1, 1, 9]]]), 3)
    np.testing.assert_array_equal(planes[0, 0], [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0]])


def test_the_judge_of_synthesis_sees_the_label_map_beside_the_image():
    batch, judge = labelled(), rivals.Judge()
    task = synthesis(judge=judge, rules=Rules())
    params, extra = begun(task, batch)
    task.losses[DISCRIMINATOR](params, extra, batch, KEY)
    real, made = np.split(np.asarray(judge.shown[-1]), 2)
    planes = np.asarray(one_hot(batch["label"], 3))
    for half in (real, made):
        np.testing.assert_array_equal(half[..., :3], planes)
    np.testing.assert_allclose(real[..., 3:], batch["image"] / 3, rtol=1e-6)
    # gain 1 times the first plane, and the first number of each sample's own style
    style = per_sample(jax.random.fold_in(KEY, 0), batch["index"], 2)[:, 0]
    np.testing.assert_allclose(made[..., 3], planes[..., 0] + style[:, None, None], rtol=1e-6)
    assert style[0] != style[1]
    task.losses[GENERATOR](params, extra, batch, KEY)
    np.testing.assert_array_equal(judge.shown[-1][-2:], made)  # the same images in both losses


def test_styles_do_not_depend_on_the_batch_they_stand_in_but_on_the_step():
    batch, judge = labelled(4), rivals.Judge()
    task = synthesis(judge=judge, rules=Rules())
    params, extra = begun(task, batch)

    def made(batch, key=KEY):
        task.losses[DISCRIMINATOR](params, extra, batch, key)
        return np.asarray(judge.shown[-1])[len(batch["index"]) :]

    part = jax.tree.map(lambda leaf: leaf[2:], batch)
    np.testing.assert_array_equal(made(part), made(batch)[2:])
    assert not np.array_equal(made(batch, jax.random.key(2)), made(batch))


def test_a_generator_without_style_is_given_label_maps_alone():
    batch, plain = labelled(), rivals.Generator()  # which refuses a style
    task = synthesis(plain)
    params, extra = begun(task, batch)
    assert set(params) == set(task.losses) == {GENERATOR} and JUDGED not in extra
    value, (figures, after) = task.losses[GENERATOR](params, extra, batch, KEY)
    planes = np.asarray(one_hot(batch["label"], 3))
    error = np.abs(planes[..., :1] - np.asarray(batch["image"]) / 3).mean()
    assert float(value) == pytest.approx(2 * error, rel=1e-6) and float(figures["error/pixel"]) == pytest.approx(error)
    assert float(after[GENERATOR]["seen"]["calls"]) == 1
    variables = {"params": params, "extra": extra}
    made = task.predict(variables, (jnp.asarray(planes), jnp.zeros((2, 0))))
    np.testing.assert_allclose(made, 3 * planes[..., :1])  # decoded: 1 is 3 standard deviations


def test_a_style_is_what_prediction_is_asked_with():
    batch = labelled()
    task = synthesis()
    params, extra = begun(task, batch)
    planes, style = jnp.zeros((2, 4, 6, 3)), jnp.array([[0.25, 9.0], [-0.5, 9.0]])
    made = task.predict({"params": params, "extra": extra}, (planes, style))
    np.testing.assert_allclose(made[:, 0, 0, 0], [0.75, -1.5])


def test_only_whose_loss_it_is_learns():
    batch = labelled()
    task = synthesis(judge=rivals.Judge(weight=0.5), rules=Rules(loss="logistic"))
    params, extra = begun(task, batch)
    for group, other in ((DISCRIMINATOR, GENERATOR), (GENERATOR, DISCRIMINATOR)):
        own = jax.grad(lambda own: task.losses[group]({**params, group: own}, extra, batch, KEY)[0])(params[group])  # noqa: B023
        assert all(float(leaf) != 0 for leaf in jax.tree.leaves(own))
        _, (_, after) = task.losses[group](params, extra, batch, KEY)
        assert after[other] == extra[other]
        assert after[group] != extra[group]
        assert int(after[JUDGED]) == (group == DISCRIMINATOR)
    reached = jax.grad(lambda p: task.losses[DISCRIMINATOR](p, extra, batch, KEY)[0])(params)[GENERATOR]
    assert float(reached["gain"]) == 0


def test_a_game_begins_when_its_rules_say():
    batch = labelled()
    task = synthesis(judge=rivals.Judge(), rules=Rules(weight=5.0, start=1))
    params, extra = begun(task, batch)
    for lessons, counts in ((0, False), (1, False), (2, True)):
        value, (figures, _) = task.losses[GENERATOR](params, {**extra, JUDGED: jnp.int32(lessons)}, batch, KEY)
        expected = 2 * figures["error/pixel"] + (5 * figures["loss/adversarial"] if counts else 0)
        assert float(value) == float(figures["loss/generator"]) == pytest.approx(float(expected), rel=1e-6)


def test_features_of_a_fixed_network_are_compared_in_normalised_intensities():
    batch, seen = labelled(), []

    def perceive(image):
        seen.append(image)
        return [image * 2, image[:, :1]]

    task = synthesis(rivals.Generator(), fidelity=tasks.Fidelity(0.0, 3.0, perceive))
    params, extra = begun(task, batch)
    value, (figures, _) = task.losses[GENERATOR](params, extra, batch, KEY)
    made = 3 * np.asarray(one_hot(batch["label"], 3))[..., :1]
    np.testing.assert_allclose(seen[0], made)
    np.testing.assert_allclose(seen[1], batch["image"], rtol=1e-6)
    gap = np.abs(made - np.asarray(batch["image"]))
    expected = (2 * gap.mean() + gap[:, :1].mean()) / 2
    assert float(figures["error/perceptual"]) == pytest.approx(expected, rel=1e-5)
    assert float(value) == pytest.approx(3 * expected, rel=1e-5)


def test_made_images_shall_show_a_fixed_network_what_they_were_made_of():
    batch = labelled()  # whose first row is of no class

    def perceive(image):
        planes = jnp.concatenate([image, -image, 0 * image], -1)
        return [100 * image, planes]

    task = synthesis(rivals.Generator(), fidelity=tasks.Fidelity(perceive=perceive, label_consistency=3.0))
    params, extra = begun(task, batch)
    (value, (figures, _)), slope = jax.value_and_grad(task.losses[GENERATOR], has_aux=True)(params, extra, batch, KEY)
    label = np.asarray(batch["label"])
    made = 3.0 * (label == 0)  # the first plane, decoded
    planes = np.stack([made, -made, 0 * made], -1)
    wanted = np.take_along_axis(planes, label[..., None].clip(0), -1)[..., 0]
    missed = (np.log(np.exp(planes).sum(-1)) - wanted)[label >= 0].mean()
    assert float(figures["error/labels"]) == pytest.approx(missed, rel=1e-5)
    assert float(value) == pytest.approx(3 * missed, rel=1e-5) and "error/perceptual" not in figures
    assert float(slope[GENERATOR]["gain"]) < 0  # a larger gain would show class 0 more clearly


KINDS = ("zscore", "unit", "ct", "rgb")


def translation(judge=None, rules=None, *, source=(2, 0), target=(3,), generator=None):
    generator = generator or rivals.Generator(channels=len(target))
    return tasks.translation(
        generator, judge, rules, PIXELS, source=source, target=target, intensities=tasks.Intensities(KINDS)
    )  # fmt: skip


def test_a_translation_is_given_its_source_and_compared_with_its_target():
    constants = jnp.array([1.5, 0.25, -0.75, 0.75])  # encoded: 0.5, -0.5, -0.25, 0.5
    batch = labelled(channels=4) | {"image": jnp.broadcast_to(constants, (2, 4, 6, 4))}
    judge = rivals.Judge()
    task = translation(judge, Rules())
    params, extra = begun(task, batch)
    value, (figures, _) = task.losses[GENERATOR](params, extra, batch, KEY)
    made = np.asarray(judge.shown[-1])
    task.losses[DISCRIMINATOR](params, extra, batch, KEY)
    real = np.asarray(judge.shown[-1])[:2]
    np.testing.assert_allclose(real[0, 0, 0], [-0.25, 0.5, 0.5], rtol=1e-6)  # source in its order, then the target
    np.testing.assert_allclose(made[0, 0, 0], [-0.25, 0.5, -0.25], rtol=1e-6)
    assert float(figures["error/pixel"]) == pytest.approx(0.75)
    # hinge of the mean of (-0.25, 0.5, -0.25), which is 0
    assert float(value) == pytest.approx(2 * 0.75, abs=1e-6)
    counts = task.counts({"params": params, "extra": extra}, batch)
    assert float(counts["absolute_error"]) == pytest.approx(0.75 * 48) and float(counts["values"]) == 48


def test_translation_goes_there_and_back_through_a_generator_that_changes_nothing():
    image = labelled(channels=4)["image"]
    task = translation(target=(2, 0), generator=rivals.Generator(channels=2))
    params, extra = task.init(KEY, image[:1])
    made = task.predict({"params": params, "extra": extra}, image[..., (2, 0)])
    np.testing.assert_allclose(made, image[..., (2, 0)], atol=1e-6)
    other = translation(source=(0,), target=(1,))  # of standard deviations, to values from 0 to 1
    params, extra = other.init(KEY, image[:1])
    made = other.predict({"params": params, "extra": extra}, jnp.array([-3.0, 0.0, 1.5, 30.0]).reshape(1, 2, 2, 1))
    np.testing.assert_allclose(made.ravel(), [0.0, 0.5, 0.75, 1.0])


@pytest.mark.parametrize("factors", [(2, 2), (1, 2)])
@pytest.mark.parametrize("method", ["fourier", "gaussian"])
def test_a_generator_that_repeats_voxels_errs_by_what_degrading_took(factors, method):
    batch = labelled(size=(4, 8), channels=2)
    batch["image"] = batch["image"].at[0, 0, 0].set(30.0)  # ten times what stands for 1: scaled, and not cut off
    task = tasks.super_resolution(
        rivals.Generator(channels=2, factors=factors),
        None,
        None,
        PIXELS,
        factors=factors,
        degrade=method,
        intensities=tasks.Intensities(("zscore", "unit")),
    )
    params, extra = begun(task, batch)
    true = (np.asarray(batch["image"]) - [0.0, 0.5]) / [3.0, 0.5]
    axes = tuple(axis for axis, factor in enumerate(factors) if factor > 1)
    low = np.stack([ops.degrade(one.astype(np.float32), factor=2, axes=axes, method=method) for one in true])
    assert low.shape == (2, 4 // factors[0], 4, 2)
    made = low.repeat(factors[0], 1).repeat(factors[1], 2)
    value, (figures, _) = task.losses[GENERATOR](params, extra, batch, KEY)
    assert float(value) == pytest.approx(2 * np.abs(made - true).mean(), rel=1e-4)
    assert float(figures["error/pixel"]) == pytest.approx(np.abs(made - true).mean(), rel=1e-4)
    asked = task.predict({"params": params, "extra": extra}, batch["image"])
    np.testing.assert_allclose(asked, batch["image"].repeat(factors[0], 1).repeat(factors[1], 2), atol=1e-5)


def test_the_judge_of_super_resolution_sees_the_image_alone():
    batch, judge = labelled(size=(4, 8)), rivals.Judge()
    task = tasks.super_resolution(
        rivals.Generator(factors=(2, 2)), judge, Rules(), PIXELS, factors=(2, 2), degrade="gaussian", intensities=ZSCORE
    )
    params, extra = begun(task, batch)
    task.losses[DISCRIMINATOR](params, extra, batch, KEY)
    assert judge.shown[-1].shape == (4, 4, 8, 1)
    np.testing.assert_allclose(judge.shown[-1][:2], batch["image"] / 3, rtol=1e-6)


def optimizers(task, name):
    return {group: optim.optimizer(name, weight_decay=0.0, no_decay="", momentum=0.5) for group in task.losses}


def stepper(task, *, name="sgd", **options):  # Adam would make much of gradients that are 0 but for rounding
    return step.make_step(task, optimizers(task, name), optim.schedule("constant", lr=0.05), **options)


def begin(task, batch, *, name="sgd", ema=False):
    return states.create(KEY, task, batch["image"][:1], optimizers(task, name), horizon=10, ema=ema)


def test_devices_together_do_as_one():
    """The draws of styles and of the augmentation, and averages of the relativistic loss, are those of the batch."""
    batch = labelled(4)
    rules = Rules(loss="relativistic", augment=BRIGHTER)
    task = synthesis(judge=rivals.Judge(weight=0.5), rules=rules, fidelity=tasks.Fidelity())
    run, state = stepper(task), begin(task, batch)
    one, figures = jax.jit(run)(state, batch, KEY)
    parts = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), batch)
    mapped = jax.vmap(
        functools.partial(run, axis_name="batch"), axis_name="batch", in_axes=(None, 0, None), out_axes=None
    )
    two, theirs = jax.jit(mapped)(state, parts, KEY)
    # a relativistic loss does not see the judge's bias, whose gradient is 0 but for the rounding of sums of order one
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(two)):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)
    # spread is measured on each device's own images, and shares are against its own mean
    for name in set(figures) - {"diversity", "accuracy/real", "accuracy/fake"}:
        np.testing.assert_allclose(figures[name], theirs[name], rtol=1e-5, atol=1e-7)


def test_micro_batches_give_the_gradient_of_the_whole():
    batch = labelled(4)
    task = synthesis(judge=rivals.Judge(weight=0.5), rules=Rules(loss="logistic", augment=BRIGHTER))
    state = begin(task, batch)
    whole, _ = jax.jit(stepper(task))(state, batch, KEY)
    parts, _ = jax.jit(stepper(task, accumulate=2))(state, batch, KEY)
    for left, right in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params)):
        np.testing.assert_allclose(left, right, rtol=1e-4)
    assert int(parts.extra[JUDGED]) == 2  # lessons are counted, of which a step has one a micro-batch


@pytest.fixture(scope="module")
def real():
    """SPADE and a PatchGAN, both with spectral norm, compiled once: (state before, states and metrics of two steps)."""
    batch = labelled(2, size=(16, 24))
    task = synthesis(
        models.create_generator("spade", features=2, widths=(1, 1, 1), hidden=8, style_features=2),
        models.create_discriminator("patch_gan", features=2, layers=1, spectral=True),
        Rules(feature_matching=10.0, gradient_penalty=1.0, augment=BRIGHTER),
    )
    traces = []
    run = stepper(task, name="adam", ema=0.9)

    def counted(*given):
        traces.append(1)
        return run(*given)

    compiled, state, found = jax.jit(counted), begin(task, batch, name="adam", ema=True), []
    after = state
    for _ in range(2):
        after, metrics = compiled(after, batch, KEY)
        found.append((after, metrics))
    return state, found, len(traces)


def test_a_step_of_real_players_is_finite_and_moves_both(real):
    before, found, traces = real
    assert traces == 1
    for _, metrics in found:
        assert all(np.isfinite(value).all() for value in metrics.values())
    after, metrics = found[0]
    assert {f"gradient_norm/{group}" for group in (GENERATOR, DISCRIMINATOR)} < set(metrics)
    for group in (GENERATOR, DISCRIMINATOR):
        kernels = [toys.kernels(state.params[group]) for state in (before, after)]
        assert all(not np.array_equal(*pair) for pair in zip(*kernels))
        turned = jax.tree.map(lambda a, b: not np.array_equal(a, b), before.extra[group], after.extra[group])
        assert np.mean(jax.tree.leaves(turned)) > 0.6  # a layer of one output has nothing to turn
        assert set(before.extra[group]) == {"spectral"}
    assert int(after.extra[JUDGED]) == 1 and int(found[1][0].extra[JUDGED]) == 2
    assert float(found[0][1]["loss/gradient_penalty"]) > 0 == float(found[1][1]["loss/gradient_penalty"])
    averaged = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, before.params, after.params)
    for left, right in zip(jax.tree.leaves(after.ema), jax.tree.leaves(averaged)):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)


def test_a_small_generator_learns_one_batch_by_heart():
    batch = labelled(1, size=(8, 8), channels=2)
    smooth = np.stack(np.meshgrid(*[np.linspace(-1.5, 1.5, 8)] * 2, indexing="ij"), -1).astype(np.float32)
    batch["image"] = jnp.asarray(smooth)[None]
    task = tasks.translation(
        models.create_generator("resnet_generator", features=4, downs=1, blocks=1, norm="none"),
        None,
        None,
        PIXELS,
        source=(0,),
        target=(1,),
        intensities=tasks.Intensities(("zscore", "zscore")),
    )
    run = step.make_step(task, optimizers(task, "adam"), optim.schedule("cosine", lr=0.02))
    state, compiled = begin(task, batch, name="adam")._replace(horizon=jnp.int32(150)), jax.jit(run, donate_argnums=0)
    errors = []
    for _ in range(150):
        state, metrics = compiled(state, batch, KEY)
        errors.append(float(metrics["error/pixel"]))
    assert errors[-1] < errors[0] / 10
