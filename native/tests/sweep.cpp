// Every kernel of one tier against the scalar tier, over shapes drawn by chance:
//   sweep TIER OBJECT SCALAR_OBJECT CASES SEED
// Each array ends or begins at a page that must not be touched. Results are within the bounds that
// stand beside the outputs, and the same bit for bit with every team. Where an input is infinite or
// not a number, an entry that the oracle has so is so here too. run.py builds and runs it.
#include <functional>

#include "guarded.h"
#include "kernels.h"

namespace {

constexpr int UNSUPPORTED = 77;  // exit code: this processor does not run the tier

// What a kernel wrote. Entries of float32 may differ by `bound` of the largest one, or of `terms`
// where larger ones cancel; those of bfloat16 by a unit in their last place besides.
struct Output {
  Array array;
  double bound;
  double terms = 0.0;
};
using Outputs = std::vector<Output>;
// A kernel with its inputs, on a tier and a team.
using Run = std::function<Outputs(const Kernels&, const PunaTeam&)>;

// Five steps enlarge the rounding of small singular values by 3.4445^5, about 500.
constexpr double ORTHOGONAL_BOUND = 1e-4;

class Sweep {
 public:
  Sweep(const Kernels& tier, const Kernels& oracle, uint64_t seed)
      : random(seed), oracle(oracle), tier_(tier) {}

  // Begin a case; what follows is random.
  void begin() {
    place = random.whole(0, 2) ? Place::END : Place::BEGIN;
    half = int(random.whole(0, 1));
    poisoned_ = random.whole(0, 4) == 0;
    poison_ = 0.0f;
  }
  Array empty(const char* name, int64_t count, int half) const {
    return Array(name, half, count, place);
  }
  Array filled(const char* name, int64_t count, int half, float size = 1.0f) {
    Array array = empty(name, count, half);
    for (int64_t i = 0; i < count; i++) array.set(i, size * random.normal());
    // at most one entry of a case, and in the first input that is offered
    if (poisoned_ && poison_ == 0.0f) {
      poison_ = random.whole(0, 1) ? NAN : random.whole(0, 1) ? INFINITY : -INFINITY;
      array.set(random.whole(0, count - 1), poison_);
    }
    return array;
  }

  void check(const std::string& words, const Run& run) {
    std::snprintf(current, sizeof current, "%s", words.c_str());
    const Outputs expected = run(oracle, TEAMS[0]);
    const Outputs alone = run(tier_, TEAMS[0]);
    for (size_t i = 0; i < alone.size(); i++) compare(words, alone[i], expected[i]);
    for (const PunaTeam& team : TEAMS) {
      const Outputs got = run(tier_, team);
      for (size_t i = 0; i < got.size(); i++)
        if (!got[i].array.same_bits(alone[i].array))
          fail(words, got[i].array.name, "other bits with a team of " +
                                             std::to_string(team.threads));
    }
    cases++;
  }

  Random random;
  const Kernels& oracle;
  Place place = Place::END;
  int half = 0;
  int cases = 0, failures = 0;

 private:
  void compare(const std::string& words, const Output& got, const Output& expected) {
    const double largest = std::fmax(expected.terms, expected.array.largest());
    // padding of another width may meet an infinite entry where the oracle's does not
    const bool spoilt = !expected.array.finite();
    for (int64_t i = 0; i < expected.array.count; i++) {
      const float g = got.array[i], e = expected.array[i];
      double allowed = expected.bound * largest;
      if (expected.array.half && e != 0.0f && std::isfinite(e))
        allowed += std::ldexp(1.0, std::ilogb(e) - 7);
      const bool right = std::isfinite(g) ? std::fabs(double(g) - double(e)) <= allowed : spoilt;
      if (right) continue;
      char text[160];
      std::snprintf(text, sizeof text, "entry %lld of %lld is %.9g, not %.9g within %.3g",
                    static_cast<long long>(i), static_cast<long long>(expected.array.count),
                    double(g), double(e), allowed);
      return fail(words, expected.array.name, text);
    }
  }
  void fail(const std::string& words, const char* output, const std::string& difference) {
    std::printf("%s%s: %s: %s\n", words.c_str(), poison_ != 0.0f ? " poisoned" : "", output,
                difference.c_str());
    failures++;
  }
  const Kernels& tier_;
  bool poisoned_ = false;
  float poison_ = 0.0f;
};

std::string words(const char* kernel, std::initializer_list<int64_t> sizes, int half) {
  std::string text = std::string(kernel) + (half ? " bfloat16" : " float32");
  for (const int64_t size : sizes) text += " " + std::to_string(size);
  return text;
}

// Mostly few rows; sometimes more than NORM_PARTS of native/norm.h, eight to a part.
int64_t some_rows(Random& random) { return random.whole(1, random.whole(0, 3) ? 20 : 600); }

void norm(Sweep& sweep) {
  sweep.begin();
  const int half = sweep.half;
  const int64_t rows = some_rows(sweep.random), width = sweep.random.whole(1, 70);
  const int64_t entries = rows * width;
  const bool with_branch = sweep.random.whole(0, 1), with_grad_x = sweep.random.whole(0, 1);
  const Array residual = sweep.filled("residual", entries, 0, 2.0f);
  const Array branch = sweep.filled("branch", entries, half);
  const Array weight = sweep.filled("weight", width, 0);
  const Array grad_y = sweep.filled("grad_y", entries, half);
  const Array grad_x = sweep.filled("grad_x", entries, 0);
  const Array x = sweep.empty("x", entries, 0), scale = sweep.empty("scale", rows, 0);

  const auto forward = [&](const Kernels& kernels, const PunaTeam& team) {
    Outputs outputs;
    outputs.push_back({sweep.empty("x", with_branch ? entries : 0, 0), 0.0});
    outputs.push_back({sweep.empty("y", entries, half), 2e-6});
    outputs.push_back({sweep.empty("scale", rows, 0), 2e-6});
    kernels.norm(&team, half, rows, width, 1e-5f, residual.floats(),
                 with_branch ? branch.data() : nullptr, weight.floats(),
                 with_branch ? outputs[0].array.floats() : nullptr, outputs[1].array.data(),
                 outputs[2].array.floats());
    return outputs;
  };
  sweep.check(words("norm", {rows, width, with_branch}, half), forward);

  const Array y = sweep.empty("y", entries, half);
  sweep.oracle.norm(&TEAMS[0], half, rows, width, 1e-5f, residual.floats(), branch.data(),
                    weight.floats(), x.floats(), y.data(), scale.floats());
  const auto backward = [&](const Kernels& kernels, const PunaTeam& team) {
    Outputs outputs;
    const double terms = grad_y.largest() * weight.largest() * scale.largest();
    outputs.push_back({sweep.empty("grad", entries, 0), 4e-6, terms});
    outputs.push_back({sweep.empty("grad_branch", with_branch ? entries : 0, half), 4e-6, terms});
    outputs.push_back({sweep.empty("grad_weight", width, 0), 4e-6});
    const Array scratch = sweep.empty("scratch", 64 * width, 0);
    kernels.norm_backward(&team, half, rows, width, x.floats(), weight.floats(), scale.floats(),
                          grad_y.data(), with_grad_x ? grad_x.floats() : nullptr,
                          outputs[0].array.floats(),
                          with_branch ? outputs[1].array.data() : nullptr,
                          outputs[2].array.floats(), scratch.floats());
    return outputs;
  };
  sweep.check(words("norm_backward", {rows, width, with_branch, with_grad_x}, half), backward);
}

void gate(Sweep& sweep) {
  sweep.begin();
  const int half = sweep.half, activation = int(sweep.random.whole(0, 4));
  const int64_t rows = some_rows(sweep.random), width = sweep.random.whole(1, 70);
  const bool backward = sweep.random.whole(0, 1);
  const Array gate_up = sweep.filled("gate_up", rows * 2 * width, half, 4.0f);
  const Array grad_y = sweep.filled("grad_y", rows * width, half);
  sweep.check(words("gate", {activation, rows, width, backward}, half),
              [&](const Kernels& kernels, const PunaTeam& team) {
                Outputs outputs;
                outputs.push_back({sweep.empty("y", rows * width, half), 2e-6});
                const int64_t grads = backward ? rows * 2 * width : 0;
                outputs.push_back({sweep.empty("grad_gate_up", grads, half), 2e-6});
                kernels.gate(&team, half, activation, rows, width, gate_up.data(),
                             backward ? grad_y.data() : nullptr, outputs[0].array.data(),
                             backward ? outputs[1].array.data() : nullptr);
                return outputs;
              });
}

// The memory that puna/native/kernels.py gives: as much for each member, from a cache line on.
Memory attention_memory(const Sweep& sweep, const Kernels& kernels, const PunaTeam& team,
                        const PunaAttention& shape, int backward) {
  const int64_t items = shape.batch * shape.kv_heads;
  const int64_t members = items < team.threads ? items : team.threads;
  return Memory(members * kernels.attention_scratch(&shape, sweep.half, backward), sweep.place,
                64);
}

void attention(Sweep& sweep) {
  sweep.begin();
  Random& random = sweep.random;
  const int half = sweep.half;
  const int64_t batch = random.whole(1, 2), kv_heads = random.whole(1, 3);
  const int64_t heads = kv_heads * random.whole(1, 3), width = random.whole(1, 80);
  const int64_t steps = random.whole(1, random.whole(0, 4) ? 70 : 300);
  const int64_t turned = random.whole(0, 2) ? random.whole(0, width / 2) : width / 2;
  const PunaAttention shape{batch, steps, heads, kv_heads, width, 1.0f / std::sqrt(float(width))};
  const int64_t outs = batch * steps * heads * width, sums = batch * heads * steps;
  const Array qkv = sweep.filled("qkv", batch * steps * (heads + 2 * kv_heads) * width, half, 1.5f);
  const Array grad_out = sweep.filled("grad_out", outs, half);
  Array cos = sweep.empty("cos", steps * turned, 0), sin = sweep.empty("sin", steps * turned, 0);
  for (int64_t i = 0; i < cos.count; i++) {
    const float angle = random.normal();
    cos.set(i, std::cos(angle));
    sin.set(i, std::sin(angle));
  }
  const float* const cosines = turned ? cos.floats() : nullptr;
  const float* const sines = turned ? sin.floats() : nullptr;

  const auto forward = [&](const Kernels& kernels, const PunaTeam& team) {
    Outputs outputs;
    // in bfloat16 an operand near the middle of two numbers may be rounded either way
    outputs.push_back({sweep.empty("out", outs, half), half ? 0x1p-8 : 4e-6});
    outputs.push_back({sweep.empty("lse", sums, 0), half ? 0x1p-9 : 4e-6});
    const Memory scratch = attention_memory(sweep, kernels, team, shape, 0);
    kernels.attention(&team, &shape, half, qkv.data(), cosines, sines, turned,
                      outputs[0].array.data(), outputs[1].array.floats(), scratch.begin());
    return outputs;
  };
  const std::initializer_list<int64_t> sizes = {batch, steps, heads, kv_heads, width, turned};
  sweep.check(words("attention", sizes, half), forward);

  const Outputs known = forward(sweep.oracle, TEAMS[0]);
  const auto backward = [&](const Kernels& kernels, const PunaTeam& team) {
    Outputs outputs;
    outputs.push_back({sweep.empty("grad_qkv", qkv.count, half), half ? 0x1p-7 : 1e-5});
    const Memory scratch = attention_memory(sweep, kernels, team, shape, 1);
    kernels.attention_backward(&team, &shape, half, qkv.data(), cosines, sines, turned,
                               known[0].array.data(), known[1].array.floats(), grad_out.data(),
                               outputs[0].array.data(), scratch.begin());
    return outputs;
  };
  sweep.check(words("attention_backward", sizes, half), backward);
}

void cross_entropy(Sweep& sweep) {
  sweep.begin();
  const int half = sweep.half;
  const int64_t rows = some_rows(sweep.random), width = sweep.random.whole(1, 70);
  const Array logits = sweep.filled("logits", rows * width, half, 3.0f);
  const Memory memory(rows * 8, sweep.place, 8);
  int64_t* targets = reinterpret_cast<int64_t*>(memory.begin());
  for (int64_t i = 0; i < rows; i++)
    targets[i] = sweep.random.whole(0, 4) ? sweep.random.whole(0, width - 1) : -100;
  sweep.check(words("cross_entropy", {rows, width}, half),
              [&](const Kernels& kernels, const PunaTeam& team) {
                Outputs outputs;
                outputs.push_back({sweep.empty("gradient", logits.count, half), 2e-6});
                outputs.push_back({sweep.empty("loss", rows, 0), 2e-6});
                outputs[0].array.copy_from(logits);
                const Array scratch = sweep.empty("scratch", team.threads * (width + 16), 0);
                kernels.cross_entropy(&team, half, rows, width, outputs[0].array.data(), targets,
                                      outputs[1].array.floats(), scratch.floats());
                return outputs;
              });
}

void orthogonalise(Sweep& sweep) {
  sweep.begin();
  Random& random = sweep.random;
  const int64_t steps = random.whole(1, 5);
  std::vector<Array> matrices;
  std::vector<PunaMatrix> shapes;
  std::string sizes = words("orthogonalise", {steps}, 0);
  for (int64_t count = random.whole(1, 4); count > 0; count--) {
    const int64_t longest = random.whole(0, 3) ? 70 : 300;
    const int64_t rows = random.whole(1, longest), columns = random.whole(1, 70);
    matrices.push_back(sweep.filled("matrix", rows * columns, 0));
    shapes.push_back({matrices.back().floats(), rows, columns});
    sizes += ", " + std::to_string(rows) + " x " + std::to_string(columns);
  }
  Array coefficients = sweep.empty("coefficients", 3 * steps, 0);
  const float muon[] = {3.4445f, -4.7750f, 2.0315f};
  for (int64_t i = 0; i < coefficients.count; i++) coefficients.set(i, muon[i % 3]);
  sweep.check(sizes, [&](const Kernels& kernels, const PunaTeam& team) {
    Outputs outputs;
    std::vector<PunaMatrix> changed = shapes;
    int64_t bytes = 0;
    for (size_t i = 0; i < shapes.size(); i++) {
      outputs.push_back({sweep.empty("matrix", matrices[i].count, 0), ORTHOGONAL_BOUND});
      outputs[i].array.copy_from(matrices[i]);
      changed[i].entries = outputs[i].array.floats();
      const int64_t own = kernels.orthogonalise_scratch(shapes[i].rows, shapes[i].columns);
      bytes = own > bytes ? own : bytes;
    }
    const Memory scratch(bytes * team.threads, sweep.place, 64);
    kernels.orthogonalise(&team, int64_t(changed.size()), changed.data(), steps,
                          coefficients.floats(), scratch.begin(), bytes);
    return outputs;
  });
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 6) {
    std::fprintf(stderr, "usage: sweep TIER OBJECT SCALAR_OBJECT CASES SEED\n");
    return 2;
  }
  name_touched();
  const Kernels oracle(arguments[3], "scalar");
  if (!oracle.runs(arguments[1])) return UNSUPPORTED;
  const Kernels tier(arguments[2], arguments[1]);
  const int64_t rounds = std::atoll(arguments[4]);
  const uint64_t seed = std::strtoull(arguments[5], nullptr, 10);
  int cases = 0;
  for (int64_t round = 0; round < rounds; round++)
    for (void (*kernel)(Sweep&) : {norm, gate, attention, cross_entropy, orthogonalise}) {
      Sweep sweep(tier, oracle, seed + uint64_t(round));
      kernel(sweep);
      cases += sweep.cases;
      if (sweep.failures) {
        std::printf("%s fails at seed %llu\n", arguments[1],
                    static_cast<unsigned long long>(seed + uint64_t(round)));
        return 1;
      }
    }
  std::printf("%s: %d cases are right, seeds from %llu on\n", arguments[1], cases,
              static_cast<unsigned long long>(seed));
  return 0;
}
