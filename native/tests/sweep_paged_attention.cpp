// Attention over a paged cache, of the tier that this program is compiled for, over shapes drawn by
// chance:
//   sweep_paged_attention CASES SEED
// A case is a step with chunks of several sequences. It is computed twice: as a whole, and every
// chunk by itself, cut by chance, on another team, with other blocks in other places. Both are the
// same bit for bit, and within the bounds of PagedSweep::compare of sums in float64. All memory is
// not a number at first and ends or begins at a page that must not be touched.
#include <algorithm>
#include <memory>

#include "../paged_attention.h"
#include "kernels.h"
#include "tier_program.h"

namespace {

using namespace PUNA_TIER;
using paged::Chunk;
using paged::Shape;

template <size_t N>
int64_t one_of(Random& random, const int64_t (&choices)[N]) {
  return choices[random.whole(0, int64_t(N) - 1)];
}

// A sequence of which the step computes `count` tokens from `start` on, or the last `after` of
// these in a chunk of their own.
struct Sequence {
  int64_t start, count, after;
  Array qkv;  // of all tokens, from position 0 on
  int64_t length() const { return start + count; }
};

struct Part {
  const Sequence* sequence;
  int64_t start, count;
};

// A cache, with the blocks of each sequence somewhere in it.
template <class T>
class Cache {
 public:
  Cache(Random& random, const Shape& shape, const std::vector<Sequence>& sequences, Place place)
      : shape(shape), first_(&sequences[0]) {
    std::vector<int64_t> begins;
    int64_t blocks = 2;
    for (const Sequence& sequence : sequences) {
      begins.push_back(blocks);
      blocks += (sequence.length() + shape.block - 1) / shape.block;
    }
    std::vector<int32_t> places(static_cast<size_t>(blocks));
    for (int64_t i = 0; i < blocks; i++) {
      const int64_t other = random.whole(0, i);
      places[size_t(i)] = places[size_t(other)];
      places[size_t(other)] = int32_t(i);
    }
    for (size_t i = 0; i < sequences.size(); i++) {
      const int64_t end = i + 1 < begins.size() ? begins[i + 1] : blocks;
      tables_.emplace_back(4 * (end - begins[i]), place, 4);
      std::memcpy(tables_.back().begin(), &places[size_t(begins[i])],
                  size_t(4 * (end - begins[i])));
    }
    const int64_t size = blocks * shape.kv_heads * int64_t(sizeof(T));
    keys_ = std::make_unique<Memory>(size * paged::key_entries<T>(shape), place, 1);
    values_ = std::make_unique<Memory>(size * paged::value_entries<T>(shape), place, 1);
  }
  paged::Layer<T> layer() const {
    return {reinterpret_cast<T*>(keys_->begin()), reinterpret_cast<T*>(values_->begin())};
  }
  const int32_t* table(const Sequence* sequence) const {
    return reinterpret_cast<const int32_t*>(tables_[size_t(sequence - first_)].begin());
  }
  const Shape shape;

 private:
  const Sequence* first_;
  std::vector<Memory> tables_;
  std::unique_ptr<Memory> keys_, values_;
};

// A shape, with its rotary tables.
struct Model {
  Shape shape;
  Array cos, sin;
  int64_t half;
  Rotary rotary() const { return {cos.floats(), sin.floats(), half}; }
  int64_t row() const { return (shape.heads + 2 * shape.kv_heads) * shape.width; }
};

// Computes steps as the engine does.
template <class T>
class Engine {
 public:
  Engine(Random& random, const Model& model, Shape shape, const std::vector<Sequence>& sequences,
         Place place, const PunaTeam& team)
      : random_(random), model_(model), cache_(random, shape, sequences, place), place_(place),
        team_(team) {}

  // Results of the parts, one after the other: float32 [tokens, H C]. Where `attended` is false the
  // tokens are only written.
  std::vector<float> run(const std::vector<Part>& parts, bool attended = true) {
    const Shape& shape = cache_.shape;
    std::vector<Chunk> chunks;
    int64_t tokens = 0;
    for (const Part& part : parts) {
      chunks.push_back({part.start, part.count, tokens, cache_.table(part.sequence)});
      tokens += part.count;
    }
    const Array qkv("qkv", 0, tokens * model_.row(), place_);
    for (size_t i = 0; i < parts.size(); i++)
      std::memcpy(qkv.floats() + chunks[i].token * model_.row(),
                  parts[i].sequence->qkv.floats() + parts[i].start * model_.row(),
                  size_t(4 * parts[i].count * model_.row()));
    put(chunks, qkv.floats());
    if (!attended) return {};

    const Array out("out", 0, tokens * shape.heads * shape.width, place_);
    const int members = team_.threads;
    const int64_t count = int64_t(chunks.size());
    const Memory planned(paged::plan_bytes(shape, chunks.data(), count, members), place_, 64);
    const paged::Plan plan = paged::plan(shape, chunks.data(), count, members, planned.begin());
    const int64_t bytes = paged::attend_scratch<T>(shape);
    const Memory scratch(members * bytes, place_, 64);
    const paged::Pass<T> pass{shape, cache_.layer(), model_.rotary(), qkv.floats(), out.floats()};
    share(plan.count, [&](int64_t item, int member) {
      paged::attend(pass, plan.items[item], scratch.begin() + member * bytes);
    });
    // as another layer's pass with the same plan
    const std::vector<float> first(out.floats(), out.floats() + out.count);
    std::memset(out.data(), 0xff, size_t(4 * out.count));
    share(plan.count, [&](int64_t item, int member) {
      paged::attend(pass, plan.items[item], scratch.begin() + member * bytes);
    });
    again_ = again_ && std::memcmp(first.data(), out.floats(), size_t(4 * out.count)) == 0;
    return first;
  }
  bool same_again() const { return again_; }

 private:
  // Write the chunks' tokens, in parts of some.
  void put(const std::vector<Chunk>& chunks, const float* qkv) {
    struct Tokens {
      const Chunk* chunk;
      int64_t from, to;
    };
    std::vector<Tokens> items;
    for (const Chunk& chunk : chunks)
      for (int64_t from = 0, to; from < chunk.count; from = to) {
        to = std::min(chunk.count, from + random_.whole(1, chunk.count > 40 ? 200 : 9));
        items.push_back({&chunk, from, to});
      }
    const Shape& shape = cache_.shape;
    const int64_t bytes = paged::write_scratch<T>(shape);
    const Memory scratch(team_.threads * bytes, place_, 64);
    share(int64_t(items.size()) * shape.kv_heads, [&](int64_t item, int member) {
      const Tokens& tokens = items[size_t(item / shape.kv_heads)];
      paged::write(shape, cache_.layer(), model_.rotary(), *tokens.chunk, item % shape.kv_heads,
                   tokens.from, tokens.to, qkv, Scratch{scratch.begin() + member * bytes});
    });
  }
  template <class Body>
  void share(int64_t items, Body body) {
    puna::share_out(
        &team_, items,
        [](void* data, int64_t item, int member) { (*static_cast<Body*>(data))(item, member); },
        &body);
  }

  Random& random_;
  const Model& model_;
  Cache<T> cache_;
  const Place place_;
  const PunaTeam& team_;
  bool again_ = true;
};

// One row of a head as the products take it: in bfloat16 and in codes the entries that the kernel
// has, which are rounded after float32 arithmetic; in float32 turned in float64.
template <class T>
std::vector<double> operand(const Model& model, const float* x, int64_t position, bool rotated) {
  const int64_t width = model.shape.width, half = rotated ? model.half : 0;
  std::vector<double> y(x, x + width);
  if constexpr (std::is_integral_v<T>) {
    std::vector<float> whole(static_cast<size_t>(padded(width)));
    std::vector<T> codes(whole.size());
    turned(x, rotated ? model.rotary() : Rotary{}, position, 1.0f, width, whole.data(), width);
    const float levels = sizeof(T) == 1 ? paged::LARGEST_CODE : paged::operand_levels(width);
    const double scale = coded(whole.data(), width, levels, codes.data());
    for (int64_t i = 0; i < width; i++) y[size_t(i)] = codes[size_t(i)] * scale;
  } else if constexpr (sizeof(T) == 2) {
    std::vector<T> rows(static_cast<size_t>(padded(width)));
    turned(x, rotated ? model.rotary() : Rotary{}, position, 1.0f, width, rows.data(), width);
    for (int64_t i = 0; i < width; i++) y[size_t(i)] = widened(rows[size_t(i)]);
  }
  for (int64_t i = 0; sizeof(T) == 4 && i < half; i++) {
    const double c = model.cos[position * half + i], s = model.sin[position * half + i];
    y[size_t(i)] = double(x[i]) * c - double(x[half + i]) * s;
    y[size_t(half + i)] = double(x[half + i]) * c + double(x[i]) * s;
  }
  return y;
}

// Attention of one sequence in float64: [count, H C].
template <class T>
std::vector<double> expected(const Model& model, const Sequence& sequence) {
  const Shape& shape = model.shape;
  const int64_t width = shape.width, group = shape.heads / shape.kv_heads;
  std::vector<double> out(size_t(sequence.count * shape.heads * width), 0.0);
  for (int64_t kv_head = 0; kv_head < shape.kv_heads; kv_head++) {
    std::vector<std::vector<double>> keys, values;
    for (int64_t t = 0; t < sequence.length(); t++) {
      const float* k = sequence.qkv.floats() + t * model.row() + (shape.heads + kv_head) * width;
      keys.push_back(operand<T>(model, k, t, true));
      values.push_back(operand<T>(model, k + shape.kv_heads * width, t, false));
    }
    for (int64_t i = 0; i < sequence.count * group; i++) {
      const int64_t t = sequence.start + i / group, head = kv_head * group + i % group;
      const float* x = sequence.qkv.floats() + t * model.row() + head * width;
      const std::vector<double> q = operand<paged::Operand<T>>(model, x, t, true);
      std::vector<double> weights;
      for (int64_t s = 0; s <= t; s++) {
        double score = 0.0;
        for (size_t c = 0; c < q.size(); c++) score += q[c] * keys[size_t(s)][c];
        weights.push_back(score * shape.scale);
      }
      const double highest = *std::max_element(weights.begin(), weights.end());
      double total = 0.0;
      for (double& weight : weights) total += weight = std::exp(weight - highest);
      double* y = &out[size_t((i / group * shape.heads + head) * width)];
      for (size_t s = 0; s < weights.size(); s++)
        for (int64_t c = 0; c < width; c++)
          y[c] += weights[s] / total * values[s][size_t(c)];
    }
  }
  return out;
}

template <class T>
class PagedSweep {
 public:
  explicit PagedSweep(Random& random) : random_(random) {}

  bool run() {
    draw();
    const Place place = random_.whole(0, 1) ? Place::END : Place::BEGIN;
    Engine<T> together(random_, *model_, shape(), sequences_, place, team());
    std::vector<Part> parts, history;
    for (const Sequence& sequence : sequences_) {
      if (sequence.start) history.push_back({&sequence, 0, sequence.start});
      parts.push_back({&sequence, sequence.start, sequence.count - sequence.after});
      if (sequence.after)
        parts.push_back({&sequence, sequence.length() - sequence.after, sequence.after});
    }
    if (!history.empty()) together.run(history, false);
    const std::vector<float> whole = together.run(parts);

    Engine<T> alone(random_, *model_, shape(), sequences_, place, team());
    const int64_t row = model_->shape.heads * model_->shape.width;
    const float* next = whole.data();
    bool right = together.same_again() || fail("another result of the same plan");
    for (const Sequence& sequence : sequences_) {
      const std::vector<float> cut = in_parts(alone, sequence);
      if (std::memcmp(cut.data(), next, size_t(4 * sequence.count * row)) != 0)
        right = fail("other bits by itself, in other parts and on another team");
      right = compare(sequence, next) && right;
      next += sequence.count * row;
    }
    return right;
  }

 private:
  Shape shape() {
    Shape shape = model_->shape;
    shape.block = 16 * random_.whole(1, 3);
    return shape;
  }
  const PunaTeam& team() { return TEAMS[random_.whole(0, 4)]; }

  void draw() {
    const int64_t width = one_of(random_, {1, 3, 16, 48, 64, 80, 128});
    const int64_t group = one_of(random_, {1, 3, 8}), kv_heads = random_.whole(1, 3);
    const int64_t half = random_.whole(0, 3) ? width / 2 : random_.whole(0, width / 2);
    equal_ = random_.whole(0, 2) == 0;
    std::string words = "paged_attention " + std::to_string(8 * sizeof(T)) + " bits, C " +
                        std::to_string(width) + ", group " + std::to_string(group) + ", K " +
                        std::to_string(kv_heads) + (equal_ ? ", equal weights" : "");
    const Shape shape{group * kv_heads, kv_heads, width, 16, 1.0f / std::sqrt(float(width))};
    constexpr int64_t positions = 800;
    model_ = std::make_unique<Model>(Model{shape,
                                           Array("cos", 0, positions * half, Place::END),
                                           Array("sin", 0, positions * half, Place::END), half});
    for (int64_t i = 0; i < positions * half; i++) {
      const double angle = double(i / half) / std::pow(100.0, double(i % half) / double(half));
      model_->cos.set(i, float(std::cos(angle)));
      model_->sin.set(i, float(std::sin(angle)));
    }
    for (int64_t count = random_.whole(1, 3); count > 0; count--) {
      const int64_t start = one_of(random_, {0, 1, 15, 16, 17, 255, 256, 257, 500});
      const int64_t tokens = one_of(random_, {1, 2, 5, 33, 33, 270});
      const int64_t after = random_.whole(0, 2) ? 0 : random_.whole(0, tokens - 1);
      const int64_t entries = (start + tokens) * model_->row();
      sequences_.push_back({start, tokens, after, Array("qkv", 0, entries, Place::END)});
      fill(sequences_.back());
      words += "; " + std::to_string(start) + " + " + std::to_string(tokens) + ", the last " +
               std::to_string(after) + " apart";
    }
    std::snprintf(current, sizeof current, "%s", words.c_str());
  }
  // With queries of zeros all weights are the same: the result is a mean, whose bound is narrow.
  void fill(Sequence& sequence) {
    const int64_t queries = model_->shape.heads * model_->shape.width;
    for (int64_t i = 0; i < sequence.qkv.count; i++) {
      const bool zero = equal_ && i % model_->row() < queries;
      sequence.qkv.set(i, zero ? 0.0f : 1.5f * random_.normal());
    }
  }

  // The sequence's chunk in steps of its own, from some tokens before it on.
  std::vector<float> in_parts(Engine<T>& engine, const Sequence& sequence) {
    const int64_t row = model_->shape.heads * model_->shape.width;
    int64_t begin = sequence.start - random_.whole(0, std::min<int64_t>(sequence.start, 20));
    if (begin) engine.run({{&sequence, 0, begin}}, false);
    std::vector<float> rows;
    const int64_t before = sequence.start - begin;
    for (int64_t count; begin < sequence.length(); begin += count) {
      const int64_t left = sequence.length() - begin;
      count = std::min(left, random_.whole(1, random_.whole(0, 2) ? left : 7));
      const std::vector<float> more = engine.run({{&sequence, begin, count}});
      rows.insert(rows.end(), more.begin(), more.end());
    }
    rows.erase(rows.begin(), rows.begin() + before * row);
    return engine.same_again() || fail("another result of the same plan") ? rows
                                                                          : std::vector<float>();
  }

  // Weights that are rounded to bfloat16 lose half a unit in the last of its 8 bits, unless they are
  // 1. Those in codes of 16 bits lose half of the range's largest / 32767 each; all are at least the
  // largest together, and where they are equal as many times it as there are.
  double weight_error() const {
    if (sizeof(T) == 1) return (equal_ ? 1.0 : double(paged::RANGE)) * 0.5 / 32767;
    return sizeof(paged::Operand<T>) == 2 && !equal_ ? 0x1p-9 : 0.0;
  }
  bool compare(const Sequence& sequence, const float* got) {
    const double bound = (weight_error() + 1e-5) * sequence.qkv.largest();
    const std::vector<double> wanted = expected<T>(*model_, sequence);
    for (size_t i = 0; i < wanted.size(); i++) {
      const double error = std::fabs(double(got[i]) - wanted[i]);
      if (error <= bound) continue;
      char text[160];
      std::snprintf(text, sizeof text, "start %lld: entry %zu is %.9g, not %.9g within %.3g",
                    static_cast<long long>(sequence.start), i, double(got[i]), wanted[i], bound);
      return fail(text);
    }
    return true;
  }

  Random& random_;
  std::unique_ptr<Model> model_;
  std::vector<Sequence> sequences_;
  bool equal_ = false;
};

}  // namespace

int main(int count, char** arguments) {
  return run_cases(count, arguments, "cases of paged attention are right", [](uint64_t seed) {
    Random random(seed);
    return seed % 3 == 0   ? PagedSweep<int8_t>(random).run()
           : seed % 3 == 1 ? PagedSweep<float>(random).run()
                           : PagedSweep<bf16>(random).run();
  });
}
