// Eight lanes: AVX2 with FMA.
#pragma once

namespace PUNA_TIER {

constexpr int LANES = 8;
constexpr int TILE_COLUMNS = 2;  // registers of one row of a tile: 6 x 2 sums and 3 operands are 15

struct F32 {
  __m256 value;
};
struct Pairs {
  __m256i value;
};

PUNA_INLINE F32 broadcast(float x) { return {_mm256_set1_ps(x)}; }
PUNA_INLINE F32 zero() { return {_mm256_setzero_ps()}; }
PUNA_INLINE F32 one() { return broadcast(1.0f); }
PUNA_INLINE F32 operator+(F32 a, F32 b) { return {_mm256_add_ps(a.value, b.value)}; }
PUNA_INLINE F32 operator-(F32 a, F32 b) { return {_mm256_sub_ps(a.value, b.value)}; }
PUNA_INLINE F32 operator*(F32 a, F32 b) { return {_mm256_mul_ps(a.value, b.value)}; }
PUNA_INLINE F32 operator/(F32 a, F32 b) { return {_mm256_div_ps(a.value, b.value)}; }
PUNA_INLINE F32 operator-(F32 a) { return {_mm256_xor_ps(a.value, _mm256_set1_ps(-0.0f))}; }
PUNA_INLINE F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.value, b.value)}; }
PUNA_INLINE F32 min(F32 a, F32 b) { return {_mm256_min_ps(a.value, b.value)}; }
PUNA_INLINE F32 fma(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.value, b.value, c.value)}; }
PUNA_INLINE F32 fused(F32 a, F32 b, F32 c) { return fma(a, b, c); }
PUNA_INLINE F32 sqrt(F32 x) { return {_mm256_sqrt_ps(x.value)}; }
PUNA_INLINE F32 where_positive(F32 x, F32 a, F32 b) {
  return {_mm256_blendv_ps(b.value, a.value,
                           _mm256_cmp_ps(x.value, _mm256_setzero_ps(), _CMP_GT_OQ))};
}
PUNA_INLINE F32 nearest(F32 x) {
  return {_mm256_round_ps(x.value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// x * 2^n, n a whole number from -126 to 127
PUNA_INLINE F32 scaled(F32 x, F32 n) {
  const __m256i power =
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.value), _mm256_set1_epi32(127)), 23);
  return {_mm256_mul_ps(x.value, _mm256_castsi256_ps(power))};
}
PUNA_INLINE float sum(F32 x) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(x.value), _mm256_extractf128_ps(x.value, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
PUNA_INLINE float largest(F32 x) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(x.value), _mm256_extractf128_ps(x.value, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

PUNA_INLINE __m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
PUNA_INLINE F32 load(const float* p) { return {_mm256_loadu_ps(p)}; }
PUNA_INLINE F32 load(const float* p, int n) { return {_mm256_maskload_ps(p, first_lanes(n))}; }
PUNA_INLINE void store(float* p, F32 x) { _mm256_storeu_ps(p, x.value); }
PUNA_INLINE void store(float* p, F32 x, int n) { _mm256_maskstore_ps(p, first_lanes(n), x.value); }
PUNA_INLINE F32 load(const bf16* p) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16))};
}
PUNA_INLINE void store(bf16* p, F32 x) {
  const __m256i bits = _mm256_castps_si256(x.value);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i near = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i unordered = _mm256_castps_si256(_mm256_cmp_ps(x.value, x.value, _CMP_UNORD_Q));
  const __m256i kept = _mm256_srli_epi32(_mm256_blendv_epi8(near, quiet, unordered), 16);
  const __m128i halves =
      _mm_packus_epi32(_mm256_castsi256_si128(kept), _mm256_extracti128_si256(kept, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), halves);
}

PUNA_INLINE Pairs load_pairs(const bf16* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
PUNA_INLINE __m256i unsigned_words(const bf16* p) {
  return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
PUNA_INLINE Pairs paired(const bf16* a, const bf16* b) {
  return {_mm256_or_si256(unsigned_words(a), _mm256_slli_epi32(unsigned_words(b), 16))};
}
PUNA_INLINE void store(bf16* p, Pairs x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.value);
}
PUNA_INLINE Pairs broadcast_pair(const bf16* p) {
  int32_t both;
  std::memcpy(&both, p, 4);
  return {_mm256_set1_epi32(both)};
}
PUNA_INLINE F32 dot(F32 acc, F32 a, F32 b) { return fma(a, b, acc); }
PUNA_INLINE F32 first_of(Pairs x) { return {_mm256_castsi256_ps(_mm256_slli_epi32(x.value, 16))}; }
PUNA_INLINE F32 second_of(Pairs x) {
  return {_mm256_castsi256_ps(_mm256_and_si256(x.value, _mm256_set1_epi32(int(0xffff0000))))};
}
PUNA_INLINE F32 dot(F32 acc, Pairs a, Pairs b) {
  return fma(second_of(a), second_of(b), fma(first_of(a), first_of(b), acc));
}

struct I32 {
  __m256i value;
};
struct Unsigned {
  __m256i value;
};
struct Signed {
  __m256i value;
};
// Pairs of products are added up in 16 bits: of 4 bits and 8 bits eight times, of 8 and 7 once.
struct Partial {
  __m256i value;
};
template <int BITS>
constexpr int64_t RUN = BITS == 4 ? 8 : 1;

PUNA_INLINE I32 broadcast_whole(int32_t x) { return {_mm256_set1_epi32(x)}; }
PUNA_INLINE F32 as_float(I32 x) { return {_mm256_cvtepi32_ps(x.value)}; }
PUNA_INLINE Unsigned load_unsigned(const uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
PUNA_INLINE Unsigned low_nibbles(Unsigned x) {
  return {_mm256_and_si256(x.value, _mm256_set1_epi8(15))};
}
PUNA_INLINE Unsigned high_nibbles(Unsigned x) {
  return low_nibbles(Unsigned{_mm256_srli_epi16(x.value, 4)});
}
PUNA_INLINE Signed broadcast_signed(const uint32_t* p) {
  return {_mm256_set1_epi32(int(*p))};
}
PUNA_INLINE Partial begin_run(I32) { return {_mm256_setzero_si256()}; }
PUNA_INLINE Partial dot(Partial acc, Unsigned a, Signed b) {
  return {_mm256_add_epi16(acc.value, _mm256_maddubs_epi16(a.value, b.value))};
}
PUNA_INLINE I32 end_run(I32 total, Partial run) {
  return {_mm256_add_epi32(total.value, _mm256_madd_epi16(run.value, _mm256_set1_epi16(1)))};
}
PUNA_INLINE F32 load_half(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
PUNA_INLINE void store(int8_t* p, F32 x) {
  const __m256i whole = _mm256_cvtps_epi32(x.value);
  const __m128i words =
      _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}

PUNA_INLINE void store(int16_t* p, F32 x) {
  const __m256i whole = _mm256_cvtps_epi32(x.value);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(p),
      _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1)));
}

struct Words {
  __m256i value;
};
PUNA_INLINE Words load_words(const int8_t* p) {
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
PUNA_INLINE Words broadcast_words(const int16_t* p) {
  int32_t both;
  std::memcpy(&both, p, 4);
  return {_mm256_set1_epi32(both)};
}
PUNA_INLINE I32 dot(I32 acc, Words a, Words b) {
  return {_mm256_add_epi32(acc.value, _mm256_madd_epi16(a.value, b.value))};
}

}  // namespace PUNA_TIER
