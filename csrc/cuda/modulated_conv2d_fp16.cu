// The tensor-core kernels of modulated_conv2d for float16.

#include "cuda/modulated_conv2d_tensor.cuh"
#include "cuda/modulated_conv2d_up.cuh"

namespace legato::modulated {

template void multiply<Half>(const Device&, const Product&, const Operands<Half>&, const Result<Half>&);
template int count_tiles<Half>(const Device&, const Product&);
template void upsample<Half>(const Device&, const Product&, const Operands<Half>&, const Epilogue<Half>&, Half*);

}  // namespace legato::modulated
