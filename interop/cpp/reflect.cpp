// Unpacks every message with the official library (CRC checked), packs it again from the library's
// own fields, and sends it back. Prints what it read as JSON, one message a line.
//
//   reflect tcp PORT                   until its one client closes
//   reflect udp PORT TO                until an empty datagram comes
//
// What the library refuses, has no class for or cannot pack again comes back as a STATUS whose error
// name says so.

#include <iostream>

#include "igtlStatusMessage.h"

#include "messages.h"

int main(int argc, char** argv)
{
  auto channel = open_channel(argc, argv);
  for (Read result; read(*channel, result);)
    {
    std::cout << result.description << std::endl;
    igtl::MessageBase::Pointer answer = result.message;
    if (!result.repack)
      {
      igtl::StatusMessage::Pointer status = igtl::StatusMessage::New();
      const std::string why = result.description.value("refused", "not packed again");
      status->SetDeviceName("reflect");
      status->SetCode(igtl::StatusMessage::STATUS_UNKNOWN_ERROR);
      status->SetErrorName(why.substr(0, 19).c_str());
      status->SetStatusString(why.c_str());
      answer = status.GetPointer();
      }
    answer->Pack();
    channel->write(answer->GetPackPointer(), answer->GetPackSize());
    }
}
