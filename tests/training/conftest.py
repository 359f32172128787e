import pytest


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """A run's report takes longer than a short run. Fixtures of a module draw theirs."""
    monkeypatch.setattr("gvit.training.train.write_report", lambda run: None)
