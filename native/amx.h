// AMX: eight registers of up to 16 rows of up to 64 bytes, and sums of products of them,
//
//   C [rows, LANES] += A [rows, units] B [units, LANES]
//
// where a unit is four bytes: two bfloat16, or four whole numbers. Sums of these are exact in 32
// bits; of bfloat16, those of the even and of the odd columns of A are added up apart in float32, and
// then together to C. Written as instructions, since GCC 12's intrinsics let writes to memory pass
// them.
//
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBF16PS and
// TDPBSUD; volume 1, chapter 18.
#pragma once

#include "vector.h"

namespace PUNA_TIER {

// Rows and units of a whole register.
constexpr int64_t AMX_ROWS = 16, AMX_UNITS = 16;

#if defined(PUNA_AMX)
constexpr int64_t REGISTER_BYTES = 1024;

// The shapes of the eight registers: rows and bytes of a row.
struct alignas(64) AmxShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  // Of the registers from `first` to `last`. A register without rows must not be used.
  void set(int first, int last, int64_t height, int64_t bytes) {
    for (int i = first; i <= last; i++) {
      rows[i] = uint8_t(height);
      row_bytes[i] = uint16_t(height ? bytes : 0);
    }
  }
};

// The registers are in use while it lives; afterwards the system need not keep them for the thread.
class AmxRegisters {
 public:
  explicit AmxRegisters(const AmxShapes& shapes) { asm volatile("ldtilecfg %0" ::"m"(shapes)); }
  AmxRegisters(const AmxRegisters&) = delete;
  ~AmxRegisters() { asm volatile("tilerelease" ::: "memory"); }
};

// Vectors round as AMX does while it lives: numbers below the smallest normal one are 0.
class AmxRounding {
 public:
  AmxRounding() : before_(_mm_getcsr()) { _mm_setcsr(before_ | _MM_FLUSH_ZERO_ON | 0x40); }
  AmxRounding(const AmxRounding&) = delete;
  ~AmxRounding() { _mm_setcsr(before_); }

 private:
  const unsigned before_;
};

template <int N>
PUNA_INLINE void clear_register() {
  asm volatile("tilezero %%tmm%c0" ::"i"(N));
}
// stride: bytes from row to row.
template <int N>
PUNA_INLINE void load_register(const void* p, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(N) : "memory");
}
template <int N>
PUNA_INLINE void store_register(void* p, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(N) : "memory");
}
template <int C, int A, int B>
PUNA_INLINE void add_pairs() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}
// Of signed bytes of x and unsigned ones of W.
template <int C, int A, int B>
PUNA_INLINE void add_bytes() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}
#endif

}  // namespace PUNA_TIER
