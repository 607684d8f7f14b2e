// tile_worker.cpp: an engine's products and the loops around them.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/tile_worker.h"

#include "cpu/cpu_features.h"
#include "cpu/products_amx.h"
#include "cpu/products_onednn.h"
#include "cpu/products_vnni.h"

namespace vkv {
namespace {

std::unique_ptr<TileProducts> make_products(TileEngine engine, const MatrixUnit& unit,
                                            BrgemmCache& kernels) {
  const TileFunctions& functions = tile_functions_for(unit);
  if (engine == TileEngine::kOnednn) return std::make_unique<OnednnProducts>(functions, kernels);
  if (engine == TileEngine::kVnni) return std::make_unique<VnniProducts>(functions, kernels);
  const AmxFunctions& tiles =
      engine == TileEngine::kAmx ? amx::amx_functions() : amx_emulated::amx_functions();
  return std::make_unique<AmxProducts>(tiles, functions, kernels);
}

}  // namespace

bool exact_8_bit(TileEngine engine, const MatrixUnit& unit) {
  return engine != TileEngine::kOnednn || unit.exact_8_bit;
}

ContestTable& contest_table() {
  static ContestTable table;
  return table;
}

std::unique_ptr<TileProducts> make_products(std::span<const TileEngine> engines,
                                            const MatrixUnit& unit, BrgemmCache& kernels) {
  std::unique_ptr<TileProducts> first = make_products(engines[0], unit, kernels);
  if (engines.size() == 1) return first;
  return std::make_unique<ContestedProducts>(
      std::move(first), make_products(engines[1], unit, kernels), contest_table());
}

bool use_avx512(const MatrixUnit& unit) { return unit.has_avx512 && cpu_has_avx512(); }

const TileFunctions& tile_functions_for(const MatrixUnit& unit) {
  return use_avx512(unit) ? avx512::tile_functions() : avx2::tile_functions();
}

TileWorker::TileWorker(std::span<const TileEngine> engines, const MatrixUnit& unit,
                       BrgemmCache& kernels)
    : products(make_products(engines, unit, kernels)),
      attention(tile_functions_for(unit), *products, exact_8_bit(engines[0], unit)) {}

}  // namespace vkv
