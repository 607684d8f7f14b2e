// safetensors.cpp: tensors of a checkpoint, by name.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <set>

#include "runtime/base/codec.h"
#include "tools/mllm/json_file.h"

namespace vkv {
namespace {

constexpr uint64_t kHeaderBytesMax = 100'000'000;  // the format's own limit
constexpr size_t kIndexBytesMax = size_t{64} << 20;
constexpr size_t kRankMax = 16;

std::optional<uint64_t> dtype_bytes(std::string_view dtype) {
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL") return 1;
  if (dtype == "F8_E4M3" || dtype == "F8_E5M2") return 1;
  return std::nullopt;
}

// Bytes of a tensor; nothing if the product does not fit 64 bits.
std::optional<uint64_t> tensor_bytes(std::span<const int64_t> shape, uint64_t value_bytes) {
  uint64_t bytes = value_bytes;
  for (const int64_t extent : shape)
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(extent), &bytes)) return std::nullopt;
  return bytes;
}

struct Placed {
  uint64_t begin;
  uint64_t end;
  std::string name;
};

// One entry of the header; `data` is what follows the header. Adds its place to `placed`.
Result<TensorView> read_entry(const std::string& where, const Json& entry,
                              std::span<const std::byte> data, Placed& placed) {
  const auto broken = [&](const std::string& what) {
    return Status(Code::kDataLoss, fmt::format("{}: {}", where, what));
  };
  if (!entry.is_object()) return broken("its header entry is not an object");
  const auto dtype = entry.find("dtype");
  const auto shape = entry.find("shape");
  const auto offsets = entry.find("data_offsets");
  if (dtype == entry.end() || !dtype->is_string()) return broken("no dtype in the header");
  if (shape == entry.end() || !shape->is_array()) return broken("no shape in the header");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned())
    return broken("data_offsets are not two positions");

  TensorView view;
  view.dtype = dtype->get<std::string>();
  const auto value_bytes = dtype_bytes(view.dtype);
  if (!value_bytes)
    return Status(Code::kUnsupported,
                  fmt::format("{}: dtype {} is not known; known are F64 F32 F16 BF16 F8_E4M3 "
                              "F8_E5M2 I64 I32 I16 I8 U64 U32 U16 U8 BOOL",
                              where, view.dtype));
  if (shape->size() > kRankMax) return broken("more than 16 dimensions");
  for (const Json& extent : *shape) {
    if (!extent.is_number_unsigned() ||
        extent.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()})
      return broken("a dimension is not a count");
    view.shape.push_back(extent.get<int64_t>());
  }

  placed.begin = (*offsets)[0].get<uint64_t>();
  placed.end = (*offsets)[1].get<uint64_t>();
  if (placed.begin > placed.end) return broken("data_offsets run backwards");
  if (placed.end > data.size())
    return broken(fmt::format("its data end at byte {} of {}: the file is truncated", placed.end,
                              data.size()));
  const auto bytes = tensor_bytes(view.shape, *value_bytes);
  if (!bytes || *bytes != placed.end - placed.begin)
    return broken(fmt::format("{} bytes do not hold {} of shape {}", placed.end - placed.begin,
                              view.dtype, shape_text(view.shape)));
  view.data = data.subspan(placed.begin, placed.end - placed.begin);
  return view;
}

Status check_places(const std::string& path, std::vector<Placed>& places, uint64_t data_bytes) {
  std::sort(places.begin(), places.end(), [](const Placed& a, const Placed& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  uint64_t end = 0;
  for (const Placed& place : places) {
    if (place.begin < end)
      return {Code::kDataLoss,
              fmt::format("{}: tensor {} overlaps the one before it", path, place.name)};
    if (place.begin > end)
      return {Code::kDataLoss, fmt::format("{}: a gap before tensor {}", path, place.name)};
    end = place.end;
  }
  if (end != data_bytes)
    return {Code::kDataLoss, fmt::format("{}: {} bytes after the last tensor belong to none", path,
                                         data_bytes - end)};
  return {};
}

}  // namespace

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  VKV_TRY_ASSIGN(mapped, MappedFile::open(path));
  SafetensorsFile file(path, std::move(mapped));
  VKV_TRY(file.read_header());
  return file;
}

Status SafetensorsFile::read_header() {
  const std::span<const std::byte> bytes = file_.bytes();
  if (bytes.size() < 8)
    return {Code::kDataLoss, fmt::format("{}: {} bytes are no safetensors file; is the download "
                                         "complete?",
                                         path_, bytes.size())};
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  if (header_bytes > kHeaderBytesMax || header_bytes > bytes.size() - 8)
    return {Code::kDataLoss,
            fmt::format("{}: its header would have {} bytes, the file has {}: truncated, or not "
                        "safetensors (a Git LFS pointer?)",
                        path_, header_bytes, bytes.size())};
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, header_bytes);
  VKV_TRY_ASSIGN(header, parse_json(text, path_ + ": header"));
  if (!header.is_object())
    return {Code::kDataLoss, fmt::format("{}: the header is not a JSON object", path_)};

  const std::span<const std::byte> data = bytes.subspan(8 + header_bytes);
  std::vector<Placed> places;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    Placed placed{0, 0, name};
    VKV_TRY_ASSIGN(view,
                   read_entry(fmt::format("{}: tensor {}", path_, name), entry, data, placed));
    places.push_back(std::move(placed));
    tensors_.emplace(name, std::move(view));
  }
  return check_places(path_, places, data.size());
}

Result<SafetensorsWeights> SafetensorsWeights::open(const std::string& folder) {
  SafetensorsWeights weights;
  weights.folder_ = folder;
  const std::string index_path = folder + "/model.safetensors.index.json";
  std::map<std::string, std::string> shard_of;  // tensor -> file name
  std::set<std::string> shards;

  // 1. Which files: the one file wins, as in transformers.
  auto single = SafetensorsFile::open(folder + "/model.safetensors");
  if (single.ok()) {
    weights.files_.push_back(std::move(single.value()));
  } else if (single.status().code() != Code::kNotFound) {
    return single.status();
  } else {
    auto index_text = read_text_file(index_path, kIndexBytesMax);
    if (!index_text.ok() && index_text.status().code() == Code::kNotFound)
      return Status(Code::kNotFound,
                    fmt::format("{}: neither model.safetensors nor model.safetensors.index.json is "
                                "there; other formats (.bin) are not read: convert them",
                                folder));
    if (!index_text.ok()) return index_text.status();
    VKV_TRY_ASSIGN(index, parse_json(index_text.value(), index_path));
    const auto map = index.is_object() ? index.find("weight_map") : index.end();
    if (map == index.end() || !map->is_object() || map->empty())
      return Status(Code::kDataLoss, index_path + ": no weight_map");
    for (const auto& [name, shard] : map->items()) {
      // A shard lies beside its index: a path would let a checkpoint read other files.
      if (!shard.is_string() || shard.get_ref<const std::string&>().find('/') != std::string::npos)
        return Status(Code::kDataLoss,
                      fmt::format("{}: the file of {} is not a name", index_path, name));
      shard_of[name] = shard.get<std::string>();
      shards.insert(shard_of[name]);
    }
    for (const std::string& shard : shards) {
      auto file = SafetensorsFile::open(folder + "/" + shard);
      if (file.status().code() == Code::kNotFound)
        return Status(Code::kNotFound,
                      fmt::format("{}: the shard {} that model.safetensors.index.json names is not "
                                  "there; is the download complete?",
                                  folder, shard));
      if (!file.ok()) return file.status();
      weights.files_.push_back(std::move(file.value()));
    }
  }

  // 2. One table of all tensors.
  for (const SafetensorsFile& file : weights.files_)
    for (const auto& [name, view] : file.tensors())
      if (!weights.tensors_.emplace(name, &view).second)
        return Status(Code::kDataLoss,
                      fmt::format("{}: tensor {} stands in two shards", file.path(), name));
  for (const auto& [name, shard] : shard_of)
    if (!weights.contains(name))
      return Status(Code::kDataLoss,
                    fmt::format("{}: tensor {} is not in {}", index_path, name, shard));
  return weights;
}

bool SafetensorsWeights::contains(std::string_view name) const { return tensors_.contains(name); }

Result<std::vector<float>> SafetensorsWeights::floats(std::string_view name,
                                                      std::span<const int64_t> shape) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return no_tensor(*this, name);
  const TensorView& view = *found->second;
  if (!std::equal(view.shape.begin(), view.shape.end(), shape.begin(), shape.end()))
    return other_shape(*this, name, view.shape, shape);

  // Data may lie at any byte: values are copied out, never read in place.
  const std::byte* const data = view.data.data();
  if (view.dtype == "F32") {
    std::vector<float> values(view.data.size() / 4);
    if (!values.empty()) std::memcpy(values.data(), data, view.data.size());
    return values;
  }
  if (view.dtype != "F16" && view.dtype != "BF16")
    return Status(Code::kUnsupported, fmt::format("{}: tensor {} is {}; F32, F16 and BF16 are read",
                                                  folder_, name, view.dtype));
  const bool is_bf16 = view.dtype == "BF16";
  std::vector<float> values(view.data.size() / 2);
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, data + 2 * i, 2);
    values[i] = is_bf16 ? float_from_bfloat(bits) : float_from_half(bits);
  }
  return values;
}

}  // namespace vkv
