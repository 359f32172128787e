"""The inner loops of the CPU backend: one Gaussian over the pixel spans of a block of rows, front or back.

A block of rows lies in ``planes``, ``stride`` numbers each: first the transmittance, then (backward) what
shines through from behind, then one plane per channel (forward: the image, backward: its gradient). A span is
given by ``offsets`` (of its first pixel within a plane; number of vectors) and ``reals`` (u and the exponent
at the first pixel's row, see ``cpu_kernels``; dy). Exponents are binary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, no_type_check

from numba import types
from numba.extending import intrinsic

from gvit.rendering.simd import LANES, Tracer, Vector

NUM_MOMENTS = 6
# adding this rounds to an integer, left in the lowest bits together with the bias of a float32 exponent
_ROUNDER = 1.5 * 2**23 + 127
# 2^f for |f| <= 1/2, Taylor: relative error below 3e-7
_EXP2 = (1.3333558146e-3, 9.6181291076e-3, 5.5504108664e-2, 2.4022650696e-1, 6.9314718056e-1, 1.0)
_LOWEST = -126.0
# Kept in memory at the start of ``reals``: constants that LLVM can see it may load anew for each vector.
CONSTANTS = (float(LANES), _LOWEST, _ROUNDER, *_EXP2)
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


class _Spans:
    """What both directions share: the walk over rows and vectors, and the Gaussian's alpha there."""

    def __init__(self, context: Any, builder: Any, kinds: Sequence[Any], arguments: Sequence[Any]) -> None:
        self.tracer = tracer = Tracer(context, builder)
        pointers = [tracer.data(kinds[i], arguments[i]) for i in (0, 1, 2, 3, 4)]
        self.planes, self.stops, self.reals, self.offsets, self.colors = pointers
        self.rows, self.stride, self.color, self.channels = arguments[5:9]
        self.index, self.fall, self.alpha_max, self.alpha_min = map(tracer.broadcast, arguments[9:13])
        constants = [tracer.load_scalar(self.reals, tracer.integer(i)) for i in range(len(CONSTANTS))]
        self.lanes, self.lowest, self.rounder, *self.coefficients = constants
        self.one = self.coefficients[-1]

    def plane(self, number: Any, pixel: Any) -> Any:
        builder = self.tracer.builder
        return builder.add(pixel, builder.mul(number, self.stride))

    def color_at(self, channel: Any) -> Vector:
        return self.tracer.load_scalar(self.colors, self.tracer.builder.add(self.color, channel))

    def exp2(self, exponent: Vector) -> Vector:
        bounded = exponent.at_least(self.lowest)
        shifted = bounded + self.rounder
        fraction = bounded - (shifted - self.rounder)
        power = self.coefficients[0]
        for coefficient in self.coefficients[1:]:
            power = power * fraction + coefficient
        return power * (shifted.as_int_bits() << 23).as_float_bits()

    def alpha(self, u: Vector, exponent: Vector, stop: Vector) -> tuple[Vector, Vector]:
        """Alpha before the bounds, and as drawn: 0 where it is too small or the pixel has stopped."""
        free = self.exp2(exponent - self.fall * u * u)
        drawn = (free >= self.alpha_min) & (stop > self.index)
        return free, drawn.choose(free.at_most(self.alpha_max), 0.0)

    def walk(
        self, vector: Callable[[Any, Vector, Vector], None], end_of_row: Callable[[Vector], None]
    ) -> None:
        """Call ``vector(pixel, u, exponent)`` all along, and ``end_of_row(dy)``."""
        tracer, builder = self.tracer, self.tracer.builder
        advance = tracer.variable(tracer.zero)

        def row(number: Any) -> None:
            two = builder.mul(number, tracer.integer(2))
            three = builder.add(builder.mul(number, tracer.integer(3)), tracer.integer(len(CONSTANTS)))
            first = builder.load(builder.gep(self.offsets, [two]))
            vectors = builder.load(builder.gep(self.offsets, [builder.add(two, tracer.integer(1))]))
            u, exponent, dy = (
                tracer.load_scalar(self.reals, builder.add(three, tracer.integer(n))) for n in range(3)
            )
            u = u + tracer.constant(*map(float, range(LANES)))
            tracer.set(advance, tracer.zero)

            def step(turn: Any) -> None:
                # whole numbers, so that the sum is as exact at the end of a long span as at its start
                along = tracer.get(advance)
                tracer.set(advance, along + self.lanes)
                pixel = builder.add(first, builder.mul(turn, tracer.integer(LANES)))
                vector(pixel, u + along, exponent)

            tracer.repeat(vectors, step)
            end_of_row(dy)

        tracer.repeat(self.rows, row)


@intrinsic
@no_type_check
def draw(
    typing_context: Any,
    planes: Any,
    stops: Any,
    reals: Any,
    offsets: Any,
    colors: Any,
    rows: Any,
    stride: Any,
    color: Any,
    channels: Any,
    index: Any,
    fall: Any,
    alpha_max: Any,
    alpha_min: Any,
    transmittance_min: Any,
) -> Any:
    """Add one Gaussian to a block of rows.

    ``colors`` is flat, the Gaussian's begin at ``color``; ``index`` is its number; ``fall`` what the exponent
    loses per squared pixel along a row.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        spans = _Spans(context, builder, signature.args, arguments)
        tracer = spans.tracer
        transmittance_min = tracer.broadcast(arguments[13])

        def body(channels: Any, unrolled: int) -> None:
            fixed = [spans.color_at(tracer.integer(c)) for c in range(unrolled)]
            weight = tracer.variable(tracer.zero)

            def vector(pixel: Any, u: Vector, exponent: Vector) -> None:
                stop = tracer.load(spans.stops, pixel)
                _, alpha = spans.alpha(u, exponent, stop)
                before = tracer.load(spans.planes, pixel)
                after = before - before * alpha
                tracer.store(after, spans.planes, pixel)
                tracer.set(weight, before * alpha)
                halt = after <= transmittance_min
                # once per pixel at most: not worth a store each time
                with builder.if_then(halt.any(), likely=False):
                    tracer.store(halt.choose(before, after), spans.planes, pixel)
                    tracer.store(halt.choose(spans.index, stop), spans.stops, pixel)
                    tracer.set(weight, before * halt.choose(tracer.zero, alpha))

                def blend(channel: Any, color: Vector) -> None:
                    place = spans.plane(builder.add(channel, tracer.integer(1)), pixel)
                    tracer.store(
                        tracer.load(spans.planes, place) + tracer.get(weight) * color, spans.planes, place
                    )

                for number, color in enumerate(fixed):
                    blend(tracer.integer(number), color)
                if not unrolled:
                    tracer.repeat(channels, lambda channel: blend(channel, spans.color_at(channel)))

            spans.walk(vector, lambda dy: None)

        _for_channels(tracer, spans.channels, body)
        return context.get_dummy_value()

    arrays = (planes, stops, reals, offsets, colors)
    scalars = (rows, stride, color, channels, index, fall, alpha_max, alpha_min, transmittance_min)
    return types.void(*arrays, *scalars), generate


@intrinsic
@no_type_check
def pull_back(
    typing_context: Any,
    planes: Any,
    stops: Any,
    reals: Any,
    offsets: Any,
    colors: Any,
    rows: Any,
    stride: Any,
    color: Any,
    channels: Any,
    index: Any,
    fall: Any,
    alpha_max: Any,
    alpha_min: Any,
    sums: Any,
    lanes: Any,
) -> Any:
    """Take one Gaussian off a block of rows again, back to front, and sum up its gradients into ``sums``.

    With v the gradient of log(alpha) at a pixel: the sums of v, v*dy, v*dy^2, v*u, v*dy*u, v*u^2, then the
    colours' gradients. ``lanes`` is scratch, a vector per channel, zeros on entry and return.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        spans = _Spans(context, builder, signature.args, arguments)
        tracer = spans.tracer
        sums, lanes = (tracer.data(signature.args[i], arguments[i]) for i in (13, 14))

        def body(channels: Any, unrolled: int) -> None:
            fixed = [spans.color_at(tracer.integer(c)) for c in range(unrolled)]
            fixed_sums = [tracer.variable(tracer.zero) for _ in fixed]
            moments = [tracer.variable(tracer.zero) for _ in range(NUM_MOMENTS)]
            of_row = [tracer.variable(tracer.zero) for _ in range(3)]
            seen = tracer.variable(tracer.zero)

            def vector(pixel: Any, u: Vector, exponent: Vector) -> None:
                free, alpha = spans.alpha(u, exponent, tracer.load(spans.stops, pixel))
                inverse = spans.one / (spans.one - alpha)
                transmittance = tracer.load(spans.planes, pixel) * inverse
                weight = transmittance * alpha
                tracer.store(transmittance, spans.planes, pixel)

                def gradient(channel: Any) -> Vector:
                    place = spans.plane(builder.add(channel, tracer.integer(2)), pixel)
                    return tracer.load(spans.planes, place)

                tracer.set(seen, tracer.zero)
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
                own = tracer.get(seen)
                place = spans.plane(tracer.integer(1), pixel)
                behind = tracer.load(spans.planes, place)
                tracer.store(behind + weight * own, spans.planes, place)
                v = alpha * (transmittance * own - behind * inverse)
                v = (free <= spans.alpha_max).choose(v, 0.0)
                for room, term in zip(of_row, (v, v * u, v * u * u), strict=True):
                    tracer.add_to(room, term)

            def end_of_row(dy: Vector) -> None:
                v, vu, vuu = map(tracer.get, of_row)
                terms = (v, v * dy, v * dy * dy, vu, vu * dy, vuu)
                for room, term in zip(moments, terms, strict=True):
                    tracer.add_to(room, term)
                for room in of_row:
                    tracer.set(room, tracer.zero)

            spans.walk(vector, end_of_row)
            for number, room in enumerate((*moments, *fixed_sums)):
                builder.store(tracer.get(room).sum(), builder.gep(sums, [tracer.integer(number)]))
            if not unrolled:

                def collect(channel: Any) -> None:
                    place = builder.mul(channel, tracer.integer(LANES))
                    total = builder.gep(sums, [builder.add(channel, tracer.integer(NUM_MOMENTS))])
                    builder.store(tracer.load(lanes, place).sum(), total)
                    tracer.store(tracer.zero, lanes, place)

                tracer.repeat(channels, collect)

        _for_channels(tracer, spans.channels, body)
        return context.get_dummy_value()

    arrays = (planes, stops, reals, offsets, colors)
    scalars = (rows, stride, color, channels, index, fall, alpha_max, alpha_min)
    return types.void(*arrays, *scalars, sums, lanes), generate
