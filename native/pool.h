// Threads of the native core's own, for inference, where PyTorch need not be loaded.
//
// The members of a pool run one function together, in phases of items that are taken one by one.
// Who finds none left waits for those in work and for nobody else: a member that the system lets
// wait, as on a shared machine, holds up only the item that it has begun, and one that has not come
// yet is not missed. Who waits looks on for some microseconds and then sleeps: a step of a small
// model has hundreds of phases, which sleeping at once would double, while an idle server must not
// use a processor.
#pragma once

#include <atomic>
#include <cstdint>

extern "C" struct PunaPool;

namespace puna {

int members(const PunaPool* pool);

// Call body(data, member) in the members that are free; the caller is member 0, and may be alone.
// Returns when all that began have ended.
void run(PunaPool* pool, void (*body)(void* data, int member), void* data);

struct Phase {
  std::atomic<int64_t> next{0}, done{0};
};

// Return when the items of a phase are done.
void wait_for(PunaPool* pool, const Phase& phase, int64_t items);
// Called by who has finished the last of them.
void wake(PunaPool* pool);

// Take items until none is left, and return when all are done. What a call of `work` writes no
// other call of the phase may read.
template <class Work>
inline void share_phase(PunaPool* pool, Phase& phase, int64_t items, Work work) {
  for (;;) {
    const int64_t item = phase.next.fetch_add(1, std::memory_order_relaxed);
    if (item >= items) break;
    work(item);
    if (phase.done.fetch_add(1, std::memory_order_acq_rel) + 1 == items) wake(pool);
  }
  wait_for(pool, phase, items);
}

}  // namespace puna
