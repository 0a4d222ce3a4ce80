// Launching kernels, for the host half of every csrc/cuda/*.cu. The device half has three headers of its own:
//
//   cuda/shared.cuh  shared_memory<Layout>(), cp_async_16, cp_async_commit, cp_async_wait<N>
//   cuda/mma.cuh     ldmatrix, ldmatrix_transposed, mma
//   math/*.h         arithmetic that the CPU kernels use too
//
// An op makes one Device from its first tensor, allocates its results, and launches:
//
//   const Device device("flow_warp", image);
//   device.launch("warp", warp<T>, grid, block, sizeof(Layout), args...);
//
// Everything goes to torch's current stream on that device, allocates through torch and never waits, so that an op can
// be captured in a CUDA graph. PTX and `__shared__` stand in shared.cuh and mma.cuh alone: tests/cuda/emulation has
// its own of these two and runs the kernels on the CPU.
#pragma once

#include "dtypes.h"

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstddef>
#include <cstdint>
#include <utility>

// Of libtorch_cuda. Weak, for the extension also loads beside a CPU build of torch, which lacks it.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace legato {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

template <typename I>
constexpr I divide_up(I a, I b) {
  return (a + b - 1) / b;
}

// The device of a tensor, current for as long as this lives; errors name the op.
class Device {
 public:
  Device(const char* op, const torch::stable::Tensor& tensor) : op_(op), index_(tensor.get_device_index()) {
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    if (index_ != previous_) check(cudaSetDevice(index_), "cudaSetDevice");
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, op_,
                    ": this build of torch has no CUDA, but a tensor is on a CUDA device");
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  ~Device() {
    if (index_ != previous_) static_cast<void>(cudaSetDevice(previous_));
  }

  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  cudaStream_t stream() const { return stream_; }

  int multiprocessors() const { return attribute(cudaDevAttrMultiProcessorCount); }
  int shared_bytes_per_block() const { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }
  int capability() const {  // 90 for Hopper
    return 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
  }

  // Starts kernel(args...) on the current stream; an empty grid starts nothing.
  template <typename... Parameters, typename... Arguments>
  void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
              Arguments&&... args) const {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    constexpr size_t kWithoutAsking = 48 * 1024;
    if (shared_bytes > kWithoutAsking) {
      check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes)),
            name);
    }
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream_;
    check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(args)...), name);
  }

  // Fills with zero bytes on the current stream.
  void zero(void* memory, size_t bytes) const {
    if (bytes > 0) check(cudaMemsetAsync(memory, 0, bytes, stream_), "cudaMemsetAsync");
  }

 private:
  int attribute(cudaDeviceAttr which) const {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, index_), "cudaDeviceGetAttribute");
    return value;
  }

  void check(cudaError_t error, const char* what) const {
    if (error == cudaSuccess) return;
    static_cast<void>(cudaGetLastError());  // so that the next call does not report it again
    STD_TORCH_CHECK(false, op_, ": ", what, ": ", cudaGetErrorString(error));
  }

  const char* op_;
  int index_;
  int previous_ = 0;
  cudaStream_t stream_ = nullptr;
};

}  // namespace legato
