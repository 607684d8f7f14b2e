// check.h: refuses calls that break the documented requirements, before anything is computed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

// Errors: kInvalidArgument, or kUnsupported for a shape or codec that no engine here has; the
// message names the field, its value and what it may be.
Status check_attend(const AttendItem& item);
Status check_encode(const EncodeItem& item);
Status check_encode_headers(const EncodeItem& item);
Status check_mean_key(const KvShape& shape, const OpenTokens& source,
                      std::span<const uint32_t> rows, const float* mean);
Status check_saliency(const SaliencyItem& item);

}  // namespace vkv
