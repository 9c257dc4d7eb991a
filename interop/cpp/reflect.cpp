// Connects to a server, unpacks every message it is sent with the official library (CRC checked),
// packs it again from the library's own fields, and sends it back.
//
//   reflect HOST PORT
//
// A message that the library refuses, or has no class for, comes back as a STATUS whose error
// name says so.

#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <string>

#include "igtlBindMessage.h"
#include "igtlCapabilityMessage.h"
#include "igtlClientSocket.h"
#include "igtlColorTableMessage.h"
#include "igtlImageMessage.h"
#include "igtlImageMetaMessage.h"
#include "igtlLabelMetaMessage.h"
#include "igtlMessageHeader.h"
#include "igtlNDArrayMessage.h"
#include "igtlPointMessage.h"
#include "igtlPolyDataMessage.h"
#include "igtlPositionMessage.h"
#include "igtlQuaternionTrackingDataMessage.h"
#include "igtlSensorMessage.h"
#include "igtlStatusMessage.h"
#include "igtlStringMessage.h"
#include "igtlTrackingDataMessage.h"
#include "igtlTrajectoryMessage.h"
#include "igtlTransformMessage.h"

typedef igtl::MessageBase::Pointer Any;

template <class T>
Any make()
{
  typename T::Pointer message = T::New();
  return Any(message.GetPointer());
}

static bool fill(igtl::Socket* socket, void* data, int size)
{
  return size == 0 || socket->Receive(data, size) == size;
}

static void refuse(igtl::Socket* socket, const char* why, const std::string& type)
{
  igtl::StatusMessage::Pointer status = igtl::StatusMessage::New();
  status->SetDeviceName("reflect");
  status->SetCode(igtl::StatusMessage::STATUS_UNKNOWN_ERROR);
  status->SetErrorName(why);
  status->SetStatusString(type.c_str());
  status->Pack();
  socket->Send(status->GetPackPointer(), status->GetPackSize());
}

int main(int argc, char** argv)
{
  if (argc != 3)
    {
    std::cerr << "usage: reflect HOST PORT" << std::endl;
    return 2;
    }
  std::map<std::string, Any (*)()> makers;
  makers["TRANSFORM"] = make<igtl::TransformMessage>;
  makers["POSITION"] = make<igtl::PositionMessage>;
  makers["IMAGE"] = make<igtl::ImageMessage>;
  makers["STATUS"] = make<igtl::StatusMessage>;
  makers["CAPABILITY"] = make<igtl::CapabilityMessage>;
  makers["STRING"] = make<igtl::StringMessage>;
  makers["POINT"] = make<igtl::PointMessage>;
  makers["TRAJ"] = make<igtl::TrajectoryMessage>;
  makers["TDATA"] = make<igtl::TrackingDataMessage>;
  makers["QTDATA"] = make<igtl::QuaternionTrackingDataMessage>;
  makers["STT_TDATA"] = make<igtl::StartTrackingDataMessage>;
  makers["IMGMETA"] = make<igtl::ImageMetaMessage>;
  makers["LBMETA"] = make<igtl::LabelMetaMessage>;
  makers["SENSOR"] = make<igtl::SensorMessage>;
  makers["NDARRAY"] = make<igtl::NDArrayMessage>;
  makers["POLYDATA"] = make<igtl::PolyDataMessage>;
  makers["COLORT"] = make<igtl::ColorTableMessage>;

  igtl::ClientSocket::Pointer socket = igtl::ClientSocket::New();
  if (socket->ConnectToServer(argv[1], std::atoi(argv[2])) != 0)
    {
    std::cerr << "cannot connect" << std::endl;
    return 1;
    }
  for (;;)
    {
    igtl::MessageHeader::Pointer header = igtl::MessageHeader::New();
    header->InitPack();
    if (!fill(socket, header->GetPackPointer(), header->GetPackSize()))
      {
      return 0; // the peer closed
      }
    header->Unpack();
    const std::string type = header->GetDeviceType();
    if (makers.find(type) == makers.end())
      {
      socket->Skip(header->GetBodySizeToRead(), 0);
      refuse(socket, "no class", type);
      continue;
      }
    Any message = makers[type]();
    message->SetMessageHeader(header);
    message->AllocatePack();
    if (!fill(socket, message->GetPackBodyPointer(), message->GetPackBodySize()))
      {
      return 1;
      }
    if (!(message->Unpack(1) & igtl::MessageHeader::UNPACK_BODY))
      {
      refuse(socket, "refused", type);
      continue;
      }
    message->Pack();
    socket->Send(message->GetPackPointer(), message->GetPackSize());
    }
}
