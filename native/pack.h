// Rows of attention heads on their way between memory and the products of tile.h: rotated, widened
// to whole registers, transposed, paired.
#pragma once

#include "tile.h"

namespace PUNA_TIER {

constexpr int64_t STEP = LANES > 2 ? LANES : 2;  // whole registers, and whole pairs

PUNA_INLINE int64_t padded(int64_t n) { return (n + STEP - 1) / STEP * STEP; }

// A stack of buffers in one block of memory; each begins on a cache line.
struct Scratch {
  char* next;
  template <class T>
  T* take(int64_t count) {
    T* taken = reinterpret_cast<T*>(next);
    next += (count * int64_t(sizeof(T)) + 63) / 64 * 64;
    return taken;
  }
};

// A size of scratch memory, rounded up so that the next member's begins on a cache line too.
PUNA_INLINE int64_t in_lines(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// The rotary tables of the positions, float32 [T, half]; half = 0 turns nothing.
struct Rotary {
  const float* cos;
  const float* sin;
  int64_t half;
};

// y = x turned by the angles of position t, as rotate() of puna/nn/rope.py has it, or back; then
// zeros up to entry `end`. x and y [width], in float32 arithmetic, rounded once.
template <class From, class To>
PUNA_INLINE void turned(const From* x, const Rotary& rotary, int64_t t, float direction,
                        int64_t width, To* y, int64_t end) {
  const float* cos = rotary.cos + t * rotary.half;
  const float* sin = rotary.sin + t * rotary.half;
  const F32 forward = broadcast(direction);
  for (int64_t i = 0; i < rotary.half; i += LANES) {
    const int n = left(rotary.half, i);
    const F32 first = load(x + i, n), second = load(x + rotary.half + i, n);
    const F32 c = load(cos + i, n), s = load(sin + i, n) * forward;
    store(y + i, first * c - second * s, n);
    store(y + rotary.half + i, fma(second, c, first * s), n);
  }
  for (int64_t i = 2 * rotary.half; i < width; i += LANES) {
    const int n = left(width, i);
    store(y + i, load(x + i, n), n);
  }
  for (int64_t i = width; i < end; i++) y[i] = To{};
}

// Every row of a head: x [T] rows of `width` at a stride -> y [padded(T), end], zeros beyond.
template <class T>
PUNA_INLINE void turned_rows(const T* x, int64_t stride, const Rotary& rotary, int64_t rows,
                             int64_t width, T* y, int64_t end) {
  for (int64_t t = 0; t < rows; t++)
    turned(x + t * stride, rotary, t, 1.0f, width, y + t * end, end);
  std::memset(static_cast<void*>(y + rows * end), 0, (padded(rows) - rows) * end * sizeof(T));
}

// x [rows, width] -> y [width, rows].
template <class T>
PUNA_INLINE void transposed(const T* x, int64_t rows, int64_t width, T* y) {
  constexpr int64_t block = 16;
  for (int64_t t = 0; t < rows; t += block)
    for (int64_t i = 0; i < width; i++)
      for (int64_t r = t; r < rows && r < t + block; r++) y[i * rows + r] = x[r * width + i];
}

// x [rows, width] -> the B of a product with x^T: [width / DEPTH, rows, DEPTH].
PUNA_INLINE void packed_columns(const float* x, int64_t rows, int64_t width, float* y) {
  transposed(x, rows, width, y);
}
PUNA_INLINE void packed_columns(const bf16* x, int64_t rows, int64_t width, bf16* y) {
  struct Pair {
    bf16 first, second;
  };
  transposed(reinterpret_cast<const Pair*>(x), rows, width / 2, reinterpret_cast<Pair*>(y));
}

// x [rows, width] -> the B of a product with x: [rows / DEPTH, width, DEPTH]. Rows of float32 are
// that already; y is where the pairs of bfloat16 go.
PUNA_INLINE const float* packed_rows(const float* x, int64_t, int64_t, int64_t, float*) {
  return x;
}
PUNA_INLINE const bf16* packed_rows(const bf16* x, int64_t rows, int64_t width, int64_t stride,
                                    bf16* y) {
  for (int64_t t = 0; t < rows; t += 2)
    for (int64_t i = 0; i < width; i += LANES)
      store(y + t * stride + 2 * i, paired(x + t * stride + i, x + (t + 1) * stride + i));
  return y;
}

}  // namespace PUNA_TIER
