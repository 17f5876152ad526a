// Products with the weights of a model: y = x W^T, W [rows, columns] in four formats.
//
// A row of y depends on its row of x alone, to the last bit: each sum is added up in one order,
// whatever the number of rows. Whole-number sums are exact, so that all tiers agree on them.
#pragma once

#include "linear_layout.h"
#include "tile.h"
#if defined(PUNA_AMX)
#include "linear_amx.h"
#endif

namespace PUNA_TIER {

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
      if constexpr (BITS == 8) prefetch(step + AHEAD_BYTES);
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
    for (int j = 0; ROWS == 1 && w.group && j < PANELS; j++)
      prefetch(scales_of(w, (panel + j) * groups + group) + SCALES_AHEAD);
    for (int64_t unit = group * size; unit < end; unit += RUN<BITS>) {
      Partial runs[ROWS][PANELS];
      for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < PANELS; j++) runs[i][j] = begin_run(totals[i][j]);
      add_units<BITS>(b, a, units, width, unit, smaller(unit + RUN<BITS>, end), runs);
      for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < PANELS; j++) totals[i][j] = end_run(totals[i][j], runs[i][j]);
    }
    for (int j = 0; j < PANELS; j++) {
      const F32 scale = w.group ? load_half(scales_of(w, (panel + j) * groups + group)) : one();
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
#if defined(PUNA_AMX)
  if (by_amx(w, rows)) return amx_product(w, in, rows, begin, end, take);
#endif
  switch (w.format) {
    case PUNA_FLOAT32: return product_of<FloatWeights<float>>(w, in, rows, begin, end, take);
    case PUNA_BFLOAT16: return product_of<FloatWeights<bf16>>(w, in, rows, begin, end, take);
    case PUNA_INT8: return product_of<IntegerWeights<8>>(w, in, rows, begin, end, take);
    default: return product_of<IntegerWeights<4>>(w, in, rows, begin, end, take);
  }
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
