"""One page about a run: WORKDIR/report.html, with every picture and script inside, nothing fetched, no file paths."""

import json
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxseg import paths
from jaxseg.evaluate import episode_report, files, image_report, page
from jaxseg.evaluate.certainty import ensemble_sections
from jaxseg.evaluate.data_section import data_section
from jaxseg.evaluate.evaluator import file_stem
from jaxseg.evaluate.instances import RANKING
from jaxseg.evaluate.page import Cell
from jaxseg.typing import UserError
from jaxseg.viz import colors, score_dots, training_curves
from jaxseg.viz.curves import label_of
from jaxseg.viz.players import KEYS as PLAYERS

REPORT, CONFIG, LOG = "report.html", "config.json", "metrics.jsonl"
VIEWER = "viewer"  # folder beside the report, from --mode view --output WORKDIR/viewer
SCORES = (*files.PIXEL_METRICS, "roc_area", "precision_recall_area", *files.INSTANCE_METRICS)
FEW_CASES = 10  # below this an interval says little
HIDDEN = "(path not shown)"
# Fields that name files or folders: their values may name patients, with or without a slash in them.
_PATH_FIELD = re.compile(r"(^|[.\-])(root|images|labels|roi|subjects|store|data_dir|extra|workdir|input|output)$")
_SCRIPT = re.compile(r"[^\s]*\.py(:\S*)?")

_VIEWER_LINK = f'<p><a href="{VIEWER}/index.html">Look through the cases in the viewer</a></p>'

READING = """
<ul>
<li><b>Dice</b> is twice the overlap divided by the sum of both sizes: 1 is perfect, 0 is no overlap. Small structures
get lower values for the same error at the border, so compare a class only with itself.</li>
<li><b>IoU</b> is the overlap divided by the union. <b>Precision</b> is the part of the prediction that is right,
<b>recall</b> the part of the truth that was found.</li>
<li><b>HD95</b> is the distance in millimetres within which 95 % of either border lies of the other one, <b>ASSD</b> the
average distance between the borders. Smaller is better. If only one of the two maps has the class, the distance is
infinite: it is left out of the mean and counted beside it.</li>
<li><b>NSD</b> is the part of both borders that lies within a tolerance of the other; 1 is best.</li>
<li><b>Lesion F1</b> counts connected components instead of voxels: found, missed and invented ones.</li>
<li>Where objects are counted, an object is found if a predicted one overlaps it by an IoU of 0.5 or more.
<b>F1 50</b> balances missed and invented objects at that overlap; the <b>DSB score</b> is TP / (TP + FP + FN), averaged
over the overlaps 0.5 to 0.95; <b>PQ</b> is the mean IoU of the found objects (SQ) times F1 (RQ); <b>AJI</b> is the
summed overlap of all objects over their summed union.</li>
<li>A case in which neither map has the class cannot be scored; it is <b>excluded</b> and counted, not set to 0 or 1.
If the truth lacks the class and the prediction has it, Dice is 0.</li>
<li>Below each mean stands its <b>95 % interval</b> (bootstrap over cases): how far the mean may move with other
patients of the same kind. It says nothing about other scanners or hospitals. <b>n</b> counts the cases in it.</li>
<li>In the pictures the solid line is the truth and the dashed, paler one the prediction. Volumes are shown as a
radiologist sees them: the patient's right is on the left. Pictures show the slice with the largest error.</li>
</ul>
"""

Row = dict[str, Any]


def write_report(workdir: str | paths.Path, *, facts: Mapping[str, Any] | None = None) -> paths.Path:
    """Writes WORKDIR/report.html from what the run has left behind; parts that are missing are named as such.

    Args:
      workdir: the run's folder: config.json, metrics.jsonl and evaluation/ are read where they exist.
      facts: lines to add to the section on the data, such as {"training cases": 208}.

    Returns:
      The path of the page.

    Raises:
      UserError: there is no such folder, it cannot be written, or a file of the evaluation is damaged.
    """
    workdir = paths.path(workdir)
    if not workdir.is_dir():
        raise UserError(f"There is no run in {workdir}; train first, or name the folder with --workdir.")
    record = _record(workdir / CONFIG)
    said = image_report.training_warnings(workdir, record)
    of_images = image_report.is_of_images(workdir)
    if of_images:
        sections, rows = image_report.sections(workdir, warnings=said)
        said = []
    else:
        sections, rows = _sections(workdir / files.FOLDER)
    if (workdir / VIEWER / "index.html").is_file():
        sections["Pictures"] = _VIEWER_LINK + sections.get("Pictures", "")
    log, broken = files.read_log(workdir / LOG) if (workdir / LOG).is_file() else (None, 0)
    sections |= image_report.panels_section(workdir)
    sections["Training"] = _training(log, broken)
    sections |= image_report.players_section(log or [], warnings=said)
    sections["What was run"] = _run(record)
    sections["Data"] = _data(record, rows, facts or {}) + _fingerprint(record)
    sections["How to read this page"] = image_report.READING if of_images else READING
    name = workdir.resolve().name
    kind = "Image" if of_images else "Segmentation"
    subtitle = f"{kind} report, written {time.strftime('%Y-%m-%d %H:%M')} by jaxseg"
    try:
        files.replace(workdir / REPORT, page.page(name, subtitle, sections))
    except OSError as error:
        raise UserError(
            f"The report cannot be written to {workdir}: {error.strerror}; free space or rights."
        ) from error
    return workdir / REPORT


def _sections(folder: paths.Path) -> tuple[dict[str, str], list[Row]]:
    """Returns what the evaluation of a segmentation found, as parts of the page, and its rows."""
    scored = (folder / files.CASES).is_file() and (folder / files.SUMMARY).is_file()
    rows = files.read_cases(folder / files.CASES) if scored else []
    summary = files.read_summary(folder / files.SUMMARY) if scored else {}
    pictures = sorted((folder / files.OVERLAYS).glob("*.png"), key=_picture_order) if scored else []
    sections = {"Scores": _scores(summary), "Warnings": _warnings(summary, rows)}
    if not scored:
        sections = {"Scores": page.missing("This run has not been evaluated yet: run --mode evaluate.")}
    sections |= ensemble_sections(folder)
    sections |= episode_report.sections(folder)
    if "coco" in summary:
        sections["Average precision"] = _average_precision(summary["coco"])
    sections["Pictures"] = _gallery(pictures, rows)
    sections["Distribution"] = _distribution(rows)
    sections["Cases"] = _cases(rows, pictures)
    return sections, rows


def _record(path: paths.Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); restore it or run into another --workdir.") from error


def without_paths(command: str) -> str:
    """Returns a command line without the names of data: scripts and configs stay, other paths are replaced."""
    parts = []
    for part in re.split(
        r"\s+(?=--?[a-zA-Z])", command.strip()
    ):  # an unquoted path may hold blanks: up to the next flag
        found = re.match(r"(--?[\w.\-]+)?([=\s]*)(.*)", part, re.DOTALL)
        assert found  # all of it is optional
        flag, separator, value = found.groups()
        if flag is None:
            value = re.sub(r"[^\s]*[/\\]([^\s/\\]+\.py\b)", r"\1", value)
        named = flag is not None and value and _PATH_FIELD.search(flag.lstrip("-"))
        script = _SCRIPT.fullmatch(value)
        slashed = ("/" in value or "\\" in value) and not script
        shown = _script(value) if script else value
        parts.append((flag or "") + separator + (HIDDEN if named or slashed else shown))
    return " ".join(parts)


def _script(value: str) -> str:
    """Returns a config file without the folders that lead to it from the root, and without paths in its argument."""
    file, colon, argument = value.partition(".py:")
    if re.match(r"[/\\~]|[a-zA-Z]:", file):
        file = re.split(r"[/\\]", file)[-1]
    fields = [re.sub(r"^([^=]*=)?.*[/\\].*$", rf"\g<1>{HIDDEN}", field) for field in argument.split(",")]
    return file + colon + ",".join(fields)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names; values that name files are hidden."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}.")
        elif value is not None:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            named = _PATH_FIELD.search(name) or re.search(r"[/\\]\D", shown)
            flat[name] = HIDDEN if shown and named and isinstance(value, str | list) else shown
    return flat


def _run(record: Mapping[str, Any]) -> str:
    if not record:
        return page.missing(f"There is no {CONFIG} in this folder.")
    shown: dict[str, Any] = {}
    for key in ("created", "started", "finished", "device"):
        if key in record:
            shown[key] = record[key]
    if "seconds" in record:
        shown["time"] = f"{float(record['seconds']) / 60:.1f} minutes"
    if isinstance(record.get("versions"), Mapping):
        shown["versions"] = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    config = record.get("config", {})
    for label, path in (("model", ("model", "name")), ("loss", ("loss",)), ("optimiser", ("optim", "name"))):
        value: Any = config
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            shown[label] = value
    if record.get("steps"):
        shown["steps"] = record["steps"]
    command = record.get("command", "")
    command = " ".join(command) if isinstance(command, list) else str(command)
    parts = [f"<p><code>{page.text(without_paths(command))}</code></p>" if command else "", page.facts(shown)]
    if config:
        parts.append(f"<details><summary>All settings</summary>{page.facts(_flat(config))}</details>")
    return "".join(parts)


def _fingerprint(record: Mapping[str, Any]) -> str:
    """What was measured of the data set before training; nothing where no choice depended on it."""
    path = paths.path(record.get("store", "")) / "fingerprint.json"
    if "store" not in record or "dataset" not in record or not path.is_file():
        return ""
    found, dataset = json.loads(path.read_text()), record["dataset"]
    if "histograms" not in found:  # of an earlier version
        return ""
    return data_section(found, channels=dataset["channels"], classes=dataset["classes"])


def _data(record: Mapping[str, Any], rows: Sequence[Row], extra: Mapping[str, Any]) -> str:
    dataset, data = record.get("dataset", {}), record.get("config", {}).get("data", {})
    shown: dict[str, Any] = {}
    for label, value in (("layout", data.get("name")), ("fold", data.get("fold")), ("split", data.get("split_kind"))):
        if value is not None:
            shown[label] = value
    for key, label in (("channels", "channels"), ("classes", "classes")):
        if dataset.get(key):
            shown[label] = ", ".join(map(str, dataset[key]))
    if isinstance(record.get("split"), Mapping):
        for part, names in record["split"].items():
            shown[f"{part} cases"] = len(names) if isinstance(names, list) else names
    if "extra" in record:
        shown["made cases beside the training cases"] = record["extra"]["cases"]
    if rows:
        shown["scored cases"] = len({row["case"] for row in rows})
        for name, group in _by_class(row for row in rows if "class" in row).items():
            volumes = [row["volume_true_ml"] for row in group if row.get("volume_true_ml", 0) > 0]
            if volumes:
                middle = sorted(volumes)[len(volumes) // 2]
                shown[f"{name} in the truth"] = f"{len(volumes)} of {len(group)} cases, median {middle:.3g} ml"
    shown |= {str(key): value for key, value in extra.items()}
    return page.facts(shown) if shown else page.missing("Nothing is recorded about the data.")


def _by_class(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["class"], []).append(row)
    return found


def _scores(summary: Mapping[str, Any]) -> str:
    """One row a class, one column a metric: the mean, its interval, n."""
    if not summary.get("classes"):
        return page.missing("No score could be computed.")
    groups = files.groups(summary)
    shown = [metric for metric in SCORES if any(metric in entries for _, entries in groups)]
    lines = []
    for place, (name, entries) in enumerate(groups):
        color = colors.hex_color(place + 1)
        key = f'<span class="key" style="background:{color}"></span>' if name in summary["classes"] else ""
        lines.append([Cell(key + page.text(name)), *(Cell(_figures(entries.get(metric))) for metric in shown)])
    total = len(groups) - 1 if len(groups) > len(summary["classes"]) else -1
    note = '<p class="faint">Mean over cases; below it the 95 % interval and n, the number of cases in the mean.</p>'
    return note + page.table(["class", *map(label_of, shown)], lines, total=total)


def _average_precision(coco: Mapping[str, Any]) -> str:
    """COCO's figures of all cases together."""
    names = list(coco["mask"])
    lines = [[Cell(kind), *(Cell(files.number(float(coco[kind][name]))) for name in names)] for kind in ("mask", "box")]
    note = (
        f"Over {coco['images']} images with {coco['objects']} objects, every detection weighed by its score; -1 where "
        "there is no object of that size. COCO keeps 100 objects an image; AP50 of masks without that limit: "
        f"{files.number(float(coco['mask_AP50_unlimited']))}."
    )
    return f'<p class="faint">{page.text(note)}</p>' + page.table(["overlap of", *names], lines, total=-1)


def _figures(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "–"
    cells = files.figures(entry)
    notes = [f"n {cells['n']}"]
    notes += [f"{cells['infinite']} infinite"] if entry.get("n_infinite") else []
    notes += [f"{cells['excluded']} excluded"] if entry.get("n_excluded") else []
    interval = f"<small>{cells['interval']}</small>" if math.isfinite(entry["low"]) else ""
    return f"<strong>{cells['mean']}</strong>{interval}" + "".join(f"<small>{note}</small>" for note in notes)


def _warnings(summary: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """What a reader of the means should know before believing them."""
    found = []
    for name, group in _by_class(rows).items():
        dice = summary["classes"].get(name, {}).get("dice", {})
        if dice.get("n_excluded"):
            found.append(f"{name}: {dice['n_excluded']} of {len(group)} cases have it in neither map and are excluded.")
        empty = summary["classes"].get(name, {}).get("hd95_mm", {}).get("n_infinite", 0)
        if empty:
            found.append(
                f"{name}: in {empty} of {len(group)} cases only one of truth and prediction has it; the distance is "
                "infinite and not part of the mean distance."
            )
        zero = sum(row.get("dice") == 0 for row in group)
        if zero:
            found.append(f"{name}: in {zero} of {len(group)} cases nothing overlaps (Dice 0).")
        if 0 < dice.get("n", 0) < FEW_CASES:
            found.append(f"{name}: the mean rests on {dice['n']} cases; its interval is a rough guess.")
    if not found:
        return "<p>None: every class was scored in every case, and no distance is infinite.</p>"
    return page.warning(found)


def _picture_order(path: paths.Path) -> tuple[bool, str]:
    return not path.stem.startswith("worst"), path.stem


def _case_of(picture: paths.Path) -> str:
    """The file-system form of the case's name in worst_01_<case>.png."""
    return picture.stem.split("_", 2)[-1]


def _gallery(pictures: Sequence[paths.Path], rows: Sequence[Row]) -> str:
    if not pictures:
        return page.missing("There are no overlays.")
    metric = ranking_metric(rows)
    ranks = {file_stem(name): (name, value) for name, value in mean_scores(rows, metric).items()}
    figures = []
    for path in pictures:
        name, value = ranks.get(_case_of(path), (_case_of(path), math.nan))
        kind, rank = path.stem.split("_")[:2]
        place = int(rank) if rank.isdigit() else rank
        caption = f"{kind} {place}: {name}, mean {label_of(metric)} {files.number(value)}"
        picture = page.image(page.as_jpeg(path.read_bytes()), kind="image/jpeg", describe=caption)
        figures.append(page.figure(picture, caption, anchor=f"overlay-{path.stem}"))
    return f'<div class="gallery">{"".join(figures)}</div>'


def ranking_metric(rows: Sequence[Row]) -> str:
    """The metric that the evaluator ranked the cases by."""
    return RANKING if any(RANKING in row for row in rows) else "dice"


def mean_scores(rows: Sequence[Row], metric: str) -> dict[str, float]:
    """Case -> score averaged over the classes that could be scored."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["case"], []).append(float(row.get(metric, math.nan)))
    finite = {case: [value for value in column if math.isfinite(value)] for case, column in values.items()}
    return {case: sum(column) / len(column) if column else math.nan for case, column in finite.items()}


def _distribution(rows: Sequence[Row]) -> str:
    parts = []
    for metric in ("dice", "hd95_mm"):
        scores = {name: [float(row.get(metric, math.nan)) for row in group] for name, group in _by_class(rows).items()}
        plot = score_dots(scores, metric=metric)
        if plot is not None:
            caption = f"{label_of(metric)} of every case, one dot each; the bar is the median."
            picture = page.image(plot, kind="image/svg+xml", describe=caption)
            parts.append(page.figure(picture, caption, style="plot narrow"))
    return "".join(parts) or page.missing("There is nothing to plot.")


def _cases(rows: Sequence[Row], pictures: Sequence[paths.Path]) -> str:
    """A sortable table: one row a case, worst first."""
    if not rows:
        return page.missing("There are no scored cases.")
    ranking = ranking_metric(rows)
    classes, mean = list(_by_class(rows)), mean_scores(rows, ranking)
    metrics = [metric for metric in ("dice", "hd95_mm") if any(metric in row for row in rows)]
    table = {(row["case"], row["class"]): row for row in rows}
    links = {_case_of(path): path.stem for path in pictures}
    lines = []
    for case in sorted(mean, key=lambda case: (math.isnan(mean[case]), mean[case], case)):
        stem = links.get(file_stem(case))
        label = page.text(case) if stem is None else f'<a href="#overlay-{page.text(stem)}">{page.text(case)}</a>'
        cells = [Cell(label, case), Cell(files.number(mean[case]), page.sort_value(mean[case]))]
        for metric in metrics:
            for name in classes:
                value = float(table.get((case, name), {}).get(metric, math.nan))
                cells.append(Cell(files.number(value), page.sort_value(value)))
        lines.append(cells)
    head = [
        "case",
        f"mean {label_of(ranking)}",
        *(f"{label_of(metric)} {name}" for metric in metrics for name in classes),
    ]
    note = '<p class="faint">Worst first; press a title to sort by it. Linked cases have a picture above.</p>'
    return note + page.table(head, lines, sorted_by=1)


def _training(rows: Sequence[Row] | None, broken: int) -> str:
    """Curves of the log, but for those that have a section of their own."""
    if rows is None:
        return page.missing(f"There is no {LOG}: nothing was trained in this folder.")
    plot = training_curves([{key: row[key] for key in row if key not in PLAYERS} for row in rows])
    lost = page.missing(f"{broken} line(s) of {LOG} could not be read and are left out.") if broken else ""
    if plot is None:
        return page.missing(f"{LOG} holds no curve yet.") + lost
    caption = "Pale lines are single steps, strong ones their running mean. Validation is on held-out cases."
    picture = page.image(plot, kind="image/svg+xml", describe=caption)
    return page.figure(picture, caption, style="plot") + lost
