"""Turns the examples under docs/notebooks, Python files with cells (`# %%`), into pages and notebooks of the site."""

import pathlib
import re

import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

FOLDER = "notebooks"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Called by MkDocs once all files are listed: adds a page and an .ipynb an example."""
    for script in sorted((pathlib.Path(config.docs_dir) / FOLDER).glob("*.py")):
        notebook = jupytext.reads(script.read_text(encoding="utf-8"), fmt="py:percent")
        content = {".md": page(notebook, script.stem), ".ipynb": jupytext.writes(notebook, fmt="ipynb")}
        for suffix, text in content.items():
            files.append(File.generated(config, f"{FOLDER}/{script.stem}{suffix}", content=text))
    return files


def page(notebook, stem: str) -> str:
    """Returns the cells as Markdown, with a link to the notebook below the title."""
    parts = [
        cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```" for cell in notebook.cells
    ]
    title, _, rest = parts[0].partition("\n")
    assert re.match(r"# \w", title), f"{stem}.py should begin with a cell of text that begins with its title"
    return "\n\n".join([title, f"[As a notebook]({stem}.ipynb)", rest.strip(), *parts[1:]]) + "\n"
