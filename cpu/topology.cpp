// topology.cpp: hwloc's tree, flattened to what the project asks of it.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/topology.h"

#include <hwloc.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <system_error>
#include <type_traits>

#include "cpu/threads.h"

namespace vkv {
namespace {

using TopologyHandle =
    std::unique_ptr<std::remove_pointer_t<hwloc_topology_t>, decltype(&hwloc_topology_destroy)>;
using Bitmap = std::unique_ptr<hwloc_bitmap_s, decltype(&hwloc_bitmap_free)>;

// PCI classes: base class in the upper byte (PCI Code and ID Assignment Specification).
constexpr unsigned kDisplayBase = 0x03;
constexpr unsigned kAcceleratorBase = 0x12;
constexpr unsigned kNvmeClass = 0x0108;

std::string text_of(hwloc_const_bitmap_t set) {
  char* text = nullptr;
  if (hwloc_bitmap_list_asprintf(&text, set) < 0) return {};
  std::string copy = text;
  std::free(text);
  return copy;
}

int weight_of(hwloc_const_bitmap_t set) { return std::max(hwloc_bitmap_weight(set), 0); }

int count_of(hwloc_topology_t topology, hwloc_obj_type_t type) {
  return std::max(hwloc_get_nbobjs_by_type(topology, type), 0);
}

std::string info_of(hwloc_obj_t object, const char* key) {
  const char* const value = hwloc_obj_get_info_by_name(object, key);
  return value == nullptr ? "" : value;
}

Result<TopologyHandle> load(std::string_view synthetic) {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) {
    return Status(Code::kUnsupported, "hwloc cannot start (hwloc_topology_init: " +
                                          std::system_category().message(errno) + ")");
  }
  TopologyHandle topology(raw, hwloc_topology_destroy);
  // PCI devices are left out unless asked for. What is not allowed is kept, to count the machine.
  VKV_CHECK(hwloc_topology_set_io_types_filter(raw, HWLOC_TYPE_FILTER_KEEP_IMPORTANT) == 0);
  VKV_CHECK(hwloc_topology_set_flags(raw, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED) == 0);
  // Plug-ins that would start a GPU's driver to learn what the PCI bus tells as well. Where one is
  // not known there is nothing to leave out.
  for (const char* plugin : {"cuda", "nvml", "opencl", "rsmi", "levelzero", "gl"})
    (void)hwloc_topology_set_components(raw, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, plugin);
  const std::string description(synthetic);
  if (!description.empty() && hwloc_topology_set_synthetic(raw, description.c_str()) != 0) {
    return Status(Code::kInvalidArgument, "'" + description +
                                              "' is not a machine that hwloc understands; one is "
                                              "'node:2 core:4 pu:2'");
  }
  if (hwloc_topology_load(raw) != 0) {
    return Status(Code::kUnsupported, "hwloc cannot describe this machine (hwloc_topology_load: " +
                                          std::system_category().message(errno) + ")");
  }
  return topology;
}

// By cgroup and affinity mask.
Bitmap allowed_cpus(hwloc_topology_t raw) {
  Bitmap allowed(hwloc_bitmap_dup(hwloc_topology_get_allowed_cpuset(raw)), hwloc_bitmap_free);
  const Bitmap bound(hwloc_bitmap_alloc(), hwloc_bitmap_free);
  VKV_CHECK(allowed != nullptr && bound != nullptr);
  if (hwloc_topology_is_thissystem(raw) != 0 &&
      hwloc_get_cpubind(raw, bound.get(), HWLOC_CPUBIND_THREAD) == 0) {
    hwloc_bitmap_and(allowed.get(), allowed.get(), bound.get());
  }
  return allowed;
}

std::vector<int> in_both(hwloc_const_bitmap_t a, hwloc_const_bitmap_t b) {
  std::vector<int> cpus;
  for (int cpu = -1; (cpu = hwloc_bitmap_next(a, cpu)) >= 0;)
    if (hwloc_bitmap_isset(b, static_cast<unsigned>(cpu)) != 0) cpus.push_back(cpu);
  return cpus;
}

void read_nodes(hwloc_topology_t raw, hwloc_const_bitmap_t allowed, Topology& topology) {
  hwloc_obj_t node = nullptr;
  while ((node = hwloc_get_next_obj_by_type(raw, HWLOC_OBJ_NUMANODE, node)) != nullptr) {
    topology.nodes.push_back({.os_index = static_cast<int>(node->os_index),
                              .memory_bytes = node->attr->numanode.local_memory,
                              .cpus = text_of(node->cpuset),
                              .pu_count = weight_of(node->cpuset),
                              .allowed_cpus = in_both(node->cpuset, allowed)});
    topology.memory_bytes += node->attr->numanode.local_memory;
  }
  std::sort(topology.nodes.begin(), topology.nodes.end(),
            [](const NumaNode& a, const NumaNode& b) { return a.os_index < b.os_index; });
}

void read_caches(hwloc_topology_t raw, Topology& topology) {
  constexpr hwloc_obj_type_t kTypes[] = {HWLOC_OBJ_L1CACHE, HWLOC_OBJ_L2CACHE, HWLOC_OBJ_L3CACHE,
                                         HWLOC_OBJ_L4CACHE};
  for (const hwloc_obj_type_t type : kTypes) {
    const hwloc_obj_t first = hwloc_get_obj_by_type(raw, type, 0);
    if (first == nullptr) continue;
    topology.caches.push_back({.level = static_cast<int>(first->attr->cache.depth),
                               .cache_count = count_of(raw, type),
                               .cache_bytes = first->attr->cache.size,
                               .pus_per_cache = weight_of(first->cpuset)});
  }
}

// The node nearest to an I/O object. A device that is equally near to several has none.
int nearest_node(hwloc_topology_t raw, hwloc_obj_t device) {
  const hwloc_obj_t place = hwloc_get_non_io_ancestor_obj(raw, device);
  if (place == nullptr || place->nodeset == nullptr || weight_of(place->nodeset) != 1) {
    return kUnknownNode;
  }
  return hwloc_bitmap_first(place->nodeset);
}

std::string device_name(hwloc_obj_t device) {
  const std::string vendor = info_of(device, "PCIVendor"), model = info_of(device, "PCIDevice");
  if (!model.empty()) return vendor.empty() ? model : vendor + " " + model;
  char ids[16];
  std::snprintf(ids, sizeof(ids), "%04x:%04x", device->attr->pcidev.vendor_id,
                device->attr->pcidev.device_id);
  return ids;
}

std::string os_names_below(hwloc_obj_t device) {
  std::string names;
  for (hwloc_obj_t child = device->io_first_child; child != nullptr; child = child->next_sibling) {
    if (child->type != HWLOC_OBJ_OS_DEVICE || child->name == nullptr) continue;
    names += (names.empty() ? "" : " ") + std::string(child->name);
  }
  return names;
}

void read_devices(hwloc_topology_t raw, Topology& topology) {
  hwloc_obj_t device = nullptr;
  while ((device = hwloc_get_next_pcidev(raw, device)) != nullptr) {
    const auto& pci = device->attr->pcidev;
    const bool is_nvme = pci.class_id == kNvmeClass;
    const unsigned base = pci.class_id >> 8;
    if (!is_nvme && base != kDisplayBase && base != kAcceleratorBase) continue;
    char bus_id[24];
    std::snprintf(bus_id, sizeof(bus_id), "%04x:%02x:%02x.%x", pci.domain, pci.bus, pci.dev,
                  pci.func);
    topology.devices.push_back({.kind = is_nvme ? PciDevice::Kind::kNvme : PciDevice::Kind::kGpu,
                                .bus_id = bus_id,
                                .name = device_name(device),
                                .os_names = os_names_below(device),
                                .numa_node = nearest_node(raw, device)});
  }
  std::sort(topology.devices.begin(), topology.devices.end(),
            [](const PciDevice& a, const PciDevice& b) { return a.bus_id < b.bus_id; });
}

}  // namespace

int Topology::usable_thread_count() const { return usable_threads(allowed_pu_count, limits); }

Result<Topology> read_topology(std::string_view synthetic) {
  VKV_TRY_ASSIGN(handle, load(synthetic));
  const hwloc_topology_t raw = handle.get();
  Topology topology;
  topology.package_count = count_of(raw, HWLOC_OBJ_PACKAGE);
  topology.core_count = count_of(raw, HWLOC_OBJ_CORE);
  topology.pu_count = count_of(raw, HWLOC_OBJ_PU);
  if (const hwloc_obj_t package = hwloc_get_obj_by_type(raw, HWLOC_OBJ_PACKAGE, 0)) {
    topology.cpu_model = info_of(package, "CPUModel");
  }
  const Bitmap allowed = allowed_cpus(raw);
  topology.allowed_cpus = text_of(allowed.get());
  topology.allowed_pu_count = weight_of(allowed.get());
  read_nodes(raw, allowed.get(), topology);
  read_caches(raw, topology);
  read_devices(raw, topology);
  if (hwloc_topology_is_thissystem(raw) != 0) {
    topology.limits = read_cgroup_limits();
    topology.isa = read_isa_features();
  }
  return topology;
}

}  // namespace vkv
