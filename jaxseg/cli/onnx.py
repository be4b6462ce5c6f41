"""--mode export with export.format=onnx: the network alone, on one batch of windows, for other runtimes."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import numpy as np

from jaxseg.cli import build, export, inference, workdir
from jaxseg.data import writers
from jaxseg.data.volume import reason
from jaxseg.typing import UserError

CLOSE = 1e-3  # probabilities (or shares of the largest logit) that both runtimes may differ by
INSTALL = "pip install -r requirements-onnx.txt, best into a virtual environment of its own"


def run(arguments: workdir.Arguments) -> None:
    """Writes --output, an ONNX model `(B, *window, C) -> (B, *window, K)` that onnxruntime was seen to run alike.

    Raises:
      UserError: jax2onnx is not installed or refuses a layer, several networks are named, the file exists, or
        onnxruntime gives other numbers.
    """
    output = pathlib.Path(str(arguments.output))
    export.refuse_existing(output, arguments.overwrite)
    jax2onnx, onnxruntime = _packages()
    trained = export.load(arguments)
    if len(trained.networks) > 1:
        raise UserError("An ONNX file holds one network; leave --average out, or name one fold's --workdir.")
    rules = export.rules(trained)
    shape = (rules.batch_size, *rules.window, rules.channels)
    predict_fn = _closed(trained)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    try:
        with _one_form():
            options = {"model_name": trained.config.model.name, "input_names": ["image"], "output_names": ["output"]}
            model = jax2onnx.to_onnx(predict_fn, [jax.ShapeDtypeStruct(shape, np.float32)], **options)
        _describe(model, trained)
        content = model.SerializeToString()
        session = onnxruntime.InferenceSession(content, _quiet(onnxruntime), providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: image})[0]
    except Exception as error:  # of two packages that raise whatever they come across
        text = reason(error).splitlines()[0][:300]
        raise UserError(
            f"jax2onnx cannot say the network {trained.config.model.name!r} in ONNX ({type(error).__name__}: {text}); "
            "leave --set export.format=onnx out, which writes programs for JAX."
        ) from error
    expected = np.asarray(jax.jit(predict_fn)(image), np.float32)
    difference = _difference(found, expected)
    with writers.replacing(output, overwrite=arguments.overwrite) as partial:
        partial.write_bytes(content)
    shapes = f"{export.times(shape)} to {export.times(expected.shape)}"
    print(
        f"{output} ({len(content) / 2**20:.1f} MB): {shapes}; onnxruntime differs from JAX "
        f"by {difference:.2g} at most. Normalisation, windows and resampling are left to you."
    )


def _packages() -> tuple[Any, Any]:
    try:
        import jax2onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(f"export.format='onnx' needs {error.name}; {INSTALL}.") from error
    return jax2onnx, onnxruntime


def _closed(trained: inference.Trained):
    task = build.task(trained.config, trained.known, logits=trained.config.predict.average == "logits")
    variables = jax.tree.map(np.asarray, trained.networks[0])
    return lambda image: task.predict(variables, image)


@contextlib.contextmanager
def _one_form() -> Iterator[None]:
    """ONNX knows no platforms: one form of our operations is written, and nothing of how gradients save memory.

    jax2onnx knows no 3D convolution, but it knows the 2D ones that CPUs get, with depth folded into the batch.
    """

    def chosen(*values, default, **forms):
        return forms.get("cpu", default)(*values) if values[0].ndim == 5 else default(*values)

    def as_it_is(function, **_):
        return function

    with (
        mock.patch.object(jax.lax, "platform_dependent", chosen),
        mock.patch.object(jax, "checkpoint", as_it_is),
    ):
        yield


def _describe(model: Any, trained: inference.Trained) -> None:
    """Puts into the file what its user must know of the images."""
    entry = model.metadata_props.add()
    entry.key, entry.value = "jaxseg", json.dumps(export.facts(trained))


def _quiet(onnxruntime: Any) -> Any:
    """Its warnings are of shapes that jax2onnx notes in another order, which it then works out by itself."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, as a share of the largest value where that is above one."""
    if found.shape != expected.shape:
        raise UserError(f"The ONNX model gives {found.shape} where JAX gives {expected.shape}; nothing was written.")
    largest = float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))
    if not largest <= CLOSE:
        raise UserError(f"The ONNX model differs from JAX by {largest:.2g}, above {CLOSE:g}; nothing was written.")
    return largest
