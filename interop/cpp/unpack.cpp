// Messages from the standard input, unpacked by the official library, as JSON, one a line, with the
// bytes it makes when it packs what it read again.
//
//   unpack < messages
//   unpack abilities                   what the library has classes for

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
