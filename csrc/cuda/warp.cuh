// What flow_warp and photometric_error share on the device: which pixel a thread has, where its flow points, what
// stands there. One thread a pixel, for all channels: positions and weights are found once.
#pragma once

#include "cuda/launch.cuh"
#include "flow_warp.h"
#include "math/bilinear.h"
#include "math/occlusion.h"

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <optional>

namespace legato::warping {

// A tile's rows share the pixels between them in the first cache.
constexpr int kTileWidth = 32, kTileHeight = 8, kTileSize = kTileWidth * kTileHeight;

// Blocks that share a multiprocessor: loads in flight hide the gathers' latency, and nothing spills.
template <typename T>
constexpr int kBlocks = sizeof(T) == 8 ? 2 : 4;

struct Tiling {
  int32_t height, width, across, down;  // pixels, then tiles

  explicit Tiling(const WarpShape& shape)
      : height(static_cast<int32_t>(shape.height)),
        width(static_cast<int32_t>(shape.width)),
        across(divide_up(width, kTileWidth)),
        down(divide_up(height, kTileHeight)) {}

  int64_t tiles() const { return int64_t{across} * down; }  // of a sample

  // One block a tile, in launches of kTileSize threads.
  dim3 grid(const char* op, const WarpShape& shape) const {
    const int64_t blocks = shape.batch * tiles();
    STD_TORCH_CHECK(blocks <= 0x7fffffff, op, ": the batch has to have at most 2^31 - 1 tiles of ", kTileHeight, "x",
                    kTileWidth, " pixels");
    return dim3(static_cast<unsigned>(blocks));
  }
};

struct Pixel {
  int64_t sample;
  int32_t tile, row, column, at;  // `at` within a plane
  bool inside;

  __device__ explicit Pixel(const Tiling& tiling) {
    const int32_t block = static_cast<int32_t>(blockIdx.x), thread = static_cast<int32_t>(threadIdx.x);
    const int32_t tiles = tiling.across * tiling.down;
    sample = block / tiles;
    tile = block % tiles;
    row = tile / tiling.across * kTileHeight + thread / kTileWidth;
    column = tile % tiling.across * kTileWidth + thread % kTileWidth;
    at = row * tiling.width + column;
    inside = row < tiling.height && column < tiling.width;
  }
};

// The four pixels around a position, as offsets in a plane.
template <typename A>
struct Corners {
  int32_t nw, ne, sw, se;
  A right, down;  // how far towards east and south
  bool inside_x, inside_y;

  __device__ Corners(A x, A y, int32_t height, int32_t width) {
    const Taps<A> across = split(x, width), along = split(y, height);
    nw = along.lower * width + across.lower;
    ne = along.lower * width + across.upper;
    sw = along.upper * width + across.lower;
    se = along.upper * width + across.upper;
    right = across.fraction;
    down = along.fraction;
    inside_x = across.inside;
    inside_y = along.inside;
  }

  __device__ A blend(A at_nw, A at_ne, A at_sw, A at_se) const {
    return mix(mix(at_nw, at_ne, right), mix(at_sw, at_se, right), down);
  }
};

// A flow [2,H,W] of one sample at one pixel, and where it points.
template <typename A>
struct Motion {
  A x, y;
  Corners<A> to;

  __device__ Motion(const A* flow, const Pixel& pixel, const Tiling& tiling)
      : x(flow[pixel.at]),
        y(flow[pixel.at + int64_t{tiling.height} * tiling.width]),
        to(static_cast<A>(pixel.column) + x, static_cast<A>(pixel.row) + y, tiling.height, tiling.width) {}

  // `flow` and `back` (or null) are planes [2,H,W] of the sample
  __device__ bool visible(const A* flow, const A* back, bool boundaries, const Pixel& pixel,
                          const Tiling& tiling) const {
    bool seen = to.inside_x && to.inside_y;
    const int64_t plane = int64_t{tiling.height} * tiling.width;
    if (back != nullptr) {
      const A back_x = to.blend(back[to.nw], back[to.ne], back[to.sw], back[to.se]);
      back += plane;
      const A back_y = to.blend(back[to.nw], back[to.ne], back[to.sw], back[to.se]);
      seen = seen && consistent(x, y, back_x, back_y);
    }
    if (boundaries) {
      const int64_t right = pixel.at + (pixel.column + 1 < tiling.width ? 1 : 0);
      const int64_t below = pixel.at + (pixel.row + 1 < tiling.height ? tiling.width : 0);
      seen = seen && !at_boundary(x, y, flow[right], flow[right + plane], flow[below], flow[below + plane]);
    }
    return seen;
  }
};

// How an image lies in memory: any number of planes, three planes, or four channels a pixel, loaded together.
enum class Layout { kPlanes, kThreePlanes, kPacked };

constexpr int kPackedChannels = 4;

template <typename T>
struct alignas(sizeof(T) * kPackedChannels < 16 ? sizeof(T) * kPackedChannels : 16) Packed {
  T values[kPackedChannels];
};

inline bool is_packed(const Tensor& image) {
  const bool strides = image.size(1) == kPackedChannels && image.stride(1) == 1 && image.stride(3) == kPackedChannels &&
                       image.stride(2) == image.size(3) * kPackedChannels &&
                       image.stride(0) == image.size(2) * image.stride(2);
  return strides && reinterpret_cast<uintptr_t>(image.const_data_ptr()) % 16 == 0;
}

// An image as the kernels read it; anything else than packed pixels is brought into planes.
struct Source {
  Tensor tensor;
  Layout layout;

  explicit Source(const Tensor& image)
      : tensor(is_packed(image) ? image : torch::stable::contiguous(image)),
        layout(is_packed(image)     ? Layout::kPacked
               : image.size(1) == 3 ? Layout::kThreePlanes
                                    : Layout::kPlanes) {}

  // Calls f(constant) with the layout as a constant.
  template <typename F>
  void with_layout(const F& f) const {
    if (layout == Layout::kPacked)
      f(std::integral_constant<Layout, Layout::kPacked>{});
    else if (layout == Layout::kThreePlanes)
      f(std::integral_constant<Layout, Layout::kThreePlanes>{});
    else
      f(std::integral_constant<Layout, Layout::kPlanes>{});
  }
};

// Calls f(channel, nw, ne, sw, se) for each channel of an image [C,H,W].
template <Layout kLayout, typename T, typename A, typename F>
__device__ __forceinline__ void for_channels(const T* __restrict__ image, int32_t channels, int64_t plane,
                                             const Corners<A>& at, const F& f) {
  if constexpr (kLayout == Layout::kPacked) {
    const auto* pixels = reinterpret_cast<const Packed<T>*>(image);
    const Packed<T> nw = pixels[at.nw], ne = pixels[at.ne], sw = pixels[at.sw], se = pixels[at.se];
#pragma unroll
    for (int c = 0; c < kPackedChannels; ++c) {
      f(c, static_cast<A>(nw.values[c]), static_cast<A>(ne.values[c]), static_cast<A>(sw.values[c]),
        static_cast<A>(se.values[c]));
    }
  } else {
    const auto one = [&](int c) {
      const T* from = image + c * plane;
      f(c, static_cast<A>(from[at.nw]), static_cast<A>(from[at.ne]), static_cast<A>(from[at.sw]),
        static_cast<A>(from[at.se]));
    };
    if constexpr (kLayout == Layout::kThreePlanes) {
#pragma unroll
      for (int c = 0; c < 3; ++c)
        one(c);
    } else {
      for (int32_t c = 0; c < channels; ++c)
        one(c);
    }
  }
}

}  // namespace legato::warping
