// Messages of the official library from and to JSON.
//
// A description has the keys of the golden vectors' manifest (tests/vectors/README.md): type,
// device_name, timestamp {sec, frac}, content; and for header version 2 header_version, message_id
// and metadata. Pixels are `pixel_hex`, the bytes as they stand on the wire.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "igtlMessageBase.h"

#include "channel.h"

using json = nlohmann::json;

// {"library": "1.11", "types": {...}}: what this library has a class for, and what it cannot do
// with it: {"pack": why} or {"unpack": why}.
json abilities();

// The packed message; throws std::exception when the library cannot.
igtl::MessageBase::Pointer pack(const json& description);

// One message as the library read it. `message` is null where there is `refused`.
struct Read
{
  igtl::MessageBase::Pointer message;
  json description;
  bool repack = false; // Pack() again is possible
};

// The next message, its CRC checked; false at the end.
bool read(Channel& channel, Read& result);

std::string hex(const void* data, std::size_t size);
