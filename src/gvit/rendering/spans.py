"""The inner loops of the CPU backend: one Gaussian over the pixel spans of a block of rows, front or back.

A block of rows lies in tiles of four rows and four columns, a vector per field and tile: the rows of small
Gaussians would leave much of a vector of sixteen columns empty. All fields of a tile lie together, first the
transmittance, then (backward) what is seen behind the Gaussians to come and the stops, then one per channel
(forward: the image, backward: its gradient). The tiles of one strip of rows come after those of the strip
above. A span is the tiles of one strip that a Gaussian may reach. Exponents are binary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, no_type_check

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gvit.rendering.simd import LANES, Tracer, Vector, sums

BLOCK = 32  # rows
# of a tile
ROWS, COLUMNS = 4, 4
_ROW_BITS, _COLUMN_BITS = 2, 2
# of a tile, before the channels
FORWARD_FIELDS, BACKWARD_FIELDS = 1, 3
NUM_PARAMS = 9
NUM_MOMENTS = 6
# What is known of a row: the number of the span's first tile, how many tiles it has (integers, in the first row
# of a strip); u and the exponent at the first tile's first column (see ``cpu_kernels``), and dy (float32), in
# units in which neither it nor its square leaves float32's range where the Gaussian is seen.
NUM_FIELDS = 5
_FIRST, _TILES, _U, _EXPONENT, _DY = range(NUM_FIELDS)
# an error of float32 numbers, generously
_ROUNDING = 2.0**-21
# left or right of any pixel
_FAR = 1e9
# adding this rounds to an integer, left in the lowest bits
_ROUNDER = 1.5 * 2**23
# 2^f for |f| <= 1/2, Taylor: relative error below 3e-7
_EXP2 = (1.3333558146e-3, 9.6181291076e-3, 5.5504108664e-2, 2.4022650696e-1, 6.9314718056e-1, 1.0)
# Kept in memory: constants that LLVM can see it may load anew for each vector. One more follows these, the
# smallest exponent that is drawn. From the place ``LANES`` on: how far the pixels of a tile are right of a span's
# first column, a vector for each tile that a span may have.
CONSTANTS = (_ROUNDER, *_EXP2)
NUM_CONSTANTS = len(CONSTANTS) + 1


def _intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    return intrinsic(function)


# so many sums are formed together
_SUMMED = 8
# colours of the usual three channels stay in registers
_UNROLLED = 3


def _for_channels(tracer: Tracer, channels: Any, body: Callable[[Any, int], None]) -> None:
    """Emit ``body(channels, unrolled)`` twice: for the usual number of channels and for any (0)."""
    builder = tracer.builder
    usual = tracer.integer(_UNROLLED)
    with builder.if_else(builder.icmp_signed("==", channels, usual)) as (then, otherwise):
        with then:
            body(usual, _UNROLLED)
        with otherwise:
            body(channels, 0)


class _Slot:
    """The spans of one Gaussian in memory: ``NUM_FIELDS`` times a number for each row of a block."""

    def __init__(self, tracer: Tracer, spans: Any, slot: Any) -> None:
        self.tracer = tracer
        builder = tracer.builder
        first = builder.mul(slot, tracer.integer(NUM_FIELDS * BLOCK))
        self.ints = builder.gep(spans, [first])
        self.floats = builder.bitcast(self.ints, ir.FloatType().as_pointer())

    def _at(self, field: int, row: Any) -> Any:
        return self.tracer.builder.add(row, self.tracer.integer(field * BLOCK))

    def store(self, field: int, row: Any, values: Vector) -> None:
        self.tracer.store(values, self.ints, self._at(field, row))

    def load_int(self, field: int, row: Any) -> Any:
        builder = self.tracer.builder
        number = builder.load(builder.gep(self.ints, [self._at(field, row)]))
        return builder.sext(number, ir.IntType(64))

    def load_floats(self, field: int, row: Any) -> Vector:
        """For the rows of a tile, each in the lanes of its row."""
        return self.tracer.load(self.floats, self._at(field, row), ROWS).shuffle([*range(ROWS)] * COLUMNS)


class _Spans:
    """What both directions share: the walk over strips and tiles, and the Gaussian's alpha there."""

    def __init__(self, context: Any, builder: Any, kinds: Sequence[Any], arguments: Sequence[Any]) -> None:
        self.tracer = tracer = Tracer(context, builder)
        pointers = [tracer.data(kinds[i], arguments[i]) for i in (0, 1, 2, 4)]
        self.tiles, self.constants, spans, self.colors = pointers
        self.slot = _Slot(tracer, spans, arguments[3])
        self.strips, self.color, self.channels = arguments[5:8]
        self.index, self.root, self.alpha_max = map(tracer.broadcast, arguments[8:11])
        scalars = [tracer.load_scalar(self.constants, tracer.integer(i)) for i in range(NUM_CONSTANTS)]
        self.rounder, *self.coefficients, self.lowest = scalars
        self.one = self.coefficients[-1]

    def field(self, tile: Any, fields: Any, number: Any) -> Any:
        """Where the field of that number of a tile begins, with so many fields to a tile."""
        builder = self.tracer.builder
        vector = builder.add(builder.mul(tile, fields), number)
        return builder.mul(vector, self.tracer.integer(LANES))

    def color_at(self, channel: Any) -> Vector:
        return self.tracer.load_scalar(self.colors, self.tracer.builder.add(self.color, channel))

    def exp2(self, exponent: Vector) -> Vector:
        shifted = exponent + self.rounder
        fraction = exponent - (shifted - self.rounder)
        # not by Horner's rule, whose steps would wait for each other
        c5, c4, c3, c2, c1, c0 = self.coefficients
        square = fraction * fraction
        power = ((c5 * fraction + c4) * square + (c3 * fraction + c2)) * square + (c1 * fraction + c0)
        return (power.as_int_bits() + (shifted.as_int_bits() << 23)).as_float_bits()

    def alpha(self, u: Vector, exponent: Vector) -> tuple[Vector, Vector, Vector]:
        """Alpha without bounds, alpha of at most ``alpha_max``, and whether it is large enough to be drawn.

        Where it is not, the former may be any numbers.
        """
        exponent = exponent - u * u
        free = self.exp2(exponent)
        return free, free.at_most(self.alpha_max), exponent >= self.lowest

    def walk(
        self, vector: Callable[[Any, Vector, Vector], None], end_of_strip: Callable[[Vector], None]
    ) -> None:
        """Call ``vector(tile, u, exponent)`` for each tile, and ``end_of_strip(dy)``."""
        tracer, builder = self.tracer, self.tracer.builder

        def strip(number: Any) -> None:
            row = builder.mul(number, tracer.integer(ROWS))
            first, tiles = (self.slot.load_int(field, row) for field in (_FIRST, _TILES))
            u, exponent, dy = (self.slot.load_floats(field, row) for field in (_U, _EXPONENT, _DY))

            def step(turn: Any) -> None:
                place = builder.mul(builder.add(turn, tracer.integer(1)), tracer.integer(LANES))
                along = tracer.load(self.constants, place)
                vector(builder.add(first, turn), u + along * self.root, exponent)

            tracer.repeat(tiles, step)
            end_of_strip(dy)

        tracer.repeat(self.strips, strip)


def _weave(arguments: tuple[Any, ...], exchange: Callable[[list[Vector]], list[Vector]]) -> Any:
    """What ``to_tiles`` and ``to_rows`` share."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tracer = Tracer(context, builder)
        source, target = (tracer.data(signature.args[i], arguments[i]) for i in (0, 4))
        (first, apart, step), (to, to_apart, to_step, count) = arguments[1:4], arguments[5:]

        def turn(number: Any) -> None:
            place = builder.add(first, builder.mul(number, step))
            vectors = []
            for _ in range(ROWS):
                vectors.append(tracer.load(source, place))
                place = builder.add(place, apart)
            # twice, for four are two times two
            vectors = exchange(exchange(vectors))
            place = builder.add(to, builder.mul(number, to_step))
            for vector in vectors:
                tracer.store(vector, target, place)
                place = builder.add(place, to_apart)

        tracer.repeat(count, turn)
        return context.get_dummy_value()

    return types.void(*arguments), generate


@_intrinsic
@no_type_check
def to_tiles(
    typing_context: Any,
    source: Any,
    first: Any,
    apart: Any,
    step: Any,
    target: Any,
    to: Any,
    to_apart: Any,
    to_step: Any,
    count: Any,
) -> Any:
    """Four rows into tiles, column after column.

    The vectors begin at ``first`` and each ``apart`` further, the new ones at ``to`` and each ``to_apart``
    further; the steps lead to the next four, ``count`` times.
    """

    def exchange(vectors: list[Vector]) -> list[Vector]:
        lanes = [lane + side for lane in range(LANES) for side in (0, LANES)]
        pairs = ((vectors[0], vectors[2]), (vectors[1], vectors[3]))
        return [one.shuffle(half, other) for one, other in pairs for half in (lanes[:LANES], lanes[LANES:])]

    return _weave((source, first, apart, step, target, to, to_apart, to_step, count), exchange)


@_intrinsic
@no_type_check
def to_rows(
    typing_context: Any,
    source: Any,
    first: Any,
    apart: Any,
    step: Any,
    target: Any,
    to: Any,
    to_apart: Any,
    to_step: Any,
    count: Any,
) -> Any:
    """The inverse of ``to_tiles``."""

    def exchange(vectors: list[Vector]) -> list[Vector]:
        pairs = (vectors[:2], vectors[2:])
        return [one.shuffle(range(side, 2 * LANES, 2), other) for side in (0, 1) for one, other in pairs]

    return _weave((source, first, apart, step, target, to, to_apart, to_step, count), exchange)


@_intrinsic
@no_type_check
def lay_out(
    typing_context: Any,
    params: Any,
    first_row: Any,
    strips: Any,
    pitch: Any,
    tile: Any,
    width: Any,
    spans: Any,
    slot: Any,
) -> Any:
    """Fill ``slot`` of ``spans`` with the spans of one Gaussian in so many strips of rows.

    ``params`` are the Gaussian's own. The first strip begins with row ``first_row`` of the image and with
    ``tile``; a strip has ``pitch`` tiles. Works on several strips at a time; what lies beyond the last is
    never looked at.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tracer = Tracer(context, builder)
        params = tracer.data(signature.args[0], arguments[0])
        first_row, strips, pitch, tile, width = arguments[1:6]
        spans = _Slot(tracer, tracer.data(signature.args[6], arguments[6]), arguments[7])
        cx, cy, slope, fall_y, root, top, drop, inverse_root, unit_y = (
            tracer.load_scalar(params, tracer.integer(i)) for i in range(NUM_PARAMS)
        )
        first_row, pitch, tile, width = (
            tracer.broadcast(tracer.to_int32(number)) for number in (first_row, pitch, tile, width)
        )
        width = width.to_floats()
        inverse_root = inverse_root.to_floats()

        per_turn = LANES // ROWS
        turns = builder.sdiv(builder.add(strips, tracer.integer(per_turn - 1)), tracer.integer(per_turn))

        def several_strips(turn: Any) -> None:
            at = builder.mul(turn, tracer.integer(LANES))
            row = tracer.broadcast(tracer.to_int32(at)) + tracer.integers(*range(LANES))
            dy = (row + first_row).to_doubles() + 0.5 - cy
            lost = fall_y * dy * dy
            middle = cx - 0.5 + slope * dy
            # The ends of spans are found in float32, a little too far out.
            rest, center = (drop - lost).to_floats(), middle.to_floats()
            within = rest > 0.0
            half = rest.at_least(0.0).sqrt() * inverse_root + (center.at_least(-center) * _ROUNDING)
            left = within.choose(center - half, _FAR)
            right = within.choose(center + half, -_FAR)
            for distance in (1, 2):
                # in the end all rows of a strip have the same
                neighbours = [lane ^ distance for lane in range(LANES)]
                left = left.at_most(left.shuffle(neighbours))
                right = right.at_least(right.shuffle(neighbours))
            # nothing below 0 is rounded, which would go upwards
            left = left.at_least(-1.0).at_most(width) + 1.0
            right = right.at_least(-float(COLUMNS)).at_most(width - 1.0) + float(COLUMNS)
            first, end = left.to_ints() >> _COLUMN_BITS, right.to_ints() >> _COLUMN_BITS
            spans.store(_FIRST, at, tile + (row >> _ROW_BITS) * pitch + first)
            spans.store(_TILES, at, end - first)
            u = ((first << _COLUMN_BITS).to_doubles() - middle) * root
            for field, value in ((_U, u), (_EXPONENT, top - lost), (_DY, dy * unit_y)):
                spans.store(field, at, value.to_floats().as_int_bits())

        tracer.repeat(turns, several_strips)
        return context.get_dummy_value()

    arguments = (params, first_row, strips, pitch, tile, width, spans, slot)
    return types.void(*arguments), generate


@_intrinsic
@no_type_check
def draw(
    typing_context: Any,
    tiles: Any,
    constants: Any,
    spans: Any,
    slot: Any,
    colors: Any,
    strips: Any,
    color: Any,
    channels: Any,
    index: Any,
    root: Any,
    alpha_max: Any,
    transmittance_min: Any,
    kept: Any,
    stops: Any,
) -> Any:
    """Add one Gaussian, whose spans are in ``slot`` of ``spans``, to a block of rows.

    ``colors`` is flat, the Gaussian's begin at ``color``; ``index`` is its number; ``root`` the root of what
    the exponent loses per squared pixel along a row. A pixel that stops keeps its transmittance in ``kept``
    and the Gaussian's number in ``stops``, a vector per tile each; what is left in ``tiles`` is -0.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        spans = _Spans(context, builder, signature.args, arguments)
        tracer = spans.tracer
        kept, stops = (tracer.data(signature.args[i], arguments[i]) for i in (12, 13))
        # of numbers at least 0 the bits are in the same order; those of -0 are larger, so that a pixel stops once
        transmittance_min = tracer.broadcast(arguments[11]).as_int_bits()

        def body(channels: Any, unrolled: int) -> None:
            fixed = [spans.color_at(tracer.integer(c)) for c in range(unrolled)]
            fields = builder.add(channels, tracer.integer(FORWARD_FIELDS))
            weight = tracer.variable(tracer.zero)

            def vector(tile: Any, u: Vector, exponent: Vector) -> None:
                _, alpha, drawn = spans.alpha(u, exponent)
                alpha = drawn.choose(alpha, 0.0)
                place = spans.field(tile, fields, tracer.integer(0))
                before = tracer.load(spans.tiles, place)
                after = before * (spans.one - alpha)
                tracer.store(after, spans.tiles, place)
                tracer.set(weight, before - after)
                halt = after.as_int_bits().at_most_unsigned(transmittance_min)
                # once per pixel at most: not worth a store each time
                with builder.if_then(halt.any(), likely=False):
                    tracer.store(halt.choose(-tracer.zero, after), spans.tiles, place)
                    tracer.set(weight, before * halt.choose(tracer.zero, alpha))
                    place = builder.mul(tile, tracer.integer(LANES))
                    for value, room in ((before, kept), (spans.index, stops)):
                        tracer.store(halt.choose(value, tracer.load(room, place)), room, place)

                def blend(channel: Any, color: Vector) -> None:
                    number = builder.add(channel, tracer.integer(FORWARD_FIELDS))
                    place = spans.field(tile, fields, number)
                    tracer.store(
                        tracer.load(spans.tiles, place) + tracer.get(weight) * color, spans.tiles, place
                    )

                for number, color in enumerate(fixed):
                    blend(tracer.integer(number), color)
                if not unrolled:
                    tracer.repeat(channels, lambda channel: blend(channel, spans.color_at(channel)))

            spans.walk(vector, lambda _: None)

        _for_channels(tracer, spans.channels, body)
        return context.get_dummy_value()

    drawn = (tiles, constants, spans, slot, colors, strips, color, channels)
    scalars = (index, root, alpha_max, transmittance_min)
    return types.void(*drawn, *scalars, kept, stops), generate


@_intrinsic
@no_type_check
def pull_back(
    typing_context: Any,
    tiles: Any,
    constants: Any,
    spans: Any,
    slot: Any,
    colors: Any,
    strips: Any,
    color: Any,
    channels: Any,
    index: Any,
    root: Any,
    alpha_max: Any,
    totals: Any,
    lanes: Any,
) -> Any:
    """Take one Gaussian off a block of rows again, back to front, and add its gradients to ``totals``.

    With g the gradient of a pixel's colour and v that of log(alpha) there: the sums of v, v*dy, v*dy^2, v*u,
    v*dy*u, v*u^2, then the colours' gradients. What is seen behind, B, is the colour that the Gaussians
    further back and the background would have alone, times g: v = T*alpha * (g*colour - B), and in front of
    this one B is B + alpha * (g*colour - B). ``lanes`` is scratch, a vector per channel, zeros on entry and
    return.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        spans = _Spans(context, builder, signature.args, arguments)
        tracer = spans.tracer
        totals, lanes = (tracer.data(signature.args[i], arguments[i]) for i in (11, 12))

        def body(channels: Any, unrolled: int) -> None:
            fixed = [spans.color_at(tracer.integer(c)) for c in range(unrolled)]
            fields = builder.add(channels, tracer.integer(BACKWARD_FIELDS))
            fixed_sums = [tracer.variable(tracer.zero) for _ in fixed]
            moments = [tracer.variable(tracer.zero) for _ in range(NUM_MOMENTS)]
            of_strip = [tracer.variable(tracer.zero) for _ in range(3)]
            seen = tracer.variable(tracer.zero)

            def vector(tile: Any, u: Vector, exponent: Vector) -> None:
                here = [spans.field(tile, fields, tracer.integer(i)) for i in range(BACKWARD_FIELDS)]
                free, alpha, drawn = spans.alpha(u, exponent)
                drawn = drawn & (tracer.load(spans.tiles, here[2]).as_int_bits() > spans.index)
                alpha = drawn.choose(alpha, 0.0)
                transmittance = tracer.load(spans.tiles, here[0]) / (spans.one - alpha)
                weight = transmittance * alpha
                tracer.store(transmittance, spans.tiles, here[0])

                def gradient(channel: Any) -> Vector:
                    number = builder.add(channel, tracer.integer(BACKWARD_FIELDS))
                    return tracer.load(spans.tiles, spans.field(tile, fields, number))

                behind = tracer.load(spans.tiles, here[1])
                tracer.set(seen, -behind)
                for number, color in enumerate(fixed):
                    grad = gradient(tracer.integer(number))
                    tracer.add_to(seen, grad * color)
                    tracer.add_to(fixed_sums[number], weight * grad)
                if not unrolled:

                    def each(channel: Any) -> None:
                        grad = gradient(channel)
                        tracer.add_to(seen, grad * spans.color_at(channel))
                        place = builder.mul(channel, tracer.integer(LANES))
                        tracer.store(tracer.load(lanes, place) + weight * grad, lanes, place)

                    tracer.repeat(channels, each)
                ahead = tracer.get(seen)
                tracer.store(behind + alpha * ahead, spans.tiles, here[1])
                v = (free <= spans.alpha_max).choose(weight * ahead, 0.0)
                for room, term in zip(of_strip, (v, v * u, v * u * u), strict=True):
                    tracer.add_to(room, term)

            def end_of_strip(dy: Vector) -> None:
                v, vu, vuu = map(tracer.get, of_strip)
                terms = (v, v * dy, v * dy * dy, vu, vu * dy, vuu)
                for room, term in zip(moments, terms, strict=True):
                    tracer.add_to(room, term)
                for room in of_strip:
                    tracer.set(room, tracer.zero)

            spans.walk(vector, end_of_strip)

            def add_to_totals(number: Any, addend: Any) -> None:
                place = builder.gep(totals, [number])
                builder.store(
                    builder.fadd(builder.load(place), builder.fpext(addend, ir.DoubleType())), place
                )

            results = [tracer.get(room) for room in (*moments, *fixed_sums)]
            if len(results) >= _SUMMED:
                first = tracer.integer(0)
                several = tracer.load(totals, first, _SUMMED) + sums(results[:_SUMMED]).to_doubles()
                tracer.store(several, totals, first)
                results[:_SUMMED] = []
            for number, result in enumerate(results, len(moments) + len(fixed_sums) - len(results)):
                add_to_totals(tracer.integer(number), result.sum())
            if not unrolled:

                def collect(channel: Any) -> None:
                    place = builder.mul(channel, tracer.integer(LANES))
                    number = builder.add(channel, tracer.integer(NUM_MOMENTS))
                    add_to_totals(number, tracer.load(lanes, place).sum())
                    tracer.store(tracer.zero, lanes, place)

                tracer.repeat(channels, collect)

        _for_channels(tracer, spans.channels, body)
        return context.get_dummy_value()

    drawn = (tiles, constants, spans, slot, colors, strips, color, channels)
    return types.void(*drawn, index, root, alpha_max, totals, lanes), generate
