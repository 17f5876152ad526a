// Products of small matrices that stand in the cache: C (+)= A B, in float32.
//
// A is row-major. B is packed: for float32 its rows of n, for bfloat16 its rows two by two, with the
// two entries of each column beside each other, [k / 2][n][2]. n is a multiple of LANES and, for
// bfloat16, k of 2: whoever packs fills up with zeros.
#pragma once

#include "vector.h"

namespace PUNA_TIER {

constexpr int TILE_ROWS = 6;

// How many rows of B one step of the product takes.
template <class T>
constexpr int DEPTH = sizeof(T) <= 2 ? 2 : 1;

PUNA_INLINE F32 load_step(const float* p) { return load(p); }
PUNA_INLINE Pairs load_step(const bf16* p) { return load_pairs(p); }
PUNA_INLINE Words load_step(const int8_t* p) { return load_words(p); }
PUNA_INLINE F32 broadcast_step(const float* p) { return broadcast(*p); }
PUNA_INLINE Pairs broadcast_step(const bf16* p) { return broadcast_pair(p); }
PUNA_INLINE Words broadcast_step(const int16_t* p) { return broadcast_words(p); }

// Strides count entries of the type: `ab` from row to row of A, `bb` from step to step of B.
template <class T, int ROWS, int COLUMNS>
PUNA_INLINE void tile(int64_t k, const T* a, int64_t ab, const T* b, int64_t bb, float* c,
                      int64_t cb, bool add) {
  F32 sums[ROWS][COLUMNS];
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < COLUMNS; j++) sums[i][j] = add ? load(c + i * cb + j * LANES) : zero();
  for (int64_t step = 0; step < k; step += DEPTH<T>) {
    decltype(load_step(b)) columns[COLUMNS];
    for (int j = 0; j < COLUMNS; j++) columns[j] = load_step(b + j * LANES * DEPTH<T>);
    for (int i = 0; i < ROWS; i++) {
      const auto row = broadcast_step(a + i * ab + step);
      for (int j = 0; j < COLUMNS; j++) sums[i][j] = dot(sums[i][j], row, columns[j]);
    }
    b += bb;
  }
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < COLUMNS; j++) store(c + i * cb + j * LANES, sums[i][j]);
}

template <class T, int COLUMNS>
PUNA_INLINE void tile_rows(int rows, int64_t k, const T* a, int64_t ab, const T* b, int64_t bb,
                           float* c, int64_t cb, bool add) {
  switch (rows) {
    case 1: return tile<T, 1, COLUMNS>(k, a, ab, b, bb, c, cb, add);
    case 2: return tile<T, 2, COLUMNS>(k, a, ab, b, bb, c, cb, add);
    case 3: return tile<T, 3, COLUMNS>(k, a, ab, b, bb, c, cb, add);
    case 4: return tile<T, 4, COLUMNS>(k, a, ab, b, bb, c, cb, add);
    case 5: return tile<T, 5, COLUMNS>(k, a, ab, b, bb, c, cb, add);
    default: return tile<T, 6, COLUMNS>(k, a, ab, b, bb, c, cb, add);
  }
}

// At most TILE_ROWS rows and TILE_COLUMNS registers of columns; `columns` counts registers.
template <class T>
static void any_tile(int rows, int64_t columns, int64_t k, const T* a, int64_t ab, const T* b,
                     int64_t bb, float* c, int64_t cb, bool add) {
  switch (columns) {
    case 1: return tile_rows<T, 1>(rows, k, a, ab, b, bb, c, cb, add);
    case 2: return tile_rows<T, 2>(rows, k, a, ab, b, bb, c, cb, add);
#if !defined(__AVX2__) || defined(__AVX512F__)
    case 3: return tile_rows<T, 3>(rows, k, a, ab, b, bb, c, cb, add);
    default: return tile_rows<T, 4>(rows, k, a, ab, b, bb, c, cb, add);
#endif
  }
}

PUNA_INLINE int64_t all(int64_t) { return INT64_MAX; }  // no limit

// C [m, n] (+)= A [m, k] B [k, n]. limit(i): how many of the n columns the rows up to i need, and
// depth(i): how many of the k rows of B; the rest is not computed.
template <class T, class Limit, class Depth>
PUNA_INLINE void product(int64_t m, int64_t n, const T* a, int64_t ab, const T* b, int64_t bb,
                         float* c, int64_t cb, bool add, Limit limit, Depth depth) {
  constexpr int64_t panel = TILE_COLUMNS * LANES;
  for (int64_t j = 0; j < n; j += panel)
    for (int64_t i = 0; i < m; i += TILE_ROWS) {
      const int rows = int(m - i < TILE_ROWS ? m - i : TILE_ROWS);
      const int64_t needed = limit(i + rows - 1) < n ? limit(i + rows - 1) : n;
      if (needed <= j) continue;
      const int64_t wide = needed - j < panel ? needed - j : panel;
      any_tile(rows, (wide + LANES - 1) / LANES, depth(i + rows - 1), a + i * ab, ab,
               b + j * DEPTH<T>, bb, c + i * cb + j, cb, add);
    }
}

}  // namespace PUNA_TIER
