// The work of attention over a paged cache, for the chunks of one step: tiles of queries, and the
// items in which threads take them.
//
// A tile that would keep one thread busy for too long is split into its ranges of positions: their
// results go to memory of the plan, and the member that finishes the last one folds them. A tile
// that is not split does the same range after range, so how the work is divided changes no bit.
#pragma once

#include <atomic>
#include <new>

#include "paged_cache.h"

namespace PUNA_TIER {
namespace paged {

constexpr int64_t ROWS = 48;
constexpr int64_t RANGE = 256;
constexpr int64_t SLICES = RANGE / SLICE;
static_assert(ROWS % TILE_ROWS == 0 && RANGE % SLICE == 0, "");

PUNA_INLINE int64_t ranges_of(int64_t keys) { return (keys + RANGE - 1) / RANGE; }

// What ranges gave to the rows of a tile.
struct Partial {
  float* highest;  // [rows], the largest score, times the scale
  float* total;    // [rows], the sum of exp(score - highest)
  float* heads;    // [rows, C rounded up to whole registers], values by these weights
};
PUNA_INLINE int64_t partial_entries(const Shape& shape, int64_t rows) {
  return in_lines(4 * rows * (padded(shape.width) + 2)) / 4;
}
PUNA_INLINE Partial partial_at(float* begin, int64_t rows) {
  return {begin, begin + rows, begin + 2 * rows};
}

// Rows of a chunk count its tokens and, within each, the query heads of one key/value head.
struct Tile {
  const Chunk* chunk;
  int64_t kv_head, row, rows;
  int64_t ranges;                // those that its last row sees
  float* partials = nullptr;     // of each range, where the tile is split
  std::atomic<int64_t> left{0};  // ranges that are not finished
};

// A tile, or one range of it.
struct Item {
  Tile* tile;
  int64_t range;  // -1: all
};

struct Plan {
  Item* items;
  int64_t count;
};

// Sizes of a plan.
struct Extent {
  int64_t tiles = 0, items = 0, floats = 0;
  int64_t largest = INT64_MAX;  // cost of a tile that is not split
};

// Time for ranges in some unit: arithmetic of each row, and reading the keys and values.
PUNA_INLINE int64_t cost(int64_t rows, int64_t ranges) { return ranges * (rows + 16); }

PUNA_INLINE bool is_split(const Extent& all, int64_t rows, int64_t ranges) {
  return ranges > 1 && cost(rows, ranges) > all.largest;
}

// visit(chunk, row, rows, ranges) for each tile of a step, which every key/value head has; of a
// chunk the last, which have the most to do, first.
template <class Visit>
static void each_tile(const Shape& shape, const Chunk* chunks, int64_t count, Visit visit) {
  const int64_t group = shape.heads / shape.kv_heads;
  for (const Chunk* chunk = chunks; chunk < chunks + count; chunk++) {
    const int64_t rows = chunk->count * group;
    for (int64_t row = (rows + ROWS - 1) / ROWS * ROWS - ROWS; row >= 0; row -= ROWS) {
      const int64_t own = rows - row < ROWS ? rows - row : ROWS;
      visit(*chunk, row, own, ranges_of(chunk->start + (row + own - 1) / group + 1));
    }
  }
}

static Extent extent(const Shape& shape, const Chunk* chunks, int64_t count, int members) {
  Extent all;
  int64_t total = 0;
  each_tile(shape, chunks, count, [&](const Chunk&, int64_t, int64_t rows, int64_t ranges) {
    all.tiles += shape.kv_heads;
    total += shape.kv_heads * cost(rows, ranges);
  });
  // a tile that is not split keeps a member busy for no more than an eighth of its share
  if (members > 1) all.largest = total / (8 * members);
  each_tile(shape, chunks, count, [&](const Chunk&, int64_t, int64_t rows, int64_t ranges) {
    const bool split = is_split(all, rows, ranges);
    all.items += shape.kv_heads * (split ? ranges : 1);
    all.floats += split ? shape.kv_heads * ranges * partial_entries(shape, rows) : 0;
  });
  return all;
}

// Bytes of the memory that a plan and the results of its ranges take. `members`: how many threads
// the items are for.
static int64_t plan_bytes(const Shape& shape, const Chunk* chunks, int64_t count, int members) {
  const Extent all = extent(shape, chunks, count, members);
  return in_lines(all.tiles * int64_t(sizeof(Tile))) + in_lines(all.items * int64_t(sizeof(Item))) +
         4 * all.floats;
}

// The work of a step, for each of its layers, one after the other. The chunks and the memory, which
// begins on a cache line, must stay.
static Plan plan(const Shape& shape, const Chunk* chunks, int64_t count, int members,
                 char* memory) {
  const Extent all = extent(shape, chunks, count, members);
  Scratch parts{memory};
  Tile* tiles = parts.take<Tile>(all.tiles);
  Item* items = parts.take<Item>(all.items);
  float* partials = parts.take<float>(all.floats);
  Item* item = items;
  const auto add = [&](const Chunk& chunk, int64_t row, int64_t rows, int64_t ranges) {
    const bool split = is_split(all, rows, ranges);
    for (int64_t head = 0; head < shape.kv_heads; head++) {
      Tile* tile = new (tiles + head) Tile{&chunk, head, row, rows, ranges};
      if (!split) {
        *item++ = {tile, -1};
        continue;
      }
      tile->left.store(ranges, std::memory_order_relaxed);
      tile->partials = partials;
      partials += ranges * partial_entries(shape, rows);
    }
    // a range of all heads stands together in memory
    for (int64_t range = 0; split && range < ranges; range++)
      for (int64_t head = 0; head < shape.kv_heads; head++) *item++ = {tiles + head, range};
    tiles += shape.kv_heads;
  };
  each_tile(shape, chunks, count, add);
  return {items, all.items};
}

}  // namespace paged
}  // namespace PUNA_TIER
