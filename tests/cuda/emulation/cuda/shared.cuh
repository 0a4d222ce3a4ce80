// csrc/cuda/shared.cuh for the emulation.
#pragma once

#include <cuda_runtime.h>

namespace legato {

template <typename Layout>
Layout& shared_memory() {
  return *static_cast<Layout*>(legato_emulation::shared_memory());
}

inline void cp_async_16(void* shared, const void* global, bool inside = true) {
  legato_emulation::note_copy(shared, inside ? global : nullptr);
}

inline void cp_async_commit() {
  legato_emulation::close_group();
}

template <int N>
void cp_async_wait() {
  legato_emulation::wait_for_copies(N);
}

}  // namespace legato
