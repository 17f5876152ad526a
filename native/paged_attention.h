// Causal attention of the chunks of a step over the blocks of their sequences (paged_cache.h):
// out[t] = sum_{s <= t} softmax_s(q_t k_s / sqrt(C)) v_s.
//
// A tile is up to ROWS queries of one key/value head: tokens of a chunk times the query heads that
// share it, so that keys and values are read once for all of them. Each row takes them in ranges
// of RANGE positions: a range alone gives its largest score, sum and weighted values, and these
// are folded in order, as in FlashAttention (Dao et al. 2022, section 3.1). What a row gets from a
// range depends on the row and the range alone, so results are the same bit for bit wherever a
// prompt is cut, whatever else is in the step and on however many threads (paged_plan.h).
//
// Scores, sums and the softmax are float32; in bfloat16 the products take operands rounded to it.
// A value that is not finite may reach earlier tokens of its own chunk, but no other chunk's.
#pragma once

#include "paged_plan.h"

namespace PUNA_TIER {
namespace paged {

// One layer's attention. All its tokens are in the cache before the first item begins.
template <class T>
struct Pass {
  const Shape& shape;
  Layer<T> layer;
  Rotary rotary;     // tables of all positions
  const float* qkv;  // float32 [N, (H + 2 K) C], the rows of the step; queries not yet turned
  float* out;        // float32 [N, H C]
};

// C [ROWS, COLUMNS registers] = A B. `piece` rows of B are at a fixed stride from step to step;
// at(step, j): where the first of them is, for the register j of the columns.
template <class T, int ROWS, int COLUMNS, class At>
PUNA_INLINE void gathered_tile(int64_t k, const T* a, int64_t ab, At at, int64_t piece, int64_t bb,
                               float* c, int64_t cb) {
  F32 sums[ROWS][COLUMNS];
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < COLUMNS; j++) sums[i][j] = zero();
  for (int64_t begin = 0; begin < k; begin += piece) {
    const T* b[COLUMNS];
    for (int j = 0; j < COLUMNS; j++) b[j] = at(begin, j);
    const int64_t end = k - begin < piece ? k : begin + piece;
    for (int64_t step = begin; step < end; step += DEPTH<T>) {
      decltype(load_step(a)) columns[COLUMNS];
      for (int j = 0; j < COLUMNS; j++) columns[j] = load_step(b[j]), b[j] += bb;
      for (int i = 0; i < ROWS; i++) {
        const auto row = broadcast_step(a + i * ab + step);
        for (int j = 0; j < COLUMNS; j++) sums[i][j] = dot(sums[i][j], row, columns[j]);
      }
    }
  }
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < COLUMNS; j++) store(c + i * cb + j * LANES, sums[i][j]);
}

template <class T, int COLUMNS, class At>
static void gathered_rows(int rows, int64_t k, const T* a, int64_t ab, At at, int64_t piece,
                          int64_t bb, float* c, int64_t cb) {
  switch (rows) {
    case 1: return gathered_tile<T, 1, COLUMNS>(k, a, ab, at, piece, bb, c, cb);
    case 2: return gathered_tile<T, 2, COLUMNS>(k, a, ab, at, piece, bb, c, cb);
    case 3: return gathered_tile<T, 3, COLUMNS>(k, a, ab, at, piece, bb, c, cb);
    case 4: return gathered_tile<T, 4, COLUMNS>(k, a, ab, at, piece, bb, c, cb);
    case 5: return gathered_tile<T, 5, COLUMNS>(k, a, ab, at, piece, bb, c, cb);
    default: return gathered_tile<T, 6, COLUMNS>(k, a, ab, at, piece, bb, c, cb);
  }
}

// C [m, n] = A [m, k] B, as product() of tile.h, with B in pieces; at(step, column).
template <class T, class At, class Limit, class Depth>
PUNA_INLINE void gathered(int64_t m, int64_t n, const T* a, int64_t ab, At at, int64_t piece,
                          int64_t bb, float* c, int64_t cb, Limit limit, Depth depth) {
  constexpr int64_t panel = TILE_COLUMNS * LANES;
  for (int64_t j = 0; j < n; j += panel) {
    const auto inside = [=](int64_t step, int64_t column) { return at(step, j + column * LANES); };
    for (int64_t i = 0; i < m; i += TILE_ROWS) {
      const int rows = int(m - i < TILE_ROWS ? m - i : TILE_ROWS);
      const int64_t needed = limit(i + rows - 1) < n ? limit(i + rows - 1) : n;
      if (needed <= j) continue;
      const int64_t k = depth(i + rows - 1);
      const T* first = a + i * ab;
      float* to = c + i * cb + j;
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

// The rows of a tile from the first on that see a range: weights = exp(scale * scores - highest) of
// float32 scores [rows, RANGE], with zeros up to the end of what the row's tile multiplies.
// seen(i): how many keys of the range row i sees.
template <class T, class Seen>
static void softmax(int64_t rows, float scale, float* scores, T* weights, Seen seen, float* highest,
                    float* total) {
  const F32 factor = broadcast(scale);
  for (int64_t i = 0; i < rows; i++) {
    float* row = scores + i * RANGE;
    const int64_t last = i / TILE_ROWS * TILE_ROWS + TILE_ROWS - 1;
    const int64_t end = padded(seen(last < rows ? last : rows - 1));
    for (int64_t j = seen(i); j < end; j++) row[j] = -INFINITY;
    F32 top = broadcast(-INFINITY);
    for (int64_t j = 0; j < end; j += LANES) top = max(top, load(row + j));
    highest[i] = largest(top) * scale;
    const F32 shift = broadcast(-highest[i]);
    F32 sums = zero();
    for (int64_t j = 0; j < end; j += LANES) {
      const F32 weight = exp(fma(load(row + j), factor, shift));
      sums = sums + weight;
      store(weights + i * RANGE + j, weight);
    }
    total[i] = sum(sums);
  }
}

// Into what the ranges before gave to `rows` rows, what the next one did. One function, so that the
// compiler has one way to round it.
__attribute__((noinline)) static void fold(int64_t rows, int64_t wide, const Partial& into,
                                           const Partial& next) {
  for (int64_t i = 0; i < rows; i++) {
    const float old = into.highest[i], own = next.highest[i], highest = own > old ? own : old;
    const float kept = std::exp(old - highest), added = std::exp(own - highest);
    const F32 keep = broadcast(kept), add = broadcast(added);
    into.highest[i] = highest;
    into.total[i] = kept * into.total[i] + added * next.total[i];
    for (int64_t c = 0; c < wide; c += LANES)
      store(into.heads + i * wide + c, fma(load(next.heads + i * wide + c), add,
                                           load(into.heads + i * wide + c) * keep));
  }
}

// A tile on its way through a member's scratch memory.
template <class T>
class Attention {
 public:
  Attention(const Pass<T>& pass, const Tile& tile, char* memory)
      : pass_(pass), shape_(pass.shape), tile_(tile), wide_(padded(shape_.width)) {
    Scratch scratch{memory};
    queries_ = scratch.take<T>(ROWS * wide_);
    scores_ = scratch.take<float>(ROWS * RANGE);
    weights_ = scratch.take<T>(ROWS * RANGE);
    tail_ = scratch.take<T>(SLICE * wide_);
    for (float*& partial : partials_) partial = scratch.take<float>(partial_entries(shape_, ROWS));
    const int64_t group = shape_.heads / shape_.kv_heads;
    const int64_t stride = (shape_.heads + 2 * shape_.kv_heads) * shape_.width;
    for (int64_t i = 0; i < tile.rows; i++) {
      const int64_t token = (tile.row + i) / group, head = (tile.row + i) % group;
      const int64_t position = tile.chunk->start + token;
      const float* q = pass.qkv + (tile.chunk->token + token) * stride +
                       (tile.kv_head * group + head) * shape_.width;
      turned(q, pass.rotary, position, 1.0f, shape_.width, queries_ + i * wide_, wide_);
      seen_[i] = position + 1;
    }
  }

  static int64_t bytes(const Shape& shape) {
    const int64_t wide = padded(shape.width), size = sizeof(T);
    return in_lines(size * ROWS * wide) + in_lines(4 * ROWS * RANGE) +
           in_lines(size * ROWS * RANGE) + in_lines(size * SLICE * wide) +
           2 * 4 * partial_entries(shape, ROWS);
  }

  void all_ranges() {
    const Partial whole = partial_at(partials_[0], tile_.rows);
    attend(0, whole);
    for (int64_t range = 1; range < tile_.ranges; range++) {
      attend(range, partial_at(partials_[1], tile_.rows));
      add(range, whole, partial_at(partials_[1], tile_.rows));
    }
    finish(whole);
  }

  void one_range(int64_t range) { attend(range, split_partial(range)); }

  void fold_ranges() {
    for (int64_t range = 1; range < tile_.ranges; range++)
      add(range, split_partial(0), split_partial(range));
    finish(split_partial(0));
  }

 private:
  // The first row that sees a range.
  int64_t first_row(int64_t range) const {
    int64_t row = 0;
    while (seen_[row] <= range * RANGE) row++;
    return row;
  }
  Partial split_partial(int64_t range) const {
    const int64_t entries = partial_entries(shape_, tile_.rows);
    return partial_at(tile_.partials + range * entries, tile_.rows);
  }
  Partial from_row(const Partial& partial, int64_t row) const {
    return {partial.highest + row, partial.total + row, partial.heads + row * wide_};
  }

  // What a range gives to the rows that see it.
  void attend(int64_t range, const Partial& to) {
    const int64_t begin = range * RANGE, first = first_row(range), rows = tile_.rows - first;
    const auto seen = [&](int64_t i) {
      return seen_[first + i] - begin < RANGE ? seen_[first + i] - begin : RANGE;
    };
    const int64_t keys = seen(rows - 1);
    const T* key_slices[SLICES];
    const T* value_slices[SLICES];
    for (int64_t i = 0; i * SLICE < keys; i++) {
      const int64_t position = begin + i * SLICE;
      key_slices[i] = key_slot(shape_, pass_.layer, *tile_.chunk, tile_.kv_head, position);
      value_slices[i] = value_slot(shape_, pass_.layer, *tile_.chunk, tile_.kv_head, position);
    }
    if (keys % DEPTH<T>) value_slices[keys / SLICE] = last_slice(value_slices[keys / SLICE], keys);

    const Partial own = from_row(to, first);
    gathered(
        rows, keys, queries_ + first * wide_, wide_,
        [&](int64_t, int64_t key) {
          return key_slices[key / SLICE] + key % SLICE * DEPTH<T>;
        },
        wide_, shape_.block * DEPTH<T>, scores_, RANGE, seen,
        [&](int64_t) { return shape_.width; });
    softmax(rows, shape_.scale, scores_, weights_, seen, own.highest, own.total);
    gathered(
        rows, wide_, weights_, RANGE,
        [&](int64_t key, int64_t column) {
          return value_slices[key / SLICE] + column * DEPTH<T>;
        },
        SLICE, wide_ * DEPTH<T>, own.heads, wide_, all, seen);
  }

  // A copy of the slice that holds the last of `keys` values, with zeros in its second half of the
  // last step: that slot may hold anything, and 0 times not a number is none either.
  const T* last_slice(const T* slice, int64_t keys) {
    const int64_t last = keys % SLICE / DEPTH<T> * DEPTH<T> * wide_;
    std::memcpy(tail_, slice, (last + DEPTH<T> * wide_) * sizeof(T));
    for (int64_t c = 0; c < wide_; c++) tail_[last + c * DEPTH<T> + 1] = T{};
    return tail_;
  }

  void add(int64_t range, const Partial& into, const Partial& next) {
    const int64_t first = first_row(range);
    fold(tile_.rows - first, wide_, from_row(into, first), from_row(next, first));
  }

  void finish(const Partial& whole) const {
    const int64_t group = shape_.heads / shape_.kv_heads, width = shape_.width;
    for (int64_t i = 0; i < tile_.rows; i++) {
      const int64_t token = tile_.chunk->token + (tile_.row + i) / group;
      const int64_t head = tile_.kv_head * group + (tile_.row + i) % group;
      float* out = pass_.out + (token * shape_.heads + head) * width;
      const F32 share = broadcast(1.0f / whole.total[i]);
      for (int64_t c = 0; c < width; c += LANES)
        store(out + c, load(whole.heads + i * wide_ + c) * share, left(width, c));
    }
  }

  const Pass<T>& pass_;
  const Shape& shape_;
  const Tile& tile_;
  const int64_t wide_;
  T* queries_;
  float* scores_;
  T* weights_;
  T* tail_;
  float* partials_[2];
  int64_t seen_[ROWS];  // keys that each row sees
};

// Bytes of scratch memory for each member of the team, beginning on a cache line.
template <class T>
static int64_t attend_scratch(const Shape& shape) {
  return Attention<T>::bytes(shape);
}

// One item of the plan. A plan can be passed again, with another layer, when all are done.
template <class T>
static void attend(const Pass<T>& pass, const Item& item, char* scratch) {
  Tile& tile = *item.tile;
  Attention<T> attention(pass, tile, scratch);
  if (item.range < 0) return attention.all_ranges();
  attention.one_range(item.range);
  if (tile.left.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  tile.left.store(tile.ranges, std::memory_order_relaxed);
  attention.fold_ranges();
}

}  // namespace paged
}  // namespace PUNA_TIER
