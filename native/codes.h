// A row of numbers as whole numbers times one scale (absmax quantization):
//
//   code = round(x / scale), scale = max|x| / levels
//
// so an entry is off by at most scale / 2. An entry that is not finite makes the scale not a number,
// so that it shows.
#pragma once

#include "vector.h"

namespace PUNA_TIER {

// The scale of the `count` entries of x; writes their codes. A row too small for a finite 1 / scale
// is all zeros.
template <class Code>
PUNA_INLINE float coded(const float* x, int64_t count, float levels, Code* codes) {
  F32 top = zero(), faults = zero();
  for (int64_t i = 0; i < count; i += LANES) {
    const F32 value = load(x + i, left(count, i));
    top = max(top, absolute(value));
    faults = fma(value, zero(), faults);
  }
  const float most = largest(top);
  const float inverse = levels / most < INFINITY ? levels / most : 0.0f;
  for (int64_t i = 0; i < count; i += LANES) {
    const int n = left(count, i);
    store(codes + i, load(x + i, n) * broadcast(inverse), n);
  }
  return most / levels + sum(faults);
}

}  // namespace PUNA_TIER
