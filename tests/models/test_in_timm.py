"""GViT where a timm model goes: by name, with the arguments and in the hands of timm's own ``train.py``."""

import copy
import importlib.util
import pickle
import subprocess
import sys

import pytest
import timm
import torch
from PIL import Image
from timm.data import Mixup, create_transform, resolve_data_config
from timm.loss import SoftTargetCrossEntropy
from timm.models import load_checkpoint, resume_checkpoint
from timm.optim import create_optimizer_v2
from timm.utils import CheckpointSaver, ModelEmaV3

import gvit
from gvit.data.transforms import eval_transform
from gvit.errors import InputError
from gvit.models.architecture import Architecture
from gvit.models.card import Preprocessing
from gvit.models.named import NAMED
from gvit.models.watch import watch

SMALL = {"num_classes": 3, "img_size": 32, "patch_size": 16, "num_gaussians": 6, "depth": 2}
SMALL |= {"encoder_depth": 1, "encoder_dim": 12, "encoder_heads": 2, "embed_dim": 12, "num_heads": 2}


def small(name="gvit_small", **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, **SMALL | kwargs)


def test_what_timm_is_told_before_a_model_is_built_holds_for_it():
    for name in ("gvit_tiny_denoising", "gvit_tiny", "gvit_tiny.digits", "gvit_small", "gvit_small_refining"):
        told = timm.get_pretrained_cfg(name).to_dict()
        built = timm.create_model(name, depth=1).pretrained_cfg
        assert {key: told[key] for key in ("input_size", "crop_pct", "mean", "std", "classifier")} == {
            key: built[key] for key in ("input_size", "crop_pct", "mean", "std", "classifier")
        }
    told = timm.get_pretrained_cfg("gvit_tiny.digits")
    assert (told.num_classes, told.crop_mode, told.label_names) == (10, "squash", tuple("0123456789"))


def test_a_model_is_the_same_with_its_weights_and_without():
    """``validate.py`` builds what ``train.py --pretrained`` began with, and reads its weights."""
    with pytest.warns(UserWarning, match="features that it gives mean nothing before it is trained"):
        features = timm.create_model("gvit_tiny", pretrained=True)
    assert features.num_classes == 0
    trained = timm.create_model("gvit_tiny", pretrained=True, num_classes=1000)
    fresh = timm.create_model("gvit_tiny")
    assert Architecture.of(fresh) == Architecture.of(trained)
    given = fresh.state_dict()
    overlay = {"state_dict": given, "num_classes": 1000}
    again = timm.create_model(
        "gvit_tiny", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=1000
    ).state_dict()
    assert all(torch.equal(again[name], given[name]) for name in given)


def test_pretrained_weights_by_their_tag():
    images = torch.rand(2, 3, 32, 32)
    ours = gvit.load_model("digits")
    model = timm.create_model("gvit_tiny.digits", pretrained=True).eval()
    assert torch.equal(model(images), ours(images))
    # another head, the same encoder
    model = timm.create_model("gvit_tiny.digits", pretrained=True, num_classes=4).eval()
    assert model(images).shape == (2, 4)
    assert torch.equal(model.encode(images).raw, ours.encode(images).raw)
    fresh = timm.create_model("gvit_tiny.digits")
    assert not torch.equal(fresh.encoder.head.weight, ours.encoder.head.weight)
    frozen = timm.create_model("gvit_tiny", pretrained=True, num_classes=4, freeze_encoder=True)
    assert {name.split(".")[0] for name, p in frozen.named_parameters() if p.requires_grad} == {"classifier"}


def test_arguments_have_timms_names(tmp_path):
    model = small(global_pool="avg", drop_rate=0.2, drop_path_rate=0.1, img_size=(32, 32), in_chans=3)
    assert model.classifier.global_pool == "avg"
    assert model.classifier.head_drop.p == 0.2
    assert model.classifier.blocks[1].drop_path1.drop_prob == pytest.approx(0.1)
    gvit.save_model(model, tmp_path / "model.safetensors")
    assert gvit.load_model(tmp_path).classifier.head_drop.p == 0.2
    with pytest.raises(InputError, match="in_chans must be 3"):
        small(in_chans=1)
    with pytest.raises(InputError, match="must be square"):
        small(img_size=(32, 64))
    with pytest.raises(InputError, match="has no argument 'act_layer'"):
        small(act_layer="relu")


def test_the_size_that_timms_scripts_ask_for():
    """``train.py --img-size 32``: how timm 1.0.31 hands it over, and reads it back from the model."""
    resolve = pytest.importorskip("timm.data.model_config").resolve_input_data_config
    known = {name: value for name, value in SMALL.items() if name != "img_size"}
    arguments = timm.models.resolve_model_input_args(
        "gvit_small", {"img_size": 32}, drop_path_rate=0.1, **known
    )
    model = timm.create_model(**arguments)
    assert model.img_size == 32
    config = resolve(model, {"img_size": 32})
    assert (config["input_size"], config["mean"], config["std"]) == ((3, 32, 32), (0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("name", ["gvit_tiny_denoising", "gvit_tiny"])
def test_amp_leaves_gaussians_their_precision(name):
    model = timm.create_model(name, num_classes=3, img_size=32).eval()
    raw = torch.randn(2, model.encoder.num_gaussians, 9)
    gaussians = model.tokens.conform(model.encoder.gaussians(raw))
    tokens = model.tokens(gaussians)
    for made in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        head = made.encoder.head
        assert head.forward.args == (head,)  # a copy's own
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(made.tokens(gaussians), tokens)
            assert made.classifier(gaussians).dtype == torch.bfloat16  # the rest is as it was asked for
    double = model.double()
    assert double.tokens(double.tokens.conform(double.encoder.gaussians(raw.double()))).dtype == torch.float64


def test_weights_of_a_checkpoint_file_replace_those_of_the_name(tmp_path):
    trained = small()
    torch.nn.init.normal_(trained.encoder.head[-1].weight, std=0.1)  # zero at first: it would see no image
    torch.save(trained.state_dict(), tmp_path / "mine.pth")
    overlay = {"file": str(tmp_path / "mine.pth"), "num_classes": -1}
    torch.manual_seed(1)
    model = timm.create_model(
        "gvit_small", pretrained=True, pretrained_cfg_overlay=overlay, **SMALL | {"num_classes": 5}
    )
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model.eval().forward_features(images), trained.eval().forward_features(images))
    assert model(images).shape == (2, 5)


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(32),
        Preprocessing(224),
        Preprocessing(48, "squash", interpolation="bilinear"),
        Preprocessing(33, crop_pct=0.9),
    ],
)
def test_timms_transform_gives_the_pixels_of_gvits(preprocessing):
    image = Image.effect_noise((90, 61), 60).convert("RGB")
    model = gvit.create_model("gvit_tiny", img_size=preprocessing.img_size)
    model.card = gvit.models.card.ModelCard("gvit_tiny", preprocessing)
    config = resolve_data_config({}, model=model)
    assert config["mean"] == (0, 0, 0)
    assert config["std"] == (1, 1, 1)
    torch.testing.assert_close(
        create_transform(**config)(image), eval_transform(preprocessing)(image), rtol=0, atol=1e-6
    )


def test_models_of_gvit_carry_their_input_for_timm():
    for model in (gvit.load_model("digits"), gvit.create_model("vit_tiny_patch8")):
        assert resolve_data_config({}, model=model)["input_size"] == (3, 32, 32)
        assert model.default_cfg["mean"] == (0, 0, 0)


@pytest.mark.parametrize("name", ["gvit_tiny", "gvit_tiny_denoising"])
def test_features_are_the_classifiers_tokens(name):
    images = torch.rand(2, 3, 32, 32)
    model = timm.create_model(name, num_gaussians=32, num_classes=3).eval()
    last, features = model.forward_intermediates(images, indices=[0, 2], norm=True)
    assert torch.equal(last, model.forward_features(images))
    assert torch.equal(features[1], last[:, 1:])
    wrapped = timm.create_model(name, num_gaussians=32, features_only=True, out_indices=(0, 1)).eval()
    assert len(wrapped.model.classifier.blocks) == 2
    assert [tuple(f.shape) for f in wrapped(images)] == [(2, 32, 96)] * 2
    assert wrapped.feature_info.channels() == [96, 96]
    assert wrapped.feature_info.module_name() == ["classifier.blocks.0", "classifier.blocks.1"]
    pairs = model.forward_intermediates(images, 1, return_prefix_tokens=True, intermediates_only=True)
    assert [tuple(part.shape) for part in pairs[0]] == [(2, 32, 96), (2, 1, 96)]
    with pytest.raises(InputError, match="lie on no grid"):
        model.forward_intermediates(images, output_fmt="NCHW")
    patches = gvit.create_model("vit_tiny_patch8").eval()
    assert patches.forward_intermediates(images, 1, intermediates_only=True)[0].shape == (2, 96, 4, 4)
    (tokens,) = patches.get_intermediate_layers(images, n=1, norm=True)
    assert torch.equal(tokens, patches.forward_intermediates(images, 1, norm=True, output_fmt="NLC")[1][0])


def test_features_of_gaussians_are_computed_again_rather_than_kept():
    images, kept = torch.rand(2, 3, 32, 32), []
    model = small(depth=4)
    gradients = []
    for again in (False, True):
        model.classifier.set_grad_checkpointing(again)
        numbers = []

        def keep(tensor, numbers=numbers):
            numbers.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            last, _ = model.forward_intermediates(images, 2)
        kept.append(sum(numbers))
        gradients.append(torch.autograd.grad(last.sum(), model.classifier.blocks[0].attn.qkv.weight)[0])
    assert kept[1] < 0.6 * kept[0]
    assert torch.equal(*gradients)


def test_no_size_is_set_afterwards():
    for model in (gvit.create_model("vit_tiny_patch8"), small().classifier):
        with pytest.raises(InputError, match="px for good; create the model with another img_size"):
            model.set_input_size((64, 64))


def test_a_training_as_timms_script_does_it(tmp_path):
    """``create_optimizer_v2`` with layer decay, Mixup, EMA, gradient checkpointing, saver and loader of checkpoints."""
    model = small(drop_path_rate=0.1)
    model.set_grad_checkpointing()
    # a fresh encoder's last layer is zero, and lets no gradient through
    torch.nn.init.normal_(model.encoder.head[-1].weight, std=0.02)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-2, weight_decay=0.05, layer_decay=0.7)
    assert len({group["lr_scale"] for group in optimizer.param_groups}) == 4  # stem, two blocks, head
    ema = ModelEmaV3(model, decay=0.5)
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=3)
    saver = CheckpointSaver(
        model, optimizer, model_ema=ema, checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path)
    )
    images, labels = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    before = model.encoder.blocks[0].attn.qkv.weight.clone()
    for epoch in range(2):
        mixed, targets = mixup(images, labels)
        loss = SoftTargetCrossEntropy()(model.train()(mixed), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(model)
        saver.save_checkpoint(epoch, metric=float(epoch))
    # the classification loss alone has reached the encoder
    assert not torch.equal(model.encoder.blocks[0].attn.qkv.weight, before)
    other = small()
    load_checkpoint(other, str(tmp_path / "model_best.pth.tar"), use_ema=True)
    assert torch.equal(other.eval()(images), ema.module.eval()(images))
    assert resume_checkpoint(other, str(tmp_path / "last.pth.tar")) == 2
    assert torch.equal(other(images), model.eval()(images))


def test_whoever_imports_timm_later_or_has_done_so_finds_the_models(tmp_path, monkeypatch):
    entered = []
    monkeypatch.setattr("gvit.models.in_timm.add_named", lambda: entered.append(sys.modules["timm"]))
    watch()  # timm is there
    assert entered == [timm]
    # and now it isn't yet
    (tmp_path / "timm.py").write_text("complete = True")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    watch()
    assert len(entered) == 1
    for _ in range(2):  # whether it is there, others ask before they import it
        assert importlib.util.find_spec("timm").origin == str(tmp_path / "timm.py")
    later = importlib.import_module("timm")
    assert later.complete
    assert entered[1:] == [later]


def test_a_script_that_knows_timm_alone_finds_the_models(tmp_path):
    """In a fresh process, as ``train.py`` is run."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, timm\nif __name__ == '__main__':\n"
        "    print(sys.argv[1:]); print(*timm.list_models('gvit*')); print(*timm.list_pretrained('gvit_tiny.*'))"
    )
    command = [sys.executable, "-m", "gvit.models.in_timm", str(script), "--flag", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    given, names, tags = done.stdout.splitlines()
    assert given == "['--flag', '1']"
    assert names.split() == sorted(name for name, named in NAMED.items() if named.encoder)
    assert tags.split() == gvit.list_models("gvit_tiny.*", pretrained=True)
