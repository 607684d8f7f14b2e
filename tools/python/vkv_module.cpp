// vkv_module.cpp: vkv::Cache for Python: tensors by DLPack, without copies; errors as exceptions.
// SPDX-License-Identifier: Apache-2.0
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>
#include <vector>

#include "vkv/cache.h"

namespace nb = nanobind;

namespace vkv {
namespace {

// Dense, in the caller's memory; noconvert() at the arguments keeps nanobind from copying.
using Tensor = nb::ndarray<nb::c_contig>;
using Roles = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

[[noreturn]] void raise(const Status& status) {
  const std::string& words = status.message();
  if (status.code() == Code::kInvalidArgument) throw nb::value_error(words.c_str());
  if (status.code() == Code::kNotFound) throw nb::key_error(words.c_str());
  PyErr_SetString(status.code() == Code::kOutOfMemory   ? PyExc_MemoryError
                  : status.code() == Code::kUnsupported ? PyExc_NotImplementedError
                  : status.code() == Code::kIo          ? PyExc_OSError
                                                        : PyExc_RuntimeError,
                  words.c_str());
  throw nb::python_error();
}

void check(const Status& status) {
  if (!status.ok()) raise(status);
}

void refuse(const std::string& words) { raise({Code::kInvalidArgument, words}); }

std::string shape_text(const Tensor& tensor) {
  std::string text;
  for (size_t i = 0; i < tensor.ndim(); ++i)
    text += (i == 0 ? "[" : ", ") + std::to_string(tensor.shape(i));
  return text + "]";
}

// A call of the cache without the interpreter's lock, which others may take meanwhile.
template <class Body>
auto unlocked(Body&& body) {
  const nb::gil_scoped_release release;
  return body();
}

class PyCache {
 public:
  explicit PyCache(const CacheOptions& options) {
    auto opened = unlocked([&] { return Cache::open(options); });
    check(opened.status());
    cache_ = std::move(opened.value());
  }

  uint64_t create_sequence() {
    const auto made = unlocked([&] { return open().create_sequence(); });
    check(made.status());
    return static_cast<uint64_t>(made.value());
  }

  uint64_t fork(uint64_t parent) {
    const auto made = unlocked([&] { return open().fork(SequenceId{parent}); });
    check(made.status());
    return static_cast<uint64_t>(made.value());
  }

  void erase(uint64_t id) {
    check(unlocked([&] { return open().erase(SequenceId{id}); }));
  }

  void truncate(uint64_t id, int count) {
    check(unlocked([&] { return open().truncate(SequenceId{id}, count); }));
  }

  void settle() {
    check(unlocked([&] { return open().settle(); }));
  }

  // k, v: [token_count, kv_heads, head_dim]; roles: [token_count].
  void append(int layer, uint64_t id, const Tensor& k, const Tensor& v, const Roles& roles) {
    expect(k, "k", open().options().shape.kv_heads, roles.shape(0));
    expect(v, "v", open().options().shape.kv_heads, roles.shape(0));
    const AppendRequest request{
        .sequence = SequenceId{id},
        .token_count = static_cast<int>(roles.shape(0)),
        .k = k.data(),
        .v = v.data(),
        .roles = {reinterpret_cast<const Role*>(roles.data()), roles.shape(0)}};
    check(unlocked([&] { return open().append(layer, request); }));
  }

  // One sequence a row of q and out: [sequence_count, q_len, q_heads, head_dim].
  void attend(int layer, const std::vector<uint64_t>& ids, const Tensor& q, Tensor& out,
              bool ends_window) {
    if (q.ndim() != 4 || q.shape(0) != ids.size() || out.ndim() != 4)
      refuse("q is " + shape_text(q) + " and out " + shape_text(out) +
             "; they are [sequences, tokens, q_heads, head_dim], with " +
             std::to_string(ids.size()) + " sequences");
    const KvShape& shape = open().options().shape;
    const size_t row_bytes = q.shape(1) * static_cast<size_t>(shape.q_heads * shape.head_dim) *
                             bytes_of(open().options().element);
    for (const Tensor* tensor : {&q, static_cast<const Tensor*>(&out)})
      expect_values(*tensor, tensor == &q ? "q" : "out", shape.q_heads, q.shape(1));
    std::vector<AttendRequest> requests;
    for (size_t i = 0; i < ids.size(); ++i)
      requests.push_back({.sequence = SequenceId{ids[i]},
                          .q_len = static_cast<int>(q.shape(1)),
                          .q = static_cast<const char*>(q.data()) + i * row_bytes,
                          .out = static_cast<char*>(out.data()) + i * row_bytes,
                          .ends_window = ends_window});
    check(unlocked([&] { return open().attend(layer, requests); }));
  }

  nb::dict stats() {
    const CacheStats stats = open().stats();
    nb::dict result;
    for (int tier = 0; tier < kTierCount; ++tier) {
      const TierStats& of = stats.tier[static_cast<size_t>(tier)];
      const std::string tier_name(name(static_cast<Tier>(tier)));
      result[nb::str((tier_name + "_bytes_used").c_str())] = of.bytes_used;
      result[nb::str((tier_name + "_bytes_peak").c_str())] = of.bytes_peak;
      result[nb::str((tier_name + "_bytes_max").c_str())] = of.bytes_max;
    }
    result["sequence_count"] = stats.sequence_count;
    result["sealed_token_count"] = stats.sealed_token_count;
    result["nvme_read_bytes"] = stats.nvme_read_bytes;
    result["nvme_written_bytes"] = stats.nvme_written_bytes;
    result["nvme_write_amplification"] = stats.write_amplification();
    return result;
  }

  // By role: tokens and bits a value.
  nb::dict sequence_stats(uint64_t id) {
    const auto stats = open().sequence_stats(SequenceId{id});
    check(stats.status());
    nb::dict result;
    for (int role = 0; role < kRoleCount; ++role) {
      const RoleStats& of = stats.value().role[static_cast<size_t>(role)];
      nb::dict entry;
      entry["token_count"] = of.token_count;
      entry["bits_per_value"] = of.bits_per_value();
      result[nb::str(std::string(name(static_cast<Role>(role))).c_str())] = entry;
    }
    return result;
  }

  std::string engine() { return open().engine(); }

  void close() { cache_.reset(); }

 private:
  Cache& open() const {
    if (!cache_) refuse("the cache is closed");
    return *cache_;
  }

  void expect_values(const Tensor& tensor, const char* what, int heads, size_t tokens) const {
    const CacheOptions& options = open().options();
    const size_t last = tensor.ndim() - 1;
    if (tensor.ndim() < 3 || tensor.shape(last - 2) != tokens ||
        tensor.shape(last - 1) != static_cast<size_t>(heads) ||
        tensor.shape(last) != static_cast<size_t>(options.shape.head_dim))
      refuse(std::string(what) + " is " + shape_text(tensor) + "; it ends with [" +
             std::to_string(tokens) + ", " + std::to_string(heads) + ", " +
             std::to_string(options.shape.head_dim) + "]");
    const bool bf16 = options.element == ElementType::kBf16;
    const auto code =
        static_cast<uint8_t>(bf16 ? nb::dlpack::dtype_code::Bfloat : nb::dlpack::dtype_code::Float);
    if (tensor.dtype().code != code || tensor.dtype().bits != 8 * bytes_of(options.element))
      refuse(std::string(what) + " has other elements than the cache was opened with");
    const bool on_gpu = tensor.device_type() == nb::device::cuda::value;
    if (on_gpu != (options.device == Device::kCuda) ||
        (on_gpu && tensor.device_id() != options.device_index))
      refuse(std::string(what) + " is on another device than the cache");
  }

  void expect(const Tensor& tensor, const char* what, int heads, size_t tokens) const {
    if (tensor.ndim() != 3) refuse(std::string(what) + " is " + shape_text(tensor));
    expect_values(tensor, what, heads, tokens);
  }

  std::unique_ptr<Cache> cache_;
};

CacheOptions options_of(const nb::dict& given) {
  CacheOptions options;
  const auto take = [&](const char* key, auto& target) {
    if (given.contains(key)) target = nb::cast<std::decay_t<decltype(target)>>(given[key]);
  };
  take("layers", options.shape.layers);
  take("q_heads", options.shape.q_heads);
  take("kv_heads", options.shape.kv_heads);
  take("head_dim", options.shape.head_dim);
  take("score_scale", options.score_scale);
  take("recent_tokens", options.recent_tokens);
  take("hbm_bytes_max", options.hbm_bytes_max);
  take("hbm_block_bytes_max", options.hbm_block_bytes_max);
  take("hbm_ahead_bytes", options.hbm_ahead_bytes);
  take("dram_bytes_max", options.dram_bytes_max);
  take("nvme_bytes_max", options.nvme_bytes_max);
  take("nvme_write_bytes_per_day", options.nvme_write_bytes_per_day);
  take("store_path", options.store_path);
  take("extent_bytes_max", options.extent_bytes_max);
  take("threads", options.threads);
  take("host_share", options.host_share);
  take("device_index", options.device_index);
  std::string element = "float32", device = "cpu", preset = "exact";
  take("element", element);
  take("device", device);
  take("preset", preset);
  uint64_t stream = 0;
  take("stream", stream);
  options.stream = reinterpret_cast<void*>(stream);
  options.element = element == "float32"   ? ElementType::kF32
                    : element == "float16" ? ElementType::kF16
                                           : ElementType::kBf16;
  if (options.element == ElementType::kBf16) options.open_codec = Codec::kBf16;
  options.device = device == "cuda" ? Device::kCuda : Device::kCpu;
  auto policy = precision_preset(preset);
  check(policy.status());
  options.precision = policy.value();
  return options;
}

}  // namespace
}  // namespace vkv

NB_MODULE(_vkv, module) {
  using vkv::PyCache;
  module.attr("__version__") = VKV_VERSION;
  nb::class_<PyCache>(module, "Cache")
      .def("__init__",
           [](PyCache* self, const nb::kwargs& options) {
             new (self) PyCache(vkv::options_of(options));
           })
      .def("create_sequence", &PyCache::create_sequence)
      .def("fork", &PyCache::fork)
      .def("erase", &PyCache::erase)
      .def("truncate", &PyCache::truncate)
      .def("settle", &PyCache::settle)
      .def("append", &PyCache::append, nb::arg(), nb::arg(), nb::arg().noconvert(),
           nb::arg().noconvert(), nb::arg().noconvert())
      .def("attend", &PyCache::attend, nb::arg(), nb::arg(), nb::arg().noconvert(),
           nb::arg().noconvert(), nb::arg())
      .def("stats", &PyCache::stats)
      .def("sequence_stats", &PyCache::sequence_stats)
      .def("engine", &PyCache::engine)
      .def("close", &PyCache::close);
}
