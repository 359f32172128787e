"""What every kind of tokens promises, and that a new kind is one class and one registration."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

import gvit
from gvit.models import registry
from gvit.models.tokens import TOKENIZERS, Tokenizer
from gvit.prediction import predict_files
from gvit.recipes import debug
from gvit.training.report import evaluate_run
from gvit.training.train import resume, train


class RowTokens(Tokenizer):
    """A token for each row of pixels."""

    kind = "rows"
    reads = "images"

    def __init__(self, img_size: int = 32, embed_dim: int = 48, stretch: float = 1.0) -> None:
        super().__init__()
        self.num_patches, self.stretch = img_size, stretch
        self.proj = nn.Linear(3 * img_size, embed_dim)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.proj(self.stretch * inputs.permute(0, 2, 1, 3).flatten(2))

    def example(self) -> torch.Tensor:
        return torch.empty(1, 3, self.num_patches, self.num_patches)


@pytest.fixture
def rows_registered(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    before = dict(TOKENIZERS)
    registry.register_model("vit_rows", "rows of pixels", RowTokens, embed_dim=48, depth=2, num_heads=2)
    yield
    TOKENIZERS.clear()
    TOKENIZERS.update(before)


@pytest.mark.usefixtures("rows_registered")
def test_a_new_kind_of_tokens_trains_saves_loads_predicts_and_evaluates(tmp_path):
    config = debug()
    config = replace(config, model=replace(config.model, model="vit_rows", num_gaussians=None))
    config = replace(
        config, schedule=replace(config.schedule, epochs=4.0), data=replace(config.data, min_crop=1.0)
    )
    result = train(config, tmp_path / "run")
    assert result.top1 > 0.4  # chance is 0.1
    assert result.psnr is None
    assert resume(tmp_path / "run") == result
    assert evaluate_run(tmp_path / "run") == result
    model = gvit.load_model(tmp_path / "run")
    assert isinstance(model.tokens, RowTokens)
    assert model.reads == "images"
    Image.new("RGB", (40, 20), "white").save(tmp_path / "white.png")
    ((_, guesses),) = predict_files(model, [tmp_path / "white.png"])
    assert len(guesses) == 3
    assert "vit_rows" in gvit.list_models()


@pytest.mark.usefixtures("rows_registered")
def test_arguments_of_a_new_kind_of_tokens_are_kept_with_its_weights(tmp_path):
    model = gvit.create_model("vit_rows", stretch=0.5, num_classes=3).eval()
    gvit.save_model(model, tmp_path / "model.safetensors")
    loaded = gvit.load_model(tmp_path)
    assert loaded.tokens.stretch == 0.5
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
def test_tokens_are_as_many_and_as_wide_as_they_say(kind):
    torch.manual_seed(0)
    tokens = TOKENIZERS[kind](img_size=32, embed_dim=24)
    inputs = torch.rand_like(tokens.example()).expand(2, *tokens.example().shape[1:])
    assert tokens(inputs).shape == (2, tokens.num_patches, tokens.embed_dim) == (2, tokens.num_patches, 24)
    assert tokens.image_side == 32
    assert bool(tokens.bounds) == (tokens.reads == "gaussians") == bool(tokens.geometry())
