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
// Scores, sums and the softmax are float32. With keys and values in bfloat16, queries and weights
// are rounded to it too where the processor multiplies pairs of it, and are float32 elsewhere. With
// codes, a query and the weights of a range, with the scales of the values in them, are codes of 16
// bits (codes.h): sums of products are exact and the same in all tiers.
// A value that is not finite may reach earlier tokens of its own chunk, but no other chunk's.
#pragma once

#include "paged_plan.h"
#include "paged_product.h"

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

// Scales of codes where T has them: of the rows' queries, of a range's keys and values, these with
// zeros beyond its last key, and what those of the weights become.
struct Scales {
  const float* queries;
  const float* keys;
  const float* values;
  float* weights;
};

// The rows of a tile from the first on that see a range: weights = exp(scale * scores - highest) of
// float32 scores [rows, RANGE], with zeros up to the end of what the row's tile multiplies.
// seen(i): how many keys of the range row i sees. The scores are overwritten.
template <class T, class Seen>
static void softmax(int64_t rows, float scale, float* scores, Operand<T>* weights,
                    [[maybe_unused]] const Scales& scales, Seen seen, float* highest,
                    float* total) {
  const F32 factor = broadcast(scale);
  const int64_t high = BY_AMX<T> ? rows : height(rows);
  for (int64_t i = 0; i < rows; i++) {
    float* row = scores + i * RANGE;
    const int64_t last = i / high * high + high - 1;
    const int64_t end = padded(seen(last < rows ? last : rows - 1));
    if constexpr (SCALED<T>) {
      const F32 query = broadcast(scales.queries[i]);
      for (int64_t j = 0; j < end; j += LANES)
        store(row + j, load(row + j) * load(scales.keys + j) * query);
    }
    for (int64_t j = seen(i); j < end; j++) row[j] = -INFINITY;
    F32 top = broadcast(-INFINITY);
    for (int64_t j = 0; j < end; j += LANES) top = max(top, load(row + j));
    highest[i] = largest(top) * scale;
    const F32 shift = broadcast(-highest[i]);
    F32 sums = zero();
    for (int64_t j = 0; j < end; j += LANES) {
      const F32 weight = exp(fma(load(row + j), factor, shift));
      sums = sums + weight;
      if constexpr (SCALED<T>)
        store(row + j, weight * load(scales.values + j));
      else
        store(weights + i * RANGE + j, weight);
    }
    total[i] = sum(sums);
    if constexpr (SCALED<T>)
      scales.weights[i] = coded(row, end, operand_levels(RANGE), weights + i * RANGE);
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

// How many slices before they are read keys and values are asked for: what lies in blocks here and
// there is not foreseen by the processor.
constexpr int64_t AHEAD = 4;
static_assert(ROWS <= AMX_GATHERED, "a tile is one product of AMX");

// A tile on its way through a member's scratch memory.
template <class T>
class Attention {
 public:
  Attention(const Pass<T>& pass, const Tile& tile, char* memory)
      : pass_(pass), shape_(pass.shape), tile_(tile), wide_(padded(shape_.width)) {
    Scratch scratch{memory};
    queries_ = scratch.take<Operand<T>>(ROWS * wide_);
    scores_ = scratch.take<float>(ROWS * RANGE);
    weights_ = scratch.take<Operand<T>>(ROWS * RANGE);
    tail_ = scratch.take<T>(SLICE * wide_);
    if constexpr (SCALED<T>)
      for (float*& scales : scales_) scales = scratch.take<float>(RANGE);
    for (float*& partial : partials_) partial = scratch.take<float>(partial_entries(shape_, ROWS));
    const int64_t group = shape_.heads / shape_.kv_heads;
    const int64_t stride = (shape_.heads + 2 * shape_.kv_heads) * shape_.width;
    for (int64_t i = 0; i < tile.rows; i++) {
      const int64_t token = (tile.row + i) / group, head = (tile.row + i) % group;
      const int64_t position = tile.chunk->start + token;
      const float* q = pass.qkv + (tile.chunk->token + token) * stride +
                       (tile.kv_head * group + head) * shape_.width;
      if constexpr (SCALED<T>) {
        turned(q, pass.rotary, position, 1.0f, shape_.width, scores_, wide_);
        query_scales_[i] =
            coded(scores_, wide_, operand_levels(shape_.width), queries_ + i * wide_);
      } else {
        turned(q, pass.rotary, position, 1.0f, shape_.width, queries_ + i * wide_, wide_);
      }
      seen_[i] = position + 1;
    }
  }

  static int64_t bytes(const Shape& shape) {
    const int64_t wide = padded(shape.width), size = sizeof(Operand<T>);
    return in_lines(size * ROWS * wide) + in_lines(4 * ROWS * RANGE) +
           in_lines(size * ROWS * RANGE) + in_lines(int64_t(sizeof(T)) * SLICE * wide) +
           (SCALED<T> ? 2 * in_lines(4 * RANGE) : 0) +
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

  void prefetch_keys(const T* slice) const {
    const int64_t step = shape_.block * DEPTH<T> * int64_t(sizeof(T));  // bytes from one to the next
    const int64_t steps = step < 64 ? 64 / step : 1;                     // in a cache line
    for (int64_t c = 0; c < shape_.width; c += steps * DEPTH<T>) prefetch(slice + c * shape_.block);
  }
  void prefetch_values(const T* slice) const {
    for (int64_t i = 0; i < SLICE * wide_; i += 64 / sizeof(T)) prefetch(slice + i);
  }
  const T* keys_at(int64_t position) const {
    return key_slot(shape_, pass_.layer, *tile_.chunk, tile_.kv_head, position);
  }
  const T* values_at(int64_t position) const {
    return value_slot(shape_, pass_.layer, *tile_.chunk, tile_.kv_head, position);
  }

  // What a range gives to the rows that see it.
  void attend(int64_t range, const Partial& to) {
    const int64_t begin = range * RANGE, first = first_row(range), rows = tile_.rows - first;
    const auto seen = [&](int64_t i) {
      return seen_[first + i] - begin < RANGE ? seen_[first + i] - begin : RANGE;
    };
    const int64_t keys = seen(rows - 1), slices = (keys + SLICE - 1) / SLICE;
    const T* key_slices[SLICES];
    const T* value_slices[SLICES];
    for (int64_t i = 0; i < slices; i++) {
      key_slices[i] = keys_at(begin + i * SLICE);
      value_slices[i] = values_at(begin + i * SLICE);
    }
    const Scales scales{query_scales_ + first, scales_[0], scales_[1], weight_scales_};
    if constexpr (SCALED<T>)
      take_scales(begin, keys);  // 0 times a code that may be any is 0
    else if (keys % (BY_AMX<T> ? SLICE : DEPTH<T>))
      value_slices[slices - 1] = last_slice(value_slices[slices - 1], keys);

    const Partial own = from_row(to, first);
    const auto key_at = [&](int64_t, int64_t key, bool first_time) {
      const int64_t slice = key / SLICE, next = slice + AHEAD;
      if (first_time && key % SLICE == 0) {
        if (next < slices) prefetch_keys(key_slices[next]);
        else if (next < 2 * slices) prefetch_values(value_slices[next - slices]);
      }
      return key_slices[slice] + key % SLICE * DEPTH<T>;
    };
    gathered<T>(rows, keys, queries_ + first * wide_, wide_, key_at, wide_,
                shape_.block * DEPTH<T>, scores_, RANGE, seen,
                [&](int64_t) { return shape_.width; });
    softmax<T>(rows, shape_.scale, scores_, weights_, scales, seen, own.highest, own.total);
    const auto value_at = [&](int64_t key, int64_t column, bool first_time) {
      const int64_t slice = key / SLICE;
      if (first_time && column == 0 && slice + AHEAD < slices)
        prefetch_values(value_slices[slice + AHEAD]);
      return value_slices[slice] + column * DEPTH<T>;
    };
    gathered<T>(rows, wide_, weights_, RANGE, value_at, SLICE, wide_ * DEPTH<T>, own.heads, wide_,
                all, [&](int64_t i) { return BY_AMX<T> ? padded(seen(i)) : seen(i); });
    for (int64_t i = 0; SCALED<T> && i < rows; i++)
      for (int64_t c = 0; c < wide_; c += LANES)
        store(own.heads + i * wide_ + c,
              load(own.heads + i * wide_ + c) * broadcast(weight_scales_[i]));
  }

  // The scales of the `keys` keys and values from position `begin` on.
  void take_scales(int64_t begin, int64_t keys) {
    for (int64_t i = 0; i < keys; i += SLICE) {
      const int64_t head = tile_.kv_head, position = begin + i;
      const T* const from[] = {key_scale(shape_, pass_.layer, *tile_.chunk, head, position),
                               value_scale(shape_, pass_.layer, *tile_.chunk, head, position)};
      for (int of = 0; of < 2; of++) std::memcpy(scales_[of] + i, from[of], SLICE * sizeof(float));
    }
    for (int64_t i = keys; i % SLICE; i++) scales_[1][i] = 0.0f;
  }

  // A copy of the slice that holds the last of `keys` values, with zeros after them: those slots may
  // hold anything, and 0 times not a number is none either.
  const T* last_slice(const T* slice, int64_t keys) {
    const int64_t whole = keys % SLICE / DEPTH<T> * DEPTH<T> * wide_;  // entries of whole steps
    std::memset(static_cast<void*>(tail_), 0, SLICE * wide_ * sizeof(T));
    std::memcpy(static_cast<void*>(tail_), slice, whole * sizeof(T));
    for (int64_t c = 0; keys % DEPTH<T> && c < wide_; c++)
      tail_[whole + c * DEPTH<T>] = slice[whole + c * DEPTH<T>];
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
  Operand<T>* queries_;
  float* scores_;
  Operand<T>* weights_;
  T* tail_;
  float* partials_[2];
  float* scales_[2] = {nullptr, nullptr};  // of a range's keys and values
  float query_scales_[ROWS], weight_scales_[ROWS];
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
