"""The Triton kernels of the CUDA backend; also run on a CPU by Triton's interpreter (TRITON_INTERPRET=1).

Along a row of pixels a Gaussian is one parabola in the exponent: with ``u = x - cx - slope*dy``,
``log2(alpha) = log2(opacity) - fall_y*dy^2 - fall*u^2``. ``parameters`` holds, per Gaussian, cx, cy, the slope in
two parts (float32 number and remainder), fall_y, fall, log2(opacity), and a unit for dy and one for u: powers of two,
about the inverse standard deviations, so that sums of squares stay in float32's range.

An entry is a Gaussian in a tile that it meets. The entries of a tile lie side by side, in index order of the
Gaussians, from number ``starts`` to before number ``ends`` of the tile. A warp does a tile on its own, so that sums
over its pixels need no shared memory. Channels come in groups of ``GROUP``, the last dimension of the grid.
"""

from typing import no_type_check

import triton
import triton.language as tl

NUM_PARAMS = 9
GROUP = 4
NUM_FIELDS = 10  # of an entry and group: the moments and the colours' gradients
# of math.log(2), and half of its inverse: what kernels read has to be a constant of Triton's
_LN2 = tl.constexpr(0.6931471805599453)
_HALF_LOG2_E = tl.constexpr(0.7213475204444817)
_CHECK = tl.constexpr(8)  # entries between two looks at whether the whole tile has stopped


@triton.jit
@no_type_check
def prepare(
    centers,
    covariances,
    colors,
    opacities,
    background,
    parameters,
    bad,
    count,
    BLUR: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHECK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Parameters of each Gaussian, computed in float64; ``bad`` becomes 1 where a number can't be drawn."""
    blocks = (count + BLOCK - 1) // BLOCK
    image = tl.program_id(0) // blocks
    k = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = k < count
    at = image * count + k
    cx, cy = tl.load(centers + 2 * at, inside, 0.0), tl.load(centers + 2 * at + 1, inside, 0.0)
    opacity = tl.load(opacities + at, inside, 0.0)
    plain_xx = tl.load(covariances + 4 * at, inside, 1.0).to(tl.float64)
    plain_yy = tl.load(covariances + 4 * at + 3, inside, 1.0).to(tl.float64)
    first = tl.load(covariances + 4 * at + 1, inside, 0.0).to(tl.float64)
    second = tl.load(covariances + 4 * at + 2, inside, 0.0).to(tl.float64)
    xy = (first + second) / 2
    xx, yy = plain_xx + BLUR, plain_yy + BLUR
    det = xx * yy - xy * xy
    if CHECK:
        # as in values.py; what is not finite fails a comparison, or is no number when multiplied by 0
        product = plain_xx * plain_yy
        good = (
            (plain_xx >= 0)
            & (plain_yy >= 0)
            & (product - xy * xy >= -1e-6 * product - 1e-43 * (plain_xx + plain_yy) - 1e-60)
        )
        good = good & (det > 0) & (product < float("inf"))
        poison = cx * 0 + cy * 0 + opacity * 0
        for channel in range(CHANNELS):
            poison += tl.load(colors + at * CHANNELS + channel, inside, 0.0) * 0
            poison += tl.load(background + image * CHANNELS + channel) * 0
        good = good & (poison == 0)
        wrong = tl.max((inside & ~good).to(tl.int32))
        # all that write, write the same
        tl.store(bad, 1, wrong > 0)
    slope = xy / yy
    rounded = slope.to(tl.float32)
    # nothing is drawn at opacity 0
    top = tl.where(opacity > 0, tl.log2(tl.where(opacity > 0, opacity, 1.0).to(tl.float64)), -252.0)
    own = parameters + at * 9
    tl.store(own, cx, inside)
    tl.store(own + 1, cy, inside)
    tl.store(own + 2, rounded, inside)
    tl.store(own + 3, (slope - rounded.to(tl.float64)).to(tl.float32), inside)
    tl.store(own + 4, (1 / yy * _HALF_LOG2_E).to(tl.float32), inside)
    tl.store(own + 5, (yy / det * _HALF_LOG2_E).to(tl.float32), inside)
    tl.store(own + 6, top.to(tl.float32), inside)
    tl.store(own + 7, tl.exp2(tl.floor((-0.5 * tl.log2(yy)).to(tl.float32))), inside)
    tl.store(own + 8, tl.exp2(tl.floor((0.5 * tl.log2(yy / det)).to(tl.float32))), inside)


@triton.jit
@no_type_check
def _loss(dx, dy, slope, fall_y, fall):
    u = dx - slope * dy
    return fall_y * dy * dy + fall * u * u


@triton.jit
@no_type_check
def list_entries(
    parameters,
    starts,
    ends,
    entries,
    count,
    tiles_x,
    tiles,
    low,
    TILE: tl.constexpr,
    WRITE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The Gaussians that meet a tile: those with a pixel centre in the ellipse ``alpha >= alpha_min``, and few more.

    Without ``WRITE``, ``ends`` gets their number only. The ellipse meets the tile where the least loss there is small.
    """
    number = tl.program_id(0)
    tile, image = number % tiles, number // tiles
    place = tl.load(starts + number) if WRITE else 0
    left, top_row = (tile % tiles_x) * TILE + 0.5, (tile // tiles_x) * TILE + 0.5
    first = 0
    while first < count:
        k = first + tl.arange(0, BLOCK)
        inside = k < count
        own = parameters + (image * count + k) * 9
        cx, cy = tl.load(own, inside, 0.0), tl.load(own + 1, inside, 0.0)
        slope = tl.load(own + 2, inside, 0.0)
        fall_y, fall = tl.load(own + 4, inside, 1.0), tl.load(own + 5, inside, 1.0)
        top = tl.load(own + 6, inside, -1e30)
        # the outermost pixel centres of the tile, seen from the Gaussian
        x0, y0 = left - cx, top_row - cy
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
        met = ((centred | (least * 0.999 <= top - low + 1e-3)) & (top >= low)).to(tl.int32)
        if WRITE:
            tl.store(entries + place + tl.cumsum(met, 0) - met, k, met != 0)
        place += tl.sum(met)
        first += BLOCK
    tl.store(ends + number, place)


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
def _pixels(tile, tiles_x, height, width, TILE: tl.constexpr):
    """Column, row, and whether they are on the image."""
    pixel = tl.arange(0, TILE * TILE)
    column = (tile % tiles_x) * TILE + pixel % TILE
    row = (tile // tiles_x) * TILE + pixel // TILE
    return column, row, (column < width) & (row < height)


@triton.jit
@no_type_check
def _load_group(of, channel, CHANNELS: tl.constexpr):
    """The four numbers of a group, those beyond the channels 0."""
    return (
        tl.load(of + channel),
        tl.load(of + channel + 1, channel + 1 < CHANNELS, 0.0),
        tl.load(of + channel + 2, channel + 2 < CHANNELS, 0.0),
        tl.load(of + channel + 3, channel + 3 < CHANNELS, 0.0),
    )


@triton.jit
@no_type_check
def forward(
    parameters,
    colors,
    background,
    entries,
    starts,
    ends,
    image_out,
    alpha_out,
    transmittance_out,
    stops_out,
    count,
    height,
    width,
    tiles_x,
    tiles,
    alpha_max,
    alpha_min,
    minimum,
    TILE: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Draw one group of channels of one tile of one image."""
    number, channel = tl.program_id(0), tl.program_id(1) * 4
    tile, image = number % tiles, number // tiles
    column, row, inside = _pixels(tile, tiles_x, height, width, TILE)
    x, y = column + 0.5, row + 0.5
    entry, end = tl.load(starts + number), tl.load(ends + number)
    transmittance = tl.full([TILE * TILE], 1.0, tl.float32)
    # a pixel off the image has stopped before the first Gaussian
    stops = tl.where(inside, count, -1)
    drawn0 = tl.zeros([TILE * TILE], tl.float32)
    drawn1, drawn2, drawn3 = drawn0, drawn0, drawn0
    while entry < end:
        until = tl.minimum(entry + _CHECK, end)
        while entry < until:
            k = tl.load(entries + entry)
            own = parameters + (image * count + k) * 9
            _, _, _, alpha = _alpha(own, x, y, stops, k, alpha_max, alpha_min)
            weight = transmittance * alpha
            after = transmittance - weight
            halt = after <= minimum
            stops = tl.where(halt & (stops > k), k, stops)
            weight = tl.where(halt, 0.0, weight)
            transmittance = tl.where(halt, transmittance, after)
            red, green, blue, other = _load_group(colors + (image * count + k) * CHANNELS, channel, CHANNELS)
            drawn0 += weight * red
            drawn1 += weight * green
            drawn2 += weight * blue
            drawn3 += weight * other
            entry += 1
        if tl.max(stops) < count:
            entry = end

    red, green, blue, other = _load_group(background + image * CHANNELS, channel, CHANNELS)
    at = row * width + column
    size = tl.cast(height, tl.int64) * width
    out = image_out + (image * CHANNELS + channel) * size + at
    tl.store(out, drawn0 + transmittance * red, inside)
    tl.store(out + size, drawn1 + transmittance * green, inside & (channel + 1 < CHANNELS))
    tl.store(out + 2 * size, drawn2 + transmittance * blue, inside & (channel + 2 < CHANNELS))
    tl.store(out + 3 * size, drawn3 + transmittance * other, inside & (channel + 3 < CHANNELS))
    if channel == 0:
        plane = image * size + at
        tl.store(alpha_out + plane, 1.0 - transmittance, inside)
        tl.store(transmittance_out + plane, transmittance, inside)
        tl.store(stops_out + plane, stops, inside)


@triton.jit(do_not_specialize=["num_entries"])
@no_type_check
def backward(
    parameters,
    colors,
    background,
    entries,
    starts,
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
    tiles,
    alpha_max,
    alpha_min,
    num_entries,
    TILE: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Differentiate one group of channels of one tile of one image, back to front.

    ``sums`` [groups, entries, 10] takes, with v the gradient of log(alpha) at a pixel, the sums of v, v*dy,
    v*dy^2, v*u, v*dy*u, v*u^2, dy and u in the Gaussian's units, then the colours' gradients;
    ``grad_background`` [B, tiles, C] the tile's part.
    """
    number, group = tl.program_id(0), tl.program_id(1)
    tile, image = number % tiles, number // tiles
    channel = group * 4
    column, row, inside = _pixels(tile, tiles_x, height, width, TILE)
    x, y = column + 0.5, row + 0.5
    size = tl.cast(height, tl.int64) * width
    at = row * width + column
    transmittance = tl.load(transmittance_in + image * size + at, inside, 0.0)
    stops = tl.load(stops_in + image * size + at, inside, -1)
    grad = grad_image + (image * CHANNELS + channel) * size + at
    grad0 = tl.load(grad, inside, 0.0)
    grad1 = tl.load(grad + size, inside & (channel + 1 < CHANNELS), 0.0)
    grad2 = tl.load(grad + 2 * size, inside & (channel + 2 < CHANNELS), 0.0)
    grad3 = tl.load(grad + 3 * size, inside & (channel + 3 < CHANNELS), 0.0)
    red, green, blue, other = _load_group(background + image * CHANNELS, channel, CHANNELS)
    # what shines through from behind the current Gaussian, weighted by the image's gradient
    shine = transmittance * (grad0 * red + grad1 * green + grad2 * blue + grad3 * other)
    if group == 0:
        shine -= transmittance * tl.load(grad_alpha + image * size + at, inside, 0.0)
    through = grad_background + number.to(tl.int64) * CHANNELS + channel
    tl.store(through, tl.sum(transmittance * grad0))
    tl.store(through + 1, tl.sum(transmittance * grad1), channel + 1 < CHANNELS)
    tl.store(through + 2, tl.sum(transmittance * grad2), channel + 2 < CHANNELS)
    tl.store(through + 3, tl.sum(transmittance * grad3), channel + 3 < CHANNELS)

    first, entry = tl.load(starts + number), tl.load(ends + number) - 1
    last = tl.max(stops)  # no pixel draws this Gaussian or a later one
    sums += group.to(tl.int64) * num_entries * 10
    while entry >= first:
        k = tl.load(entries + entry)
        out = sums + entry.to(tl.int64) * 10
        if k < last:
            own = parameters + (image * count + k) * 9
            u, dy, free, alpha = _alpha(own, x, y, stops, k, alpha_max, alpha_min)
            inverse = 1.0 / (1.0 - alpha)
            transmittance *= inverse
            weight = transmittance * alpha
            red, green, blue, other = _load_group(colors + (image * count + k) * CHANNELS, channel, CHANNELS)
            seen = grad0 * red + grad1 * green + grad2 * blue + grad3 * other
            v = tl.where(free <= alpha_max, alpha * (transmittance * seen - shine * inverse), 0.0)
            shine += weight * seen
            dy, u = dy * tl.load(own + 7), u * tl.load(own + 8)
            v_dy, v_u = v * dy, v * u
            tl.store(out, tl.sum(v))
            tl.store(out + 1, tl.sum(v_dy))
            tl.store(out + 2, tl.sum(v_dy * dy))
            tl.store(out + 3, tl.sum(v_u))
            tl.store(out + 4, tl.sum(v_dy * u))
            tl.store(out + 5, tl.sum(v_u * u))
            tl.store(out + 6, tl.sum(weight * grad0))
            tl.store(out + 7, tl.sum(weight * grad1), channel + 1 < CHANNELS)
            tl.store(out + 8, tl.sum(weight * grad2), channel + 2 < CHANNELS)
            tl.store(out + 9, tl.sum(weight * grad3), channel + 3 < CHANNELS)
        else:
            field = tl.arange(0, 16)
            tl.store(out + field, tl.zeros([16], tl.float32), field < 10)
        entry -= 1


@triton.jit
@no_type_check
def _within(gradient):
    """In float32, whose largest number stands for what lies beyond; what is no number stays none."""
    within = tl.minimum(tl.maximum(gradient, -3.4028234e38), 3.4028234e38)
    return tl.where(gradient == gradient, within, gradient).to(tl.float32)


@triton.jit(do_not_specialize=["num_entries"])
@no_type_check
def collect(
    parameters,
    covariances,
    opacities,
    entries,
    starts,
    ends,
    sums,
    grad_centers,
    grad_covariances,
    grad_colors,
    grad_opacities,
    count,
    tiles_x,
    tiles_y,
    low,
    num_entries,
    STEPS: tl.constexpr,
    BLUR: tl.constexpr,
    TILE: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add up each Gaussian's entries, tile by tile: always in the same order, without atomics; then its gradients.

    The tiles are those of the box around its ellipse, in each of which its entry is searched for by bisection.
    """
    blocks = (count + BLOCK - 1) // BLOCK
    image = tl.program_id(0) // blocks
    k = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = k < count
    at = image * count + k
    own = parameters + at * 9
    cx, cy = tl.load(own, inside, 0.0), tl.load(own + 1, inside, 0.0)
    slope32, fall_y32 = tl.load(own + 2, inside, 0.0), tl.load(own + 4, inside, 1.0)
    fall32, top = tl.load(own + 5, inside, 1.0), tl.load(own + 6, inside, -1e30)
    # half the box around the ellipse, and a little more
    reach = tl.maximum(top - low, 0.0) * 1.002 + 2e-3
    high_box = tl.sqrt(reach / fall_y32) * 1.001 + 0.01 + 1e-6 * tl.abs(cy)
    wide_box = (
        tl.sqrt(reach * (1.0 / fall32 + slope32 * slope32 / fall_y32)) * 1.001 + 0.01 + 1e-6 * tl.abs(cx)
    )
    # clamped before they become whole numbers, which have a range
    columns, rows = tl.cast(tiles_x, tl.float32), tl.cast(tiles_y, tl.float32)
    left = tl.minimum(tl.maximum((cx - wide_box - 0.5) / TILE, 0.0), columns).to(tl.int32)
    right = tl.minimum(tl.maximum((cx + wide_box - 0.5) / TILE + 1.0, 0.0), columns).to(tl.int32)
    upper = tl.minimum(tl.maximum((cy - high_box - 0.5) / TILE, 0.0), rows).to(tl.int32)
    lower = tl.minimum(tl.maximum((cy + high_box - 0.5) / TILE + 1.0, 0.0), rows).to(tl.int32)
    across = tl.maximum(right - left, 0)
    met = tl.where(inside & (top >= low), across * tl.maximum(lower - upper, 0), 0)
    most = tl.max(met)
    across = tl.maximum(across, 1)

    nothing = tl.zeros([BLOCK], tl.float32)
    v, v_dy, v_dy2, v_u, v_dy_u, v_u2 = nothing, nothing, nothing, nothing, nothing, nothing
    for group in range(GROUPS):
        own_sums = sums + tl.cast(num_entries, tl.int64) * 10 * group
        red, green, blue, other = nothing, nothing, nothing, nothing
        i = 0
        while i < most:
            look = i < met
            tile = (upper + i // across) * tiles_x + left + i % across
            number = image * tiles_x * tiles_y + tile
            start = tl.load(starts + number, look, 0)
            end = tl.load(ends + number, look, 0)
            bound, beyond = start, end
            for _ in range(STEPS):
                middle = bound + (beyond - bound) // 2
                smaller = tl.load(entries + middle, look & (bound < beyond), 0) < k
                bound, beyond = (
                    tl.where((bound < beyond) & smaller, middle + 1, bound),
                    tl.where((bound < beyond) & ~smaller, middle, beyond),
                )
            found = look & (bound < end)
            found = found & (tl.load(entries + bound, found, -1) == k)
            entry = own_sums + bound.to(tl.int64) * 10
            v += tl.load(entry, found, 0.0)
            v_dy += tl.load(entry + 1, found, 0.0)
            v_dy2 += tl.load(entry + 2, found, 0.0)
            v_u += tl.load(entry + 3, found, 0.0)
            v_dy_u += tl.load(entry + 4, found, 0.0)
            v_u2 += tl.load(entry + 5, found, 0.0)
            red += tl.load(entry + 6, found, 0.0)
            green += tl.load(entry + 7, found & (group * 4 + 1 < CHANNELS), 0.0)
            blue += tl.load(entry + 8, found & (group * 4 + 2 < CHANNELS), 0.0)
            other += tl.load(entry + 9, found & (group * 4 + 3 < CHANNELS), 0.0)
            i += 1
        color = grad_colors + at * CHANNELS + group * 4
        tl.store(color, red, inside)
        tl.store(color + 1, green, inside & (group * 4 + 1 < CHANNELS))
        tl.store(color + 2, blue, inside & (group * 4 + 2 < CHANNELS))
        tl.store(color + 3, other, inside & (group * 4 + 3 < CHANNELS))

    # from the gradient of log(alpha) to those of the exponent of two and its parameters, then of the inputs
    xx = tl.load(covariances + 4 * at, inside, 1.0).to(tl.float64) + BLUR
    yy = tl.load(covariances + 4 * at + 3, inside, 1.0).to(tl.float64) + BLUR
    first = tl.load(covariances + 4 * at + 1, inside, 0.0).to(tl.float64)
    second = tl.load(covariances + 4 * at + 2, inside, 0.0).to(tl.float64)
    xy = (first + second) / 2
    det = xx * yy - xy * xy
    slope, fall_y, fall = xy / yy, 1 / yy * _HALF_LOG2_E, yy / det * _HALF_LOG2_E
    per_y = 1.0 / tl.load(own + 7, inside, 1.0).to(tl.float64)
    per_u = 1.0 / tl.load(own + 8, inside, 1.0).to(tl.float64)
    grad_x = fall * per_u * v_u.to(tl.float64) * (2 * _LN2)
    grad_y = fall_y * per_y * v_dy.to(tl.float64) * (2 * _LN2) - slope * grad_x
    grad_slope = fall * per_y * per_u * v_dy_u.to(tl.float64) * (2 * _LN2)
    # half: ln 2 times half of log2 e
    grad_fall_y = -0.5 * per_y * per_y * v_dy2.to(tl.float64)
    grad_fall = -0.5 * per_u * per_u * v_u2.to(tl.float64)
    grad_xx = -grad_fall * yy * yy / (det * det)
    grad_yy = -(grad_slope * slope + grad_fall_y / yy) / yy - grad_fall * xy * xy / (det * det)
    grad_xy = grad_slope / yy + 2 * grad_fall * yy * xy / (det * det)
    tl.store(grad_centers + 2 * at, _within(grad_x), inside)
    tl.store(grad_centers + 2 * at + 1, _within(grad_y), inside)
    tl.store(grad_covariances + 4 * at, _within(grad_xx), inside)
    tl.store(grad_covariances + 4 * at + 1, _within(grad_xy / 2), inside)
    tl.store(grad_covariances + 4 * at + 2, _within(grad_xy / 2), inside)
    tl.store(grad_covariances + 4 * at + 3, _within(grad_yy), inside)
    opacity = tl.load(opacities + at, inside, 0.0)
    per_opacity = 1.0 / tl.where(opacity > 0, opacity, 1.0).to(tl.float64)
    tl.store(grad_opacities + at, tl.where(opacity > 0, _within(v * per_opacity), 0.0), inside)
