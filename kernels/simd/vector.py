"""One SIMD vector while LLVM code is being emitted, with Python's operators.

Functions of a vector (activations, exp, erf) are written once with these and applied to every vector of a tile.
Numbers become vectors of that number. `a.fma(b, c)` is a * b + c in one rounding; * and + stay separate roundings,
since nothing is compiled with fast-math.
"""

from __future__ import annotations

from llvmlite import ir

f32, i32, i64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)


class Vector:
    """A value of type <lanes x float> (or <lanes x i32>) and the builder that emits code on it."""

    def __init__(self, builder, value):
        self.builder, self.value, self.lanes = builder, value, value.type.count

    @classmethod
    def splat(cls, builder, scalar, lanes: int) -> Vector:
        """A scalar LLVM value in every lane."""
        undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
        first = builder.insert_element(undefined, scalar, ir.Constant(i32, 0))
        zeros = ir.Constant(ir.VectorType(i32, lanes), [0] * lanes)
        return cls(builder, builder.shuffle_vector(first, undefined, zeros))

    def constant(self, number) -> Vector:
        """The same number in every lane, in this vector's type."""
        if isinstance(number, Vector):
            return number
        return Vector(self.builder, ir.Constant(self.value.type, [number] * self.lanes))

    def _binary(self, instruction, other):
        return Vector(self.builder, instruction(self.value, self.constant(other).value))

    def __add__(self, other):
        return self._binary(self.builder.fadd, other)

    def __sub__(self, other):
        return self._binary(self.builder.fsub, other)

    def __mul__(self, other):
        return self._binary(self.builder.fmul, other)

    def __neg__(self):
        return Vector(self.builder, self.builder.fneg(self.value))

    def _call(self, name, *others):
        kind = self.value.type
        operands = [self.value, *(self.constant(other).value for other in others)]
        function = self.builder.module.declare_intrinsic(
            f"{name}.v{self.lanes}f32", (), ir.FunctionType(kind, [kind] * len(operands))
        )
        return Vector(self.builder, self.builder.call(function, operands))

    def fma(self, factor, summand) -> Vector:
        """self * factor + summand in one rounding."""
        return self._call("llvm.fma", factor, summand)

    def polynomial(self, *coefficients) -> Vector:
        """Horner's rule, highest power first, one fma each."""
        result = self.constant(coefficients[0])
        for coefficient in coefficients[1:]:
            result = result.fma(self, coefficient)
        return result

    def round(self) -> Vector:
        """To the nearest integer, ties to even."""
        return self._call("llvm.rint")

    def absolute(self) -> Vector:
        return self._call("llvm.fabs")

    def copysign(self, sign) -> Vector:
        return self._call("llvm.copysign", sign)

    def less(self, other) -> Vector:
        """A mask, false where either is NaN."""
        return Vector(self.builder, self.builder.fcmp_ordered("<", self.value, self.constant(other).value))

    def where(self, mask: Vector, other) -> Vector:
        """self where the mask holds, elsewhere `other`."""
        return Vector(self.builder, self.builder.select(mask.value, self.value, self.constant(other).value))

    def maximum(self, other) -> Vector:
        """The larger; NaN where self is NaN. One instruction on x86, since its operands keep that order."""
        return self.constant(other).where(self.less(other), self)

    def maximum_or_nan(self, other: Vector) -> Vector:
        """The larger; NaN where either is NaN."""
        unordered = Vector(self.builder, self.builder.fcmp_unordered("uno", other.value, other.value))
        return other.where(unordered, self.maximum(other))

    def minimum(self, other) -> Vector:
        """The smaller; NaN where self is NaN."""
        other = self.constant(other)
        return other.where(other.less(self), self)

    def clamp(self, low, high) -> Vector:
        """Between low and high; NaN stays NaN."""
        return self.maximum(low).minimum(high)

    def power_of_two(self) -> Vector:
        """2 ** self for integers -126..127 held as floats, and 0 for -127: the exponent field, written directly."""
        ints = ir.VectorType(i32, self.lanes)
        exponent = self.builder.fptosi(self.value, ints)
        biased = self.builder.add(exponent, ir.Constant(ints, [127] * self.lanes))
        bits = self.builder.shl(biased, ir.Constant(ints, [23] * self.lanes))
        return Vector(self.builder, self.builder.bitcast(bits, self.value.type))
