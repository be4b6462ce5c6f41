"""The scores of a model card: every mean with its median, its interval and its n, and what was scored."""

from collections.abc import Iterable, Mapping
from typing import Any

from jaxseg.evaluate import episodes as played
from jaxseg.evaluate import files, image_quality
from jaxseg.evaluate.card_facts import CardFacts
from jaxseg.evaluate.card_text import plural, safe, table
from jaxseg.evaluate.set_quality import set_table
from jaxseg.viz.curves import label_of

HEAD = ("mean", "median", "95 % interval", "n", "excluded", "infinite")
NOT_SCORED = "This run has not been evaluated yet: run `--mode evaluate`."


def scores(facts: CardFacts) -> str:
    """Returns tables of what the evaluation found, below the sentence on what was scored."""
    if not facts.summary:
        return _sets(facts.sets) if facts.sets else NOT_SCORED
    parts = [f"Of {what_was_scored(facts)}."]
    if facts.summary.get("kind") == image_quality.KIND:
        parts += _of_images(facts.summary)
    else:
        parts += _of_classes(facts.summary)
    if "coco" in facts.summary:
        parts.append(_coco(facts.summary["coco"]))
    if "ece" in facts.certainty:
        parts.append(_calibration(facts.certainty))
    if facts.episodes:
        parts.append(_of_episodes(facts.episodes))
    return "\n\n".join(parts)


def what_was_scored(facts: CardFacts) -> str:
    """Says which cases the scores are of, and whether the network had learnt from them."""
    scored, number = set(facts.scored), plural(len(set(facts.scored)), "case")
    if "split" not in facts.record and facts.members and scored <= set(facts.side("held out")):
        return f"{number}, each by the networks that had not been trained on it"
    if scored <= set(facts.side("held out")):
        return f"{number} that were held out, on which the network was not trained"
    if _out_of_bag(facts, scored):
        return f"{number}, each by the members of the ensemble that had not been trained on it (out of bag)"
    seen = len(scored & set(facts.side("training")))
    if seen:
        return f"{number}, of which {seen} bear names of cases that the network was trained on"
    return f"{number} of a labelled folder, none of which bears the name of a training case"


def _out_of_bag(facts: CardFacts, scored: set[str]) -> bool:
    config = facts.config
    bagged = config.get("ensemble", {}).get("kind") == "bagging" and config.get("data", {}).get("fold") == "none"
    return bagged and scored <= set(facts.side("training"))


def _line(entry: Mapping[str, Any], *, digits: int = 3) -> list[str]:
    found = files.figures(entry, digits=digits)
    return [found[name] for name in ("mean", "median", "interval", "n", "excluded", "infinite")]


def _of_classes(summary: Mapping[str, Any]) -> list[str]:
    rows = [
        [safe(name), label_of(metric), *_line(entries[metric])]
        for name, entries in files.groups(summary)
        for metric in files.TABLE_METRICS
        if metric in entries
    ]
    note = (
        "The interval is a bootstrap over cases: how far the mean may move with other patients of the same kind. "
        "Excluded are cases that have the class in neither map; infinite are distances where only one map has it, "
        "which are in no mean."
    )
    return [table(("class", "metric", *HEAD), rows), note]


def _of_images(summary: Mapping[str, Any]) -> list[str]:
    """The network's figures beside those of the simple methods, and its gain over them."""
    rows = [
        [safe(method), label_of(figure), *_line(entries[figure], digits=digits)]
        for method, entries in summary["methods"].items()
        for figure, digits in image_quality.FIGURES.items()
    ]
    gains = [
        [safe(method), label_of(figure), *_gain(entries[figure], digits)]
        for method, entries in summary["gains"].items()
        for figure, digits in image_quality.FIGURES.items()
    ]
    parts = [table(("method", "figure", *HEAD), rows)]
    if gains:
        parts.append(
            "The network minus each simple method, case by case (of PSNR and SSIM more is better, of MAE less):"
        )
        parts.append(table(("method", "figure", "mean", "95 % interval", "n"), gains))
    return parts


def _gain(entry: Mapping[str, Any], digits: int) -> list[str]:
    low, high = (files.number(entry[key], digits=digits) for key in ("low", "high"))
    return [files.number(entry["mean"], digits=digits), f"{low} to {high}", str(entry["n"])]


def _coco(coco: Mapping[str, Any]) -> str:
    names = ("AP", "AP50", "AP75")
    rows = [[kind, *(files.number(float(coco[kind][name])) for name in names)] for kind in ("mask", "box")]
    return f"{_objects(coco)}\n\n{table(('overlap of', *names), rows)}"


def _objects(coco: Mapping[str, Any]) -> str:
    return (
        f"Average precision over {plural(coco['images'], 'image')} with {plural(coco['objects'], 'object')} together:"
    )


def _calibration(found: Mapping[str, Any]) -> str:
    text = f"Calibration: expected calibration error {files.number(found['ece'], digits=4)}"
    if "n_pixels" in found:
        text += f" over {plural(found['n_pixels'], 'pixel')}"
    return f"{text}."


def _of_episodes(summary: Mapping[str, Any]) -> str:
    rows = []
    for entry in summary["steps"]:
        change = entry.get("change")
        line = [str(entry["step"]), *played.mean_texts(entry["dice"])]
        if change is None:
            rows.append([*line, "", "", ""])
            continue
        interval = f"{played.signed(change['low'])} to {played.signed(change['high'])}"
        rows.append([*line, played.signed(change["mean_difference"]), interval, str(change["n"])])
    head = ("step", "Dice", "95 % interval", "n", "change", "95 % interval", "n")
    return f"Step by step; the change is against step 0, case by case:\n\n{table(head, rows)}"


def _sets(found: Mapping[str, Any]) -> str:
    text = set_table(dict(found)).rstrip()
    return f"There is no true image to compare a made one with; sets of images were compared:\n\n```\n{text}\n```"


def least_n(summary: Mapping[str, Any]) -> dict[str, int]:
    """Class -> how many cases its Dice, or the first figure it has, rests on."""
    found: dict[str, int] = {}
    for name, entries in _entries(summary):
        first = entries.get("dice") or next(iter(entries.values()), None)
        if first is not None:
            found[str(name)] = int(first["n"])
    return found


def _entries(summary: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    if summary.get("kind") == image_quality.KIND:
        return [(image_quality.NETWORK, summary["methods"][image_quality.NETWORK])]
    return list(summary.get("classes", {}).items())
