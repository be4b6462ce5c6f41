"""Flags, dispatch, and the one place where a wrong input becomes one sentence and exit status 2."""

import contextlib
import importlib
import os
import pathlib
import re
import sys
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from jaxseg import config as configs
from jaxseg import paths, validation
from jaxseg.cli import alone, workdir
from jaxseg.typing import UserError

MODES = {
    "run": "jaxseg.cli.train:prepare_train_evaluate",
    "prepare": "jaxseg.cli.prepare:prepare",
    "train": "jaxseg.cli.train:train",
    "evaluate": "jaxseg.cli.evaluate:evaluate",
    "predict": "jaxseg.cli.predict:predict",
    "compare": "jaxseg.cli.compare:compare",
    "choose": "jaxseg.cli.choose:choose",
    "convert": "jaxseg.cli.convert:convert",
    "report": "jaxseg.cli.evaluate:report",
    "plan": "jaxseg.cli.plan:plan",
    "compile": "jaxseg.cli.compile:compile",
    "tune": "jaxseg.cli.tune:tune",
    "synthesize": "jaxseg.cli.synthesize:synthesize",
    "export": "jaxseg.cli.export:export",
    "view": "jaxseg.cli.view:view",
}
# With data.fold=all
OF_FOLDS = {mode: f"jaxseg.cli.folds:{mode}" for mode in ("run", "train", "evaluate")}
# With config.ensemble.kind
OF_MEMBERS = {mode: f"jaxseg.cli.members:{mode}" for mode in ("run", "train", "evaluate")}
NEEDS_CONFIG = ("run", "prepare", "train", "plan", "compile", "tune")
SHARED = ("run", "prepare", "train", "evaluate")  # what several processes do together
ALONE = ("run", "prepare", "train", "tune")  # what two commands must not do in one workdir at a time
RESUME = (
    "a process of this run was lost; the same command, on any number of hosts, resumes from the last checkpoint in {}"
)
NEEDS_NO_WORKDIR = ("compare", "choose", "convert", "view")

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with an optional :argument.", lock_config=True)
MODE = flags.DEFINE_enum("mode", "run", list(MODES), "What to do; run prepares if needed, trains, evaluates, reports.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default runs/<config name>.")
INPUT = flags.DEFINE_multi_string(
    "input",
    [],
    "predict, evaluate, view: an image or a folder; compare, choose: workdirs; convert: a file of weights or "
    "nnU-Net's folder; export: an image to check the file with.",
)
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "predict: folder for masks; evaluate: another folder for scores; compare: a .svg or .png; choose: a .json; "
    "convert: a new folder; plan: folder for config files; synthesize: a new folder for images and labels; export: a "
    "file, such as model.jaxseg; view: a new folder for the page, in place of serving it.",
)
LABELS = flags.DEFINE_string(
    "labels",
    None,
    "evaluate, view: folder of label files, named as the images of --input; synthesize: label maps to make images of, "
    "in place of new ones.",
)
INITIAL = flags.DEFINE_string(
    "initial", None, "predict, of agents: folder of masks, named as the images of --input, that they start from."
)
CLICKS = flags.DEFINE_string(
    "clicks", None, "predict, of agents that know clicks, with --initial: a .csv of case, y, x (z), class."
)
PAIRS = flags.DEFINE_integer(
    "n", 0, "synthesize: how many images with labels to make; view: how many of the worst cases to show, 0 all."
)
PORT = flags.DEFINE_integer("port", 0, "view: the port on this computer; 0 takes a free one.")
SETTABLE = ("predict", "evaluate", "synthesis", "report", "export")  # of a command, not of the training that was
SET = flags.DEFINE_multi_string(
    "set", [], "predict, evaluate, synthesize, export, view: such as predict.tta=True, in place of the stored value."
)
AVERAGE = flags.DEFINE_multi_string(
    "average", [], "predict, evaluate, export, view: further workdirs (folds) to average with."
)
TARGET = flags.DEFINE_multi_string("target", [], "compile: cpu, or a TPU topology such as v5e:2x2; may be repeated.")
ALSO_SETTABLE = ("data.terms",)  # by --set: single fields of other sections
SOURCE = flags.DEFINE_string(
    "source", None, "convert: whose weights --input holds, such as torchvision:resnet18; nnunet: a folder."
)
FIELD = flags.DEFINE_multi_string("field", [], "convert: such as encoder=resnet18, what the file does not show.")
OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "predict, plan, synthesize, export, view: replace files that are there."
)


def run() -> None:
    """Parses the command line and runs its mode."""
    # XLA's C++ log lines of level INFO and WARNING are not for users.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(_main, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    """absl's parser, with every mistake in a flag or a config told in one sentence."""
    try:
        rest = FLAGS(argv)
        _check_config_file()
        return rest
    except (flags.Error, UserError, AttributeError, KeyError, TypeError, ValueError, OSError, SyntaxError) as error:
        _fail(_sentence(error))


def _check_config_file() -> None:
    """A config that failed to load would raise at its first use only."""
    if not FLAGS["config"].present:
        return
    path = _config_path()
    if not path.is_file():
        near = ", ".join(sorted(str(file) for file in path.parent.glob("*.py"))) if path.parent.is_dir() else ""
        raise UserError(f"--config {path}: there is no such file; {f'there are {near}' if near else 'check the path'}.")
    CONFIG.value.train  # noqa: B018


def _config_path() -> pathlib.Path:
    """The config file without its argument."""
    filename = getattr(FLAGS["config"], "config_filename")  # noqa: B009 (config_flags' own kind of flag has it)
    return pathlib.Path(filename.split(":")[0])


def _sentence(error: Exception) -> str:
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if "Traceback (most recent call last)" in text:  # ml_collections passes on what get_config raised, as text
        last = text.strip().splitlines()[-1]
        known = last.removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")
        return known if known != last else f"The config file failed to run: {last}"
    # ml_collections, which locks a config, names an unknown field in quotes, perhaps with one that is alike.
    if isinstance(error, (AttributeError, KeyError)) and (name := re.match(r"""["'\\]+(\w+)""", text)):
        alike = re.search(r"Did you mean [^?]*\?", text)
        hint = "What the config file does not set, such as an option of its network, is added there."
        return f"The config has no field {name[1]!r}. {alike[0] if alike else hint}"
    text = " ".join(text.split())
    return text if isinstance(error, (UserError, flags.Error)) else f"The config cannot be read: {text}"


def _fail(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def _main(argv: list[str]) -> None:
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax tells every step of a save at INFO
    joined = False
    try:
        if len(argv) > 1:
            raise UserError(f"{argv[1]!r} is not a flag; every option starts with --, such as --config configs/X.py.")
        arguments = _arguments()
        if joined := MODE.value in SHARED:
            _join(arguments)
        with contextlib.ExitStack() as stack:
            if MODE.value in ALONE:
                _keep_others_out(arguments.workdir, stack, joined=joined)
            module, _, function = _runner(arguments.config).partition(":")
            getattr(importlib.import_module(module), function)(arguments)
            if joined:
                _processes().finish()
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("stopped; the same command goes on from what is finished", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not joined or not _processes().several():
            raise
        _processes().fail(error)


def _keep_others_out(folder: paths.Path, stack: contextlib.ExitStack, *, joined: bool) -> None:
    """Locks the workdir until the stack is closed; of several processes the first does, and all learn if it cannot."""

    def lock() -> None:
        stack.enter_context(alone.alone(folder))

    if joined:
        _processes().first(lock)
    else:
        lock()


def _runner(config: ConfigDict) -> str:
    """Returns what does the mode: for one network, for all folds, or for an ensemble."""
    several: dict[str, str] = {}
    if "data" in config and config.data.fold == "all":
        several = OF_FOLDS
    if "ensemble" in config and configs.is_ensemble(config):
        several = OF_MEMBERS
    return several.get(MODE.value, MODES[MODE.value])


def _processes():
    """Loaded late: flags are checked before JAX is."""
    return importlib.import_module("jaxseg.train.processes")


def _join(arguments: workdir.Arguments) -> None:
    """Makes this process one of the run's, where there are several."""
    options = arguments.config.parallel
    _processes().start(
        coordinator=options.coordinator,
        count=options.processes,
        index=options.process,
        heartbeat_seconds=options.heartbeat_seconds,
        hint=RESUME.format(arguments.workdir / "checkpoints"),
    )


def _arguments() -> workdir.Arguments:
    """Collects what the modes need: config, workdir and paths."""
    config = CONFIG.value
    if config is not None:
        _replace_duration(config)
    if config is None and MODE.value in NEEDS_CONFIG:
        raise UserError(f"--mode {MODE.value} needs --config, such as --config configs/quickstart.py.")
    folder = WORKDIR.value
    if folder is None and config is not None:
        folder = str(pathlib.Path("runs") / _config_path().stem)
    if folder is None and MODE.value not in NEEDS_NO_WORKDIR:
        raise UserError(f"--mode {MODE.value} needs --workdir, the folder of a finished run.")
    if folder is not None and config is None:
        config = workdir.stored_config(paths.path(folder))
        for text in SET.value:
            _set(config, text)
    return workdir.Arguments(
        config=ConfigDict() if config is None else config,
        workdir=paths.path(folder or "."),
        inputs=tuple(INPUT.value),
        output=OUTPUT.value,
        labels=LABELS.value,
        overwrite=OVERWRITE.value,
        targets=tuple(TARGET.value),
        average=tuple(AVERAGE.value),
        source=SOURCE.value,
        fields=tuple(FIELD.value),
        pairs=PAIRS.value,
        initial=INITIAL.value,
        clicks=CLICKS.value,
        port=PORT.value,
    )


def _set(config: ConfigDict, text: str) -> None:
    """Changes one field of the SETTABLE parts of a stored config; the others belong to the training that was."""
    name, _, value = text.partition("=")
    group, _, field = name.partition(".")
    if name not in ALSO_SETTABLE and (group not in SETTABLE or field not in config[group]):
        known = ", ".join([*(f"{part}.{key}" for part in SETTABLE for key in config[part]), *ALSO_SETTABLE])
        raise UserError(f"--set {text} should read FIELD=VALUE with one of {known}.")
    config[group][field] = configs.literal(value)
    validation.validate(config)


def _replace_duration(config: ConfigDict) -> None:
    """A duration given on the command line replaces the one in the config file."""
    names = ("total_steps", "total_epochs", "total_minutes")
    overridden = [name for name in names if f"train.{name}" in config_flags.get_override_values(FLAGS["config"])]
    if len(overridden) == 1:
        for name in names:
            if name not in overridden:
                config.train[name] = None
    validation.validate(config)
