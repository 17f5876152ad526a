#include "pool.h"

#include <pthread.h>

#include <chrono>
#include <new>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using std::chrono::microseconds;

constexpr microseconds PHASE_SPIN{50};
constexpr microseconds IDLE_SPIN{200};  // from the end of a step to the next one

// Called between two looks, so that the other thread of a core gets on.
inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

struct PunaPool {
  explicit PunaPool(int members) : size(members) {
    pthread_mutex_init(&mutex, nullptr);
    pthread_cond_init(&changed, nullptr);
  }
  ~PunaPool() {
    pthread_cond_destroy(&changed);
    pthread_mutex_destroy(&mutex);
  }

  // Return when `ready` gives true, which who makes it so tells by `notify`.
  template <class Ready>
  void wait(microseconds spin, Ready ready) {
    if (ready()) return;
    const auto end = std::chrono::steady_clock::now() + spin;
    do {
      for (int i = 0; i < 32; i++) {
        pause();
        if (ready()) return;
      }
    } while (std::chrono::steady_clock::now() < end);
    pthread_mutex_lock(&mutex);
    sleepers.fetch_add(1);
    while (!ready()) pthread_cond_wait(&changed, &mutex);
    sleepers.fetch_sub(1);
    pthread_mutex_unlock(&mutex);
  }
  // Both sides change `sleepers`: who is second sees what the first wrote before. No fence, which
  // ThreadSanitizer does not know.
  void notify() {
    if (sleepers.fetch_add(0) == 0) return;
    pthread_mutex_lock(&mutex);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
  }

  const int size;
  int started = 0;  // threads besides the caller's
  pthread_t* threads = nullptr;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  std::atomic<int> sleepers{0};
  std::atomic<int> next_member{1};

  // The job: odd while members may begin it. Who begins counts itself in first, and then looks
  // whether it still may.
  alignas(64) std::atomic<uint64_t> job{0};
  std::atomic<int> inside{0};
  std::atomic<bool> ends{false};
  void (*body)(void*, int) = nullptr;
  void* data = nullptr;
};

namespace puna {

int members(const PunaPool* pool) { return pool->size; }

void wait_for(PunaPool* pool, const Phase& phase, int64_t items) {
  pool->wait(PHASE_SPIN,
             [&] { return phase.done.load(std::memory_order_seq_cst) >= items; });
}

void wake(PunaPool* pool) { pool->notify(); }

void run(PunaPool* pool, void (*body)(void*, int), void* data) {
  if (pool->size == 1) return body(data, 0);
  pool->body = body;
  pool->data = data;
  pool->job.fetch_add(1);
  pool->notify();
  body(data, 0);
  pool->job.fetch_add(1);
  pool->wait(PHASE_SPIN, [&] { return pool->inside.load() == 0; });
}

}  // namespace puna

namespace {

void* serve(void* shared) {
  PunaPool* pool = static_cast<PunaPool*>(shared);
  const int member = pool->next_member.fetch_add(1);
  for (uint64_t seen = 0;;) {
    pool->wait(IDLE_SPIN, [&] {
      const uint64_t job = pool->job.load();
      return pool->ends.load() || (job % 2 == 1 && job != seen);
    });
    if (pool->ends.load()) return nullptr;
    pool->inside.fetch_add(1);
    const uint64_t job = pool->job.load();
    if (job % 2 == 1 && job != seen) {
      seen = job;
      pool->body(pool->data, member);
    }
    pool->inside.fetch_sub(1);
    pool->notify();
  }
}

}  // namespace

#define PUNA_EXPORT extern "C" __attribute__((visibility("default")))

PUNA_EXPORT void puna_pool_free(PunaPool* pool) {
  pool->ends.store(true);
  pool->notify();
  for (int i = 0; i < pool->started; i++) pthread_join(pool->threads[i], nullptr);
  delete[] pool->threads;
  delete pool;
}

// A pool of so many members, the caller among them; null where the system gives no thread.
PUNA_EXPORT PunaPool* puna_pool_new(int members) {
  PunaPool* pool = new (std::nothrow) PunaPool(members);
  if (pool == nullptr) return nullptr;
  pool->threads = new (std::nothrow) pthread_t[size_t(members)];
  while (pool->threads != nullptr && pool->started < members - 1) {
    if (pthread_create(&pool->threads[pool->started], nullptr, serve, pool) != 0) break;
    pool->started++;
  }
  if (pool->threads != nullptr && pool->started == members - 1) return pool;
  puna_pool_free(pool);
  return nullptr;
}
