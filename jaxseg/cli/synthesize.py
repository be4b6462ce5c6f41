"""--mode synthesize: a trained generator, label maps, a folder of images with labels that training can read."""

import functools
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxseg
from jaxseg import config as configs
from jaxseg import paths, predict
from jaxseg.cli import build, inference, kept_labels, label_source, made_images, workdir
from jaxseg.data import label_samplers, made, made_files, preprocess, store, value_range
from jaxseg.train import checkpoint, logging
from jaxseg.train import state as states
from jaxseg.typing import IGNORE, UserError

MOST_CASES, MOST_REAL = 50, 150  # held-out cases, and images of them, that are scored beside made ones


class Generator(NamedTuple):
    """A trained generator.

    Attributes:
      sample: (one-hot segmentation (1, *S, K), style (1, Z)) -> image (1, *S, C), normalised.
      style_features: Z; 0 where it takes no style.
      divisor: what each axis must be divisible by.
      step: of the checkpoint.
    """

    sample: Callable[..., Any]
    style_features: int
    divisor: tuple[int, ...]
    step: int


def synthesize(arguments: workdir.Arguments) -> None:
    """Writes -n images with their label maps into --output.

    Raises:
      UserError: missing flags, a folder that is there already, a workdir that holds no generator, label maps that do
        not fit it, or images that do not keep their labels.
    """
    check(arguments)
    make(arguments, sampler(arguments))


def check(arguments: workdir.Arguments) -> None:
    """Checks all that needs neither generator nor label maps.

    Raises:
      UserError: as `synthesize`.
    """
    config, options = arguments.config, arguments.config.synthesis
    if arguments.pairs < 1:
        raise UserError(f"--mode synthesize needs -n, how many images to make, 1 or more; got {arguments.pairs}.")
    if not arguments.output:
        raise UserError("--mode synthesize needs --output, a new folder for images and labels.")
    made_files.check_target(pathlib.Path(arguments.output), overwrite=arguments.overwrite)
    if config.task != "synthesis":
        raise UserError(
            f"{arguments.workdir} holds a run of task={config.task!r}, which makes no images from labels; name the "
            "--workdir of a run of task='synthesis'."
        )
    if options.min_dice and not options.segmenter:
        raise UserError(
            "synthesis.min_dice needs synthesis.segmenter, the workdir of a run on real images; add --set "
            "synthesis.segmenter=DIR."
        )
    if arguments.labels is None:
        label_samplers.check(options.labels)


def sampler(arguments: workdir.Arguments) -> Generator:
    """Restores the generator of a workdir, compiled once a size.

    Raises:
      UserError: the workdir holds no checkpoint.
    """
    config, folder = arguments.config, arguments.workdir
    record = workdir.record(folder)
    if "dataset" not in record or not (folder / checkpoint.FOLDER).exists():
        fold = ", or a fold of this one" if config.data.fold == "all" else ""
        raise UserError(f"{folder} holds no trained generator; name another --workdir{fold}, or train it first.")
    _, known, task, restored = inference.open_run(folder, config)
    apply, variables = jax.jit(task.predict), states.inference_variables(restored.state)
    return Generator(
        sample=lambda segmentation, style: apply(variables, (segmentation, style)),
        style_features=getattr(build.model(config, known), "style_features", 0),
        divisor=build.divisor(config, known),
        step=restored.step,
    )


def make(arguments: workdir.Arguments, generator: Generator) -> None:
    """Makes the pairs, writes them, and says how well they keep their labels.

    Raises:
      UserError: as `synthesize`.
    """
    config, options = arguments.config, arguments.config.synthesis
    record = workdir.record(arguments.workdir)
    known, settings = build.stored_facts(record), preprocess.settings_from_json(record["settings"])
    encode = functools.partial(value_range.encode, kinds=settings.normalize, clip=config.adversarial.clip)
    encode(np.zeros((1, len(known.channels)), np.float32))  # tells now whether the normalisation has a range
    source = label_source.source(config, arguments.workdir, record, labels=arguments.labels, divisor=generator.divisor)
    if not generator.style_features and 0 < source.given < arguments.pairs:
        print(f"the generator takes no style, so after {source.given} pairs the same ones follow again")
    score = None
    if options.segmenter:
        score = kept_labels.scorer(
            str(options.segmenter), known, settings, spacing=source.spacing, ndim=configs.ndim_of(config)
        )
    pairs = made.make_pairs(
        generator.sample,
        source.draw,
        count=arguments.pairs,
        seed=options.seed,
        num_classes=len(known.classes),
        style_features=generator.style_features,
        divisor=generator.divisor,
        encode=encode,
        score=score,
        min_dice=options.min_dice,
    )
    real = [] if score is None else _of_real_images(arguments, record, score)
    files = _write(arguments, generator, source, pairs, known, settings, real)
    _tell(arguments, generator, files, real)


def _of_real_images(arguments: workdir.Arguments, record: Mapping[str, Any], score: made.ScoreFn) -> list[float]:
    """Returns the same scores of real images that the generator has not seen, a measure for those of made ones."""
    config, names = arguments.config, set(record.get("split", {}).get("held out", ()))
    try:
        stored = store.open(build.store_folder(config, arguments.workdir)) if names else ()
    except UserError as error:  # label maps of the user need no prepared case
        print(f"no real image is scored beside them: {error}")
        return []
    cases = [case for case in stored if case.name in names]
    cases = cases[:: -(-len(cases) // MOST_CASES) or 1]
    found = []
    for image, label in zip(*made_images.slices(config, cases, most=MOST_REAL)):
        dice = score(image.astype(np.float32), made.Drawn(label.astype(np.int16), "a held-out case"))
        found += [] if dice is None else [dice]
    return found


def _write(
    arguments: workdir.Arguments,
    generator: Generator,
    source: label_source.Source,
    pairs: Iterable[made.Pair],
    known: build.Facts,
    settings: preprocess.Settings,
    real: Sequence[float],
) -> dict[str, Any]:
    """Writes --output, whole or not at all, and returns what is recorded of each pair by its name."""
    ndim, files = configs.ndim_of(arguments.config), {}
    values = (*known.label_values, *([] if known.ignore_value is None else [known.ignore_value]))
    suffixes = made_files.suffixes(ndim=ndim, channels=len(known.channels), label_values=values)
    axes = made.file_axes(settings.axis_order, ndim=ndim)
    with (
        made_files.replacing(pathlib.Path(str(arguments.output)), overwrite=arguments.overwrite) as folder,
        logging.progress(arguments.pairs, label="synthesize") as show,
    ):
        for done, pair in enumerate(pairs, start=1):
            steps = pair.drawn.spacing or source.spacing[-ndim:]
            ids = np.where(pair.drawn.label == IGNORE, len(known.label_values), pair.drawn.label)
            made_files.write_pair(
                folder,
                pair.name,
                pair.image.transpose(*axes, ndim),
                predict.label_map(ids.transpose(axes), values),
                spacing=[steps[axis] for axis in axes],
                suffixes=suffixes,
            )
            files[pair.name] = {"label_from": pair.drawn.source, "dice": pair.dice, "tries": pair.tries}
            show(done, case=pair.name)
        about = _about(arguments, generator, source, known, settings, suffixes, files)
        made_files.write_record(folder, {**about, "real_dice": float(np.mean(real)) if real else None})
    return files


def _about(arguments, generator, source, known, settings, suffixes, files) -> dict[str, Any]:
    """Returns what the folder says of itself."""
    config = arguments.config
    return {
        "workdir": str(paths.absolute(arguments.workdir)),
        "step": generator.step,
        "seed": config.synthesis.seed,
        "labels": source.text,
        "classes": known.classes,
        "label_values": known.label_values,
        "ignore_value": known.ignore_value,
        "channels": known.channels,
        "normalize": settings.normalize,
        "clip": config.adversarial.clip,
        "intensities": made_files.intensities(suffixes),
        "scaling": made_files.scaling(
            suffixes, *value_range.scales(settings.normalize, len(known.channels), clip=config.adversarial.clip)
        ),
        "training_cases": source.training,
        "segmenter": config.synthesis.segmenter and str(config.synthesis.segmenter),
        "min_dice": config.synthesis.min_dice,
        "created": time.strftime("%Y-%m-%d %H:%M:%S"),
        "jaxseg": jaxseg.__version__,
        "pairs": len(files),
        "suffixes": suffixes,
        "files": files,
    }


def _tell(
    arguments: workdir.Arguments,
    generator: Generator,
    files: Mapping[str, Mapping[str, Any]],
    real: Sequence[float],
) -> None:
    print(f"{len(files)} images with labels in {arguments.output} (checkpoint {generator.step} of {arguments.workdir})")
    if not arguments.config.synthesis.segmenter:
        return
    scores = [row["dice"] for row in files.values() if row["dice"] is not None]
    again = sum(row["tries"] > 1 for row in files.values())
    mean = f"{np.mean(scores):.3f}" if scores else "-"
    print(f"synthetic images keep their labels: mean Dice {mean} (n = {len(scores)}); {again} were made anew")
    if real:
        print(f"real held-out images by the same measure: mean Dice {np.mean(real):.3f} (n = {len(real)})")
