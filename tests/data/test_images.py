import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gvit.data.images import EXTENSIONS, UNREAD, find_images, open_image, shown_files, to_rgb
from gvit.data.unread import left_out
from gvit.errors import InputError

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def write(path, image: Image.Image, **kwargs):
    image.save(path, **kwargs)
    return path


def grey_of(path) -> np.ndarray:
    image = open_image(path)
    assert image.mode == "RGB"
    values = np.asarray(image)
    assert (values == values[..., :1]).all()
    return values[..., 0]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_every_mode_gives_the_same_pixels(tmp_path, mode):
    path = write(tmp_path / "a.png", Image.fromarray(GREY).convert(mode))
    np.testing.assert_array_equal(grey_of(path), GREY)


def test_sixteen_bits_are_scaled(tmp_path):
    path = write(tmp_path / "a.png", Image.fromarray(GREY.astype(np.uint16) * 257))
    np.testing.assert_array_equal(grey_of(path), GREY)


def test_sixteen_bits_of_either_byte_order(tmp_path):
    for order in "<>":
        path = tmp_path / "a.tiff"
        mode = "I;16" if order == "<" else "I;16B"
        image = Image.frombytes(mode, (4, 3), (GREY.astype(np.uint16) * 257).astype(f"{order}u2").tobytes())
        np.testing.assert_array_equal(grey_of(write(path, image)), GREY)


def test_cmyk(tmp_path):
    path = write(
        tmp_path / "a.tiff", Image.merge("CMYK", [Image.new("L", (4, 3), v) for v in (255, 0, 0, 51)])
    )
    assert open_image(path).getpixel((0, 0)) == (0, 204, 204)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_the_first_frame_of_an_animation(tmp_path, suffix):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("white", "black", "red")]
    path = write(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    assert open_image(path).getpixel((0, 0)) == (255, 255, 255)


def test_an_image_that_is_no_file_of_its_own_is_named_as_it_is_called(tmp_path):
    path = write(tmp_path / "a.png", Image.fromarray(GREY))
    np.testing.assert_array_equal(np.asarray(open_image("x.tar/1.png", path.read_bytes()))[..., 0], GREY)
    with pytest.raises(InputError, match=r"^x\.tar/1\.png: (not an image|cannot be read)"):
        open_image("x.tar/1.png", b"<html>")


def test_floats_are_scaled(tmp_path):
    path = write(tmp_path / "a.tiff", Image.fromarray((GREY / 255).astype(np.float32)))
    np.testing.assert_array_equal(grey_of(path), GREY)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (GREY.astype(np.float32), "numbers from 0 to 220, which are read from 0 to 1"),
        (np.float32([[0.5, np.nan]]), "numbers from nan to nan, "),
        (np.float32([[-0.5, 1]]), "numbers from -0.5 to 1, "),
        (np.int32([[0, 70_000]]), "numbers from 0 to 70000, which are read from 0 to 65535"),
    ],
)
def test_numbers_of_another_range_are_not_guessed_at(tmp_path, values, found):
    path = write(tmp_path / "a.tiff", Image.fromarray(values))
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: has {re.escape(found)}"):
        open_image(path)
    with pytest.raises(InputError, match=re.escape(found)):
        to_rgb(Image.fromarray(values))


def test_one_bit(tmp_path):
    path = write(tmp_path / "a.png", Image.fromarray(GREY > 100))
    np.testing.assert_array_equal(grey_of(path), (GREY > 100) * 255)


def test_transparency_lies_over_black(tmp_path):
    white = np.full((3, 4, 4), 255, np.uint8)
    white[..., 3] = GREY
    path = write(tmp_path / "a.png", Image.fromarray(white))
    np.testing.assert_array_equal(grey_of(path), GREY)


def test_transparent_palette_entry(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([200, 200, 200, 100, 100, 100])
    path = write(tmp_path / "a.png", image, transparency=0)
    np.testing.assert_array_equal(grey_of(path), [[0, 100]])


def test_a_transparent_value_of_sixteen_bits(tmp_path):
    path = write(tmp_path / "a.png", Image.fromarray(GREY.astype(np.uint16) * 257), transparency=220 * 257)
    np.testing.assert_array_equal(grey_of(path), np.where(GREY == 220, 0, GREY))
    shown = open_image(path, alpha=True)
    assert shown.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(shown)[..., 3], np.where(GREY == 220, 0, 255))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, orientation):
    undo = {1: 0, 2: "H", 3: 180, 4: "V", 5: "T", 6: -90, 7: "X", 8: 90}[orientation]
    stored = {
        0: GREY,
        "H": GREY[:, ::-1],
        180: GREY[::-1, ::-1],
        "V": GREY[::-1],
        "T": GREY.T,
        -90: np.rot90(GREY),
        "X": GREY[::-1, ::-1].T,
        90: np.rot90(GREY, -1),
    }[undo]
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path / "a.png", image, exif=exif)
    np.testing.assert_array_equal(grey_of(path), GREY)


def test_what_is_no_image_says_so(tmp_path):
    text = tmp_path / "text.png"
    text.write_text("not an image")
    with pytest.raises(InputError, match=r"text\.png: not an image file"):
        open_image(text)
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError, match=r"empty\.png: not an image file"):
        open_image(tmp_path / "empty.png")
    with pytest.raises(InputError, match=r"gone\.png: cannot be read .*No such file"):
        open_image(tmp_path / "gone.png")
    (tmp_path / "page.jpg").write_text("\n<!DOCTYPE html><html><body>404</body></html>")
    with pytest.raises(InputError, match=r"page\.jpg: not an image file: it is a web page"):
        open_image(tmp_path / "page.jpg")


def test_the_suffix_does_not_matter(tmp_path):
    path = write(tmp_path / "a.jpg", Image.fromarray(GREY), format="PNG")
    np.testing.assert_array_equal(grey_of(path), GREY)


def test_every_ending_that_is_looked_for_is_read(tmp_path):
    for ending in EXTENSIONS:
        path = write(tmp_path / f"a{ending}", Image.fromarray(GREY).convert("RGB"))
        assert open_image(path).size == (4, 3), ending


def test_a_program_for_ghostscript_is_no_image_whatever_it_is_called(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("it ran"))
    path = write(tmp_path / "a.eps", Image.fromarray(GREY))
    for name in ("a.eps", "a.jpg"):
        with pytest.raises(InputError, match=f"{name}: not an image file"):
            open_image(path.rename(tmp_path / name))
        path = tmp_path / name
    path = write(tmp_path / "a.tga", Image.fromarray(GREY))
    with pytest.raises(
        InputError, match=r"a\.tga: not an image file of a format that is read; convert \.tga to \.png"
    ):
        open_image(path)


@pytest.mark.parametrize("ending", sorted(UNREAD))
def test_a_named_file_of_a_format_that_is_not_read_is_told_to_be_converted(tmp_path, ending):
    path = tmp_path / f"a{ending.upper()}"
    path.write_bytes(b"what no one here reads")
    with pytest.raises(
        InputError, match=rf"not an image file of a format that is read; convert \{ending} to"
    ):
        open_image(path)


@pytest.mark.parametrize("side", [30_000, 10_000])  # Pillow itself only warns of the second
def test_a_header_that_claims_too_many_pixels_is_refused_before_decoding(tmp_path, monkeypatch, side):
    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(
        InputError, match=rf"bomb\.png: claims {side**2:,} pixels, above the limit of 89,478,485 "
    ):
        open_image(bomb)


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")  # who opens it waits for a writer
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "folder.jpg").mkdir()
    told = {"pipe": "not a file", "folder": "not a file", "loop": "Too many levels of symbolic links"}
    for name, reason in told.items():
        with pytest.raises(InputError, match=rf"{name}\.jpg: cannot be read as an image \({reason}\)"):
            open_image(tmp_path / f"{name}.jpg")


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    path = write(tmp_path / "a.png", Image.fromarray(GREY))
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser's rights don't end there

        def refuse(*args, **kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(InputError, match=r"a\.png: cannot be read as an image \(Permission denied\)"):
        open_image(path)


@pytest.mark.parametrize("error", [KeyError("x"), struct.error("unpack"), EOFError(), OverflowError("big")])
def test_whatever_a_decoder_raises_is_one_line(tmp_path, monkeypatch, error):
    path = write(tmp_path / "a.png", Image.fromarray(GREY))

    def fail(self):
        raise error

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(InputError, match=r"a\.png: cannot be read as an image \(.+\)"):
        open_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tiff", "bmp"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_files_say_so_and_nothing_else(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = write(tmp_path / f"cut.{suffix}", Image.fromarray(noise))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=rf"cut\.{suffix}: (cannot be read|not an image)") as caught:
        open_image(path)
    assert "\n" not in str(caught.value)


def test_find_images(tmp_path):
    for name in ("b.png", "a.JPG", "sub/c.webp", "note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = lambda files: [str(file.relative_to(tmp_path)) for file in files]  # noqa: E731
    assert names(find_images([tmp_path])) == ["a.JPG", "b.png", "sub/c.webp"]
    assert names(find_images([tmp_path / "*.png", tmp_path])) == ["b.png", "a.JPG", "sub/c.webp"]
    # what is named is taken at its word, whatever it is called
    assert names(find_images([tmp_path / "note.txt"])) == ["note.txt"]
    # the same twice is one
    assert len(find_images([tmp_path, tmp_path])) == 3


def test_links_to_folders_are_followed_once_and_end_where_they_lead_in_a_circle(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for name in ("cat/a.png", "dog/b.png"):
        (root / name).parent.mkdir(parents=True)
        (root / name).touch()
    for name in ("c.png", "deeper/d.png", "deeper/e.heic", ".hidden/f.png"):
        (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
        (elsewhere / name).touch()
    (root / "owl").symlink_to(elsewhere)
    (root / "cat" / "more").symlink_to(elsewhere / "deeper")
    # what lies in the folder itself is called as it lies there, whatever leads to it as well
    (root / "a_dog").symlink_to("dog")
    (root / "dog" / "root").symlink_to(root)
    (root / "dog" / "above").symlink_to(tmp_path)
    (elsewhere / "back").symlink_to(root / "cat")
    found = [str(file.relative_to(root)) for file in find_images([root])]
    assert found == ["cat/a.png", "dog/b.png", "owl/c.png", "owl/deeper/d.png"]
    assert shown_files(root / "cat") == ["a.png", "more/d.png", "more/e.heic"]
    assert left_out([root]).startswith("1 .heic is left out")


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch, caplog):
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.png").touch()
    scan = os.scandir

    def refusing(place):
        if Path(place).name == "locked":
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", refusing)
    assert find_images([tmp_path]) == [tmp_path / "a.png"]
    assert f"{tmp_path / 'locked'}: cannot be read (Permission denied): left out" in caplog.text
    for search in (lambda: find_images([tmp_path / "locked"]), lambda: shown_files(tmp_path)):
        with pytest.raises(InputError, match=r"locked: cannot be read \(Permission denied\)"):
            search()


def test_find_images_names_what_has_none(tmp_path):
    with pytest.raises(InputError, match="no images in this folder"):
        find_images([tmp_path])
    with pytest.raises(InputError, match="no such file, folder or pattern"):
        find_images([tmp_path / "*.png"])
    with pytest.raises(InputError, match="no such file, folder or pattern"):
        find_images([tmp_path / ("x" * 300)])


def test_bytes_are_read_as_a_file_of_that_name_is(tmp_path):
    path = write(tmp_path / "a.png", Image.fromarray(GREY))
    assert open_image("row 7", path.read_bytes()) == open_image(path)
    with pytest.raises(InputError, match=r"^row 7: not an image file: it is a web page$"):
        open_image("row 7", b"<html></html>")


def test_hidden_files_are_not_looked_at(tmp_path):
    for name in ("a.png", "._a.png", ".hidden.png"):
        (tmp_path / name).touch()
    for folder in (".thumbnails", "__MACOSX", "b/.ipynb_checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "c.png").touch()
    assert [file.name for file in find_images([tmp_path])] == ["a.png"]
    hidden = tmp_path / ".thumbnails"  # where it is named, it is looked at
    assert find_images([hidden]) == [hidden / "c.png"]


def test_a_file_that_asks_for_gigabytes_is_damaged_and_a_large_image_is_not(tmp_path, monkeypatch):
    """Pillow sets memory aside for as much as a damaged chunk says that it holds."""
    path = tmp_path / "image.png"
    Image.new("RGB", (4, 3)).save(path)

    def no_memory(self):
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_end", no_memory)
    with pytest.raises(
        InputError, match=r"image\.png: cannot be read as an image \(a length in it is damaged\)"
    ):
        open_image(path)
    monkeypatch.setattr("gvit.data.images._SMALL", 12)
    with pytest.raises(MemoryError):
        open_image(path)
