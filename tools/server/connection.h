// connection.h: whether the client of a request is still there.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace vkv {

// The socket of this process that is connected from local_port to the peer. cpp-httplib tells a
// handler both addresses, but not the socket. Used by the thread that serves the connection, which
// keeps the socket open.
class Connection {
 public:
  Connection(const std::string& peer, int peer_port, int local_port);

  // The peer has closed its side, or the connection is broken. False if the socket is not found.
  bool is_closed() const;
  // Nothing more is read from it: the connection ends when the response is out.
  void stop_reading() const;

 private:
  int socket_ = -1;
};

}  // namespace vkv
