// The pieces of modulated_conv2d on CUDA and what they hand to each other.
//
//   modulated_conv2d.cu             the op: what is launched in which order; registration
//   modulated_conv2d_styles.cu      demodulation factors; the gradient of the styles
//   modulated_conv2d_pixels.cu      passes over activations: activation, filter, their derivatives
//   modulated_conv2d_tile.cuh       how an implicit GEMM lays an image out: tiles, patches, taps
//   modulated_conv2d_tensor.cuh     that product on tensor cores;  _bf16.cu, _fp16.cu its instances
//   modulated_conv2d_up.cuh         the whole upsampling layer in one kernel, filter included
//   modulated_conv2d_simt.cu        the product in float32 and float64, without tensor cores
//
// Activations are channels last, [B][H*W][C]; weights [O][taps][I], which is the memory of a channels-last [O,I,k,k].
#pragma once

#include "cuda/launch.cuh"
#include "dtypes.h"
#include "math/activation.h"

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

namespace legato::modulated {

// out[image][position][n] = sum over taps, k of source[sample][pixel(position, tap)][k] * scale[sample][k] * weight
struct Product {
  int64_t batch;
  int k, n;           // channels summed over, channels made
  int height, width;  // of the source
  int rows, columns;  // of the result: positions of one image
  int taps;           // 9, or 1 for a 1x1 weight
  int stride;         // 2: position (r, c) starts at pixel (2r, 2c); 1: the tap's center is at (r, c)
  bool adjoint;       // weight is [k][taps][n], taps mirrored: the transposed product
  bool phases;        // 4 images a sample: the parities of the transposed convolution, 4 + 2 + 2 + 1 taps
  int splits;         // of the sum over k; each its own result

  int images() const { return phases ? 4 : 1; }  // of a sample
  int64_t positions() const { return int64_t{rows} * columns; }
};

// y = activation(scale * value + noise + bias)
template <typename T>
struct Epilogue {
  using A = Accumulator<T>;
  const A* scale;      // [B][n] or null
  const T* bias;       // [n] or null
  const T* noise;      // [1 or B][pixels] or null
  int64_t noise_step;  // from one sample's to the next: 0 or pixels
  Activation<A> activation;
};

// grad_x = h * scale; sums over each tile's pixels of h * x
template <typename T>
struct Adjoint {
  using A = Accumulator<T>;
  const A* scale;  // [B][n]
  const T* x;      // [B][pixels][n]
  A* sums;         // [B][tiles][n]
};

enum class Finish { kPartial, kRaw, kForward, kAdjoint };

template <typename T>
struct Operands {
  using A = Accumulator<T>;
  const T* source;  // [B][height*width][k]
  const T* weight;
  const A* scale;  // [B][k] or null
  bool vectors;    // all addresses are multiples of 16 and both k and n of 8
};

// What becomes of the sums: kPartial stores them [splits][B*images][positions][n], kRaw rounded to T and for one split,
// kForward and kAdjoint finish the layer.
template <typename T>
struct Result {
  using A = Accumulator<T>;
  Finish finish;
  A* partial;
  T* stored;  // y, grad_x, or raw sums
  Epilogue<T> epilogue;
  Adjoint<T> adjoint;
};

// The product by tensor cores for 16-bit T, else without. Result::finish may be kPartial alone for float and double.
template <typename T>
void multiply(const Device& device, const Product& product, const Operands<T>& operands, const Result<T>& result);

// How many tiles of an image multiply() takes, and so how many sums an Adjoint holds.
template <typename T>
int count_tiles(const Device& device, const Product& product);

// The upsampling layer in one kernel, for 16-bit T: y [B][2H*2W][n].
template <typename T>
void upsample(const Device& device, const Product& product, const Operands<T>& operands, const Epilogue<T>& epilogue,
              T* y);

// scale [B][O] = sigma * rsqrt(sum_i styles^2 q + 1e-8), or sigma alone where q is null. With `normalize` sigma [B] is
// a power of two that bounds the sample's styles, and normalized [B][I] = styles / sigma; otherwise sigma is 1 and
// neither is written.
template <typename A>
void compute_factors(const Device& device, int64_t batch, int inputs, int outputs, const A* styles, const A* q,
                     bool normalize, A* scale, A* normalized, A* sigma);

// grad_styles = direct / sigma - s * ((scale_sums * d^2) @ q), d = scale / sigma, where direct [B][I] is the sum of
// tile_sums [B][tiles][I] and scale_sums, which is grad_d * d, that of strip_sums [B][strips][O]. Without q direct
// alone.
template <typename A>
void finish_styles(const Device& device, int64_t batch, int inputs, int outputs, int64_t tiles, int64_t strips,
                   const A* styles, const A* q, const A* scale, const A* sigma, const A* tile_sums, const A* strip_sums,
                   A* grad_styles);

// Passes over activations. `vectors`: channels are a multiple of 8 and all addresses of 16.
struct Map {
  int64_t batch;
  int height, width, channels;
  bool vectors;
  C10_HOST_DEVICE int64_t pixels() const { return int64_t{height} * width; }
};

// y from `splits` partial sums [splits][B][pixels][channels]
template <typename T>
void finish_forward(const Device& device, const Map& map, int splits, const Accumulator<T>* partial,
                    const Epilogue<T>& epilogue, T* y);

// y of map.height x map.width, both even, from the phases [splits][B][4][(H/2+1)*(W/2+1)][channels]
template <typename T, typename P>
void finish_upsampled(const Device& device, const Map& map, int splits, const P* phases, const Epilogue<T>& epilogue,
                      T* y);

// How many strips of an image the next two sum over; `filter` as for differentiate().
int64_t count_strips(const Map& map, bool filter);

// grad_x and the sums of an Adjoint, from partial sums of h
template <typename T>
void finish_adjoint(const Device& device, const Map& map, int splits, const Accumulator<T>* partial,
                    const Adjoint<T>& adjoint, T* grad_x);

// g = grad_y * activation'(y) * scale; sums [B][strips][channels] of grad_y * activation'(y) * (activation^-1(y) -
// noise
// - bias). With `filter` g goes through the adjoint of the low-pass filter and has one row and one column more.
template <typename T>
void differentiate(const Device& device, const Map& map, bool filter, const T* grad_y, const T* y,
                   const Epilogue<T>& epilogue, T* g, Accumulator<T>* sums);

}  // namespace legato::modulated
