// Causal self-attention with rotary positions, on the packed queries, keys and values of a layer:
// out[t] = sum_{s <= t} softmax_s(q_t k_s / sqrt(C)) v_s, forward and backward.
//
//   qkv [B, T, (H + 2 K) C]   query heads, key heads, value heads; q and k not yet turned
//   out [B, T, H C]           lse [B, H, T], log of the sum of the exponentials, for backward
//
// Work is shared out by sequence and key head; its queries, keys and values are copied once into
// scratch memory, turned and packed on the way. Scores of the masked half are not computed, apart
// from the corners of tiles. Scores, sums and the softmax are float32; in bfloat16 the products
// take operands rounded to it, as the twin in PyTorch does (puna/nn/attention.py).
#pragma once

#include "pack.h"
#include "shapes.h"
#include "threads.h"

namespace PUNA_TIER {

constexpr int64_t QUERIES = 48;   // rows of scores at a time on the way forward
constexpr int64_t KEYS = 48;      // rows of transposed scores at a time on the way back
constexpr int64_t ACROSS = 128;   // and their columns
static_assert(QUERIES % TILE_ROWS == 0 && KEYS % TILE_ROWS == 0 && ACROSS % STEP == 0, "");

template <class T>
struct Forward {
  const PunaAttention& shape;
  const T* qkv;
  Rotary rotary;
  T* out;
  float* lse;
  char* scratch;
};

// Bytes that `attend` takes of its scratch memory.
template <class T>
static int64_t forward_scratch(const PunaAttention& shape) {
  const int64_t rows = padded(shape.steps), width = padded(shape.head_width);
  return in_lines(int64_t(sizeof(T)) * (3 * rows * width + QUERIES * (width + rows)) +
                  4 * QUERIES * (rows + width) + 8 * 64);
}

// The queries of one block of one head: from `begin`, at most QUERIES of them.
template <class T>
static void attend_block(const Forward<T>& work, int64_t sequence, int64_t head, int64_t begin,
                         const T* keys, const T* values, Scratch scratch) {
  const PunaAttention& shape = work.shape;
  const int64_t steps = shape.steps, width = shape.head_width, wide = padded(width);
  const int64_t across = padded(steps), stride = (shape.heads + 2 * shape.kv_heads) * width;
  const int64_t rows = steps - begin < QUERIES ? steps - begin : QUERIES;
  T* queries = scratch.take<T>(QUERIES * wide);
  float* scores = scratch.take<float>(QUERIES * across);
  T* weights = scratch.take<T>(QUERIES * across);
  float* heads = scratch.take<float>(QUERIES * wide);

  const T* q = work.qkv + (sequence * steps + begin) * stride + head * width;
  for (int64_t i = 0; i < rows; i++)
    turned(q + i * stride, work.rotary, begin + i, 1.0f, width, queries + i * wide, wide);
  const auto seen = [&](int64_t i) { return begin + i + 1; };
  product(rows, across, queries, wide, keys, across * DEPTH<T>, scores, across, false, seen,
          [&](int64_t) { return width; });

  float totals[QUERIES];
  float* lse = work.lse + (sequence * shape.heads + head) * steps + begin;
  const F32 scale = broadcast(shape.scale);
  for (int64_t i = 0; i < rows; i++) {
    float* row = scores + i * across;
    // the last row of this row's tile, to whose end the weights are multiplied
    const int64_t last = i / TILE_ROWS * TILE_ROWS + TILE_ROWS - 1;
    const int64_t end = padded(seen(last < rows ? last : rows - 1));
    for (int64_t j = seen(i); j < end; j++) row[j] = -INFINITY;
    F32 top = broadcast(-INFINITY);
    for (int64_t j = 0; j < end; j += LANES) top = max(top, load(row + j));
    const float highest = largest(top) * shape.scale;
    const F32 shift = broadcast(-highest);
    F32 total = zero();
    for (int64_t j = 0; j < end; j += LANES) {
      const F32 weight = exp(fma(load(row + j), scale, shift));
      total = total + weight;
      store(weights + i * across + j, weight);
    }
    totals[i] = sum(total);
    lse[i] = highest + std::log(totals[i]);
  }
  product(rows, wide, weights, across, values, wide * DEPTH<T>, heads, wide, false, all, seen);

  T* out = work.out + (sequence * steps + begin) * shape.heads * width + head * width;
  for (int64_t i = 0; i < rows; i++) {
    const F32 share = broadcast(1.0f / totals[i]);
    for (int64_t j = 0; j < width; j += LANES)
      store(out + i * shape.heads * width + j, load(heads + i * wide + j) * share,
            left(width, j));
  }
}

// One key head of one sequence, and all query heads that read it.
template <class T>
static void attend(void* data, int64_t item, int member) {
  const auto& work = *static_cast<const Forward<T>*>(data);
  const PunaAttention& shape = work.shape;
  const int64_t sequence = item / shape.kv_heads, kv_head = item % shape.kv_heads;
  const int64_t width = shape.head_width, wide = padded(width), across = padded(shape.steps);
  const int64_t stride = (shape.heads + 2 * shape.kv_heads) * width;
  Scratch scratch{work.scratch + member * forward_scratch<T>(shape)};
  T* rows = scratch.take<T>(across * wide);
  T* keys = scratch.take<T>(across * wide);
  T* pairs = scratch.take<T>(across * wide);

  const T* k = work.qkv + sequence * shape.steps * stride + (shape.heads + kv_head) * width;
  turned_rows(k, stride, work.rotary, shape.steps, width, rows, wide);
  packed_columns(rows, across, wide, keys);
  turned_rows(k + shape.kv_heads * width, stride, Rotary{}, shape.steps, width, rows, wide);
  const T* values = packed_rows(rows, across, wide, wide, pairs);

  const int64_t group = shape.heads / shape.kv_heads;
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
    for (int64_t begin = 0; begin < shape.steps; begin += QUERIES)
      attend_block(work, sequence, head, begin, keys, values, scratch);
}

template <class T>
struct Backward {
  const PunaAttention& shape;
  const T* qkv;
  Rotary rotary;
  const T* out;
  const float* lse;
  const T* grad_out;
  T* grad_qkv;
  char* scratch;
};

template <class T>
static int64_t backward_scratch(const PunaAttention& shape) {
  const int64_t rows = padded(shape.steps), width = padded(shape.head_width);
  return in_lines(int64_t(sizeof(T)) * (9 * rows * width + 3 * KEYS * ACROSS) +
                  4 * (4 * rows * width + 2 * rows + 2 * KEYS * ACROSS) + 18 * 64);
}

// What the tiles of one key head read, and the sums that they add to.
template <class T>
struct Head {
  int64_t steps, wide, across;
  float scale;
  const T *keys, *keys_across, *values;                  // [T, C], [C, T], [T, C]
  const T *queries, *queries_across;                     // packed rows, packed columns
  const T *grads, *grads_across;                         // of the output, likewise
  const float *lse, *delta;                              // [T]; delta = sum_c grad_out * out
  float *grad_keys, *grad_values, *grad_queries_across;  // [T, C], [T, C], [C, T]
};

// Keys from `key`, at most KEYS, with the queries from `query`, at most ACROSS.
template <class T>
static void tile_backward(const Head<T>& head, int64_t key, int64_t query, Scratch scratch) {
  const int64_t rows = head.steps - key < KEYS ? head.steps - key : KEYS;
  const int64_t columns = head.across - query < ACROSS ? head.across - query : ACROSS;
  float* scores = scratch.take<float>(KEYS * ACROSS);
  float* grads = scratch.take<float>(KEYS * ACROSS);
  T* weights = scratch.take<T>(KEYS * ACROSS);
  T* grad_scores = scratch.take<T>(KEYS * ACROSS);
  T* pairs = scratch.take<T>(KEYS * ACROSS);
  const auto width = [&](int64_t) { return head.wide; };
  const auto queries = [&](int64_t) { return columns; };
  const int64_t across = head.across * DEPTH<T>, wide = head.wide * DEPTH<T>;

  product(rows, columns, head.keys + key * head.wide, head.wide,
          head.queries_across + query * DEPTH<T>, across, scores, ACROSS, false, all, width);
  product(rows, columns, head.values + key * head.wide, head.wide,
          head.grads_across + query * DEPTH<T>, across, grads, ACROSS, false, all, width);
  const F32 scale = broadcast(head.scale);
  for (int64_t i = 0; i < rows; i++) {
    // queries before the key do not see it
    const int64_t blind = key + i > query ? key + i - query : 0;
    const int64_t first = blind < columns ? blind : columns;
    T* row = weights + i * ACROSS;
    T* grad_row = grad_scores + i * ACROSS;
    for (int64_t j = first / LANES * LANES; j < columns; j += LANES) {
      const F32 weight = exp(fma(load(scores + i * ACROSS + j), scale, -load(head.lse + query + j)));
      const F32 grad = load(grads + i * ACROSS + j) - load(head.delta + query + j);
      store(row + j, weight);
      store(grad_row + j, weight * grad * scale);
    }
    for (int64_t j = 0; j < first; j++) row[j] = grad_row[j] = T{};
  }
  for (int64_t i = rows; i < padded(rows); i++)
    for (int64_t j = 0; j < columns; j++) grad_scores[i * ACROSS + j] = T{};
  product(rows, head.wide, weights, ACROSS, head.grads + query * head.wide, wide,
          head.grad_values + key * head.wide, head.wide, true, all, queries);
  product(rows, head.wide, grad_scores, ACROSS, head.queries + query * head.wide, wide,
          head.grad_keys + key * head.wide, head.wide, true, all, queries);
  const T* packed = packed_rows(grad_scores, padded(rows), columns, ACROSS, pairs);
  product(head.wide, columns, head.keys_across + key, head.across, packed, ACROSS * DEPTH<T>,
          head.grad_queries_across + query, head.across, true, all,
          [&](int64_t) { return rows; });
}

template <class T>
static void attend_backward(void* data, int64_t item, int member) {
  const auto& work = *static_cast<const Backward<T>*>(data);
  const PunaAttention& shape = work.shape;
  const int64_t sequence = item / shape.kv_heads, kv_head = item % shape.kv_heads;
  const int64_t steps = shape.steps, width = shape.head_width, wide = padded(width);
  const int64_t across = padded(steps), stride = (shape.heads + 2 * shape.kv_heads) * width;
  const int64_t area = across * wide, group = shape.heads / shape.kv_heads;
  Scratch scratch{work.scratch + member * backward_scratch<T>(shape)};
  T* keys = scratch.take<T>(area);
  T* keys_across = scratch.take<T>(area);
  T* values = scratch.take<T>(area);
  T* queries = scratch.take<T>(area);
  T* queries_across = scratch.take<T>(area);
  T* query_pairs = scratch.take<T>(area);
  T* grads = scratch.take<T>(area);
  T* grads_across = scratch.take<T>(area);
  T* grad_pairs = scratch.take<T>(area);
  float* grad_keys = scratch.take<float>(area);
  float* grad_values = scratch.take<float>(area);
  float* grad_queries = scratch.take<float>(area);
  float* lse = scratch.take<float>(across);
  float* delta = scratch.take<float>(across);
  float* grad_query_rows = scratch.take<float>(area);

  const T* rows = work.qkv + sequence * steps * stride;
  const int64_t k = (shape.heads + kv_head) * width, v = k + shape.kv_heads * width;
  turned_rows(rows + k, stride, work.rotary, steps, width, keys, wide);
  transposed(keys, across, wide, keys_across);
  turned_rows(rows + v, stride, Rotary{}, steps, width, values, wide);
  std::memset(grad_keys, 0, area * sizeof(float));
  std::memset(grad_values, 0, area * sizeof(float));
  T* grad_rows = work.grad_qkv + sequence * steps * stride;

  for (int64_t h = kv_head * group; h < (kv_head + 1) * group; h++) {
    const int64_t out_stride = shape.heads * width;
    const T* out = work.out + sequence * steps * out_stride + h * width;
    const T* grad_out = work.grad_out + sequence * steps * out_stride + h * width;
    turned_rows(rows + h * width, stride, work.rotary, steps, width, queries, wide);
    packed_columns(queries, across, wide, queries_across);
    turned_rows(grad_out, out_stride, Rotary{}, steps, width, grads, wide);
    packed_columns(grads, across, wide, grads_across);
    const float* known = work.lse + (sequence * shape.heads + h) * steps;
    for (int64_t t = 0; t < across; t++) {
      // the weight of a query beyond the last is e^-inf
      lse[t] = t < steps ? known[t] : INFINITY;
      F32 total = zero();
      for (int64_t i = 0; t < steps && i < width; i += LANES) {
        const int n = left(width, i);
        total = fma(load(out + t * out_stride + i, n), load(grad_out + t * out_stride + i, n),
                    total);
      }
      delta[t] = sum(total);
    }
    std::memset(grad_queries, 0, area * sizeof(float));
    const Head<T> head{steps,     wide,           across,
                       shape.scale, keys,         keys_across,
                       values,    packed_rows(queries, across, wide, wide, query_pairs),
                       queries_across, packed_rows(grads, across, wide, wide, grad_pairs),
                       grads_across, lse,         delta,
                       grad_keys, grad_values,    grad_queries};
    for (int64_t key = 0; key < steps; key += KEYS)
      for (int64_t query = key / STEP * STEP; query < steps; query += ACROSS)
        tile_backward(head, key, query, scratch);
    transposed(grad_queries, wide, across, grad_query_rows);
    for (int64_t t = 0; t < steps; t++)
      turned(grad_query_rows + t * wide, work.rotary, t, -1.0f, width,
             grad_rows + t * stride + h * width, width);
  }
  for (int64_t t = 0; t < steps; t++) {
    turned(grad_keys + t * wide, work.rotary, t, -1.0f, width, grad_rows + t * stride + k, width);
    turned(grad_values + t * wide, Rotary{}, t, 1.0f, width, grad_rows + t * stride + v, width);
  }
}

}  // namespace PUNA_TIER
