// Memory for what lives during one call alone, kept for the next one: the system hands out large pieces page by page,
// which takes longer than much of what is computed in them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#if defined(__linux__)
  #include <sys/mman.h>
#endif

namespace legato {

class Scratch {
 public:
  explicit Scratch(int64_t values) : piece_(take(values * sizeof(float))) {}
  ~Scratch() { give_back(piece_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  float* data() const { return static_cast<float*>(piece_.memory); }

 private:
  static constexpr size_t kHugePage = size_t{2} << 20;
  static constexpr size_t kKept = size_t{256} << 20;  // bytes at most

  struct Piece {
    void* memory;
    size_t size;
  };
  struct Kept {
    std::mutex mutex;
    std::vector<Piece> pieces;  // the last one was used last
    size_t size = 0;
  };

  static Kept& kept() {
    static Kept& kept = *new Kept;  // never destroyed: threads may still compute when the process ends
    return kept;
  }

  // The smallest kept piece that is large enough, unless it is far too large.
  static Piece take(size_t size) {
    size = std::max(size, size_t{1});
    {
      const std::lock_guard lock(kept().mutex);
      auto best = kept().pieces.end();
      for (auto piece = kept().pieces.begin(); piece != kept().pieces.end(); ++piece) {
        const bool fits = piece->size >= size && piece->size / 4 <= size + kHugePage;
        if (fits && (best == kept().pieces.end() || piece->size < best->size)) best = piece;
      }
      if (best != kept().pieces.end()) {
        const Piece found = *best;
        kept().pieces.erase(best);
        kept().size -= found.size;
        return found;
      }
    }
    const size_t alignment = size < kHugePage ? 64 : kHugePage;
    size = (size + alignment - 1) / alignment * alignment;
    void* memory = std::aligned_alloc(alignment, size);
    if (!memory) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (alignment == kHugePage) madvise(memory, size, MADV_HUGEPAGE);
#endif
    return {memory, size};
  }

  static void give_back(const Piece& piece) {
    std::vector<Piece> surplus;
    {
      const std::lock_guard lock(kept().mutex);
      kept().pieces.push_back(piece);
      kept().size += piece.size;
      while (kept().size > kKept) {
        surplus.push_back(kept().pieces.front());
        kept().size -= surplus.back().size;
        kept().pieces.erase(kept().pieces.begin());
      }
    }
    for (const Piece& old : surplus)
      std::free(old.memory);
  }

  Piece piece_;
};

}  // namespace legato
