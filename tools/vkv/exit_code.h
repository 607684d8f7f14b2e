// exit_code.h: what the program's exit status says. `vkv --help` documents it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace vkv {

inline constexpr int kExitDone = 0;
inline constexpr int kExitSomeFailed = 1;     // some jobs have no answer; the message says why
inline constexpr int kExitUsage = 2;          // nothing was tried: wrong flags, model or budgets
inline constexpr int kExitInterrupted = 130;  // as a shell reports Ctrl-C

}  // namespace vkv
