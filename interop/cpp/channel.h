// Where messages come from and go to: the process's own input and output, one TCP client, or UDP.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

class Channel
{
public:
  virtual ~Channel() = default;

  // Exactly `size` bytes; false when the peer is done (a closed stream, an empty datagram).
  virtual bool read(void* to, std::size_t size) = 0;

  // One whole message: over UDP one datagram.
  virtual void write(const void* from, std::size_t size) = 0;
};

// From the command line: nothing; "tcp PORT", to be a server of one client; or "udp PORT TO", to read
// datagrams that come to PORT and write to TO. PORT 0 takes a free one, which is printed as
// {"port": N}. Loopback only.
std::unique_ptr<Channel> open_channel(int argc, char** argv);
