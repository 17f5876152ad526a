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

}  // namespace PUNA_TIER
