// cpu_backend.h: the engines that compute on the CPU.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string_view>

#include "cpu/thread_plan.h"
#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

inline constexpr int kAwakeUsMax = 1'000'000;

struct CpuBackendOptions {
  int threads = 0;  // 0, or more than the process may use: all those; one team
  ThreadPlan plan;  // instead, where it has teams
  // So long after a call its threads stay awake for the next, 0..kAwakeUsMax; they take their cores
  // meanwhile (cpu/crew.h). 0: workers come and go.
  int awake_us = 0;
  // "amx", "vnni", "onednn", "amx-emulated", "reference"; empty: VKV_CPU, or else the best there
  // is, beside the next best for the codecs at which that is faster (cpu/contest.h)
  std::string_view engine;
};

// Errors: kInvalidArgument for an unknown engine, listing those there are; kUnsupported for one
// that this CPU cannot run.
Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuBackendOptions& options);

}  // namespace vkv
