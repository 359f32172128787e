import pytest


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """A run's report and curves take longer than a short run. Fixtures of a module draw theirs."""
    for drawn in ("write_report", "write_curves"):
        monkeypatch.setattr(f"gvit.training.train.{drawn}", lambda run: None)
