"""For all tests: results must not depend on a GPU, a terminal or the number of cores."""

import signal
import sys
import weakref
from pathlib import Path

import jaxtyping
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for pretrained_models, which tests of several rooms share

# these take longest: begun first, they leave no core idle at the end
_LONG = (
    *("training/test_distributed.py", "cli/test_commands.py", "training/test_loop.py"),
    "training/test_resume.py",
    *("reproduction/test_interruptions.py", "reproduction/test_reproduce.py"),
    *("test_readme.py", "training/test_guidance.py"),
    *("contracts/test_rendering_backends.py", "benchmarks/test_gpu_scripts.py", "contracts/test_models.py"),
)


def pytest_collection_modifyitems(items):
    """The long files before the others, and each in its own order."""

    def place(item) -> int:
        name = item.path.relative_to(Path(__file__).parent).as_posix()
        return _LONG.index(name) if name in _LONG else len(_LONG)

    items.sort(key=place)


# many whole trainings, of functions that other files test with the checks of annotations; those cost a fifth here
_UNCHECKED = {
    *(
        "test_distributed",
        "test_commands",
        *("test_loop", "test_resume", "test_notes", "test_dry_run"),
        *("test_reproduce", "test_interruptions"),
        "test_readme",
        "test_guidance",
        "test_jobs",
        *("test_stumbling", "test_frozen", "test_broken", "test_export", "test_sets", "test_history"),
        *("test_faults", "test_row_effects", "test_scaling", "test_finetune"),
    )
}


@pytest.fixture(scope="module", autouse=True)
def _unchecked_where_whole_runs_are_trained(request):
    with pytest.MonkeyPatch.context() as patch:
        if request.path.stem in _UNCHECKED:
            patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield


# none of these looks at the figures of runs, evaluations and fits, which other files do: a second of drawing each
_UNDRAWN = {
    *("test_readme", "test_tutorials", "test_publish", "test_image_files", "test_frames", "test_frozen"),
    *("test_broken", "test_scaling", "test_row_effects", "test_finetune", "test_sets", "test_encode"),
    *("test_sources", "test_hostile_files", "test_tokenizers"),
}


def _leave_figures_empty(patch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    names = [f"gvit.training.report.{of}_figure" for of in ("report", "curves", "confusion", "mistakes")]
    for name in (*names, "gvit.fitting.image_files.fit_figure"):
        patch.setattr(name, lambda *_, **__: Figure((1, 1)))


@pytest.fixture(scope="module", autouse=True)
def _no_figures_where_nobody_looks(request):
    with pytest.MonkeyPatch.context() as patch:
        if request.path.stem in _UNDRAWN:
            _leave_figures_empty(patch)
        yield


@pytest.fixture
def undrawn(monkeypatch):
    """Figures of runs, evaluations and fits are written, but empty."""
    _leave_figures_empty(monkeypatch)


@pytest.fixture
def encoded_rows(monkeypatch):
    """Of images that are encoded among many: their dtypes, and how many of them are there with pictures at a time."""
    from gvit.encoding import EncodedRow, ImageEncoder

    rows, row_of, dtypes, kept, alive = ImageEncoder.rows, EncodedRow.of, set(), [], []

    def watched(encoder, loaded):
        dtypes.update(image.dtype for image in loaded)
        return rows(encoder, loaded)

    def row(image):
        kept.append(weakref.ref(image))
        alive.append(sum(one() is not None for one in kept))
        return row_of(image)

    monkeypatch.setattr(ImageEncoder, "rows", watched)
    monkeypatch.setattr(EncodedRow, "of", row)
    return dtypes, alive


@pytest.fixture
def unchecked(monkeypatch):
    """Without the checks of annotations that all other tests run with, and users don't have."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


# where the tests run under nohup, it would be ignored by them and by what they start
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# and so would this one, where a shell's script began them in the background
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# tensors in tests are small: more threads would only wait for each other
torch.set_num_threads(1)
