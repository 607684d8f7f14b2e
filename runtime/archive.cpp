// archive.cpp: what is written, in which order, and how it is put together again.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/archive.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <utility>

#include "runtime/base/block_format.h"

namespace vkv {
namespace {

constexpr uint64_t kStateExtentBytes = uint64_t{1} << 20;
constexpr size_t kWritesInFlight = 16;

StoredKind stored_kind(ExtentKind kind) {
  if (kind == ExtentKind::kOriginal) return StoredKind::kOriginal;
  return kind == ExtentKind::kLow ? StoredKind::kLow : StoredKind::kHigh;
}

// Each extent once, and where it stands.
class ExtentList {
 public:
  uint32_t index_of(Extent* extent) {
    const auto [found, is_new] =
        indices_.try_emplace(extent, static_cast<uint32_t>(extents_.size()));
    if (is_new) extents_.push_back(extent);
    return found->second;
  }
  std::span<Extent* const> extents() const { return extents_; }

 private:
  std::map<Extent*, uint32_t> indices_;
  std::vector<Extent*> extents_;
};

// A vector of `count` values that lie in the engine's memory.
template <class T>
Result<std::vector<T>> to_host(Backend& backend, const void* source, size_t count) {
  std::vector<T> values(count);
  VKV_TRY(backend.copy(values.data(), source, count * sizeof(T)));
  return values;
}

std::vector<SavedExtent> saved(const std::vector<ExtentUse>& uses, ExtentList& list,
                               std::vector<const ChargedBytes*>& headers) {
  std::vector<SavedExtent> all;
  for (const ExtentUse& use : uses) {
    const Extent& extent = *use.extent;
    SavedExtent saved{.index = list.index_of(use.extent.get()),
                      .kind = extent.kind(),
                      .blocks = extent.blocks(),
                      .original_count = extent.original_count(),
                      .original_codec = extent.original_codec()};
    if (const ChargedBytes* own = extent.headers().get()) {
      const auto found = std::find(headers.begin(), headers.end(), own);
      saved.headers = static_cast<uint32_t>(found - headers.begin());
      if (found == headers.end()) headers.push_back(own);
    }
    if (use.live)
      saved.live.assign(use.live_begin(),
                        use.live_begin() + use.live->byte_count() / sizeof(uint32_t));
    all.push_back(std::move(saved));
  }
  return all;
}

Result<SavedLayer> saved(Backend& backend, const KvShape& shape, const LayerState& state,
                         ExtentList& list) {
  SavedLayer layer;
  const size_t row = static_cast<size_t>(shape.kv_heads * shape.head_dim);
  if (state.mean) {
    VKV_TRY_ASSIGN(mean, to_host<float>(backend, state.mean_values(), row));
    layer.mean = std::move(mean);
  }
  layer.counts = state.counts;
  const auto positions = state.open.positions();
  const auto classes = state.open.classes();
  layer.positions.assign(positions.begin(), positions.end());
  layer.classes.assign(classes.begin(), classes.end());
  if (const OpenTokens open = state.open.tokens(); open.token_count > 0) {
    VKV_TRY_ASSIGN(k, to_host<uint16_t>(backend, open.k, positions.size() * row));
    VKV_TRY_ASSIGN(v, to_host<uint16_t>(backend, open.v, positions.size() * row));
    layer.k = std::move(k);
    layer.v = std::move(v);
  }
  std::vector<const ChargedBytes*> headers;
  layer.extents = saved(state.extents, list, headers);
  layer.promoted = saved(state.promoted, list, headers);
  layer.originals = saved(state.originals, list, headers);
  for (const ChargedBytes* bytes : headers) {
    VKV_TRY_ASSIGN(copy, to_host<std::byte>(backend, bytes->data(), bytes->byte_count()));
    layer.headers.push_back(std::move(copy));
  }
  layer.original_v_sum = state.original_v_sum;
  return Result<SavedLayer>(std::move(layer));
}

ExtentLabel label_of(const Extent& extent) {
  ExtentLabel label{.kind = stored_kind(extent.kind()),
                    .k_codec = extent.original_codec(),
                    .v_codec = extent.original_codec(),
                    .layer = static_cast<uint32_t>(extent.layer()),
                    .block_count = static_cast<uint32_t>(extent.blocks().size()),
                    .token_count = extent.original_count()};
  if (extent.blocks().empty()) return label;
  label.k_codec = extent.blocks().front().codecs.k;
  label.v_codec = extent.blocks().front().codecs.v;
  for (const Block& block : extent.blocks()) label.token_count += block.token_count;
  return label;
}

}  // namespace

Status Archive::save(const SequenceState& sequence, const SequenceKey& key) {
  // 1. What there is to write. It is there twice for a moment: as values and as bytes.
  Backend& backend = placement_.backend();
  VKV_TRY(backend.quiesce());
  uint64_t state_bytes = sequence.roles.size() + kStateExtentBytes;
  for (const LayerState& layer : sequence.layers)
    state_bytes += static_cast<uint64_t>(layer.open.token_count()) *
                   (OpenBlock::kv_bytes(options_.shape) + OpenBlock::kLabelBytes);
  const Result<HostRoom> room =
      placement_.allocate_for_host(2 * state_bytes, "the state of a saved sequence");
  VKV_TRY(room.status());
  ExtentList list;
  SavedState state{.roles = sequence.roles};
  for (const LayerState& layer : sequence.layers) {
    VKV_TRY_ASSIGN(own, saved(backend, options_.shape, layer, list));
    state.layers.push_back(std::move(own));
  }
  VKV_TRY(backend.quiesce());
  std::vector<std::byte> bytes = encode_state(options_, state);
  state = {};

  uint64_t written_bytes = round_up_bytes(bytes.size(), kExtentAlignment);
  for (const Extent* extent : list.extents())
    if (!extent->is_stored()) written_bytes += extent->byte_count();
  VKV_TRY(admission_.admit({.key = key,
                            .goes_on = sequence.was_restored,
                            .byte_count = written_bytes,
                            .bytes_left = store_.stats().write_bytes_left,
                            .bytes_per_day = options_.nvme_write_bytes_per_day}));

  // 2. Records, then the state.
  VKV_TRY(write_extents(list.extents()));
  VKV_TRY_ASSIGN(extents, write_state(bytes));
  const size_t state_extent_count = extents.size();
  for (Extent* extent : list.extents()) extents.push_back({extent->stored(), label_of(*extent)});

  // 3. All of it under the key.
  const Status status = store_.commit({.key = key,
                                       .token_count = static_cast<uint32_t>(sequence.roles.size()),
                                       .generation = generation_of(options_),
                                       .extents = extents});
  for (size_t i = 0; i < state_extent_count; ++i) store_.release(extents[i].extent);
  return status;
}

Status Archive::write_extents(std::span<Extent* const> extents) {
  // What a disk cannot reach is copied to where it can.
  std::vector<MemoryBuffer> bounces;
  uint64_t largest = 0;
  for (const Extent* extent : extents)
    if (!extent->is_stored() && placement_.needs_bounce(*extent))
      largest = std::max(largest, extent->byte_count());
  while (largest > 0 && bounces.size() < std::min(kWritesInFlight, extents.size())) {
    Result<MemoryBuffer> buffer = placement_.allocate_for_io(largest, "extents that are saved");
    if (!buffer.ok() && bounces.empty()) return buffer.status();
    if (!buffer.ok()) break;
    bounces.push_back(std::move(buffer.value()));
  }
  const size_t in_flight_max = bounces.empty() ? kWritesInFlight : bounces.size();
  size_t submitted = 0;
  Status status;
  std::deque<std::pair<Extent*, IoTicket>> writes;
  const auto finish_one = [&] {
    const auto [extent, ticket] = writes.front();
    writes.pop_front();
    const Status written = store_.wait(ticket);
    if (written.ok()) return;
    placement_.forget_stored(*extent);
    if (status.ok()) status = written;
  };
  for (Extent* extent : extents) {
    if (extent->is_stored()) continue;
    if (writes.size() == in_flight_max) finish_one();
    if (!status.ok()) break;
    const std::span<std::byte> bounce =
        bounces.empty() ? std::span<std::byte>() : bounces[submitted++ % in_flight_max].bytes();
    const Result<IoTicket> ticket = placement_.submit_store(*extent, bounce);
    status = ticket.status();
    if (!status.ok()) break;
    writes.emplace_back(extent, ticket.value());
  }
  while (!writes.empty()) finish_one();
  return status;
}

Result<std::vector<LabelledExtent>> Archive::write_state(std::span<const std::byte> state) {
  std::vector<LabelledExtent> extents;
  const auto write_one = [&](std::span<const std::byte> part,
                             const MemoryBuffer& buffer) -> Status {
    const uint64_t byte_count = round_up_bytes(part.size(), kExtentAlignment);
    std::memcpy(buffer.data(), part.data(), part.size());
    std::memset(buffer.data() + part.size(), 0, byte_count - part.size());
    VKV_TRY_ASSIGN(room, store_.reserve(part.size()));
    extents.push_back({.extent = room, .label = {.kind = StoredKind::kState}});
    VKV_TRY_ASSIGN(ticket,
                   store_.submit_write(extents.back().extent, buffer.bytes().first(byte_count)));
    return store_.wait(ticket);
  };
  VKV_TRY_ASSIGN(buffer,
                 placement_.allocate_for_io(kStateExtentBytes, "the state of a saved sequence"));
  Status status;
  while (status.ok() && !state.empty()) {
    const auto part = state.first(std::min<size_t>(state.size(), kStateExtentBytes));
    status = write_one(part, buffer);
    state = state.subspan(part.size());
  }
  if (status.ok()) return extents;
  for (const LabelledExtent& extent : extents) store_.release(extent.extent);
  return status;
}

Result<std::unique_ptr<SequenceState>> Archive::restore(const SequenceKey& key) {
  admission_.asked_for(key);
  VKV_TRY_ASSIGN(held, store_.hold(key));
  const auto first = std::find_if(held.extents.begin(), held.extents.end(), [](const auto& extent) {
    return extent.label.kind != StoredKind::kState;
  });
  const auto count = static_cast<size_t>(first - held.extents.begin());
  const std::span<const LabelledExtent> all = held.extents;
  const auto state_extents = all.first(count), extents = all.subspan(count);

  // Every extent is held here until the end, and by the sequence beside that.
  struct Release {
    BlockStore& store;
    std::span<const LabelledExtent> extents;
    ~Release() {
      for (const LabelledExtent& extent : extents) store.release(extent.extent);
    }
  } const release{store_, all};

  VKV_TRY(placement_.backend().quiesce());  // before a disk writes where engines read until now
  VKV_TRY_ASSIGN(state, read_state(state_extents, extents));
  auto sequence = std::make_unique<SequenceState>();
  for (size_t i = 0; i < state.layers.size(); ++i) {
    VKV_TRY_ASSIGN(layer, layer_of(static_cast<int>(i), std::move(state.layers[i]),
                                   state.roles.size(), extents));
    sequence->layers.push_back(std::move(layer));
  }
  sequence->roles = std::move(state.roles);
  sequence->was_restored = true;

  std::vector<Extent*> stored;
  for (const LayerState& layer : sequence->layers)
    for (const auto* uses : {&layer.extents, &layer.promoted, &layer.originals})
      for (const ExtentUse& use : *uses) stored.push_back(use.extent.get());
  VKV_TRY(placement_.load(std::move(stored)));
  return Result<std::unique_ptr<SequenceState>>(std::move(sequence));
}

Result<SavedState> Archive::read_state(std::span<const LabelledExtent> state,
                                       std::span<const LabelledExtent> extents) {
  uint64_t byte_count = 0;
  for (const LabelledExtent& part : state) byte_count += part.extent.byte_count;
  // Its values are as large as its bytes, and needed no longer than they.
  VKV_TRY_ASSIGN(buffer, placement_.allocate_for_io(std::max<uint64_t>(2 * byte_count, 1),
                                                    "the state of a saved sequence"));
  uint64_t offset = 0;
  std::vector<IoTicket> tickets;
  Status status;
  for (const LabelledExtent& part : state) {
    const Result<IoTicket> ticket =
        store_.submit_read(part.extent, buffer.bytes().subspan(offset, part.extent.byte_count));
    status = ticket.status();
    if (!status.ok()) break;
    tickets.push_back(ticket.value());
    offset += part.extent.byte_count;
  }
  for (const IoTicket ticket : tickets) {
    const Status arrived = store_.wait(ticket);
    if (status.ok()) status = arrived;
  }
  VKV_TRY(status);
  std::vector<uint64_t> extent_bytes;
  for (const LabelledExtent& extent : extents) extent_bytes.push_back(extent.extent.byte_count);
  return decode_state(options_, buffer.bytes().first(byte_count), extent_bytes);
}

Result<LayerState> Archive::layer_of(int index, SavedLayer saved, size_t token_count,
                                     std::span<const LabelledExtent> extents) {
  LayerState layer{.original_v_sum = std::move(saved.original_v_sum),
                   .open = OpenBlock(options_.shape, options_.open_codec),
                   .counts = saved.counts,
                   .token_count = static_cast<uint32_t>(token_count)};
  if (!saved.mean.empty()) {
    const size_t byte_count = saved.mean.size() * sizeof(float);
    VKV_TRY_ASSIGN(mean, placement_.allocate_shared(byte_count, "mean keys"));
    VKV_TRY(placement_.backend().copy(mean->data(), saved.mean.data(), byte_count));
    layer.mean = std::move(mean);
  }
  VKV_TRY(layer.open.assign(placement_, saved.positions, saved.classes, saved.k.data(),
                            saved.v.data()));
  std::vector<SharedHeaders> headers;
  for (const std::vector<std::byte>& bytes : saved.headers) {
    VKV_TRY_ASSIGN(shared, placement_.allocate_shared(bytes.size(), "headers of a segment"));
    VKV_TRY(placement_.backend().copy(shared->data(), bytes.data(), bytes.size()));
    headers.push_back(std::move(shared));
  }
  VKV_TRY_ASSIGN(sealed, uses_of(index, saved.extents, headers, extents));
  VKV_TRY_ASSIGN(promoted, uses_of(index, saved.promoted, headers, extents));
  VKV_TRY_ASSIGN(originals, uses_of(index, saved.originals, headers, extents));
  layer.extents = std::move(sealed);
  layer.promoted = std::move(promoted);
  layer.originals = std::move(originals);
  return Result<LayerState>(std::move(layer));
}

Result<std::vector<ExtentUse>> Archive::uses_of(int layer, std::vector<SavedExtent>& saved,
                                                std::span<const SharedHeaders> headers,
                                                std::span<const LabelledExtent> extents) {
  std::vector<ExtentUse> uses;
  for (SavedExtent& extent : saved) {
    ExtentContent content{.kind = extent.kind,
                          .blocks = std::move(extent.blocks),
                          .original_count = extent.original_count,
                          .original_codec = extent.original_codec};
    if (extent.headers != SavedExtent::kOwnHeaders) content.headers = headers[extent.headers];
    ExtentUse use;
    VKV_TRY_ASSIGN(adopted,
                   placement_.adopt(layer, std::move(content), extents[extent.index].extent));
    use.extent = std::move(adopted);
    if (!extent.live.empty()) {
      const size_t byte_count = extent.live.size() * sizeof(uint32_t);
      VKV_TRY_ASSIGN(live, ChargedBytes::make(placement_.host_pool(), byte_count, "live masks"));
      std::memcpy(live->data(), extent.live.data(), byte_count);
      use.live = std::move(live);
    }
    uses.push_back(std::move(use));
  }
  return Result<std::vector<ExtentUse>>(std::move(uses));
}

std::vector<SavedSequence> Archive::list() const {
  std::vector<SavedSequence> all;
  const uint32_t own = generation_of(options_);
  for (const StoredSequence& stored : store_.committed()) {
    SavedSequence sequence{.key = stored.key,
                           .token_count = stored.token_count,
                           .saved_at = stored.saved_at,
                           .fits_options = stored.generation == own};
    for (const ExtentDescriptor& extent : stored.extents) sequence.byte_count += extent.byte_count;
    all.push_back(sequence);
  }
  return all;
}

}  // namespace vkv
