#pragma once

#include <array>

/// Constants of the codec `planes`. tests/spec holds them to spec/tables/planes.csv.
namespace cachecard::kernel {

/// 2^(r/16), rounded to f32.
inline constexpr std::array<float, 16> kSixteenthOctaves{
    0x1.0000000000000p+0f, 0x1.0b55860000000p+0f, 0x1.172b840000000p+0f, 0x1.2387a60000000p+0f,
    0x1.306fe00000000p+0f, 0x1.3dea640000000p+0f, 0x1.4bfdae0000000p+0f, 0x1.5ab07e0000000p+0f,
    0x1.6a09e60000000p+0f, 0x1.7a11480000000p+0f, 0x1.8ace540000000p+0f, 0x1.9c49180000000p+0f,
    0x1.ae89fa0000000p+0f, 0x1.c199be0000000p+0f, 0x1.d5818e0000000p+0f, 0x1.ea4afa0000000p+0f};

inline constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
/// pi/2 in two parts: the first rounded, the second what that left.
inline constexpr double kHalfPiHigh = 0x1.921fb54442d18p+0;
inline constexpr double kHalfPiLow = 0x1.1a62633145c07p-54;

/// Minimax terms on [-pi/4, pi/4] behind x and 1 - x^2/2.   Source: fdlibm __kernel_sin and __kernel_cos (Sun, 1993)
inline constexpr std::array<double, 6> kSinTerms{
    -0x1.5555555555549p-3, 0x1.111111110f8a6p-7, -0x1.a01a019c161d5p-13,
    0x1.71de357b1fe7dp-19, -0x1.ae5e68a2b9cebp-26, 0x1.5d93a5acfd57cp-33};
inline constexpr std::array<double, 6> kCosTerms{
    0x1.555555555554cp-5, -0x1.6c16c16c15177p-10, 0x1.a01a019cb1590p-16,
    -0x1.27e4f809c52adp-22, 0x1.1ee9ebdb4b1c4p-29, -0x1.8fae9be8838d4p-37};

}  // namespace cachecard::kernel
