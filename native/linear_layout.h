// How W [rows, columns] and x lie in memory for the products of linear.h.
//
// W lies in panels of LANES rows, so that the lanes of a register are rows and the entries of x are
// broadcast. A panel is its columns, step by step:
//   float32   [columns][LANES]           bfloat16   [columns / 2][LANES][2]
//   int8      [columns / 4][LANES][4], code + 128
//   int4      [columns / 8][LANES][4], code + 8: four columns in the low halves of the bytes, the
//             next four in the high ones
// Rows are filled up to whole panels and columns to whole steps, with zeros (puna/native/packing.py
// packs). Scales [panel][group][LANES] are float16, for groups of 32 columns or multiples of that,
// or float32 where one holds for a whole row (group = 0). x is quantized to int8 with a scale for
// each group, or for INPUT_GROUP columns.
#pragma once

#include "amx.h"
#include "inference.h"

namespace PUNA_TIER {

constexpr int64_t INPUT_GROUP = 128;
constexpr int64_t BLOCK_ROWS = 96;  // of x at a time, which stay in the second-level cache
constexpr int MOST_PANELS = 4;      // of a tile
constexpr int MOST_ROWS = 16;       // likewise, in any tier
// Few rows use weights up as fast as memory gives them, and the processor foresees no further than
// the end of a page: they are asked for half a page before, and scales of groups 256 bytes.
constexpr int64_t AHEAD_BYTES = 2048, SCALES_AHEAD = 128;

PUNA_INLINE int64_t up_to_multiple(int64_t n, int64_t of) { return (n + of - 1) / of * of; }
PUNA_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Columns of W and of x with their filling.
PUNA_INLINE int64_t filled_columns(const PunaLinear& w) {
  const int64_t steps[] = {1, 2, 4, 8};
  return up_to_multiple(w.columns, steps[w.format]);
}
PUNA_INLINE int64_t panels_of(const PunaLinear& w) { return (w.rows + LANES - 1) / LANES; }
PUNA_INLINE int64_t input_group(const PunaLinear& w) { return w.group ? w.group : INPUT_GROUP; }
PUNA_INLINE int64_t input_groups(const PunaLinear& w) {
  return (filled_columns(w) + input_group(w) - 1) / input_group(w);
}

// The float16 scales of a group: of all panels, groups one after the other.
PUNA_INLINE const uint16_t* scales_of(const PunaLinear& w, int64_t group) {
  return static_cast<const uint16_t*>(w.scales) + group * LANES;
}

// Rows of x in the format that its product reads, in tiles of `width` rows: a tile is [units][width]
// with units of four bytes, a float32, two bfloat16 or four int8, so that the rows of one unit lie
// beside each other. The last tile may have fewer rows. Rows for AMX lie one below the other, with
// zeros up to whole registers.
struct Inputs {
  const uint32_t* units;
  const float* scales;         // [tiles][groups][width]
  const int32_t* corrections;  // likewise: the sum of x times what is added to the codes of W
  int64_t width;
};

PUNA_INLINE int64_t units_of(const PunaLinear& w) {
  const int64_t columns[] = {1, 2, 4, 4};  // of a unit
  return filled_columns(w) / columns[w.format];
}

#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr int INTEGER_ROWS = 3, FLOAT_ROWS = 6;  // of a tile, at most: what 16 registers hold
constexpr int MANY_INTEGER_ROWS = 3;             // of each of several tiles
template <int ROWS>
constexpr int INTEGER_PANELS = ROWS == 1 ? 4 : 2;
template <int ROWS>
constexpr int FLOAT_PANELS = ROWS == 1 ? 4 : 2;
#elif defined(PUNA_SCALAR)
constexpr int INTEGER_ROWS = 1, FLOAT_ROWS = 1;
constexpr int MANY_INTEGER_ROWS = 1;
template <int ROWS>
constexpr int INTEGER_PANELS = 1;
template <int ROWS>
constexpr int FLOAT_PANELS = 1;
#else
constexpr int INTEGER_ROWS = 8, FLOAT_ROWS = 12;
constexpr int MANY_INTEGER_ROWS = 6;
template <int ROWS>
constexpr int INTEGER_PANELS = ROWS <= 2 ? 4 : 2;
template <int ROWS>
constexpr int FLOAT_PANELS = ROWS <= 2 ? 4 : 2;
#endif

// Whether linear_amx.h multiplies so many rows. In bfloat16 it does so with one row too, since AMX
// adds up in an order of its own; sums of whole numbers are the same either way, and few rows of
// them no faster.
PUNA_INLINE bool by_amx([[maybe_unused]] const PunaLinear& w, [[maybe_unused]] int64_t rows) {
#if defined(PUNA_AMX)
  const bool grouped = w.group == 0 || w.group == 32 || w.group == 64 || w.group == 128;
  return w.format == PUNA_BFLOAT16 || (w.format >= PUNA_INT8 && grouped && rows > INTEGER_ROWS);
#else
  return false;
#endif
}

// Units from row to row of x, for AMX.
PUNA_INLINE int64_t amx_stride(const PunaLinear& w) {
  return up_to_multiple(units_of(w), AMX_UNITS);
}

// The rows of a tile of x: of 13 rows 7, so that tiles are alike. Rows that fit in one tile read the
// weights once, which counts for more than the fastest tile where memory is the limit.
PUNA_INLINE int64_t tile_width(const PunaLinear& w, int64_t rows) {
  const int64_t most = by_amx(w, rows)         ? AMX_ROWS
                       : w.format < PUNA_INT8  ? FLOAT_ROWS
                       : rows > INTEGER_ROWS   ? MANY_INTEGER_ROWS
                                               : INTEGER_ROWS;
  const int64_t tiles = rows > most ? (rows + most - 1) / most : 1;
  return rows > 0 ? (rows + tiles - 1) / tiles : 1;
}

}  // namespace PUNA_TIER
