"""The routes. The server keeps nothing: what is on the page lies in the browser, and comes with each request."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from torch import Tensor

from gvit.errors import InputError, first_line
from gvit.gaussians import Gaussians
from gvit.studio import wire
from gvit.studio.bench import Benches, example
from gvit.studio.guard import Guard
from gvit.viewing.ellipses import find_ellipses
from gvit.viewing.figures import save_picture
from gvit.viewing.svg import to_svg

STATIC = Path(__file__).with_name("static")
_MESSAGE = "application/octet-stream"  # which no form can send


def create_app(benches: Benches, port: int) -> Guard:
    """The studio as an ASGI application.

    Args:
        benches: the models.
        port: that it will be reached at; requests for any other are refused.
    """
    routes = _Routes(benches)
    app = Starlette(
        routes=[
            Route("/", routes.page),
            Route("/api/models", routes.models),
            Route("/api/model", routes.model),
            Route("/api/example", routes.example),
            Route("/api/open", routes.open, methods=["POST"]),
            Route("/api/state", routes.state, methods=["POST"]),
            Route("/api/scores", routes.scores, methods=["POST"]),
            Route("/api/save", routes.save, methods=["POST"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers={HTTPException: _refuse, InputError: _explain, Exception: _fail},
    )
    return Guard(app, port)


class _Routes:
    def __init__(self, benches: Benches) -> None:
        self.benches = benches

    async def page(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def models(self, request: Request) -> Response:
        return JSONResponse({"models": self.benches.names})

    async def model(self, request: Request) -> Response:
        bench = await run_in_threadpool(self.benches.__getitem__, request.query_params.get("name", ""))
        return JSONResponse(await run_in_threadpool(bench.describe))

    async def example(self, request: Request) -> Response:
        def read() -> bytes:
            bench = self.benches[request.query_params.get("model", "")]
            try:
                return example(bench, request.query_params.get("name", ""))
            except KeyError:
                raise HTTPException(404, "there is no such example") from None

        return Response(await run_in_threadpool(read), media_type="image/png")

    async def open(self, request: Request) -> Response:
        """An image file becomes Gaussians."""
        content = await _body(request)
        query = request.query_params
        numbers = {name: _whole_number(name, query.get(name)) for name in ("num_gaussians", "looks")}

        def work() -> bytes:
            begun = time.perf_counter()
            bench = self.benches[query.get("model", "")]
            opened = bench.open(query.get("name", "image"), content, **numbers)
            gaussians, (height, width) = opened.gaussians, opened.size
            parts = {"raw": gaussians.raw}
            if opened.seen is not None:
                parts["seen"] = _rgba(opened.seen)
            header = {
                "bounds": {
                    name: getattr(gaussians, name) for name in ("scale_factor", "nominal_count", "aspect")
                },
                "size": [height, width],
                "seen_size": None if opened.seen is None else list(opened.seen.shape[-2:]),
                "psnr": opened.psnr,
                "seconds": time.perf_counter() - begun,
            }
            return wire.encode(header, **parts)

        return await _answer(work)

    async def state(self, request: Request) -> Response:
        """Gaussians, after edits, as picture, ellipses and prediction."""
        content = await _body(request)

        def work() -> bytes:
            begun = time.perf_counter()
            state, gaussians = wire.decode(content, wire.State)
            bench, shown = self.benches[state.model], _switched_off(state, gaussians)
            logits = bench.classify(shown)
            ellipses = find_ellipses(gaussians, state.height, state.width)
            columns = [
                column if column.ndim == 2 else column[:, None]
                for column in (ellipses.centers, ellipses.scales, ellipses.angles, *ellipses[3:])
            ]
            parts = {
                "raw": gaussians.raw,
                "ellipses": torch.cat(columns, -1).float(),
                "picture": _rgba(bench.draw(shown, state.height, state.width)),
            }
            header = {
                "logits": None if logits is None else logits.tolist(),
                "probabilities": None if logits is None else logits.softmax(-1).tolist(),
                "seconds": time.perf_counter() - begun,
            }
            return wire.encode(header, **parts)

        return await _answer(work)

    async def scores(self, request: Request) -> Response:
        """One number for each Gaussian; those that are switched off are explained as not drawn."""
        content = await _body(request)

        def work() -> bytes:
            begun = time.perf_counter()
            state, gaussians = wire.decode(content, wire.Scoring)
            bench, shown = self.benches[state.model], _switched_off(state, gaussians)
            scores = bench.score(shown, state.method, state.target)
            return wire.encode({"seconds": time.perf_counter() - begun}, scores=scores)

        return await _answer(work)

    async def save(self, request: Request) -> Response:
        """The state as a file: safetensors, png or svg."""
        content, suffix = await _body(request), request.query_params.get("format", "")
        if suffix not in ("safetensors", "png", "svg"):
            raise InputError(f"format must be safetensors, png or svg, got {suffix!r}")

        def work() -> bytes:
            state, gaussians = wire.decode(content, wire.State)
            shown, size = _switched_off(state, gaussians), (state.height, state.width)
            if suffix == "svg":
                return to_svg(shown, *size).encode()
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / f"studio.{suffix}"
                if suffix == "png":
                    save_picture(self.benches[state.model].draw(shown, *size), file)
                else:
                    shown.save(
                        file, size=(state.image_height or state.height, state.image_width or state.width)
                    )
                return file.read_bytes()

        return await _answer(work)


def _switched_off(state: wire.State, gaussians: Gaussians) -> Gaussians:
    return gaussians.drop(wire.mask(state.off, len(gaussians)))


def _rgba(picture: Tensor) -> Tensor:
    """[3, H, W] in [0, 1] as bytes [H, W, 4], rounded as ``save_picture`` does."""
    pixels = (picture.clamp(0, 1) * 255).round().byte()
    opaque = pixels.new_full((*pixels.shape[1:], 4), 255)
    opaque[..., :3] = pixels.permute(1, 2, 0)
    return opaque


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != _MESSAGE:  # others could be sent by a form of any page
        raise HTTPException(415, f"Content-Type must be {_MESSAGE}")
    return await request.body()


async def _answer(work: Callable[[], bytes]) -> Response:
    return Response(await run_in_threadpool(work), media_type=_MESSAGE)


def _whole_number(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isdecimal() and text.isascii() and len(text) < 10):
        raise InputError(f"{name} must be a whole number, got {text[:20]!r}")
    return int(text)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _explain(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422)


async def _fail(request: Request, error: Exception) -> Response:
    """What nobody foresaw; the traceback is for the terminal."""
    return JSONResponse({"error": f"the server failed: {first_line(error)}"}, 500)
