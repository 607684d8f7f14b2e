// evaluation.cpp: workers that take the next item, and the choice of what baselines leave open.
// SPDX-License-Identifier: Apache-2.0
#include "tools/quality/evaluation.h"

#include <fmt/format.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <numeric>
#include <thread>

namespace vkv {
namespace {

// All workers' weights together: more copies of a large model would only fight for memory.
constexpr uint64_t kWeightBytesMax = uint64_t{4} << 30;

// Of an item, when parameters are chosen: candidates are many, and the cases of an item much alike.
constexpr size_t kCalibrationCases = 4;

// All that KeptReferences may hold: a video of 4,096 tokens is 25 MB for TinyVLM, 2 GB for 7B.
constexpr uint64_t kKeptBytesMax = uint64_t{2} << 30;

uint64_t byte_count(const Recording& recording) {
  uint64_t floats = 0;
  for (const Recording::Layer& layer : recording.layers)
    floats += layer.k.size() + layer.v.size() + layer.q.size() + layer.out.size();
  return floats * sizeof(float);
}

uint64_t byte_count(const ReferenceRun& run) {
  uint64_t bytes = byte_count(run.prefix);
  for (const ReferenceRun::Case& one : run.cases)
    bytes += byte_count(one.tail) + one.logits.size() * sizeof(float);
  return bytes;
}

bool has_image_processor(const std::string& folder) {
  return std::filesystem::exists(std::filesystem::path(folder) / "processor_config.json") ||
         std::filesystem::exists(std::filesystem::path(folder) / "preprocessor_config.json");
}

}  // namespace

Evaluation::~Evaluation() = default;

// A thread's caches.
struct Evaluation::Worker {
  std::unique_ptr<RecordingCache> exact;
  std::vector<std::unique_ptr<Cache>> caches;
};

// One run.
class Evaluation::Pool {
 public:
  Pool(Evaluation& evaluation, const RunOptions& options, const Watch& watch)
      : evaluation_(evaluation),
        options_(options),
        sources_(options.sources),
        configurations_(options.configurations),
        watch_(watch),
        results_(sources_.size()),
        fits_(configurations_.size()) {
    // Long ones first, so that no worker begins one when the others are done.
    order_.resize(sources_.size());
    std::iota(order_.begin(), order_.end(), size_t{0});
    std::stable_partition(order_.begin(), order_.end(), [&](size_t i) {
      return sources_[i].job != nullptr && !sources_[i].job->video.empty();
    });
  }

  Status run(size_t worker_count) {
    running_ = worker_count;
    std::vector<std::thread> threads;
    for (size_t i = 0; i < worker_count; ++i) threads.emplace_back([this, i] { work(i); });
    {
      std::unique_lock lock(mutex_);
      while (running_ > 0) {
        changed_.wait_for(lock, std::chrono::milliseconds(200));
        const size_t done = done_;
        lock.unlock();
        watch_.report(done, sources_.size());
        lock.lock();
      }
    }
    for (std::thread& thread : threads) thread.join();
    return status_;
  }

  std::vector<SourceResult>& results() { return results_; }
  std::vector<LambdaFit>& fits() { return fits_; }

 private:
  void work(size_t index) {
    tbb::task_arena arena(evaluation_.worker_threads_);
    const Status status = arena.execute([&] { return work_in_arena(index); });
    const std::lock_guard lock(mutex_);
    if (!status.ok() && status_.ok()) {
      status_ = status;
      failed_.store(true);
    }
    --running_;
    changed_.notify_one();
  }

  Status work_in_arena(size_t index) {
    if (evaluation_.models_[index] == nullptr) {
      VKV_TRY_ASSIGN(model, Model::load(evaluation_.options_.model_folder,
                                        {.threads = evaluation_.worker_threads_}));
      evaluation_.models_[index] = std::move(model);
    }
    Model& model = *evaluation_.models_[index];
    VKV_TRY_ASSIGN(worker, open_worker(model));
    while (!failed_.load()) {
      VKV_TRY(watch_.check());
      const size_t next = next_.fetch_add(1);
      if (next >= sources_.size()) break;
      SourceResult& result = results_[order_[next]];
      if (Status status = run_source(model, worker, order_[next]); !status.ok()) {
        result.rows.clear();
        if (status.code() == Code::kCancelled) return status;
        result.error = status.message();
      }
      const std::lock_guard lock(mutex_);
      ++done_;
    }
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < configurations_.size(); ++i) {
      const auto* const simulated = dynamic_cast<SimulatedCache*>(worker.caches[i].get());
      if (simulated != nullptr && configurations_[i].scheme->fits_lambda)
        fits_[i].add(simulated->lambda_fit());
    }
    return {};
  }

  Result<Worker> open_worker(const Model& model) const {
    const TestCacheOptions options = {.shape = model.kv_shape(),
                                      .recent_tokens = evaluation_.options_.recent_tokens,
                                      .threads = evaluation_.worker_threads_};
    VKV_TRY_ASSIGN(preset, precision_preset("exact"));
    VKV_TRY_ASSIGN(exact, open_cache({.name = "exact", .policy = preset}, options));
    Worker worker{std::make_unique<RecordingCache>(std::move(exact)), {}};
    for (const Configuration& configuration : configurations_) {
      VKV_TRY_ASSIGN(cache, open_cache(configuration, options));
      worker.caches.push_back(std::move(cache));
    }
    return worker;
  }

  Status run_source(Model& model, Worker& worker, size_t index) {
    const ItemSource& source = sources_[index];
    SourceResult& result = results_[index];
    const Comparison comparison(&model, &evaluation_.tokenizer_, {.cancel = watch_.cancel});
    auto* const kept = options_.kept != nullptr ? &options_.kept->sources[index] : nullptr;
    if (kept != nullptr && !kept->empty()) {
      for (const KeptReferences::Item& one : *kept)
        VKV_TRY(test_item(comparison, worker, one.item, one.run, result));
      return {};
    }
    std::vector<QualityItem> items;
    if (source.passage != nullptr) {
      items = {*source.passage};
    } else {
      const Watch quiet = {.cancel = watch_.cancel};
      VKV_TRY_ASSIGN(made, items_of_job(*source.job, model, evaluation_.tokenizer_,
                                        evaluation_.processor_ ? &*evaluation_.processor_ : nullptr,
                                        evaluation_.options_.items, quiet));
      items = std::move(made);
    }
    std::vector<KeptReferences::Item> references;
    uint64_t bytes = 0;
    for (QualityItem& item : items) {
      // A free run goes back to where it left the reference: so many tokens can always be dropped.
      if (item.cases.size() > options_.cases_max) item.cases.resize(options_.cases_max);
      item.new_tokens_max = std::min(item.new_tokens_max, evaluation_.options_.recent_tokens);
      item.kl_only = options_.kl_only;
      VKV_TRY_ASSIGN(reference, comparison.run_reference(*worker.exact, item));
      VKV_TRY(test_item(comparison, worker, item, reference, result));
      if (kept == nullptr) continue;
      bytes += byte_count(reference) + item.visual->size() * sizeof(float);
      references.push_back({std::move(item), std::move(reference)});
    }
    if (kept == nullptr) return {};
    if (options_.kept->byte_count.fetch_add(bytes) + bytes <= kKeptBytesMax)
      *kept = std::move(references);
    else
      options_.kept->byte_count.fetch_sub(bytes);
    return {};
  }

  Status test_item(const Comparison& comparison, Worker& worker, const QualityItem& item,
                   const ReferenceRun& reference, SourceResult& result) const {
    const size_t first = result.rows.size();
    for (size_t i = 0; i < item.cases.size(); ++i)
      result.rows.push_back({.kind = item.cases[i].kind,
                             .group = item.cases[i].group,
                             .reference_right = reference.cases[i].right});
    for (size_t i = 0; i < configurations_.size(); ++i) {
      Result<std::vector<CaseResult>> tested =
          comparison.run_test(*worker.caches[i], item, reference);
      if (!tested.ok())
        return {tested.status().code(), fmt::format("{}, {}: {}", item.id, configurations_[i].name,
                                                    tested.status().message())};
      for (size_t c = 0; c < item.cases.size(); ++c)
        result.rows[first + c].results.push_back(std::move(tested.value()[c]));
    }
    return {};
  }

  Evaluation& evaluation_;
  const RunOptions& options_;
  const std::span<const ItemSource> sources_;
  const std::span<const Configuration> configurations_;
  const Watch& watch_;
  std::vector<size_t> order_;
  std::vector<SourceResult> results_;  // each written by the worker that took the source
  std::atomic<size_t> next_ = 0;
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::vector<LambdaFit> fits_;
  size_t running_ = 0;
  size_t done_ = 0;
  Status status_;
};

Result<std::unique_ptr<Evaluation>> Evaluation::open(const EvaluationOptions& options) {
  VKV_TRY_ASSIGN(tokenizer, Tokenizer::load(options.model_folder));
  std::unique_ptr<Evaluation> evaluation(new Evaluation(options, std::move(tokenizer)));
  if (has_image_processor(options.model_folder)) {
    VKV_TRY_ASSIGN(processor, MediaProcessor::load(options.model_folder));
    evaluation->processor_ = std::move(processor);
  }
  const int all = tbb::this_task_arena::max_concurrency();
  const int threads = options.threads > 0 ? std::min(options.threads, all) : all;
  VKV_TRY_ASSIGN(model, Model::load(options.model_folder, {.threads = 1}));
  const uint64_t copies =
      std::max<uint64_t>(1, kWeightBytesMax / std::max<uint64_t>(1, model->weight_bytes()));
  evaluation->workers_max_ = static_cast<int>(std::min<uint64_t>(copies, uint64_t(threads)));
  evaluation->worker_threads_ = threads / evaluation->workers_max_;
  if (evaluation->worker_threads_ > 1) {
    VKV_TRY_ASSIGN(wide,
                   Model::load(options.model_folder, {.threads = evaluation->worker_threads_}));
    model = std::move(wide);
  }
  evaluation->models_.push_back(std::move(model));
  return evaluation;
}

Result<std::vector<SourceResult>> Evaluation::run(const RunOptions& options, const Watch& watch) {
  const size_t workers =
      std::clamp<size_t>(options.sources.size(), 1, static_cast<size_t>(workers_max_));
  if (models_.size() < workers) models_.resize(workers);
  Pool pool(*this, options, watch);
  const Status status = pool.run(workers);
  if (!status.ok() && options.partial != nullptr) *options.partial = std::move(pool.results());
  VKV_TRY(status);
  if (options.fits != nullptr) *options.fits = std::move(pool.fits());
  return std::move(pool.results());
}

double mean_kl(std::span<const SourceResult> results, size_t configuration) {
  double sum = 0;
  uint64_t count = 0;
  for (const SourceResult& result : results) {
    for (const CaseRow& row : result.rows) {
      for (const float kl : row.results[configuration].kl) sum += kl;
      count += row.results[configuration].kl.size();
    }
  }
  return count == 0 ? 0 : sum / static_cast<double>(count);
}

Result<std::vector<double>> Evaluation::mean_kls(std::span<const ItemSource> sources,
                                                 std::span<const Configuration> configurations,
                                                 KeptReferences& kept, const Watch& watch) {
  kept.sources.resize(sources.size());
  VKV_TRY_ASSIGN(results, run({.sources = sources,
                               .configurations = configurations,
                               .cases_max = kCalibrationCases,
                               .kl_only = true,
                               .kept = &kept},
                              watch));
  for (const SourceResult& result : results)
    if (!result.error.empty()) return Status(Code::kInvalidArgument, result.error);
  std::vector<double> losses;
  for (size_t i = 0; i < configurations.size(); ++i) losses.push_back(mean_kl(results, i));
  return losses;
}

Status Evaluation::calibrate(std::span<const ItemSource> sources,
                             std::vector<Configuration>& configurations, const Watch& watch) {
  std::vector<Configuration> candidates;
  for (const Configuration& configuration : configurations) {
    if (!configuration.needs_calibration()) continue;
    if (configuration.candidates.empty()) candidates.push_back(configuration);
    candidates.insert(candidates.end(), configuration.candidates.begin(),
                      configuration.candidates.end());
  }
  if (candidates.empty()) return {};
  if (sources.empty())
    return {Code::kInvalidArgument, "there is nothing to calibrate the baselines on"};
  std::vector<LambdaFit> fits;
  VKV_TRY_ASSIGN(results, run({.sources = sources,
                               .configurations = candidates,
                               .cases_max = kCalibrationCases,
                               .kl_only = true,
                               .fits = &fits},
                              watch));
  if (std::all_of(results.begin(), results.end(),
                  [](const SourceResult& result) { return result.rows.empty(); }))
    return {Code::kInvalidArgument, "calibration: " + results.front().error};

  size_t next = 0;
  for (Configuration& configuration : configurations) {
    if (!configuration.needs_calibration()) continue;
    if (configuration.candidates.empty()) {
      configuration.scheme->fits_lambda = false;
      configuration.scheme->lambda = std::make_shared<std::vector<float>>(fits[next++].lambda());
      continue;
    }
    double least = INFINITY;
    const std::vector<Configuration> choices = std::move(configuration.candidates);
    for (const Configuration& choice : choices) {
      const double kl = mean_kl(results, next++);
      if (kl >= least) continue;
      least = kl;
      configuration = choice;
    }
  }
  return {};
}

}  // namespace vkv
