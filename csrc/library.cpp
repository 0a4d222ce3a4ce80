// Every op of legato, its shapes and dtypes. The kernels register themselves in cpu/ and cuda/, a file for each op and
// backend; the public functions, their fakes and autograd live in legato/ops.
//
// T is float32, bfloat16, float16 or float64; A is float64 for float64 and float32 otherwise.

#include <Python.h>

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(legato, m) {
  // y = clamp(gain * lrelu(d * conv(x * styles, weight) + noise + bias)), d = rsqrt(styles^2 @ q^T + 1e-8)
  // x [B,I,H,W] T, weight [O,I,k,k] T, styles [B,I] A, q [O,I] A, noise [1 or B,1,H*up,W*up] T, bias [O] T
  //   -> y [B,O,H*up,W*up] T, channels last
  m.def(
      "modulated_conv2d(Tensor x, Tensor weight, Tensor styles, Tensor? q, Tensor? noise, Tensor? bias, "
      "int up, float slope, float gain, float? clamp) -> Tensor");

  // grad_y, y [B,O,H*up,W*up] T, the rest as above -> grad_x [B,I,H,W] T, channels last; grad_styles [B,I] A
  m.def(
      "modulated_conv2d_backward(Tensor grad_y, Tensor y, Tensor x, Tensor weight, Tensor styles, Tensor? q, "
      "Tensor? noise, Tensor? bias, int up, float slope, float gain, float? clamp) -> (Tensor, Tensor)");

  // clamp(conv1x1(x * styles, weight) + bias) + upsample2d(image); x [B,I,H,W] T, weight [3,I,1,1] T, styles [B,I] A,
  // bias [3] T, image [B,3,H/2,W/2] A -> [B,3,H,W] A
  m.def("to_rgb(Tensor x, Tensor weight, Tensor styles, Tensor? bias, Tensor? image, float? clamp) -> Tensor");

  // grad [B,3,H,W] A, the rest as above -> grad_x [B,I,H,W] T, channels last; grad_styles [B,I] A; grad_image
  // [B,3,H/2,W/2] A, [0] unless with_image
  m.def(
      "to_rgb_backward(Tensor grad, Tensor x, Tensor weight, Tensor styles, Tensor? bias, float? clamp, "
      "bool with_image) -> (Tensor, Tensor, Tensor)");

  // warped(p) = image(p + flow(p)): image [B,C,H,W] T, C may be 0; flow, backward [B,2,H,W] A, pixels, (x, y)
  //   -> warped [B,C,H,W] T, valid [B,1,H,W] T, 0 or 1: 1 where p + flow(p) lies in the image, where the opposite flow
  //   `backward` leads back (math/occlusion.h), and, if `boundaries`, where the flow is smooth
  m.def("flow_warp(Tensor image, Tensor flow, Tensor? backward, bool boundaries) -> (Tensor, Tensor)");

  // grad_warped [B,C,H,W] T, flow [B,2,H,W] A -> grad_image [B,C,H,W] T; the CPU's is deterministic in any case
  m.def("flow_warp_backward_image(Tensor grad_warped, Tensor flow, bool deterministic) -> Tensor");

  // grad_warped, image [B,C,H,W] T, flow [B,2,H,W] A -> grad_flow [B,2,H,W] A
  m.def("flow_warp_backward_flow(Tensor grad_warped, Tensor image, Tensor flow) -> Tensor");

  // error_b = sum_p valid(p) sum_c rho(warped - target) / (C max(sum_p valid(p), 1)); warped and valid as flow_warp's
  // image, target [B,C,H,W] T; flow, backward [B,2,H,W] A; rho: 0 |d|, 1 d^2, 2 sqrt(d^2 + epsilon^2)
  //   -> error [B] A, warped [B,C,H,W] T, valid [B,1,H,W] T
  m.def(
      "photometric_error(Tensor image, Tensor target, Tensor flow, Tensor? backward, bool boundaries, int penalty, "
      "float epsilon) -> (Tensor, Tensor, Tensor)");

  // grad_error [B] A, the rest as above -> the gradient to warped [B,C,H,W] T
  m.def(
      "photometric_error_backward(Tensor grad_error, Tensor warped, Tensor target, Tensor valid, int penalty, "
      "float epsilon) -> Tensor");
}

#ifndef LEGATO_CUDA_HALF
  #define LEGATO_CUDA_HALF "not built"
#endif

// `import legato._C` loads the library, which runs the registrations. `cuda_half` is what setup.py knew of the CUDA
// half: "built for ...", or "not built: " and why.
extern "C" PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  PyObject* module = PyModule_Create(&definition);
  if (module != nullptr && PyModule_AddStringConstant(module, "cuda_half", LEGATO_CUDA_HALF) < 0) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
