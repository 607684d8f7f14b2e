// crc32c.h: the checksum of extents: CRC-32C (Castagnoli), as in RFC 3720 appendix B.4.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace vkv {

// By the CPU's own instruction where it has it. The empty span gives 0.
uint32_t crc32c(std::span<const std::byte> bytes);

// The engines behind it, for tests: the same results.
uint32_t crc32c_by_table(std::span<const std::byte> bytes);
uint32_t crc32c_by_sse42(std::span<const std::byte> bytes);  // needs cpu_has_sse42()
bool cpu_has_sse42();

}  // namespace vkv
