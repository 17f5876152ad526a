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

enum Register { EAX, EBX, ECX, EDX };

// Whether cpuid sets all of `bits`; for what compilers have no name yet, or older ones had none.
bool has(unsigned leaf, Register where, unsigned bits) {
  unsigned found[4];
  return __get_cpuid_count(leaf, 0, found, found + 1, found + 2, found + 3) &&
         (found[where] & bits) == bits;
}

// Whether the system lets this process use the registers of AMX: Linux grants them to who asks
// (Documentation/arch/x86/xstate.rst).
bool granted_amx() {
#if defined(__linux__)
  constexpr long REQUEST = 0x1023, REGISTERS = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
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
  constexpr unsigned F16C = 1u << 29, AMX = 1u << 22 | 1u << 24 | 1u << 25;  // bf16, tiles, int8
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has(1, ECX, F16C))
    return 0;
  if (std::strcmp(tier, "avx2") == 0) return 1;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512vnni"))
    return 0;
  if (std::strcmp(tier, "avx512") == 0) return 1;
  if (!__builtin_cpu_supports("avx512bf16")) return 0;
  if (std::strcmp(tier, "avx512_bf16") == 0) return 1;
  return std::strcmp(tier, "amx") == 0 && has(7, EDX, AMX) && granted_amx();
#elif defined(__aarch64__)
  return std::strcmp(tier, "neon") == 0;
#else
  return 0;
#endif
}
