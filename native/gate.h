// The gated feed-forward layer between its products: y = act(gate) * up, forward and backward.
//
// gate_up [N, 2 F] holds both operands, the gate's columns first; y [N, F]. Float32 arithmetic,
// rounded once. Backward makes y anew beside the gradients, since reading it back would cost more.
#pragma once

#include "threads.h"
#include "vector.h"

namespace PUNA_TIER {

constexpr int64_t GATE_ROWS = 8;  // of one item of work

// Each gives act(x) and its derivative. Names and numbers: puna/native/kernels.py.
struct Silu {
  PUNA_INLINE void at(F32 x, F32& y, F32& slope) {
    const F32 s = sigmoid(x);
    y = x * s;
    slope = fma(y, one() - s, s);
  }
};
struct Sigmoid {
  PUNA_INLINE void at(F32 x, F32& y, F32& slope) {
    y = sigmoid(x);
    slope = y * (one() - y);
  }
};
struct Relu {
  PUNA_INLINE void at(F32 x, F32& y, F32& slope) {
    y = where_positive(x, x, x * zero());  // 0, but not a number where x is none
    slope = where_positive(x, one(), zero());
  }
};
struct Identity {
  PUNA_INLINE void at(F32 x, F32& y, F32& slope) {
    y = x;
    slope = one();
  }
};
// x Phi(x), with the error function by Abramowitz & Stegun 7.1.26, within 1.5e-7.
struct Gelu {
  PUNA_INLINE void at(F32 x, F32& y, F32& slope) {
    const F32 size = max(x, -x) * broadcast(0.70710678f);
    const F32 bell = exp(-size * size);
    const F32 t = one() / fma(size, broadcast(0.3275911f), one());
    F32 tail = broadcast(1.061405429f);
    for (const float factor : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f})
      tail = fma(tail, t, broadcast(factor));
    tail = tail * t * bell * broadcast(0.5f);  // Phi(-|x|)
    const F32 below = where_positive(x, one() - tail, tail);
    y = x * below;
    slope = fma(x * bell, broadcast(0.39894228f), below);
  }
};

template <class T>
struct Gate {
  int64_t rows, width;
  const T* gate_up;
  const T* grad_y;   // null on the way forward
  T* y;
  T* grad_gate_up;
};

template <class Activation, class T>
static void gate(void* data, int64_t item, int) {
  const auto& work = *static_cast<const Gate<T>*>(data);
  const int64_t width = work.width;
  const int64_t end = (item + 1) * GATE_ROWS < work.rows ? (item + 1) * GATE_ROWS : work.rows;
  for (int64_t row = item * GATE_ROWS; row < end; row++) {
    const T* gates = work.gate_up + row * 2 * width;
    for (int64_t i = 0; i < width; i += LANES) {
      const int n = left(width, i);
      const F32 up = load(gates + width + i, n);
      F32 opened, slope;
      Activation::at(load(gates + i, n), opened, slope);
      store(work.y + row * width + i, opened * up, n);
      if (work.grad_y != nullptr) {
        const F32 grad = load(work.grad_y + row * width + i, n);
        T* grads = work.grad_gate_up + row * 2 * width;
        store(grads + i, grad * up * slope, n);
        store(grads + width + i, grad * opened, n);
      }
    }
  }
}

template <class T>
static void run_gate(const PunaTeam* team, int activation, Gate<T> work) {
  void (*const bodies[])(void*, int64_t, int) = {gate<Silu, T>, gate<Sigmoid, T>, gate<Relu, T>,
                                                 gate<Identity, T>, gate<Gelu, T>};
  puna::share_out(team, (work.rows + GATE_ROWS - 1) / GATE_ROWS, bodies[activation], &work);
}

}  // namespace PUNA_TIER
