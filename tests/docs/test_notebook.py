"""The notebook runs from top to bottom, in a process of its own, and ends where it says."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

import gvit

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "photograph.ipynb"


def pictures_and_last_text(notebook) -> tuple[list[str], str]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = [kind for output in outputs for kind in output.get("data", {}) if kind.startswith("image/")]
    texts = [output.data["text/plain"] for output in outputs if output.output_type == "execute_result"]
    return kinds, texts[-1]


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(gvit.__file__).parents[1]))
    stored = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(stored)
    fresh = NotebookClient(
        nbformat.read(NOTEBOOK, as_version=4), timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert pictures_and_last_text(fresh) == (["image/jpeg"] * 4, "(8, 9)")
    assert pictures_and_last_text(stored) == pictures_and_last_text(fresh)
    assert NOTEBOOK.stat().st_size < 300_000
