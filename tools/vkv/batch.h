// batch.h: `vkv run --jobs`: many jobs, resumable.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tools/vkv/run_arguments.h"
#include "tools/vkv/session.h"
#include "tools/vkv/summary.h"

namespace vkv {

// Returns the exit status (exit_code.h).
int run_batch(const RunArguments& arguments, const SessionOptions& options);

// What is known before the first job.
RunFacts run_facts(const RunArguments& arguments, const SessionOptions& options);

// What was chosen, for --verbose.
void log_session(const Session& session);

}  // namespace vkv
