// The plain C interface of one tier; compiled once for each, with PUNA_TIER set to its name.
//
// `half` says the format of the products: 0 float32, 1 bfloat16. Sizes, strides and alignment are
// the caller's duty (puna/native/kernels.py): every array is dense and aligned to its entries.
#include "attention.h"
#include "cross_entropy.h"
#include "gate.h"
#include "norm.h"
#include "orthogonalise.h"

#define PUNA_JOINED(tier, name) puna_##tier##_##name
#define PUNA_NAME(tier, name) PUNA_JOINED(tier, name)
#define PUNA_EXPORT extern "C" __attribute__((visibility("default")))

namespace PUNA_TIER {
namespace {

template <class T>
void run_norm(const PunaTeam* team, int64_t rows, int64_t width, float eps, const float* residual,
              const void* branch, const float* weight, float* x, void* y, float* scale) {
  Norm<T> work{rows, width, eps, residual, static_cast<const T*>(branch), weight, x,
               static_cast<T*>(y), scale};
  puna::share_out(team, (rows + part_rows(rows) - 1) / part_rows(rows), norm_forward<T>, &work);
}

template <class T>
void run_norm_backward(const PunaTeam* team, int64_t rows, int64_t width, const float* x,
                       const float* weight, const float* scale, const void* grad_y,
                       const float* grad_x, float* grad, void* grad_branch, float* grad_weight,
                       float* scratch) {
  NormBackward<T> work{rows,   width, x, weight, scale, static_cast<const T*>(grad_y),
                       grad_x, grad,  static_cast<T*>(grad_branch), scratch};
  const int64_t parts = (rows + part_rows(rows) - 1) / part_rows(rows);
  puna::share_out(team, parts, norm_backward<T>, &work);
  for (int64_t i = 0; i < width; i++) {
    float total = 0.0f;
    for (int64_t part = 0; part < parts; part++) total += scratch[part * width + i];
    grad_weight[i] = total;
  }
}

template <class T>
void run_attention(const PunaTeam* team, const PunaAttention& shape, const void* qkv,
                   const Rotary& rotary, void* out, float* lse, void* scratch) {
  Forward<T> work{shape, static_cast<const T*>(qkv), rotary, static_cast<T*>(out), lse,
                  static_cast<char*>(scratch)};
  puna::share_out(team, shape.batch * shape.kv_heads, attend<T>, &work);
}

template <class T>
void run_attention_backward(const PunaTeam* team, const PunaAttention& shape, const void* qkv,
                            const Rotary& rotary, const void* out, const float* lse,
                            const void* grad_out, void* grad_qkv, void* scratch) {
  Backward<T> work{shape,
                   static_cast<const T*>(qkv),
                   rotary,
                   static_cast<const T*>(out),
                   lse,
                   static_cast<const T*>(grad_out),
                   static_cast<T*>(grad_qkv),
                   static_cast<char*>(scratch)};
  puna::share_out(team, shape.batch * shape.kv_heads, attend_backward<T>, &work);
}

template <class T>
void run_cross_entropy(const PunaTeam* team, int64_t rows, int64_t width, void* logits,
                       const int64_t* targets, float* loss, float* scratch) {
  CrossEntropy<T> work{width, static_cast<T*>(logits), targets, loss, scratch};
  puna::share_out(team, rows, cross_entropy<T>, &work);
}

}  // namespace
}  // namespace PUNA_TIER

using namespace PUNA_TIER;

// branch may be null; x is then not written. scale [rows].
PUNA_EXPORT void PUNA_NAME(PUNA_TIER, norm)(const PunaTeam* team, int half, int64_t rows,
                                            int64_t width, float eps, const float* residual,
                                            const void* branch, const float* weight, float* x,
                                            void* y, float* scale) {
  (half ? run_norm<bf16> : run_norm<float>)(team, rows, width, eps, residual, branch, weight, x, y,
                                            scale);
}

// grad_x and grad_branch may be null. scratch: float32 [64, width].
PUNA_EXPORT void PUNA_NAME(PUNA_TIER, norm_backward)(
    const PunaTeam* team, int half, int64_t rows, int64_t width, const float* x,
    const float* weight, const float* scale, const void* grad_y, const float* grad_x, float* grad,
    void* grad_branch, float* grad_weight, float* scratch) {
  (half ? run_norm_backward<bf16> : run_norm_backward<float>)(team, rows, width, x, weight, scale,
                                                              grad_y, grad_x, grad, grad_branch,
                                                              grad_weight, scratch);
}

// y [rows, width] of gate_up [rows, 2 width]; with grad_y, grad_gate_up too.
PUNA_EXPORT void PUNA_NAME(PUNA_TIER, gate)(const PunaTeam* team, int half, int activation,
                                            int64_t rows, int64_t width, const void* gate_up,
                                            const void* grad_y, void* y, void* grad_gate_up) {
  if (half)
    run_gate<bf16>(team, activation,
                   {rows, width, static_cast<const bf16*>(gate_up),
                    static_cast<const bf16*>(grad_y), static_cast<bf16*>(y),
                    static_cast<bf16*>(grad_gate_up)});
  else
    run_gate<float>(team, activation,
                    {rows, width, static_cast<const float*>(gate_up),
                     static_cast<const float*>(grad_y), static_cast<float*>(y),
                     static_cast<float*>(grad_gate_up)});
}

// Bytes of scratch memory for each member of the team.
PUNA_EXPORT int64_t PUNA_NAME(PUNA_TIER, attention_scratch)(const PunaAttention* shape, int half,
                                                            int backward) {
  if (half) return backward ? backward_scratch<bf16>(*shape) : forward_scratch<bf16>(*shape);
  return backward ? backward_scratch<float>(*shape) : forward_scratch<float>(*shape);
}

PUNA_EXPORT void PUNA_NAME(PUNA_TIER, attention)(const PunaTeam* team, const PunaAttention* shape,
                                                 int half, const void* qkv, const float* cos,
                                                 const float* sin, int64_t turned_half, void* out,
                                                 float* lse, void* scratch) {
  (half ? run_attention<bf16> : run_attention<float>)(team, *shape, qkv, {cos, sin, turned_half},
                                                      out, lse, scratch);
}

PUNA_EXPORT void PUNA_NAME(PUNA_TIER, attention_backward)(
    const PunaTeam* team, const PunaAttention* shape, int half, const void* qkv, const float* cos,
    const float* sin, int64_t turned_half, const void* out, const float* lse, const void* grad_out,
    void* grad_qkv, void* scratch) {
  (half ? run_attention_backward<bf16> : run_attention_backward<float>)(
      team, *shape, qkv, {cos, sin, turned_half}, out, lse, grad_out, grad_qkv, scratch);
}

// Bytes of scratch memory for each member of the team.
PUNA_EXPORT int64_t PUNA_NAME(PUNA_TIER, orthogonalise_scratch)(int64_t rows, int64_t columns) {
  return orthogonalise_scratch(rows, columns);
}

// The matrices are changed where they stand. coefficients: float32 [steps, 3]. scratch_bytes: what
// the largest of them takes.
PUNA_EXPORT void PUNA_NAME(PUNA_TIER, orthogonalise)(const PunaTeam* team, int64_t count,
                                                     const PunaMatrix* matrices, int64_t steps,
                                                     const float* coefficients, void* scratch,
                                                     int64_t scratch_bytes) {
  Orthogonalise work{matrices, coefficients, steps, static_cast<char*>(scratch), scratch_bytes};
  puna::share_out(team, count, orthogonalise, &work);
}

// logits become their gradient. scratch: float32 [threads, width + 16].
PUNA_EXPORT void PUNA_NAME(PUNA_TIER, cross_entropy)(const PunaTeam* team, int half, int64_t rows,
                                                     int64_t width, void* logits,
                                                     const int64_t* targets, float* loss,
                                                     float* scratch) {
  (half ? run_cross_entropy<bf16> : run_cross_entropy<float>)(team, rows, width, logits, targets,
                                                              loss, scratch);
}
