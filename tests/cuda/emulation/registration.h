// Put before every source of an emulated build: its ops are named legato_emulated::* and take tensors of the CPU.
#pragma once

#include <torch/csrc/stable/library.h>

#undef STABLE_TORCH_LIBRARY
#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY(ns, m) LEGATO_EMULATED_LIBRARY(legato_emulated, m)
#define STABLE_TORCH_LIBRARY_IMPL(ns, k, m) _STABLE_TORCH_LIBRARY_IMPL(legato_emulated, CPU, m, C10_UID)
#define LEGATO_EMULATED_LIBRARY(ns, m) _STABLE_TORCH_LIBRARY_FRAGMENT(ns, m, C10_UID)
