// Packs JSON descriptions, one a line on the standard input, with the official library and sends them.
//
//   pack < descriptions > messages
//   pack tcp PORT | pack udp PORT TO    one answer a line: {"sent": bytes} or {"refused": why}

#include <iostream>

#include "messages.h"

int main(int argc, char** argv)
{
  auto channel = open_channel(argc, argv);
  for (std::string line; std::getline(std::cin, line);)
    {
    json answer;
    try
      {
      const auto message = pack(json::parse(line));
      channel->write(message->GetPackPointer(), message->GetPackSize());
      answer["sent"] = message->GetPackSize();
      }
    catch (const std::exception& error)
      {
      answer["refused"] = error.what();
      }
    (argc > 1 ? std::cout : std::cerr) << answer << std::endl;
    }
}
