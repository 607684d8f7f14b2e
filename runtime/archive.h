// archive.h: sequences to the store and back, so that they outlive the process.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "runtime/placement.h"
#include "runtime/saved_state.h"
#include "runtime/sequence.h"
#include "runtime/write_admission.h"
#include "transfer/block_store.h"
#include "vkv/options.h"
#include "vkv/saved.h"
#include "vkv/status.h"

namespace vkv {

// Not thread-safe: the cache's lock guards it.
class Archive {
 public:
  // All outlive it. The store's file is kept.
  Archive(const CacheOptions& options, Placement& placement, BlockStore& store)
      : options_(options), placement_(placement), store_(store) {}

  // Commits the sequence. Extents that are in the store already are not written again, and what is
  // written now need not be written when it is demoted. Layers are level. Errors: kOutOfMemory,
  // also where the write budget is too short for this sequence; kIo.
  Status save(const SequenceState& sequence, const SequenceKey& key);

  // The sequence as it was saved. Extents of most value are read into memory as far as there is
  // room; the rest stays in the store. Errors: kNotFound; kInvalidArgument for other options;
  // kOutOfMemory, kIo, kDataLoss.
  Result<std::unique_ptr<SequenceState>> restore(const SequenceKey& key);

  std::vector<SavedSequence> list() const;

  // Saves that the write budget was too short for.
  uint64_t refused_count() const { return admission_.refused_count(); }

 private:
  Status write_extents(std::span<Extent* const> extents);
  Result<std::vector<LabelledExtent>> write_state(std::span<const std::byte> state);
  Result<SavedState> read_state(std::span<const LabelledExtent> state,
                                std::span<const LabelledExtent> extents);
  Result<LayerState> layer_of(int index, SavedLayer saved, size_t token_count,
                              std::span<const LabelledExtent> extents);
  Result<std::vector<ExtentUse>> uses_of(int layer, std::vector<SavedExtent>& saved,
                                         std::span<const SharedHeaders> headers,
                                         std::span<const LabelledExtent> extents);

  const CacheOptions& options_;
  Placement& placement_;
  BlockStore& store_;
  WriteAdmission admission_;
};

}  // namespace vkv
