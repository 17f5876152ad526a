// Memory between two pages that must not be touched, and arrays of numbers in it: for the tests of
// the kernels. A read or write of one entry too many stops the program.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

enum class Place { END, BEGIN };  // the array ends, or begins, at a guard page

// `bytes` bytes, all ones at first: not a number in float32 and in bfloat16.
class Memory {
 public:
  Memory(int64_t bytes, Place place, int64_t alignment) : bytes_(bytes) {
    const int64_t page = sysconf(_SC_PAGESIZE);
    const int64_t inner = (bytes + page - 1) / page * page;
    size_ = size_t(inner + 2 * page);
    void* mapped = mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) std::abort();
    pages_ = static_cast<char*>(mapped);
    char* first = pages_ + page;
    if (inner > 0 && mprotect(first, size_t(inner), PROT_READ | PROT_WRITE) != 0) std::abort();
    std::memset(first, 0xff, size_t(inner));
    begin_ = place == Place::BEGIN ? first : first + (inner - bytes) / alignment * alignment;
  }
  Memory(Memory&& other) noexcept
      : pages_(std::exchange(other.pages_, nullptr)),
        begin_(other.begin_),
        size_(other.size_),
        bytes_(other.bytes_) {}
  Memory& operator=(Memory&&) = delete;
  ~Memory() {
    if (pages_ != nullptr) munmap(pages_, size_);
  }
  char* begin() const { return begin_; }
  int64_t bytes() const { return bytes_; }

 private:
  char* pages_;
  char* begin_;
  size_t size_;
  int64_t bytes_;
};

inline char current[300];  // the case that runs

// From here on a page that is touched ends the program with the name of its case.
inline void name_touched() {
#if !defined(__SANITIZE_ADDRESS__)  // which says where it happened
  std::signal(SIGSEGV, [](int) {
    for (const char* part : {static_cast<const char*>(current), ": memory beyond its arrays\n"})
      if (write(STDOUT_FILENO, part, std::strlen(part)) < 0) break;
    _exit(1);
  });
#endif
}

// The first `half` says the format: bfloat16 or float32.
class Array {
 public:
  Array(const char* name, int half, int64_t count, Place place)
      : name(name), half(half), count(count), memory_(count * (half ? 2 : 4), place, 1) {}

  void* data() const { return memory_.begin(); }
  float* floats() const { return reinterpret_cast<float*>(memory_.begin()); }
  float operator[](int64_t i) const {
    float value;
    if (half) {
      uint16_t bits;
      std::memcpy(&bits, memory_.begin() + 2 * i, 2);
      const uint32_t wide = uint32_t(bits) << 16;
      std::memcpy(&value, &wide, 4);
    } else {
      std::memcpy(&value, memory_.begin() + 4 * i, 4);
    }
    return value;
  }
  // In bfloat16 cut off, not rounded: any value serves.
  void set(int64_t i, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (half) {
      const uint16_t high = uint16_t(bits >> 16);
      std::memcpy(memory_.begin() + 2 * i, &high, 2);
    } else {
      std::memcpy(memory_.begin() + 4 * i, &bits, 4);
    }
  }
  void copy_from(const Array& other) {
    std::memcpy(memory_.begin(), other.memory_.begin(), size_t(memory_.bytes()));
  }
  // The largest size of a finite entry.
  double largest() const {
    double largest = 0.0;
    for (int64_t i = 0; i < count; i++)
      if (const double size = std::fabs((*this)[i]); std::isfinite(size) && size > largest)
        largest = size;
    return largest;
  }
  bool finite() const {
    for (int64_t i = 0; i < count; i++)
      if (!std::isfinite((*this)[i])) return false;
    return true;
  }
  bool same_bits(const Array& other) const {
    return std::memcmp(memory_.begin(), other.memory_.begin(), size_t(memory_.bytes())) == 0;
  }

  const char* name;
  int half;
  int64_t count;

 private:
  Memory memory_;
};

// Numbers that depend on the seed alone, the same with every compiler: SplitMix64 (Steele, Lea and
// Flood 2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  // A whole number from `low` to `high`, both included.
  int64_t whole(int64_t low, int64_t high) {
    return low + int64_t(bits() % uint64_t(high - low + 1));
  }
  // About normal, with a standard deviation of 1.
  float normal() {
    float total = -6.0f;
    for (int i = 0; i < 12; i++) total += float(bits() >> 40) * 0x1p-24f;
    return total;
  }

 private:
  uint64_t state_;
};
