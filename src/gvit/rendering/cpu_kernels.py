"""The kernels of the CPU backend. Importing this compiles them, or loads them from Numba's cache.

Along a row of pixels a Gaussian is one parabola in the exponent: with ``u = x - cx - slope*dy``,

    log2(alpha) = log2(opacity) - fall_y*dy^2 - fall*u^2

which, other than the quadratic form of the inverse covariance, suffers from no cancellation for needles. A
row's beginning is worked out in float64, its pixels in float32.

Nothing here depends on the number of threads: a task, one block of rows or one group of them, is always
summed in the same order, and tasks are added up in order by ``finish``.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np
from numba import njit

from gvit.rendering.simd import LANES
from gvit.rendering.spans import CONSTANTS, NUM_MOMENTS, draw, pull_back

BLOCK = 16  # rows
# columns of ``params``, float64: what a row needs to know about a Gaussian
NUM_PARAMS = 8
CX, CY, SLOPE, FALL_Y, FALL, TOP, DROP, INVERSE_FALL = range(NUM_PARAMS)
_NUM_CONSTANTS = len(CONSTANTS)
_HALF_LOG2_E = 0.5 / math.log(2.0)
# float32 has no smaller number than 2^-149, so alpha_min = 0 asks for no more than that
_LOWEST = -149.0

_PREPARE = (
    "int64(float32[:,:,::1], float32[:,:,:,::1], float32[:,:,::1], float32[:,::1], float32[:,::1],"
    " float64, float64, int64, float64[:,:,::1], int32[:,:,::1])"
)
_DRAWN = "float64[:,:,::1], int32[:,:,::1], float32[:,:,::1], float32[:,::1]"
_IMAGES = "float32[:,:,:,::1], float32[:,:,::1]"
_FORWARD = (
    f"void({_DRAWN}, {_IMAGES}, float32[:,:,::1], int32[:,:,::1], float32, float32, float32, int64, int64)"
)
_BACKWARD = (
    f"void({_DRAWN}, {_IMAGES}, float32[:,:,::1], int32[:,:,::1], float32, float32, int64,"
    " float64[:,:,::1], int64, int64)"
)
_FINISH = (
    "void(float64[:,:,::1], int64, float64[:,:,::1], int32[:,:,::1], int64,"
    " float32[:,:,:,::1], float32[:,::1], float64,"
    " float32[:,:,::1], float32[:,:,:,::1], float32[:,:,::1], float32[:,::1], float32[:,::1])"
)


@njit(_PREPARE, nogil=True, cache=True)
@no_type_check
def prepare(centers, covariances, colors, opacities, background, blur, alpha_min, height, params, rows):
    """Fill ``params`` and ``rows`` (first row, one past the last) for each Gaussian.

    Returns:
        How many (row, Gaussian) pairs there are to draw, or -1 where some number can't be drawn.
    """
    low = max(math.log2(alpha_min), _LOWEST) if alpha_min > 0.0 else _LOWEST
    spans = 0
    batch, count, channels = colors.shape
    # 0 while all numbers are finite: NaN and infinity times 0 are NaN
    poison = 0.0
    for b in range(batch):
        for c in range(channels):
            poison += 0.0 * background[b, c]
        for k in range(count):
            for c in range(channels):
                poison += 0.0 * colors[b, k, c]
            cx, cy = np.float64(centers[b, k, 0]), np.float64(centers[b, k, 1])
            xx, yy = np.float64(covariances[b, k, 0, 0]), np.float64(covariances[b, k, 1, 1])
            xy = 0.5 * (np.float64(covariances[b, k, 0, 1]) + np.float64(covariances[b, k, 1, 0]))
            opacity = np.float64(opacities[b, k])
            poison += 0.0 * (cx + cy + xx + yy + xy + opacity)
            if not (xx >= 0.0 and yy >= 0.0 and xx * yy - xy * xy >= -1e-6 * xx * yy):
                return -1
            xx += blur
            yy += blur
            det = xx * yy - xy * xy
            if not det > 0.0:
                return -1
            rows[b, k, 0] = 0
            rows[b, k, 1] = 0
            if opacity > 0.0 and opacity >= alpha_min:
                own = params[b, k]
                own[CX] = cx
                own[CY] = cy
                own[SLOPE] = xy / yy
                own[FALL_Y] = _HALF_LOG2_E / yy
                own[FALL] = _HALF_LOG2_E * yy / det
                own[TOP] = math.log2(opacity)
                # a little more than exact: the vectors test each pixel themselves
                own[DROP] = own[TOP] - low + 1e-5
                own[INVERSE_FALL] = 1.0 / own[FALL]
                reach = math.sqrt(own[DROP] / own[FALL_Y])
                rows[b, k, 0] = int(min(max(math.ceil(cy - 0.5 - reach), 0.0), float(height)))
                rows[b, k, 1] = int(min(max(math.floor(cy + 0.5 + reach), 0.0), float(height)))
                spans += max(rows[b, k, 1] - rows[b, k, 0], 0)
    return spans if poison == 0.0 else -1


@njit
@no_type_check
def _padded(width):
    return (width + LANES - 1) // LANES * LANES


@njit
@no_type_check
def _reals():
    reals = np.empty(_NUM_CONSTANTS + 3 * BLOCK, np.float32)
    for i in range(_NUM_CONSTANTS):
        reals[i] = CONSTANTS[i]
    return reals


@njit
@no_type_check
def _lay_out(own, first, last, top, width, reals, offsets):
    """The spans of one Gaussian in rows ``first`` to ``last`` of the block at ``top``; returns how many."""
    padded = _padded(width)
    count = 0
    for y in range(first, last):
        dy = y + 0.5 - own[CY]
        lost = own[FALL_Y] * dy * dy
        if own[DROP] <= lost:
            continue
        half = math.sqrt((own[DROP] - lost) * own[INVERSE_FALL])
        middle = own[CX] + own[SLOPE] * dy - 0.5
        # whole vectors at multiples of their size: a vector is then always loaded as it was stored
        left = int(max(middle - half, -1.0) + 1.0) & -LANES
        right = int(min(middle + half, width - 1.0) + 8.0) & -LANES
        if left >= right or middle + half < 0.0:
            continue
        at = _NUM_CONSTANTS + 3 * count
        reals[at] = left - middle
        reals[at + 1] = own[TOP] - lost
        reals[at + 2] = dy
        offsets[2 * count] = (y - top) * padded + left
        offsets[2 * count + 1] = (right - left) >> 3
        count += 1
    return count


@njit(fastmath={"reassoc", "contract"})
@no_type_check
def _dot(first, second):
    total = np.float32(0.0)
    for i in range(first.size):
        total += first[i] * second[i]
    return total


@njit(_FORWARD, nogil=True, cache=True)
@no_type_check
def forward(
    params,
    rows,
    colors,
    background,
    image,
    alpha,
    transmittance,
    stops,
    alpha_max,
    alpha_min,
    minimum,
    first,
    last,
):
    """Draw the tasks from ``first`` to ``last``; a task is one block of rows of one image."""
    _, count, channels = colors.shape
    height, width = transmittance.shape[1:]
    padded = _padded(width)
    stride = BLOCK * padded
    blocks = (height + BLOCK - 1) // BLOCK
    planes = np.empty((channels + 1) * stride, np.float32)
    block_stops = np.empty(stride, np.int32)
    reals = _reals()
    offsets = np.empty(2 * BLOCK, np.int64)
    flat_colors = colors.reshape(-1)
    for task in range(first, last):
        b = task // blocks
        top = task % blocks * BLOCK
        bottom = min(top + BLOCK, height)
        planes[:stride] = 1.0
        planes[stride:] = 0.0
        block_stops[:] = count
        for k in range(count):
            start, end = max(rows[b, k, 0], top), min(rows[b, k, 1], bottom)
            if start >= end:
                continue
            own = params[b, k]
            spans = _lay_out(own, start, end, top, width, reals, offsets)
            draw(
                planes,
                block_stops,
                reals,
                offsets,
                flat_colors,
                spans,
                stride,
                (b * count + k) * channels,
                channels,
                np.int32(k),
                np.float32(own[FALL]),
                alpha_max,
                alpha_min,
                minimum,
            )
        # counted from 0: with an offset that might be negative, LLVM would not vectorise the copies
        for row in range(bottom - top):
            y, at = top + row, row * padded
            for x in range(width):
                alpha[b, y, x] = np.float32(1.0) - planes[at + x]
                transmittance[b, y, x] = planes[at + x]
                stops[b, y, x] = block_stops[at + x]
            for c in range(channels):
                behind = background[b, c]
                at_c = at + (c + 1) * stride
                for x in range(width):
                    image[b, c, y, x] = planes[at_c + x] + planes[at + x] * behind


@njit(_BACKWARD, nogil=True, cache=True)
@no_type_check
def backward(
    params,
    rows,
    colors,
    background,
    grad_image,
    grad_alpha,
    transmittance,
    stops,
    alpha_max,
    alpha_min,
    groups,
    partial,
    first,
    last,
):
    """Differentiate tasks ``first`` to ``last``; a task is one of ``groups`` groups of an image's blocks.

    ``partial`` [B*groups, K + 1, moments + C] takes the sums that ``pull_back`` forms, and in the last place
    the background's gradient.
    """
    _, count, channels = colors.shape
    height, width = transmittance.shape[1:]
    padded = _padded(width)
    stride = BLOCK * padded
    blocks = (height + BLOCK - 1) // BLOCK
    planes = np.zeros((channels + 2) * stride, np.float32)
    block_stops = np.zeros(stride, np.int32)
    reals = _reals()
    offsets = np.empty(2 * BLOCK, np.int64)
    sums = np.empty(NUM_MOMENTS + channels, np.float32)
    lanes = np.zeros(channels * LANES, np.float32)
    flat_colors = colors.reshape(-1)
    for task in range(first, last):
        b, group = task // groups, task % groups
        out = partial[task]
        out[:] = 0.0
        for block in range(blocks * group // groups, blocks * (group + 1) // groups):
            top = block * BLOCK
            bottom = min(top + BLOCK, height)
            for row in range(bottom - top):
                y, at = top + row, row * padded
                for x in range(width):
                    planes[at + x] = transmittance[b, y, x]
                    planes[stride + at + x] = -transmittance[b, y, x] * grad_alpha[b, y, x]
                    block_stops[at + x] = stops[b, y, x]
                for c in range(channels):
                    behind = background[b, c]
                    for x in range(width):
                        grad = grad_image[b, c, y, x]
                        planes[(c + 2) * stride + at + x] = grad
                        planes[stride + at + x] += grad * transmittance[b, y, x] * behind
                    out[count, NUM_MOMENTS + c] += _dot(grad_image[b, c, y], transmittance[b, y])
            for k in range(count - 1, -1, -1):
                start, end = max(rows[b, k, 0], top), min(rows[b, k, 1], bottom)
                if start >= end:
                    continue
                own = params[b, k]
                spans = _lay_out(own, start, end, top, width, reals, offsets)
                pull_back(
                    planes,
                    block_stops,
                    reals,
                    offsets,
                    flat_colors,
                    spans,
                    stride,
                    (b * count + k) * channels,
                    channels,
                    np.int32(k),
                    np.float32(own[FALL]),
                    alpha_max,
                    alpha_min,
                    sums,
                    lanes,
                )
                for i in range(NUM_MOMENTS + channels):
                    out[k, i] += sums[i]


@njit(_FINISH, nogil=True, cache=True)
@no_type_check
def finish(
    partial,
    groups,
    params,
    rows,
    height,
    covariances,
    opacities,
    blur,
    grad_centers,
    grad_covariances,
    grad_colors,
    grad_opacities,
    grad_background,
):
    """Add up the groups' sums in order and turn them into gradients."""
    batch, count, channels = grad_colors.shape
    blocks = (height + BLOCK - 1) // BLOCK
    sums = np.empty(NUM_MOMENTS + channels)
    for b in range(batch):
        for k in range(count + 1):
            sums[:] = 0.0
            # the groups that its rows may lie in
            start, end = 0, groups
            if k < count:
                start = rows[b, k, 0] // BLOCK * groups // blocks
                end = min((max(rows[b, k, 1], 1) - 1) // BLOCK * groups // blocks + 2, groups)
            for group in range(start, end):
                for i in range(NUM_MOMENTS + channels):
                    sums[i] += partial[b * groups + group, k, i]
            if k == count:
                grad_background[b] = sums[NUM_MOMENTS:]
                break
            grad_colors[b, k] = sums[NUM_MOMENTS:]
            if not np.any(sums[:NUM_MOMENTS]):
                # among others all that are not drawn, whose ``params`` are not filled
                grad_centers[b, k] = 0.0
                grad_covariances[b, k] = 0.0
                grad_opacities[b, k] = 0.0
                continue
            v, v_dy, v_dy2, v_u, v_dy_u, v_u2 = sums[0], sums[1], sums[2], sums[3], sums[4], sums[5]
            xx = np.float64(covariances[b, k, 0, 0]) + blur
            yy = np.float64(covariances[b, k, 1, 1]) + blur
            xy = 0.5 * (np.float64(covariances[b, k, 0, 1]) + np.float64(covariances[b, k, 1, 0]))
            det = xx * yy - xy * xy
            precision = yy / det
            grad_x = precision * v_u
            grad_slope = precision * v_dy_u
            slope = params[b, k, SLOPE]
            grad_centers[b, k, 0] = grad_x
            grad_centers[b, k, 1] = v_dy / yy - slope * grad_x
            # log(alpha) = log(opacity) - dy^2/(2 yy) - u^2 yy/(2 det), with slope = xy/yy
            grad_covariances[b, k, 0, 0] = 0.5 * v_u2 * precision * precision
            grad_covariances[b, k, 1, 1] = (
                0.5 * (v_u2 * (xy / det) ** 2 + v_dy2 / (yy * yy)) - grad_slope * slope / yy
            )
            grad_covariances[b, k, 0, 1] = 0.5 * (grad_slope / yy - v_u2 * precision * xy / det)
            grad_covariances[b, k, 1, 0] = grad_covariances[b, k, 0, 1]
            grad_opacities[b, k] = v / np.float64(opacities[b, k])
