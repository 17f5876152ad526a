// What the callers of the plain C interface give by structure: ctypes has the same ones in
// puna/native/interface.py.
#pragma once

#include <cstdint>

extern "C" struct PunaAttention {
  int64_t batch, steps, heads, kv_heads, head_width;
  float scale;  // of the scores, 1 / sqrt(head_width)
};
