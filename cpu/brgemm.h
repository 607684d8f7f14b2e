// brgemm.h: oneDNN's matrix product micro-kernels, and what they can do on this CPU.
// SPDX-License-Identifier: Apache-2.0
//
// The micro-kernel API of oneDNN is experimental and differs between its versions: brgemm.cpp is
// the only file that knows it.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "vkv/status.h"

namespace vkv {

// The instruction set that oneDNN generates for; ONEDNN_MAX_CPU_ISA lowers it.
struct MatrixUnit {
  std::string_view name;  // "avx512_core_bf16"
  bool has_avx2 = false;
  bool has_avx512 = false;
  // Without VNNI, products of bytes are added in pairs that saturate at 16 bits: right for codes of
  // up to 4 bits (2 * 255 * 15), wrong for 8.
  bool exact_8_bit = false;
  bool has_amx = false;
};
MatrixUnit matrix_unit();

// c [m, n] = a [m, k] x b [k, n]; b is a panel (cpu/tile_functions.h), so n <= 64.
// Bytes: a unsigned, b signed, c int32. Else all are fp32.
struct BrgemmShape {
  bool bytes = false;
  int m = 0, n = 0, k = 0;
  int a_stride = 0;  // values from row to row
  int c_stride = 0;
  bool operator==(const BrgemmShape&) const = default;
};

// A generated kernel. Immutable: any number of threads may run it.
class Brgemm {
 public:
  // Errors: kUnsupported where oneDNN has no kernel for the shape.
  static Result<std::unique_ptr<const Brgemm>> make(const BrgemmShape& shape);
  ~Brgemm();
  Brgemm(const Brgemm&) = delete;
  Brgemm& operator=(const Brgemm&) = delete;

 private:
  friend class BrgemmRunner;
  Brgemm() = default;
  struct Handle;
  std::unique_ptr<Handle> handle_;
};

// All kernels made so far; kept until the end, since shapes are few. Thread-safe.
class BrgemmCache {
 public:
  // The kernel lives as long as the cache. Errors: as Brgemm::make().
  Result<const Brgemm*> get(const BrgemmShape& shape);

 private:
  struct Hash {
    size_t operator()(const BrgemmShape& shape) const;
  };
  std::mutex mutex_;
  std::unordered_map<BrgemmShape, std::unique_ptr<const Brgemm>, Hash> kernels_;
};

// Runs kernels on one thread: owns their scratch memory and that thread's state of the matrix unit
// (AMX tiles are configured for one kernel at a time).
class BrgemmRunner {
 public:
  void run(const Brgemm& kernel, const void* a, const void* b, void* c);

  // To be called on the same thread when no run follows soon.
  void release();

 private:
  const Brgemm* configured_ = nullptr;
  std::vector<std::byte> scratch_;
};

}  // namespace vkv
