// Work shared out over the threads that PyTorch computes with.
//
// A second set of threads would take the processor from the first, whose members wait by spinning.
// So the caller gives the function that starts OpenMP's team (GOMP_parallel of the library that
// PyTorch has loaded); nothing is linked. Without it the work is done by the calling thread.
#pragma once

#include <cstdint>

extern "C" struct PunaTeam {
  void (*parallel)(void (*function)(void*), void* data, unsigned threads, unsigned flags);
  int32_t threads;
};

namespace puna {

// Call body(data, item, member) once for every item below `items`, in any order. `member` is below
// team->threads, and no two calls at the same time have the same one: it chooses scratch memory.
// What a call writes must not depend on which member does it.
void share_out(const PunaTeam* team, int64_t items, void (*body)(void*, int64_t, int), void* data);

}  // namespace puna
