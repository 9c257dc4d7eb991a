// Unpacks every message with the official library (CRC checked), packs it again from the library's
// own fields, and sends it back. Prints what it read as JSON, one message a line.
//
//   reflect tcp PORT                   runs until its one client closes
//   reflect udp PORT TO                runs until an empty datagram arrives
//
// A message that the library refuses, does not know or cannot pack again is answered by a STATUS whose
// error name tells the reason.

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
