"""Activations as functions of one vector, and the epilogue: bias, activation and store of a register tile.

exp, erf and GELU are polynomials over fma, so they have the same bits at every vector width; exp and erf are at most
2 ulp from the true value. The coefficients are minimax fits of the relative error by Lawson's iteration. NaN stays NaN.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .vector import Vector


def _exp(x: Vector) -> tuple[Vector, Vector]:
    """(m, n) with e ** x = m * 2 ** n: x = n ln 2 + r with |r| <= ln 2 / 2, and m = e ** r = 1 + (r + r^2 q(r))."""
    n = (x * 1.4426950408889634).round()
    r = n.fma(-0.693359375, x)  # ln 2 in two parts: n * 0.693359375 is exact
    r = n.fma(2.12194440e-4, r)
    q = r.polynomial(0.0013814538, 0.008368745, 0.04166839, 0.16666521, 0.49999994)
    return (r * r).fma(q, r) + 1.0, n


def exp(x: Vector) -> Vector:
    """e ** x, correct to 1 ulp, with denormals, 0 and inf where float32 has them.

    2 ** n is applied in two halves, since 2 ** n itself may be out of range where the result is not.
    """
    mantissa, n = _exp(x.clamp(-104.0, 89.0))
    half = (n * 0.5).round()
    return mantissa * half.power_of_two() * (n - half).power_of_two()


def erf(x: Vector) -> Vector:
    """The error function, correct to 2 ulp: x + x p(x^2) up to |x| = 1, 1 - e ** g(|x|) beyond, 1 from 3.95 on."""
    square = x * x
    near = square.polynomial(
        7.853858e-05, -0.00080101925, 0.0051883277, -0.026853811, 0.112835854, -0.37612626, 0.12837917
    ).fma(x, x)
    size = x.absolute().minimum(3.95)
    mantissa, n = _exp(
        size.polynomial(0.00018557486, -0.0029396154, 0.02180535, -0.10303743, -0.6382256, -1.12704, -0.0003537093)
    )
    far = mantissa * n.power_of_two()
    return near.where(size.less(1.0), (-far + 1.0).copysign(x))


def hard_sigmoid(x: Vector) -> Vector:
    return x.fma(1 / 6, 0.5).clamp(0.0, 1.0)


ROOT_6 = float(np.float32(math.sqrt(6)))


def scaled_hard_swish(x: Vector) -> Vector:
    """hard_swish(sqrt(6) x) = x clamp(x + sqrt(6) / 2, 0, sqrt(6)): the factors of the definition cancel.

    It takes one multiplication; the addition and the clamp run beside multiply-adds on CPUs with other units for them.
    """
    return (x + ROOT_6 / 2).clamp(0.0, ROOT_6) * x


def hard_swish(x: Vector) -> Vector:
    return hard_sigmoid(x) * x


def gelu(x: Vector) -> Vector:
    """The exact GELU, torch.nn.GELU(): x P(x), P the normal distribution, to within 3 ulp of x.

    P(-|x|) = 2 ** (g(|x|) - x^2 log2(e) / 2), where g is a polynomial up to 5, beyond which it makes no difference.
    """
    size = x.absolute()
    g = size.minimum(5.0).polynomial(
        -1.837086e-06, 2.8450257e-05, -0.00013969537, -0.00023511502, 0.007172405, -0.052557915, 0.26215509,
        -1.1511065, -1.0,
    )  # fmt: skip
    power = (size * -0.7213475).fma(size, g).maximum(-127.0)  # 2 ** -127 comes out as 0
    n = power.round()
    mantissa = (power - n).polynomial(0.0013264727, 0.0096715130, 0.055507336, 0.24022242, 0.693147, 1.0)
    below = mantissa * n.power_of_two()
    return x * below.where(x.less(0.0), -below + 1.0)


# Activations without a transcendental function share one variant of every kernel, "piecewise": the instruction says
# which one it is. A branch a tile costs nothing, a kernel more to compile does.
PIECEWISE = {
    None: lambda x: x,
    "relu": lambda x: x.maximum(0.0),
    "relu6": lambda x: x.clamp(0.0, 6.0),
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": hard_swish,
    "scaled_hard_swish": scaled_hard_swish,
}
TRANSCENDENTAL = {"gelu": gelu, "exp": exp, "erf": erf}


def variant(activation: str | None) -> str:
    """The kernel variant that an activation needs: "piecewise" or the name of a transcendental function."""
    return "piecewise" if activation in PIECEWISE else activation


def code(activation: str | None) -> int:
    """The number in an instruction that selects an activation within its variant."""
    return list(PIECEWISE).index(activation) if activation in PIECEWISE else 0


def epilogue(tile, variant: str):
    """An intrinsic (acc, code, y, stride, bias), the last step of a kernel: bias, an activation, and the store."""
    return tile.epilogue(list(PIECEWISE.values()) if variant == "piecewise" else [TRANSCENDENTAL[variant]])
