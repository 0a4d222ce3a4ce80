// The tensor-core kernels of modulated_conv2d for bfloat16.

#include "cuda/modulated_conv2d_tensor.cuh"
#include "cuda/modulated_conv2d_up.cuh"

namespace legato::modulated {

template void multiply<BFloat16>(const Device&, const Product&, const Operands<BFloat16>&, const Result<BFloat16>&);
template int count_tiles<BFloat16>(const Device&, const Product&);
template void upsample<BFloat16>(const Device&, const Product&, const Operands<BFloat16>&, const Epilogue<BFloat16>&,
                                 BFloat16*);

}  // namespace legato::modulated
