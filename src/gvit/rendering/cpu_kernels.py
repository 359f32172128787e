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
from collections.abc import Callable
from typing import no_type_check

import numpy as np
from numba import njit

from gvit.rendering.simd import LANES
from gvit.rendering.spans import (
    BACKWARD_FIELDS,
    BLOCK,
    COLUMNS,
    CONSTANTS,
    FORWARD_FIELDS,
    NUM_FIELDS,
    NUM_MOMENTS,
    NUM_PARAMS,
    ROWS,
    draw,
    lay_out,
    pull_back,
    to_rows,
    to_tiles,
)

# columns of ``params``, float64: what a row needs to know about a Gaussian
CX, CY, SLOPE, FALL_Y, ROOT, TOP, DROP, INVERSE_ROOT, UNIT_Y = range(NUM_PARAMS)
_HALF_LOG2_E = 0.5 / math.log(2.0)
# of alpha's logarithm: alpha_min = 0 asks for no more than float32's normal numbers
_LOWEST = -126.0
_LARGEST = float(np.finfo(np.float32).max)
# So many Gaussians have their spans found before they are drawn: drawing then need not wait for the spans.
_AHEAD = 8

_PREPARE = (
    "void(float32[:,:,::1], float32[:,:,:,::1], float32[:,:,::1], float32[:,::1], float32[:,::1],"
    " float64, float64, int64, float64[:,:,::1], int32[:,:,::1], int64[::1], int64, int64)"
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
    " float32[:,:,::1], float32[:,:,:,::1], float32[:,:,::1], float32[:,::1], float32[:,::1], int64, int64)"
)


def _kernel(signature: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return njit(signature, nogil=True, cache=True)


@njit
@no_type_check
def _log2(alpha_min):
    return max(math.log2(alpha_min), _LOWEST) if alpha_min > 0.0 else _LOWEST


@_kernel(_PREPARE)
@no_type_check
def prepare(
    centers,
    covariances,
    colors,
    opacities,
    background,
    blur,
    alpha_min,
    height,
    params,
    rows,
    spans,
    first,
    last,
):
    """Fill ``params`` and ``rows`` (first row, one past the last) for the Gaussians of images ``first`` to ``last``.

    ``spans`` gets for each image how many (row, Gaussian) pairs there are to draw, or -1 where some number
    can't be drawn.
    """
    low = _log2(alpha_min)
    _, count, channels = colors.shape
    for b in range(first, last):
        total = 0
        spans[b] = -1
        # 0 while all numbers are finite: NaN and infinity times 0 are NaN
        poison = 0.0
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
            if not (
                xx >= 0.0 and yy >= 0.0 and xx * yy - xy * xy >= -1e-6 * xx * yy - 1e-43 * (xx + yy) - 1e-60
            ):
                return
            xx += blur
            yy += blur
            det = xx * yy - xy * xy
            if not 0.0 < det < np.inf:
                return
            rows[b, k, 0] = 0
            rows[b, k, 1] = 0
            if opacity > 0.0 and opacity >= alpha_min:
                own = params[b, k]
                own[CX] = cx
                own[CY] = cy
                per_yy = 1.0 / yy
                own[SLOPE] = xy * per_yy
                own[FALL_Y] = _HALF_LOG2_E * per_yy
                # the root of ``fall``, as the vectors will have it
                own[ROOT] = np.float32(math.sqrt(_HALF_LOG2_E * yy / det))
                own[TOP] = math.log2(opacity)
                # a little more than exact: the vectors test each pixel themselves
                own[DROP] = (own[TOP] - low) * (1.0 + 1e-6) + 1e-5
                own[INVERSE_ROOT] = 1.0 / own[ROOT]
                # a power of two, so that nothing is rounded, about the standard deviation's inverse
                own[UNIT_Y] = math.ldexp(1.0, -(math.frexp(yy)[1] // 2))
                reach = math.sqrt(own[DROP] * yy * (1.0 / _HALF_LOG2_E))
                rows[b, k, 0] = int(min(max(math.ceil(cy - 0.5 - reach), 0.0), float(height)))
                rows[b, k, 1] = int(min(max(math.floor(cy + 0.5 + reach), 0.0), float(height)))
                total += max(rows[b, k, 1] - rows[b, k, 0], 0)
        spans[b] = total if poison == 0.0 else -1


@njit
@no_type_check
def _padded(width):
    return (width + LANES - 1) // LANES * LANES


@njit
@no_type_check
def _constants(alpha_min, padded):
    constants = np.empty((1 + padded // COLUMNS) * LANES, np.float32)
    for i in range(len(CONSTANTS)):
        constants[i] = CONSTANTS[i]
    constants[len(CONSTANTS)] = _log2(alpha_min)
    for i in range(LANES, constants.size):
        constants[i] = i // ROWS - COLUMNS
    return constants


@njit
@no_type_check
def _to_tiles(lines, line, tiles, tile, fields, field, padded):
    """A strip of numbers, rows from ``line`` on of ``lines``, becomes a field of the tiles from ``tile`` on."""
    place, step = (tile * fields + field) * LANES, fields * LANES
    to_tiles(lines, line * padded, padded, LANES, tiles, place, step, ROWS * step, padded // LANES)


@njit
@no_type_check
def _to_rows(tiles, tile, fields, field, lines, line, padded):
    place, step = (tile * fields + field) * LANES, fields * LANES
    to_rows(tiles, place, step, ROWS * step, lines, line * padded, padded, LANES, padded // LANES)


@njit
@no_type_check
def _touching(rows, top, bottom, touching):
    """Numbers of the Gaussians that have rows in a block, in order; returns how many."""
    count = 0
    for k in range(rows.shape[0]):
        # no branch, which the processor would guess wrong
        touching[count] = k
        count += max(rows[k, 0], top) < min(rows[k, 1], bottom)
    return count


@njit
@no_type_check
def _lay_out(own, rows, top, bottom, padded, width, spans, slot):
    """Find the spans of one Gaussian in a block; returns for how many strips."""
    first = (max(rows[0], top) - top) // ROWS
    strips = (min(rows[1], bottom) - top + ROWS - 1) // ROWS - first
    pitch = padded // COLUMNS
    lay_out(own, top + first * ROWS, strips, pitch, first * pitch, width, spans, slot)
    return strips


@njit(fastmath={"reassoc", "contract"})
@no_type_check
def _dot(first, second):
    total = np.float32(0.0)
    for i in range(first.size):
        total += first[i] * second[i]
    return total


@_kernel(_FORWARD)
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
    blocks = (height + BLOCK - 1) // BLOCK
    fields = channels + FORWARD_FIELDS
    tiles = np.empty(BLOCK * padded * fields, np.float32)
    by_tile = tiles.reshape(-1, fields * LANES)
    kept = np.empty(BLOCK * padded, np.float32)
    block_stops = np.empty(BLOCK * padded, np.int32)
    lines = np.empty(((channels + 2) * ROWS, padded), np.float32)
    line_stops = np.empty((ROWS, padded), np.int32)
    constants = _constants(alpha_min, padded)
    touching = np.empty(count + 1, np.int32)
    spans = np.empty(_AHEAD * NUM_FIELDS * BLOCK, np.int32)
    strips = np.empty(_AHEAD, np.int64)
    flat_colors = colors.reshape(-1)
    for task in range(first, last):
        b = task // blocks
        top = task % blocks * BLOCK
        bottom = min(top + BLOCK, height)
        for tile in range(by_tile.shape[0]):
            by_tile[tile, :LANES] = 1.0
            by_tile[tile, LANES:] = 0.0
        kept[:] = 0.0
        block_stops[:] = count
        number = _touching(rows[b], top, bottom, touching)
        for start in range(0, number, _AHEAD):
            ahead = min(_AHEAD, number - start)
            for slot in range(ahead):
                k = touching[start + slot]
                strips[slot] = _lay_out(params[b, k], rows[b, k], top, bottom, padded, width, spans, slot)
            for slot in range(ahead):
                k = touching[start + slot]
                draw(
                    tiles,
                    constants,
                    spans,
                    slot,
                    flat_colors,
                    strips[slot],
                    (b * count + k) * channels,
                    channels,
                    np.int32(k),
                    np.float32(params[b, k, ROOT]),
                    alpha_max,
                    minimum,
                    kept,
                    block_stops,
                )
        for row in range(bottom - top):
            y, line = top + row, row % ROWS
            if line == 0:
                tile = row // ROWS * (padded // COLUMNS)
                _to_rows(block_stops, tile, 1, 0, line_stops, 0, padded)
                _to_rows(kept, tile, 1, 0, lines, fields * ROWS, padded)
                for field in range(fields):
                    _to_rows(tiles, tile, fields, field, lines, field * ROWS, padded)
            for x in range(width):
                # where a pixel has stopped the former is 0, elsewhere the latter
                left = lines[line, x] + lines[fields * ROWS + line, x]
                lines[line, x] = left
                alpha[b, y, x] = np.float32(1.0) - left
                transmittance[b, y, x] = left
                stops[b, y, x] = line_stops[line, x]
            for c in range(channels):
                behind = background[b, c]
                for x in range(width):
                    image[b, c, y, x] = lines[(c + FORWARD_FIELDS) * ROWS + line, x] + lines[line, x] * behind


@_kernel(_BACKWARD)
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
    blocks = (height + BLOCK - 1) // BLOCK
    fields = channels + BACKWARD_FIELDS
    tiles = np.zeros(BLOCK * padded * fields, np.float32)
    lines = np.zeros((fields * ROWS, padded), np.float32)
    line_stops = lines[2 * ROWS : 3 * ROWS].view(np.int32)
    constants = _constants(alpha_min, padded)
    touching = np.empty(count + 1, np.int32)
    spans = np.empty(_AHEAD * NUM_FIELDS * BLOCK, np.int32)
    strips = np.empty(_AHEAD, np.int64)
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
                y, line = top + row, row % ROWS
                for x in range(width):
                    lines[line, x] = transmittance[b, y, x]
                    lines[ROWS + line, x] = -grad_alpha[b, y, x]
                    line_stops[line, x] = stops[b, y, x]
                for c in range(channels):
                    behind = background[b, c]
                    for x in range(width):
                        grad = grad_image[b, c, y, x]
                        lines[(c + BACKWARD_FIELDS) * ROWS + line, x] = grad
                        lines[ROWS + line, x] += grad * behind
                    out[count, NUM_MOMENTS + c] += _dot(grad_image[b, c, y], transmittance[b, y])
                if y == height - 1:
                    # rows below the image take no part, as if they had stopped at once
                    line_stops[line + 1 :] = 0
                elif line < ROWS - 1:
                    continue
                tile = row // ROWS * (padded // COLUMNS)
                for field in range(fields):
                    _to_tiles(lines, field * ROWS, tiles, tile, fields, field, padded)
            number = _touching(rows[b], top, bottom, touching)
            for end in range(number, 0, -_AHEAD):
                ahead = min(_AHEAD, end)
                for slot in range(ahead):
                    k = touching[end - 1 - slot]
                    strips[slot] = _lay_out(params[b, k], rows[b, k], top, bottom, padded, width, spans, slot)
                for slot in range(ahead):
                    k = touching[end - 1 - slot]
                    pull_back(
                        tiles,
                        constants,
                        spans,
                        slot,
                        flat_colors,
                        strips[slot],
                        (b * count + k) * channels,
                        channels,
                        np.int32(k),
                        np.float32(params[b, k, ROOT]),
                        alpha_max,
                        out[k],
                        lanes,
                    )


@njit
@no_type_check
def _within(gradient):
    """Float32's largest number for what lies beyond, as the gradient of a Gaussian without blur or width may."""
    return min(max(gradient, -_LARGEST), _LARGEST)


@_kernel(_FINISH)
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
    first,
    last,
):
    """Add up the groups' sums of images ``first`` to ``last`` in order and turn them into gradients."""
    _, count, channels = grad_colors.shape
    blocks = (height + BLOCK - 1) // BLOCK
    sums = np.empty(NUM_MOMENTS + channels)
    for b in range(first, last):
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
            for c in range(channels):
                grad_colors[b, k, c] = sums[NUM_MOMENTS + c]
            if rows[b, k, 0] >= rows[b, k, 1]:
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
            per_det, per_yy = 1.0 / det, 1.0 / yy
            precision = yy * per_det
            # the vectors' u is in units of 1 / root, their dy in units of its own
            unit, unit_y = params[b, k, INVERSE_ROOT], 1.0 / params[b, k, UNIT_Y]
            v_u, v_dy_u, v_u2 = v_u * unit, v_dy_u * unit * unit_y, v_u2 * unit * unit
            v_dy, v_dy2 = v_dy * unit_y, v_dy2 * unit_y * unit_y
            grad_x = precision * v_u
            grad_slope = precision * v_dy_u
            slope, skew = params[b, k, SLOPE], xy * per_det
            grad_centers[b, k, 0] = _within(grad_x)
            grad_centers[b, k, 1] = _within(v_dy * per_yy - slope * grad_x)
            # log(alpha) = log(opacity) - dy^2/(2 yy) - u^2 yy/(2 det), with slope = xy/yy
            grad_covariances[b, k, 0, 0] = _within(0.5 * v_u2 * precision * precision)
            grad_covariances[b, k, 1, 1] = _within(
                0.5 * (v_u2 * skew * skew + v_dy2 * per_yy * per_yy) - grad_slope * slope * per_yy
            )
            grad_covariances[b, k, 0, 1] = _within(0.5 * (grad_slope * per_yy - v_u2 * precision * skew))
            grad_covariances[b, k, 1, 0] = grad_covariances[b, k, 0, 1]
            grad_opacities[b, k] = _within(v / np.float64(opacities[b, k]))
