// A cache of keys and values in blocks of tokens, as the products of attention read them.
//
// By block and key/value head, DEPTH entries of tile.h beside each other (1 in float32, 2 in
// bfloat16 and int8):
//
//   keys    [C / DEPTH, block, DEPTH]     turned; C rounded up to whole steps, zeros beyond C
//   values  [block / DEPTH, C, DEPTH]     C rounded up to whole registers
//
// and in int8, whose entries are the codes of codes.h with up to 127 levels, after either the
// float32 scales [block] of its tokens: an entry is off by at most 1/254 of its head's largest.
// so that tokens are the columns of B for the scores q k^T, and its rows for the sums of values.
// A sequence has its blocks in a table, in order; where in memory they stand does not matter. A
// token's slot is written by `write` alone, and memory that was not written may hold anything:
// attention reads some of it beside what it needs, and lets nothing of it into a result.
#pragma once

#include "codes.h"
#include "inference.h"
#include "pack.h"

namespace PUNA_TIER {
namespace paged {

// Tokens that stand together whatever the size of blocks, which is a multiple of it.
constexpr int64_t SLICE = 16;
static_assert(SLICE % STEP == 0, "a slice is a whole number of registers and of steps");

struct Shape {
  int64_t heads, kv_heads, width;  // width: C, of one head
  int64_t block;                   // tokens of a block
  float scale;                     // of the scores, 1 / sqrt(C)
};

using Chunk = PunaChunk;

// True where the tokens of a head have scales.
template <class T>
constexpr bool SCALED = sizeof(T) == 1;
constexpr float LARGEST_CODE = 127.0f;

// Entries of one block of one head, with its scales.
template <class T>
PUNA_INLINE int64_t scale_entries(const Shape& shape) {
  return SCALED<T> ? shape.block * int64_t(sizeof(float)) : 0;
}
template <class T>
PUNA_INLINE int64_t key_entries(const Shape& shape) {
  return (shape.width + DEPTH<T> - 1) / DEPTH<T> * DEPTH<T> * shape.block + scale_entries<T>(shape);
}
template <class T>
PUNA_INLINE int64_t value_entries(const Shape& shape) {
  return padded(shape.width) * shape.block + scale_entries<T>(shape);
}

// The cache of one layer: keys [blocks, K, key_entries], values [blocks, K, value_entries].
template <class T>
struct Layer {
  T* keys;
  T* values;
};

// The number of a position's block of one head.
PUNA_INLINE int64_t head_block(const Shape& shape, const Chunk& chunk, int64_t kv_head,
                               int64_t position) {
  return chunk.blocks[position / shape.block] * shape.kv_heads + kv_head;
}

// Where the slot of a token begins. Its next step of keys is block * DEPTH entries further.
template <class T>
PUNA_INLINE T* key_slot(const Shape& shape, const Layer<T>& layer, const Chunk& chunk,
                        int64_t kv_head, int64_t position) {
  const int64_t block = head_block(shape, chunk, kv_head, position);
  return layer.keys + block * key_entries<T>(shape) + position % shape.block * DEPTH<T>;
}
// Its next value is DEPTH entries further.
template <class T>
PUNA_INLINE T* value_slot(const Shape& shape, const Layer<T>& layer, const Chunk& chunk,
                          int64_t kv_head, int64_t position) {
  const int64_t block = head_block(shape, chunk, kv_head, position);
  const int64_t inside = position % shape.block, odd = inside % DEPTH<T>;
  return layer.values + block * value_entries<T>(shape) + (inside - odd) * padded(shape.width) +
         odd;
}
// Where the scales of a token's key and value are; those of the next tokens of the block follow.
template <class T>
PUNA_INLINE T* key_scale(const Shape& shape, const Layer<T>& layer, const Chunk& chunk,
                         int64_t kv_head, int64_t position) {
  const int64_t next = head_block(shape, chunk, kv_head, position) + 1;
  return layer.keys + next * key_entries<T>(shape) - scale_entries<T>(shape) +
         position % shape.block * int64_t(sizeof(float));
}
template <class T>
PUNA_INLINE T* value_scale(const Shape& shape, const Layer<T>& layer, const Chunk& chunk,
                           int64_t kv_head, int64_t position) {
  const int64_t next = head_block(shape, chunk, kv_head, position) + 1;
  return layer.values + next * value_entries<T>(shape) - scale_entries<T>(shape) +
         position % shape.block * int64_t(sizeof(float));
}

// Bytes that `write` takes of its scratch memory.
template <class T>
static int64_t write_scratch(const Shape& shape) {
  const int64_t wide = padded(shape.width);
  return DEPTH<T> * in_lines(wide * int64_t(sizeof(T))) +
         (SCALED<T> ? in_lines(wide * int64_t(sizeof(float))) : 0);
}

// A row of a head as it is stored, with zeros from entry C to `wide`; gives its scale, where it has
// one. whole: float32 [wide], for rows with scales.
template <class T>
PUNA_INLINE float stored(const float* x, const Rotary& rotary, int64_t position, int64_t width,
                         int64_t wide, T* row, [[maybe_unused]] float* whole) {
  if constexpr (SCALED<T>) {
    turned(x, rotary, position, 1.0f, width, whole, wide);
    return coded(whole, wide, LARGEST_CODE, row);
  } else {
    turned(x, rotary, position, 1.0f, width, row, wide);
    return 1.0f;
  }
}

// Store keys, turned, and values of one head for the tokens `from` to `to` (without it) of a chunk.
// qkv float32 [N, (H + 2 K) C], the rows of a step: query heads, key heads, value heads. The tables
// of `rotary` are those of all positions. Other heads and tokens may be written at the same time.
template <class T>
static void write(const Shape& shape, const Layer<T>& layer, const Rotary& rotary,
                  const Chunk& chunk, int64_t kv_head, int64_t from, int64_t to, const float* qkv,
                  Scratch scratch) {
  const int64_t width = shape.width, wide = padded(width);
  const int64_t stride = (shape.heads + 2 * shape.kv_heads) * width;
  T* row = scratch.take<T>(wide);
  T* next = DEPTH<T> == 2 ? scratch.take<T>(wide) : nullptr;
  float* whole = SCALED<T> ? scratch.take<float>(wide) : nullptr;
  const float* k = qkv + chunk.token * stride + (shape.heads + kv_head) * width;
  const float* v = k + shape.kv_heads * width;
  for (int64_t i = from; i < to; i++) {
    const int64_t position = chunk.start + i;
    const float scale = stored(k + i * stride, rotary, position, width, wide, row, whole);
    T* keys = key_slot(shape, layer, chunk, kv_head, position);
    for (int64_t c = 0; c < width; c += DEPTH<T>)
      std::memcpy(keys + c * shape.block, row + c, DEPTH<T> * sizeof(T));
    if constexpr (SCALED<T>)
      std::memcpy(key_scale(shape, layer, chunk, kv_head, position), &scale, sizeof scale);
  }
  for (int64_t i = from; i < to; i++) {
    const int64_t position = chunk.start + i;
    T* values = value_slot(shape, layer, chunk, kv_head, position);
    const float scale = stored(v + i * stride, Rotary{}, 0, width, wide, row, whole);
    if constexpr (SCALED<T>) {
      std::memcpy(value_scale(shape, layer, chunk, kv_head, position), &scale, sizeof scale);
    } else if constexpr (DEPTH<T> == 2) {
      if (position % 2 == 0 && i + 1 < to) {  // both of a pair at once
        turned(v + ++i * stride, Rotary{}, 0, 1.0f, width, next, wide);
        for (int64_t c = 0; c < wide; c += LANES) store(values + 2 * c, paired(row + c, next + c));
        continue;
      }
    }
    for (int64_t c = 0; c < width; c++) values[c * DEPTH<T>] = row[c];
  }
}

}  // namespace paged
}  // namespace PUNA_TIER
