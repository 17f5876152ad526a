// The products of one tier with weights in every format, over shapes drawn by chance:
//   sweep_linear TIER OBJECT SCALAR_OBJECT CASES SEED
// Arrays end or begin at a page that must not be touched. Whole-number products are the scalar
// tier's to the last bit, the others those of float64 within the rounding of their format; a row
// is the same whatever rows are beside it, and an entry that is not a number spoils its own row
// alone. run.py builds and runs it.
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "../inference.h"
#include "guarded.h"

namespace {

constexpr int UNSUPPORTED = 77;  // exit code: this processor does not run the tier
const char* const NAMES[] = {"float32", "bfloat16", "int8", "int4"};
constexpr int64_t STEPS[] = {1, 2, 4, 8};
constexpr int64_t BITS[] = {32, 16, 8, 4};

class Tier {
 public:
  Tier(const std::string& name, const char* path) : object_(dlopen(path, RTLD_NOW | RTLD_LOCAL)) {
    if (object_ == nullptr) {
      std::fprintf(stderr, "%s cannot be loaded: %s\n", path, dlerror());
      std::exit(2);
    }
    find(runs, "puna_runs");
    find(lanes, "puna_" + name + "_lanes");
    find(input_levels, "puna_" + name + "_input_levels");
    find(multiply_scratch, "puna_" + name + "_multiply_scratch");
    find(multiply, "puna_" + name + "_multiply");
    find(row, "puna_" + name + "_row");
  }
  int (*runs)(const char*);
  int64_t (*lanes)();
  float (*input_levels)();
  int64_t (*multiply_scratch)(int64_t rows, int64_t columns);
  void (*multiply)(const PunaLinear*, int64_t rows, const float* x, float levels, float* y,
                   void* scratch);
  void (*row)(const PunaLinear*, int64_t row, float* y);

 private:
  template <class F>
  void find(F*& function, const std::string& name) {
    function = reinterpret_cast<F*>(dlsym(object_, name.c_str()));
    if (function == nullptr) {
      std::fprintf(stderr, "an object has no %s\n", name.c_str());
      std::exit(2);
    }
  }
  void* object_;
};

int64_t up(int64_t n, int64_t of) { return (n + of - 1) / of * of; }

// With the bits that a bfloat16 has. Inlined into random_matrix, GCC 12 drops the mask from -O1 on.
__attribute__((noinline)) float cut(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits &= 0xffff0000u;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Normal halves alone, and 0: what scales are.
float from_half(uint16_t half) {
  return half == 0 ? 0.0f : std::ldexp(float(1024 + (half & 1023)), (half >> 10 & 31) - 25);
}

// A matrix in plain order: entries of float32 or bfloat16, or codes with their scales.
struct Matrix {
  int format;
  int64_t rows, columns, group;
  std::vector<float> entries;    // as the format holds them
  std::vector<int> codes;
  std::vector<uint16_t> halves;  // [rows, groups], with groups
  std::vector<float> scales;     // [rows, groups], as they are read

  int64_t groups() const { return group ? (columns + group - 1) / group : 1; }
};

Matrix random_matrix(Random& random, int format) {
  Matrix m{format, random.whole(1, 70), random.whole(1, 300), 0, {}, {}, {}, {}};
  if (format >= PUNA_INT8 && random.whole(0, 2)) m.group = 32 * random.whole(1, 5);
  for (int64_t i = 0; i < m.rows * m.columns; i++) {
    const float value = 0.05f * random.normal();
    m.entries.push_back(format == PUNA_BFLOAT16 ? cut(value) : value);
    m.codes.push_back(int(format == PUNA_INT8 ? random.whole(-127, 127) : random.whole(-8, 7)));
  }
  for (int64_t i = 0; i < m.rows * m.groups(); i++) {
    // from 2^-13 to 2^-5
    m.halves.push_back(random.whole(0, 20) ? uint16_t(random.whole(2 << 10, (10 << 10) - 1)) : 0);
    m.scales.push_back(m.group ? from_half(m.halves.back()) : std::fabs(random.normal()) * 1e-3f);
  }
  if (format >= PUNA_INT8)
    for (int64_t i = 0; i < m.rows * m.columns; i++) {
      const int64_t r = i / m.columns, c = i % m.columns;
      m.entries[size_t(i)] = float(m.codes[size_t(i)]) *
                             m.scales[size_t(r * m.groups() + (m.group ? c / m.group : 0))];
    }
  return m;
}

// The matrix as linear.h lays it out, between guard pages.
class Packed {
 public:
  Packed(const Matrix& m, int64_t lanes, Place place)
      : weights_(up(m.rows, lanes) * up(m.columns, STEPS[m.format]) * BITS[m.format] / 8, place, 1),
        scales_(m.format >= PUNA_INT8 ? up(m.rows, lanes) * m.groups() * (m.group ? 2 : 4) : 0,
                place, 4) {
    const int64_t step = STEPS[m.format], columns = up(m.columns, step);
    for (int64_t r = 0; r < up(m.rows, lanes); r++)
      for (int64_t c = 0; c < columns; c++) {
        const bool inside = r < m.rows && c < m.columns;
        const size_t from = inside ? size_t(r * m.columns + c) : 0;
        const int64_t at =
            r / lanes * columns * lanes + c / step * step * lanes + r % lanes * step + c % step;
        uint8_t* bytes = reinterpret_cast<uint8_t*>(weights_.begin());
        if (m.format == PUNA_FLOAT32) {
          const float value = inside ? m.entries[from] : 0.0f;
          std::memcpy(bytes + 4 * at, &value, 4);
        } else if (m.format == PUNA_BFLOAT16) {
          const float value = inside ? m.entries[from] : 0.0f;
          std::memcpy(bytes + 2 * at, reinterpret_cast<const char*>(&value) + 2, 2);
        } else if (m.format == PUNA_INT8) {
          bytes[at] = uint8_t((inside ? m.codes[from] : 0) + 128);
        } else {
          const int64_t whole = r / lanes * columns * lanes / 2 + c / 8 * 4 * lanes +
                                r % lanes * 4 + c % 4;
          const int code = (inside ? m.codes[from] : 0) + 8;
          bytes[whole] = uint8_t(c % 8 < 4 ? (bytes[whole] & 0xf0) | code
                                           : (bytes[whole] & 0x0f) | code << 4);
        }
      }
    for (int64_t r = 0; m.format >= PUNA_INT8 && r < up(m.rows, lanes); r++)
      for (int64_t g = 0; g < m.groups(); g++) {
        const int64_t at = (r / lanes * m.groups() + g) * lanes + r % lanes;
        const size_t from = size_t(r * m.groups() + g);
        const uint16_t half = r < m.rows && m.group ? m.halves[from] : 0;
        const float whole = r < m.rows ? m.scales[from] : 0.0f;
        if (m.group)
          std::memcpy(scales_.begin() + 2 * at, &half, 2);
        else
          std::memcpy(scales_.begin() + 4 * at, &whole, 4);
      }
    linear = {weights_.begin(), scales_.begin(), m.rows, m.columns, m.format, int32_t(m.group)};
  }
  PunaLinear linear;

 private:
  Memory weights_, scales_;
};

std::vector<float> product(const Tier& tier, const Packed& packed, const std::vector<float>& x,
                           float levels, Place place) {
  const int64_t columns = packed.linear.columns, rows = int64_t(x.size()) / columns;
  const Array in("x", 0, rows * columns, place), out("y", 0, rows * packed.linear.rows, place);
  std::memcpy(in.data(), x.data(), x.size() * 4);
  const Memory scratch(tier.multiply_scratch(rows, columns), Place::BEGIN, 64);
  tier.multiply(&packed.linear, rows, in.floats(), levels, out.floats(), scratch.begin());
  return {out.floats(), out.floats() + out.count};
}

bool same(const float* a, const float* b, int64_t count) {
  return std::memcmp(a, b, size_t(count) * 4) == 0;
}

// The first fault of a case, or null.
const char* fault(Random& random, const Tier& tier, const Tier& oracle, int format) {
  const Place place = random.whole(0, 2) ? Place::END : Place::BEGIN;
  const Matrix m = random_matrix(random, format);
  const Packed packed(m, tier.lanes(), place), plain(m, oracle.lanes(), place);
  const int64_t rows = random.whole(1, random.whole(0, 3) ? 14 : 210), out = m.rows;
  const float levels = tier.input_levels();
  std::vector<float> x;
  for (int64_t i = 0; i < rows * m.columns; i++) x.push_back(random.normal());
  if (random.whole(0, 3) == 0) std::fill_n(x.begin(), m.columns, 0.0f);

  const std::vector<float> got = product(tier, packed, x, 0.0f, place);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < out; j++) {
      double sum = 0.0, sizes = 0.0, weights = 0.0, most = 0.0;
      for (int64_t k = 0; k < m.columns; k++) {
        const double a = double(x[size_t(i * m.columns + k)]);
        const double w = double(m.entries[size_t(j * m.columns + k)]);
        sum += a * w;
        sizes += std::fabs(a * w);
        weights += std::fabs(w);
        most = std::fmax(most, std::fabs(a));
      }
      // x is rounded to bfloat16, or to whole multiples of its largest entry / levels
      double allowed = sizes * double(m.columns + 8) * 0x1p-23;
      if (format == PUNA_BFLOAT16) allowed += sizes * 0x1p-8;
      if (format >= PUNA_INT8) allowed += weights * most * 0.501 / double(levels);
      if (!(std::fabs(double(got[size_t(i * out + j)]) - sum) <= allowed))
        return "another product than float64's";
    }
  if (format >= PUNA_INT8 &&
      !same(product(oracle, plain, x, levels, place).data(), got.data(), rows * out))
    return "other bits than the scalar tier's";
  for (int64_t i = 0; i < rows; i++) {
    const std::vector<float> alone(x.begin() + i * m.columns, x.begin() + (i + 1) * m.columns);
    if (!same(product(tier, packed, alone, 0.0f, place).data(), got.data() + i * out, out))
      return "other bits for a row by itself";
  }
  const Array entries("row", 0, m.columns, place);
  for (int64_t j = 0; j < out; j++) {
    tier.row(&packed.linear, j, entries.floats());
    if (!same(entries.floats(), m.entries.data() + j * m.columns, m.columns))
      return "another row than was packed";
  }
  const int64_t spoilt = random.whole(0, rows - 1);
  x[size_t(spoilt * m.columns + random.whole(0, m.columns - 1))] =
      random.whole(0, 1) ? NAN : INFINITY;
  const std::vector<float> poisoned = product(tier, packed, x, 0.0f, place);
  for (int64_t i = 0; i < rows; i++) {
    if (i != spoilt && !same(poisoned.data() + i * out, got.data() + i * out, out))
      return "a row that another one spoilt";
    for (int64_t j = 0; i == spoilt && j < out; j++)
      if (std::isfinite(poisoned[size_t(i * out + j)]))
        return "a number where x has none";
  }
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "say %s TIER OBJECT SCALAR_OBJECT CASES SEED\n", argv[0]);
    return 2;
  }
  const std::string name = argv[1];
  const Tier tier(name, argv[2]), oracle("scalar", argv[3]);
  if (!tier.runs(argv[1])) return UNSUPPORTED;
  const int64_t cases = std::atoll(argv[4]);
  const uint64_t seed = std::strtoull(argv[5], nullptr, 10);
  for (int64_t i = 0; i < cases; i++)
    for (int format = PUNA_FLOAT32; format <= PUNA_INT4; format++) {
      Random random(seed + uint64_t(4 * i + format));
      if (const char* found = fault(random, tier, oracle, format)) {
        std::printf("%s, products in %s, seed %llu: %s\n", argv[1], NAMES[format],
                    static_cast<unsigned long long>(seed) + 4ull * uint64_t(i), found);
        return 1;
      }
    }
  std::printf("%s: %lld products in each of four formats\n", argv[1],
              static_cast<long long>(cases));
  return 0;
}
