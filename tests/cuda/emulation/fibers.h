// The threads of a block as fibers of one thread of the CPU: each runs until it waits for others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 : uint3 {
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : uint3{x, y, z} {}
};

// Of the fiber that runs.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace legato_emulation {

constexpr int kSharedBytes = 232448;  // of Hopper, that a block may ask for

// The dynamic shared memory that a kernel may have, 48 KB unless it asked for more.
size_t& shared_limit(const void* kernel);

// Runs all blocks. Throws std::runtime_error for threads that wait for ever, lanes that part at a collective, writes
// just outside of shared memory, unaligned or foreign addresses.
void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel);

// For code inside of a kernel:

void* shared_memory();
int lane();
void wait_for_block();
[[noreturn]] void fail(const char* what);  // ends the whole launch

// Throws unless `size` bytes at `address`, a multiple of `size`, lie in shared memory.
void require_shared(const char* what, const void* address, size_t size);

// cp.async of 16 bytes, null for zeros: noted here, done by wait_for_copies.
void note_copy(void* shared, const void* global);
void close_group();
void wait_for_copies(size_t groups_left);

constexpr size_t kPayload = 32;
const unsigned char* gather(const char* what, unsigned mask, const void* mine, size_t size);  // [32][kPayload]

// Waits for all lanes of the warp and gives each what every lane brought.
template <typename V>
class Exchange {
 public:
  Exchange(const char* what, const V& mine, unsigned mask = ~0u) : all_(gather(what, mask, &mine, sizeof(V))) {
    static_assert(sizeof(V) <= kPayload && std::is_trivially_copyable_v<V>);
  }

  V of(int lane) const {
    V value;
    std::memcpy(static_cast<void*>(&value), all_ + lane * kPayload, sizeof(V));
    return value;
  }

 private:
  const unsigned char* all_;
};

}  // namespace legato_emulation
