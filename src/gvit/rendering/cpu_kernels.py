import math

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from gvit.rendering.simd import Tracer

FAST = {"reassoc", "contract", "arcp", "nsz"}
LANES = 8
ROWS = 8
_ROUNDER = 1.5 * 2**23 + 127
LN2 = math.log(2.0)


@numba.njit(fastmath=FAST, nogil=True, cache=True)
def prepare(centers, covariances, opacities, blur, alpha_min, height, params, rows):
    """Per Gaussian: what a row needs. Returns -1, or the flat index of the first bad one and what's wrong"""
    low = max(math.log2(alpha_min), -149.0) if alpha_min > 0.0 else -149.0
    batch, count = opacities.shape
    for b in range(batch):
        for k in range(count):
            cx, cy = np.float64(centers[b, k, 0]), np.float64(centers[b, k, 1])
            xx = np.float64(covariances[b, k, 0, 0]) + blur
            yy = np.float64(covariances[b, k, 1, 1]) + blur
            xy = 0.5 * (np.float64(covariances[b, k, 0, 1]) + np.float64(covariances[b, k, 1, 0]))
            det = xx * yy - xy * xy
            o = np.float64(opacities[b, k])
            rows[b, k, 0] = 0
            rows[b, k, 1] = 0
            if o > 0.0 and o >= alpha_min:
                scale = 0.5 / LN2
                p = params[b, k]
                p[0] = cx
                p[1] = cy
                p[2] = xy / yy
                p[3] = scale / yy
                p[4] = scale * yy / det
                p[5] = math.log2(o)
                p[6] = p[5] - low + 1e-5
                p[7] = 1.0 / p[4]
                reach = math.sqrt(p[6] / p[3])
                rows[b, k, 0] = int(min(max(math.ceil(cy - 0.5 - reach), 0.0), np.float64(height)))
                rows[b, k, 1] = int(min(max(math.floor(cy - 0.5 + reach) + 1.0, 0.0), np.float64(height)))



def _weight(tracer, u, s0, h, amax, amin, reached):
    """Alpha before and after the bounds."""
    t = (s0 - h * u * u).at_least(-126.0)
    # adding this rounds t to an integer, which ends up in the low bits, next to the exponent's bias
    shifted = t + _ROUNDER
    f = t - (shifted - _ROUNDER)
    p = f * 1.3333558146e-3 + 9.6181291076e-3
    p = p * f + 5.5504108664e-2
    p = p * f + 2.4022650696e-1
    p = p * f + 6.9314718056e-1
    p = p * f + 1.0
    free = p * (shifted.as_int_bits() << 23).as_float_bits()
    drawn = (free >= amin) & reached
    return free, drawn.choose(free.at_most(amax), 0.0)


@intrinsic
def _draw(typingctx, planes, stops, reals, offsets, rows, stride, colors, color, channels, k, h, amax, amin, tmin):
    def codegen(context, builder, signature, arguments):
        tr = Tracer(context, builder)
        kinds = signature.args
        planes, stops, reals, offsets, colors = (tr.data(kinds[i], arguments[i]) for i in (0, 1, 2, 3, 6))
        rows, stride, color, channels = arguments[4], arguments[5], arguments[7], arguments[8]
        k, h, amax, amin, tmin = (tr.broadcast(arguments[i]) for i in (9, 10, 11, 12, 13))
        one = lambda v: tr.integer(v)
        add, mul = builder.add, builder.mul

        def draw(channels, unrolled):
            tints = [tr.load_scalar(colors, add(color, one(c))) for c in range(unrolled)]
            def row(r):
                at = builder.load(builder.gep(offsets, [mul(r, one(2))]))
                units = builder.load(builder.gep(offsets, [add(mul(r, one(2)), one(1))]))
                u0 = tr.load_scalar(reals, mul(r, one(3))) + tr.constant(*range(8))
                s0 = tr.load_scalar(reals, add(mul(r, one(3)), one(1)))
                step = tr.variable(tr.constant(*[0.0] * 8))
                wroom = tr.variable(tr.constant(*[0.0] * 8))

                def unit(i):
                    x = add(at, mul(i, one(8)))
                    base = tr.get(step)
                    tr.set(step, base + 8.0)
                    stop = tr.load(stops, x)
                    _, a = _weight(tr, u0 + base, s0, h, amax, amin, stop > k)
                    before = tr.load(planes, x)
                    after = before - before * a
                    halt = after <= tmin
                    tr.store(after, planes, x)
                    tr.set(wroom, before * a)
                    with builder.if_then(halt.any(), likely=False):
                        tr.store(halt.choose(before, after), planes, x)
                        tr.store(halt.choose(k, stop), stops, x)
                        tr.set(wroom, before * halt.choose(tr.constant(*[0.0] * 8), a))
                    w = tr.get(wroom)
                    def blend(c, tint):
                        place = add(x, mul(add(c, one(1)), stride))
                        tr.store(tr.load(planes, place) + w * tint, planes, place)
                    if unrolled:
                        for c in range(unrolled):
                            blend(one(c), tints[c])
                    else:
                        tr.repeat(channels, lambda c: blend(c, tr.load_scalar(colors, add(color, c))))
                tr.set(step, tr.constant(*[0.0] * 8))
                tr.repeat(units, unit)
            tr.repeat(rows, row)

        with builder.if_else(builder.icmp_signed("==", channels, one(3))) as (then, otherwise):
            with then:
                draw(one(3), 3)
            with otherwise:
                draw(channels, 0)
        return context.get_dummy_value()
    return types.void(planes, stops, reals, offsets, rows, stride, colors, color, channels, k, h, amax, amin, tmin), codegen


@intrinsic
def _pull(typingctx, planes, stops, reals, offsets, rows, stride, colors, color, channels, k, h, amax, amin, sums, lanes):
    def codegen(context, builder, signature, arguments):
        tr = Tracer(context, builder)
        kinds = signature.args
        planes, stops, reals, offsets, colors, sums, lanes = (tr.data(kinds[i], arguments[i]) for i in (0, 1, 2, 3, 6, 13, 14))
        rows, stride, color, channels = arguments[4], arguments[5], arguments[7], arguments[8]
        k, h, amax, amin = (tr.broadcast(arguments[i]) for i in (9, 10, 11, 12))
        one = lambda v: tr.integer(v)
        add, mul = builder.add, builder.mul
        zero = tr.constant(*[0.0] * 8)

        def draw(channels, unrolled):
            tints = [tr.load_scalar(colors, add(color, one(c))) for c in range(unrolled)]
            tintsums = [tr.variable(zero) for c in range(unrolled)]
            total = [tr.variable(zero) for _ in range(6)]
            part = [tr.variable(zero) for _ in range(3)]
            step = tr.variable(zero)
            qroom = tr.variable(zero)
            for v in (*tintsums, *total):
                tr.set(v, zero)
            def grow(v, x):
                tr.set(v, tr.get(v) + x)
            def row(r):
                at = builder.load(builder.gep(offsets, [mul(r, one(2))]))
                units = builder.load(builder.gep(offsets, [add(mul(r, one(2)), one(1))]))
                u0 = tr.load_scalar(reals, mul(r, one(3))) + tr.constant(*range(8))
                s0 = tr.load_scalar(reals, add(mul(r, one(3)), one(1)))
                dy = tr.load_scalar(reals, add(mul(r, one(3)), one(2)))
                for v in (*part, step):
                    tr.set(v, zero)

                def unit(i):
                    x = add(at, mul(i, one(8)))
                    base = tr.get(step)
                    tr.set(step, base + 8.0)
                    u = u0 + base
                    free, a = _weight(tr, u, s0, h, amax, amin, tr.load(stops, x) > k)
                    inverse = 1.0 / (1.0 - a)
                    t = tr.load(planes, x) * inverse
                    w = t * a
                    tr.store(t, planes, x)
                    if unrolled:
                        gs = [tr.load(planes, add(x, mul(one(c + 2), stride))) for c in range(unrolled)]
                        q = gs[0] * tints[0]
                        for g, tint in zip(gs[1:], tints[1:]):
                            q = q + g * tint
                        for v, g in zip(tintsums, gs):
                            grow(v, w * g)
                    else:
                        tr.set(qroom, zero)
                        def one_channel(c):
                            g = tr.load(planes, add(x, mul(add(c, one(2)), stride)))
                            grow(qroom, g * tr.load_scalar(colors, add(color, c)))
                            place = mul(c, one(8))
                            tr.store(tr.load(lanes, place) + w * g, lanes, place)
                        tr.repeat(channels, one_channel)
                        q = tr.get(qroom)
                    behind_at = add(x, stride)
                    behind = tr.load(planes, behind_at)
                    tr.store(behind + w * q, planes, behind_at)
                    v = (free <= amax).choose(a * (t * q - behind * inverse), 0.0)
                    vu = v * u
                    grow(part[0], v)
                    grow(part[1], vu)
                    grow(part[2], vu * u)
                tr.repeat(units, unit)
                m0, m1, m2 = (tr.get(v) for v in part)
                for v, x in zip(total, (m0, m0 * dy, m0 * dy * dy, m1, m1 * dy, m2)):
                    grow(v, x)
            tr.repeat(rows, row)
            for i, v in enumerate((*total, *tintsums)):
                builder.store(tr.get(v).sum(), builder.gep(sums, [one(i)]))
            if not unrolled:
                def finish(c):
                    place = mul(c, one(8))
                    builder.store(tr.load(lanes, place).sum(), builder.gep(sums, [add(c, one(6))]))
                    tr.store(zero, lanes, place)
                tr.repeat(channels, finish)

        with builder.if_else(builder.icmp_signed("==", channels, one(3))) as (then, otherwise):
            with then:
                draw(one(3), 3)
            with otherwise:
                draw(channels, 0)
        return context.get_dummy_value()
    return types.void(planes, stops, reals, offsets, rows, stride, colors, color, channels, k, h, amax, amin, sums, lanes), codegen


@numba.njit
def _lay_out(p, y0, y1, top, padded, width, reals, offsets):
    """Per row of a Gaussian that meets the image: u0, s0, dy; offset, units. How many rows."""
    n = 0
    for y in range(y0, y1):
        dy = y + 0.5 - p[1]
        drop = p[3] * dy * dy
        left = p[6] - drop
        if left <= 0.0:
            continue
        half = math.sqrt(left * p[7])
        middle = p[0] + p[2] * dy - 0.5
        x0 = int(max(middle - half, -1.0) + 1.0) & -LANES
        x1 = int(min(middle + half, width - 1.0) + 8.0) & -LANES
        if x0 >= x1 or middle + half < 0.0:
            continue
        reals[3 * n] = x0 - middle
        reals[3 * n + 1] = p[5] - drop
        reals[3 * n + 2] = dy
        offsets[2 * n] = (y - top) * padded + x0
        offsets[2 * n + 1] = (x1 - x0) >> 3
        n += 1
    return n


@numba.njit(nogil=True, cache=True)
def forward(params, rows, colors, background, image, transmittance, stops, amax, amin, tmin, first, last):
    batch, count, channels = colors.shape
    _, _, height, width = image.shape
    padded = (width + LANES - 1) // LANES * LANES
    blocks = (height + ROWS - 1) // ROWS
    stride = ROWS * padded
    planes = np.empty((channels + 1) * stride, np.float32)
    stop = np.empty(stride, np.int32)
    reals = np.empty(3 * ROWS, np.float32)
    offsets = np.empty(2 * ROWS, np.int64)
    flat = colors.reshape(-1)
    for task in range(first, last):
        b = task // blocks
        top = (task % blocks) * ROWS
        bottom = min(top + ROWS, height)
        planes[:stride] = np.float32(1.0)
        planes[stride:] = np.float32(0.0)
        stop[:] = count
        for k in range(count):
            y0 = max(rows[b, k, 0], top)
            y1 = min(rows[b, k, 1], bottom)
            if y0 >= y1:
                continue
            p = params[b, k]
            n = _lay_out(p, y0, y1, top, padded, width, reals, offsets)
            if n > 0:
                _draw(planes, stop, reals, offsets, n, stride, flat, (b * count + k) * channels, channels,
                      np.int32(k), np.float32(p[4]), amax, amin, tmin)
        for r in range(bottom - top):
            at = r * padded
            for x in range(width):
                transmittance[b, top + r, x] = planes[at + x]
                stops[b, top + r, x] = stop[at + x]
            for c in range(channels):
                at_c = at + (c + 1) * stride
                for x in range(width):
                    image[b, c, top + r, x] = planes[at_c + x] + planes[at + x] * background[b, c]


@numba.njit(nogil=True, cache=True)
def backward(grad_image, grad_transmittance, params, rows, colors, background, transmittance, stops,
             amax, amin, groups, partial, first, last):
    batch, count, channels = colors.shape
    _, _, height, width = grad_image.shape
    padded = (width + LANES - 1) // LANES * LANES
    blocks = (height + ROWS - 1) // ROWS
    stride = ROWS * padded
    planes = np.zeros((channels + 2) * stride, np.float32)
    stop = np.zeros(stride, np.int32)
    reals = np.empty(3 * ROWS, np.float32)
    offsets = np.empty(2 * ROWS, np.int64)
    sums = np.empty(6 + channels, np.float32)
    lanes = np.zeros(channels * LANES, np.float32)
    flat = colors.reshape(-1)
    for task in range(first, last):
        b = task // groups
        group = task % groups
        out = partial[task]
        out[:] = 0.0
        for block in range(blocks * group // groups, blocks * (group + 1) // groups):
            top = block * ROWS
            bottom = min(top + ROWS, height)
            for r in range(bottom - top):
                y = top + r
                at = r * padded
                for x in range(width):
                    planes[at + x] = transmittance[b, y, x]
                    planes[stride + at + x] = transmittance[b, y, x] * grad_transmittance[b, y, x]
                    stop[at + x] = stops[b, y, x]
                for c in range(channels):
                    total = 0.0
                    for x in range(width):
                        g = grad_image[b, c, y, x]
                        tg = g * transmittance[b, y, x]
                        planes[(c + 2) * stride + at + x] = g
                        planes[stride + at + x] += tg * background[b, c]
                        total += tg
                    out[count, 6 + c] += total
            for k in range(count - 1, -1, -1):
                y0 = max(rows[b, k, 0], top)
                y1 = min(rows[b, k, 1], bottom)
                if y0 >= y1:
                    continue
                p = params[b, k]
                n = _lay_out(p, y0, y1, top, padded, width, reals, offsets)
                if n > 0:
                    _pull(planes, stop, reals, offsets, n, stride, flat, (b * count + k) * channels, channels,
                          np.int32(k), np.float32(p[4]), amax, amin, sums, lanes)
                    for i in range(6 + channels):
                        out[k, i] += sums[i]


@numba.njit(fastmath=FAST, nogil=True, cache=True)
def finish(
    partial,
    groups,
    covariances,
    opacities,
    blur,
    params,
    grad_centers,
    grad_covariances,
    grad_colors,
    grad_opacities,
    grad_background,
):
    batch, count, channels = grad_colors.shape
    sums = np.empty(6 + channels)
    for b in range(batch):
        for k in range(count + 1):
            for i in range(6 + channels):
                sums[i] = partial[b * groups, k, i]
                for group in range(1, groups):
                    sums[i] += partial[b * groups + group, k, i]
            if k == count:
                for c in range(channels):
                    grad_background[b, c] = sums[6 + c]
                continue
            for c in range(channels):
                grad_colors[b, k, c] = sums[6 + c]
            o = np.float64(opacities[b, k])
            if o <= 0.0 or sums[0] == 0.0 and sums[2] == 0.0 and sums[3] == 0.0 and sums[5] == 0.0:
                grad_opacities[b, k] = 0.0
                grad_centers[b, k] = 0.0
                grad_covariances[b, k] = 0.0
                continue
            xx = np.float64(covariances[b, k, 0, 0]) + blur
            yy = np.float64(covariances[b, k, 1, 1]) + blur
            xy = 0.5 * (np.float64(covariances[b, k, 0, 1]) + np.float64(covariances[b, k, 1, 0]))
            det = xx * yy - xy * xy
            gh, gy = -sums[5], -sums[2]
            twice = yy / det
            gcx = twice * sums[3]
            gslope = twice * sums[4]
            gcy = sums[1] / yy - xy / yy * gcx
            grad_opacities[b, k] = sums[0] / o
            grad_centers[b, k, 0] = gcx
            grad_centers[b, k, 1] = gcy
            grad_covariances[b, k, 0, 0] = -0.5 * gh * twice * twice
            grad_covariances[b, k, 1, 1] = -0.5 * (gh * (xy / det) ** 2 + gy / (yy * yy)) - gslope * xy / (
                yy * yy
            )
            gxy = 0.5 * (gh * yy * xy / (det * det) + gslope / yy)
            grad_covariances[b, k, 0, 1] = gxy
            grad_covariances[b, k, 1, 0] = gxy
