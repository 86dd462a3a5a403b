"""CODECS.md's operations that numpy lacks or has otherwise: fused multiply-add, and the conversions of #raw bit for bit."""
from fractions import Fraction

import numpy as np

def widen_f16(bits):
    """In integers where it is a NaN, because hardware may set its quiet bit."""
    wide = bits.view(np.float16).astype(np.float32).view(np.uint32)
    bits = bits.astype(np.uint32)
    kept = (bits & 0x8000) << 16 | 0x7F800000 | (bits & 0x3FF) << 13
    return np.where(bits & 0x7FFF > 0x7C00, kept, wide).view(np.float32)

def widen_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)

def narrow_f16(values):
    bits = values.view(np.uint32)
    with np.errstate(all="ignore"):
        narrow = values.astype(np.float16).view(np.uint16)
    kept = (bits >> 16 & 0x8000 | 0x7E00 | bits >> 13 & 0x3FF).astype(np.uint16)
    return np.where(np.isnan(values), kept, narrow)

def narrow_bf16(values):
    bits = values.view(np.uint32)
    nearest = (bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)
    kept = (bits >> 16).astype(np.uint16) | np.uint16(0x40)
    return np.where(np.isnan(values), kept, nearest)

def fma32(a, b, c):
    """The product of two f32 is exact in f64. The sum is taken in f64; where it is inexact, its neighbour with an odd last bit
    (on the side of the error, which is Knuth's) takes its place: rounding that once more, to f32, rounds correctly."""
    a, b, c = (np.asarray(x, np.float32).astype(np.float64) for x in (a, b, c))
    with np.errstate(all="ignore"):
        product = a * b
        total = product + c
        t = total - product
        error = (product - (total - t)) + (c - t)
        even = np.isfinite(error) & (error != 0) & (total.view(np.uint64) & 1 == 0)
        return np.where(even, np.nextafter(total, np.copysign(np.inf, error)), total).astype(np.float32)

def fused(a, b, c):
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    return float(exact) if exact else a * b + c                       # for the sign of a zero

def fma64(a, b, c):
    """By rational numbers, one by one: slow, and right by definition. Of finite numbers."""
    return np.vectorize(fused, otypes=[np.float64])(a, b, c)
