"""The model card of a run as Markdown: what was trained on what, how well it does, what it is for and where it ends.

Functions of what `card_facts` has read; no file is named by its path and no case by its name.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxseg import paths
from jaxseg.evaluate import card_limits, card_scores
from jaxseg.evaluate.card_facts import CardFacts, read_facts
from jaxseg.evaluate.card_text import bullets, code, count, plural, safe
from jaxseg.evaluate.files import times
from jaxseg.evaluate.report import without_paths
from jaxseg.typing import UserError

CARD, NOTES = "model_card.md", "\n"
MARKER = "<!-- What stands below this line is yours: it is kept when the card is written again. -->"
NOT_A_DEVICE = (
    "This is research software. It is not a medical device, no authority has cleared it, and no decision about a "
    "patient should rest on what it says."
)
_TASKS = {
    "semantic": "a class for every pixel or voxel (semantic segmentation)",
    "instance": "objects one by one, each with a mask, a class and a score (instance segmentation)",
    "refinement": "a mask, changed step by step by an agent in every pixel (reinforcement learning)",
    "operators": "a mask, changed step by step by one agent that applies operators (reinforcement learning)",
    "synthesis": "images made of label maps (synthesis)",
    "translation": "images of one contrast made of another (translation)",
    "super_resolution": "images with more pixels than were measured (super-resolution)",
}
_SPLITS = {
    "nnunet": "the sorted names were shuffled with a fixed seed and cut into parts; cases of one subject stay together",
    "subject": "the sorted subjects were shuffled with a fixed seed and cut into parts",
    "blocks": "the sorted names were cut into contiguous parts, so that neighbours stay together",
}


def model_card(facts: CardFacts) -> str:
    """Returns the card as Markdown, up to and with the line that the authors' own notes follow."""
    sections = {
        "What it does": _purpose(facts),
        "What it was trained on": _data(facts),
        "How it was trained": _training(facts),
        "Scores": card_scores.scores(facts),
        "Intended use": _use(facts),
        "Limits": bullets(card_limits.limits(facts)),
    }
    version = facts.record.get("versions", {}).get("jaxseg", "")
    parts = [
        f"# Model card: {safe(facts.name)}",
        f"> {NOT_A_DEVICE}",
        f"Written {facts.written} by jaxseg {version} from what the run left; `--mode report` writes it again.",
    ]
    parts += [f"## {title}\n\n{text}" for title, text in sections.items()]
    return "\n\n".join([*parts, MARKER]) + "\n"


def _purpose(facts: CardFacts) -> str:
    config, dataset = facts.config, facts.record.get("dataset", {})
    model = config.get("model", {})
    lines = {"Gives": _TASKS.get(str(config.get("task")), str(config.get("task", "not recorded")))}
    lines["Takes"] = f"{len(facts.record.get('patch_size', ()))}D images with {_named(dataset.get('channels'))}"
    if not facts.makes_images:
        lines["Classes"] = _classes(dataset)
    lines["Network"] = f"{code(model.get('name', 'not recorded'))}{_settings(model)}"
    lines["Parameters"] = _parameters(facts)
    if facts.record.get("ensemble") or config.get("ensemble", {}).get("kind"):
        lines["Ensemble"] = _ensemble(facts)
    elif facts.members:
        lines["Networks"] = f"{len(facts.members)}, one a fold; predictions of a new image are their mean"
    if "imported" in facts.record:
        found = facts.record["imported"]
        lines["Weights"] = f"converted from nnU-Net ({safe(found.get('trainer'))}, {safe(found.get('configuration'))})"
    if "init" in facts.record:
        lines["Began from"] = safe(facts.record["init"])
    return bullets(f"{name}: {text}" for name, text in lines.items())


def _named(channels: Sequence[str] | None) -> str:
    if not channels:
        return "channels that were not recorded"
    return f"{plural(len(channels), 'channel')} ({', '.join(map(safe, channels))})"


def _classes(dataset: Mapping[str, Any]) -> str:
    values = dataset.get("label_values", ())
    found = [f"{safe(name)} ({value})" for name, value in zip(dataset.get("classes", ()), values)]
    text = f"{', '.join(found)}; in brackets the value in label files" if found else "not recorded"
    return f"{text}; classes may overlap" if dataset.get("regions") else text


def _settings(model: Mapping[str, Any]) -> str:
    shown = [f"{name}={value}" for name, value in model.items() if name != "name" and value not in (None, {}, [])]
    return f" with {safe(', '.join(shown))}" if shown else ""


def _parameters(facts: CardFacts) -> str:
    """The number of trained values: of the network, or of each network where there are several."""
    groups = facts.record.get("parameters")
    if groups:
        parts = [
            f"{count(number)}" + (f" ({safe(name)})" if len(groups) > 1 else "") for name, number in groups.items()
        ]
        return ", ".join(parts)
    each = [sum(record.get("parameters", {}).values()) for record in facts.members.values()]
    if not each or not all(each):
        return "not recorded"
    if len(set(each)) == 1:
        return f"{count(each[0])} in each of {len(each)} networks"
    return f"{count(sum(each))} in {len(each)} networks"


def _ensemble(facts: CardFacts) -> str:
    options, found = facts.config.get("ensemble", {}), facts.record.get("ensemble", {})
    text = f"{safe(options.get('kind') or 'not recorded')} of {len(facts.members)} networks"
    if options.get("networks"):
        text += f" ({', '.join(code(name) for name in options['networks'])})"
    if found.get("combine"):
        text += f", combined by {safe(found['combine'])}"
    if facts.record.get("temperature"):
        text += f"; probabilities can be calibrated with the temperature {facts.record['temperature']:.3g}"
    return text


def _data(facts: CardFacts) -> str:
    config = facts.config.get("data", {})
    title = f"{safe(facts.data_title)}, " if facts.data_title else ""
    lines = [f"Data set: {title}layout {code(config.get('name', 'not recorded'))}", *_sides(facts)]
    lines.append(f"Split: {_split(facts)}")
    spacing = facts.record.get("settings", {}).get("spacing")
    kept = "as in the files" if spacing is None else f"resampled to {_steps(spacing)} mm"
    lines.append(f"Spacing that the network sees: {kept} (z, y, x or y, x)")
    normalize = facts.record.get("settings", {}).get("normalize")
    if normalize:
        lines.append(f"Intensities: {', '.join(map(safe, normalize))}, channel by channel")
    if "extra" in facts.record:
        lines.append(f"Made cases beside them: {facts.record['extra'].get('cases', 'some')}, in training only")
    return bullets(lines)


def _steps(spacing: Iterable[float | None]) -> str:
    return " x ".join("as in the files" if step is None else f"{step:.4g}" for step in spacing)


def _sides(facts: CardFacts) -> list[str]:
    """How many cases, and of how many subjects, are on either side."""
    if facts.members and "split" not in facts.record:
        return [f"Cases: {_people(facts, 'held out')}; in turn each was held out and trained on"]
    lines = []
    for side, title in (("training", "Trained on"), ("held out", "Held out")):
        names = facts.side(side)
        lines.append(f"{title}: {_people(facts, side) if names else 'none'}")
    return lines


def _people(facts: CardFacts, side: str) -> str:
    names, known = facts.side(side), facts.of(side)
    text = plural(len(set(names)), "case")
    subjects = {case.subject or case.name for case in known}
    if known and len(subjects) < len(known):
        text += f" of {plural(len(subjects), 'subject')}"
    return text


def _split(facts: CardFacts) -> str:
    config = facts.config.get("data", {})
    fold, folds = str(config.get("fold")), config.get("folds")
    if "imported" in facts.record:
        return "that of the training elsewhere, which is not recorded here"
    if fold == "none":
        return "no case was held out (fold none)"
    how = _SPLITS.get(str(config.get("split_kind")), "not recorded")
    if config.get("split_file"):
        how = "read from a file of the user"
    which = f"all {folds} folds in turn" if fold == "all" else f"fold {safe(fold)} of {folds}"
    if config.get("train_cases"):
        how += f"; of the others {config['train_cases']} were drawn by seed to train on"
    return f"{which}; {how}"


def _training(facts: CardFacts) -> str:
    record, config = facts.record, facts.config
    optim, lines = config.get("optim", {}), {}
    lines["Loss"] = code(config.get("loss", "not recorded"))
    lines["Augmentation"] = code(config["augment"]) if config.get("augment") else "none"
    lines["Optimiser"] = f"{safe(optim.get('name', 'not recorded'))}, learning rate {optim.get('lr', 'not recorded')}"
    patch = record.get("patch_size")
    lines["Patch and batch"] = (
        f"{times(patch)} and {config.get('data', {}).get('batch_size')}" if patch else "not recorded"
    )
    if facts.steps is not None:
        lines["Steps"] = count(facts.steps)
    lines["Time"] = _time(facts)
    lines["Device"] = safe(record.get("device", "not recorded"))
    lines["Seed"] = _seeds(facts)
    versions = record.get("versions", {})
    lines["Versions"] = ", ".join(f"{safe(name)} {safe(value)}" for name, value in versions.items()) or "not recorded"
    lines["Begun"] = safe(record.get("created", "not recorded"))
    command = record.get("command", "")
    command = " ".join(command) if isinstance(command, list) else str(command)
    if command:
        lines["Command"] = code(without_paths(command))
    return bullets(f"{name}: {text}" for name, text in lines.items())


def _time(facts: CardFacts) -> str:
    own = facts.record.get("seconds")
    parts = [record["seconds"] for record in facts.members.values() if "seconds" in record]
    seconds = own if own is not None else sum(parts) if parts else None
    if seconds is None or not math.isfinite(seconds):
        return "not recorded"
    return f"{seconds / 60:.1f} minutes" if seconds < 3600 else f"{seconds / 3600:.1f} hours"


def _seeds(facts: CardFacts) -> str:
    seeds = [record.get("config", {}).get("seed") for record in facts.members.values()]
    if seeds and len(set(seeds)) > 1:
        return ", ".join(map(str, seeds))
    return str(facts.config.get("seed", "not recorded"))


def _use(facts: CardFacts) -> str:
    what = "make images" if facts.makes_images else "segment images"
    lines = [
        f"Research: to {what} of the kind described under Limits, and to compare methods on them. Look at what it "
        "gives before you use it, and score it on labelled images of your own first "
        "(`--mode evaluate --workdir DIR --input IMAGES --labels LABELS`).",
        "Not meant for: diagnosis, planning of a treatment, screening, or any use where a wrong mask could harm a "
        "person; images of another modality, body part or species than those it was trained on.",
    ]
    if facts.makes_images:
        lines.append("A made image is a guess learnt from other patients; what it shows may never have been there.")
    return bullets(lines)


def write_card(workdir: str | paths.Path) -> str:
    """Writes WORKDIR/model_card.md from what the run has left behind, and says so.

    What a person has written below the last line of the card (`MARKER`) is kept. A file without that line is not ours
    any more, and is left alone.

    Args:
      workdir: the run's folder.

    Returns:
      The path of the card, or why it was not written.

    Raises:
      UserError: the folder holds no run, a file in it is damaged, or it cannot be written to.
    """
    workdir = paths.path(workdir)
    place, notes = workdir / CARD, NOTES
    try:
        if place.is_file():
            _, marker, notes = place.read_text(encoding="utf-8").partition(MARKER)
            if not marker:
                return (
                    f"{place} is left as it is: the line that parts it from your notes is gone; rename it for a new one"
                )
        paths.write_text(place, model_card(read_facts(workdir)).rstrip("\n") + notes)
    except OSError as error:
        raise UserError(f"{place} cannot be written ({error.strerror}); free space or rights.") from error
    return str(place)
