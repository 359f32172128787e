"""Quantised Gaussians: how far they are from what they were, their bytes, and bytes that are none of theirs."""

import math
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch

from gvit.cli import main
from gvit.data.collections import find_kept
from gvit.errors import InputError
from gvit.gaussians import FIELDS, Gaussians
from gvit.gaussians.quantisation import BitDepths
from gvit.gaussians.shards import to_half
from gvit.gaussians.storage import read_depths, read_size

DEPTHS = BitDepths(centers=11, scales=5, angles=6, colors=7, opacities=3)


def some(count: int = 300, aspect: float = 0.75) -> Gaussians:
    raw = 2 * torch.randn(count, 9, generator=torch.Generator().manual_seed(count))
    raw[:, 4] *= 3  # angles of several turns
    return Gaussians(raw, scale_factor=3.0, nominal_count=400, aspect=aspect)


@pytest.mark.parametrize("aspect", [0.75, 2.0])
def test_no_value_is_further_away_than_half_a_step(aspect):
    before = some(aspect=aspect)
    after = before.quantised(DEPTHS)
    extent = torch.tensor(before.extent)

    def uneven(gaussians: Gaussians) -> torch.Tensor:  # what is in equal steps, see the module
        scales = (gaussians.scales / gaussians.spacing + 0.05).log()
        return torch.cat((gaussians.centers / extent, scales, gaussians.colors), -1)

    span = uneven(before)[:, 2:4].max() - uneven(before)[:, 2:4].min()
    half = torch.tensor([1 / 2047] * 2 + [span / 31 / 2] * 2 + [1 / 127 / 2] * 3)
    off = (uneven(after) - uneven(before)).abs()
    assert (off <= 1.001 * half + 2e-6).all()
    assert (off.amax(0) > 0.9 * half).all()  # and nearly so far somewhere: the bits are used
    assert ((after.opacities - before.opacities).abs() <= 1.001 / 7 / 2).all()
    turned = torch.remainder(after.angles - before.angles + math.pi / 2, math.pi) - math.pi / 2
    assert (turned.abs() <= 1.001 * math.pi / 64 / 2).all()
    again = after.quantised(DEPTHS)
    torch.testing.assert_close(again.colors, after.colors)
    torch.testing.assert_close(again.scales, after.scales)
    torch.testing.assert_close(again.centers, after.centers)


def test_each_image_of_a_batch_is_quantised_as_if_it_were_alone():
    one, other = some(50), some(50)
    other = other.replace_raw(other.raw / 3)
    both = one.replace_raw(torch.stack((one.raw, other.raw))).quantised(4)
    torch.testing.assert_close(both.raw[0], one.quantised(4).raw)
    torch.testing.assert_close(both.raw[1], other.quantised(4).raw)


def test_numpys_bits_are_bits(unchecked):
    assert torch.equal(some(9).quantised(np.uint8(8)).raw, some(9).quantised(8).raw)


def test_what_is_no_number_is_not_made_one():
    gaussians = some(4)
    for column in range(9):
        raw = gaussians.raw.clone()
        raw[2, column] = math.nan
        found = gaussians.replace_raw(raw).quantised(6).raw
        assert found[2, column].isnan()
        assert found.isnan().sum() == 1
    # in a batch, with an image that has no number at all
    raw = torch.stack((gaussians.raw, torch.full_like(gaussians.raw, math.nan)))
    one, none = gaussians.replace_raw(raw).quantised(6).raw
    assert torch.equal(one, gaussians.quantised(6).raw)
    assert none.isnan().all()


@pytest.mark.parametrize("count", [0, 1, 9, 3000])  # kept as bits, and by LZMA
@pytest.mark.parametrize("bits", [2, 6, 12])
def test_bytes_give_back_what_was_quantised_in_its_order(count, bits):
    gaussians = some(count)
    content = gaussians.to_bytes(bits)
    assert content == gaussians.to_bytes(bits)
    found = Gaussians.from_bytes(content)
    expected = gaussians.quantised(bits)
    assert torch.equal(found.raw, expected.raw)
    for name in ("scale_factor", "nominal_count", "aspect"):
        assert getattr(found, name) == getattr(gaussians, name)
    # never longer than the bare numbers
    assert len(content) <= 46 + 2 + count * sum(BitDepths.of(bits, 400)) / 8


def test_what_is_unpacked_depends_on_no_default():
    content = some(9).to_bytes(6)
    expected = Gaussians.from_bytes(content).raw
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = Gaussians.from_bytes(content).raw
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_numbers_beyond_sixteen_bits_become_the_largest():
    gaussians = Gaussians(torch.tensor([[1e5, -1e5, *[0.0] * 7]]))
    half = to_half(gaussians)
    assert half.raw[0, :2].tolist() == [65504, -65504]
    assert torch.equal(half.centers, gaussians.centers.half())


def test_alike_numbers_take_fewer_bytes():
    gaussians = some(3000)
    raw = gaussians.raw.clone()
    raw[:, 6:8] = raw[:, 5:6]  # grey
    assert len(gaussians.replace_raw(raw).to_bytes(6)) < 0.85 * len(gaussians.to_bytes(6))


def test_a_file_is_as_large_as_told_and_is_read_like_any_other(tmp_path):
    gaussians = some(2000)
    gaussians.save(tmp_path / "a.safetensors", size=(48, 64), bits=5)
    gaussians.save(tmp_path / "whole.safetensors", size=(48, 64))
    size = (tmp_path / "a.safetensors").stat().st_size
    assert size < len(gaussians.to_bytes(5)) + 200
    assert size < 0.2 * (tmp_path / "whole.safetensors").stat().st_size
    (kept,) = find_kept([tmp_path / "a.safetensors"])
    assert torch.equal(kept.gaussians.raw, gaussians.quantised(5).raw)
    assert kept.size == read_size(tmp_path / "a.safetensors") == (48, 64)
    assert read_depths(tmp_path / "a.safetensors") == BitDepths.of(5, 400)
    assert read_depths(tmp_path / "whole.safetensors") is None
    assert main(["render", str(tmp_path / "a.safetensors"), "--out", str(tmp_path / "drawn")]) == 0
    assert (tmp_path / "drawn" / "a.png").exists()


def test_a_damaged_file_is_named(tmp_path, capsys):
    file = tmp_path / "a.safetensors"
    some().save(file, bits=5)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert main(["render", str(file), "--out", str(tmp_path / "drawn")]) == 2
    assert f"{file}: not a file of Gaussians written by gvit (" in capsys.readouterr().err


def test_bytes_that_are_cut_off_or_changed_are_refused():
    content = some(40).to_bytes(4)
    for length in range(len(content)):
        with pytest.raises(InputError, match="quantised"):
            Gaussians.from_bytes(content[:length])
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x40
        with pytest.raises(InputError, match="quantised"):
            Gaussians.from_bytes(bytes(changed))


def signed(content: bytes, offset: int, form: str, value: float) -> bytes:
    """With another number in the header, and the checksum that goes with it."""
    changed = bytearray(content)
    struct.pack_into(form, changed, offset, value)
    struct.pack_into("<I", changed, 42, zlib.crc32(changed[46:], zlib.crc32(changed[:42])))
    return bytes(changed)


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (4, "<B", 0),  # bits
        (5, "<B", 17),
        (9, "<B", 7),  # how they are kept
        (10, "<I", 2**32 - 1),  # K
        (10, "<I", 2**22),
        (10, "<I", 299),
        (14, "<I", 0),  # nominal count
        (18, "<d", math.nan),  # scale factor
        (18, "<d", math.inf),
        (26, "<d", -1.0),  # aspect
        (34, "<f", math.nan),  # range of scales
    ],
)
@pytest.mark.parametrize("count", [9, 300])
def test_a_header_that_lies_is_refused_and_takes_no_memory(count, offset, form, value):
    content = signed(some(count).to_bytes(5), offset, form, value)
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            Gaussians.from_bytes(content)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_numbers_beyond_their_bits_are_refused():
    content = some(300).to_bytes(8)
    with pytest.raises(InputError, match="range"):
        Gaussians.from_bytes(signed(content, 5, "<B", 3))


def test_what_cannot_be_packed_is_refused(unchecked):
    gaussians = some(4)
    batch = gaussians.replace_raw(gaussians.raw.expand(2, 4, 9))
    with pytest.raises(InputError, match="one image"):
        batch.to_bytes(4)
    with pytest.raises(InputError, match="slots"):
        gaussians[torch.tensor([2, 0])].to_bytes(4)
    with pytest.raises(InputError, match="finite"):
        gaussians.replace_raw(gaussians.raw * math.nan).to_bytes(4)
    many = gaussians.replace_raw(gaussians.raw[:1].expand(2**20 + 1, 9))
    with pytest.raises(InputError, match="at most 1,048,576"):
        many.to_bytes(4)
    for bits in (1, 13):
        with pytest.raises(InputError, match=f"bits must be a whole number, 2 to 12, got {bits}"):
            gaussians.quantised(bits)
    for wrong in (17, 5.0):
        with pytest.raises(InputError, match="a whole number of bits, 1 to 16, got"):
            BitDepths(wrong, 5, 5, 5, 5)


def test_depths_follow_from_one_number():
    depths = list(BitDepths.of(6, 10_000))
    assert dict(zip(FIELDS, depths, strict=True)) == {
        **{"x": 12, "y": 12, "s1": 6, "s2": 6, "angle": 7, "r": 6, "g": 6, "b": 6, "opacity": 4}
    }
