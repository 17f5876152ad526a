// Cross entropy that turns logits into their gradient where they stand:
//   loss = log sum_v exp(logits_v) - logits_target;  logits <- softmax(logits) - one_hot(target)
//
// logits [N, V]; targets int64 [N], each below V or negative: those rows have no loss and no
// gradient. Float32 arithmetic; loss float32 [N], in nats.
#pragma once

#include "threads.h"
#include "vector.h"

namespace PUNA_TIER {

template <class T>
struct CrossEntropy {
  int64_t width;
  T* logits;
  const int64_t* targets;
  float* loss;
  float* scratch;  // [members, padded width]
};

template <class T>
static void cross_entropy(void* data, int64_t row, int member) {
  const auto& work = *static_cast<const CrossEntropy<T>*>(data);
  const int64_t width = work.width, target = work.targets[row];
  T* logits = work.logits + row * width;
  float* weights = work.scratch + member * (width + LANES);
  if (target < 0) {
    work.loss[row] = 0.0f;
    for (int64_t i = 0; i < width; i++) logits[i] = T{};
    return;
  }
  const float wanted = widened(logits[target]);
  const int64_t whole = width / LANES * LANES;
  F32 top = broadcast(-INFINITY);
  for (int64_t i = 0; i < whole; i += LANES) top = max(top, load(logits + i));
  float highest = largest(top);
  for (int64_t i = whole; i < width; i++)
    highest = widened(logits[i]) > highest ? widened(logits[i]) : highest;
  F32 totals = zero();
  for (int64_t i = 0; i < whole; i += LANES) {
    const F32 weight = exp(load(logits + i) - broadcast(highest));
    totals = totals + weight;
    store(weights + i, weight);
  }
  float total = sum(totals);
  if (whole < width) {
    store(weights + whole, exp(load(logits + whole, int(width - whole)) - broadcast(highest)));
    for (int64_t i = whole; i < width; i++) total += weights[i];
  }
  work.loss[row] = highest + std::log(total) - wanted;
  const F32 share = broadcast(1.0f / total);
  for (int64_t i = 0; i < width; i += LANES)
    store(logits + i, load(weights + i) * share, left(width, i));
  const float grad = weights[target] / total - 1.0f;
  store(logits + target, broadcast(grad), 1);
}

}  // namespace PUNA_TIER
