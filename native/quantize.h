// Rows of x as a product reads them: rounded to its format, and for integer weights to eight bits
// with a scale for each group of columns.
//
//   the codes of codes.h;  sum of code * x over a group = whole * scale
#pragma once

#include "codes.h"
#include "linear.h"
#include "pack.h"

namespace PUNA_TIER {

// The largest code. Products of 8-bit weights from 0 to 255 are added in pairs of 16 bits on AVX2:
// 2 x 255 x 63 = 32,130 fits, 127 does not.
template <int BITS>
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr float LEVELS = BITS == 8 ? 63.0f : 127.0f;
#else
constexpr float LEVELS = 127.0f;
#endif

// Where the rows of one product's input are kept.
struct InputMemory {
  uint32_t* units;
  float* scales;
  int32_t* corrections;
  uint32_t* row;  // one row, before its units are spread
};

// The memory of `rows` rows for products of up to `columns` columns, in every format.
PUNA_INLINE InputMemory take_memory(Scratch& scratch, int64_t rows, int64_t columns) {
  const int64_t tiled = rows + MOST_ROWS;  // the last tile may have places to spare
  const int64_t units = up_to_multiple(columns, 64), groups = units / 32;
  return {scratch.take<uint32_t>(tiled * units), scratch.take<float>(tiled * groups),
          scratch.take<int32_t>(tiled * groups), scratch.take<uint32_t>(units)};
}

PUNA_INLINE Inputs inputs_in(const PunaLinear& w, int64_t rows, const InputMemory& memory) {
  return {memory.units, memory.scales, memory.corrections, tile_width(w, rows)};
}

template <class T>
PUNA_INLINE void rounded_row(const float* x, int64_t columns, int64_t filled, T* y) {
  for (int64_t i = 0; i < columns; i += LANES) {
    const int n = left(columns, i);
    store(y + i, load(x + i, n), n);
  }
  for (int64_t i = columns; i < filled; i++) y[i] = T{};
}

template <int BITS>
PUNA_INLINE void quantized_group(const float* x, int64_t columns, int64_t filled, float levels,
                                 int8_t* codes, float* scale, int32_t* correction) {
  *scale = coded(x, columns, levels, codes);
  for (int64_t i = columns; i < filled; i++) codes[i] = 0;
  int32_t total = 0;
  for (int64_t i = 0; i < columns; i++) total += codes[i];
  *correction = total * (BITS == 8 ? -128 : -8);
}

// Row `row` of x, float32 [columns], among `rows` inputs of `w`. levels: the largest code of 8-bit
// weights' inputs, 0 for this tier's own.
PUNA_INLINE void take_input(const PunaLinear& w, const float* x, int64_t row, int64_t rows,
                            float levels, const InputMemory& memory) {
  const int64_t units = by_amx(w, rows) ? amx_stride(w) : units_of(w);
  const int64_t filled = filled_columns(w) / units_of(w) * units;
  const int64_t width = tile_width(w, rows), tile = row / width, lane = row % width;
  const bool in_place = width == 1 || by_amx(w, rows);
  uint32_t* own = in_place ? memory.units + row * units : memory.row;
  if (w.format == PUNA_FLOAT32) {
    rounded_row(x, w.columns, filled, reinterpret_cast<float*>(own));
  } else if (w.format == PUNA_BFLOAT16) {
    rounded_row(x, w.columns, filled, reinterpret_cast<bf16*>(own));
  } else {
    const int64_t size = input_group(w), groups = input_groups(w);
    int8_t* codes = reinterpret_cast<int8_t*>(own);
    for (int64_t group = 0; group < groups; group++) {
      const int64_t begin = group * size;
      const int64_t end = group + 1 < groups ? begin + size : filled;
      const int64_t columns = smaller(end, w.columns) - begin;
      const int64_t at = (tile * groups + group) * width + lane;
      if (w.format == PUNA_INT8)
        quantized_group<8>(x + begin, columns, end - begin, levels > 0.0f ? levels : LEVELS<8>,
                           codes + begin, memory.scales + at, memory.corrections + at);
      else
        quantized_group<4>(x + begin, columns, end - begin, LEVELS<4>, codes + begin,
                           memory.scales + at, memory.corrections + at);
    }
  }
  if (in_place) return;
  uint32_t* spread = memory.units + tile * units * width + lane;
  for (int64_t unit = 0; unit < units; unit++) spread[unit * width] = own[unit];
}

// Row r of W, float32 [columns].
PUNA_INLINE void weights_of_row(const PunaLinear& w, int64_t r, float* y) {
  const int64_t panel = r / LANES, lane = r % LANES, first = panel * filled_columns(w) * LANES;
  if (w.format == PUNA_FLOAT32) {
    const float* entries = static_cast<const float*>(w.weights) + first + lane;
    for (int64_t k = 0; k < w.columns; k++) y[k] = entries[k * LANES];
    return;
  }
  if (w.format == PUNA_BFLOAT16) {
    const bf16* entries = static_cast<const bf16*>(w.weights) + first + 2 * lane;
    for (int64_t k = 0; k < w.columns; k++) y[k] = widened(entries[k / 2 * 2 * LANES + k % 2]);
    return;
  }
  const auto* codes = static_cast<const uint8_t*>(w.weights);
  const int64_t size = w.group ? w.group : w.columns, groups = input_groups(w);
  for (int64_t begin = 0; begin < w.columns; begin += size) {
    float scales[LANES];
    if (w.group)
      store(scales, load_half(static_cast<const uint16_t*>(w.scales) +
                              (panel * groups + begin / size) * LANES));
    else
      store(scales, load(static_cast<const float*>(w.scales) + panel * LANES));
    for (int64_t k = begin; k < smaller(begin + size, w.columns); k++) {
      int code;
      if (w.format == PUNA_INT8) {
        code = codes[first + k / 4 * 4 * LANES + 4 * lane + k % 4] - 128;
      } else {
        const int both = codes[first / 2 + k / 8 * 4 * LANES + 4 * lane + k % 4];
        code = (k / 4 % 2 ? both >> 4 : both & 15) - 8;
      }
      y[k] = float(code) * scales[lane];
    }
  }
}

}  // namespace PUNA_TIER
