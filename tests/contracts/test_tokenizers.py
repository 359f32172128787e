"""What every kind of tokens promises, and that a new kind is one class and one registration."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

import gvit
from gvit.errors import InputError
from gvit.models import registry
from gvit.models.encoder import DenoisingEncoder
from gvit.models.gvit import GViT
from gvit.models.tokens import TOKENIZERS, CanonicalTokens, Tokenizer
from gvit.models.vit import ViT
from gvit.prediction import predict_files
from gvit.recipes import debug
from gvit.training.report import assess
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
    assert assess(tmp_path / "run").evaluation == result
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


class FixedTokens(RowTokens):
    """Rows through a basis that is given, and not learned."""

    kind = "fixed rows"

    def __init__(self, img_size: int = 32, embed_dim: int = 96) -> None:
        super().__init__(img_size, embed_dim)
        torch.nn.init.eye_(self.proj.weight)
        self.proj.weight.requires_grad_(False)


def test_a_transformer_leaves_the_weights_of_its_tokens_alone():
    tokens = FixedTokens()
    vit = ViT(tokens, num_classes=3, depth=1, num_heads=2)
    assert torch.equal(vit.tokens.proj.weight, torch.eye(96))
    assert not vit.tokens.proj.weight.requires_grad


@pytest.mark.usefixtures("rows_registered")
def test_a_kind_belongs_to_one_class():
    with pytest.raises(InputError, match="tokens of kind 'rows' are RowTokens; give Other a kind of its own"):
        registry.register_model("other", "", type("Other", (RowTokens,), {}))
    again = type("RowTokens", (RowTokens,), {"__module__": __name__, "__qualname__": "RowTokens"})
    registry.register_model("vit_rows", "the cell of a notebook, run again", again)
    assert type(gvit.create_model("vit_rows").tokens) is again
    with pytest.raises(InputError, match="unknown encoder 'nope'"):
        registry.register_model("other", "", CanonicalTokens, "nope")


def test_what_a_file_could_not_build_again_is_not_saved(tmp_path):
    mine = ViT(type("Mine", (CanonicalTokens,), {})(32, 8, 1.0, 24), 3, depth=1, num_heads=2)
    with pytest.raises(
        InputError, match="build Mine again: it is not the class of kind of tokens 'canonical'"
    ):
        gvit.save_model(mine, tmp_path / "model.safetensors")
    own = type("Own", (ViT,), {})(CanonicalTokens(32, 8, 1.0, 24), 3, depth=1, num_heads=2)
    with pytest.raises(InputError, match="build Own again: it is neither GViT nor ViT"):
        gvit.save_model(own, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_of_a_kind_that_is_not_known_here_says_so(tmp_path):
    TOKENIZERS["rows"] = RowTokens
    try:
        gvit.save_model(ViT(RowTokens(), 3, depth=1, num_heads=2), tmp_path / "model.safetensors")
    finally:
        del TOKENIZERS["rows"]
    with pytest.raises(InputError, match=r"model\.safetensors: unknown kind of tokens 'rows'; "):
        gvit.load_model(tmp_path)


@pytest.mark.usefixtures("rows_registered")
def test_an_argument_that_no_file_can_hold_is_refused_before_anything_is_trained(tmp_path):
    class ActiveRows(RowTokens):
        kind = "active_rows"

        def __init__(self, act: type[nn.Module] = nn.GELU, **kwargs) -> None:
            super().__init__(**kwargs)
            self.act = act()

    registry.register_model("vit_active", "with an activation", ActiveRows, depth=1, num_heads=2)
    config = debug()
    config = replace(config, model=replace(config.model, model="vit_active", num_gaussians=None))
    for use in (lambda: gvit.create_model("vit_active"), lambda: train(config, tmp_path / "run")):
        with pytest.raises(
            InputError,
            match=r"^model vit_active: argument act of its tokens is <class .*no model file can hold",
        ):
            use()
    direct = ViT(ActiveRows(), 3, depth=1, num_heads=2)
    with pytest.raises(InputError, match=r"model.safetensors: not saved: argument act of its tokens"):
        gvit.save_model(direct, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_tokens_of_gaussians_without_bounds_are_told_what_they_lack():
    class Unbounded(CanonicalTokens):
        kind = "unbounded"
        bounds = Tokenizer.bounds

    with pytest.raises(
        InputError, match=r"'unbounded' .* need the property bounds .*GaussianTokens is a base"
    ):
        ViT(Unbounded(16, 4, embed_dim=8), depth=1, num_heads=2)


@pytest.mark.usefixtures("rows_registered")
def test_tokens_of_gaussians_need_only_declare_themselves():
    """A class of one's own, of no relation to those that are here."""

    class Centres(Tokenizer):
        kind = "centres"
        reads = "gaussians"

        def __init__(self, img_size: int = 32, num_gaussians: int = 8, embed_dim: int = 24) -> None:
            super().__init__()
            self.num_patches = num_gaussians
            self.proj = nn.Linear(2, embed_dim)

        @property
        def bounds(self) -> dict:
            return {"scale_factor": 1.0, "nominal_count": self.num_patches}

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.proj(inputs[..., :2].tanh())

    encoder = DenoisingEncoder(img_size=32, patch_size=8, num_gaussians=8, embed_dim=24, depth=1, num_heads=2)
    model = GViT(encoder, ViT(Centres(), 3, depth=1, num_heads=2)).eval()
    images = torch.rand(2, 3, 32, 32)
    gaussians = model.encode(images)
    assert torch.equal(model(images), model.classify(gaussians))
    assert torch.equal(model.classify(gaussians[:, torch.arange(7, -1, -1)]), model.classify(gaussians))
