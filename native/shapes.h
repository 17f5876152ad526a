// What the callers of the plain C interface give by structure: ctypes has the same ones in
// puna/native/kernels.py.
#pragma once

#include <cstdint>

extern "C" struct PunaMatrix {
  float* entries;  // [rows, columns]
  int64_t rows, columns;
};

extern "C" struct PunaAttention {
  int64_t batch, steps, heads, kv_heads, head_width;
  float scale;  // of the scores, 1 / sqrt(head_width)
};
