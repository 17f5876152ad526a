// Whole steps of a model, of the tier that this program is compiled for, over models drawn by
// chance:
//   sweep_step CASES SEED
// A case is a model with adapters and some sequences. Each is computed alone, in one step of one
// thread, by a model whose cache is its own; then all together, in prompts cut by chance and single
// tokens, by several threads, on blocks anywhere. Logits and final states agree bit for bit, and
// are numbers. Weights, cache, scratch memory and results are not a number at first, and end or
// begin at pages that must not be touched. Under ThreadSanitizer a row that a phase may not see is
// a race.
#include <algorithm>
#include <memory>
#include <vector>

#include "../inference.cpp"
#include "tier_program.h"

extern "C" PunaPool* puna_pool_new(int members);
extern "C" void puna_pool_free(PunaPool* pool);

namespace {

// Arrays that live as long as a case.
class Arrays {
 public:
  explicit Arrays(Place place) : place_(place) {}
  char* bytes(int64_t count, int64_t alignment = 4) {
    memory_.emplace_back(count, place_, alignment);
    return memory_.back().begin();
  }
  float* normal(Random& random, int64_t count, float mean, float deviation) {
    float* values = reinterpret_cast<float*>(bytes(4 * count));
    for (int64_t i = 0; i < count; i++) values[i] = mean + deviation * random.normal();
    return values;
  }

 private:
  Place place_;
  std::vector<Memory> memory_;
};

// A matrix in panels of a format; any code is one.
PunaLinear random_linear(Random& random, Arrays& arrays, int64_t rows, int64_t columns,
                         int format) {
  PunaLinear w{nullptr, nullptr, rows, columns, format, 0};
  if (format >= PUNA_INT8 && random.whole(0, 1)) w.group = int32_t(32 * random.whole(1, 2));
  const int64_t entries = panels_of(w) * LANES * filled_columns(w);
  const float size = 1.0f / std::sqrt(float(columns));
  if (format == PUNA_FLOAT32) w.weights = arrays.normal(random, entries, 0.0f, size);
  if (format == PUNA_BFLOAT16) {
    bf16* values = reinterpret_cast<bf16*>(arrays.bytes(2 * entries));
    for (int64_t i = 0; i < entries; i++) values[i] = rounded(size * random.normal());
    w.weights = values;
  }
  if (format < PUNA_INT8) return w;
  char* codes = arrays.bytes(format == PUNA_INT8 ? entries : entries / 2);
  for (int64_t i = 0; i < (format == PUNA_INT8 ? entries : entries / 2); i++)
    codes[i] = char(random.whole(0, 255));
  w.weights = codes;
  const int64_t scales = panels_of(w) * LANES * (w.group ? input_groups(w) : 1);
  if (w.group) {
    uint16_t* halves = reinterpret_cast<uint16_t*>(arrays.bytes(2 * scales));
    for (int64_t i = 0; i < scales; i++) halves[i] = uint16_t(random.whole(4 << 10, 6 << 10));
    w.scales = halves;  // 2^-11 to 2^-9
  } else {
    w.scales = arrays.normal(random, scales, size / 80, size / 800);
  }
  return w;
}

// The layers' matrices of a model, to which adapters are made.
const PunaLinear& matrix_of(const PunaLayer& layer, int64_t matrix) {
  const PunaLinear* const all[] = {&layer.qkv, &layer.attention_output, &layer.gate_up,
                                   &layer.down};
  return *all[matrix];
}

// An update of up to three parts, each of which has some of the panels; or none.
PunaUpdate random_update(Random& random, Arrays& arrays, const PunaLinear& w) {
  if (random.whole(0, 2) == 0) return {{nullptr, nullptr, 0, 0, 0, 0}, nullptr, nullptr};
  const int64_t ranks = random.whole(1, 20), panels = panels_of(w);
  PunaUpdate update{random_linear(random, arrays, ranks, w.columns, PUNA_FLOAT32), nullptr,
                    nullptr};
  auto* own = reinterpret_cast<PunaRanks*>(arrays.bytes(panels * int64_t(sizeof(PunaRanks)), 8));
  int64_t entries = 0;
  for (int64_t panel = 0; panel < panels; panel++) {
    const int64_t begin = random.whole(0, ranks), end = random.whole(begin, ranks);
    own[panel] = {int32_t(begin), int32_t(end), entries};
    entries += (end - begin) * LANES;
  }
  update.b = arrays.normal(random, entries, 0.0f, 0.3f);
  update.panel = own;
  return update;
}

struct Sequence {
  std::vector<int64_t> ids;
  const PunaAdapter* adapter;
  std::vector<float> logits, states;  // of all its tokens, computed alone
};

class Case {
 public:
  explicit Case(uint64_t seed)
      : random_(seed), place_(random_.whole(0, 1) ? Place::END : Place::BEGIN), arrays_(place_) {
    const int64_t kv_heads = random_.whole(1, 3);
    model_.kv_heads = kv_heads;
    model_.heads = kv_heads * random_.whole(1, 3);
    model_.head_width = random_.whole(1, 40);
    model_.width = random_.whole(1, 80);
    model_.hidden = random_.whole(1, 100);
    model_.layers = random_.whole(1, 3);
    model_.eps = 1e-5f;
    model_.score_scale = 1.0f / std::sqrt(float(model_.head_width));
    model_.embedding_scale = random_.whole(0, 1) ? 1.0f : 3.0f;
    model_.activation = int32_t(random_.whole(0, 4));
    model_.rotary_half = random_.whole(0, model_.head_width / 2);
    model_.block_size = 16 * random_.whole(1, 2);
    model_.cache_format = int32_t(random_.whole(PUNA_FLOAT32, PUNA_INT8));
    model_.input_levels = 0.0f;
    members_ = int(random_.whole(2, 6));
    std::snprintf(current, sizeof current,
                  "%s, seed %llu: %lld layers of width %lld, %lld heads of %lld, %d threads", TIER,
                  static_cast<unsigned long long>(seed), static_cast<long long>(model_.layers),
                  static_cast<long long>(model_.width), static_cast<long long>(model_.heads),
                  static_cast<long long>(model_.head_width), members_);
    fill();
  }

  bool run() {
    for (Sequence& sequence : sequences_) alone(sequence);
    return together();
  }

 private:
  void fill() {
    const auto linear = [&](int64_t rows, int64_t columns) {
      const int format = int(random_.whole(0, 3));
      return random_linear(random_, arrays_, rows, columns, format);
    };
    const int64_t attended = model_.heads * model_.head_width;
    const int64_t packed = attended + 2 * model_.kv_heads * model_.head_width;
    const int64_t gated = 2 * up_to_multiple(model_.hidden, LANES);
    const int64_t vocabulary = random_.whole(2, 70);
    for (int64_t l = 0; l < model_.layers; l++)
      layers_.push_back({arrays_.normal(random_, model_.width, 1.0f, 0.1f),
                         linear(packed, model_.width), linear(model_.width, attended),
                         arrays_.normal(random_, model_.width, 1.0f, 0.1f),
                         linear(gated, model_.width), linear(model_.width, model_.hidden), nullptr,
                         nullptr});
    model_.layer = layers_.data();
    model_.embedding = linear(vocabulary, model_.width);
    model_.head = linear(vocabulary, model_.width);
    model_.norm = arrays_.normal(random_, model_.width, 1.0f, 0.1f);
    step_vocabulary_ = random_.whole(1, vocabulary);
    for (const int64_t count = random_.whole(0, 2); int64_t(adapters_.size()) < count;)
      adapters_.push_back(random_adapter());
    int64_t longest = 0;
    for (int64_t count = random_.whole(1, 5); count > 0; count--) {
      Sequence sequence{{}, nullptr, {}, {}};
      for (int64_t length = random_.whole(1, 50); length > 0; length--)
        sequence.ids.push_back(random_.whole(0, vocabulary - 1));
      if (!adapters_.empty() && random_.whole(0, 2))
        sequence.adapter = &adapters_[size_t(random_.whole(0, int64_t(adapters_.size()) - 1))];
      longest = std::max(longest, int64_t(sequence.ids.size()));
      sequences_.push_back(sequence);
    }
    float* cos = arrays_.normal(random_, longest * model_.rotary_half, 0.0f, 0.7f);
    float* sin = arrays_.normal(random_, longest * model_.rotary_half, 0.0f, 0.7f);
    model_.cos = cos;
    model_.sin = sin;
  }

  PunaAdapter random_adapter() {
    const int64_t matrices = model_.layers * LAYER_MATRICES;
    auto* updates =
        reinterpret_cast<PunaUpdate*>(arrays_.bytes(matrices * int64_t(sizeof(PunaUpdate)), 8));
    int64_t ranks = 0;
    for (int64_t i = 0; i < matrices; i++) {
      const PunaLinear& w = matrix_of(layers_[size_t(i / LAYER_MATRICES)], i % LAYER_MATRICES);
      updates[i] = random_update(random_, arrays_, w);
      ranks = std::max(ranks, updates[i].a.rows);
    }
    return {ranks, updates};
  }

  // A model with a cache of so many blocks for each sequence, all of them in any order.
  struct Cached {
    std::vector<PunaLayer> layers;
    PunaModel model;
    std::vector<Memory> memory;
    std::vector<std::vector<int32_t>> tables;
  };
  Cached cached(const std::vector<const Sequence*>& sequences) {
    Cached made{layers_, model_, {}, {}};
    int32_t blocks = 0;
    for (const Sequence* sequence : sequences) {
      made.tables.emplace_back();
      for (int64_t i = 0; i < int64_t(sequence->ids.size()); i += model_.block_size)
        made.tables.back().push_back(blocks++);
    }
    std::vector<int32_t>& first = made.tables[0];
    for (auto& table : made.tables)
      for (int32_t& block : table)
        std::swap(block, first[size_t(random_.whole(0, int64_t(first.size()) - 1))]);
    const int64_t bytes = blocks * PUNA_NAME(PUNA_TIER, block_bytes)(
                                       model_.kv_heads, model_.head_width, model_.block_size,
                                       model_.cache_format);
    for (PunaLayer& layer : made.layers)
      for (void** part : {&layer.keys, &layer.values}) {
        made.memory.emplace_back(bytes, place_, 4);
        *part = made.memory.back().begin();
      }
    made.model.layer = made.layers.data();
    return made;
  }

  // The next tokens of some sequences; logits and states of all of them, in order.
  struct Result {
    std::vector<float> logits, states;
  };
  Result compute(PunaPool* pool, const PunaModel& model, const std::vector<PunaChunk>& chunks,
                 const std::vector<int64_t>& ids) {
    const int64_t tokens = int64_t(ids.size());
    std::vector<int64_t> rows(ids.size());
    for (int64_t i = 0; i < tokens; i++) rows[size_t(i)] = i;
    const Memory logits(4 * tokens * step_vocabulary_, place_, 4);
    const Memory states(4 * tokens * model.width, place_, 4);
    const PunaStep step{tokens,
                        int64_t(chunks.size()),
                        tokens,
                        ids.data(),
                        chunks.data(),
                        rows.data(),
                        step_vocabulary_,
                        reinterpret_cast<float*>(logits.begin()),
                        reinterpret_cast<float*>(states.begin())};
    const Memory scratch(PUNA_NAME(PUNA_TIER, step_scratch)(pool, &model, &step), place_, 64);
    PUNA_NAME(PUNA_TIER, step)(pool, &model, &step, scratch.begin());
    const auto copied = [](const Memory& memory) {
      const float* values = reinterpret_cast<const float*>(memory.begin());
      return std::vector<float>(values, values + memory.bytes() / 4);
    };
    return {copied(logits), copied(states)};
  }

  void alone(Sequence& sequence) {
    Cached own = cached({&sequence});
    PunaPool* pool = puna_pool_new(1);
    const int64_t length = int64_t(sequence.ids.size());
    Result result = compute(pool, own.model,
                            {{0, length, 0, own.tables[0].data(), sequence.adapter}}, sequence.ids);
    puna_pool_free(pool);
    sequence.logits = result.logits;
    sequence.states = result.states;
  }

  bool together() {
    std::vector<const Sequence*> all;
    for (const Sequence& sequence : sequences_) all.push_back(&sequence);
    Cached shared = cached(all);
    PunaPool* pool = puna_pool_new(members_);
    if (pool == nullptr) return fail("no pool");
    std::vector<int64_t> done(all.size());
    bool right = true;
    for (int64_t left = 1; left > 0 && right;) {
      std::vector<PunaChunk> chunks;
      std::vector<size_t> whose;
      std::vector<int64_t> ids;
      left = 0;
      for (size_t i = 0; i < all.size(); i++) {
        const int64_t length = int64_t(all[i]->ids.size()) - done[i];
        left += length;
        if (length == 0 || random_.whole(0, 3) == 0) continue;
        const int64_t count = std::min(length, random_.whole(0, 1) ? 1 : random_.whole(1, length));
        chunks.push_back({done[i], count, int64_t(ids.size()), shared.tables[i].data(),
                          all[i]->adapter});
        ids.insert(ids.end(), all[i]->ids.begin() + done[i], all[i]->ids.begin() + done[i] + count);
        whose.push_back(i);
        done[i] += count;
      }
      if (chunks.empty()) continue;
      const Result found = compute(pool, shared.model, chunks, ids);
      for (size_t i = 0; i < chunks.size() && right; i++)
        right = same(chunks[i], found.logits, all[whose[i]]->logits, step_vocabulary_, "logits") &&
                same(chunks[i], found.states, all[whose[i]]->states, model_.width, "states");
    }
    puna_pool_free(pool);
    return right;
  }

  // The rows of a chunk, beside those of its sequence.
  static bool same(const PunaChunk& chunk, const std::vector<float>& found,
                   const std::vector<float>& wanted, int64_t width, const char* what) {
    const float* got = &found[size_t(chunk.token * width)];
    for (int64_t i = 0; i < chunk.count * width; i++) {
      const float alone = wanted[size_t(chunk.start * width + i)];
      if (std::isfinite(alone) && std::memcmp(got + i, &alone, 4) == 0) continue;
      char text[120];
      std::snprintf(text, sizeof text, "%s at position %lld are %.9g, and %.9g alone", what,
                    static_cast<long long>(chunk.start + i / width), double(got[i]), double(alone));
      return fail(text);
    }
    return true;
  }

  Random random_;
  Place place_;
  Arrays arrays_;
  PunaModel model_{};
  std::vector<PunaLayer> layers_;
  std::vector<PunaAdapter> adapters_;
  std::vector<Sequence> sequences_;
  int64_t step_vocabulary_ = 0;
  int members_ = 1;
};

}  // namespace

int main(int count, char** arguments) {
  return run_cases(count, arguments, "models are right in whole steps",
                   [](uint64_t seed) { return Case(seed).run(); });
}
