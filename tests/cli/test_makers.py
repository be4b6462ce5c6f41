"""Runs that make images: trained, cut and resumed in this process with players of a few numbers; what is refused."""

import clinic
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rivals
from ml_collections import ConfigDict

from jaxseg import config as configs
from jaxseg import models, transfer, validation
from jaxseg.cli import build, features, image_cases, images, initial, prepare, train, tune, workdir
from jaxseg.cli import compile as compiling
from jaxseg.data import store
from jaxseg.tasks.players import DISCRIMINATOR, GENERATOR, JUDGED
from jaxseg.train import checkpoint, loop
from jaxseg.train import state as states
from jaxseg.typing import UserError

NETWORKS = {
    "synthesis": {"name": "spade", "features": 2, "widths": (1, 1, 1), "hidden": 2, "style_features": 2},
    "translation": {"name": "resnet_generator", "features": 2, "downs": 1, "blocks": 1},
    "super_resolution": {"name": "super_resolution", "features": 4, "blocks": 1, "scale": 2},
}
CHANNELS = ("T1", "T2")
KNOWN = build.Facts(CHANNELS, ("background", "shell", "core"), (0, 1, 2), (), None, None)


def configuration(task, /, *, root="unread", name="nnunet_raw", **changes):
    """A tiny run of a task in 2D; `changes` are fields, "data__fold" for config.data.fold."""
    config = configs.base_config()
    config.task, config.augment = task, "mirror"
    config.data.name, config.data.root, config.data.folds = name, str(root), 3
    config.data.patch_size, config.data.batch_size, config.data.workers = (16, 12), 2, 1
    config.data.normalize, config.data.crop = "zscore", False
    config.model = ConfigDict({"ndim": 2, **NETWORKS[task]})
    config.adversarial.weight = 1.0
    config.adversarial.discriminator = "patch_gan(features=2, layers=1)"
    config.adversarial.pool = 3
    config.translation.source, config.translation.target = ("T1",), ("T2",)
    config.train.total_steps, config.train.eval_steps, config.train.log_steps = 4, 2, 1
    config = ConfigDict(config.to_dict(), type_safe=False)
    for path, value in changes.items():
        *groups, field = path.split("__")
        place = config
        for group in groups:
            place = place[group]
        place[field] = value
    return config


def arguments(config, folder):
    return workdir.Arguments(ConfigDict(config.to_dict(), type_safe=False), folder, (), None, None, False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return clinic.nnunet_raw(tmp_path_factory.mktemp("clinic") / "task", cases=4)


@pytest.fixture
def toys(monkeypatch):
    """Puts players of a few numbers in the place of networks."""

    def generator(config, channels, *, made=None, **fields):
        count = len(images.target(config, channels)) if made is None else made
        return rivals.Generator(gain=0.9, channels=count, style_features=2 * (config.task == "synthesis"))

    monkeypatch.setattr(images, "generator", generator)
    monkeypatch.setattr(build, "divisor", lambda config, known: (1, 1))
    monkeypatch.setattr(images, "discriminator", lambda config, **fields: rivals.Judge(weight=0.5))


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("synthesis", {"optim__ema": 0.9, "adversarial__augment": "brightness=0.5"}),
        ("translation", {"translation__paired": False, "adversarial__loss": "least_squares"}),
    ],
)
def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(root, toys, tmp_path, task, changes):
    config = configuration(task, root=root, **changes)
    validation.validate(config)
    whole = train.train(arguments(config, tmp_path / "whole"))
    assert whole.end is loop.End.FINISHED
    record = workdir.record(tmp_path / "whole")
    config.data.store = record["store"]
    cut = train.train(arguments(config, tmp_path / "cut"), watch=lambda step, score: step == 2)
    assert cut.end is loop.End.WATCHED and int(cut.state.step) == 2
    train.train(arguments(config, tmp_path / "cut"))
    found = [checkpoint.Checkpoints(tmp_path / name) for name in ("whole", "cut")]
    one, two = (each.read(4) for each in found)
    for each in found:
        each.close()
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(two)):
        np.testing.assert_array_equal(left, right)
    assert set(one["params"]) == set(one["opt_state"]) == {GENERATOR, DISCRIMINATOR} and one["extra"][JUDGED] == 4
    ways = {"": one["extra"]} if task == "synthesis" else None
    seen = jax.tree.leaves(one["extra"][GENERATOR]) + jax.tree.leaves(one["extra"][DISCRIMINATOR])
    assert [float(leaf) for leaf in seen] == [4.0] * (2 if ways else 4)
    if task == "translation":
        assert {int(pool["filled"]) for pool in map(_as_dict, one["extra"]["pool"].values())} == {3}
        assert all(np.any(_as_dict(pool)["images"]) for pool in one["extra"]["pool"].values())
        # each half of the training subjects shows one side: of 2 training cases the source has one
        assert len(record["split"]["training"]) == 1
    for name in ("whole", "cut"):
        panels = sorted(path.name for path in (tmp_path / name / image_cases.PANELS).iterdir())
        assert panels == ["step_000002.png", "step_000004.png"]
        rows = (tmp_path / name / "metrics.jsonl").read_text()
        assert rows.count('"train/loss/discriminator"') == 4 and ("val/psnr_db" in rows) == (task == "translation")


def _as_dict(pool):
    return pool if isinstance(pool, dict) else pool._asdict()


def test_without_a_held_out_fold_the_latest_is_the_best(root, toys, tmp_path):
    config = configuration("synthesis", root=root, data__fold="none", train__total_steps=None)
    config.train.total_epochs, config.train.eval_steps, config.optim.accumulate = 1.0, 1, 2
    outcome = train.train(arguments(config, tmp_path))
    assert int(outcome.state.step) == 2  # 4 cases in batches of 2
    assert int(outcome.state.extra[JUDGED]) == 4  # a lesson a micro-batch
    found = checkpoint.Checkpoints(tmp_path)
    assert found.pick("best") == found.pick("latest") == 2
    found.close()


@pytest.mark.parametrize(
    ("task", "changes", "words"),
    [
        ("synthesis", {"adversarial__weight": -1.0}, "adversarial.weight must be 0 or more, got -1.0"),
        ("synthesis", {"adversarial__pool": -1}, "adversarial.pool must be 0 or more, got -1"),
        ("synthesis", {"adversarial__clip": 0.0}, "adversarial.clip must be positive, got 0.0"),
        ("synthesis", {"adversarial__rate_factor": float("inf")}, "adversarial.rate_factor must be positive"),
        ("synthesis", {"adversarial__loss": "hing"}, "adversarial.loss must be one of hinge, least_squares"),
        ("synthesis", {"adversarial__perceptual": 1.0}, "name its workdir in adversarial.network"),
        ("synthesis", {"adversarial__label_consistency": 1.0}, "asks a segmentation run; name its workdir"),
        ("translation", {"adversarial__label_consistency": 1.0}, "is for task='synthesis', whose images have labels"),
        ("synthesis", {"optim__betas": (0.9,)}, "optim.betas must be two numbers from 0 to below 1"),
        ("synthesis", {"adversarial__weight": 0.0}, "nothing says what images should look like"),
        ("synthesis", {"data__fold": "all"}, "trains one network on one fold"),
        ("synthesis", {"ensemble__kind": "seeds"}, "trains one network on one fold"),
        ("synthesis", {"data__spacing": "median"}, "images are made on their own grid; set data.spacing='keep'"),
        ("synthesis", {"predict__tta": True}, "predict.tta averages flips"),
        ("synthesis", {"train__sync_batch_norm": True}, "train.sync_batch_norm is for semantic tasks"),
        ("synthesis", {"task": "semantic"}, "model.name = 'spade' makes images; set task to synthesis, translation"),
        ("synthesis", {"task": "semantic", "model__name": "unet", "ensemble__kind": "seeds"}, "a critic of masks does"),
        ("translation", {"translation__source": ()}, "translation.source must name channels, such as"),
        ("translation", {"translation__target": ("T1",)}, "must be different channels, both name T1"),
        ("translation", {"translation__other": {"name": "msd"}}, "set translation.paired=False"),
        ("translation", {"translation__paired": False, "adversarial__weight": 0.0}, "needs its discriminators"),
        ("translation", {"translation__paired": False, "adversarial__pixel": 1.0}, "without pairs there is no true"),
        ("translation", {"translation__paired": False, "optim__accumulate": 2}, "draws from its pool once a step"),
        ("super_resolution", {"data__patch_size": (15, 12)}, r"\(15, 12\) must be divisible by model.scale = 2"),
        ("super_resolution", {"data__patch_size": (0, 12)}, "data.patch_size must be set for super-resolution"),
        ("super_resolution", {"super_resolution__degrade": "blur"}, "must be fourier or gaussian, got 'blur'"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_read(task, changes, words):
    with pytest.raises(UserError, match=words):
        validation.validate(configuration(task, **changes))


@pytest.mark.parametrize("task", NETWORKS)
def test_the_configs_of_these_tests_are_valid_and_so_are_their_networks(task):
    config = configuration(task)
    validation.validate(config)
    build.check_model(config, KNOWN)


def test_the_axis_that_is_not_enlarged_may_have_any_length():
    validation.validate(configuration("super_resolution", data__patch_size=(15, 12), model__axes=(1,)))


@pytest.mark.parametrize(
    ("task", "changes", "words"),
    [
        ("synthesis", {"data__normalize": "auto"}, "'auto': where images are made, it should name one of zscore"),
        ("translation", {"translation__source": ("T1", "T9")}, "source names 'T9', but the data have the channels T1,"),
        ("translation", {"translation__target": ("T3",)}, "translation.target names 'T3', but the data have"),
        ("synthesis", {"model__name": "unet"}, "generator"),
        ("synthesis", {"model__depth": 3}, "The generator 'spade' has no field depth"),
        ("synthesis", {"adversarial__discriminator": "patch_gan(width=3)"}, "'patch_gan' has no field width"),
        ("synthesis", {"adversarial__discriminator": "patch_gan(layers=3)"}, "take fewer layers or larger patches"),
        ("synthesis", {"adversarial__augment": "blur=1"}, "should read brightness=0.5,translation=0.125,cutout=0.5"),
        ("synthesis", {"adversarial__augment": "cutout=1.5"}, "cutout not above 1"),
        ("synthesis", {"adversarial__augment": "brightness=-0.5"}, "none may be negative"),
        ("super_resolution", {"model__scale": 3, "data__patch_size": (15, 12)}, "scale should be 2 or 4"),
        ("super_resolution", {"model": {"name": "pix2pix", "ndim": 2}}, "needs a network that enlarges"),
        ("translation", {"data__patch_size": (15, 12)}, r"data.patch_size \(15, 12\) does not fit the model"),
        ("synthesis", {"optim__freeze": "^conv_0"}, "optim.freeze '^conv_0' matches no parameter; the model's layers"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_prepared(root, tmp_path, task, changes, words):
    changes = {name: ConfigDict(value) if isinstance(value, dict) else value for name, value in changes.items()}
    with pytest.raises(UserError, match=words.replace("^", r"\^")):
        prepare.ensure(configuration(task, root=root, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"root": "x"}, "translation.other should name its layout"),
        ({"name": "nnunet_raw", "fold": "1"}, "has no field fold"),
        ({"name": "nnunet_raw", "root": "ROOT"}, "T2, but the images of translation.other have the channels T1, T2"),
    ],
)
def test_a_data_set_of_the_target_that_does_not_fit_is_told_first(root, tmp_path, other, words):
    other = {name: str(root) if value == "ROOT" else value for name, value in other.items()}
    config = configuration("translation", root=root, translation__paired=False, translation__other=ConfigDict(other))
    with pytest.raises(UserError, match=words):
        prepare.ensure(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_target_may_be_a_data_set_of_its_own(root, toys, tmp_path):
    other = clinic.msd(tmp_path / "other", cases=2)
    config = configuration("translation", root=root, translation__paired=False, translation__target=("MRI",))
    config.translation.other = ConfigDict({"name": "msd", "root": str(other)})
    outcome = train.train(arguments(config, tmp_path / "run"), watch=lambda step, score: True)
    assert int(outcome.state.step) == 2
    assert [case.name for case in store.open(tmp_path / "run" / "prepared_other")] == ["case_00", "case_01"]
    rows = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "val/psnr_db" not in rows and '"val/score": 2.0' in rows  # nobody knows the true image
    shapes = compiling.batch_shapes(config, KNOWN, tmp_path / "run")
    assert shapes["image"].shape == (2, 16, 12, 2) and shapes["other"].shape == (2, 16, 12, 1)


def test_one_subject_cannot_show_both_sides():
    cases = [type("Case", (), {"subject": "one", "name": name})() for name in "ab"]
    with pytest.raises(UserError, match="needs two training subjects or more, there is 1; name the target's own"):
        images.halves(cases, seed=0)


def test_no_subject_shows_both_sides():
    cases = [type("Case", (), {"subject": f"s{n // 2}", "name": str(n)})() for n in range(10)]
    first, second = images.halves(cases, seed=3)
    assert len({case.subject for case in first}) == 3 and len({case.subject for case in second}) == 2
    assert sorted(case.name for case in [*first, *second]) == sorted(case.name for case in cases)
    assert not {case.subject for case in first} & {case.subject for case in second}
    assert images.halves(cases, seed=3) == (first, second)
    assert any(images.halves(cases, seed=seed) != (first, second) for seed in range(9))


def test_the_second_image_is_augmented_by_draws_of_its_own():
    def turn(key, batch):
        shift = jax.vmap(lambda place: jax.random.normal(jax.random.fold_in(key, place)))(batch["index"])
        assert batch["label"].shape == batch["image"].shape[:-1]
        return {**batch, "image": batch["image"] + shift[:, None, None, None]}

    batch = {
        "image": jnp.zeros((2, 3, 4, 2)),
        "other": jnp.zeros((2, 3, 4, 1)),
        "label": jnp.ones((2, 3, 4), jnp.int32),
        "index": jnp.arange(2),
    }
    found = images.with_other(turn)(jax.random.key(0), batch)
    assert found["other"].shape == (2, 3, 4, 1) and found["image"].shape == (2, 3, 4, 2)
    drawn = np.concatenate([found["image"][:, 0, 0, 0], found["other"][:, 0, 0, 0]])
    assert len(np.unique(drawn)) == 4
    np.testing.assert_array_equal(found["label"], batch["label"])


def test_both_streams_end_together():
    ended = []

    def stream(name):
        try:
            while True:
                yield {"image": name, "index": 0}
        finally:
            ended.append(name)

    both = images.beside(stream("a"), stream("b"))
    assert next(both) == {"image": "a", "index": 0, "other": "b"}
    both.close()
    assert sorted(ended) == ["a", "b"]


def test_steps_before_the_game_are_steps_whatever_the_micro_batches():
    for accumulate, lessons in ((1, 5), (2, 10)):
        rules = images.rules(configuration("synthesis", adversarial__start=5, optim__accumulate=accumulate))
        assert rules is not None and rules.start == lessons
    assert images.rules(configuration("synthesis", adversarial__weight=0.0)) is None
    assert images.strengths("cutout=0.25") == {"brightness": 0.0, "translation": 0.0, "cutout": 0.25}
    assert images.strengths("") == {}


def shapes_of(config):
    return build.state_shapes(config, KNOWN, build.task(config, KNOWN))


def zeros(tree):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


def test_weights_of_another_run_go_to_both_generators_of_a_cycle():
    config = configuration("translation", translation__paired=False)
    state = zeros(shapes_of(config)._replace(opt_state={}))
    ones = jax.tree.map(jnp.ones_like, {"params": state.params[GENERATOR], **state.extra[GENERATOR]})
    filled, merged = initial.fill(config, state, ones)
    assert all(np.all(leaf == 1) for leaf in jax.tree.leaves(filled.params[GENERATOR]))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(filled.params[DISCRIMINATOR]))
    assert jax.tree.structure(filled.extra) == jax.tree.structure(state.extra) and not merged.fresh


@pytest.mark.parametrize("task", ["translation", "synthesis"])
def test_weights_for_slices_start_a_generator_of_volumes(task):
    network = {"name": "pix2pix", "features": 2, "n_downs": 2} if task == "translation" else NETWORKS[task]
    config = configuration(task, data__patch_size=(8, 8, 8), model=ConfigDict({"ndim": 3, **network}))
    config.adversarial.weight, config.adversarial.pixel = 0.0, 1.0
    state = zeros(shapes_of(config)._replace(opt_state={}))
    flat = configuration(task, model=ConfigDict({"ndim": 2, **network}), adversarial__weight=0.0)
    flat.adversarial.pixel = 1.0
    given = zeros(shapes_of(flat)._replace(opt_state={}))
    ones = jax.tree.map(jnp.ones_like, {"params": given.params[GENERATOR], **given.extra[GENERATOR]})
    _, merged = initial.fill(config, state, ones)
    assert merged.adapted and not merged.fresh and not merged.unused


def test_freezing_the_network_leaves_its_judge_alone():
    config = configuration("synthesis", optim__freeze="^head")
    validation.validate(config)
    task, state = build.task(config, KNOWN), zeros(shapes_of(config)._replace(opt_state={}))
    assert "head" in state.params[GENERATOR] and "head" in state.params[DISCRIMINATOR]
    stopped = []

    def loss(params, extra, batch, key, **options):
        value = sum(jnp.sum(leaf) for tree in params.values() for leaf in jax.tree.leaves(tree["head"]))
        return value, ({}, extra)

    plain = task._replace(losses={GENERATOR: loss, DISCRIMINATOR: loss})
    for frozen, meant in (
        (transfer.freeze(plain, "^head"), 2),
        (transfer.freeze(plain, "^head", groups=(GENERATOR,)), 1),
    ):
        gradient = jax.grad(lambda p: frozen.losses[GENERATOR](p, {}, {}, None)[0])(state.params)  # noqa: B023
        stopped = [group for group, tree in gradient.items() if not np.any(tree["head"]["bias"])]
        assert len(stopped) == meant and GENERATOR in stopped


def test_a_search_without_true_images_is_refused(tmp_path):
    config = configuration("synthesis", tune__space="optim.lr=log(1e-4,1e-2)")
    with pytest.raises(UserError, match="task = 'synthesis' has no true images to score a trial by"):
        tune.tune(arguments(config, tmp_path))


@pytest.mark.parametrize(
    ("task", "asked"),
    [
        ("synthesis", [(1, 16, 12, 3), (1, 2)]),
        ("translation", [(1, 16, 12, 1)]),
        ("super_resolution", [(1, 8, 6, 2)]),
    ],
)
def test_what_is_compiled_is_what_prediction_asks(task, asked, tmp_path):
    config = configuration(task)
    shapes = compiling._asked(config, KNOWN)
    assert [leaf.shape for leaf in jax.tree.leaves(shapes)] == asked
    state = shapes_of(config)
    made = jax.eval_shape(build.task(config, KNOWN).predict, states.inference_variables(state), shapes)
    assert made.shape == (1, 16, 12, 1 if task == "translation" else 2)
    assert "other" not in compiling.batch_shapes(config, KNOWN, tmp_path)


def test_networks_are_those_of_the_config():
    found = images.generator(configuration("translation"), CHANNELS)
    assert found == models.create_generator("resnet_generator", channels=1, ndim=2, features=2, downs=1, blocks=1)
    assert images.groups(configuration("translation")) == (GENERATOR, DISCRIMINATOR)
    assert images.groups(configuration("translation", adversarial__weight=0.0)) == (GENERATOR,)


@pytest.fixture(scope="module")
def segmenter(root, tmp_path_factory):
    """The workdir of a segmentation run of the same images, whose network traces in a moment."""
    folder = tmp_path_factory.mktemp("runs") / "segmenter"
    config = configuration("synthesis", root=root, adversarial__weight=0.0, train__total_steps=1)
    config.task, config.augment = "semantic", "none"
    config.model = ConfigDict({"name": "pixel_features", "ndim": 2, "features": (4,), "sigmas": (0.7,)})
    train.train(arguments(config, folder))
    return folder


def test_features_of_a_run_are_constants_wherever_they_are_asked_first(segmenter):
    config = configuration("synthesis", adversarial__perceptual=1.0, adversarial__network=str(segmenter))
    validation.validate(config)
    features.of_run.cache_clear()
    look = images.perceive(config)

    @jax.jit
    def slope(image):
        return jax.grad(lambda image: sum(jnp.sum(jnp.square(layer)) for layer in look(image)))(image)

    wide = jax.random.normal(jax.random.key(0), (1, 8, 10, 2))
    assert np.any(slope(wide[:, :, :6])) and np.any(slope(wide))  # traced twice, read once
    outside = look(wide)
    for layer, inside in zip(outside, jax.jit(look)(wide)):
        np.testing.assert_allclose(layer, inside, rtol=1e-5, atol=1e-6)
    assert outside[-1].shape == (1, 8, 10, 2)  # logits of the regions
    assert features.pooled(outside).shape == (1, sum(layer.shape[-1] for layer in outside))


def test_a_network_whose_features_do_not_fit_is_told_before_anything_is_prepared(segmenter, root, tmp_path):
    config = configuration("translation", root=root, adversarial__perceptual=1.0)
    for network, words in ((str(tmp_path / "no"), "is not the workdir of a run"), (str(segmenter), "does not take")):
        config.adversarial.network = network  # of two channels; one is made
        with pytest.raises(UserError, match=words):
            prepare.ensure(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_consistent_labels_need_a_run_of_the_same_classes(segmenter, root, tmp_path):
    network = str(segmenter)
    config = configuration("synthesis", root=root, adversarial__label_consistency=1.0, adversarial__network=network)
    with pytest.raises(
        UserError, match=r"tells the 3 classes of the label maps apart, but .* tells overlapping regions"
    ):
        prepare.ensure(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
