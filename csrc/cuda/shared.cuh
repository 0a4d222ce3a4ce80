// Shared memory and asynchronous copies into it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace legato {

// The block's dynamic shared memory as a plain struct, of which the launch asked for sizeof(Layout) bytes. Contents are
// undefined at first.
template <typename Layout>
__device__ __forceinline__ Layout& shared_memory() {
  extern __shared__ __align__(128) unsigned char legato_shared_bytes[];
  return *reinterpret_cast<Layout*>(legato_shared_bytes);
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Starts to copy 16 bytes from global to shared memory, both addresses multiples of 16; zeros where not `inside` (then
// `global` is not read, but has to be some valid address). Visible to this thread after cp_async_wait, to the block
// after __syncthreads.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool inside = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(inside ? 16 : 0)
               : "memory");
}

// Closes a group: the copies that this thread has started since the last commit.
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most the newest N groups of this thread are still on their way.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

}  // namespace legato
