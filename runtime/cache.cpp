// cache.cpp: sequences, budgets, and the order of things in a call.
// SPDX-License-Identifier: Apache-2.0
#include "vkv/cache.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "runtime/archive.h"
#include "runtime/attention.h"
#include "runtime/base/stopwatch.h"
#include "runtime/check_requests.h"
#include "runtime/late_failures.h"
#include "runtime/open_options.h"
#include "runtime/open_tiers.h"
#include "runtime/promotion.h"
#include "runtime/quality_meter.h"
#include "runtime/seal.h"
#include "runtime/sequence_stats.h"
#include "runtime/tier_stats.h"

namespace vkv {
namespace {

constexpr size_t kKeptScratchBytes = size_t{4} << 20;  // between calls

uint64_t number(SequenceId id) { return static_cast<uint64_t>(id); }

class CacheImpl final : public Cache {
 public:
  CacheImpl(CacheOptions options, Tiers tiers)
      : options_(std::move(options)),
        tiers_(std::move(tiers)),
        dram_(*tiers_.dram),
        placement_(tiers_.placement(options_)),
        meter_(options_.quality, options_.shape) {}

  // Takes the memory that every call needs. Errors: kOutOfMemory.
  Status prepare() {
    Backend& backend = *tiers_.backend;
    if (tiers_.store) {
      VKV_TRY_ASSIGN(stager, Stager::make(backend, tiers_.io_pool(), *tiers_.store,
                                          {.slot_count = options_.prefetch_extents,
                                           .slot_bytes = options_.extent_bytes_max,
                                           .layer_count = options_.shape.layers}));
      stager_ = std::move(stager);
      if (options_.keep_store)
        archive_ = std::make_unique<Archive>(options_, placement_, *tiers_.store);
    }
    VKV_TRY_ASSIGN(attention, Attention::make(options_.shape, options_.score_scale, placement_,
                                              stager_.get(), dram_, options_.host_share));
    attention_ = std::move(attention);
    promoter_ = std::make_unique<Promoter>(options_, options_.score_scale, backend, placement_,
                                           dram_, stager_.get());
    sealer_ =
        std::make_unique<Sealer>(options_, options_.score_scale, backend, placement_, *promoter_);
    return {};
  }

  Result<SequenceId> create_sequence() override;
  Result<SequenceId> fork(SequenceId parent) override;
  Status erase(SequenceId sequence) override;
  Status truncate(SequenceId sequence, int token_count_dropped) override;
  Status append(int layer, std::span<const AppendRequest> requests) override;
  Status attend(int layer, std::span<const AttendRequest> requests) override;
  Status settle() override;
  Status save(SequenceId sequence, const SequenceKey& key) override;
  Result<SequenceId> restore(const SequenceKey& key) override;
  Status erase_saved(const SequenceKey& key) override;
  Result<std::vector<SavedSequence>> saved() const override;
  Result<SequenceStats> sequence_stats(SequenceId sequence) const override;
  CacheStats stats() const override;

  const CacheOptions& options() const override { return options_; }
  std::string engine() const override { return std::string(tiers_.backend->name()); }
  std::string io_engine() const override {
    return tiers_.store ? std::string(tiers_.store->io_engine()) : "none";
  }

 private:
  size_t row_values(int heads) const {
    return static_cast<size_t>(heads) * static_cast<size_t>(options_.shape.head_dim);
  }
  Status has_archive() const {
    if (archive_) return {};
    return {Code::kUnsupported,
            "this cache keeps no sequences: set keep_store, store_path and "
            "nvme_bytes_max"};
  }
  Result<SequenceState*> find(SequenceId id) const;
  // The same, of a sequence that is known to have no wrong values.
  Result<SequenceState*> usable(SequenceId id);
  Status take_late_errors();  // waits for what was appended
  Result<SequenceId> add(std::unique_ptr<SequenceState> sequence);
  // Into the open blocks of their sequences, where they do not count yet.
  Status convert(int layer, std::span<const AppendRequest> requests,
                 std::span<SequenceState* const> sequences);
  Status check_attend(int layer, std::span<const AttendRequest> requests) const;
  // Float copies of q and room for out and lse, in one scratch buffer, 16-byte aligned all.
  Result<std::vector<AttentionTask>> make_tasks(std::span<const AttendRequest> requests);
  Status store_out(const AttendRequest& request, const AttentionTask& task) const;
  // Samples the error of what was just computed, where originals tell it.
  Status measure(int layer, std::span<const AttentionTask> tasks);
  Status seal(int layer, std::span<const AttendRequest> requests,
              std::span<const AttentionTask> tasks);
  Result<uint64_t> seal_one(SequenceState& sequence, SequenceId id, const SealRequest& request);

  const CacheOptions options_;
  mutable std::mutex mutex_;  // guards all below; members are destroyed users first
  Tiers tiers_;
  MemoryPool& dram_;
  Placement placement_;
  std::unique_ptr<Stager> stager_;    // nullptr: no NVMe tier
  std::unique_ptr<Archive> archive_;  // nullptr: no NVMe tier that is kept
  std::unique_ptr<Attention> attention_;
  std::unique_ptr<Promoter> promoter_;
  std::unique_ptr<Sealer> sealer_;
  QualityMeter meter_;
  MemoryBuffer scratch_;
  std::map<SequenceId, std::unique_ptr<SequenceState>> sequences_;
  uint64_t next_id_ = 1;
  CacheStats counters_;
  LateFailures failures_;
};

Result<SequenceState*> CacheImpl::find(SequenceId id) const {
  const auto it = sequences_.find(id);
  if (it == sequences_.end())
    return Status(Code::kNotFound, "there is no sequence " + std::to_string(number(id)) + "; " +
                                       std::to_string(sequences_.size()) + " exist");
  return it->second.get();
}

Result<SequenceState*> CacheImpl::usable(SequenceId id) {
  if (tiers_.backend->knows_late_errors()) VKV_TRY(take_late_errors());
  VKV_TRY_ASSIGN(sequence, find(id));
  if (sequence->failure.ok()) return sequence;
  failures_.reported(id);
  return sequence->failure;
}

Status CacheImpl::take_late_errors() {
  VKV_TRY_ASSIGN(errors, tiers_.backend->late_errors());
  for (const LateError& error : errors) {
    const Result<SequenceState*> found = find(error.label.sequence);
    failures_.add(error, options_, found.ok() ? found.value() : nullptr);
  }
  return {};
}

Status CacheImpl::settle() {
  const std::lock_guard lock(mutex_);
  VKV_TRY(take_late_errors());
  return failures_.report_all();
}

Result<SequenceId> CacheImpl::add(std::unique_ptr<SequenceState> sequence) {
  VKV_TRY(dram_.charge(sequence_bytes(options_, *sequence), "a sequence"));
  const SequenceId id{next_id_++};
  sequences_.emplace(id, std::move(sequence));
  return id;
}

Result<SequenceId> CacheImpl::create_sequence() {
  const std::lock_guard lock(mutex_);
  auto sequence = std::make_unique<SequenceState>();
  sequence->layers.resize(static_cast<size_t>(options_.shape.layers));
  for (LayerState& state : sequence->layers)
    state.open = OpenBlock(options_.shape, options_.open_codec);
  return add(std::move(sequence));
}

Result<SequenceId> CacheImpl::fork(SequenceId parent_id) {
  const std::lock_guard lock(mutex_);
  // What is appended but not looked at yet would be the child's too.
  VKV_TRY(take_late_errors());
  VKV_TRY_ASSIGN(parent, usable(parent_id));
  VKV_TRY(tiers_.backend->join_all());
  VKV_TRY(check_level(*parent, parent_id, "forked"));
  auto child = std::make_unique<SequenceState>();
  child->roles = parent->roles;
  child->was_restored = parent->was_restored;
  for (const LayerState& state : parent->layers) {
    VKV_TRY_ASSIGN(open, state.open.clone(placement_));
    child->layers.push_back({.extents = state.extents,
                             .promoted = state.promoted,
                             .originals = state.originals,
                             .original_v_sum = state.original_v_sum,
                             .open = std::move(open),
                             .mean = state.mean,
                             .counts = state.counts,
                             .token_count = state.token_count});
  }
  return add(std::move(child));
}

Status CacheImpl::erase(SequenceId id) {
  const std::lock_guard lock(mutex_);
  VKV_TRY_ASSIGN(sequence, find(id));
  dram_.discharge(sequence_bytes(options_, *sequence));
  sequences_.erase(id);
  if (stager_) stager_->drop_orphans();
  return {};
}

Status CacheImpl::truncate(SequenceId id, int dropped) {
  const std::lock_guard lock(mutex_);
  VKV_TRY(take_late_errors());
  VKV_TRY_ASSIGN(sequence, usable(id));
  const size_t token_count = sequence->roles.size();
  if (dropped < 0 || static_cast<size_t>(dropped) > token_count)
    return {Code::kInvalidArgument, "cannot drop " + std::to_string(dropped) +
                                        " tokens; the sequence has " + std::to_string(token_count)};
  if (dropped == 0) return {};

  // The newest open tokens without a gap are those that can go.
  size_t droppable = token_count;
  for (const LayerState& state : sequence->layers) {
    if (state.token_count != token_count)
      return {Code::kInvalidArgument, "layers are out of step: finish the step before truncating"};
    const auto positions = state.open.positions();
    size_t newest = 0;
    while (newest < positions.size() &&
           positions[positions.size() - 1 - newest] == token_count - 1 - newest)
      ++newest;
    droppable = std::min(droppable, newest);
  }
  if (static_cast<size_t>(dropped) > droppable)
    return {Code::kUnsupported, "cannot drop " + std::to_string(dropped) + " tokens: older ones " +
                                    "are encoded; " + std::to_string(droppable) +
                                    " can go. Fork the sequence before a long draft"};
  for (LayerState& state : sequence->layers) {
    state.open.drop_newest(dropped);
    state.token_count -= static_cast<uint32_t>(dropped);
  }
  sequence->roles.resize(token_count - static_cast<size_t>(dropped));
  dram_.discharge(static_cast<uint64_t>(dropped) * sizeof(Role));
  return {};
}

Status CacheImpl::append(int layer, std::span<const AppendRequest> requests) {
  const std::lock_guard lock(mutex_);
  VKV_TRY(check_each_once(requests, "append"));
  std::vector<SequenceState*> sequences;
  uint64_t role_bytes = 0;
  for (const AppendRequest& request : requests) {
    VKV_TRY_ASSIGN(sequence, usable(request.sequence));
    VKV_TRY(check_append(options_.shape, layer, request, *sequence));
    sequences.push_back(sequence);
    if (layer == 0) role_bytes += request.roles.size() * sizeof(Role);
  }
  VKV_TRY(dram_.charge(role_bytes, "roles of tokens"));
  const Status converted = convert(layer, requests, sequences);
  if (!converted.ok()) {
    dram_.discharge(role_bytes);
    return converted;
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    const AppendRequest& request = requests[i];
    LayerState& state = sequences[i]->layers[static_cast<size_t>(layer)];
    state.open.add_newest(request.token_count, state.token_count);
    state.token_count += static_cast<uint32_t>(request.token_count);
    std::vector<Role>& roles = sequences[i]->roles;
    if (layer == 0) roles.insert(roles.end(), request.roles.begin(), request.roles.end());
  }
  return tiers_.backend->finish();
}

Status CacheImpl::convert(int layer, std::span<const AppendRequest> requests,
                          std::span<SequenceState* const> sequences) {
  std::vector<AppendItem> items;
  for (size_t i = 0; i < requests.size(); ++i) {
    const AppendRequest& request = requests[i];
    LayerState& state = sequences[i]->layers[static_cast<size_t>(layer)];
    VKV_TRY(tiers_.backend->join(state.sealing));
    VKV_TRY_ASSIGN(item, state.open.room_for(placement_, options_.element, request.k, request.v,
                                             request.token_count));
    items.push_back(item);
    items.back().label = {
        .sequence = request.sequence, .layer = layer, .first_position = state.token_count};
  }
  VKV_TRY_ASSIGN(bad, tiers_.backend->append(items));
  if (!bad) return {};
  const CallLabel& label = items[bad->item].label;
  const std::string whose =
      requests.size() == 1 ? "" : "sequence " + std::to_string(number(label.sequence)) + ": ";
  return {Code::kInvalidArgument,
          whose + words_of(*bad, options_.shape, options_.open_codec, label.first_position)};
}

Status CacheImpl::check_attend(int layer, std::span<const AttendRequest> requests) const {
  VKV_TRY(check_each_once(requests, "attend"));
  for (const AttendRequest& request : requests) {
    VKV_TRY_ASSIGN(sequence, find(request.sequence));
    VKV_TRY(vkv::check_attend(options_.shape, layer, request, *sequence));
  }
  return {};
}

Result<std::vector<AttentionTask>> CacheImpl::make_tasks(std::span<const AttendRequest> requests) {
  const bool convert = options_.element != ElementType::kF32;
  const size_t q_row = row_values(options_.shape.q_heads);
  const size_t row_heads = static_cast<size_t>(options_.shape.q_heads);
  const auto lse_floats = [&](const AttendRequest& request) {
    return round_up_bytes(static_cast<size_t>(request.q_len) * row_heads, 4);
  };
  size_t needed = 0;
  for (const AttendRequest& request : requests)
    needed += lse_floats(request) + (convert ? 2 * static_cast<size_t>(request.q_len) * q_row : 0);
  if (needed * sizeof(float) > scratch_.bytes().size()) {
    scratch_ = MemoryBuffer();
    VKV_TRY_ASSIGN(buffer, placement_.allocate(needed * sizeof(float), "an attend call"));
    scratch_ = std::move(buffer);
  }

  std::vector<AttentionTask> tasks;
  float* floats = reinterpret_cast<float*>(scratch_.data());
  for (const AttendRequest& request : requests) {
    AttentionTask task{
        .id = request.sequence,
        .sequence = sequences_.at(request.sequence).get(),
        .q_len = request.q_len,
        .exact_count = request.ends_window ? std::min(request.q_len, kSaliencyQueries) : 0,
        .q = static_cast<const float*>(request.q),
        .out = static_cast<float*>(request.out),
        .lse = floats};
    floats += lse_floats(request);
    if (convert) {
      const size_t values = static_cast<size_t>(request.q_len) * q_row;
      VKV_TRY(tiers_.backend->to_float(options_.element, request.q, floats, values));
      task.q = floats;
      task.out = floats + values;
      floats += 2 * values;
    }
    tasks.push_back(task);
  }
  return tasks;
}

Status CacheImpl::store_out(const AttendRequest& request, const AttentionTask& task) const {
  if (options_.element == ElementType::kF32) return {};  // computed in place
  const size_t count = static_cast<size_t>(task.q_len) * row_values(options_.shape.q_heads);
  return tiers_.backend->from_float(options_.element, task.out, request.out, count);
}

Status CacheImpl::attend(int layer, std::span<const AttendRequest> requests) {
  const std::lock_guard lock(mutex_);
  for (const AttendRequest& request : requests) VKV_TRY(usable(request.sequence).status());
  VKV_TRY(check_attend(layer, requests));
  for (const AttendRequest& request : requests)
    VKV_TRY(tiers_.backend->join(
        sequences_.at(request.sequence)->layers[static_cast<size_t>(layer)].sealing));
  VKV_TRY_ASSIGN(tasks, make_tasks(requests));

  const Stopwatch attending;
  VKV_TRY(attention_->run(layer, tasks));
  for (size_t i = 0; i < tasks.size(); ++i) VKV_TRY(store_out(requests[i], tasks[i]));
  ++counters_.attend_count;
  counters_.attend_seconds += attending.seconds();

  const Stopwatch sealing;
  VKV_TRY(measure(layer, tasks));
  const Status sealed = seal(layer, requests, tasks);
  if (stager_) stager_->drop_orphans();  // of copies that were given up
  counters_.encode_seconds += sealing.seconds();
  if (scratch_.bytes().size() > kKeptScratchBytes) scratch_ = MemoryBuffer();
  VKV_TRY(sealed);
  VKV_TRY(placement_.rise());
  VKV_TRY(attention_->read_ahead(layer, tasks));
  return tiers_.backend->finish();
}

Status CacheImpl::measure(int layer, std::span<const AttentionTask> tasks) {
  if (!promoter_->keeps(layer) || !meter_.samples(counters_.attend_count, layer)) return {};
  const size_t row = row_values(options_.shape.q_heads);
  std::vector<float> exact(row), difference(row);
  std::vector<float> lse(static_cast<size_t>(options_.shape.q_heads));
  for (const AttentionTask& task : tasks) {
    LayerState& state = sequences_.at(task.id)->layers[static_cast<size_t>(layer)];
    if (state.originals.empty() || task.exact_count > 0) continue;  // nothing was lost
    const size_t last = static_cast<size_t>(task.q_len - 1);
    const AttentionTask sample{.id = task.id,
                               .sequence = task.sequence,
                               .q_len = 1,
                               .exact_count = 1,
                               .q = task.q + last * row,
                               .out = exact.data(),
                               .lse = lse.data()};
    VKV_TRY(attention_->run(layer, {&sample, 1}));
    for (size_t i = 0; i < row; ++i) difference[i] = task.out[last * row + i] - exact[i];
    if (!meter_.add(difference, exact) || options_.quality.action != QualityAction::kPromote)
      continue;
    VKV_TRY(promoter_->promote(state, {.layer = layer,
                                       .q_len = 1,
                                       .q = sample.q,
                                       .lse = sample.lse,
                                       .k_mean = state.mean_values()}));
    VKV_TRY(promoter_->settle());
    meter_.count_promotion();
  }
  return {};
}

Status CacheImpl::seal(int layer, std::span<const AttendRequest> requests,
                       std::span<const AttentionTask> tasks) {
  const bool samples = !promoter_->keeps(layer) && meter_.samples(counters_.attend_count, layer);
  for (size_t i = 0; i < tasks.size(); ++i) {
    Result<uint64_t> sealed = seal_one(*sequences_.at(requests[i].sequence), requests[i].sequence,
                                       {.layer = layer,
                                        .ends_window = requests[i].ends_window,
                                        .q_len = tasks[i].q_len,
                                        .q = tasks[i].q,
                                        .lse = tasks[i].lse,
                                        .out = tasks[i].out,
                                        .meter = samples ? &meter_ : nullptr});
    if (!sealed.ok())
      return {sealed.status().code(), "sequence " + std::to_string(number(requests[i].sequence)) +
                                          ", layer " + std::to_string(layer) + ": " +
                                          sealed.status().message()};
    counters_.sealed_token_count += sealed.value();
  }
  return {};
}

// Beside the work that comes next, where the engine can: that meets it again at the next step.
Result<uint64_t> CacheImpl::seal_one(SequenceState& sequence, SequenceId id,
                                     const SealRequest& request) {
  const uint64_t demoted_before = placement_.demoted_bytes();
  tiers_.backend->label_calls({.sequence = id, .layer = request.layer});
  tiers_.backend->begin_aside();
  Result<uint64_t> sealed = sealer_->seal(sequence, request);
  VKV_TRY_ASSIGN(stretch, tiers_.backend->end_aside());
  if (stretch > 0) sequence.layers[static_cast<size_t>(request.layer)].sealing = stretch;
  // What was moved out of HBM belongs to any layer.
  if (placement_.demoted_bytes() != demoted_before) VKV_TRY(tiers_.backend->join(stretch));
  return sealed;
}

Status CacheImpl::save(SequenceId id, const SequenceKey& key) {
  const std::lock_guard lock(mutex_);
  VKV_TRY(has_archive());
  VKV_TRY(take_late_errors());
  VKV_TRY_ASSIGN(sequence, usable(id));
  VKV_TRY(check_level(*sequence, id, "saved"));
  return archive_->save(*sequence, key);
}

Result<SequenceId> CacheImpl::restore(const SequenceKey& key) {
  const std::lock_guard lock(mutex_);
  VKV_TRY(has_archive());
  VKV_TRY_ASSIGN(sequence, archive_->restore(key));
  return add(std::move(sequence));
}

Status CacheImpl::erase_saved(const SequenceKey& key) {
  const std::lock_guard lock(mutex_);
  VKV_TRY(has_archive());
  return tiers_.store->erase(key);
}

Result<std::vector<SavedSequence>> CacheImpl::saved() const {
  const std::lock_guard lock(mutex_);
  VKV_TRY(has_archive());
  return archive_->list();
}

Result<SequenceStats> CacheImpl::sequence_stats(SequenceId id) const {
  const std::lock_guard lock(mutex_);
  VKV_TRY_ASSIGN(sequence, find(id));
  return vkv::sequence_stats(options_, *sequence);
}

CacheStats CacheImpl::stats() const {
  const std::lock_guard lock(mutex_);
  CacheStats stats = counters_;
  report_tiers(options_, tiers_, placement_, stager_.get(), stats);
  stats.sequence_count = sequences_.size();
  stats.quality = meter_.stats();
  stats.nvme_refused_save_count = archive_ ? archive_->refused_count() : 0;
  attention_->report(stats);
  return stats;
}

}  // namespace

Result<std::unique_ptr<Cache>> Cache::open(const CacheOptions& requested) {
  VKV_TRY_ASSIGN(options, with_defaults(requested));
  VKV_TRY_ASSIGN(tiers, open_tiers(options));
  auto cache = std::make_unique<CacheImpl>(std::move(options), std::move(tiers));
  VKV_TRY(cache->prepare());
  return std::unique_ptr<Cache>(std::move(cache));
}

}  // namespace vkv
