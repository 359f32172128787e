"""What is said of the machine."""

from importlib.metadata import PackageNotFoundError

import pytest
import torch

from gvit import provenance as module
from gvit.provenance import provenance


@pytest.mark.parametrize(
    ("device", "used", "gpu"),
    [("cpu", True, None), ("cuda:1", False, "GPU cuda:1"), (None, False, None), (None, True, "GPU None")],
)
def test_the_gpu_is_the_one_that_computed(device, used, gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"GPU {device}")
    monkeypatch.setattr(module, "version", lambda name: "1")
    found = provenance(device)
    assert found["gpu"] == gpu
    assert ("triton" in found["versions"]) == (gpu is not None)


def test_a_package_of_another_name_is_left_out(monkeypatch):
    def version(name: str) -> str:
        if name == "numba":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(module, "version", version)
    assert provenance("cpu")["versions"].keys() == {"gvit", "torch", "numpy", "timm"}
