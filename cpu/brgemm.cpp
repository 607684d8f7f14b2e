// brgemm.cpp: wraps the micro-kernel API of oneDNN 3.7.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/brgemm.h"

#include <oneapi/dnnl/dnnl.h>
#include <oneapi/dnnl/dnnl_ukernel.h>

#include <string>

#include "cpu/tile_functions.h"

namespace vkv {

MatrixUnit matrix_unit() {
  switch (dnnl_get_effective_cpu_isa()) {
    case dnnl_cpu_isa_avx2:
      return {.name = "avx2", .has_avx2 = true};
    case dnnl_cpu_isa_avx2_vnni:
      return {.name = "avx2_vnni", .has_avx2 = true, .exact_8_bit = true};
    case dnnl_cpu_isa_avx2_vnni_2:
      return {.name = "avx2_vnni_2", .has_avx2 = true, .exact_8_bit = true};
    case dnnl_cpu_isa_avx512_core:
      return {.name = "avx512_core", .has_avx2 = true, .has_avx512 = true};
    case dnnl_cpu_isa_avx512_core_vnni:
      return {"avx512_core_vnni", true, true, true, false};
    case dnnl_cpu_isa_avx512_core_bf16:
      return {"avx512_core_bf16", true, true, true, false};
    case dnnl_cpu_isa_avx512_core_fp16:
      return {"avx512_core_fp16", true, true, true, false};
    case dnnl_cpu_isa_avx512_core_amx:
      return {"avx512_core_amx", true, true, true, true};
    case dnnl_cpu_isa_avx512_core_amx_fp16:
      return {"avx512_core_amx_fp16", true, true, true, true};
    default:
      return {.name = "sse41"};
  }
}

struct Brgemm::Handle {
  ~Handle() {
    if (brgemm != nullptr) (void)dnnl_brgemm_destroy(brgemm);
  }

  dnnl_brgemm_t brgemm = nullptr;
  size_t scratch_bytes = 0;
};

Brgemm::~Brgemm() = default;

Result<std::unique_ptr<const Brgemm>> Brgemm::make(const BrgemmShape& shape) {
  auto handle = std::make_unique<Handle>();
  const auto failed = [&](const char* step, dnnl_status_t status) {
    return Status(Code::kUnsupported,
                  std::string("oneDNN has no micro-kernel of ") + (shape.bytes ? "bytes" : "fp32") +
                      " for m = " + std::to_string(shape.m) + ", n = " + std::to_string(shape.n) +
                      ", k = " + std::to_string(shape.k) + " on this CPU (" + step + ": status " +
                      std::to_string(status) + ")");
  };
  dnnl_status_t status = dnnl_brgemm_create(
      &handle->brgemm, shape.m, shape.n, shape.k, /*batch_size=*/1, shape.a_stride, kPanelWidth,
      shape.c_stride, shape.bytes ? dnnl_u8 : dnnl_f32, shape.bytes ? dnnl_s8 : dnnl_f32,
      shape.bytes ? dnnl_s32 : dnnl_f32);
  if (status != dnnl_success) return failed("create", status);
  status = dnnl_brgemm_finalize(handle->brgemm);
  if (status != dnnl_success) return failed("finalize", status);

  // Panels are written in the layout that all kernels known so far read: say so if one does not.
  dnnl_pack_type_t pack = dnnl_pack_type_undef;
  status = dnnl_brgemm_get_B_pack_type(handle->brgemm, &pack);
  const dnnl_pack_type_t ours = shape.bytes ? dnnl_pack_type_pack32 : dnnl_pack_type_no_trans;
  if (status != dnnl_success || pack != ours) return failed("layout of B", status);

  status = dnnl_brgemm_get_scratchpad_size(handle->brgemm, &handle->scratch_bytes);
  if (status != dnnl_success) return failed("scratchpad", status);
  status = dnnl_brgemm_generate(handle->brgemm);
  if (status != dnnl_success) return failed("generate", status);

  std::unique_ptr<Brgemm> kernel(new Brgemm);
  kernel->handle_ = std::move(handle);
  return std::unique_ptr<const Brgemm>(std::move(kernel));
}

size_t BrgemmCache::Hash::operator()(const BrgemmShape& shape) const {
  size_t hash = shape.bytes;
  for (const int part : {shape.m, shape.n, shape.k, shape.a_stride, shape.c_stride})
    hash = hash * 1000003 + static_cast<size_t>(part);
  return hash;
}

Result<const Brgemm*> BrgemmCache::get(const BrgemmShape& shape) {
  const std::lock_guard<std::mutex> lock(mutex_);
  auto found = kernels_.find(shape);
  if (found == kernels_.end()) {
    VKV_TRY_ASSIGN(kernel, Brgemm::make(shape));
    found = kernels_.emplace(shape, std::move(kernel)).first;
  }
  return found->second.get();
}

void BrgemmRunner::run(const Brgemm& kernel, const void* a, const void* b, void* c) {
  const Brgemm::Handle& handle = *kernel.handle_;
  if (configured_ != &kernel) {  // does nothing where there are no AMX tiles
    VKV_CHECK(dnnl_brgemm_set_hw_context(handle.brgemm) == dnnl_success);
    if (scratch_.size() < handle.scratch_bytes) scratch_.resize(handle.scratch_bytes);
    configured_ = &kernel;
  }
  const dnnl_dim_t offsets[2] = {0, 0};  // of a and b: a batch of one
  VKV_CHECK(dnnl_brgemm_execute(handle.brgemm, a, b, offsets, c, scratch_.data()) == dnnl_success);
}

void BrgemmRunner::release() {
  configured_ = nullptr;
  VKV_CHECK(dnnl_brgemm_release_hw_context() == dnnl_success);
}

}  // namespace vkv
