// evaluation.h: many items, many configurations, all cores: one model a worker.
// SPDX-License-Identifier: Apache-2.0
//
// The parts of a small model are too short to be shared among threads, so every worker has a model
// and caches of its own and takes whole items. Results do not depend on the number of workers.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tools/mllm/model.h"
#include "tools/mllm/watch.h"
#include "tools/quality/comparison.h"
#include "tools/quality/configuration.h"
#include "tools/quality/quality_item.h"
#include "tools/quality/simulated_cache.h"

namespace vkv {

struct EvaluationOptions {
  std::string model_folder;
  int recent_tokens = 128;
  int threads = 0;  // of all workers together; 0: all that the process may use
  ItemOptions items;
};

// One of the two; borrowed.
struct ItemSource {
  const Job* job = nullptr;
  const QualityItem* passage = nullptr;
};

struct CaseRow {
  std::string kind, group;
  std::optional<bool> reference_right;  // where an answer is expected
  std::vector<CaseResult> results;      // one a configuration
};

struct SourceResult {
  std::string error;  // why there are no rows
  std::vector<CaseRow> rows;
};

// The reference's runs over sources, kept from one call to the next as far as memory goes.
struct KeptReferences {
  struct Item {
    QualityItem item;
    ReferenceRun run;
  };
  std::vector<std::vector<Item>> sources;  // of each; empty: not kept
  std::atomic<uint64_t> byte_count = 0;
};

// One call at a time.
class Evaluation {
 public:
  // Loads the model once; the workers' copies come with the first run. A model without an image
  // processor takes sources without media. Errors: those of Model, Tokenizer and MediaProcessor.
  static Result<std::unique_ptr<Evaluation>> open(const EvaluationOptions& options);
  ~Evaluation();

  const Tokenizer& tokenizer() const { return tokenizer_; }
  const ModelConfig& model_config() const { return models_.front()->config(); }

  // One result a source, in their order. Progress counts sources, on the calling thread.
  // Errors: those of opening caches; kCancelled, and then what is done is in *partial if given (a
  // source without rows and error was not run).
  Result<std::vector<SourceResult>> run(std::span<const ItemSource> sources,
                                        std::span<const Configuration> configurations,
                                        const Watch& watch,
                                        std::vector<SourceResult>* partial = nullptr) {
    return run({.sources = sources, .configurations = configurations, .partial = partial}, watch);
  }

  // Chooses what the configurations leave open: of each one's candidates the one with the lowest
  // mean KL over the first few cases of each item, and lambda. Errors: as run(); kInvalidArgument
  // without sources, or where all of them failed.
  Status calibrate(std::span<const ItemSource> sources, std::vector<Configuration>& configurations,
                   const Watch& watch);

  // Mean KL of each configuration over the first few cases of each source, for a search that asks
  // again and again: `kept` belongs to these sources and spares the reference's runs. Errors: as
  // run(), and the first source's that failed.
  Result<std::vector<double>> mean_kls(std::span<const ItemSource> sources,
                                       std::span<const Configuration> configurations,
                                       KeptReferences& kept, const Watch& watch);

 private:
  struct Worker;
  class Pool;
  struct RunOptions {
    std::span<const ItemSource> sources;
    std::span<const Configuration> configurations;
    size_t cases_max = SIZE_MAX;                   // of an item
    bool kl_only = false;                          // see QualityItem
    KeptReferences* kept = nullptr;                // of these sources, with these options
    std::vector<LambdaFit>* fits = nullptr;        // one a configuration, empty where not fitted
    std::vector<SourceResult>* partial = nullptr;  // what was done before an error
  };

  Result<std::vector<SourceResult>> run(const RunOptions& options, const Watch& watch);

  Evaluation(const EvaluationOptions& options, Tokenizer tokenizer)
      : options_(options), tokenizer_(std::move(tokenizer)) {}

  EvaluationOptions options_;
  Tokenizer tokenizer_;
  std::optional<MediaProcessor> processor_;
  std::vector<std::unique_ptr<Model>> models_;  // one a worker, at least one
  int workers_max_ = 1;
  int worker_threads_ = 1;
};

// Mean KL of every position of one configuration; 0 for none.
double mean_kl(std::span<const SourceResult> results, size_t configuration);

}  // namespace vkv
