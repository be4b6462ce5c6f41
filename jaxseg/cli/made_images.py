"""--mode evaluate and predict where images are made: held-out cases beside simple ways, and folders of files."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxseg import config as configs
from jaxseg import evaluate as evaluation
from jaxseg import metrics, ops, paths, predict
from jaxseg.cli import build, features, image_cases, images, inference, workdir
from jaxseg.data import fingerprint, preprocess, store
from jaxseg.data.datasets import inputs
from jaxseg.evaluate import image_quality, image_report, set_quality
from jaxseg.train import logging, processes
from jaxseg.train import state as states
from jaxseg.typing import Task, UserError

PICTURES = "pictures"
REFERENCES = 8  # training images whose histogram a source is matched to
MOST_IMAGES = 400  # of each set whose features are compared
SIMPLE = ("nearest", "linear", "cubic", "fourier")


class Maker(NamedTuple):
    """A trained maker of images: its config and record, what it knows of the data, the task and its variables."""

    config: ConfigDict
    record: dict[str, Any]
    known: build.Facts
    task: Task
    variables: Any
    step: int


def load(arguments: workdir.Arguments) -> Maker:
    """Restores the checkpoint that `config.predict.checkpoint` names.

    Raises:
      UserError: the workdir holds none, or further workdirs are named.
    """
    if arguments.average:
        raise UserError("--average averages class maps; images of several runs would blur into each other.")
    config = arguments.config
    record, known, task, restored = inference.open_run(arguments.workdir, config)
    return Maker(config, record, known, task, states.inference_variables(restored.state), restored.step)


def evaluate(arguments: workdir.Arguments) -> None:
    """Scores what is made of every held-out case, or (synthesis) of all their label maps, and writes the report.

    Raises:
      UserError: nothing was held out or can be compared, or --input is given.
    """
    if arguments.inputs or arguments.labels:
        raise UserError("--mode evaluate of a run that makes images scores its held-out cases; leave --input out.")
    maker = load(arguments)
    config = maker.config
    cases = store.open(build.store_folder(config, arguments.workdir))
    split = {name: set(maker.record.get("split", {}).get(name, ())) for name in ("training", "held out")}
    training, held_out = ([case for case in cases if case.name in split[name]] for name in ("training", "held out"))
    if not held_out:
        raise UserError("This run held no case out (data.fold=none), so there is nothing to score.")
    folder = paths.path(arguments.output) if arguments.output else arguments.workdir / evaluation.files.FOLDER
    if config.task == "synthesis":
        _evaluate_sets(maker, training, held_out, folder)
    elif image_cases.has_truth(config):
        _evaluate_pairs(maker, training, held_out, folder)
    else:
        print("the two data sets of this translation share no patient, so no true image can be compared with")
    if processes.is_first() and folder.parent == arguments.workdir:
        print(f"report    {evaluation.write_report(arguments.workdir)}")
        print(f"card      {evaluation.write_card(arguments.workdir)}")


def _evaluate_pairs(
    maker: Maker, training: Sequence[store.StoredCase], held_out: Sequence[store.StoredCase], folder: paths.Path
) -> None:
    mine = processes.mine(held_out)
    count = maker.config.evaluate.overlays

    def work() -> evaluation.Scored:
        with logging.progress(len(mine), label="evaluate") as show:
            return image_quality.score_image_cases(
                _results(maker, training, mine), progress=lambda done, name: show(done, case=name), picture_count=count
            )

    parts = processes.together(work)
    if not processes.is_first():
        return
    scored = evaluation.merge(parts)
    rows = scored.rows()
    summary = image_quality.summarize_images(rows)
    scored.gallery.write(folder / PICTURES)
    image_quality.write_images(folder, rows, summary)
    print(image_quality.text_table(summary))
    print(f"scores    {folder / evaluation.files.CASES}\npictures  {folder / PICTURES}")


def _results(
    maker: Maker, training: Sequence[store.StoredCase], cases: Sequence[store.StoredCase]
) -> Iterator[image_quality.ImageResult]:
    """Makes one image when it is asked for the next."""
    look = image_cases.maker(maker.config, maker.known, maker.task)
    reference = _reference(maker, training) if maker.config.task == "translation" else None
    for case in cases:
        image, label = image_cases.read(case)
        found = look(maker.variables, image, label)
        assert found.true is not None  # who calls this knows
        mask = _inside(maker, image) if found.true.shape[:-1] == image.shape[:-1] else None
        simple = _enlarged(maker, found.given) if reference is None else _matched(found, reference, mask)
        yield image_quality.ImageResult(
            name=case.name,
            made={image_quality.NETWORK: found.made, **simple},
            true=found.true,
            source=found.given,
            mask=mask,
            spacing_mm=case.spacing,
            axes=None,
        )


def _inside(maker: Maker, image: np.ndarray) -> np.ndarray | None:
    """Where the patient is: not 0, where the normalisation leaves the background out; else everywhere (None)."""
    kinds = images.kinds(maker.config, maker.known.channels)
    return (image != 0).any(-1) if set(kinds) == {"zscore_mask"} else None


def _reference(maker: Maker, training: Sequence[store.StoredCase]) -> np.ndarray | None:
    """Returns values `(N, C)` of some training images of the target contrast, encoded."""
    target = images.target(maker.config, maker.known.channels)
    values = []
    for case in training[:REFERENCES]:
        image, _ = image_cases.read(case)
        mask = _inside(maker, image)
        chosen = image[..., list(target)]
        values.append(chosen.reshape(-1, len(target)) if mask is None else chosen[mask])
    coding = images.target_coding(maker.config, maker.known.channels)
    return image_cases.encoded(coding, np.concatenate(values))


def _matched(found: image_cases.Made, reference: np.ndarray | None, mask: np.ndarray | None) -> dict[str, np.ndarray]:
    """The source as it is, and with the histogram of the target contrast; neither where there are other channels."""
    assert found.true is not None and reference is not None
    if found.given.shape != found.true.shape:
        return {}
    values = found.given.reshape(-1, found.given.shape[-1]) if mask is None else found.given[mask]
    matched = found.given.copy()
    matched[np.ones(matched.shape[:-1], bool) if mask is None else mask] = metrics.histogram_matching(values, reference)
    return {"identity": found.given, "histogram matching": matched}


def _enlarged(maker: Maker, low: np.ndarray) -> dict[str, np.ndarray]:
    """What interpolation gives."""
    factors = images.factors(build.model(maker.config, maker.known))
    leading = low.ndim - 1 - len(factors)
    axes = tuple(leading + axis for axis, factor in enumerate(factors) if factor > 1)
    return {name: np.asarray(ops.enlarge(low, factor=max(factors), axes=axes, method=name)) for name in SIMPLE}


def _evaluate_sets(
    maker: Maker, training: Sequence[store.StoredCase], held_out: Sequence[store.StoredCase], folder: paths.Path
) -> None:
    """Compares features of made and real images as sets; `synthesis.segmenter` is the network whose features count."""
    config, known = maker.config, maker.known
    if not config.synthesis.segmenter:
        print(
            "no figure is printed of synthetic images: name a segmentation run of real images by --set "
            "synthesis.segmenter=DIR, whose features then tell how near sets of images are."
        )
        return
    see = jax.jit(lambda image: features.pooled(features.of_run(str(config.synthesis.segmenter))(image)))
    real, labels = slices(config, held_out)
    train, _ = slices(config, training)
    apply = functools.partial(jax.jit(maker.task.predict), maker.variables)
    made = [image_cases.from_labels(config, known, apply, label, seed=number) for number, label in enumerate(labels)]
    step = features.divisor(str(config.synthesis.segmenter))
    vectors = [np.stack([np.asarray(see(_fitted(image, step)))[0] for image in group]) for group in (real, made, train)]
    found = set_quality.compare_sets(*vectors)
    if processes.is_first():
        print(set_quality.set_table(found))
        fingerprint.write_json(folder / image_report.SETS, evaluation.files.jsonable(found))


def slices(
    config: ConfigDict, cases: Sequence[store.StoredCase], *, most: int = MOST_IMAGES
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns (images, label maps) of cases, of volumes in 2D the slices that show a class; `most` taken evenly."""
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for case in cases:
        image, label = image_cases.read(case)
        flat = label.ndim == configs.ndim_of(config)
        pairs += [(image, label)] if flat else [(i, m) for i, m in zip(image, label) if (m > 0).any()]
    if len(pairs) > most:
        pairs = [pairs[place] for place in np.linspace(0, len(pairs) - 1, most).round().astype(int)]
    return [image for image, _ in pairs], [label for _, label in pairs]


def _fitted(image: np.ndarray, step: Sequence[int]) -> jax.Array:
    """One image as a batch, cut in its middle to what a network divides by."""
    cut = []
    for size, each in zip(image.shape, step):
        kept = size // each * each
        cut.append(slice((size - kept) // 2, (size - kept) // 2 + kept))
    return jnp.asarray(image[tuple(cut)][None])


def predict_files(arguments: workdir.Arguments) -> None:
    """Writes one image a case into --output, named as its input.

    Raises:
      UserError: missing flags, a generator of label maps, unreadable inputs (the others are still written), or files
        that are already there.
    """
    if arguments.config.task == "synthesis":
        raise UserError("A generator of images from label maps is run by --mode synthesize, not by --mode predict.")
    if len(arguments.inputs) != 1 or not arguments.output:
        raise UserError("--mode predict needs --workdir, one --input (a file or a folder) and --output (a folder).")
    maker = load(arguments)
    config, known = maker.config, maker.known
    given = images.source(config, known.channels)
    identify = arguments.config.report.identify
    cases = inputs.list_inputs(arguments.inputs[0], channels=len(given), identify=identify, tell=print)
    settings = of_channels(preprocess.settings_from_json(maker.record["settings"]), given)
    translated = config.task == "translation"
    one = functools.partial(
        predict.predict_image,
        functools.partial(jax.jit(maker.task.predict), maker.variables),
        settings=settings,
        intensities=[tuple(pair) for pair in maker.record["intensities"]] if translated else None,
        **image_cases.window_options(config, known),
    )
    with logging.progress(len(cases), label="predict") as show:
        written = predict.predict_images_folder(
            one,
            cases,
            arguments.output,
            read=inputs.read_case,
            overwrite=arguments.overwrite,
            progress=lambda done, total, name: show(done, case=name),
            same_range=not translated,
        )
    print(f"{len(written)} images in {arguments.output} (checkpoint {maker.step} of {arguments.workdir})")


def of_channels(settings: preprocess.Settings, places: Sequence[int]) -> preprocess.Settings:
    """Returns the settings for images that hold some of the channels only."""
    statistics = settings.statistics and tuple(settings.statistics[place] for place in places)
    return settings._replace(normalize=tuple(settings.normalize[place] for place in places), statistics=statistics)
