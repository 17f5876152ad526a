// Four lanes: the Advanced SIMD of every 64-bit Arm processor.
#pragma once

namespace PUNA_TIER {

constexpr int LANES = 4;
constexpr int TILE_COLUMNS = 4;  // registers of one row of a tile: 6 x 4 sums and 5 operands are 29

struct F32 {
  float32x4_t value;
};
struct Pairs {
  uint32x4_t value;
};

PUNA_INLINE F32 broadcast(float x) { return {vdupq_n_f32(x)}; }
PUNA_INLINE F32 zero() { return broadcast(0.0f); }
PUNA_INLINE F32 one() { return broadcast(1.0f); }
PUNA_INLINE F32 operator+(F32 a, F32 b) { return {vaddq_f32(a.value, b.value)}; }
PUNA_INLINE F32 operator-(F32 a, F32 b) { return {vsubq_f32(a.value, b.value)}; }
PUNA_INLINE F32 operator*(F32 a, F32 b) { return {vmulq_f32(a.value, b.value)}; }
PUNA_INLINE F32 operator/(F32 a, F32 b) { return {vdivq_f32(a.value, b.value)}; }
PUNA_INLINE F32 operator-(F32 a) { return {vnegq_f32(a.value)}; }
PUNA_INLINE F32 max(F32 a, F32 b) { return {vmaxq_f32(a.value, b.value)}; }
PUNA_INLINE F32 min(F32 a, F32 b) { return {vminq_f32(a.value, b.value)}; }
PUNA_INLINE F32 fma(F32 a, F32 b, F32 c) { return {vfmaq_f32(c.value, a.value, b.value)}; }
PUNA_INLINE F32 fused(F32 a, F32 b, F32 c) { return fma(a, b, c); }
PUNA_INLINE F32 sqrt(F32 x) { return {vsqrtq_f32(x.value)}; }
PUNA_INLINE F32 where_positive(F32 x, F32 a, F32 b) {
  return {vbslq_f32(vcgtzq_f32(x.value), a.value, b.value)};
}
PUNA_INLINE F32 nearest(F32 x) { return {vrndnq_f32(x.value)}; }
// x * 2^n, n a whole number from -126 to 127
PUNA_INLINE F32 scaled(F32 x, F32 n) {
  const int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n.value), vdupq_n_s32(127)), 23);
  return {vmulq_f32(x.value, vreinterpretq_f32_s32(power))};
}
PUNA_INLINE float sum(F32 x) { return vaddvq_f32(x.value); }
PUNA_INLINE float largest(F32 x) { return vmaxvq_f32(x.value); }

PUNA_INLINE F32 load(const float* p) { return {vld1q_f32(p)}; }
PUNA_INLINE F32 load(const float* p, int n) {
  float whole[LANES] = {};
  std::memcpy(whole, p, n * sizeof(float));
  return load(whole);
}
PUNA_INLINE void store(float* p, F32 x) { vst1q_f32(p, x.value); }
PUNA_INLINE void store(float* p, F32 x, int n) {
  float whole[LANES];
  store(whole, x);
  std::memcpy(p, whole, n * sizeof(float));
}
PUNA_INLINE F32 load(const bf16* p) {
  const uint16x4_t halves = vld1_u16(reinterpret_cast<const uint16_t*>(p));
  return {vreinterpretq_f32_u32(vshll_n_u16(halves, 16))};
}
PUNA_INLINE void store(bf16* p, F32 x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x.value);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t near = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  const uint32x4_t kept = vbslq_u32(vceqq_f32(x.value, x.value), near, quiet);
  vst1_u16(reinterpret_cast<uint16_t*>(p), vshrn_n_u32(kept, 16));
}

PUNA_INLINE Pairs load_pairs(const bf16* p) {
  return {vreinterpretq_u32_u16(vld1q_u16(reinterpret_cast<const uint16_t*>(p)))};
}
PUNA_INLINE Pairs paired(const bf16* a, const bf16* b) {
  const uint16x4_t first = vld1_u16(reinterpret_cast<const uint16_t*>(a));
  const uint16x4_t second = vld1_u16(reinterpret_cast<const uint16_t*>(b));
  return {vorrq_u32(vmovl_u16(first), vshll_n_u16(second, 16))};
}
PUNA_INLINE void store(bf16* p, Pairs x) {
  vst1q_u16(reinterpret_cast<uint16_t*>(p), vreinterpretq_u16_u32(x.value));
}
PUNA_INLINE Pairs broadcast_pair(const bf16* p) {
  uint32_t both;
  std::memcpy(&both, p, 4);
  return {vdupq_n_u32(both)};
}
PUNA_INLINE F32 dot(F32 acc, F32 a, F32 b) { return fma(a, b, acc); }
PUNA_INLINE F32 first_of(Pairs x) { return {vreinterpretq_f32_u32(vshlq_n_u32(x.value, 16))}; }
PUNA_INLINE F32 second_of(Pairs x) {
  return {vreinterpretq_f32_u32(vandq_u32(x.value, vdupq_n_u32(0xffff0000)))};
}
PUNA_INLINE F32 dot(F32 acc, Pairs a, Pairs b) {
  return fma(second_of(a), second_of(b), fma(first_of(a), first_of(b), acc));
}

struct I32 {
  int32x4_t value;
};
struct Unsigned {
  uint8x16_t value;
};
struct Signed {
  int8x16_t value;
};
using Partial = I32;
template <int BITS>
constexpr int64_t RUN = 1 << 20;  // the products are added up in 32 bits

PUNA_INLINE I32 broadcast_whole(int32_t x) { return {vdupq_n_s32(x)}; }
PUNA_INLINE F32 as_float(I32 x) { return {vcvtq_f32_s32(x.value)}; }
PUNA_INLINE Unsigned load_unsigned(const uint8_t* p) { return {vld1q_u8(p)}; }
PUNA_INLINE Unsigned low_nibbles(Unsigned x) { return {vandq_u8(x.value, vdupq_n_u8(15))}; }
PUNA_INLINE Unsigned high_nibbles(Unsigned x) { return {vshrq_n_u8(x.value, 4)}; }
PUNA_INLINE Signed broadcast_signed(const uint32_t* p) {
  return {vreinterpretq_s8_u32(vdupq_n_u32(*p))};
}
// The sums of the products of eight bytes, two lanes.
PUNA_INLINE int32x2_t dot_half(uint8x8_t a, int8x8_t b) {
  const int16x8_t wide_a = vreinterpretq_s16_u16(vmovl_u8(a)), wide_b = vmovl_s8(b);
  const int32x4_t low = vmull_s16(vget_low_s16(wide_a), vget_low_s16(wide_b));
  const int32x4_t high = vmull_s16(vget_high_s16(wide_a), vget_high_s16(wide_b));
  const int32x4_t pairs = vpaddq_s32(low, high);
  return vpadd_s32(vget_low_s32(pairs), vget_high_s32(pairs));
}
PUNA_INLINE Partial dot(Partial acc, Unsigned a, Signed b) {
  const int32x2_t low = dot_half(vget_low_u8(a.value), vget_low_s8(b.value));
  const int32x2_t high = dot_half(vget_high_u8(a.value), vget_high_s8(b.value));
  return {vaddq_s32(acc.value, vcombine_s32(low, high))};
}
PUNA_INLINE Partial begin_run(I32 total) { return total; }
PUNA_INLINE I32 end_run(I32, Partial run) { return run; }
PUNA_INLINE F32 load_half(const uint16_t* p) {
  return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))};
}
PUNA_INLINE void store(int8_t* p, F32 x) {
  const int16x4_t words = vqmovn_s32(vcvtnq_s32_f32(x.value));
  const int8x8_t bytes = vqmovn_s16(vcombine_s16(words, words));
  std::memcpy(p, &bytes, LANES);
}

PUNA_INLINE void store(int16_t* p, F32 x) { vst1_s16(p, vqmovn_s32(vcvtnq_s32_f32(x.value))); }

struct Words {
  int16x8_t value;
};
PUNA_INLINE Words load_words(const int8_t* p) { return {vmovl_s8(vld1_s8(p))}; }
PUNA_INLINE Words broadcast_words(const int16_t* p) {
  int32_t both;
  std::memcpy(&both, p, 4);
  return {vreinterpretq_s16_s32(vdupq_n_s32(both))};
}
PUNA_INLINE I32 dot(I32 acc, Words a, Words b) {
  const int32x4_t low = vmull_s16(vget_low_s16(a.value), vget_low_s16(b.value));
  const int32x4_t high = vmull_high_s16(a.value, b.value);
  return {vaddq_s32(acc.value, vpaddq_s32(low, high))};
}

}  // namespace PUNA_TIER
