// The plain C interface of inference of one tier; compiled once for each, with PUNA_TIER set to its
// name. Sizes, strides and alignment are the caller's duty (puna/native/model_runner.py).
#include <new>

#include "step.h"

#define PUNA_JOINED(tier, name) puna_##tier##_##name
#define PUNA_NAME(tier, name) PUNA_JOINED(tier, name)
#define PUNA_EXPORT extern "C" __attribute__((visibility("default")))

using namespace PUNA_TIER;

namespace {

// Sizes are counted on a stack from this address on, which nothing is written to.
constexpr uintptr_t ORIGIN = 64;

int64_t counted(const Scratch& scratch) {
  return int64_t(reinterpret_cast<uintptr_t>(scratch.next) - ORIGIN);
}

}  // namespace

// Rows of a panel.
PUNA_EXPORT int64_t PUNA_NAME(PUNA_TIER, lanes)() { return LANES; }

// The largest code of 8-bit weights' inputs.
PUNA_EXPORT float PUNA_NAME(PUNA_TIER, input_levels)() { return LEVELS<8>; }

PUNA_EXPORT int64_t PUNA_NAME(PUNA_TIER, multiply_scratch)(int64_t rows, int64_t columns) {
  Scratch scratch{reinterpret_cast<char*>(ORIGIN)};
  take_memory(scratch, rows, columns);
  return counted(scratch);
}

// y [rows, w->rows] = x [rows, w->columns] W^T, in the calling thread. levels: as in PunaModel.
PUNA_EXPORT void PUNA_NAME(PUNA_TIER, multiply)(const PunaLinear* w, int64_t rows, const float* x,
                                                float levels, float* y, void* memory) {
  Scratch scratch{static_cast<char*>(memory)};
  const InputMemory inputs = take_memory(scratch, rows, w->columns);
  for (int64_t i = 0; i < rows; i++) take_input(*w, x + i * w->columns, i, rows, levels, inputs);
  product_with(*w, inputs_in(*w, rows, inputs), rows, 0, panels_of(*w), Into{y, w->rows, false});
}

// Row r of W, float32 [columns].
PUNA_EXPORT void PUNA_NAME(PUNA_TIER, row)(const PunaLinear* w, int64_t r, float* y) {
  weights_of_row(*w, r, y);
}

// Bytes that the keys, or the values, of one block of a layer take, in a cache of this format.
PUNA_EXPORT int64_t PUNA_NAME(PUNA_TIER, block_bytes)(int64_t kv_heads, int64_t width,
                                                      int64_t block, int format) {
  const paged::Shape shape{kv_heads, kv_heads, width, block, 1.0f};
  return with_cache_entry(format, [&](auto entry) {
    using T = decltype(entry);
    const int64_t keys = paged::key_entries<T>(shape), values = paged::value_entries<T>(shape);
    return kv_heads * (keys > values ? keys : values) * int64_t(sizeof(T));
  });
}

PUNA_EXPORT int64_t PUNA_NAME(PUNA_TIER, step_scratch)(const PunaPool* pool,
                                                       const PunaModel* model,
                                                       const PunaStep* step) {
  Scratch scratch{reinterpret_cast<char*>(ORIGIN)};
  take_step_memory(scratch, *model, *step, puna::members(pool));
  return counted(scratch);
}

// memory: so many bytes, on a cache line.
PUNA_EXPORT void PUNA_NAME(PUNA_TIER, step)(PunaPool* pool, const PunaModel* model,
                                            const PunaStep* step, void* memory) {
  Scratch scratch{static_cast<char*>(memory)};
  const int members = puna::members(pool);
  const paged::Shape shape = heads_of(*model);
  StepMemory taken = take_step_memory(scratch, *model, *step, members);
  find_adapted(taken.adapted, *step);
  Step work{pool, *model, *step, taken,
            paged::plan(shape, step->chunk, step->chunks, members, taken.plan)};
  for (int64_t i = 0; i < phases_of(*model); i++) new (work.memory.phases + i) puna::Phase;
  puna::run(pool, step_of, &work);
}
