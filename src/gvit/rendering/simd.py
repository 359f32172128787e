"""Vectors of eight float32 or int32 for Numba kernels.

LLVM's own vectoriser leaves the renderer's backward pass scalar. Here a loop body is an ordinary Python
formula over ``Vector``; calling it while Numba compiles writes down the vector instructions (eight lanes are
one AVX register; LLVM splits them in two for SSE and NEON). Nothing of this runs when the kernel runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

LANES = 8
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)
# a*b + c may become one instruction; nothing else that changes a result is allowed
_FLAGS = ("contract",)


class Vector:
    """Eight numbers (or eight truth values), one LLVM value; operators emit the instruction."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _new(self, value: Any) -> Vector:
        return Vector(self.builder, value)

    def _lift(self, other: Vector | float) -> Any:
        if isinstance(other, Vector):
            return other.value
        return ir.Constant(self.value.type, [other] * LANES)

    def __add__(self, other: Vector | float) -> Vector:
        if self.value.type == _INTS:
            return self._new(self.builder.add(self.value, self._lift(other)))
        return self._new(self.builder.fadd(self.value, self._lift(other), flags=_FLAGS))

    def __sub__(self, other: Vector | float) -> Vector:
        return self._new(self.builder.fsub(self.value, self._lift(other), flags=_FLAGS))

    def __mul__(self, other: Vector | float) -> Vector:
        return self._new(self.builder.fmul(self.value, self._lift(other), flags=_FLAGS))

    def __truediv__(self, other: Vector) -> Vector:
        return self._new(self.builder.fdiv(self.value, other.value))

    def __lshift__(self, bits: int) -> Vector:
        return self._new(self.builder.shl(self.value, self._lift(bits)))

    def __and__(self, other: Vector) -> Vector:
        return self._new(self.builder.and_(self.value, other.value))

    def _compare(self, sign: str, other: Vector | float) -> Vector:
        compare = self.builder.icmp_signed if self.value.type == _INTS else self.builder.fcmp_ordered
        return self._new(compare(sign, self.value, self._lift(other)))

    def __ge__(self, other: Vector | float) -> Vector:
        return self._compare(">=", other)

    def __gt__(self, other: Vector | float) -> Vector:
        return self._compare(">", other)

    def __lt__(self, other: Vector | float) -> Vector:
        return self._compare("<", other)

    def __le__(self, other: Vector | float) -> Vector:
        return self._compare("<=", other)

    def at_most(self, bound: Vector | float) -> Vector:
        return (self < bound).choose(self, bound)

    def at_least(self, bound: Vector | float) -> Vector:
        return (self > bound).choose(self, bound)

    def choose(self, yes: Vector, no: Vector | float) -> Vector:
        """Lane by lane, ``yes`` where this is true, else ``no``."""
        return self._new(self.builder.select(self.value, yes.value, yes._lift(no)))

    def sum(self) -> Any:
        """Of the eight lanes, pairwise: a scalar."""
        value = self.value
        for step in (4, 2, 1):
            order = ir.Constant(_INTS, [(lane + step) % LANES for lane in range(LANES)])
            shifted = self.builder.shuffle_vector(value, ir.Constant(_FLOATS, ir.Undefined), order)
            value = self.builder.fadd(value, shifted)
        return self.builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    def any(self) -> Any:
        """A scalar truth value: is any lane true?"""
        bits = self.builder.bitcast(self.value, ir.IntType(LANES))
        return self.builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0))

    def as_int_bits(self) -> Vector:
        return self._new(self.builder.bitcast(self.value, _INTS))

    def as_float_bits(self) -> Vector:
        return self._new(self.builder.bitcast(self.value, _FLOATS))


class Tracer:
    """Access to the memory and the loops of the kernel that is being compiled."""

    def __init__(self, context: Any, builder: Any) -> None:
        self.context, self.builder = context, builder
        self.zero = self.constant(*[0.0] * LANES)

    def broadcast(self, scalar: Any) -> Vector:
        kind = ir.VectorType(scalar.type, LANES)
        single = self.builder.insert_element(
            ir.Constant(kind, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0)
        )
        return Vector(
            self.builder,
            self.builder.shuffle_vector(
                single, ir.Constant(kind, ir.Undefined), ir.Constant(_INTS, [0] * LANES)
            ),
        )

    def integer(self, number: int) -> Any:
        return ir.Constant(ir.IntType(64), number)

    def constant(self, *numbers: float) -> Vector:
        return Vector(self.builder, ir.Constant(_FLOATS, numbers))

    def data(self, array_type: Any, array: Any) -> Any:
        """Pointer to the first element of a Numba array."""
        return self.context.make_array(array_type)(self.context, self.builder, array).data

    def load(self, pointer: Any, offset: Any) -> Vector:
        address = self.builder.gep(pointer, [offset])
        kind = _INTS if isinstance(pointer.type.pointee, ir.IntType) else _FLOATS
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
