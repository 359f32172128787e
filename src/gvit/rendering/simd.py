"""Vectors of sixteen float32 or int32 for Numba kernels.

LLVM's own vectoriser leaves the renderer's backward pass scalar. Here a loop body is an ordinary Python
formula over ``Vector``; calling it while Numba compiles writes down the vector instructions (sixteen lanes
are one AVX-512 register; LLVM splits them in two for AVX, in four for SSE and NEON). Nothing of this runs
when the kernel runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils

LANES = 16
_FLOAT, _DOUBLE, _INT = ir.FloatType(), ir.DoubleType(), ir.IntType(32)
# a*b + c may become one instruction; nothing else that changes a result is allowed
_FLAGS = ("contract",)


class Vector:
    """A number (or truth value) per lane, one LLVM value; operators emit the instruction."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder = builder
        self.value = value

    @property
    def lanes(self) -> int:
        return int(self.value.type.count)

    @property
    def _whole(self) -> bool:
        return bool(self.value.type.element == _INT)

    def _as(self, element: Any) -> Any:
        return ir.VectorType(element, self.lanes)

    def _new(self, value: Any) -> Vector:
        return Vector(self.builder, value)

    def _lift(self, other: Vector | float) -> Any:
        if isinstance(other, Vector):
            return other.value
        return ir.Constant(self.value.type, [other] * self.lanes)

    def _arithmetic(self, name: str, other: Vector | float) -> Vector:
        if self._whole:
            return self._new(getattr(self.builder, name)(self.value, self._lift(other)))
        return self._new(getattr(self.builder, "f" + name)(self.value, self._lift(other), flags=_FLAGS))

    def __add__(self, other: Vector | float) -> Vector:
        return self._arithmetic("add", other)

    def __sub__(self, other: Vector | float) -> Vector:
        return self._arithmetic("sub", other)

    def __mul__(self, other: Vector | float) -> Vector:
        return self._arithmetic("mul", other)

    def __truediv__(self, other: Vector) -> Vector:
        return self._new(self.builder.fdiv(self.value, other.value))

    def __lshift__(self, bits: int) -> Vector:
        return self._new(self.builder.shl(self.value, self._lift(bits)))

    def __rshift__(self, bits: int) -> Vector:
        return self._new(self.builder.ashr(self.value, self._lift(bits)))

    def __and__(self, other: Vector) -> Vector:
        return self._new(self.builder.and_(self.value, other.value))

    def _compare(self, sign: str, other: Vector | float) -> Vector:
        compare = self.builder.icmp_signed if self._whole else self.builder.fcmp_ordered
        return self._new(compare(sign, self.value, self._lift(other)))

    def __ge__(self, other: Vector | float) -> Vector:
        return self._compare(">=", other)

    def __gt__(self, other: Vector | float) -> Vector:
        return self._compare(">", other)

    def __lt__(self, other: Vector | float) -> Vector:
        return self._compare("<", other)

    def __le__(self, other: Vector | float) -> Vector:
        return self._compare("<=", other)

    def __neg__(self) -> Vector:
        return self._new(self.builder.fneg(self.value))

    def at_most_unsigned(self, bound: Vector) -> Vector:
        """A comparison of whole numbers without signs."""
        return self._new(self.builder.icmp_unsigned("<=", self.value, bound.value))

    def at_most(self, bound: Vector | float) -> Vector:
        return (self < bound).choose(self, bound)

    def at_least(self, bound: Vector | float) -> Vector:
        return (self > bound).choose(self, bound)

    def choose(self, yes: Vector, no: Vector | float) -> Vector:
        """Lane by lane, ``yes`` where this is true, else ``no``."""
        return self._new(self.builder.select(self.value, yes.value, yes._lift(no)))

    def shuffle(self, order: Sequence[int], other: Vector | None = None) -> Vector:
        """Lane i of the result is lane ``order[i]`` of this, or, counting on, of ``other``."""
        more = ir.Constant(self.value.type, ir.Undefined) if other is None else other.value
        mask = ir.Constant(ir.VectorType(_INT, len(order)), list(order))
        return self._new(self.builder.shuffle_vector(self.value, more, mask))

    def sum(self) -> Any:
        """Of all lanes, pairwise: a scalar."""
        total = self
        step = LANES
        while step > 1:
            step //= 2
            total = total + total.shuffle([(lane + step) % LANES for lane in range(LANES)])
        return self.builder.extract_element(total.value, ir.Constant(_INT, 0))

    def any(self) -> Any:
        """A scalar truth value: is any lane true?"""
        bits = self.builder.bitcast(self.value, ir.IntType(LANES))
        return self.builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0))

    def sqrt(self) -> Vector:
        kind = self.value.type
        name = f"llvm.sqrt.v{self.lanes}{kind.element.intrinsic_name}"
        function = cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(kind, [kind]), name)
        return self._new(self.builder.call(function, [self.value]))

    def to_ints(self) -> Vector:
        """Towards zero."""
        return self._new(self.builder.fptosi(self.value, self._as(_INT)))

    def to_doubles(self) -> Vector:
        convert = self.builder.sitofp if self._whole else self.builder.fpext
        return self._new(convert(self.value, self._as(_DOUBLE)))

    def to_floats(self) -> Vector:
        convert = self.builder.sitofp if self._whole else self.builder.fptrunc
        return self._new(convert(self.value, self._as(_FLOAT)))

    def as_int_bits(self) -> Vector:
        return self._new(self.builder.bitcast(self.value, self._as(_INT)))

    def as_float_bits(self) -> Vector:
        return self._new(self.builder.bitcast(self.value, self._as(_FLOAT)))


def sums(vectors: Sequence[Vector]) -> Vector:
    """Of a power of two of vectors: lane i is the sum of vector i. Much less work than as many times ``sum``."""
    count = len(vectors)
    while len(vectors) > 1 or vectors[0].lanes > count:
        # each vector holds the parts of so many sums, one after the other: halves of parts are added
        parts = vectors[0].lanes * len(vectors) // count
        halves = range(vectors[0].lanes * min(len(vectors), 2) // parts)
        firsts = [parts * number + part for number in halves for part in range(parts // 2)]
        seconds = [first + parts // 2 for first in firsts]
        others: Sequence[Vector | None] = vectors[1::2] or [None]
        vectors = [
            one.shuffle(firsts, other) + one.shuffle(seconds, other)
            for one, other in zip(vectors[::2], others, strict=True)
        ]
    return vectors[0]


class Tracer:
    """Access to the memory and the loops of the kernel that is being compiled."""

    def __init__(self, context: Any, builder: Any) -> None:
        self.context = context
        self.builder = builder
        self.zero: Vector = self.constant(*[0.0] * LANES)

    def broadcast(self, scalar: Any) -> Vector:
        kind = ir.VectorType(scalar.type, LANES)
        first = ir.Constant(ir.IntType(32), 0)
        single = self.builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, first)
        return Vector(self.builder, single).shuffle([0] * LANES)

    def integer(self, number: int) -> Any:
        return ir.Constant(ir.IntType(64), number)

    def integers(self, *numbers: int) -> Vector:
        return Vector(self.builder, ir.Constant(ir.VectorType(_INT, len(numbers)), numbers))

    def to_int32(self, number: Any) -> Any:
        return self.builder.trunc(number, ir.IntType(32))

    def constant(self, *numbers: float) -> Vector:
        return Vector(self.builder, ir.Constant(ir.VectorType(_FLOAT, len(numbers)), numbers))

    def data(self, array_type: Any, array: Any) -> Any:
        """Pointer to the first element of a Numba array."""
        return self.context.make_array(array_type)(self.context, self.builder, array).data

    def load(self, pointer: Any, offset: Any, lanes: int = LANES) -> Vector:
        address = self.builder.gep(pointer, [offset])
        kind = ir.VectorType(pointer.type.pointee, lanes)
        return Vector(
            self.builder, self.builder.load(self.builder.bitcast(address, kind.as_pointer()), align=4)
        )

    def load_scalar(self, pointer: Any, offset: Any) -> Vector:
        return self.broadcast(self.builder.load(self.builder.gep(pointer, [offset])))

    def store(self, vector: Vector, pointer: Any, offset: Any) -> None:
        address = self.builder.gep(pointer, [offset])
        self.builder.store(
            vector.value, self.builder.bitcast(address, vector.value.type.as_pointer()), align=4
        )

    def variable(self, initial: Vector) -> Any:
        """Room for a vector that changes from one turn of a loop to the next; LLVM keeps it in a register."""
        return cgutils.alloca_once_value(self.builder, initial.value)

    def get(self, room: Any) -> Vector:
        return Vector(self.builder, self.builder.load(room))

    def set(self, room: Any, vector: Vector) -> None:
        self.builder.store(vector.value, room)

    def add_to(self, room: Any, vector: Vector) -> None:
        self.set(room, self.get(room) + vector)

    def repeat(self, count: Any, body: Callable[[Any], None]) -> None:
        """A loop: ``body`` gets the number of the turn."""
        with cgutils.for_range(self.builder, count) as loop:
            body(loop.index)
