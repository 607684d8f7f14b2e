# debian.cmake: three Debian packages, made by `cpack` in the build folder.
# SPDX-License-Identifier: Apache-2.0
#
# libvkvN runs programs, libvkv-dev builds them, vkv is the program. dpkg-shlibdeps finds what they
# depend on; oneDNN, which Debian 12 has too old, is in libvkvN, where the others look for it.
set(library_package libvkv${abi_version})
set(this_version "(= ${PROJECT_VERSION})")

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME vkv)
set(CPACK_PACKAGE_VENDOR VisualKV)
set(CPACK_PACKAGE_CONTACT "The developers of VisualKV")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL runtime development)
if(TARGET vkv_program)
  list(APPEND CPACK_COMPONENTS_ALL program)
endif()

set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_RELEASE "")
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
get_target_property(onednn_file DNNL::dnnl IMPORTED_LOCATION_${onednn_build})
get_filename_component(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${onednn_file} DIRECTORY)

# What CPack would write itself, but it takes our oneDNN for one that is everybody's.
set(control ${CMAKE_CURRENT_BINARY_DIR}/debian)
file(WRITE ${control}/shlibs "libvkv ${abi_version} ${library_package} ${this_version}\n")
set(CPACK_DEBIAN_RUNTIME_PACKAGE_CONTROL_EXTRA ${control}/shlibs)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_NAME ${library_package})
set(CPACK_DEBIAN_RUNTIME_PACKAGE_SECTION libs)
set(CPACK_COMPONENT_RUNTIME_DESCRIPTION "Quantized KV cache of multimodal LLMs (library)
VisualKV keeps the KV cache of a multimodal LLM in GPU memory, in DRAM and on NVMe, with visual
tokens encoded at 1 to 8 bits, and computes attention on the codes.")

set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libvkv-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS
    "${library_package} ${this_version}, libtbb-dev, libhwloc-dev, liburing-dev")
set(CPACK_COMPONENT_DEVELOPMENT_DESCRIPTION "Quantized KV cache of multimodal LLMs (development)
Headers for C++20 and C11, CMake and pkg-config files, and the static library.")

set(CPACK_DEBIAN_PROGRAM_PACKAGE_NAME vkv)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_DEPENDS "${library_package} ${this_version}")
set(CPACK_COMPONENT_PROGRAM_DESCRIPTION "Quantized KV cache of multimodal LLMs (program)
Runs image and video jobs with Hugging Face LLaVA and GGUF checkpoints.")

include(CPack)
