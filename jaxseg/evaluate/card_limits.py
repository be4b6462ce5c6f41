"""What a model card must not leave out: the range of the images that were learnt from, and what nobody has tested."""

from collections.abc import Iterator, Sequence

import numpy as np

from jaxseg.evaluate.card_facts import CardFacts, CaseFacts
from jaxseg.evaluate.card_scores import least_n, what_was_scored
from jaxseg.evaluate.card_text import count, plural, safe
from jaxseg.evaluate.files import times
from jaxseg.evaluate.report import FEW_CASES

AREA, VOLUME = (100.0, "cm2"), (1000.0, "ml")  # mm2 and mm3 of the unit that people are told


def limits(facts: CardFacts) -> list[str]:
    """Returns a sentence a limit, those that the data tell first."""
    return [*_seen(facts), *_scored(facts), *_unknown(facts)]


def _seen(facts: CardFacts) -> Iterator[str]:
    """The range of sizes, spacings, intensities and classes in training."""
    cases = facts.of("training")
    if not cases:
        yield "How large and how fine the training images were is not known: the prepared cases are elsewhere or gone."
        return
    unit = "pixels" if len(cases[0].shape) == 2 else "voxels"
    yield f"Spacing in training: {_range([case.spacing_mm for case in cases], 'mm')} (1 where a file tells none)."
    yield f"Size in training: {_range([case.shape for case in cases], unit)}."
    yield from _intensities(facts, cases)
    if not facts.makes_images:
        yield from _classes(facts, cases)
    yield "Images outside these ranges have not been tried; the network takes any image, and does not warn."


def _range(rows: Sequence[Sequence[float]], unit: str) -> str:
    """Least to most along each axis, with the median."""
    values = np.asarray(rows, np.float64)
    low, middle, high = values.min(axis=0), np.median(values, axis=0), values.max(axis=0)
    if (low == high).all():
        return f"{times(low.tolist())} {unit} in every image"
    return f"{times(low.tolist())} to {times(high.tolist())} {unit}, median {times(middle.tolist())}"


def _intensities(facts: CardFacts, cases: Sequence[CaseFacts]) -> Iterator[str]:
    """Means, and not extremes: one bright pixel says nothing about an image."""
    channels = facts.record.get("dataset", {}).get("channels", ())
    rows = [case.intensities for case in cases if len(case.intensities) == len(channels)]
    if not rows or not channels:
        yield "Intensities of the training images were not measured."
        return
    values = np.asarray(rows, np.float64)
    for place, name in enumerate(channels):
        low, high = values[:, place].min(), values[:, place].max()
        yield (
            f"Mean intensity of the foreground in {safe(name)}: {low:.4g} to {high:.4g} over "
            f"{plural(len(rows), 'training case')}, in the units of the files."
        )


def _classes(facts: CardFacts, cases: Sequence[CaseFacts]) -> Iterator[str]:
    names = facts.record.get("dataset", {}).get("classes", ())
    if not any(case.voxels for case in cases):
        return
    for number, name in enumerate(names[1:], start=1):
        present = [case for case in cases if case.voxels.get(number, 0) > 0]
        text = f"{safe(name)}: in {count(len(present))} of {plural(len(cases), 'training case')}"
        yield f"{text}{_sizes(present, number)}."


def _sizes(cases: Sequence[CaseFacts], number: int) -> str:
    """How large the class is in the cases that have it."""
    if not cases:
        return ", so the network has never seen it"
    scale, unit = AREA if len(cases[0].shape) == 2 else VOLUME
    if unit == "cm2" and all(set(case.spacing_mm) == {1.0} for case in cases):  # pictures, which tell no size
        scale, unit = 1.0, "pixels"
    sizes = [case.voxels[number] * case.voxel_mm / scale for case in cases]
    return f", {min(sizes):.3g} to {max(sizes):.3g} {unit}"


def _scored(facts: CardFacts) -> Iterator[str]:
    """What the scores do not say."""
    for name, number in least_n(facts.summary).items():
        if number < FEW_CASES:
            yield f"{safe(name)}: the scores rest on {plural(number, 'case')}; the interval is a rough guess."
    options, ensemble = facts.config.get("predict", {}), facts.config.get("ensemble", {}).get("kind")
    held_out = facts.summary and set(facts.scored) <= set(facts.side("held out"))
    chosen = options.get("checkpoint", "best") == "best" and ensemble in (None, "", "seeds", "snapshots")
    looked = (facts.steps or 0) > facts.config.get("train", {}).get("eval_steps", 0)  # more than once
    if held_out and chosen and looked and "imported" not in facts.record:
        yield (
            "Of several checkpoints the one with the best score on the held-out cases was kept, so the scores on these "
            "same cases may be a little too high."
        )
    if facts.record.get("postprocess") and options.get("postprocess") == "auto":
        yield "The post-processing was chosen on the cases that are scored."
    if facts.summary and "labelled folder" not in what_was_scored(facts):
        yield "All scored cases are of the data set that was trained on; nothing is known of other scanners or places."
    known = facts.of("training")
    if known and all(case.subject == "" or case.subject == case.name for case in known):
        yield "The data do not say which cases are of one patient; if some are, they may be on both sides of the split."


def _unknown(facts: CardFacts) -> Iterator[str]:
    yield (
        "The record says nothing about age, sex, origin, scanner, protocol or disease of those imaged, nor about who "
        "drew the labels and how well they agree; whether the network does as well in every group is not known."
    )
    if facts.config.get("task") == "synthesis":
        yield "A made image may resemble a training image; look at the distances of memorisation before you share any."
