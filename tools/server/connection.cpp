// connection.cpp: finds a socket by its two ends.
// SPDX-License-Identifier: Apache-2.0
#include "tools/server/connection.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <charconv>
#include <filesystem>
#include <string_view>
#include <system_error>

namespace vkv {
namespace {

struct End {
  std::string address;
  int port = -1;
};

End end_of(const sockaddr_storage& storage) {
  char text[INET6_ADDRSTRLEN] = {};
  if (storage.ss_family == AF_INET) {
    const auto& address = reinterpret_cast<const sockaddr_in&>(storage);
    inet_ntop(AF_INET, &address.sin_addr, text, sizeof(text));
    return {text, ntohs(address.sin_port)};
  }
  if (storage.ss_family == AF_INET6) {
    const auto& address = reinterpret_cast<const sockaddr_in6&>(storage);
    inet_ntop(AF_INET6, &address.sin6_addr, text, sizeof(text));
    return {text, ntohs(address.sin6_port)};
  }
  return {};
}

End end_of(int socket, int (*name)(int, sockaddr*, socklen_t*)) {
  sockaddr_storage storage = {};
  socklen_t byte_count = sizeof(storage);
  if (name(socket, reinterpret_cast<sockaddr*>(&storage), &byte_count) != 0) return {};
  return end_of(storage);
}

}  // namespace

Connection::Connection(const std::string& peer, int peer_port, int local_port) {
  std::error_code error;
  for (std::filesystem::directory_iterator entry("/proc/self/fd", error), end;
       !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename();
    int socket = -1;
    std::from_chars(name.data(), name.data() + name.size(), socket);
    const End other = end_of(socket, getpeername);
    if (other.port != peer_port || other.address != peer) continue;
    if (end_of(socket, getsockname).port != local_port) continue;
    socket_ = socket;
    return;
  }
}

bool Connection::is_closed() const {
  if (socket_ < 0) return false;
  char byte = 0;
  const ssize_t count = recv(socket_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return count == 0 || (count < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

void Connection::stop_reading() const {
  if (socket_ >= 0) (void)shutdown(socket_, SHUT_RD);
}

}  // namespace vkv
