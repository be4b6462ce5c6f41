"""Watches the two players of an adversarial training, and says in a sentence when one of them has stopped to learn."""

import math
from collections.abc import Mapping
from typing import NamedTuple

WON, WON_NO_MORE = 0.99, 0.95  # accuracy of the discriminator, on real images and on made ones
ALIKE, ALIKE_NO_MORE = 0.1, 0.2  # diversity of made images over that of real ones
PATIENCE = 1000  # steps in a row that the discriminator is right
ALIKE_PATIENCE = 250  # steps in a row that made images are alike: at first all generators make one grey image


class Watch(NamedTuple):
    """What is remembered between log lines.

    Attributes:
      right_since: the step of the first line, of those in a row up to now, in which the discriminator was right; None
        where it was not right in the last one.
      alike_since: likewise of the made images that were alike.
      won: it has been said that the discriminator is always right, and not yet that this is over.
      alike: it has been said that made images are alike, and not yet that this is over.
      endless: it has been said that the generator's loss is no finite number.
    """

    right_since: int | None = None
    alike_since: int | None = None
    won: bool = False
    alike: bool = False
    endless: bool = False


def update(
    record: Watch,
    step: int,
    figures: Mapping[str, float | None],
    *,
    patience: int = PATIENCE,
    alike_patience: int = ALIKE_PATIENCE,
) -> tuple[Watch, str | None]:
    """Returns (what to remember, a sentence to say or None) after one log line.

    Each state of affairs is said once, and once more when it is over; the thresholds of its end lie further away, so
    that a figure that wavers says nothing. One sentence a line: what else there is to say comes with the next one.
    Start with `Watch()`, at a resume as well, and leave out the steps before the adversarial loss counts.

    Args:
      record: of the line before.
      step: of this line; what counts is the steps between lines, not their number.
      figures: of this line, names without "train/": "accuracy/real" and "accuracy/fake" (shares from 0 to 1 that the
        discriminator tells right), "diversity" (of made images over that of real ones), "loss/generator". One that is
        missing, None or NaN says nothing, and the record of it stays as it is; only a loss that is there should be
        finite.
      patience: steps that the discriminator has to be right before it is said.
      alike_patience: steps that made images have to be alike before it is said.
    """
    said = None
    for look, patient in ((_loss, 0), (_accuracy, patience), (_diversity, alike_patience)):
        after, message = look(record, step, figures, patient)
        if said is not None:  # the line is taken: what there is to say stays unsaid
            after = after._replace(won=record.won, alike=record.alike, endless=record.endless)
        record, said = after, said or message
    return record, said


def _accuracy(record: Watch, step: int, figures: Mapping, patience: int) -> tuple[Watch, str | None]:
    real, fake = _number(figures, "accuracy/real"), _number(figures, "accuracy/fake")
    if real is None or fake is None:
        return record, None
    accuracy = min(real, fake)
    since = _since(record.right_since, step, accuracy > WON)
    record = record._replace(right_since=since)
    if not record.won and since is not None and step - since >= patience:
        return record._replace(won=True), (
            f"Step {step}: the discriminator has told all images apart (accuracy above {WON}) for the last "
            f"{step - since:,} steps: the generator learns nothing; lower adversarial.rate_factor or set "
            "adversarial.augment."
        )
    if record.won and accuracy < WON_NO_MORE:
        which = "made" if fake <= real else "real"
        return record._replace(won=False), (
            f"Step {step}: the discriminator no longer tells all images apart (accuracy {accuracy:.2f} on {which} "
            "ones): the generator learns again."
        )
    return record, None


def _diversity(record: Watch, step: int, figures: Mapping, patience: int) -> tuple[Watch, str | None]:
    diversity = _number(figures, "diversity")
    if diversity is None:
        return record, None
    since = _since(record.alike_since, step, diversity < ALIKE)
    record = record._replace(alike_since=since)
    if not record.alike and since is not None and step - since >= patience:
        return record._replace(alike=True), (
            f"Step {step}: made images differ from one another by less than a tenth of what real ones do (diversity "
            f"{diversity:.2f}): the generator has collapsed; lower optim.lr, set adversarial.augment, or give more "
            "weight to adversarial.pixel or adversarial.feature_matching."
        )
    if record.alike and diversity > ALIKE_NO_MORE:
        return record._replace(alike=False), (
            f"Step {step}: made images differ from one another again (diversity {diversity:.2f}): the generator has "
            "recovered."
        )
    return record, None


def _loss(record: Watch, step: int, figures: Mapping, patience: int) -> tuple[Watch, str | None]:
    value = figures.get("loss/generator")
    if record.endless or value is None or math.isfinite(value):
        return record, None
    return record._replace(endless=True), (
        f"Step {step}: the loss of the generator is {float(value)}, no finite number: the training has diverged; lower "
        "optim.lr or adversarial.weight."
    )


def _since(before: int | None, step: int, holds: bool) -> int | None:
    """The first step of a stretch of lines in which something holds; a step back begins anew."""
    if not holds:
        return None
    return step if before is None else min(before, step)


def _number(figures: Mapping[str, float | None], name: str) -> float | None:
    value = figures.get(name)
    return None if value is None or not math.isfinite(value) else float(value)
