// What a program has that is compiled for one tier: the tier's name, and cases by their seeds.
#pragma once

#include <cstdio>
#include <cstdlib>

#include "guarded.h"

extern "C" int puna_runs(const char* tier);  // of library.cpp

constexpr int UNSUPPORTED = 77;  // exit code: this processor does not run the tier
constexpr unsigned SECONDS = 900;

#define PUNA_QUOTED(name) #name
#define PUNA_TEXT(name) PUNA_QUOTED(name)
constexpr const char* TIER = PUNA_TEXT(PUNA_TIER);

inline bool fail(const char* difference) {
  std::printf("%s: %s\n", current, difference);
  return false;
}

// The program's arguments are CASES SEED, its exit code is this. right: whether the case of a seed
// is; said: of all of them.
inline int run_cases(int count, char** arguments, const char* said, bool (*right)(uint64_t seed)) {
  if (count != 3) {
    std::fprintf(stderr, "usage: %s CASES SEED\n", arguments[0]);
    return 2;
  }
  name_touched();
  if (!puna_runs(TIER)) return UNSUPPORTED;
  alarm(SECONDS);
  const int64_t cases = std::atoll(arguments[1]);
  const uint64_t first = std::strtoull(arguments[2], nullptr, 10);
  for (uint64_t seed = first; seed < first + uint64_t(cases); seed++) {
    if (right(seed)) continue;
    std::printf("%s fails at seed %llu\n", TIER, static_cast<unsigned long long>(seed));
    return 1;
  }
  std::printf("%s: %lld %s, seeds from %llu on\n", TIER, static_cast<long long>(cases), said,
              static_cast<unsigned long long>(first));
  return 0;
}
