// RMSNorm with the sum of the residual stream in the same pass, forward and backward:
//   x = residual + branch;  y = x / sqrt(mean(x^2) + eps) * weight
//
// residual, x float32 [N, D]; branch, y in the format of the products; weight float32 [D]; `scale`
// float32 [N] keeps 1 / sqrt(...) for backward. Statistics and products in float32, y rounded once.
// The stream has to be float32: sums over many layers lose what bfloat16 adds.
#pragma once

#include "threads.h"
#include "vector.h"

namespace PUNA_TIER {

// Rows are shared out in so many parts at most, each with partial sums of its own for the gradient
// of the weight: a fixed number, so that the sums do not depend on the threads.
constexpr int64_t NORM_PARTS = 64;

PUNA_INLINE int64_t part_rows(int64_t rows) {
  const int64_t even = (rows + NORM_PARTS - 1) / NORM_PARTS;
  return even > 8 ? even : 8;
}

template <class T>
struct Norm {
  int64_t rows, width;
  float eps;
  const float* residual;
  const T* branch;  // null where nothing is added; x is then not written
  const float* weight;
  float* x;
  T* y;
  float* scale;
};

template <class T>
static void norm_forward(void* data, int64_t part, int) {
  const auto& work = *static_cast<const Norm<T>*>(data);
  const int64_t width = work.width, count = part_rows(work.rows);
  const int64_t end = (part + 1) * count < work.rows ? (part + 1) * count : work.rows;
  for (int64_t row = part * count; row < end; row++) {
    const float* x = work.residual + row * width;
    F32 squares = zero();
    if (work.branch != nullptr) {
      float* added = work.x + row * width;
      for (int64_t i = 0; i < width; i += LANES) {
        const int n = left(width, i);
        const F32 value = load(x + i, n) + load(work.branch + row * width + i, n);
        store(added + i, value, n);
        squares = fma(value, value, squares);
      }
      x = added;
    } else {
      for (int64_t i = 0; i < width; i += LANES) {
        const F32 value = load(x + i, left(width, i));
        squares = fma(value, value, squares);
      }
    }
    const float scale = 1.0f / std::sqrt(sum(squares) / float(width) + work.eps);
    work.scale[row] = scale;
    const F32 scales = broadcast(scale);
    for (int64_t i = 0; i < width; i += LANES) {
      const int n = left(width, i);
      store(work.y + row * width + i, load(x + i, n) * scales * load(work.weight + i, n), n);
    }
  }
}

// grad = grad_x + d y / d x; the branch gets it too, in its own format.
template <class T>
struct NormBackward {
  int64_t rows, width;
  const float* x;
  const float* weight;
  const float* scale;
  const T* grad_y;
  const float* grad_x;  // of x by what else reads it; null where nothing does
  float* grad;
  T* grad_branch;        // null where there is none
  float* grad_weight;    // [parts, width], added up afterwards
};

template <class T>
static void norm_backward(void* data, int64_t part, int) {
  const auto& work = *static_cast<const NormBackward<T>*>(data);
  const int64_t width = work.width, count = part_rows(work.rows);
  const int64_t end = (part + 1) * count < work.rows ? (part + 1) * count : work.rows;
  float* grad_weight = work.grad_weight + part * width;
  for (int64_t i = 0; i < width; i++) grad_weight[i] = 0.0f;
  for (int64_t row = part * count; row < end; row++) {
    const float* x = work.x + row * width;
    const T* grad_y = work.grad_y + row * width;
    const F32 scale = broadcast(work.scale[row]);
    F32 along = zero();
    for (int64_t i = 0; i < width; i += LANES) {
      const int n = left(width, i);
      const F32 product = load(grad_y + i, n) * load(x + i, n);
      along = fma(product, load(work.weight + i, n), along);
      store(grad_weight + i, fma(product, scale, load(grad_weight + i, n)), n);
    }
    const float s = work.scale[row];
    const F32 pull = broadcast(-sum(along) * s * s * s / float(width));
    for (int64_t i = 0; i < width; i += LANES) {
      const int n = left(width, i);
      F32 grad = load(grad_y + i, n) * load(work.weight + i, n) * scale;
      grad = fma(load(x + i, n), pull, grad);
      if (work.grad_x != nullptr) grad = grad + load(work.grad_x + row * width + i, n);
      store(work.grad + row * width + i, grad, n);
      if (work.grad_branch != nullptr) store(work.grad_branch + row * width + i, grad, n);
    }
  }
}

}  // namespace PUNA_TIER
