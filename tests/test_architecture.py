"""The wall between the rooms: nothing imports upward or sideways, heavy packages stay where they belong."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LEVELS = [
    {"typing", "registry", "paths", "space", "terms", "config", "validation", "validation_images", "validation_agents"},
    {"ops"},
    {"losses", "metrics", "models", "data"},
    {"tasks", "predict", "plan", "transfer", "ensemble", "viz"},
    {"train", "evaluate", "rl"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
# Where a package may be imported at all, and where even there only inside a function.
ONLY_IN = {
    "absl": ("config.py", "cli/"),
    "ml_collections": ("config.py", "validation.py", "validation_images.py", "validation_agents.py", "cli/"),
    "orbax": ("train/checkpoint.py", "transfer/"),
    "flax": ("models/",),
    "optuna": ("cli/",),
}
LAZY = {
    "nibabel",
    "pycocotools",
    "skimage",
    "nrrd",
    "tifffile",
    "PIL",
    "matplotlib",
    "tensorflow_datasets",
    "nilearn",
    "pydicom",
    "highdicom",
    "cc3d",
    "edt",
    "safetensors",
    "optuna",
}
MODULES = sorted((ROOT / "jaxseg").rglob("*.py"))


def imports(path: pathlib.Path):
    """Yields (dotted name, is it at module level) for every import of a file."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room"
            yield from ((f"{node.module}.{alias.name}", id(node) in top) for alias in node.names)


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT / "jaxseg").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_wall(path):
    here, inside = room_of(path), str(path.relative_to(ROOT / "jaxseg"))
    for name, at_top in imports(path):
        package, *rest = name.split(".")
        if package == "jaxseg" and rest and rest[0] in LEVEL and here in LEVEL:
            room = rest[0]
            assert room == here or LEVEL[room] < LEVEL[here] or LEVEL[here] == LEVEL[room] == 0, f"{inside} -> {name}"
        if package in ONLY_IN:
            assert inside.startswith(ONLY_IN[package]), f"{package} has no place in {inside}"
        if package in LAZY:
            assert not at_top, f"{inside}: import {package} inside the function that needs it"
        assert package not in {"tensorflow", "torch"}, f"{inside} imports {package}"
    if inside != "train/parallel.py":
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not names & {"pmap", "Mesh", "NamedSharding", "make_mesh"}, (
            f"{inside}: distribution lives in train/parallel.py"
        )
    if inside != "train/processes.py":
        assert (
            not any("multihost_utils" in name for name, _ in imports(path))
            and "jax.distributed" not in path.read_text()
        ), f"{inside}: processes meet in train/processes.py"


def test_files_are_small():
    long = {str(path.relative_to(ROOT)): n for path in MODULES if (n := len(path.read_text().splitlines())) > 400}
    assert not long, f"split at 400 lines: {long}"


def test_configs_import_only_the_config_room():
    for path in (ROOT / "configs").glob("*.py"):
        for name, _ in imports(path):
            assert name.startswith(("ml_collections", "jaxseg.config")), f"{path.name} imports {name}"


def test_losses_are_light():
    code = "import sys, jaxseg.losses; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"flax", "orbax", "ml_collections", "absl_flags", "nibabel", "matplotlib", "tensorflow_datasets", "grain"}
    assert not heavy & set(loaded)
