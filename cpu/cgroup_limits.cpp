// cgroup_limits.cpp: cpu.max and memory.max, or their older forms, from a group up to the root.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/cgroup_limits.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>
#include <vector>

namespace vkv {
namespace {

namespace fs = std::filesystem;

// Version 1 writes "no limit" as the largest multiple of a page; no machine has as much.
constexpr double kNoLimitBytes = 4e18;

template <class T>
void tighten(T& limit, double value) {
  if (value > 0 && (limit == 0 || value < static_cast<double>(limit))) {
    limit = static_cast<T>(value);
  }
}

// The numbers at the start of a file; a word such as "max" ends them.
std::vector<double> numbers_in(const fs::path& path) {
  std::ifstream file(path);
  std::vector<double> numbers;
  for (double number = 0; file >> number;) numbers.push_back(number);
  return numbers;
}

// `group` and all above it. In a container the path may be the host's, which is not there; the
// container's own group is then at the root of the mount.
std::vector<fs::path> directories(const fs::path& mount, const std::string& group) {
  std::vector<fs::path> found = {mount};
  for (const fs::path& part : fs::path(group).relative_path()) {
    found.push_back(found.back() / part);
  }
  return found;
}

void read_version_2(const fs::path& directory, CgroupLimits& limits) {
  const auto cpu = numbers_in(directory / "cpu.max");  // "quota period" or "max period"
  if (cpu.size() == 2 && cpu[1] > 0) tighten(limits.cpus, cpu[0] / cpu[1]);
  const auto memory = numbers_in(directory / "memory.max");
  if (memory.size() == 1) tighten(limits.memory_bytes, memory[0]);
}

void read_version_1_cpu(const fs::path& directory, CgroupLimits& limits) {
  const auto quota = numbers_in(directory / "cpu.cfs_quota_us");  // -1: no limit
  const auto period = numbers_in(directory / "cpu.cfs_period_us");
  if (quota.size() == 1 && period.size() == 1 && period[0] > 0) {
    tighten(limits.cpus, quota[0] / period[0]);
  }
}

void read_version_1_memory(const fs::path& directory, CgroupLimits& limits) {
  const auto memory = numbers_in(directory / "memory.limit_in_bytes");
  if (memory.size() == 1 && memory[0] < kNoLimitBytes) tighten(limits.memory_bytes, memory[0]);
}

bool lists(const std::string& controllers, std::string_view controller) {
  std::istringstream words(controllers);
  for (std::string word; std::getline(words, word, ',');) {
    if (word == controller) return true;
  }
  return false;
}

}  // namespace

CgroupLimits read_cgroup_limits(const std::string& membership_path, const std::string& mount_path) {
  CgroupLimits limits;
  std::ifstream membership(membership_path);
  // Lines are "hierarchy:controllers:group"; version 2 has no controllers there.
  for (std::string line; std::getline(membership, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string group = line.substr(second + 1);

    const fs::path mount = mount_path;
    if (controllers.empty()) {
      // Alone, or beside version 1.
      for (const auto& root : {mount, mount / "unified"}) {
        for (const auto& directory : directories(root, group)) read_version_2(directory, limits);
      }
    }
    // A hierarchy is mounted under its controllers' names, with links from each single one.
    if (lists(controllers, "cpu")) {
      for (const auto& directory : directories(mount / "cpu", group)) {
        read_version_1_cpu(directory, limits);
      }
    }
    if (lists(controllers, "memory")) {
      for (const auto& directory : directories(mount / "memory", group)) {
        read_version_1_memory(directory, limits);
      }
    }
  }
  return limits;
}

}  // namespace vkv
