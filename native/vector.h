// The vector of one tier: float32 lanes, and bfloat16 in memory. Everything is in the namespace of
// the tier, so that no function compiled for one processor is ever linked into the code of another.
//
// F32            a register of LANES floats
// Pairs          a register of LANES pairs of bfloat16, for products that add two at a time
// paired         lanes of two places in memory, side by side
// load, store    whole registers; the forms with a count touch the first n lanes only, and load 0
//                into the others
// dot            acc + a * b, or for pairs acc + a0 * b0 + a1 * b1, in float32
// fma, fused     a * b + c; `fused` is rounded once in every tier
// I32            a register of LANES whole numbers
// Unsigned       four bytes a lane, from 0 to 255; Signed: from -128 to 127
// Words          a register of LANES pairs of 16-bit whole numbers, for products that add two at a
//                time in 32 bits; bytes are widened to them
// Partial        sums of the products of four bytes a lane, exact for RUN<bits> steps from begin_run
//                on, which may go on from a total; end_run gives the total with them
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define PUNA_INLINE static inline __attribute__((always_inline))

namespace PUNA_TIER {

struct bf16 {
  uint16_t bits;
};

PUNA_INLINE float widened(bf16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}
PUNA_INLINE float widened(float x) { return x; }

// To the nearest bfloat16, ties to even; not a number stays one.
PUNA_INLINE bf16 rounded(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) return {uint16_t(bits >> 16 | 0x40)};
  return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

}  // namespace PUNA_TIER

#if defined(PUNA_SCALAR)
#include "vector_scalar.h"
#elif defined(__AVX512F__)
#include "vector_avx512.h"
#elif defined(__AVX2__)
#include "vector_avx2.h"
#elif defined(__ARM_NEON)
#include "vector_neon.h"
#else
#error "a tier without a vector"
#endif

namespace PUNA_TIER {

#if defined(PUNA_SCALAR)
PUNA_INLINE F32 exp(F32 x) { return {std::exp(x.value)}; }
#else
// e^x to about one unit in the last place of a normal float32: 2^n e^r with n = round(x / ln 2) and
// |r| <= ln(2) / 2, where the remainder of Taylor's polynomial of degree 6 is below 1.3e-7 of e^r.
// Below -87.3 (the smallest normal float32) it is 0, from 88.4 or 88.7 on, by tier, infinite; not a
// number stays one.
PUNA_INLINE F32 exp(F32 x) {
  // where one operand is not a number, min and max give the second
  const F32 bounded = max(broadcast(-87.3f), min(broadcast(89.0f), x));
  const F32 n = nearest(bounded * broadcast(1.44269504f));
  // ln 2 in two parts, the first with so few bits that its product with n is exact
  F32 r = fma(n, broadcast(-0.693359375f), bounded);
  r = fma(n, broadcast(2.12194440e-4f), r);
  F32 y = broadcast(1.0f / 720);
  for (const float factor : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    y = fma(y, r, broadcast(factor));
  return where_positive(broadcast(-87.3f) - x, zero(), scaled(y, n));
}
#endif

PUNA_INLINE F32 absolute(F32 x) { return max(x, -x); }

// The lanes from i on that a row of `end` entries has left.
PUNA_INLINE int left(int64_t end, int64_t i) { return int(end - i < LANES ? end - i : LANES); }

PUNA_INLINE F32 load(const bf16* p, int n) {
  if (n >= LANES) return load(p);
  alignas(64) bf16 whole[LANES] = {};
  std::memcpy(whole, p, n * sizeof(bf16));
  return load(whole);
}
PUNA_INLINE void store(bf16* p, F32 x, int n) {
  if (n >= LANES) return store(p, x);
  alignas(64) bf16 whole[LANES];
  store(whole, x);
  std::memcpy(p, whole, n * sizeof(bf16));
}

template <class Code>
PUNA_INLINE void store_codes(Code* p, F32 x, int n) {
  if (n >= LANES) return store(p, x);
  alignas(64) Code whole[LANES];
  store(whole, x);
  for (int i = 0; i < n; i++) p[i] = whole[i];
}
PUNA_INLINE void store(int8_t* p, F32 x, int n) { store_codes(p, x, n); }
PUNA_INLINE void store(int16_t* p, F32 x, int n) { store_codes(p, x, n); }

// Into the second-level cache; p need not be anybody's.
PUNA_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

// 1 / (1 + e^-x)
PUNA_INLINE F32 sigmoid(F32 x) { return one() / (one() + exp(-x)); }

}  // namespace PUNA_TIER
