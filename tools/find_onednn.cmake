# find_onednn.cmake: finds the oneDNN that tools/setup.sh built, or one that the caller names.
# SPDX-License-Identifier: Apache-2.0
#
# CMAKE_PREFIX_PATH comes first. Else it is the folder that tools/build_onednn.sh builds into: its
# name ends with the recipe's own hash, so that a new recipe is never mixed with an old build.
if(DEFINED ENV{VKV_CACHE})
  set(vkv_cache "$ENV{VKV_CACHE}")
elseif(DEFINED ENV{XDG_CACHE_HOME})
  set(vkv_cache "$ENV{XDG_CACHE_HOME}/vkv")
else()
  set(vkv_cache "$ENV{HOME}/.cache/vkv")
endif()
set(vkv_recipe ${CMAKE_CURRENT_LIST_DIR}/build_onednn.sh)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${vkv_recipe})
file(SHA256 ${vkv_recipe} vkv_recipe_hash)
string(SUBSTRING ${vkv_recipe_hash} 0 16 vkv_recipe_hash)
set(vkv_onednn_folder ${vkv_cache}/onednn-${vkv_recipe_hash})

# What an earlier configure found in the cache goes stale when the recipe changes.
string(FIND "${dnnl_DIR}" ${vkv_cache}/onednn- vkv_found_in_cache)
if(vkv_found_in_cache EQUAL 0)
  unset(dnnl_DIR CACHE)
endif()
find_package(dnnl 3.7 CONFIG QUIET HINTS ${vkv_onednn_folder})
if(NOT dnnl_FOUND)
  message(FATAL_ERROR "oneDNN 3.7 is in neither ${vkv_onednn_folder} nor CMAKE_PREFIX_PATH "
                      "(${CMAKE_PREFIX_PATH}). Run tools/setup.sh, which builds it.")
endif()
if(NOT DNNL_CPU_THREADING_RUNTIME STREQUAL "TBB")
  message(FATAL_ERROR "The oneDNN in ${dnnl_DIR} runs on ${DNNL_CPU_THREADING_RUNTIME}; vkv needs "
                      "one on TBB. Run tools/setup.sh, which builds it.")
endif()
message(STATUS "oneDNN ${dnnl_VERSION}: ${dnnl_DIR}")
