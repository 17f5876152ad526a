// The pool of threads: sweep_pool CASES SEED
// A case is a pool of 1, 2, 3 or 8 members that runs jobs of phases, whose sizes are drawn by
// chance, back to back or with pauses in which the members sleep, and is freed at the end. Every
// item must be done once; what it writes is a function of what items of the phase before it wrote,
// in plain memory, and is compared with the same chain in one thread. A pool that never ends is
// ended by the alarm. Under ThreadSanitizer a write that a phase may not see is a race.
#include "../pool.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "guarded.h"

extern "C" PunaPool* puna_pool_new(int members);
extern "C" void puna_pool_free(PunaPool* pool);

namespace {

constexpr int SIZES[] = {1, 2, 3, 8};
constexpr int64_t READ = 5;  // items of the phase before that an item reads
constexpr unsigned SECONDS = 900;

struct PhaseData {
  std::vector<uint64_t> values;
  std::vector<int> times;  // that each item was done
};

struct Job {
  PunaPool* pool;
  uint64_t seed;
  std::vector<PhaseData> data;
  std::vector<int> begun;  // by member
  std::unique_ptr<puna::Phase[]> phases;

  // What an item writes.
  uint64_t value(size_t phase, int64_t item) const {
    uint64_t sum = seed + phase;
    if (phase > 0) {
      const std::vector<uint64_t>& before = data[phase - 1].values;
      for (int64_t i = 0; i < READ && !before.empty(); i++)
        sum = 31 * sum + before[size_t(item * 7 + i * 3) % before.size()];
    }
    return Random(sum + uint64_t(item)).bits();
  }

  void take_part(int member) {
    begun[size_t(member)]++;
    for (size_t phase = 0; phase < data.size(); phase++) {
      const auto work = [&](int64_t item) {
        const uint64_t found = value(phase, item);
        data[phase].values[size_t(item)] = found;
        data[phase].times[size_t(item)]++;
        // some items are longer than the others look on without sleeping
        if (found % 64 == 0) usleep(150);
      };
      puna::share_phase(pool, phases[phase], int64_t(data[phase].values.size()), work);
    }
  }
};

Job random_job(Random& random, PunaPool* pool) {
  const int members = puna::members(pool);
  Job job{pool, random.bits(), {}, std::vector<int>(size_t(members)), nullptr};
  job.data.resize(size_t(random.whole(1, 12)));
  job.phases = std::make_unique<puna::Phase[]>(job.data.size());
  for (PhaseData& phase : job.data) {
    const size_t items = size_t(random.whole(0, random.whole(0, 1) ? 3 : 40));
    phase.values.resize(items);
    phase.times.resize(items);
  }
  return job;
}

// The first fault of a job that has run, or null.
const char* fault(const Job& job) {
  for (size_t member = 0; member < job.begun.size(); member++)
    if (job.begun[member] > 1 || (member == 0 && job.begun[member] != 1))
      return "a member that began another number of times";
  Job alone{nullptr, job.seed, std::vector<PhaseData>(job.data.size()), {}, nullptr};
  for (size_t phase = 0; phase < job.data.size(); phase++)
    for (size_t item = 0; item < job.data[phase].values.size(); item++) {
      if (job.data[phase].times[item] != 1) return "an item that was not done once";
      alone.data[phase].values.push_back(alone.value(phase, int64_t(item)));
      if (job.data[phase].values[item] != alone.data[phase].values[item])
        return "an item that did not see what the phase before it wrote";
    }
  return nullptr;
}

const char* run_case(Random& random) {
  PunaPool* pool = puna_pool_new(SIZES[random.whole(0, 3)]);
  if (pool == nullptr) return "no pool";
  if (random.whole(0, 3) == 0) usleep(400);
  const char* found = nullptr;
  for (int64_t jobs = random.whole(0, 20); jobs > 0 && found == nullptr; jobs--) {
    Job job = random_job(random, pool);
    puna::run(
        pool, [](void* data, int member) { static_cast<Job*>(data)->take_part(member); }, &job);
    found = fault(job);
    // around the time after which members sleep
    if (random.whole(0, 3) == 0) usleep(unsigned(random.whole(50, 600)));
  }
  puna_pool_free(pool);
  return found;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) {
    std::fprintf(stderr, "usage: sweep_pool CASES SEED\n");
    return 2;
  }
  alarm(SECONDS);
  const int64_t cases = std::atoll(arguments[1]);
  const uint64_t first = std::strtoull(arguments[2], nullptr, 10);
  for (uint64_t seed = first; seed < first + uint64_t(cases); seed++) {
    Random random(seed);
    if (const char* found = run_case(random)) {
      std::printf("pool, seed %llu: %s\n", static_cast<unsigned long long>(seed), found);
      return 1;
    }
  }
  std::printf("pool: %lld pools are right, seeds from %llu on\n", static_cast<long long>(cases),
              static_cast<unsigned long long>(first));
  return 0;
}
