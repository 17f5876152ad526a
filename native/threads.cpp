#include "threads.h"

#include <atomic>

namespace puna {
namespace {

struct Job {
  int64_t items;
  void (*body)(void*, int64_t, int);
  void* data;
  std::atomic<int64_t> next_item{0};
  std::atomic<int> next_member{0};
};

void work(void* shared) {
  Job& job = *static_cast<Job*>(shared);
  const int member = job.next_member.fetch_add(1, std::memory_order_relaxed);
  for (;;) {
    const int64_t item = job.next_item.fetch_add(1, std::memory_order_relaxed);
    if (item >= job.items) return;
    job.body(job.data, item, member);
  }
}

}  // namespace

void share_out(const PunaTeam* team, int64_t items, void (*body)(void*, int64_t, int), void* data) {
  Job job{items, body, data};
  const int64_t threads = items < team->threads ? items : team->threads;
  if (team->parallel == nullptr || threads < 2)
    work(&job);
  else
    team->parallel(work, &job, unsigned(threads), 0);
}

}  // namespace puna
