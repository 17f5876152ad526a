// Products with the weights of a model by AMX: 16 units of a panel of W follow one another and are a
// B as they lie there (codes of 4 bits become bytes first), an A is a piece of the rows of x. Sums of
// whole numbers go to the float32 sums with every group of columns.
#pragma once

#include "amx.h"
#include "linear_layout.h"

namespace PUNA_TIER {

// visit(first row, last row, first panel, panels) of each block, as product_of goes through them.
template <class Visit>
PUNA_INLINE void amx_blocks(const Inputs& in, int64_t rows, int64_t begin, int64_t end,
                           int64_t most_panels, Visit visit) {
  const int64_t block = BLOCK_ROWS / in.width * in.width;
  for (int64_t first = 0; first < rows; first += block)
    for (int64_t panel = begin; panel < end; panel += most_panels)
      visit(first, smaller(first + block, rows), panel, int(smaller(most_panels, end - panel)));
}

// Units of a panel with zeros up to a whole register.
PUNA_INLINE void filled_up(const uint8_t* from, int64_t units, uint8_t* to) {
  std::memcpy(to, from, size_t(64 * units));
  std::memset(to + 64 * units, 0, size_t(REGISTER_BYTES - 64 * units));
}

// Sums of 16 rows and 4 panels, or of 32 rows and 2, in registers through all columns.
template <int TILES>
PUNA_INLINE void bfloat16_tile(const PunaLinear& w, const Inputs& in, int64_t row, int64_t panel,
                               int panels, float* sums, int64_t stride) {
  const int64_t units = units_of(w), row_bytes = 4 * amx_stride(w);
  const auto* a = reinterpret_cast<const uint8_t*>(in.units) + row * row_bytes;
  const uint8_t* b[4 / TILES];
  for (int j = 0; j < 4 / TILES; j++)  // beyond the last panel the last once more, unused
    b[j] = static_cast<const uint8_t*>(w.weights) + (panel + smaller(j, panels - 1)) * units * 64;
  alignas(64) uint8_t last[2][REGISTER_BYTES];
  const auto weights = [&](int j, int64_t unit) {
    const uint8_t* from = b[j] + unit * 64;
    if (TILES == 1)
      for (int64_t i = 0; i < REGISTER_BYTES; i += 64) prefetch(from + AHEAD_BYTES + i);
    if (unit + AMX_UNITS <= units) return from;
    filled_up(from, units - unit, last[j % 2]);
    return static_cast<const uint8_t*>(last[j % 2]);
  };
  clear_register<0>(), clear_register<1>(), clear_register<2>(), clear_register<3>();
  for (int64_t unit = 0; unit < units; unit += AMX_UNITS) {
    load_register<4>(a + unit * 4, row_bytes);
    if constexpr (TILES == 2) load_register<5>(a + in.width * row_bytes + unit * 4, row_bytes);
    load_register<6>(weights(0, unit), 64);
    load_register<7>(weights(1, unit), 64);
    add_pairs<0, 4, 6>();
    add_pairs<1, 4, 7>();
    if constexpr (TILES == 2) {
      add_pairs<2, 5, 6>();
      add_pairs<3, 5, 7>();
    } else {
      load_register<6>(weights(2, unit), 64);
      load_register<7>(weights(3, unit), 64);
      add_pairs<2, 4, 6>();
      add_pairs<3, 4, 7>();
    }
  }
  const int64_t below = TILES == 2 ? in.width * stride : 2 * LANES;  // where the second pair goes
  store_register<0>(sums, 4 * stride);
  store_register<1>(sums + LANES, 4 * stride);
  store_register<2>(sums + below, 4 * stride);
  store_register<3>(sums + below + LANES, 4 * stride);
}

// A row's sums with PANELS panels by vectors, which read weights faster where it is alone: the same
// operations in the same order as AMX's. Not inlined, so that none leaves the rounding of its caller.
template <int PANELS>
__attribute__((noinline)) static void bfloat16_row(const PunaLinear& w, const uint32_t* x,
                                                   int64_t panel, float* sums) {
  const int64_t units = units_of(w), step = 2 * LANES;
  const bf16* b = static_cast<const bf16*>(w.weights) + panel * units * step;
  F32 totals[PANELS];
  for (F32& total : totals) total = zero();
  for (int64_t unit = 0; unit < units; unit += AMX_UNITS) {
    F32 even[PANELS], odd[PANELS];
    for (int j = 0; j < PANELS; j++) even[j] = odd[j] = zero();
    for (int64_t i = unit; i < smaller(unit + AMX_UNITS, units); i++) {
      const Pairs both = broadcast_pair(reinterpret_cast<const bf16*>(x + i));
      const F32 first = first_of(both), second = second_of(both);
      for (int j = 0; j < PANELS; j++) {
        const bf16* from = b + (j * units + i) * step;
        prefetch(from + AHEAD_BYTES / sizeof(bf16));
        const Pairs weights = load_pairs(from);
        even[j] = fma(first, first_of(weights), even[j]);
        odd[j] = fma(second, second_of(weights), odd[j]);
      }
    }
    for (int j = 0; j < PANELS; j++) totals[j] = totals[j] + (even[j] + odd[j]);
  }
  for (int j = 0; j < PANELS; j++) store(sums + j * LANES, totals[j]);
}

template <class Take>
static void bfloat16_row_product(const PunaLinear& w, const Inputs& in, int64_t begin, int64_t end,
                                 Take take) {
  alignas(64) float sums[4 * LANES];
  for (int64_t panel = begin; panel < end; panel += 4) {
    const int64_t panels = smaller(4, end - panel);
    {
      const AmxRounding rounding;
      if (panels == 4)
        bfloat16_row<4>(w, in.units, panel, sums);
      else
        for (int64_t j = 0; j < panels; j++)
          bfloat16_row<1>(w, in.units, panel + j, sums + j * LANES);
    }
    take(0, 1, panel, int(panels), sums, 4 * LANES);
  }
}

template <class Take>
static void bfloat16_product(const PunaLinear& w, const Inputs& in, int64_t rows, int64_t begin,
                             int64_t end, Take take) {
  if (rows == 1) return bfloat16_row_product(w, in, begin, end, take);
  alignas(64) float sums[2 * AMX_ROWS * 2 * LANES];
  AmxShapes shapes;
  shapes.set(0, 5, in.width, 64);  // four C, two A
  shapes.set(6, 7, AMX_UNITS, 64);
  const AmxRegisters registers(shapes);
  const int64_t width = in.width, most = rows > width ? 2 : 4;
  amx_blocks(in, rows, begin, end, most, [&](int64_t first, int64_t last, int64_t panel, int panels) {
    for (int64_t row = first; row < last;) {
      const int64_t tiles = most == 2 && row + width < last ? 2 : 1;
      if (tiles == 2)
        bfloat16_tile<2>(w, in, row, panel, panels, sums, 2 * LANES);
      else
        bfloat16_tile<1>(w, in, row, panel, panels, sums, 4 * LANES);
      take(row, int(smaller(tiles * width, last - row)), panel, panels, sums,
           tiles == 2 ? 2 * LANES : 4 * LANES);
      row += tiles * width;
    }
  });
}

// Register N of weights: units from `unit` of a panel, of which `left` are in it.
template <int BITS, int N>
PUNA_INLINE void load_codes(const uint8_t* panel, int64_t unit, int64_t left, int64_t size) {
  alignas(64) uint8_t bytes[REGISTER_BYTES];
  if (BITS == 8 && left >= size) return load_register<N>(panel + unit * 64, 64);
  left = left < 0 ? 0 : smaller(left, size);
  if (BITS == 8) filled_up(panel + unit * 64, left, bytes);
  if (BITS == 4 && left < size) std::memset(bytes, 0, REGISTER_BYTES);
  for (int64_t i = 0; BITS == 4 && i < left; i += 2) {
    const Unsigned both = load_unsigned(panel + (unit + i) * 32);
    store(bytes + i * 64, low_nibbles(both));
    store(bytes + i * 64 + 64, high_nibbles(both));
  }
  load_register<N>(bytes, 64);
}

// Sums of panel J, from register 4 + J * DEPTH on, with the rows in registers 2 and 3.
template <int DEPTH, int J>
PUNA_INLINE void panel_totals(int32_t (&totals)[4 / DEPTH][AMX_ROWS * LANES]) {
  constexpr int C = J % 2, B = 4 + J * DEPTH;
  clear_register<C>();
  add_bytes<C, 2, B>();
  if constexpr (DEPTH == 2) add_bytes<C, 3, B + 1>();
  store_register<C>(totals[J], 64);
}

// The product of one format with one size of groups: DEPTH registers in depth, whose scales are
// those of whole rows where it is not GROUPED.
template <int BITS, int DEPTH, bool GROUPED>
struct IntegerProduct {
  static constexpr int64_t PANELS = 4 / DEPTH, STRIDE = PANELS * LANES;
  IntegerProduct(const PunaLinear& linear, const Inputs& inputs) : w(linear), in(inputs) {}

  const PunaLinear& w;
  const Inputs& in;
  const int64_t units = units_of(w), groups = input_groups(w), row_bytes = 4 * amx_stride(w);
  const int64_t size = input_group(w) / 4 / DEPTH;  // units of a register
  int64_t first = 0, last = 0;                      // rows of the block
  int64_t panel[PANELS] = {};                       // beyond the last one the last, unused
  alignas(64) float sums[BLOCK_ROWS * STRIDE];
  alignas(64) int32_t totals[2][PANELS][AMX_ROWS * LANES];

  template <int N>
  void load_weights(int64_t group) {
    const int64_t unit = (group * DEPTH + N % DEPTH) * size;
    const auto* codes = static_cast<const uint8_t*>(w.weights);
    load_codes<BITS, 4 + N>(codes + panel[N / DEPTH] * units * LANES * BITS / 2, unit,
                            units - unit, size);
  }
  void multiply(int64_t group, int64_t row, int turn) {
    const auto* a = reinterpret_cast<const uint8_t*>(in.units) + row * row_bytes +
                    group * DEPTH * size * 4;
    load_register<2>(a, row_bytes);
    if constexpr (DEPTH == 2) load_register<3>(a + size * 4, row_bytes);
    panel_totals<DEPTH, 0>(totals[turn]);
    panel_totals<DEPTH, 1>(totals[turn]);
    if constexpr (PANELS == 4) {
      panel_totals<DEPTH, 2>(totals[turn]);
      panel_totals<DEPTH, 3>(totals[turn]);
    }
  }
  // sums += (totals + the corrections of the rows) * the scales of both
  void add(int64_t group, int64_t row, int turn) {
    const int64_t width = in.width, at = (row / width * groups + group) * width;
    const int32_t* const corrections = in.corrections + at;
    const float* const scales = in.scales + at;
    for (int64_t j = 0; j < PANELS; j++) {
      const int32_t* const panel_totals = totals[turn][j];
      const F32 scale = GROUPED ? load_half(scales_of(w, panel[j] * groups + group)) : one();
      float* const to = sums + (row - first) * STRIDE + j * LANES;
      for (int64_t i = 0; i < width; i++) {
        const F32 total =
            as_float(load_whole(panel_totals + i * LANES) + broadcast_whole(corrections[i]));
        const F32 factor = GROUPED ? broadcast(scales[i]) * scale : broadcast(scales[i]);
        store(to + i * STRIDE, fused(total, factor, load(to + i * STRIDE)));
      }
    }
  }
  // The totals of one tile of rows are added while the next one is multiplied.
  void add_group(int64_t group) {
    load_weights<0>(group), load_weights<1>(group), load_weights<2>(group), load_weights<3>(group);
    int turn = 0;
    multiply(group, first, turn);
    int64_t row = first;
    for (; row + in.width < last; row += in.width, turn ^= 1) {
      multiply(group, row + in.width, turn ^ 1);
      add(group, row, turn);
    }
    add(group, row, turn);
  }
  void scale_rows() {
    for (int64_t j = 0; j < PANELS; j++) {
      const F32 scale = load(static_cast<const float*>(w.scales) + panel[j] * LANES);
      for (float* sum = sums + j * LANES; sum < sums + (last - first) * STRIDE; sum += STRIDE)
        store(sum, load(sum) * scale);
    }
  }
};

template <int BITS, int DEPTH, bool GROUPED, class Take>
static void integer_product(const PunaLinear& w, const Inputs& in, int64_t rows, int64_t begin,
                            int64_t end, Take take) {
  IntegerProduct<BITS, DEPTH, GROUPED> product(w, in);
  AmxShapes shapes;
  shapes.set(0, 1, in.width, 64);                // C
  shapes.set(2, 3, in.width, 4 * product.size);  // A
  shapes.set(4, 7, product.size, 64);            // B
  const AmxRegisters registers(shapes);
  amx_blocks(in, rows, begin, end, product.PANELS,
             [&](int64_t first, int64_t last, int64_t panel, int panels) {
    product.first = first;
    product.last = last;
    for (int64_t j = 0; j < product.PANELS; j++)
      product.panel[j] = panel + smaller(j, panels - 1);
    const int64_t whole = up_to_multiple(last - first, in.width);  // rows of its tiles
    std::memset(product.sums, 0, size_t(whole * product.STRIDE) * sizeof(float));
    for (int64_t group = 0; group < product.groups; group++) product.add_group(group);
    if (!GROUPED) product.scale_rows();
    for (int64_t row = first; row < last; row += in.width)
      take(row, int(smaller(in.width, last - row)), panel, panels,
           product.sums + (row - first) * product.STRIDE, product.STRIDE);
  });
}

template <int BITS, class Take>
static void integer_product(const PunaLinear& w, const Inputs& in, int64_t rows, int64_t begin,
                            int64_t end, Take take) {
  if (w.group == 0)
    integer_product<BITS, 2, false>(w, in, rows, begin, end, take);
  else if (w.group == 128)
    integer_product<BITS, 2, true>(w, in, rows, begin, end, take);
  else
    integer_product<BITS, 1, true>(w, in, rows, begin, end, take);
}

// As product_of of linear.h.
template <class Take>
static void amx_product(const PunaLinear& w, const Inputs& in, int64_t rows, int64_t begin,
                        int64_t end, Take take) {
  if (w.format == PUNA_BFLOAT16) return bfloat16_product(w, in, rows, begin, end, take);
  if (w.format == PUNA_INT8) return integer_product<8>(w, in, rows, begin, end, take);
  integer_product<4>(w, in, rows, begin, end, take);
}

}  // namespace PUNA_TIER
