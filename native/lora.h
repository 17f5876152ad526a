// Low-rank updates of the rows of a step (LoRA): y += B (A x), with an adapter of its own for every
// row, or none.
//
// A x is a phase before the product with W, of rows with one adapter beside each other; B is
// applied to the sums of that product where they stand in the cache, panel by panel. A merged
// matrix (q, k and v; gate and up) has one A, the rows of its parts one after the other, and a
// panel of W is added to by the ranks of its own parts. All is float32. Rows without an adapter are
// not touched, and a row's sums are added up in one order whatever its company.
#pragma once

#include "quantize.h"

namespace PUNA_TIER {

constexpr int64_t UPDATE_ROWS = 4;  // of x at a time

// Neighbouring rows with one adapter, UPDATE_ROWS at most.
struct AdaptedRows {
  int64_t begin, count;
  const PunaAdapter* adapter;
};

// The adapters of a step's rows; without any, `ranks` is 0 and nothing else is read.
struct Adapted {
  int64_t ranks;  // of a row of A x: whole panels, of the adapter with the most
  int64_t count;
  AdaptedRows* tiles;          // [count]
  const PunaAdapter** of_row;  // [tokens], null for a row without one
  float* projected;            // A x [tokens, ranks]
};

PUNA_INLINE int64_t most_ranks(const PunaStep& step) {
  int64_t ranks = 0;
  for (const PunaChunk* chunk = step.chunk; chunk < step.chunk + step.chunks; chunk++)
    if (chunk->adapter != nullptr && chunk->adapter->ranks > ranks) ranks = chunk->adapter->ranks;
  return up_to_multiple(ranks, LANES);
}

// Laid out from an address; nothing is written there.
PUNA_INLINE Adapted take_adapted(Scratch& scratch, const PunaStep& step) {
  const int64_t ranks = most_ranks(step), rows = ranks ? step.tokens : 0;
  return {ranks, 0, scratch.take<AdaptedRows>(rows), scratch.take<const PunaAdapter*>(rows),
          scratch.take<float>(rows * ranks)};
}

// Say which rows go through which adapter.
static void find_adapted(Adapted& adapted, const PunaStep& step) {
  if (adapted.ranks == 0) return;
  for (const PunaChunk* chunk = step.chunk; chunk < step.chunk + step.chunks; chunk++)
    for (int64_t row = chunk->token; row < chunk->token + chunk->count; row++) {
      adapted.of_row[row] = chunk->adapter;
      if (chunk->adapter == nullptr) continue;
      AdaptedRows* last = adapted.tiles + adapted.count - 1;
      if (adapted.count > 0 && last->adapter == chunk->adapter &&
          last->begin + last->count == row && last->count < UPDATE_ROWS)
        last->count++;
      else
        adapted.tiles[adapted.count++] = {row, 1, chunk->adapter};
    }
}

// The most panels of A that an adapter of the step has for a matrix.
PUNA_INLINE int64_t panels_of_updates(const Adapted& adapted, int64_t matrix) {
  int64_t most = 0;
  for (int64_t i = 0; i < adapted.count; i++) {
    const int64_t panels = panels_of(adapted.tiles[i].adapter->update[matrix].a);
    if (panels > most) most = panels;
  }
  return most;
}

// A panel of A x for a tile of rows, the i-th row of the step of which row(i) gives in float32.
template <class Row>
static void project(const Adapted& adapted, int64_t matrix, const AdaptedRows& tile, int64_t panel,
                    const InputMemory& memory, Row row) {
  const PunaLinear& a = tile.adapter->update[matrix].a;
  if (panel >= panels_of(a)) return;
  for (int64_t i = 0; i < tile.count; i++)
    take_input(a, row(tile.begin + i), i, tile.count, 0.0f, memory);
  product_of<FloatWeights<float>>(
      a, inputs_in(a, tile.count, memory), tile.count, panel, panel + 1,
      Into{adapted.projected + tile.begin * adapted.ranks, adapted.ranks, false});
}

// Add B (A x) to sums of the product with W, as product_of has them.
PUNA_INLINE void add_updates(const Adapted& adapted, int64_t matrix, int64_t row, int rows,
                             int64_t panel, int panels, float* sums, int64_t stride) {
  for (int i = 0; i < rows; i++) {
    const PunaAdapter* adapter = adapted.of_row[row + i];
    if (adapter == nullptr || adapter->update[matrix].a.rows == 0) continue;
    const PunaUpdate& update = adapter->update[matrix];
    const float* x = adapted.projected + (row + i) * adapted.ranks;
    for (int j = 0; j < panels; j++) {
      const PunaRanks& own = update.panel[panel + j];
      const float* b = update.b + own.at;
      F32 sum = load(sums + i * stride + j * LANES);
      for (int64_t k = own.begin; k < own.end; k++, b += LANES)
        sum = fma(broadcast(x[k]), load(b), sum);
      store(sums + i * stride + j * LANES, sum);
    }
  }
}

}  // namespace PUNA_TIER
