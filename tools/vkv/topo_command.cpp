// topo_command.cpp: prints CPUs, memory, devices and the engines that would be chosen.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/topo_command.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cpu/attend_tiles.h"
#include "cpu/cpu_backend.h"
#include "cpu/thread_plan.h"
#include "cpu/topology.h"
#include "kernels/gpu_devices.h"
#include "tools/mllm/media.h"
#include "tools/vkv/byte_size.h"
#include "tools/vkv/exit_code.h"
#include "transfer/io_engine.h"

namespace vkv {
namespace {

using Json = nlohmann::json;

std::string attention_engine() {
  Result<std::unique_ptr<Backend>> backend = make_cpu_backend({});
  return backend.ok() ? std::string(backend.value()->name()) : backend.status().message();
}

// Each engine that VKV_CPU may name, with "available" or why not.
std::vector<std::pair<std::string, std::string>> engine_states() {
  std::vector<std::pair<std::string, std::string>> states;
  for (const TileEngine engine : kTileEngines) {
    const Status status = can_run(engine);
    states.emplace_back(name(engine), status.ok() ? "available" : status.message());
  }
  states.emplace_back("reference", "available");
  return states;
}

// By number of rows: who multiplies which codes; see cpu/contest.h.
std::vector<std::string> contest_lines() {
  std::vector<std::string> lines;
  int rows = 0;
  for (const ContestResult& result : contest_results()) {
    if (result.rows != rows) lines.push_back(fmt::format("{:>2} rows:", result.rows));
    rows = result.rows;
    lines.back() += fmt::format(" i{} {}", result.bits, name(result.winner));
  }
  return lines;
}

// "available", or why not.
std::string io_uring_state() {
  std::FILE* file = std::tmpfile();
  if (file == nullptr) return "not known: no temporary file could be made";
  Result<std::unique_ptr<IoEngine>> engine =
      make_uring_engine({.file = fileno(file), .in_flight_max = 8});
  std::string state = engine.ok() ? "available" : engine.status().message();
  if (engine.ok()) engine.value().reset();
  std::fclose(file);
  return state;
}

std::string node_text(int numa_node) {
  return numa_node < 0 ? "" : fmt::format(", near node {}", numa_node);
}

void print_cpus(const Topology& topology) {
  fmt::print("cpu        {}\n", topology.cpu_model.empty() ? "unknown" : topology.cpu_model);
  fmt::print("           {} packages, {} cores, {} hardware threads\n", topology.package_count,
             topology.core_count, topology.pu_count);
  fmt::print("           allowed here: {} ({} threads)", topology.allowed_cpus,
             topology.allowed_pu_count);
  if (topology.limits.cpus > 0) fmt::print(", quota {:.2f} CPUs", topology.limits.cpus);
  fmt::print("; {} usable at once\n", topology.usable_thread_count());
  fmt::print("           instructions: {}\n", topology.isa.names());
  for (const CacheLevel& cache : topology.caches) {
    fmt::print("cache L{}   {} x {}, shared by {} threads\n", cache.level, cache.cache_count,
               byte_size_text(cache.cache_bytes), cache.pus_per_cache);
  }
}

void print_memory(const Topology& topology) {
  fmt::print("memory     {}", byte_size_text(topology.memory_bytes));
  if (topology.limits.memory_bytes > 0) {
    fmt::print(", limited to {}", byte_size_text(topology.limits.memory_bytes));
  }
  fmt::print("\n");
  for (const NumaNode& node : topology.nodes) {
    fmt::print("  node {:<3} {}, CPUs {}\n", node.os_index, byte_size_text(node.memory_bytes),
               node.cpus.empty() ? "none" : node.cpus);
  }
}

// What a cache would do with this machine, on the CPU or beside a GPU near this node. Where an NVMe
// tier gets a CPU of its own (runtime/open_tiers.cpp), there is one thread less.
ThreadPlan plan_on_cpu(const Topology& topology) { return plan_threads(topology, {}); }
ThreadPlan plan_beside_gpu(const Topology& topology, int gpu_node) {
  return plan_threads(topology, {.spare = 1, .gpu_node = gpu_node});
}

// "0-3,8"
std::string list_text(const std::vector<int>& ascending) {
  std::string text;
  for (size_t i = 0; i < ascending.size();) {
    size_t last = i;
    while (last + 1 < ascending.size() && ascending[last + 1] == ascending[last] + 1) ++last;
    text += text.empty() ? "" : ",";
    text += last == i ? fmt::format("{}", ascending[i])
                      : fmt::format("{}-{}", ascending[i], ascending[last]);
    i = last + 1;
  }
  return text;
}

void print_plan(const std::string& label, const ThreadPlan& plan) {
  std::string teams;
  for (const TeamPlan& team : plan.teams) {
    teams += teams.empty() ? "" : ", ";
    teams += fmt::format("{}", team.thread_count);
    if (!team.cpus.empty())
      teams += fmt::format(" on node {} (CPUs {})", team.node, list_text(team.cpus));
  }
  fmt::print("{:<10} {}; memory {}\n", label, teams,
             plan.memory_nodes.empty() ? "where the system puts it"
             : plan.memory_nodes.size() == 1
                 ? fmt::format("on node {}", plan.memory_nodes[0])
                 : fmt::format("by turns on nodes {}", list_text(plan.memory_nodes)));
}

Json plan_json(const ThreadPlan& plan) {
  Json json = {{"teams", Json::array()}, {"memory_nodes", plan.memory_nodes}};
  for (const TeamPlan& team : plan.teams)
    json["teams"].push_back(
        {{"node", team.node}, {"threads", team.thread_count}, {"cpus", list_text(team.cpus)}});
  return json;
}

void print_devices(const Topology& topology, const Result<std::vector<GpuDevice>>& gpus) {
  for (const PciDevice& device : topology.devices) {
    fmt::print("{:<10} {} {}{}{}\n", device.kind == PciDevice::Kind::kGpu ? "gpu" : "nvme",
               device.bus_id, device.name,
               device.os_names.empty() ? "" : " (" + device.os_names + ")",
               node_text(device.numa_node));
  }
  if (!gpus.ok()) {
    fmt::print("cuda       none: {}\n", gpus.status().message());
    return;
  }
  if (gpus.value().empty()) fmt::print("cuda       no GPU\n");
  for (const GpuDevice& gpu : gpus.value()) {
    fmt::print("cuda {:<5} {}, sm_{}{}, {} multiprocessors, {} of {} free, {}{}\n", gpu.index,
               gpu.name, gpu.compute_major, gpu.compute_minor, gpu.multiprocessor_count,
               byte_size_text(gpu.memory_free_bytes), byte_size_text(gpu.memory_bytes),
               gpu.pci_bus_id, node_text(gpu.host_numa_node));
    print_plan("  threads", plan_beside_gpu(topology, gpu.host_numa_node));
  }
}

Json topology_json(const Topology& topology) {
  Json json = {{"cpu",
                {{"model", topology.cpu_model},
                 {"packages", topology.package_count},
                 {"cores", topology.core_count},
                 {"threads", topology.pu_count},
                 {"allowed_cpus", topology.allowed_cpus},
                 {"allowed_threads", topology.allowed_pu_count},
                 {"usable_threads", topology.usable_thread_count()},
                 {"quota_cpus", topology.limits.cpus},
                 {"instructions", topology.isa.names()}}},
               {"memory_bytes", topology.memory_bytes},
               {"memory_limit_bytes", topology.limits.memory_bytes},
               {"nodes", Json::array()},
               {"caches", Json::array()},
               {"devices", Json::array()},
               {"threads", plan_json(plan_on_cpu(topology))}};
  for (const NumaNode& node : topology.nodes) {
    json["nodes"].push_back(
        {{"index", node.os_index}, {"memory_bytes", node.memory_bytes}, {"cpus", node.cpus}});
  }
  for (const CacheLevel& cache : topology.caches) {
    json["caches"].push_back({{"level", cache.level},
                              {"count", cache.cache_count},
                              {"bytes", cache.cache_bytes},
                              {"threads_per_cache", cache.pus_per_cache}});
  }
  for (const PciDevice& device : topology.devices) {
    json["devices"].push_back({{"kind", device.kind == PciDevice::Kind::kGpu ? "gpu" : "nvme"},
                               {"bus_id", device.bus_id},
                               {"name", device.name},
                               {"os_names", device.os_names},
                               {"node", device.numa_node}});
  }
  return json;
}

void add_gpus(const Topology& topology, const Result<std::vector<GpuDevice>>& gpus, Json& json) {
  json["cuda"] = Json::array();
  if (!gpus.ok()) json["cuda_absent_because"] = gpus.status().message();
  const size_t gpu_count = gpus.ok() ? gpus.value().size() : 0;
  for (size_t i = 0; i < gpu_count; ++i) {
    const GpuDevice& gpu = gpus.value()[i];
    json["cuda"].push_back({{"index", gpu.index},
                            {"name", gpu.name},
                            {"compute", fmt::format("{}.{}", gpu.compute_major, gpu.compute_minor)},
                            {"memory_bytes", gpu.memory_bytes},
                            {"memory_free_bytes", gpu.memory_free_bytes},
                            {"bus_id", gpu.pci_bus_id},
                            {"node", gpu.host_numa_node},
                            {"threads", plan_json(plan_beside_gpu(topology, gpu.host_numa_node))}});
  }
}

void add_engines(const Topology& topology, const Result<std::vector<GpuDevice>>& gpus, Json& json) {
  add_gpus(topology, gpus, json);
  json["attention_engine"] = attention_engine();
  for (const auto& [engine, state] : engine_states()) json["attention_engines"][engine] = state;
  for (const ContestResult& result : contest_results())
    json["codes_multiplied_by"].push_back(
        {{"bits", result.bits}, {"rows", result.rows}, {"engine", name(result.winner)}});
  json["io_uring"] = io_uring_state();
  json["media"] = media_decoder_name();
}

void print_engines(const Topology& topology, const Result<std::vector<GpuDevice>>& gpus) {
  print_devices(topology, gpus);
  fmt::print("attention  {}\n", attention_engine());
  for (const auto& [engine, state] : engine_states())
    fmt::print("  VKV_CPU={:<13} {}\n", engine, state);
  for (const std::string& line : contest_lines()) fmt::print("  codes of {}\n", line);
  fmt::print("io_uring   {}\n", io_uring_state());
  fmt::print("media      {}\n", media_decoder_name());
}

}  // namespace

int topo_command(const TopoArguments& arguments) {
  const Result<Topology> read = read_topology(arguments.machine);
  if (!read.ok()) {
    spdlog::error("{}", read.status().message());
    return read.status().code() == Code::kInvalidArgument ? kExitUsage : kExitSomeFailed;
  }
  const Topology& topology = read.value();
  Json all = topology_json(topology);
  if (!arguments.json) {
    print_cpus(topology);
    print_memory(topology);
    print_plan("threads", plan_on_cpu(topology));
  }
  if (arguments.machine.empty()) {
    const Result<std::vector<GpuDevice>> gpus = list_gpu_devices();
    if (arguments.json)
      add_engines(topology, gpus, all);
    else
      print_engines(topology, gpus);
  }
  if (arguments.json) fmt::print("{}\n", all.dump(1, ' ', false, Json::error_handler_t::replace));
  return kExitDone;
}

}  // namespace vkv
