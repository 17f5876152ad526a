// The version of the interface, and whether the processor runs a tier; in every shared object.
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define PUNA_EXPORT extern "C" __attribute__((visibility("default")))

// Raised with every change of a function's arguments or meaning; puna/native/library.py has the
// number that it can call.
PUNA_EXPORT int puna_version() { return 4; }

#if defined(__x86_64__)
namespace {

// Whether the processor has AMX for bytes and bfloat16, and the system lets this process use it:
// Linux grants its registers to who asks (Documentation/arch/x86/xstate.rst).
bool has_amx() {
  constexpr unsigned BF16 = 1u << 22, TILE = 1u << 24, INT8 = 1u << 25, ALL = BF16 | TILE | INT8;
  constexpr long REQUEST = 0x1023, REGISTERS = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & ALL) != ALL) return false;
#if defined(__linux__)
  return syscall(SYS_arch_prctl, REQUEST, REGISTERS) == 0;
#else
  return false;
#endif
}

}  // namespace
#endif

// 1 where the processor, and the system with it, can run the code of a tier.
PUNA_EXPORT int puna_runs(const char* tier) {
  if (std::strcmp(tier, "scalar") == 0) return 1;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !__builtin_cpu_supports("f16c"))
    return 0;
  if (std::strcmp(tier, "avx2") == 0) return 1;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512vnni"))
    return 0;
  if (std::strcmp(tier, "avx512") == 0) return 1;
  if (!__builtin_cpu_supports("avx512bf16")) return 0;
  if (std::strcmp(tier, "avx512_bf16") == 0) return 1;
  return std::strcmp(tier, "amx") == 0 && has_amx();
#elif defined(__aarch64__)
  return std::strcmp(tier, "neon") == 0;
#else
  return 0;
#endif
}
