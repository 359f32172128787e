import math

import numba
import numpy as np

FAST = {"reassoc", "contract", "arcp", "nsz"}
LANES = 8
ROWS = 8
LN2 = math.log(2.0)


@numba.extending.intrinsic
def _bits_to_float(typingctx, value):
    from numba import types

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(types.float32))

    return types.float32(types.int32), codegen


@numba.njit(fastmath=FAST, inline="always")
def _exp2(t):
    t = max(t, np.float32(-126.0))
    n = np.rint(t)
    f = t - n
    p = np.float32(1.3333558e-3)
    p = p * f + np.float32(9.6181291e-3)
    p = p * f + np.float32(5.5504109e-2)
    p = p * f + np.float32(2.4022651e-1)
    p = p * f + np.float32(6.9314718e-1)
    p = p * f + np.float32(1.0)
    return p * _bits_to_float((np.int32(n) + np.int32(127)) << np.int32(23))


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
                reach = math.sqrt(p[6] / p[3])
                rows[b, k, 0] = int(min(max(math.ceil(cy - 0.5 - reach), 0.0), np.float64(height)))
                rows[b, k, 1] = int(min(max(math.floor(cy - 0.5 + reach) + 1.0, 0.0), np.float64(height)))


@numba.njit(fastmath=FAST)
def _span3(T, stop, c0, c1, c2, u0, s0, h, k, amax, amin, tmin, r, g, b):
    for i in range(T.size):
        u = u0 + np.float32(i)
        a = min(_exp2(min(s0 - h * u * u, np.float32(0.0))), amax)
        t = T[i]
        a = a if (a >= amin) and (stop[i] > k) else np.float32(0.0)
        after = t - t * a
        halt = after <= tmin
        a = np.float32(0.0) if halt else a
        T[i] = t if halt else after
        stop[i] = k if halt else stop[i]
        w = t * a
        c0[i] += w * r
        c1[i] += w * g
        c2[i] += w * b


@numba.njit(fastmath=FAST)
def _span(T, stop, weight, u0, s0, h, k, amax, amin, tmin):
    for i in range(T.size):
        u = u0 + np.float32(i)
        a = min(_exp2(min(s0 - h * u * u, np.float32(0.0))), amax)
        t = T[i]
        a = a if (a >= amin) and (stop[i] > k) else np.float32(0.0)
        after = t - t * a
        halt = after <= tmin
        a = np.float32(0.0) if halt else a
        T[i] = t if halt else after
        stop[i] = k if halt else stop[i]
        weight[i] = t * a


@numba.njit(fastmath=FAST)
def _axpy(y, x, a):
    for i in range(y.size):
        y[i] += a * x[i]


@numba.njit(fastmath=FAST)
def _dot(y, x):
    total = np.float32(0.0)
    for i in range(y.size):
        total += y[i] * x[i]
    return total


@numba.njit(fastmath=FAST, nogil=True, cache=True)
def forward(params, rows, colors, background, image, transmittance, stops, amax, amin, tmin, first, last):
    batch, count, channels = colors.shape
    _, _, height, width = image.shape
    padded = (width + LANES - 1) // LANES * LANES
    blocks = (height + ROWS - 1) // ROWS
    state = np.empty((channels + 3, ROWS, padded), np.float32)
    stop = np.empty((ROWS, padded), np.int32)
    weight = np.empty(padded, np.float32)
    for task in range(first, last):
        b = task // blocks
        top = (task % blocks) * ROWS
        bottom = min(top + ROWS, height)
        state[0] = np.float32(1.0)
        state[1:] = np.float32(0.0)
        stop[:] = count
        for k in range(count):
            y0 = max(rows[b, k, 0], top)
            y1 = min(rows[b, k, 1], bottom)
            if y0 >= y1:
                continue
            p = params[b, k]
            h = np.float32(p[4])
            for y in range(y0, y1):
                dy = y + 0.5 - p[1]
                left = p[6] - p[3] * dy * dy
                if left <= 0.0:
                    continue
                half = math.sqrt(left / p[4])
                middle = p[0] + p[2] * dy - 0.5
                x0 = int(max(math.ceil(middle - half), 0.0)) & -LANES
                x1 = (int(min(math.floor(middle + half) + 1.0, np.float64(width))) + LANES - 1) & -LANES
                if x0 >= x1:
                    continue
                u0 = np.float32(x0 - middle)
                s0 = np.float32(p[5] - p[3] * dy * dy)
                r = y - top
                if channels == 3:
                    _span3(
                        state[0, r, x0:x1],
                        stop[r, x0:x1],
                        state[1, r, x0:x1],
                        state[2, r, x0:x1],
                        state[3, r, x0:x1],
                        u0,
                        s0,
                        h,
                        np.int32(k),
                        amax,
                        amin,
                        tmin,
                        colors[b, k, 0],
                        colors[b, k, 1],
                        colors[b, k, 2],
                    )
                else:
                    _span(
                        state[0, r, x0:x1],
                        stop[r, x0:x1],
                        weight[x0:x1],
                        u0,
                        s0,
                        h,
                        np.int32(k),
                        amax,
                        amin,
                        tmin,
                    )
                    for c in range(channels):
                        _axpy(state[1 + c, r, x0:x1], weight[x0:x1], colors[b, k, c])
        for r in range(bottom - top):
            for x in range(width):
                transmittance[b, top + r, x] = state[0, r, x]
                stops[b, top + r, x] = stop[r, x]
            for c in range(channels):
                for x in range(width):
                    image[b, c, top + r, x] = state[1 + c, r, x] + state[0, r, x] * background[b, c]


@numba.njit(fastmath=FAST)
def _back3(T, S, stop, g0, g1, g2, u0, s0, h, k, amax, amin, r, g, b):
    m0 = m1 = m2 = n0 = n1 = n2 = np.float32(0.0)
    for i in range(T.size):
        u = u0 + np.float32(i)
        e = _exp2(min(s0 - h * u * u, np.float32(0.0)))
        drawn = (e >= amin) and (stop[i] > k)
        a = min(e, amax) if drawn else np.float32(0.0)
        inverse = np.float32(1.0) / (np.float32(1.0) - a)
        t = T[i] * inverse
        w = t * a
        q = g0[i] * r + g1[i] * g + g2[i] * b
        da = t * q - S[i] * inverse
        S[i] += w * q
        T[i] = t
        v = a * da if e <= amax else np.float32(0.0)
        m0 += v
        m1 += v * u
        m2 += v * u * u
        n0 += w * g0[i]
        n1 += w * g1[i]
        n2 += w * g2[i]
    return m0, m1, m2, n0, n1, n2


@numba.njit(fastmath=FAST)
def _back(T, S, stop, q, weight, u0, s0, h, k, amax, amin):
    m0 = m1 = m2 = np.float32(0.0)
    for i in range(T.size):
        u = u0 + np.float32(i)
        e = _exp2(min(s0 - h * u * u, np.float32(0.0)))
        drawn = (e >= amin) and (stop[i] > k)
        a = min(e, amax) if drawn else np.float32(0.0)
        inverse = np.float32(1.0) / (np.float32(1.0) - a)
        t = T[i] * inverse
        w = t * a
        da = t * q[i] - S[i] * inverse
        S[i] += w * q[i]
        T[i] = t
        weight[i] = w
        v = a * da if e <= amax else np.float32(0.0)
        m0 += v
        m1 += v * u
        m2 += v * u * u
    return m0, m1, m2


@numba.njit(fastmath=FAST, nogil=True, cache=True)
def backward(
    grad_image,
    grad_transmittance,
    params,
    rows,
    colors,
    background,
    transmittance,
    stops,
    amax,
    amin,
    groups,
    partial,
    first,
    last,
):
    batch, count, channels = colors.shape
    _, _, height, width = grad_image.shape
    padded = (width + LANES - 1) // LANES * LANES
    blocks = (height + ROWS - 1) // ROWS
    state = np.zeros((channels + 2, ROWS, padded), np.float32)
    stop = np.zeros((ROWS, padded), np.int32)
    weight = np.empty(padded, np.float32)
    q = np.empty(padded, np.float32)
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
                for x in range(width):
                    state[0, r, x] = transmittance[b, y, x]
                    state[1, r, x] = transmittance[b, y, x] * grad_transmittance[b, y, x]
                    stop[r, x] = stops[b, y, x]
                for c in range(channels):
                    state[2 + c, r, :width] = grad_image[b, c, y]
                    _axpy_product(state[1, r], state[0, r], state[2 + c, r], background[b, c])
                    out[count, 6 + c] += _dot(state[0, r], state[2 + c, r])
            for k in range(count - 1, -1, -1):
                y0 = max(rows[b, k, 0], top)
                y1 = min(rows[b, k, 1], bottom)
                if y0 >= y1:
                    continue
                p = params[b, k]
                h = np.float32(p[4])
                o = out[k]
                for y in range(y0, y1):
                    dy = y + 0.5 - p[1]
                    left = p[6] - p[3] * dy * dy
                    if left <= 0.0:
                        continue
                    half = math.sqrt(left / p[4])
                    middle = p[0] + p[2] * dy - 0.5
                    x0 = int(max(math.ceil(middle - half), 0.0)) & -LANES
                    x1 = (int(min(math.floor(middle + half) + 1.0, np.float64(width))) + LANES - 1) & -LANES
                    if x0 >= x1:
                        continue
                    u0 = np.float32(x0 - middle)
                    s0 = np.float32(p[5] - p[3] * dy * dy)
                    r = y - top
                    if channels == 3:
                        m0, m1, m2, n0, n1, n2 = _back3(
                            state[0, r, x0:x1],
                            state[1, r, x0:x1],
                            stop[r, x0:x1],
                            state[2, r, x0:x1],
                            state[3, r, x0:x1],
                            state[4, r, x0:x1],
                            u0,
                            s0,
                            h,
                            np.int32(k),
                            amax,
                            amin,
                            colors[b, k, 0],
                            colors[b, k, 1],
                            colors[b, k, 2],
                        )
                        o[6] += n0
                        o[7] += n1
                        o[8] += n2
                    else:
                        q[x0:x1] = np.float32(0.0)
                        for c in range(channels):
                            _axpy(q[x0:x1], state[2 + c, r, x0:x1], colors[b, k, c])
                        m0, m1, m2 = _back(
                            state[0, r, x0:x1],
                            state[1, r, x0:x1],
                            stop[r, x0:x1],
                            q[x0:x1],
                            weight[x0:x1],
                            u0,
                            s0,
                            h,
                            np.int32(k),
                            amax,
                            amin,
                        )
                        for c in range(channels):
                            o[6 + c] += _dot(weight[x0:x1], state[2 + c, r, x0:x1])
                    o[0] += m0
                    o[1] += m0 * dy
                    o[2] += m0 * dy * dy
                    o[3] += m1
                    o[4] += m1 * dy
                    o[5] += m2


@numba.njit(fastmath=FAST)
def _axpy_product(y, t, g, a):
    for i in range(y.size):
        y[i] += t[i] * g[i] * a


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
