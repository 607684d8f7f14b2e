// products_vnni.h: codes multiplied as they leave the record, in VPDPBUSD.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/products_onednn.h"
#include "cpu/vnni_functions.h"

namespace vkv {

// Bytes without panels; all else by oneDNN. Needs AVX-512 with VNNI and GFNI.
class VnniProducts final : public OnednnProducts {
 public:
  using OnednnProducts::multiply_codes;
  using OnednnProducts::OnednnProducts;

  Status multiply_codes(const CodeTile& tile, const ByteRows& rows,
                        const Rows<int32_t>& products) override {
    vnni::multiply_codes(tile, rows, products.values, products.stride);
    return {};
  }
};

}  // namespace vkv
