"""The Triton kernels of the CUDA backend; also run on a CPU by Triton's interpreter (TRITON_INTERPRET=1).

Along a row of pixels a Gaussian is one parabola in the exponent: with ``u = x - cx - slope*dy``,
``log2(alpha) = log2(opacity) - fall_y*dy^2 - fall*u^2``. ``params`` holds, per Gaussian, cx, cy, the slope in
two parts (float32 number and remainder), fall_y, fall and log2(opacity).

An entry is a Gaussian in a tile that it meets. Entries are numbered by image, tile, then index of the
Gaussian; ``ends`` has the number after a tile's last entry.
"""

from typing import no_type_check

import triton
import triton.language as tl

TILE = 16
NUM_PARAMS = 7
NUM_MOMENTS = 6


@triton.jit
@no_type_check
def _loss(dx, dy, slope, fall_y, fall):
    u = dx - slope * dy
    return fall_y * dy * dy + fall * u * u


@triton.jit
@no_type_check
def find_entries(params, met, count, tiles_x, low, TILE: tl.constexpr, BLOCK: tl.constexpr):
    """Whether a Gaussian's ellipse ``alpha >= alpha_min`` meets a tile: the least loss there is small."""
    tile, image = tl.program_id(0), tl.program_id(1)
    k = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = k < count
    own = params + (image * count + k) * 7
    cx, cy = tl.load(own, inside, 0.0), tl.load(own + 1, inside, 0.0)
    slope = tl.load(own + 2, inside, 0.0)
    fall_y, fall = tl.load(own + 4, inside, 1.0), tl.load(own + 5, inside, 1.0)
    top = tl.load(own + 6, inside, -1e30)
    # the outermost pixel centres of the tile, seen from the Gaussian
    x0 = (tile % tiles_x) * TILE + 0.5 - cx
    y0 = (tile // tiles_x) * TILE + 0.5 - cy
    x1, y1 = x0 + (TILE - 1), y0 + (TILE - 1)
    centred = (x0 <= 0) & (x1 >= 0) & (y0 <= 0) & (y1 >= 0)
    tilt = fall * slope / (fall_y + fall * slope * slope)
    least = tl.minimum(
        tl.minimum(
            _loss(x0, tl.minimum(tl.maximum(tilt * x0, y0), y1), slope, fall_y, fall),
            _loss(x1, tl.minimum(tl.maximum(tilt * x1, y0), y1), slope, fall_y, fall),
        ),
        tl.minimum(
            _loss(tl.minimum(tl.maximum(slope * y0, x0), x1), y0, slope, fall_y, fall),
            _loss(tl.minimum(tl.maximum(slope * y1, x0), x1), y1, slope, fall_y, fall),
        ),
    )
    # a little more than exact: each pixel is tested again
    met_here = (centred | (least * 0.999 <= top - low + 1e-3)) & (top >= low)
    at = (image * tl.num_programs(0) + tile).to(tl.int64) * count + k
    tl.store(met + at, met_here.to(tl.int8), inside)


@triton.jit
@no_type_check
def _alpha(own, x, y, stops, k, alpha_max, alpha_min):
    """u, dy, alpha before the bounds, and as drawn."""
    dy = y - tl.load(own + 1)
    u = tl.fma(-tl.load(own + 2), dy, x - tl.load(own)) - tl.load(own + 3) * dy
    free = tl.exp2(tl.load(own + 6) - tl.load(own + 4) * dy * dy - tl.load(own + 5) * u * u)
    drawn = (free >= alpha_min) & (stops > k)
    return u, dy, free, tl.where(drawn, tl.minimum(free, alpha_max), 0.0)


@triton.jit
@no_type_check
def forward(
    params,
    colors,
    background,
    entries,
    ends,
    image_out,
    alpha_out,
    transmittance_out,
    stops_out,
    count,
    height,
    width,
    tiles_x,
    alpha_max,
    alpha_min,
    minimum,
    TILE: tl.constexpr,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
):
    """Draw one tile of one image."""
    tile, image = tl.program_id(0), tl.program_id(1)
    pixel = tl.arange(0, TILE * TILE)
    column = (tile % tiles_x) * TILE + pixel % TILE
    row = (tile // tiles_x) * TILE + pixel // TILE
    inside = (column < width) & (row < height)
    x, y = column + 0.5, row + 0.5
    channel = tl.arange(0, PADDED)
    real = channel < CHANNELS

    number = image * tl.num_programs(0) + tile
    end = tl.load(ends + number)
    entry = tl.load(ends + number - 1, number > 0, 0)
    transmittance = tl.full([TILE * TILE], 1.0, tl.float32)
    # a pixel off the image has stopped before the first Gaussian
    stops = tl.where(inside, count, -1)
    drawn = tl.zeros([TILE * TILE, PADDED], tl.float32)
    open_pixels = tl.max(stops) >= count
    while (entry < end) & open_pixels:
        k = tl.load(entries + entry)
        own = params + (image * count + k) * 7
        _, _, _, alpha = _alpha(own, x, y, stops, k, alpha_max, alpha_min)
        weight = transmittance * alpha
        after = transmittance - weight
        halt = after <= minimum
        stops = tl.where(halt & (stops > k), k, stops)
        weight = tl.where(halt, 0.0, weight)
        transmittance = tl.where(halt, transmittance, after)
        color = tl.load(colors + (image * count + k) * CHANNELS + channel, real, 0.0)
        drawn += weight[:, None] * color[None, :]
        open_pixels = tl.max(stops) >= count
        entry += 1

    behind = tl.load(background + image * CHANNELS + channel, real, 0.0)
    drawn += transmittance[:, None] * behind[None, :]
    at = (image * height + row).to(tl.int64) * width + column
    tl.store(alpha_out + at, 1.0 - transmittance, inside)
    tl.store(transmittance_out + at, transmittance, inside)
    tl.store(stops_out + at, stops, inside)
    plane = ((image * CHANNELS + channel[None, :]) * height + row[:, None]).to(tl.int64)
    tl.store(image_out + plane * width + column[:, None], drawn, inside[:, None] & real[None, :])


@triton.jit
@no_type_check
def backward(
    params,
    colors,
    background,
    entries,
    ends,
    grad_image,
    grad_alpha,
    transmittance_in,
    stops_in,
    sums,
    grad_background,
    count,
    height,
    width,
    tiles_x,
    alpha_max,
    alpha_min,
    TILE: tl.constexpr,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
):
    """Differentiate one tile of one image, back to front.

    ``sums`` [entries, 6 + C] takes, with v the gradient of log(alpha) at a pixel, the sums of v, v*dy,
    v*dy^2, v*u, v*dy*u, v*u^2, then the colours' gradients; ``grad_background`` [B, tiles, C] the tile's
    part.
    """
    tile, image = tl.program_id(0), tl.program_id(1)
    pixel = tl.arange(0, TILE * TILE)
    column = (tile % tiles_x) * TILE + pixel % TILE
    row = (tile // tiles_x) * TILE + pixel // TILE
    inside = (column < width) & (row < height)
    x, y = column + 0.5, row + 0.5
    channel = tl.arange(0, PADDED)
    real = channel < CHANNELS

    at = (image * height + row).to(tl.int64) * width + column
    transmittance = tl.load(transmittance_in + at, inside, 0.0)
    stops = tl.load(stops_in + at, inside, -1)
    plane = ((image * CHANNELS + channel[None, :]) * height + row[:, None]).to(tl.int64)
    grad = tl.load(grad_image + plane * width + column[:, None], inside[:, None] & real[None, :], 0.0)
    behind = tl.load(background + image * CHANNELS + channel, real, 0.0)
    # what shines through from behind the current Gaussian, weighted by the image's gradient
    shine = transmittance * (tl.sum(grad * behind[None, :], 1) - tl.load(grad_alpha + at, inside, 0.0))
    number = image * tl.num_programs(0) + tile
    through = tl.sum(transmittance[:, None] * grad, 0)
    tl.store(grad_background + number * CHANNELS + channel, through, real)

    first = tl.load(ends + number - 1, number > 0, 0)
    entry = tl.load(ends + number) - 1
    while entry >= first:
        k = tl.load(entries + entry)
        own = params + (image * count + k) * 7
        u, dy, free, alpha = _alpha(own, x, y, stops, k, alpha_max, alpha_min)
        inverse = 1.0 / (1.0 - alpha)
        transmittance *= inverse
        weight = transmittance * alpha
        color = tl.load(colors + (image * count + k) * CHANNELS + channel, real, 0.0)
        seen = tl.sum(grad * color[None, :], 1)
        v = tl.where(free <= alpha_max, alpha * (transmittance * seen - shine * inverse), 0.0)
        shine += weight * seen
        out = sums + entry.to(tl.int64) * (6 + CHANNELS)
        tl.store(out, tl.sum(v))
        tl.store(out + 1, tl.sum(v * dy))
        tl.store(out + 2, tl.sum(v * dy * dy))
        tl.store(out + 3, tl.sum(v * u))
        tl.store(out + 4, tl.sum(v * dy * u))
        tl.store(out + 5, tl.sum(v * u * u))
        tl.store(out + 6 + channel, tl.sum(weight[:, None] * grad, 0), real)
        entry -= 1


@triton.jit
@no_type_check
def collect(
    sums, numbers, met, out, count, tiles, WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr
):
    """Add up the entries of each Gaussian, tile by tile: always in the same order, without atomics."""
    image = tl.program_id(1)
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = k < count
    field = tl.arange(0, PADDED)
    total = tl.zeros([BLOCK, PADDED], tl.float32)
    for tile in range(tiles):
        at = (image * tiles + tile).to(tl.int64) * count + k
        here = inside & (tl.load(met + at, inside, 0) != 0)
        entry = tl.load(numbers + at, here, 0).to(tl.int64)
        wanted = here[:, None] & (field < WIDTH)[None, :]
        total += tl.load(sums + entry[:, None] * WIDTH + field[None, :], wanted, 0.0)
    place = out + (image * count + k)[:, None] * WIDTH + field[None, :]
    tl.store(place, total, inside[:, None] & (field < WIDTH)[None, :])
