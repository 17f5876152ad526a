// Products with the weights of a model: y = x W^T, W [rows, columns] in four formats.
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
//
// A row of y depends on its row of x alone, to the last bit: each sum is added up in one order,
// whatever the number of rows. Whole-number sums are exact, so that all tiers agree on them.
#pragma once

#include "inference.h"
#include "tile.h"

namespace PUNA_TIER {

constexpr int64_t INPUT_GROUP = 128;
constexpr int64_t BLOCK_ROWS = 96;  // of x at a time, which stay in the second-level cache
constexpr int MOST_PANELS = 4;      // of a tile
constexpr int MOST_ROWS = 12;       // likewise, of the tier with the most registers
// One row uses weights up as fast as memory gives them, and the processor foresees no further than
// the end of a page: they are asked for half a page before.
constexpr int64_t AHEAD_BYTES = 2048;

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

// Rows of x in the format that its product reads, in tiles of `width` rows: a tile is [units][width]
// with units of four bytes, a float32, two bfloat16 or four int8, so that the rows of one unit lie
// beside each other. The last tile may have fewer rows.
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

template <class T, int ROWS, int PANELS>
PUNA_INLINE void float_tile(const PunaLinear& w, const Inputs& in, int64_t tile, int64_t panel,
                            float* out, int64_t stride) {
  const int64_t units = units_of(w), width = in.width;
  const T* b = static_cast<const T*>(w.weights) + panel * units * DEPTH<T> * LANES;
  const uint32_t* a = in.units + tile * units * width;
  F32 sums[ROWS][PANELS];
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < PANELS; j++) sums[i][j] = zero();
  for (int64_t unit = 0; unit < units; unit++) {
    decltype(load_step(b)) weights[PANELS];
    for (int j = 0; j < PANELS; j++) {
      const T* step = b + (j * units + unit) * DEPTH<T> * LANES;
      weights[j] = load_step(step);
      if constexpr (ROWS == 1) prefetch(step + AHEAD_BYTES / sizeof(T));
    }
    for (int i = 0; i < ROWS; i++) {
      const auto x = broadcast_step(reinterpret_cast<const T*>(a + unit * width + i));
      for (int j = 0; j < PANELS; j++) sums[i][j] = dot(sums[i][j], x, weights[j]);
    }
  }
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < PANELS; j++) store(out + i * stride + j * LANES, sums[i][j]);
}

// Units from `unit` to `end` of a tile of x (a, with `width` rows) and of PANELS panels (b). Codes
// of 4 bits are asked for a tile ahead: they are used up faster than those of 8.
template <int BITS, int ROWS, int PANELS>
PUNA_INLINE void add_units(const uint8_t* b, const uint32_t* a, int64_t units, int64_t width,
                           int64_t unit, int64_t end, Partial (&runs)[ROWS][PANELS]) {
  constexpr int64_t UNIT = LANES * BITS / 2;  // bytes of four columns of a panel
  for (; unit < end; unit += 8 / BITS) {
    Unsigned low[PANELS], high[PANELS];
    for (int j = 0; j < PANELS; j++) {
      const uint8_t* step = b + (j * units + unit) * UNIT;
      low[j] = load_unsigned(step);
      if constexpr (BITS == 8 && ROWS == 1) prefetch(step + AHEAD_BYTES);
      if constexpr (BITS == 4) {
        prefetch(b + ((PANELS + j) * units + unit) * UNIT);
        high[j] = high_nibbles(low[j]);
        low[j] = low_nibbles(low[j]);
      }
    }
    for (int i = 0; i < ROWS; i++) {
      const Signed x = broadcast_signed(a + unit * width + i);
      for (int j = 0; j < PANELS; j++) runs[i][j] = dot(runs[i][j], low[j], x);
    }
    if constexpr (BITS == 4)
      for (int i = 0; i < ROWS; i++) {
        const Signed x = broadcast_signed(a + (unit + 1) * width + i);
        for (int j = 0; j < PANELS; j++) runs[i][j] = dot(runs[i][j], high[j], x);
      }
  }
}

// The sums stand in `out` from group to group: in registers they would leave too few for the runs.
template <int BITS, int ROWS, int PANELS>
PUNA_INLINE void integer_tile(const PunaLinear& w, const Inputs& in, int64_t tile, int64_t panel,
                              float* out, int64_t stride) {
  const int64_t units = units_of(w), size = input_group(w) / 4, groups = input_groups(w);
  const int64_t width = in.width;
  const uint8_t* b = static_cast<const uint8_t*>(w.weights) + panel * units * LANES * BITS / 2;
  const uint32_t* a = in.units + tile * units * width;
  const float* scales = in.scales + tile * groups * width;
  const int32_t* corrections = in.corrections + tile * groups * width;
  for (int64_t group = 0; group < groups; group++) {
    const int64_t end = smaller((group + 1) * size, units);
    I32 totals[ROWS][PANELS];
    for (int i = 0; i < ROWS; i++)
      for (int j = 0; j < PANELS; j++)
        totals[i][j] = broadcast_whole(corrections[group * width + i]);
    for (int64_t unit = group * size; unit < end; unit += RUN<BITS>) {
      Partial runs[ROWS][PANELS];
      for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < PANELS; j++) runs[i][j] = begin_run(totals[i][j]);
      add_units<BITS>(b, a, units, width, unit, smaller(unit + RUN<BITS>, end), runs);
      for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < PANELS; j++) totals[i][j] = end_run(totals[i][j], runs[i][j]);
    }
    for (int j = 0; j < PANELS; j++) {
      const F32 scale = w.group ? load_half(static_cast<const uint16_t*>(w.scales) +
                                            ((panel + j) * groups + group) * LANES)
                                : one();
      for (int i = 0; i < ROWS; i++) {
        float* sum = out + i * stride + j * LANES;
        const F32 factor = broadcast(scales[group * width + i]) * scale;
        store(sum, fused(as_float(totals[i][j]), factor, group ? load(sum) : zero()));
      }
    }
  }
  for (int j = 0; w.group == 0 && j < PANELS; j++) {
    const F32 scale = load(static_cast<const float*>(w.scales) + (panel + j) * LANES);
    for (int i = 0; i < ROWS; i++) {
      float* sum = out + i * stride + j * LANES;
      store(sum, load(sum) * scale);
    }
  }
}

// The formats as types: how many rows and panels a tile has, and the tile.
template <class T>
struct FloatWeights {
  static constexpr int ROWS = FLOAT_ROWS;
  template <int rows>
  static constexpr int PANELS = FLOAT_PANELS<rows>;
  template <int rows, int panels>
  static void multiply(const PunaLinear& w, const Inputs& in, int64_t tile, int64_t panel,
                       float* out, int64_t stride) {
    float_tile<T, rows, panels>(w, in, tile, panel, out, stride);
  }
};
template <int BITS>
struct IntegerWeights {
  static constexpr int ROWS = INTEGER_ROWS;
  template <int rows>
  static constexpr int PANELS = INTEGER_PANELS<rows>;
  template <int rows, int panels>
  static void multiply(const PunaLinear& w, const Inputs& in, int64_t tile, int64_t panel,
                       float* out, int64_t stride) {
    integer_tile<BITS, rows, panels>(w, in, tile, panel, out, stride);
  }
};

// A tile of `rows` rows of x with `panels` panels.
template <class Weights, int rows>
static void panels_by(const PunaLinear& w, const Inputs& in, int64_t tile, int64_t panel,
                      int panels, float* out, int64_t stride) {
  constexpr int most = Weights::template PANELS<rows>;
  int done = 0;
  for (; done + most <= panels; done += most)
    Weights::template multiply<rows, most>(w, in, tile, panel + done, out + done * LANES, stride);
  for (; done < panels; done++)
    Weights::template multiply<rows, 1>(w, in, tile, panel + done, out + done * LANES, stride);
}

template <class Weights, int most = Weights::ROWS>
static void tile_by(int rows, const PunaLinear& w, const Inputs& in, int64_t tile, int64_t panel,
                    int panels, float* out, int64_t stride) {
  if constexpr (most > 1)
    if (rows < most)
      return tile_by<Weights, most - 1>(rows, w, in, tile, panel, panels, out, stride);
  panels_by<Weights, most>(w, in, tile, panel, panels, out, stride);
}

// Rows of x with the panels from `begin` to `end`. take(row, rows, panel, panels, sums, stride) is
// called with each part of the result, of 2 panels at least where `begin` and `end` are even.
template <class Weights, class Take>
static void product_of(const PunaLinear& w, const Inputs& in, int64_t rows, int64_t begin,
                       int64_t end, Take take) {
  constexpr int64_t stride = MOST_PANELS * LANES;
  alignas(64) float sums[Weights::ROWS * stride];
  const int64_t block = BLOCK_ROWS / in.width * in.width;
  for (int64_t first = 0; first < rows; first += block)
    for (int64_t panel = begin; panel < end; panel += MOST_PANELS) {
      const int panels = int(smaller(MOST_PANELS, end - panel));
      for (int64_t row = first; row < smaller(first + block, rows); row += in.width) {
        const int count = int(smaller(in.width, rows - row));
        tile_by<Weights>(count, w, in, row / in.width, panel, panels, sums, stride);
        take(row, count, panel, panels, sums, stride);
      }
    }
}

template <class Take>
static void product_with(const PunaLinear& w, const Inputs& in, int64_t rows, int64_t begin,
                         int64_t end, Take take) {
  switch (w.format) {
    case PUNA_FLOAT32: return product_of<FloatWeights<float>>(w, in, rows, begin, end, take);
    case PUNA_BFLOAT16: return product_of<FloatWeights<bf16>>(w, in, rows, begin, end, take);
    case PUNA_INT8: return product_of<IntegerWeights<8>>(w, in, rows, begin, end, take);
    default: return product_of<IntegerWeights<4>>(w, in, rows, begin, end, take);
  }
}

// The rows of a tile of x: of 13 rows 7, so that tiles are alike. Rows that fit in one tile read the
// weights once, which counts for more than the fastest tile where memory is the limit.
PUNA_INLINE int64_t tile_width(const PunaLinear& w, int64_t rows) {
  const int64_t most = w.format < PUNA_INT8 ? FLOAT_ROWS
                       : rows > INTEGER_ROWS ? MANY_INTEGER_ROWS
                                             : INTEGER_ROWS;
  const int64_t tiles = rows > most ? (rows + most - 1) / most : 1;
  return rows > 0 ? (rows + tiles - 1) / tiles : 1;
}

// y[row, :] = sums, or y[row, :] += sums.
struct Into {
  float* y;
  int64_t columns;
  bool add;
  void operator()(int64_t row, int rows, int64_t panel, int panels, const float* sums,
                  int64_t stride) const {
    for (int i = 0; i < rows; i++)
      for (int j = 0; j < panels; j++) {
        const int n = left(columns, (panel + j) * LANES);
        float* out = y + (row + i) * columns + (panel + j) * LANES;
        const F32 value = load(sums + i * stride + j * LANES);
        if (n > 0) store(out, add ? load(out, n) + value : value, n);
      }
  }
};

}  // namespace PUNA_TIER
