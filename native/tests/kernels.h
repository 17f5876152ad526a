// The functions of one tier, found in its shared object, and the teams that they are given.
#pragma once

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "../shapes.h"
#include "../threads.h"

// As puna/native/library.py opens an object and puna/native/kernels.py declares its functions.
class Kernels {
 public:
  Kernels(const std::string& path, const std::string& tier) : tier_(tier) {
    object_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (object_ == nullptr) {
      std::fprintf(stderr, "%s cannot be loaded: %s\n", path.c_str(), dlerror());
      std::exit(2);
    }
    find(runs, "puna_runs");
    const std::string prefix = "puna_" + tier + "_";
    find(norm, prefix + "norm");
    find(norm_backward, prefix + "norm_backward");
    find(gate, prefix + "gate");
    find(attention_scratch, prefix + "attention_scratch");
    find(attention, prefix + "attention");
    find(attention_backward, prefix + "attention_backward");
    find(cross_entropy, prefix + "cross_entropy");
    find(orthogonalise_scratch, prefix + "orthogonalise_scratch");
    find(orthogonalise, prefix + "orthogonalise");
  }

  int (*runs)(const char*);
  void (*norm)(const PunaTeam*, int half, int64_t rows, int64_t width, float eps,
               const float* residual, const void* branch, const float* weight, float* x, void* y,
               float* scale);
  void (*norm_backward)(const PunaTeam*, int half, int64_t rows, int64_t width, const float* x,
                        const float* weight, const float* scale, const void* grad_y,
                        const float* grad_x, float* grad, void* grad_branch, float* grad_weight,
                        float* scratch);
  void (*gate)(const PunaTeam*, int half, int activation, int64_t rows, int64_t width,
               const void* gate_up, const void* grad_y, void* y, void* grad_gate_up);
  int64_t (*attention_scratch)(const PunaAttention*, int half, int backward);
  void (*attention)(const PunaTeam*, const PunaAttention*, int half, const void* qkv,
                    const float* cos, const float* sin, int64_t turned_half, void* out, float* lse,
                    void* scratch);
  void (*attention_backward)(const PunaTeam*, const PunaAttention*, int half, const void* qkv,
                             const float* cos, const float* sin, int64_t turned_half,
                             const void* out, const float* lse, const void* grad_out,
                             void* grad_qkv, void* scratch);
  void (*cross_entropy)(const PunaTeam*, int half, int64_t rows, int64_t width, void* logits,
                        const int64_t* targets, float* loss, float* scratch);
  int64_t (*orthogonalise_scratch)(int64_t rows, int64_t columns);
  void (*orthogonalise)(const PunaTeam*, int64_t count, const PunaMatrix* matrices, int64_t steps,
                        const float* coefficients, void* scratch, int64_t scratch_bytes);

 private:
  template <class F>
  void find(F*& function, const std::string& name) {
    function = reinterpret_cast<F*>(dlsym(object_, name.c_str()));
    if (function == nullptr) {
      std::fprintf(stderr, "the object of %s has no %s\n", tier_.c_str(), name.c_str());
      std::exit(2);
    }
  }
  std::string tier_;
  void* object_;
};

// What GOMP_parallel does, with threads of its own.
inline void parallel(void (*function)(void*), void* data, unsigned threads, unsigned) {
  std::vector<std::thread> others;
  for (unsigned i = 1; i < threads; i++) others.emplace_back(function, data);
  function(data);
  for (std::thread& other : others) other.join();
}

// The first has no team, though threads; results are the same with each.
inline const PunaTeam TEAMS[] = {
    {nullptr, 8}, {parallel, 1}, {parallel, 2}, {parallel, 3}, {parallel, 8}};
