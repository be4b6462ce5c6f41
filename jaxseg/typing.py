"""The grammar of the house: every room speaks in these function types. Shape letters are explained in docs/."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

IGNORE = -1  # label of pixels that no loss and no metric may count
Params = Any  # pytree of arrays
Batch = Mapping[str, Any]  # "image" (B, *S, C), "label" (B, *S), "index" (B,): each sample's place in the global batch


class UserError(ValueError):
    """What the user gave is wrong: one sentence that says what was expected, what came and the nearest fix.

    The command line prints it without a traceback and exits with status 2.
    """


class Volume(NamedTuple):
    """An image or a label map on the host, with its place in the patient.

    Attributes:
      data: image `(*S, C)` or label map `(*S)`; `*S` is `(z, y, x)` or `(y, x)`.
      spacing: millimetres (2D without a scale: 1.0) along each spatial axis, in array order.
      affine: `(n + 1, n + 1)`, array index -> millimetres; for 3D the world is RAS+, as in NIfTI.
      header: whatever the writer of this format needs to give the same geometry and units back.
      path: the file it came from, for messages.
    """

    data: np.ndarray
    spacing: tuple[float, ...]
    affine: np.ndarray
    header: Any = None
    path: str = ""


class Case(NamedTuple):
    """One patient's scan: names of files, nothing read yet.

    Attributes:
      name: unique within the data set; output files carry it.
      images: one file with all channels, or one file a channel.
      label: the label file, None where there is none.
      subject: cases of one subject never part over a split.
      roi: a mask file outside which nothing is trained or scored.
    """

    name: str
    images: tuple[str, ...]
    label: str | None = None
    subject: str = ""
    roi: str | None = None


class Instances(NamedTuple):
    """The objects of one image on the host, one row an object; masks may overlap and cost little memory.

    Attributes:
      masks: COCO run-length encodings, each `{"size": [H, W], "counts": bytes}`, as pycocotools makes them.
      labels: `(N,)` class ids, 1 and above.
      scores: `(N,)` from 0 to 1; 1 for the truth.
      crowd: `(N,)` regions whose objects are not told apart: what is found in them counts neither way.
      boxes: `(N, 4)` xyxy in pixels (pixel i covers `[i, i + 1)`), or None: the masks' own.
    """

    masks: tuple[dict[str, Any], ...]
    labels: np.ndarray
    scores: np.ndarray
    crowd: np.ndarray
    boxes: np.ndarray | None = None


class Objects(NamedTuple):
    """What the values of an object map mean: each value stands for the set of objects that cover the pixel.

    So overlapping objects share one integer map `(H, W)`, which crops, flips and warps (nearest) as a label map does.

    Attributes:
      classes: `(N,)` int32, class ids of the objects, 1 and above.
      crowd: `(N,)` bool.
      members: `(V, L)` int32: row v lists the objects (numbered from 1, 0 fills up) at pixels of value v; row 0: none.
    """

    classes: np.ndarray
    crowd: np.ndarray
    members: np.ndarray


class Sample(NamedTuple):
    """One case in memory: image `(*S, C)`, label `(*S)` int16 class ids with IGNORE, or None.

    With `objects`, the label is their object map instead (and still holds IGNORE where nothing counts).
    """

    image: Volume
    label: Volume | None
    objects: Objects | None = None


class DataSet(NamedTuple):
    """A listed data set; `load` reads one case, `digest` names its content (for caching) without reading it twice.

    Attributes:
      cases: all of them, sorted by name; labelled ones, unless background is the only class.
      channels: channel names; "CT" and others choose the normalisation.
      classes: class names by id, background first.
      label_values: the value that stands for each class in the user's own files, written back by predict.
      flip_pairs: pairs of class ids that a left-right flip exchanges.
      regions: None for exclusive classes (softmax); else tuples of class ids, one a sigmoid output; the first id of a
        tuple is the class that a prediction writes for it and that bears its name.
      load: `case -> Sample`; raises UserError.
      digest: `case -> hex string` of the input bytes.
      ignore_value: the value in the user's files of pixels that may not count, or None.
    """

    cases: tuple[Case, ...]
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    label_values: tuple[int, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    regions: tuple[tuple[int, ...], ...] | None
    load: Callable[[Case], Sample]
    digest: Callable[[Case], str]
    ignore_value: int | None = None


ReadFn = Callable[..., Volume]  # path -> Volume
HostFn = Callable[[Volume], Volume]  # numpy; carries spacing and affine
AugmentFn = Callable[[Any, dict], dict]  # (key, batch) -> batch; jnp, jit-safe, static shapes
LossFn = Callable[..., Any]  # (logits, labels, *, ...) -> Float[B]
CountFn = Callable[..., Any]  # (logits, labels, *, ...) -> additive counts
PredictFn = Callable[[Any], Any]  # image (B, *S, C) -> probs (B, *S, K)
StepFn = Callable[..., tuple[Any, Mapping[str, Any]]]  # (state, batch, key) -> (state, metrics)
Batches = Iterator[dict]


class Task(NamedTuple):
    """What is learnt, as pure functions closed over the config.

    Attributes:
      init: `(key, image) -> (params by group, extra)`.
      losses: parameter group -> `(params, extra, batch, key) -> (loss, (metrics, extra))`; `params` holds all groups.
      counts: `(variables, batch) -> additive counts`.
      predict: `(variables, image) -> probs`; `variables` is `{"params": by group, "extra": ...}`.
    """

    init: Callable[..., tuple[dict, dict]]
    losses: Mapping[str, Callable[..., tuple[Any, tuple[dict, dict]]]]
    counts: Callable[..., Any]
    predict: Callable[..., Any]
