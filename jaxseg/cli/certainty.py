"""How far to believe a prediction: maps of uncertainty, calibration, and scores that foretell a case's Dice."""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg import ensemble, metrics, paths, predict
from jaxseg.cli import build, inference, workdir
from jaxseg.config import is_ensemble
from jaxseg.data import fingerprint, preprocess
from jaxseg.evaluate import files
from jaxseg.evaluate.certainty import CERTAINTY, MEMBERS
from jaxseg.typing import IGNORE, UserError, Volume

OUT_OF_BAG = "out_of_bag"  # folder of such scores in evaluation/
MARGIN = 10  # voxels around what truth or prediction call foreground: calibration is measured in this box
PIXELS = 5000  # of that box, drawn from each case for the temperature


class Explained(NamedTuple):
    """A prediction, its maps of certainty, and the class ids of each member that was asked (by its number)."""

    prediction: predict.Prediction
    certainty: ensemble.Certainty
    members: dict[int, np.ndarray]


class Judged(NamedTuple):
    """What one case says about certainty; small, so that processes can exchange it.

    Attributes:
      case: its name.
      counts: calibration inside the box.
      quality: expected Dice of each scored class.
      agreement: mean pairwise Dice of the members, likewise.
      entropy: mean over the predicted foreground.
      probabilities, labels: pixels of the box; labels are class ids, or a row of 0, 1 and IGNORE a region.
      members: number of the member -> its Dice of each scored class.
      pairs: (member, member) -> Dice of one against the other, mean over the classes.
    """

    case: str
    counts: metrics.CalibrationCounts
    quality: list[float]
    agreement: list[float]
    entropy: float
    probabilities: np.ndarray
    labels: np.ndarray
    members: dict[int, list[float]]
    pairs: dict[tuple[int, int], float]


def explain(
    trained: inference.Trained, volume: Volume, *, temperature: float | None = None, **options: Any
) -> Explained:
    """Predicts a volume and says how certain each voxel is.

    Args:
      trained: one network, whose members' differences are none, or an ensemble.
      volume: the image.
      temperature: of the probabilities, and of the entropy that is theirs; None: as they come.
      options: of its predictor.
    """
    known = trained.known
    spread: list[ensemble.Spread] = []
    labels: dict[int, np.ndarray] = {}
    kind = np.uint8 if len(known.classes) <= 256 else np.int16

    def observe(number: int, probabilities: np.ndarray) -> None:
        last = spread.pop() if spread else ensemble.start_spread(probabilities.shape, sigmoid=bool(known.regions))
        spread.append(ensemble.add_member(last, probabilities))
        labels[number] = predict.reduce(probabilities, known.regions).astype(kind)

    if trained.parts:
        options["observe"] = observe
    found = trained.predict(volume, keep_probabilities=True, **options)
    assert found.probabilities is not None  # asked for
    if not trained.parts:
        observe(0, found.probabilities)
    maps = ensemble.finish_spread(spread[0])
    if temperature is not None:
        warm = ensemble.apply_temperature(found.probabilities, temperature, sigmoid=bool(known.regions))
        found = found._replace(probabilities=warm)
    # What is written is the ensemble's own answer, which need not be the mean.
    entropy = ensemble.predictive_entropy(np.asarray(found.probabilities), sigmoid=bool(known.regions))
    return Explained(found, maps._replace(entropy=entropy), labels if trained.parts else {})


def judge(case: str, found: Explained, true: np.ndarray, known: build.Facts, *, seed: int = 0) -> Judged:
    """Measures the certainty of one case against its truth (class ids, with IGNORE where nothing counts)."""
    labels, probabilities = found.prediction.labels, found.prediction.probabilities
    assert probabilities is not None
    inside = _box((labels > 0) | (true > 0))
    targets = _targets(true, known)
    counts = metrics.calibration_counts(np.ascontiguousarray(probabilities[inside]), targets[inside])
    decided = probabilities > 0.5 if known.regions else labels
    drawn = _sample(probabilities[inside], targets[inside], seed=seed)
    members = {number: _dice(one, true, known) for number, one in found.members.items()}
    between = _between(list(found.members.values()), known)
    pairs = {
        (i, j): metrics.finite_mean(between[place, other])
        for place, i in enumerate(found.members)
        for other, j in enumerate(found.members)
        if i < j
    }
    return Judged(
        case=case,
        counts=counts,
        quality=ensemble.expected_dice(probabilities, decided).tolist(),
        agreement=predict.choice.mean(between[np.triu_indices(len(between), k=1)]).tolist(),
        entropy=ensemble.mean_entropy_inside(found.certainty.entropy, labels),
        probabilities=drawn[0],
        labels=drawn[1],
        members=members,
        pairs=pairs,
    )


def _targets(true: np.ndarray, known: build.Facts) -> np.ndarray:
    """Class ids, or a plane of 0, 1 and IGNORE for each region."""
    if not known.regions:
        return true
    planes = np.stack([np.isin(true, region) for region in known.regions], axis=-1).astype(np.int8)
    planes[true == IGNORE] = IGNORE
    return planes


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """The box around what is set, widened by MARGIN; all of the image where nothing is."""
    return tuple(slice(max(0, first - MARGIN), end + MARGIN) for first, end in preprocess.box_of(mask))


def _sample(probabilities: np.ndarray, targets: np.ndarray, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws PIXELS that count, each as probable as any other."""
    counted = targets != IGNORE
    places = np.flatnonzero(counted.all(-1) if targets.ndim == probabilities.ndim else counted)
    if len(places) > PIXELS:
        places = np.sort(np.random.default_rng(seed).choice(places, PIXELS, replace=False))
    flat = probabilities.reshape(-1, probabilities.shape[-1])[places].astype(np.float32)
    return flat, targets.reshape(-1, *targets.shape[probabilities.ndim - 1 :])[places].astype(np.int32)


def _dice(pred: np.ndarray, true: np.ndarray, known: build.Facts) -> list[float]:
    """Dice of each scored class; NaN where it is on neither side."""
    seen = true != IGNORE
    pred, true = pred[seen], true[seen]
    return _between([pred, true], known)[0, 1].tolist()


def _between(labels: Sequence[np.ndarray], known: build.Facts) -> np.ndarray:
    """`(M, M, scored classes)`: Dice of each map against each other; NaN on the diagonal, (0, 0, K) of no map."""
    if not labels:
        return np.zeros((0, 0, len(build.scored_classes(known))))
    if not known.regions:
        return ensemble.pairwise_dice(labels, num_classes=len(known.classes))
    planes = [[np.isin(one, region).astype(np.uint8) for one in labels] for region in known.regions]
    return np.concatenate([ensemble.pairwise_dice(plane, num_classes=2) for plane in planes], axis=-1)


def summarize(judged: Sequence[Judged], rows: Sequence[files.Row], known: build.Facts) -> dict[str, Any]:
    """Returns the content of certainty.json: calibration of all cases, and how well scores foretell Dice."""
    counts = functools.reduce(metrics.add_calibration, [one.counts for one in judged])
    names = build.scored_classes(known)
    dice = {(row["case"], row["class"]): float(row["dice"]) for row in rows}
    cases = [
        {
            "case": one.case,
            "class": name,
            "dice": dice.get((one.case, name), math.nan),
            "quality": one.quality[place],
            "agreement": one.agreement[place],
            "entropy": one.entropy,
        }
        for one in judged
        for place, name in enumerate(names)
    ]
    found = {
        "n_pixels": int(counts.n),
        "ece": metrics.expected_calibration_error(counts),
        "mce": metrics.maximum_calibration_error(counts),
        "brier": metrics.brier_score(counts),
        "nll": metrics.negative_log_likelihood(counts),
        "bins": _bins(counts),
        **_temperature(judged),
        "quality": {name: _correlation(cases, name, "quality") for name in names},
        "agreement": {name: _correlation(cases, name, "agreement") for name in names},
        "cases": cases,
        "risk_coverage": _risk_coverage(cases),
    }
    if all(entry["n"] == 0 for entry in found["agreement"].values()):
        found["agreement"] = None
    return found


def _bins(counts: metrics.CalibrationCounts) -> dict[str, list]:
    size = np.maximum(counts.pixels, 1)
    empty = counts.pixels == 0
    return {
        "count": counts.pixels.tolist(),
        "confidence": np.where(empty, np.nan, counts.confidence / size).tolist(),
        "accuracy": np.where(empty, np.nan, counts.correct / size).tolist(),
    }


def _temperature(judged: Sequence[Judged]) -> dict[str, Any]:
    """The temperature of all cases; and what calibration becomes where each half has that of the other half."""
    filled = [one for one in judged if len(one.labels)]
    nothing = {"temperature": None, "ece_scaled": None, "bins_scaled": None}
    if not filled:
        return nothing

    def fit(part: Sequence[Judged]) -> float:
        sigmoid = part[0].labels.ndim == 2
        logits = ensemble.as_logits(np.concatenate([one.probabilities for one in part]), sigmoid=sigmoid)
        return ensemble.fit_temperature(logits, np.concatenate([one.labels for one in part]))

    halves = [filled[0::2], filled[1::2]]
    if not halves[1]:
        return {**nothing, "temperature": fit(filled)}
    scaled = []
    for own, other in (halves, halves[::-1]):
        value = fit(other)
        for one in own:
            flat = ensemble.apply_temperature(one.probabilities, value, sigmoid=one.labels.ndim == 2)
            scaled.append(metrics.calibration_counts(flat, one.labels))
    counts = functools.reduce(metrics.add_calibration, scaled)
    return {
        "temperature": fit(filled),
        "ece_scaled": metrics.expected_calibration_error(counts),
        "bins_scaled": _bins(counts),
    }


def _correlation(cases: Sequence[dict[str, Any]], name: str, score: str) -> dict[str, Any]:
    chosen = [case for case in cases if case["class"] == name]
    dice, values = [case["dice"] for case in chosen], [case[score] for case in chosen]
    rank = metrics.correlation_interval(values, dice, kind="spearman")
    straight = metrics.correlation(values, dice)
    return {"pearson": straight, "spearman": rank.value, "low": rank.low, "high": rank.high, "n": rank.n}


def _risk_coverage(cases: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Keeping the cases of the highest expected Dice: both are means over the classes that have them."""
    quality, risk = [], []
    for name in dict.fromkeys(case["case"] for case in cases):
        own = [case for case in cases if case["case"] == name]
        scores = [case["quality"] for case in own if math.isfinite(case["quality"])]
        dice = [case["dice"] for case in own if math.isfinite(case["dice"])]
        if dice:
            quality.append(float(np.mean(scores)) if scores else 0.0)
            risk.append(1 - float(np.mean(dice)))
    if len(risk) < 2:
        return None
    return {name: np.asarray(value).tolist() for name, value in metrics.risk_coverage(quality, risk)._asdict().items()}


def with_scores(rows: Sequence[files.Row], found: dict[str, Any]) -> list[files.Row]:
    """Returns the rows of cases.csv with what foretells each of them."""
    own = {(case["case"], case["class"]): case for case in found["cases"]}
    return [
        {**row, **{name: own[row["case"], row["class"]][name] for name in ("quality", "agreement", "entropy")}}
        if (row["case"], row["class"]) in own
        else row
        for row in rows
    ]


def members(
    judged: Sequence[Judged], trained: inference.Trained, rows: Sequence[files.Row], entry: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the content of members.json: the Dice of every member beside that of all together.

    Args:
      judged: the cases.
      trained: the ensemble.
      rows: of the ensemble's own scores.
      entry: what the ensemble's record says of its members.
    """
    names = build.scored_classes(trained.known)
    count = len(trained.parts)
    shares = entry.get("shares", {})
    weights = entry.get("weights") or [None] * count
    table = []
    for number, (name, _) in enumerate(trained.parts):
        own = np.array([one.members[number] for one in judged if number in one.members]).reshape(-1, len(names))
        means = dict(zip(names, predict.choice.mean(own).tolist()))
        table.append({"name": name, "dice": means, "weight": shares.get(name, weights[number])})
    pairs = np.full((count, count), np.nan)
    for i in range(count):
        for j in range(i + 1, count):
            found = [one.pairs[i, j] for one in judged if (i, j) in one.pairs]
            pairs[i, j] = pairs[j, i] = metrics.finite_mean(found)
    together = {name: metrics.finite_mean(float(row["dice"]) for row in rows if row["class"] == name) for name in names}
    return {
        "kind": trained.config.ensemble.kind,
        "combine": entry["combine"],
        "classes": list(names),
        "members": table,
        "ensemble": together,
        **({"pairwise_dice": pairs.tolist()} if count > 1 else {}),
        **{name: entry[name] for name in ("rounds", "kept") if name in entry},
    }


def finish(
    arguments: workdir.Arguments,
    folder: paths.Path,
    judged: Sequence[Judged],
    trained: inference.Trained,
    rows: Sequence[files.Row],
    found: Mapping[str, Any],
) -> None:
    """Writes certainty.json and, of an ensemble, members.json; says the figures; keeps the temperature for predict."""
    fingerprint.write_json(folder / CERTAINTY, files.jsonable(found))
    scaled = "" if found["ece_scaled"] is None else f", {found['ece_scaled']:.4f} at temperature"
    print(f"calibration error {found['ece']:.4f}{scaled}, Brier {found['brier']:.4f} around the foreground")
    for name, entry in found["quality"].items():
        if math.isfinite(entry["spearman"]):
            print(f"expected Dice foretells that of {name}: rank correlation {entry['spearman']:.2f} (n={entry['n']})")
    if is_ensemble(trained.config):
        table = members(judged, trained, rows, workdir.record(arguments.workdir)["ensemble"])
        table = _with_out_of_bag(table, folder / OUT_OF_BAG / MEMBERS)
        fingerprint.write_json(folder / MEMBERS, files.jsonable(table))
        for one in table["members"]:
            print(f"{one['name']:<24} " + ", ".join(f"{name} {value:.4f}" for name, value in one["dice"].items()))
        print(f"{'together':<24} " + ", ".join(f"{name} {value:.4f}" for name, value in table["ensemble"].items()))
    if not arguments.inputs:
        workdir.update_record(arguments.workdir, temperature=found["temperature"])


def _with_out_of_bag(table: dict[str, Any], path: paths.Path) -> dict[str, Any]:
    """Adds what each member, and those together that have not seen a case, reach on training cases."""
    if not path.exists():
        return table
    other = json.loads(path.read_text())
    own = {one["name"]: one["dice"] for one in other["members"]}
    return {
        **table,
        "members": [{**one, "out_of_bag": own.get(one["name"], {})} for one in table["members"]],
        "out_of_bag": other["ensemble"],
    }


def temperature(config: Any, folder: paths.Path) -> float | None:
    """Returns the temperature of `predict.temperature`; None where there is none.

    Raises:
      UserError: "auto", and no evaluation has fitted one.
    """
    wanted = str(config.predict.temperature)
    if wanted != "auto":
        return float(wanted) if wanted else None
    found = workdir.record(folder).get("temperature")
    if found is None:
        raise UserError(
            f"No temperature is fitted yet; run --mode evaluate --workdir {folder} --set evaluate.certainty=True first."
        )
    return float(found)
