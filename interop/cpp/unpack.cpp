// Unpacks messages from the standard input with the official library and prints them as JSON, one a
// line, with the bytes that the library packs from what it read.
//
//   unpack < messages
//   unpack abilities                   prints the types that the library has

#include <iostream>

#include "messages.h"

int main(int argc, char** argv)
{
  if (argc == 2 && std::string(argv[1]) == "abilities")
    {
    std::cout << abilities() << std::endl;
    return 0;
    }
  auto channel = open_channel(argc, argv);
  for (Read result; read(*channel, result);)
    {
    if (result.repack)
      {
      result.message->Pack();
      result.description["repacked"]
        = hex(result.message->GetPackPointer(), result.message->GetPackSize());
      }
    std::cout << result.description << std::endl;
    }
}
