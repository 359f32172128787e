"""What --epochs does to a recipe."""

import pytest

from gvit.cli.train import _parse_new_run


@pytest.mark.parametrize(
    ("args", "warmup"),
    [
        ([], 1.2),
        (["--epochs", "2"], 0.08),
        (["--epochs=60"], 2.4),
        (["--epochs", "2", "--warmup-epochs", "1"], 1.0),
        (["--warmup_epochs=1", "--epochs", "2"], 1.0),
        (["--reconstruct-epochs", "20"], 1.2),
    ],
)
def test_the_warm_up_keeps_its_share_of_the_epochs(args, warmup):
    """The digits recipe has 30 epochs, of which 1.2 warm up."""
    _, new = _parse_new_run(["digits", *args])
    assert new.config.optimizer.warmup_epochs == pytest.approx(warmup)
