// Muon's orthogonalisation of many matrices at once: X <- a X + b (X X^T) X + c (X X^T)^2 X with
// coefficients for each step, from X = M / |M|, in float32. The twin: puna/training/optimizer.py.
//
// All that the steps do to M is a polynomial of G = M M^T (or M^T M, the smaller one), so they are
// done on squares of its size n: with P = a I + b G + c G^2, Q <- P Q and G <- P G P, and X = Q M at
// the end. The squares are symmetric and commute, so half of each product is computed and mirrored.
// Of 192 x 512 that takes 40% of the multiplications of five steps on X itself, of n x n two thirds.
//
// A matrix is one item of work, on one thread: small ones have no part worth sharing out.
#pragma once

#include "pack.h"
#include "shapes.h"
#include "threads.h"

namespace PUNA_TIER {

// The square n x n of one matrix; rows at a stride of padded(n), zeros beyond n.
struct Square {
  int64_t n;
  float* entries;
  int64_t stride() const { return padded(n); }
};

// C = A B [n, n], k deep, known to be symmetric. B at the stride of a square.
static void symmetric_product(int64_t k, const float* a, int64_t ab, const float* b, Square c) {
  const int64_t n = c.n, stride = c.stride();
  product(n, stride, a, ab, b, stride, c.entries, stride, false, [](int64_t i) { return i + 1; },
          [&](int64_t) { return k; });
  constexpr int64_t block = 16;
  for (int64_t i = 0; i < n; i += block)
    for (int64_t j = 0; j <= i; j += block)
      for (int64_t row = i; row < i + block && row < n; row++)
        for (int64_t column = j; column < j + block && column < row; column++)
          c.entries[column * stride + row] = c.entries[row * stride + column];
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = n; j < stride; j++) c.entries[i * stride + j] = 0.0f;
}

struct Orthogonalise {
  const PunaMatrix* matrices;
  const float* coefficients;  // [steps, 3]
  int64_t steps;
  char* scratch;
  int64_t scratch_bytes;
};

PUNA_INLINE int64_t orthogonalise_scratch(int64_t rows, int64_t columns) {
  const int64_t n = rows < columns ? rows : columns;
  return in_lines(4 * (2 * (padded(rows) + STEP) * (padded(columns) + STEP) + 5 * n * padded(n)) + 8 * 64);
}

// The entries of M, divided by its length, at a stride of padded(columns); and M^T likewise.
PUNA_INLINE void normalised(const PunaMatrix& matrix, float* x, float* across) {
  const int64_t rows = matrix.rows, columns = matrix.columns;
  const int64_t wide = padded(columns), high = padded(rows);
  double squares = 0.0;
  for (int64_t i = 0; i < rows; i++) {
    F32 total = zero();
    for (int64_t j = 0; j < columns; j += LANES) {
      const F32 entry = load(matrix.entries + i * columns + j, left(columns, j));
      total = fma(entry, entry, total);
    }
    squares += sum(total);
  }
  const F32 share = broadcast(1.0f / (float(std::sqrt(squares)) + 1e-7f));
  std::memset(x, 0, rows * wide * sizeof(float));
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j += LANES) {
      const int n = left(columns, j);
      store(x + i * wide + j, load(matrix.entries + i * columns + j, n) * share, n);
    }
  constexpr int64_t block = 16;
  std::memset(across, 0, columns * high * sizeof(float));
  for (int64_t i = 0; i < rows; i += block)
    for (int64_t j = 0; j < columns; j++)
      for (int64_t row = i; row < i + block && row < rows; row++)
        across[j * high + row] = x[row * wide + j];
}

static void orthogonalise(void* data, int64_t item, int member) {
  const auto& work = *static_cast<const Orthogonalise*>(data);
  const PunaMatrix& matrix = work.matrices[item];
  const int64_t rows = matrix.rows, columns = matrix.columns;
  const bool tall = rows > columns;
  const int64_t n = tall ? columns : rows, stride = padded(n), area = n * stride;
  const int64_t wide = padded(columns), high = padded(rows);
  Scratch scratch{work.scratch + member * work.scratch_bytes};
  float* x = scratch.take<float>(rows * wide);
  // of M^T, and at the end of the result
  float* across = scratch.take<float>(rows * wide > columns * high ? rows * wide : columns * high);
  Square gram{n, scratch.take<float>(area)}, gram_squared{n, scratch.take<float>(area)};
  Square polynomial{n, scratch.take<float>(area)}, result{n, scratch.take<float>(area)};
  Square other{n, scratch.take<float>(area)};

  normalised(matrix, x, across);
  if (tall)
    symmetric_product(rows, across, high, x, gram);
  else
    symmetric_product(columns, x, wide, across, gram);
  for (int64_t step = 0; step < work.steps; step++) {
    const float* c = work.coefficients + 3 * step;
    symmetric_product(n, gram.entries, stride, gram.entries, gram_squared);
    for (int64_t i = 0; i < area; i += LANES)
      store(polynomial.entries + i,
            fma(load(gram.entries + i), broadcast(c[1]),
                load(gram_squared.entries + i) * broadcast(c[2])));
    for (int64_t i = 0; i < n; i++) polynomial.entries[i * stride + i] += c[0];
    if (step > 0) symmetric_product(n, polynomial.entries, stride, result.entries, other);
    std::memcpy(result.entries, step > 0 ? other.entries : polynomial.entries,
                area * sizeof(float));
    if (step + 1 < work.steps) {
      symmetric_product(n, polynomial.entries, stride, gram.entries, other);
      symmetric_product(n, other.entries, stride, polynomial.entries, gram);
    }
  }
  // tall: X = M Q, wide: X = Q M; over M^T, which is no longer needed
  float* out = across;
  const auto depth = [&](int64_t) { return n; };
  if (tall)
    product(rows, wide, x, wide, result.entries, stride, out, wide, false, all, depth);
  else
    product(rows, wide, result.entries, stride, x, wide, out, wide, false, all, depth);
  for (int64_t i = 0; i < rows; i++)
    std::memcpy(matrix.entries + i * columns, out + i * wide, columns * sizeof(float));
}

}  // namespace PUNA_TIER
