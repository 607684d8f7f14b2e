// version.h: which VisualKV this is: the one place that says so. CMake reads these three lines.
// SPDX-License-Identifier: Apache-2.0
//
// Semantic versions. While the first number is 0, the second one changes with every change that
// programs must be built anew for, and is part of the shared library's name.
//
// VKV_API marks what the shared library exports; all else in it is hidden.
#pragma once

#define VKV_VERSION_MAJOR 0
#define VKV_VERSION_MINOR 1
#define VKV_VERSION_PATCH 0

#define VKV_JOINED_VERSION(major, minor, patch) #major "." #minor "." #patch
#define VKV_VERSION_OF(major, minor, patch) VKV_JOINED_VERSION(major, minor, patch)

// "0.1.0", of the headers; vkv_version_text() of vkv.h tells the library's.
#define VKV_VERSION VKV_VERSION_OF(VKV_VERSION_MAJOR, VKV_VERSION_MINOR, VKV_VERSION_PATCH)

#define VKV_API __attribute__((visibility("default")))
