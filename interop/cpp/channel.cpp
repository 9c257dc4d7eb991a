#include "channel.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace
{

class Stream : public Channel
{
public:
  Stream(int in, int out) : in_(in), out_(out) {}

  bool read(void* to, std::size_t size) override
  {
    auto* at = static_cast<char*>(to);
    while (size > 0)
      {
      const ssize_t n = ::read(in_, at, size);
      if (n <= 0)
        {
        return false;
        }
      at += n;
      size -= n;
      }
    return true;
  }

  void write(const void* from, std::size_t size) override
  {
    auto* at = static_cast<const char*>(from);
    while (size > 0)
      {
      const ssize_t n = ::write(out_, at, size);
      if (n <= 0)
        {
        throw std::runtime_error("the peer closed the connection");
        }
      at += n;
      size -= n;
      }
  }

private:
  int in_;
  int out_;
};

class Datagrams : public Channel
{
public:
  Datagrams(int socket, sockaddr_in to) : socket_(socket), to_(to), datagram_(65536) {}

  bool read(void* to, std::size_t size) override
  {
    if (at_ == size_ && size > 0)
      {
      const ssize_t n = ::recv(socket_, datagram_.data(), datagram_.size(), 0);
      at_ = 0;
      size_ = n < 0 ? 0 : n;
      }
    if (size_ - at_ < size)
      {
      at_ = size_ = 0;
      return false;
      }
    std::memcpy(to, datagram_.data() + at_, size);
    at_ += size;
    return true;
  }

  void write(const void* from, std::size_t size) override
  {
    if (::sendto(socket_, from, size, 0, reinterpret_cast<sockaddr*>(&to_), sizeof to_) < 0)
      {
      throw std::runtime_error(std::strerror(errno));
      }
  }

private:
  int socket_;
  sockaddr_in to_;
  std::vector<char> datagram_;
  std::size_t at_ = 0;
  std::size_t size_ = 0;
};

sockaddr_in loopback(const char* port)
{
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(std::atoi(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

int bound(int kind, const char* port)
{
  const int socket = ::socket(AF_INET, kind, 0);
  const int on = 1;
  ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address = loopback(port);
  socklen_t length = sizeof address;
  if (::bind(socket, reinterpret_cast<sockaddr*>(&address), length) != 0
      || ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &length) != 0
      || (kind == SOCK_STREAM && ::listen(socket, 1) != 0))
    {
    throw std::runtime_error(std::string("port ") + port + ": " + std::strerror(errno));
    }
  std::printf("{\"port\": %d}\n", ntohs(address.sin_port));
  std::fflush(stdout);
  return socket;
}

} // namespace

std::unique_ptr<Channel> open_channel(int argc, char** argv)
{
  const std::string how = argc > 1 ? argv[1] : "";
  if (argc == 1)
    {
    return std::make_unique<Stream>(STDIN_FILENO, STDOUT_FILENO);
    }
  if (argc == 4 && how == "udp")
    {
    return std::make_unique<Datagrams>(bound(SOCK_DGRAM, argv[2]), loopback(argv[3]));
    }
  if (argc == 3 && how == "tcp")
    {
    const int listening = bound(SOCK_STREAM, argv[2]);
    const int socket = ::accept(listening, nullptr, nullptr);
    const int on = 1;
    ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ::close(listening);
    return std::make_unique<Stream>(socket, socket);
    }
  std::fprintf(stderr, "usage: %s [tcp PORT | udp PORT TO]\n", argv[0]);
  std::exit(2);
}
