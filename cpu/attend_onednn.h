// attend_onednn.h: the engine whose matrix products are oneDNN's micro-kernels.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

// Whether this CPU has what the engine needs: AVX2 with FMA and F16C.
bool onednn_engine_can_run();

// threads: as in CpuBackendOptions. Errors: kUnsupported where the CPU lacks AVX2.
Result<std::unique_ptr<Backend>> make_onednn_backend(int threads);

}  // namespace vkv
