"""What a model card is made of, and how it is read from a workdir."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxseg import config as configs
from jaxseg import paths
from jaxseg.data import store
from jaxseg.evaluate import episodes as played
from jaxseg.evaluate import files, image_report
from jaxseg.evaluate.certainty import CERTAINTY
from jaxseg.typing import UserError

RECORD, CHECKPOINTS = "config.json", "checkpoints"
_TITLES = ("msd", "nnunet_raw")  # layouts whose dataset.json may hold a name


class CaseFacts(NamedTuple):
    """One case of the data set, as the prepared store and the fingerprint know it.

    Attributes:
      name, subject: as in the data set; neither is written.
      shape: of the user's file, voxels, in the order that the network sees (z, y, x).
      spacing_mm: of the user's file, in the same order; 1 where a file tells none.
      voxels: class id -> voxels on the prepared grid; empty where labels are objects.
      voxel_mm: area in mm2 or volume in mm3 of a voxel of the prepared grid.
      intensities: mean of each channel in the foreground, in the units of the file; empty where it was not measured.
    """

    name: str
    subject: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    voxels: Mapping[int, int]
    voxel_mm: float
    intensities: tuple[float, ...]


class CardFacts(NamedTuple):
    """What a card is made of.

    Attributes:
      name: of the workdir.
      written: when, as people read it.
      data_title: how the data set calls itself; "" where it does not say.
      record: config.json.
      cases: all cases of the data set; empty where the prepared ones are gone.
      members: name -> config.json, of the folds or the members of an ensemble.
      steps: the last stored step; None where no checkpoint is there.
      scored: names of the cases that were scored.
      summary: of the evaluation; empty without one.
      certainty: of the evaluation, likewise.
      episodes: of agents, likewise.
      sets: of made images that are compared as sets, likewise.
    """

    name: str
    written: str
    data_title: str
    record: Mapping[str, Any]
    cases: Sequence[CaseFacts] = ()
    members: Mapping[str, Mapping[str, Any]] = {}
    steps: int | None = None
    scored: Sequence[str] = ()
    summary: Mapping[str, Any] = {}
    certainty: Mapping[str, Any] = {}
    episodes: Mapping[str, Any] = {}
    sets: Mapping[str, Any] = {}

    @property
    def config(self) -> Mapping[str, Any]:
        return self.record.get("config", {})

    @property
    def makes_images(self) -> bool:
        return self.config.get("task") in configs.MAKERS

    def side(self, name: str) -> tuple[str, ...]:
        """Names of the cases of "training" or "held out"; of all folds together every case is on both sides."""
        split = self.record.get("split")
        if split is None:
            parts = [record.get("split", {}).get(name, ()) for record in self.members.values()]
            return tuple(sorted({case for part in parts for case in part}))
        return tuple(split.get(name, ()))

    def of(self, name: str) -> list[CaseFacts]:
        """The cases of a side, each once."""
        wanted = set(self.side(name))
        return [case for case in self.cases if case.name in wanted]


def read_facts(workdir: str | paths.Path) -> CardFacts:
    """Reads what a run has left behind; parts that are missing are empty.

    Args:
      workdir: the run's folder.

    Raises:
      UserError: the folder holds no run, or a file in it is damaged.
    """
    workdir = paths.path(workdir)
    if not (workdir / RECORD).is_file():
        raise UserError(f"There is no run in {workdir}, it has no {RECORD}; train first, or name the folder.")
    record = _json(workdir / RECORD)
    folder = workdir / files.FOLDER
    scored = (folder / files.CASES).is_file() and (folder / files.SUMMARY).is_file()
    return CardFacts(
        name=workdir.resolve().name,
        written=time.strftime("%Y-%m-%d"),
        data_title=_title(record),
        record=record,
        cases=_cases(record),
        members=_members(workdir, record),
        steps=_steps(workdir),
        scored=_names(folder / files.CASES) if scored else (),
        summary=files.read_summary(folder / files.SUMMARY) if scored else {},
        certainty=_figures(folder / CERTAINTY),
        episodes=_figures(folder / played.FOLDER / played.SUMMARY),
        sets=_figures(folder / image_report.SETS),
    )


def _json(path: paths.Path) -> dict[str, Any]:
    """Returns a JSON object as it stands; nothing where there is no such file."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); restore it or run into another --workdir.") from error


def _figures(path: paths.Path) -> dict[str, Any]:
    """As `_json`, where null stands for a number that could not be measured."""
    return files.read_summary(path) if path.is_file() else {}


def _names(path: paths.Path) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row["case"] for row in files.read_cases(path, names=("case",))))


def _title(record: Mapping[str, Any]) -> str:
    """The name that a data set gives itself; a folder's name is none: it may be a person's."""
    data = record.get("config", {}).get("data", {})
    if data.get("name") == "mni":
        return "MNI152 brain template"
    if data.get("name") == "tfds":
        builder = str(data.get("builder") or "")
        return "" if "/" in builder or "\\" in builder else builder  # a file of the user's
    if data.get("name") not in _TITLES or not data.get("root"):
        return ""
    try:
        content = json.loads((paths.path(data["root"]) / "dataset.json").read_text())
    except (OSError, ValueError):  # the data may have been moved since
        return ""
    return str(content.get("name", "")) if isinstance(content, dict) else ""


def _cases(record: Mapping[str, Any]) -> tuple[CaseFacts, ...]:
    """The prepared cases with what was measured of their files; none where they are gone."""
    folder = paths.path(record.get("store", ""))
    if "store" not in record or not folder.is_dir():
        return ()
    try:
        stored = store.open(folder)
    except UserError:  # prepared by another version, or only in part
        return ()
    measured = _json(folder / "fingerprint.json")
    means = dict(zip(measured.get("names", ()), measured.get("foreground", ())))
    found = []
    for case in stored:
        axes = case.record["axes"]
        shape = tuple(case.record["shape"][axis] for axis in axes)
        spacing = tuple(case.record["spacing"])
        voxels = {} if case.objects is not None else case.counts
        seen = tuple(means.get(case.name) or ())
        found.append(CaseFacts(case.name, case.subject, shape, spacing, voxels, math.prod(case.spacing), seen))
    return tuple(found)


def _members(workdir: paths.Path, record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The records of the folds, or of the members of an ensemble."""
    names = record.get("ensemble", {}).get("members", ())
    if not names and record.get("config", {}).get("data", {}).get("fold") == "all":
        names = [path.name for path in sorted(workdir.glob("fold_[0-9]*")) if (path / RECORD).is_file()]
    return {str(name): _json(workdir / name / RECORD) for name in names}


def _steps(workdir: paths.Path) -> int | None:
    """The last stored step of the run, or of a fold or member: they have as many."""
    found = [*workdir.glob(f"{CHECKPOINTS}/[0-9]*"), *workdir.glob(f"*/{CHECKPOINTS}/[0-9]*")]
    return max((int(path.name) for path in found if path.name.isdigit()), default=None)
