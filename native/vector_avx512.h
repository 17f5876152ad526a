// Sixteen lanes: AVX512 F, BW, DQ, VL; with BF16 the products of pairs are one instruction.
#pragma once

namespace PUNA_TIER {

constexpr int LANES = 16;
constexpr int TILE_COLUMNS = 4;  // registers of one row of a tile: 6 x 4 sums and 5 operands are 29

struct F32 {
  __m512 value;
};
struct Pairs {
  __m512i value;
};

PUNA_INLINE F32 broadcast(float x) { return {_mm512_set1_ps(x)}; }
PUNA_INLINE F32 zero() { return {_mm512_setzero_ps()}; }
PUNA_INLINE F32 one() { return broadcast(1.0f); }
PUNA_INLINE F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.value, b.value)}; }
PUNA_INLINE F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.value, b.value)}; }
PUNA_INLINE F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.value, b.value)}; }
PUNA_INLINE F32 operator/(F32 a, F32 b) { return {_mm512_div_ps(a.value, b.value)}; }
PUNA_INLINE F32 operator-(F32 a) { return {_mm512_xor_ps(a.value, _mm512_set1_ps(-0.0f))}; }
PUNA_INLINE F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.value, b.value)}; }
PUNA_INLINE F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.value, b.value)}; }
PUNA_INLINE F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.value, b.value, c.value)}; }
PUNA_INLINE F32 fused(F32 a, F32 b, F32 c) { return fma(a, b, c); }
PUNA_INLINE F32 sqrt(F32 x) { return {_mm512_sqrt_ps(x.value)}; }
PUNA_INLINE F32 where_positive(F32 x, F32 a, F32 b) {
  const __mmask16 positive = _mm512_cmp_ps_mask(x.value, _mm512_setzero_ps(), _CMP_GT_OQ);
  return {_mm512_mask_blend_ps(positive, b.value, a.value)};
}
PUNA_INLINE F32 nearest(F32 x) {
  return {_mm512_roundscale_ps(x.value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// x * 2^n, n a whole number
PUNA_INLINE F32 scaled(F32 x, F32 n) { return {_mm512_scalef_ps(x.value, n.value)}; }
PUNA_INLINE float sum(F32 x) { return _mm512_reduce_add_ps(x.value); }
PUNA_INLINE float largest(F32 x) { return _mm512_reduce_max_ps(x.value); }

PUNA_INLINE __mmask16 first_lanes(int n) {
  return n >= LANES ? __mmask16(0xffff) : __mmask16((1u << (n > 0 ? n : 0)) - 1);
}
PUNA_INLINE F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
PUNA_INLINE F32 load(const float* p, int n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
PUNA_INLINE void store(float* p, F32 x) { _mm512_storeu_ps(p, x.value); }
PUNA_INLINE void store(float* p, F32 x, int n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), x.value);
}
PUNA_INLINE F32 load(const bf16* p) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
}
PUNA_INLINE void store(bf16* p, F32 x) {
#if defined(__AVX512BF16__)
  const __m256i halves = (__m256i)_mm512_cvtneps_pbh(x.value);
#else
  const __m512i bits = _mm512_castps_si512(x.value);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i near = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __mmask16 unordered = _mm512_cmp_ps_mask(x.value, x.value, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_blend_epi32(unordered, near, quiet);
  const __m256i halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
#endif
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), halves);
}

PUNA_INLINE Pairs load_pairs(const bf16* p) { return {_mm512_loadu_si512(p)}; }
PUNA_INLINE __m512i unsigned_words(const bf16* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
PUNA_INLINE Pairs paired(const bf16* a, const bf16* b) {
  return {_mm512_or_si512(unsigned_words(a), _mm512_slli_epi32(unsigned_words(b), 16))};
}
PUNA_INLINE void store(bf16* p, Pairs x) { _mm512_storeu_si512(p, x.value); }
PUNA_INLINE Pairs broadcast_pair(const bf16* p) {
  int32_t both;
  std::memcpy(&both, p, 4);
  return {_mm512_set1_epi32(both)};
}
PUNA_INLINE F32 first_of(Pairs x) { return {_mm512_castsi512_ps(_mm512_slli_epi32(x.value, 16))}; }
PUNA_INLINE F32 second_of(Pairs x) {
  return {_mm512_castsi512_ps(_mm512_and_si512(x.value, _mm512_set1_epi32(int(0xffff0000))))};
}
PUNA_INLINE F32 dot(F32 acc, F32 a, F32 b) { return fma(a, b, acc); }
PUNA_INLINE F32 dot(F32 acc, Pairs a, Pairs b) {
#if defined(__AVX512BF16__)
  return {_mm512_dpbf16_ps(acc.value, (__m512bh)a.value, (__m512bh)b.value)};
#else
  return fma(second_of(a), second_of(b), fma(first_of(a), first_of(b), acc));
#endif
}

struct I32 {
  __m512i value;
};
struct Unsigned {
  __m512i value;
};
struct Signed {
  __m512i value;
};
using Partial = I32;
template <int BITS>
constexpr int64_t RUN = 1 << 20;  // the products are added up in 32 bits

PUNA_INLINE I32 broadcast_whole(int32_t x) { return {_mm512_set1_epi32(x)}; }
PUNA_INLINE I32 load_whole(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
PUNA_INLINE I32 operator+(I32 a, I32 b) { return {_mm512_add_epi32(a.value, b.value)}; }
PUNA_INLINE F32 as_float(I32 x) { return {_mm512_cvtepi32_ps(x.value)}; }
PUNA_INLINE void store(uint8_t* p, Unsigned x) { _mm512_storeu_si512(p, x.value); }
PUNA_INLINE Unsigned load_unsigned(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
PUNA_INLINE Unsigned low_nibbles(Unsigned x) {
  return {_mm512_and_si512(x.value, _mm512_set1_epi8(15))};
}
PUNA_INLINE Unsigned high_nibbles(Unsigned x) {
  return low_nibbles(Unsigned{_mm512_srli_epi16(x.value, 4)});
}
PUNA_INLINE Signed broadcast_signed(const uint32_t* p) {
  return {_mm512_set1_epi32(int(*p))};
}
// Of the intrinsic GCC 12 makes copies of sums, and spills them: 237 GOP/s in place of 400.
PUNA_INLINE Partial dot(Partial acc, Unsigned a, Signed b) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc.value) : "v"(a.value), "v"(b.value));
  return acc;
}
PUNA_INLINE Partial begin_run(I32 total) { return total; }
PUNA_INLINE I32 end_run(I32, Partial run) { return run; }
PUNA_INLINE F32 load_half(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
PUNA_INLINE void store(int8_t* p, F32 x) {
  const __m128i bytes = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x.value));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

PUNA_INLINE void store(int16_t* p, F32 x) {
  const __m256i words = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x.value));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), words);
}

struct Words {
  __m512i value;
};
PUNA_INLINE Words load_words(const int8_t* p) {
  return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
PUNA_INLINE Words broadcast_words(const int16_t* p) {
  int32_t both;
  std::memcpy(&both, p, 4);
  return {_mm512_set1_epi32(both)};
}
// As for the products of four bytes, without the intrinsic.
PUNA_INLINE I32 dot(I32 acc, Words a, Words b) {
  asm("vpdpwssd %2, %1, %0" : "+v"(acc.value) : "v"(a.value), "v"(b.value));
  return acc;
}

}  // namespace PUNA_TIER
