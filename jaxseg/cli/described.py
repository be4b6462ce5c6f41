"""What the files of a prediction say: classes, colours and coded terms, and which trained network has found them."""

import hashlib
import json

import jaxseg
from jaxseg import paths, terms, validation
from jaxseg.cli import inference, workdir
from jaxseg.data.dicom.described import Description, Label
from jaxseg.predict import postprocess
from jaxseg.predict.formats import Outputs
from jaxseg.viz.colors import class_color


def outputs(arguments: workdir.Arguments, trained: inference.Trained) -> Outputs:
    """Returns what `predict.formats.write` needs to know of a run.

    Raises:
      UserError: data.terms names something that is no class.
    """
    config, known = arguments.config, trained.known
    given = terms.of_classes(config.data.terms, known.classes)
    labels = tuple(
        Label(number, name, class_color(number), term)
        for number, (name, term) in enumerate(zip(known.classes[1:], given), start=1)
    )
    regions = known.regions
    return Outputs(
        formats=validation.formats(config.predict.format),
        label_values=known.label_values,
        description=Description(labels, jaxseg.__version__, digest(arguments, trained.step)),
        channels=range(len(known.classes)) if regions is None else postprocess.region_classes(regions),
        overwrite=arguments.overwrite,
    )


def digest(arguments: workdir.Arguments, step: int) -> str:
    """Returns 16 letters that stand for the trained networks and their settings; no path can be read from them."""
    folders = [arguments.workdir, *map(paths.path, arguments.average)]
    described = [[workdir.record(folder) for folder in folders], step]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
