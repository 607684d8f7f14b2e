// metrics.h: counters as Prometheus reads them (text format 0.0.4).
// SPDX-License-Identifier: Apache-2.0
//
// cache_metrics() needs nothing of the server: a program that embeds vkv::Cache can serve the same.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "tools/server/reply.h"
#include "vkv/stats.h"

namespace vkv {

// All that a cache counted; tools/server/README.md lists the names.
std::string cache_metrics(const CacheStats& stats);

// How many values were at most each bound; bounds ascend.
class Histogram {
 public:
  explicit Histogram(std::span<const double> bounds)
      : bounds_(bounds.begin(), bounds.end()), counts_(bounds.size()) {}

  void add(double value);
  std::string text(const std::string& name, const std::string& help) const;

 private:
  std::vector<double> bounds_;
  std::vector<uint64_t> counts_;  // of values up to the bound and above the one before
  uint64_t count_ = 0;
  double sum_ = 0;
};

// What is so at one moment.
struct ServerGauges {
  uint64_t queued = 0;   // requests that wait for room
  uint64_t waiting = 0;  // that have room, and wait for their prefill
  uint64_t running = 0;  // that are prefilled or decode
  uint64_t prefixes = 0;
  uint64_t reserved_bytes = 0;  // for requests and prefixes
  uint64_t reserved_bytes_max = 0;
};

// Any thread may call.
class ServerMetrics {
 public:
  ServerMetrics();

  void count_request(int http_status);
  void count_cancelled();
  void count_answered(const ReplyUsage& usage);
  void count_restored_prefix();
  void add_first_token_seconds(double seconds);  // from the request's arrival
  void add_token_seconds(double seconds);        // mean of an answer's later tokens
  void add_step(uint64_t batch, double seconds);

  std::string text(const ServerGauges& gauges) const;

 private:
  mutable std::mutex mutex_;
  std::map<int, uint64_t> requests_;  // by HTTP status
  uint64_t cancelled_ = 0;
  ReplyUsage usage_;  // of all answers
  uint64_t restored_prefixes_ = 0, steps_ = 0, step_requests_ = 0;
  double step_seconds_ = 0;
  Histogram first_token_, token_;
};

}  // namespace vkv
