"""Asks pip which lines of requirements.txt have a wheel for which system and Python: the table of docs/platforms.md.

python docs/site_tools/wheels.py    # a few minutes; nothing is installed
"""

import pathlib
import re
import subprocess
import sys
import tempfile

SYSTEMS = {
    "Linux x86-64": [f"manylinux_2_{minor}_x86_64" for minor in (5, 12, 17, 24, 27, 28)] + ["manylinux2014_x86_64"],
    "Linux arm64": [f"manylinux_2_{minor}_aarch64" for minor in (17, 24, 27, 28)] + ["manylinux2014_aarch64"],
    "macOS 14, Apple chip": ["macosx_14_0_arm64"],
    "macOS 12, Apple chip": ["macosx_12_0_arm64"],
    "macOS 11, Apple chip": ["macosx_11_0_arm64"],
    "macOS 14, Intel chip": ["macosx_14_0_x86_64"],
    "Windows x86-64": ["win_amd64"],
}
PYTHONS = ("3.11", "3.12", "3.13")
_MISSING = re.compile(r"No matching distribution found for ([\w.\-\[\]]+)")


def requirements() -> list[str]:
    """The lines of requirements.txt without comments and without markers, which pip would ask of this system.

    With jaxlib, which holds what is compiled of JAX.
    """
    text = (pathlib.Path(__file__).parents[2] / "requirements.txt").read_text()
    lines = (line.split("#")[0].split(";")[0].strip() for line in text.splitlines())
    wanted = [line for line in lines if line]
    return [*wanted, *(line.replace("jax", "jaxlib") for line in wanted if line.startswith("jax>"))]


def missing(wanted: list[str], *, python: str, platforms: list[str]) -> list[str]:
    """Returns the requirements for which pip finds no wheel."""
    left, absent = list(wanted), []
    while left:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--dry-run",
                "--no-deps",
                "--ignore-installed",
                "--quiet",
            ]
            command += ["--only-binary=:all:", f"--python-version={python}", f"--target={folder}"]
            command += [f"--platform={name}" for name in platforms]
            done = subprocess.run([*command, *left], capture_output=True, text=True)
        if done.returncode == 0:
            return absent
        found = _MISSING.search(done.stderr)
        if not found:
            raise SystemExit(done.stderr)
        name = next(line for line in left if line.startswith(found[1]))
        absent.append(name)
        left.remove(name)
    return absent


def main() -> None:
    wanted = requirements()
    head = [f"{len(wanted) - 1} lines of requirements.txt, and jaxlib", *(f"Python {python}" for python in PYTHONS)]
    print(f"| {' | '.join(head)} |")
    print("| --- " * (1 + len(PYTHONS)) + "|")
    for system, platforms in SYSTEMS.items():
        cells = []
        for python in PYTHONS:
            absent = missing(wanted, python=python, platforms=platforms)
            cells.append(f"no wheel: {', '.join(absent)}" if absent else "all")
        print(f"| {system} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
