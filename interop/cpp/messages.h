// Converts messages of the official library from and to JSON.
//
// A description has the keys of the golden vectors' manifest (tests/vectors/README.md): type,
// device_name, timestamp {sec, frac}, content; and for header version 2 header_version, message_id
// and metadata. Pixels are `pixel_hex`, their bytes on the wire.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "igtlMessageBase.h"

#include "channel.h"

using json = nlohmann::json;

// {"library": "1.11", "header_version": 1, "types": {...}}: the types for which this library has a
// class, with {"unpack": why} where that class cannot read its own type.
json abilities();

// Packs a message; throws std::exception if the library cannot.
igtl::MessageBase::Pointer pack(const json& description);

// One message as the library read it. The description of a message that it refuses has `refused`.
struct Read
{
  igtl::MessageBase::Pointer message;
  json description;
  bool repack = false; // Pack() again is possible
};

// Reads the next message and checks its CRC; false at the end.
bool read(Channel& channel, Read& result);

std::string hex(const void* data, std::size_t size);
