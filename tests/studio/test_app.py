"""The routes, as the page and as everybody else meets them."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

import gvit
from gvit.analysis.explanation import attribute
from gvit.gaussians.storage import read_size
from gvit.studio.app import create_app
from gvit.studio.guard import MAX_BODY
from gvit.studio.wire import encode

PORT = 8765
MESSAGE = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def client(benches):
    with TestClient(
        create_app(benches, PORT), f"http://127.0.0.1:{PORT}", raise_server_exceptions=False
    ) as client:
        yield client


@pytest.fixture(scope="module")
def model():
    return gvit.load_model("digits")


@pytest.fixture(scope="module")
def scan(client) -> bytes:
    return client.get("/api/example", params={"model": "gvit_tiny.digits", "name": "digit 3.png"}).content


@pytest.fixture(scope="module")
def gaussians(model, scan):
    with torch.inference_mode():
        return model.encode(gvit.load_images([Image.open(io.BytesIO(scan))], model))


def message(gaussians, raw=None, **header) -> bytes:
    told = {
        "model": "gvit_tiny.digits",
        "scale_factor": gaussians.scale_factor,
        "nominal_count": gaussians.nominal_count,
        "aspect": gaussians.aspect,
        "height": 48,
        "width": 48,
    }
    text = json.dumps(told | header).encode()
    numbers = gaussians.raw[0].numpy().tobytes() if raw is None else raw
    return len(text).to_bytes(4, "little") + text + numbers


def read(content: bytes) -> dict:
    length = int.from_bytes(content[:4], "little")
    header, at = json.loads(content[4 : 4 + length]), 4 + length
    for name, size in header["parts"]:
        kind = np.uint8 if name in ("picture", "seen") else "<f4"
        header[name] = np.frombuffer(content[at : at + size], kind)
        at += size
    assert at == len(content)
    return header


def refused(answer, status=None) -> str:
    """The one line of a refusal."""
    assert 400 <= answer.status_code < 500
    assert status is None or answer.status_code == status
    (line,) = answer.text.splitlines()
    told = json.loads(line)["error"]
    assert told
    assert "Traceback" not in told
    return told


def test_an_image_becomes_the_gaussians_that_python_makes(client, scan, gaussians):
    answer = client.post(
        "/api/open", params={"model": "gvit_tiny.digits", "name": "a.png"}, content=scan, headers=MESSAGE
    )
    opened = read(answer.content)
    np.testing.assert_array_equal(opened["raw"].reshape(-1, 9), gaussians.raw[0])
    assert opened["bounds"] == {"scale_factor": 3.0, "nominal_count": 32, "aspect": 1.0}
    assert opened["psnr"] > 25


def test_numbers_and_looks_are_the_encoders(client, scan, model):
    query = {"model": "gvit_tiny.digits", "name": "a.png", "num_gaussians": "50", "looks": "2"}
    opened = read(client.post("/api/open", params=query, content=scan, headers=MESSAGE).content)
    with torch.inference_mode():
        expected = model.encode(
            gvit.load_images([Image.open(io.BytesIO(scan))], model), num_gaussians=50, looks=2
        )
    np.testing.assert_array_equal(opened["raw"].reshape(-1, 9), expected.raw[0])


def test_a_state_is_drawn_and_classified_as_python_does(client, model, gaussians):
    edits = [{"kind": "paint", "chosen": [4], "color": [1, 0, 0]}]
    view = read(
        client.post(
            "/api/state", content=message(gaussians, edits=edits, off=[0, 7]), headers=MESSAGE
        ).content
    )
    raw = gaussians.raw.clone()
    raw[0, 4] = gaussians.replace(colors=(1.0, 0.0, 0.0)).raw[0, 4]
    off = torch.zeros(32, dtype=torch.bool)
    off[[0, 7]] = True
    with torch.inference_mode():
        shown = gaussians.replace_raw(raw).drop(off)
        torch.testing.assert_close(
            torch.tensor(view["logits"]), model.classify(shown)[0], atol=1e-6, rtol=1e-6
        )
        picture = (gvit.render(shown, 48, 48)[0].clamp(0, 1) * 255).round().byte()
    # what is switched off keeps its numbers
    np.testing.assert_array_equal(view["raw"].reshape(-1, 9), raw[0])
    np.testing.assert_array_equal(view["picture"].reshape(48, 48, 4)[..., :3], picture.permute(1, 2, 0))


def test_scores_are_those_of_the_library(client, model, gaussians):
    for method, target in (("det", None), ("occlusion", 5)):
        asked = message(gaussians, method=method, target=target)
        scores = read(client.post("/api/scores", content=asked, headers=MESSAGE).content)["scores"]
        np.testing.assert_allclose(
            scores, attribute(model, gaussians, method, target)[0], rtol=1e-5, atol=1e-6
        )


def test_what_was_saved_opens_again(client, gaussians, tmp_path):
    files = {
        suffix: client.post(
            "/api/save", params={"format": suffix}, content=message(gaussians, off=[1]), headers=MESSAGE
        )
        for suffix in ("safetensors", "png", "svg")
    }
    saved = tmp_path / "a.safetensors"
    saved.write_bytes(files["safetensors"].content)
    off = torch.arange(32) == 1
    assert torch.equal(gvit.Gaussians.load(saved).raw, gaussians[0].drop(off).raw)
    assert Image.open(io.BytesIO(files["png"].content)).size == (48, 48)
    assert files["svg"].text.count("<circle") == 31
    query = {"model": "gvit_tiny.digits", "name": "a.safetensors"}
    opened = read(client.post("/api/open", params=query, content=saved.read_bytes(), headers=MESSAGE).content)
    np.testing.assert_array_equal(opened["raw"].reshape(-1, 9), gaussians[0].drop(off).raw)
    assert opened["size"] == [48, 48]


def test_saved_gaussians_keep_the_size_of_their_image(client, gaussians, tmp_path):
    file = tmp_path / "large.safetensors"
    gaussians[0].save(file, size=(2000, 3000))
    query = {"model": "gvit_tiny.digits", "name": file.name}
    opened = read(client.post("/api/open", params=query, content=file.read_bytes(), headers=MESSAGE).content)
    assert opened["size"] == [2000, 3000]
    saved = client.post(
        "/api/save",
        params={"format": "safetensors"},
        content=message(gaussians, image_height=2000, image_width=3000),
        headers=MESSAGE,
    )
    file.write_bytes(saved.content)
    assert read_size(file) == (2000, 3000)


def test_a_size_that_no_image_has_is_not_believed(client, gaussians, tmp_path):
    file = tmp_path / "large.safetensors"
    gaussians[0].save(file, size=(10**30, 1))
    query = {"model": "gvit_tiny.digits", "name": file.name}
    opened = read(client.post("/api/open", params=query, content=file.read_bytes(), headers=MESSAGE).content)
    assert opened["size"] == [512, 512]


def test_a_selection_is_read_as_in_python(client, model, gaussians, tmp_path):
    file = tmp_path / "some.safetensors"
    gaussians[0][[9, 30, 4, 11]].save(file)
    query = {"model": "gvit_tiny.digits", "name": file.name}
    opened = read(client.post("/api/open", params=query, content=file.read_bytes(), headers=MESSAGE).content)
    assert opened["bounds"]["nominal_count"] == 32
    state = message(gaussians, opened["raw"].tobytes())
    view = read(client.post("/api/state", content=state, headers=MESSAGE).content)
    with torch.inference_mode():
        expected = model.classify(gvit.Gaussians.load(file)[None])[0]
    torch.testing.assert_close(torch.tensor(view["logits"]), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("slots", "count", "told"),
    [
        ([0, 2**40], 32, "holds some of 1,099,511,627,777 Gaussians"),
        ([0, 1], 10**6, "holds some of 1,000,000 Gaussians"),
        ([3, 3], 32, "slot 3 is taken twice"),
        ([0, -1], 32, "there is no slot -1"),
    ],
)
def test_selections_of_what_cannot_be_are_refused(client, gaussians, tmp_path, slots, count, told):
    file = tmp_path / "some.safetensors"
    gvit.Gaussians(gaussians.raw[0, :2], 3.0, count, slots=torch.tensor(slots)).save(file)
    query = {"model": "gvit_tiny.digits", "name": file.name}
    answer = client.post("/api/open", params=query, content=file.read_bytes(), headers=MESSAGE)
    assert f"some.safetensors: {told}" in refused(answer, 422)


def test_an_encoder_alone_draws_and_does_not_predict(client):
    told = client.get("/api/model", params={"name": "gvit_tiny.photos"}).json()
    assert told["classes"] == []
    assert "det" in {method["name"] for method in told["methods"]}
    assert "cdam" not in {method["name"] for method in told["methods"]}
    raw = torch.zeros(3, 9).numpy().tobytes()
    drawn = message(gvit.Gaussians(torch.zeros(1, 3, 9)), raw, model="gvit_tiny.photos")
    assert read(client.post("/api/state", content=drawn, headers=MESSAGE).content)["logits"] is None


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:80", f"127.0.0.1.evil.example:{PORT}", ""]
)
def test_other_hosts_are_refused(client, host):
    refused(client.get("/", headers={"host": host}), 403)


def test_its_own_names_are_answered(client):
    for host in (f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"LOCALHOST:{PORT}"):
        assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": f"http://127.0.0.1:{PORT}"},
    ],
)
def test_posts_from_other_pages_are_refused(client, gaussians, headers):
    answer = client.post("/api/state", content=message(gaussians), headers=MESSAGE | headers)
    refused(answer, 403)
    asked = client.options("/api/state", headers=headers | {"access-control-request-method": "POST"})
    assert not [name for name in (*answer.headers, *asked.headers) if name.startswith("access-control")]
    own = {"origin": f"http://127.0.0.1:{PORT}", "sec-fetch-site": "same-origin"}
    assert client.post("/api/state", content=message(gaussians), headers=MESSAGE | own).status_code == 200


def test_a_form_cannot_post(client, gaussians):
    for kind in ("text/plain", "multipart/form-data; boundary=a", ""):
        refused(client.post("/api/state", content=message(gaussians), headers={"content-type": kind}), 415)


@pytest.mark.parametrize("place", ["/", "/api/models", "/static/main.js", "/nowhere", "/api/model?name=none"])
def test_every_answer_has_the_headers_for_security(client, place):
    headers = client.get(place).headers
    policy = dict(part.split(maxsplit=1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def malformed(gaussians):
    raw = gaussians.raw[0].numpy().copy()
    raw[0, 0] = np.nan
    yield "nothing", b""
    yield "three bytes", b"\1\0\0"
    yield "a header longer than the message", b"\xff\xff\xff\xff{}"
    yield "no JSON", b"\2\0\0\0{]"
    yield "JSON that nests", (20000).to_bytes(4, "little") + b"[" * 20000
    yield "a list", b"\2\0\0\0[]"
    yield "no Gaussians", message(gaussians, b"")
    yield "numbers cut short", message(gaussians)[:-2]
    yield "too many Gaussians", message(gaussians, bytes(36 * 10_001))
    yield "NaN", message(gaussians, raw.tobytes())
    for name, value in {
        "model": "../../etc/passwd",
        "scale_factor": -1,
        "nominal_count": 0,
        "aspect": 1e9,
        "height": 10**9,
        "width": 1.5,
        "off": [32],
        "edits": [{"kind": "explode", "chosen": [0]}],
        "extra": 1,
    }.items():
        yield f"{name}={value}", message(gaussians, **{name: value})
    yield (
        "an infinite move",
        message(gaussians).replace(
            b'"aspect": 1.0',
            b'"edits": [{"kind": "move", "chosen": [0], "dx": 1e999, "dy": 0}], "aspect": 1.0',
        ),
    )
    yield "a move of none", message(gaussians, edits=[{"kind": "move", "chosen": [99], "dx": 1, "dy": 0}])


def test_malformed_messages_are_refused_in_one_line(client, gaussians):
    for name, content in malformed(gaussians):
        if "header longer" not in name:  # of that, the length is all that is wrong
            content = _with_length(content, gaussians)
        for route in ("state", "save?format=png"):
            answer = client.post(f"/api/{route}", content=content, headers=MESSAGE)
            assert refused(answer, 422), name


def _with_length(content, gaussians):
    """The length of a header whose text was changed afterwards."""
    end = content.find(b"}" + gaussians.raw[0].numpy().tobytes())
    return content if end < 0 else (end - 3).to_bytes(4, "little") + content[4:]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"method": "guess"}, "unknown method 'guess'"),
        ({"method": "cdam", "target": 10}, "10"),
        ({}, "method"),
    ],
)
def test_scores_that_there_are_not(client, gaussians, change, told):
    answer = client.post("/api/scores", content=message(gaussians, **change), headers=MESSAGE)
    assert told in refused(answer, 422)


@pytest.mark.parametrize(("method", "most"), [("shap", "256"), ("occlusion", "1,448")])
def test_scores_that_would_take_too_long_are_refused(client, gaussians, method, most):
    asked = message(gaussians, np.zeros((1500, 9), "<f4").tobytes(), method=method)
    told = refused(client.post("/api/scores", content=asked, headers=MESSAGE), 422)
    assert f"{method} of 1,500 Gaussians takes too long: here, it scores at most {most}" in told


def test_scores_of_all_that_the_page_makes_are_not_refused(benches):
    for name in benches.names:
        bench = benches[name]
        assert all(bench.most_scored(method) >= bench.most_gaussians for method in bench.methods)


def png(width, height) -> bytes:
    """A header that claims a size, and no pixels."""
    content = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT", b"IEND"):
        content += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content


@pytest.mark.parametrize(
    ("query", "content", "told"),
    [
        ({}, b"", "it is empty"),
        ({}, b"plain text", "not an image file"),
        ({}, png(60000, 60000), "pixels"),
        ({}, png(60, 60), "cannot be read"),
        ({"name": "a.safetensors"}, b"plain text", "a.safetensors: not a file of Gaussians"),
        ({"num_gaussians": "many"}, png(6, 6), "num_gaussians must be a whole number"),
        ({"num_gaussians": "999999999"}, png(6, 6), "num_gaussians must be at most"),
        ({"looks": "0"}, png(6, 6), "looks must be at least 1"),
        ({"model": "none"}, png(6, 6), "unknown model 'none'"),
    ],
    ids=[
        "empty",
        "text",
        "bomb",
        "no pixels",
        "no Gaussians",
        "no number",
        "too many",
        "no looks",
        "no model",
    ],
)
def test_files_that_cannot_be_opened(client, query, content, told):
    query = {"model": "gvit_tiny.digits", "name": "a.png"} | query
    assert told in refused(client.post("/api/open", params=query, content=content, headers=MESSAGE), 422)


def test_other_places_and_ways_are_refused(client):
    for place in (
        "/nowhere",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/api/example?model=gvit_tiny.digits&name=x",
    ):
        refused(client.get(place), 404)
    refused(client.get("/api/state"), 405)
    refused(client.put("/", content=b""), 405)
    refused(
        client.post("/api/open", content=b"", headers=MESSAGE | {"content-length": str(MAX_BODY + 1)}), 413
    )


def test_numbers_on_the_wire_begin_where_the_browser_can_read_them():
    for name in ("a", "ab", "abc", "abcd"):
        content = encode({"name": name}, raw=torch.ones(2))
        assert (4 + int.from_bytes(content[:4], "little")) % 4 == 0
        np.testing.assert_array_equal(read(content)["raw"], [1, 1])
