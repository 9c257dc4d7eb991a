// Source and destination of messages: standard input and output, one TCP client, or UDP.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

class Channel
{
public:
  virtual ~Channel() = default;

  // Reads exactly `size` bytes; false at the end of the stream or at an empty datagram.
  virtual bool read(void* to, std::size_t size) = 0;

  // Writes one whole message; over UDP, one datagram.
  virtual void write(const void* from, std::size_t size) = 0;
};

// Opens the channel that the arguments name: none for standard input and output; "tcp PORT" for a
// server of one client; "udp PORT TO" for datagrams received at PORT and sent to TO. PORT 0 takes a
// free port. The port is printed as {"port": N}. Loopback only.
std::unique_ptr<Channel> open_channel(int argc, char** argv);
