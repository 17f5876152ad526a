// One lane, in plain C++: the oracle that the other tiers are held against.
#pragma once

namespace PUNA_TIER {

constexpr int LANES = 1;
constexpr int TILE_COLUMNS = 4;  // registers of one row of a tile

struct F32 {
  float value;
};
struct Pairs {
  float first, second;
};

PUNA_INLINE F32 broadcast(float x) { return {x}; }
PUNA_INLINE F32 zero() { return {0.0f}; }
PUNA_INLINE F32 one() { return {1.0f}; }
PUNA_INLINE F32 operator+(F32 a, F32 b) { return {a.value + b.value}; }
PUNA_INLINE F32 operator-(F32 a, F32 b) { return {a.value - b.value}; }
PUNA_INLINE F32 operator*(F32 a, F32 b) { return {a.value * b.value}; }
PUNA_INLINE F32 operator/(F32 a, F32 b) { return {a.value / b.value}; }
PUNA_INLINE F32 operator-(F32 a) { return {-a.value}; }
PUNA_INLINE F32 max(F32 a, F32 b) { return a.value > b.value ? a : b; }
PUNA_INLINE F32 fma(F32 a, F32 b, F32 c) { return {a.value * b.value + c.value}; }
PUNA_INLINE F32 fused(F32 a, F32 b, F32 c) { return {std::fma(a.value, b.value, c.value)}; }
PUNA_INLINE F32 sqrt(F32 x) { return {std::sqrt(x.value)}; }
PUNA_INLINE F32 where_positive(F32 x, F32 a, F32 b) { return x.value > 0.0f ? a : b; }
PUNA_INLINE float sum(F32 x) { return x.value; }
PUNA_INLINE float largest(F32 x) { return x.value; }

PUNA_INLINE F32 load(const float* p) { return {*p}; }
PUNA_INLINE F32 load(const float* p, int n) { return {n > 0 ? *p : 0.0f}; }
PUNA_INLINE F32 load(const bf16* p) { return {widened(*p)}; }
PUNA_INLINE void store(float* p, F32 x) { *p = x.value; }
PUNA_INLINE void store(float* p, F32 x, int n) {
  if (n > 0) *p = x.value;
}
PUNA_INLINE void store(bf16* p, F32 x) { *p = rounded(x.value); }

PUNA_INLINE Pairs load_pairs(const bf16* p) { return {widened(p[0]), widened(p[1])}; }
PUNA_INLINE Pairs paired(const bf16* a, const bf16* b) { return {widened(*a), widened(*b)}; }
PUNA_INLINE void store(bf16* p, Pairs x) {
  p[0] = rounded(x.first);
  p[1] = rounded(x.second);
}
PUNA_INLINE Pairs broadcast_pair(const bf16* p) { return load_pairs(p); }
PUNA_INLINE F32 first_of(Pairs x) { return {x.first}; }
PUNA_INLINE F32 second_of(Pairs x) { return {x.second}; }
PUNA_INLINE F32 dot(F32 acc, F32 a, F32 b) { return fma(a, b, acc); }
PUNA_INLINE F32 dot(F32 acc, Pairs a, Pairs b) {
  return {acc.value + a.first * b.first + a.second * b.second};
}

struct I32 {
  int32_t value;
};
struct Unsigned {
  uint8_t bytes[4];
};
struct Signed {
  int8_t bytes[4];
};
using Partial = I32;
template <int BITS>
constexpr int64_t RUN = 1 << 20;  // the products are added up in 32 bits

PUNA_INLINE I32 broadcast_whole(int32_t x) { return {x}; }
PUNA_INLINE F32 as_float(I32 x) { return {float(x.value)}; }
PUNA_INLINE Unsigned load_unsigned(const uint8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
PUNA_INLINE Unsigned low_nibbles(Unsigned x) {
  for (uint8_t& byte : x.bytes) byte &= 15;
  return x;
}
PUNA_INLINE Unsigned high_nibbles(Unsigned x) {
  for (uint8_t& byte : x.bytes) byte >>= 4;
  return x;
}
PUNA_INLINE Signed broadcast_signed(const uint32_t* p) {
  Signed x;
  std::memcpy(x.bytes, p, 4);
  return x;
}
PUNA_INLINE Partial dot(Partial acc, Unsigned a, Signed b) {
  for (int i = 0; i < 4; i++) acc.value += int32_t(a.bytes[i]) * b.bytes[i];
  return acc;
}
PUNA_INLINE Partial begin_run(I32 total) { return total; }
PUNA_INLINE I32 end_run(I32, Partial run) { return run; }
PUNA_INLINE F32 load_half(const uint16_t* p) {
  const int exponent = *p >> 10 & 31;
  const float fraction = float(*p & 1023);
  const float size = exponent == 0    ? std::ldexp(fraction, -24)
                     : exponent == 31 ? (fraction == 0.0f ? INFINITY : NAN)
                                      : std::ldexp(1024.0f + fraction, exponent - 25);
  return {*p >> 15 ? -size : size};
}
PUNA_INLINE float nearest_within(float x, float low, float high) {
  const float nearest = std::nearbyint(x);
  return nearest > high ? high : nearest > low ? nearest : low;
}
PUNA_INLINE void store(int8_t* p, F32 x) {
  *p = int8_t(nearest_within(x.value, -128.0f, 127.0f));
}
PUNA_INLINE void store(int16_t* p, F32 x) {
  *p = int16_t(nearest_within(x.value, -32768.0f, 32767.0f));
}

struct Words {
  int16_t first, second;
};
PUNA_INLINE Words load_words(const int8_t* p) { return {p[0], p[1]}; }
PUNA_INLINE Words broadcast_words(const int16_t* p) { return {p[0], p[1]}; }
PUNA_INLINE I32 dot(I32 acc, Words a, Words b) {
  return {acc.value + a.first * b.first + a.second * b.second};
}

}  // namespace PUNA_TIER
