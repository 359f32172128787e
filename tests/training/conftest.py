from pathlib import Path

import pytest

# gvit is imported in the fixtures: what a conftest.py imports, the checks of annotations come too late for


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """A run's report and curves take longer than a short run. Fixtures of a module draw theirs."""
    for drawn in ("write_report", "write_curves"):
        monkeypatch.setattr(f"gvit.training.train.{drawn}", lambda run: None)


@pytest.fixture(scope="module")
def few_digits():
    from gvit.data.sources import SOURCES, Source, digits

    def load(split, data_dir=None) -> Source:
        whole = digits.source(split)
        return Source(whole.load, whole.labels[: {"train": 35, "test": 12}[split]], whole.class_names)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SOURCES, "few_digits", load)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, few_digits) -> Path:
    from gvit.training.train import train
    from small_runs import CONFIG

    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(CONFIG, folder)
    return folder
