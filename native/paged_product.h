// Products C = A B as those of tile.h, where B stands in pieces here and there in memory: keys and
// values in the blocks of a sequence.
#pragma once

#include <type_traits>

#include "amx.h"
#include "tile.h"

namespace PUNA_TIER {
namespace paged {

// The format of A in a product with B in format T: float32 where pairs of bfloat16 are multiplied
// in float32 anyway, so that only B is to be widened. Of codes it has sixteen bits: their products
// with those of eight are added up in 32 bits without loss.
template <class T>
struct OperandOf {
#if defined(__AVX512BF16__)
  using type = T;
#else
  using type = float;
#endif
};
template <>
struct OperandOf<int8_t> {
  using type = int16_t;
};
template <class T>
using Operand = typename OperandOf<T>::type;

// The largest code of A in a sum of `depth` products, up to 2^15 of them; -128 is a code of B too.
PUNA_INLINE float operand_levels(int64_t depth) {
  const int64_t most = INT32_MAX / (128 * depth) - 1;
  return float(most < INT16_MAX ? most : INT16_MAX);
}

// A register of the sums, and what they start from.
PUNA_INLINE void clear(F32& sums) { sums = zero(); }
PUNA_INLINE void clear(I32& sums) { sums = broadcast_whole(0); }
PUNA_INLINE F32 in_float(F32 sums) { return sums; }
PUNA_INLINE F32 in_float(I32 sums) { return as_float(sums); }
template <class T>
using Sum = std::conditional_t<sizeof(T) == 1, I32, F32>;

// sums += A B of one step: A [ROWS, DEPTH], B [DEPTH, COLUMNS registers].
template <int ROWS, int COLUMNS, class S, class A, class B>
PUNA_INLINE void add_step(S (&sums)[ROWS][COLUMNS], const A* a, int64_t ab,
                          B (&columns)[COLUMNS]) {
  for (int i = 0; i < ROWS; i++) {
    const auto row = broadcast_step(a + i * ab);
    for (int j = 0; j < COLUMNS; j++) sums[i][j] = dot(sums[i][j], row, columns[j]);
  }
}
template <int ROWS, int COLUMNS>
PUNA_INLINE void add_step(F32 (&sums)[ROWS][COLUMNS], const float* a, int64_t ab,
                          Pairs (&columns)[COLUMNS]) {
  F32 half[COLUMNS];
  for (int j = 0; j < COLUMNS; j++) half[j] = first_of(columns[j]);
  add_step(sums, a, ab, half);
  for (int j = 0; j < COLUMNS; j++) half[j] = second_of(columns[j]);
  add_step(sums, a + 1, ab, half);
}

// C [ROWS, COLUMNS registers] = A B, in float32. `piece` rows of B follow one another, the DEPTH of
// a step together and `bb` entries from step to step; at(row, j): where the first of them is, for
// the register j of the columns.
template <class T, int ROWS, int COLUMNS, class At>
PUNA_INLINE void gathered_tile(int64_t k, const Operand<T>* a, int64_t ab, At at, int64_t piece,
                               int64_t bb, float* c, int64_t cb) {
  Sum<T> sums[ROWS][COLUMNS];
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < COLUMNS; j++) clear(sums[i][j]);
  for (int64_t begin = 0; begin < k; begin += piece) {
    const T* b[COLUMNS];
    for (int j = 0; j < COLUMNS; j++) b[j] = at(begin, j);
    const int64_t end = k - begin < piece ? k : begin + piece;
    for (int64_t step = begin; step < end; step += DEPTH<T>) {
      decltype(load_step(b[0])) columns[COLUMNS];
      for (int j = 0; j < COLUMNS; j++) columns[j] = load_step(b[j]), b[j] += bb;
      add_step(sums, a + step, ab, columns);
    }
  }
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < COLUMNS; j++) store(c + i * cb + j * LANES, in_float(sums[i][j]));
}

template <class T, int COLUMNS, class At>
static void gathered_rows(int rows, int64_t k, const Operand<T>* a, int64_t ab, At at,
                          int64_t piece, int64_t bb, float* c, int64_t cb) {
  switch (rows) {
    case 1: return gathered_tile<T, 1, COLUMNS>(k, a, ab, at, piece, bb, c, cb);
    case 2: return gathered_tile<T, 2, COLUMNS>(k, a, ab, at, piece, bb, c, cb);
    case 3: return gathered_tile<T, 3, COLUMNS>(k, a, ab, at, piece, bb, c, cb);
    case 4: return gathered_tile<T, 4, COLUMNS>(k, a, ab, at, piece, bb, c, cb);
    case 5: return gathered_tile<T, 5, COLUMNS>(k, a, ab, at, piece, bb, c, cb);
    default: return gathered_tile<T, 6, COLUMNS>(k, a, ab, at, piece, bb, c, cb);
  }
}

// Whether gathered() is by AMX for B in format T, and the most rows of A that it then takes.
#if defined(PUNA_AMX)
template <class T>
constexpr bool BY_AMX = std::is_same_v<T, bf16>;
#else
template <class T>
constexpr bool BY_AMX = false;
#endif
constexpr int64_t AMX_GATHERED = 3 * AMX_ROWS;

#if defined(PUNA_AMX)
// C [m, n] = A [m, k] B of at most AMX_GATHERED rows, k a multiple of 16: B in pieces of 16 rows, or
// in one.
template <class At>
PUNA_INLINE void gathered_by_amx(int64_t m, int64_t n, int64_t k, const bf16* a, int64_t ab, At at,
                                 int64_t piece, int64_t bb, float* c, int64_t cb) {
  const int64_t tiles = (m + AMX_ROWS - 1) / AMX_ROWS, high = (m + tiles - 1) / tiles;
  const int64_t units = k <= piece && k % 32 == 0 ? AMX_UNITS : AMX_UNITS / 2;
  AmxShapes shapes;
  for (int64_t i = 0; i < tiles; i++) {
    const int64_t rows = i + 1 < tiles ? high : m - i * high;
    shapes.set(int(i), int(i), rows, 64);                 // C
    shapes.set(int(3 + i), int(3 + i), rows, 4 * units);  // A
  }
  shapes.set(6, 6, units, 64);  // B
  const AmxRegisters registers(shapes);
  for (int64_t j = 0; j < n; j += LANES) {
    clear_register<0>();
    if (tiles > 1) clear_register<1>();
    if (tiles > 2) clear_register<2>();
    for (int64_t begin = 0; begin < k; begin += piece) {
      const bf16* b = at(begin, j);
      const int64_t end = k - begin < piece ? k : begin + piece;
      for (int64_t step = begin; step < end; step += 2 * units, b += units * bb) {
        load_register<6>(b, 2 * bb);
        load_register<3>(a + step, 2 * ab);
        add_pairs<0, 3, 6>();
        if (tiles > 1) load_register<4>(a + high * ab + step, 2 * ab), add_pairs<1, 4, 6>();
        if (tiles > 2) load_register<5>(a + 2 * high * ab + step, 2 * ab), add_pairs<2, 5, 6>();
      }
    }
    store_register<0>(c + j, 4 * cb);
    if (tiles > 1) store_register<1>(c + high * cb + j, 4 * cb);
    if (tiles > 2) store_register<2>(c + 2 * high * cb + j, 4 * cb);
  }
}
#endif

// Rows of one step of the product of m rows, as equal as can be: few rows wait for their own sums.
PUNA_INLINE int64_t height(int64_t m) {
  const int64_t steps = (m + TILE_ROWS - 1) / TILE_ROWS;
  return (m + steps - 1) / steps;
}

// C [m, n] = A [m, k] B, as product() of tile.h has it, with B in pieces: at(row, column,
// first_time) is where one begins, first_time for the first rows of A that need these columns.
template <class T, class At, class Limit, class Depth>
PUNA_INLINE void gathered(int64_t m, int64_t n, const Operand<T>* a, int64_t ab, At at,
                          int64_t piece, int64_t bb, float* c, int64_t cb, Limit limit,
                          Depth depth) {
  constexpr int64_t panel = TILE_COLUMNS * LANES;
  const int64_t high = height(m);
#if defined(PUNA_AMX)
  if constexpr (BY_AMX<T>) {
    const int64_t needed = limit(m - 1) < n ? limit(m - 1) : n, most = depth(m - 1);
    const auto place = [&](int64_t row, int64_t column) { return at(row, column, true); };
    if (most % 16 == 0) return gathered_by_amx(m, needed, most, a, ab, place, piece, bb, c, cb);
  }
#endif
  for (int64_t j = 0; j < n; j += panel) {
    bool first_time = true;
    for (int64_t i = 0; i < m; i += high) {
      const int rows = int(m - i < high ? m - i : high);
      const int64_t needed = limit(i + rows - 1) < n ? limit(i + rows - 1) : n;
      if (needed <= j) continue;
      const int64_t k = depth(i + rows - 1);
      const Operand<T>* first = a + i * ab;
      float* to = c + i * cb + j;
      const auto inside = [=](int64_t row, int64_t column) {
        return at(row, j + column * LANES, first_time);
      };
      first_time = false;
      switch ((needed - j + LANES - 1) / LANES) {
        case 1: gathered_rows<T, 1>(rows, k, first, ab, inside, piece, bb, to, cb); break;
#if defined(__AVX2__) && !defined(__AVX512F__)
        default: gathered_rows<T, 2>(rows, k, first, ab, inside, piece, bb, to, cb); break;
#else
        case 2: gathered_rows<T, 2>(rows, k, first, ab, inside, piece, bb, to, cb); break;
        case 3: gathered_rows<T, 3>(rows, k, first, ab, inside, piece, bb, to, cb); break;
        default: gathered_rows<T, 4>(rows, k, first, ab, inside, piece, bb, to, cb); break;
#endif
      }
    }
  }
}

}  // namespace paged
}  // namespace PUNA_TIER
