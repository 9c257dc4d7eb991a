// Times the official library's codec: reads "WORK TIMES" lines, answers with the nanoseconds that took.
// Work ends in a value that is summed up, so that no compiler can leave it out.

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "igtlClientSocket.h"
#include "igtlImageMessage.h"
#include "igtlMessageHeader.h"
#include "igtlPointMessage.h"
#include "igtlPolyDataMessage.h"
#include "igtlServerSocket.h"
#include "igtlStringMessage.h"
#include "igtlTimeStamp.h"
#include "igtlTrackingDataMessage.h"
#include "igtlTransformMessage.h"
#include "igtl_util.h"

using namespace igtl;

static volatile std::uint64_t sink;
typedef std::vector<unsigned char> Bytes;

static void set_pose(Matrix4x4& m)
{
  for (int r = 0; r < 4; ++r)
    {
    for (int c = 0; c < 4; ++c)
      {
      m[r][c] = r == c;
      }
    }
  m[0][3] = 12.5;
}

// Packs again, too: 3.x skips a message that has not changed since it was packed.
template <class T>
static void pack(T& message)
{
#if OpenIGTLink_PROTOCOL_VERSION >= 3
  message->SetHeaderVersion(message->GetHeaderVersion());
#endif
  message->Pack();
}

template <class T>
static Bytes packed(T& message)
{
  pack(message);
  const auto* start = static_cast<unsigned char*>(message->GetPackPointer());
  return Bytes(start, start + message->GetPackSize());
}

// As a receiver does it: header, body, CRC checked.
template <class T>
static typename T::Pointer unpacked(const Bytes& wire)
{
  MessageHeader::Pointer header = MessageHeader::New();
  header->InitPack();
  std::memcpy(header->GetPackPointer(), wire.data(), header->GetPackSize());
  header->Unpack();
  typename T::Pointer message = T::New();
  message->SetMessageHeader(header);
  message->AllocatePack();
  std::memcpy(message->GetPackBodyPointer(), wire.data() + 58, message->GetPackBodySize());
  if (!(message->Unpack(1) & MessageHeader::UNPACK_BODY))
    {
    std::cerr << "not unpacked" << std::endl;
    std::exit(1);
    }
  return message;
}

static TransformMessage::Pointer transform()
{
  TransformMessage::Pointer message = TransformMessage::New();
  message->SetDeviceName("Probe");
  Matrix4x4 pose;
  set_pose(pose);
  message->SetMatrix(pose);
  return message;
}

// With the time of now in its header, which the library writes only when it is told.
static TransformMessage::Pointer stamped()
{
  TransformMessage::Pointer message = transform();
  TimeStamp::Pointer now = TimeStamp::New();
  now->GetTime();
  message->SetTimeStamp(now);
  return message;
}

static StringMessage::Pointer text()
{
  StringMessage::Pointer message = StringMessage::New();
  message->SetDeviceName("Probe");
  message->SetString("a few words");
  return message;
}

static PolyDataMessage::Pointer mesh(int triangles)
{
  PolyDataMessage::Pointer message = PolyDataMessage::New();
  PolyDataPointArray::Pointer points = PolyDataPointArray::New();
  PolyDataCellArray::Pointer cells = PolyDataCellArray::New();
  for (int i = 0; i < triangles; ++i)
    {
    points->AddPoint(0, 0, 0);
    igtlUint32 corners[3];
    for (int k = 0; k < 3; ++k)
      {
      corners[k] = (3 * i + k) % triangles;
      }
    cells->AddCell(3, corners);
    }
  message->SetPoints(points);
  message->SetPolygons(cells);
  return message;
}

static TrackingDataMessage::Pointer tools(int count)
{
  TrackingDataMessage::Pointer message = TrackingDataMessage::New();
  Matrix4x4 pose;
  set_pose(pose);
  for (int i = 0; i < count; ++i)
    {
    TrackingDataElement::Pointer tool = TrackingDataElement::New();
    tool->SetName(("Tool" + std::to_string(i)).c_str());
    tool->SetType(TrackingDataElement::TYPE_6D);
    tool->SetMatrix(pose);
    message->AddTrackingDataElement(tool);
    }
  return message;
}

static ImageMessage::Pointer image(int i, int j, int k, int type)
{
  ImageMessage::Pointer message = ImageMessage::New();
  message->SetDimensions(i, j, k);
  message->SetScalarType(type);
  message->SetEndian(ImageMessage::ENDIAN_LITTLE);
  message->AllocateScalars();
  std::memset(message->GetScalarPointer(), 7, message->GetImageSize());
  return message;
}

static PointMessage::Pointer points(int count)
{
  PointMessage::Pointer message = PointMessage::New();
  for (int i = 0; i < count; ++i)
    {
    PointElement::Pointer point = PointElement::New();
    point->SetName(("P" + std::to_string(i)).c_str());
    point->SetGroupName("Fiducial");
    point->SetPosition(i, 2, 3);
    message->AddPointElement(point);
    }
  return message;
}

static std::map<std::string, std::function<void()>> works;

static void add_image(const std::string& name, int i, int j, int k, int type)
{
  ImageMessage::Pointer message = image(i, j, k, type);
  auto wire = std::make_shared<Bytes>(packed(message));
  works[name + " pack"] = [=]() mutable {
    pack(message);
    sink = sink + message->GetPackSize();
  };
  works[name + " unpack"] = [=] {
    sink = sink + static_cast<unsigned char*>(unpacked<ImageMessage>(*wire)->GetScalarPointer())[0];
  };
}

static void add_tools(int count)
{
  const std::string name = "TDATA " + std::to_string(count);
  TrackingDataMessage::Pointer message = tools(count);
  auto wire = std::make_shared<Bytes>(packed(message));
  works[name + " pack"] = [=]() mutable {
    pack(message);
    sink = sink + message->GetPackSize();
  };
  works[name + " unpack"] = [=] {
    TrackingDataMessage::Pointer m = unpacked<TrackingDataMessage>(*wire);
    Matrix4x4 pose;
    for (int i = 0; i < m->GetNumberOfTrackingDataElements(); ++i)
      {
      TrackingDataElement::Pointer tool = TrackingDataElement::New();
      m->GetTrackingDataElement(i, tool);
      tool->GetMatrix(pose);
      sink = sink + static_cast<std::uint64_t>(pose[0][3]);
      }
  };
}

static void add_points(int count)
{
  const std::string name = "POINT " + std::to_string(count);
  PointMessage::Pointer list = points(count);
  auto wire = std::make_shared<Bytes>(packed(list));
  works[name + " pack"] = [=]() mutable {
    pack(list);
    sink = sink + list->GetPackSize();
  };
  works[name + " build and pack"] = [=] {
    PointMessage::Pointer message = points(count);
    pack(message);
    sink = sink + message->GetPackSize();
  };
  works[name + " unpack"] = [=] {
    PointMessage::Pointer m = unpacked<PointMessage>(*wire);
    float position[3];
    for (int i = 0; i < m->GetNumberOfPointElement(); ++i)
      {
      PointElement::Pointer point = PointElement::New();
      m->GetPointElement(i, point);
      point->GetPosition(position);
      sink = sink + static_cast<std::uint64_t>(position[1]);
      }
  };
}

static void add_mesh(int triangles)
{
  const std::string name = "POLYDATA " + std::to_string(triangles) + " triangles";
  PolyDataMessage::Pointer message = mesh(triangles);
  auto wire = std::make_shared<Bytes>(packed(message));
  works[name + " pack"] = [=]() mutable {
    pack(message);
    sink = sink + message->GetPackSize();
  };
  works[name + " unpack"] = [=] {
    sink = sink + unpacked<PolyDataMessage>(*wire)->GetPolygons()->GetNumberOfCells();
  };
}

static bool receive(Socket* socket, void* to, igtlUint64 size)
{
#if OpenIGTLink_PROTOCOL_VERSION >= 3
  bool timeout = false;
  return socket->Receive(to, size, timeout) == size;
#else
  return socket->Receive(to, size) == static_cast<int>(size);
#endif
}

static TransformMessage::Pointer received(Socket* socket)
{
  MessageHeader::Pointer header = MessageHeader::New();
  header->InitPack();
  if (!receive(socket, header->GetPackPointer(), header->GetPackSize()))
    {
    std::exit(0);
    }
  header->Unpack();
  TransformMessage::Pointer message = TransformMessage::New();
  message->SetMessageHeader(header);
  message->AllocatePack();
  receive(socket, message->GetPackBodyPointer(), message->GetPackBodySize());
  message->Unpack(1);
  return message;
}

// The library at both ends of a connection: the other one is a process of its own.
static void round_trip()
{
  static ClientSocket::Pointer client;
  static TransformMessage::Pointer message = transform();
  if (client.IsNull())
    {
    // kept: its destructor would shut the socket down that the other process is to accept from
    static ServerSocket::Pointer server = ServerSocket::New();
    server->CreateServer(0);
    if (fork() == 0)
      {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      igtl::Socket::Pointer peer = server->WaitForConnection(10000).GetPointer();
      for (;;)
        {
        TransformMessage::Pointer got = received(peer);
        pack(got);
        peer->Send(got->GetPackPointer(), got->GetPackSize());
        }
      }
    client = ClientSocket::New();
    client->ConnectToServer("127.0.0.1", server->GetServerPort());
    }
  pack(message);
  client->Send(message->GetPackPointer(), message->GetPackSize());
  Matrix4x4 pose;
  received(client)->GetMatrix(pose);
  sink = sink + static_cast<std::uint64_t>(pose[0][3]);
}

int main()
{
  works["round trip"] = round_trip;
  TransformMessage::Pointer reused = transform();
  const Bytes wire = packed(reused);
  works["TRANSFORM pack"] = [&] {
    pack(reused);
    sink = sink + reused->GetPackSize();
  };
  works["TRANSFORM build and pack"] = [&] {
    TransformMessage::Pointer message = transform();
    pack(message);
    sink = sink + message->GetPackSize();
  };
  works["TRANSFORM stamped"] = [&] {
    TransformMessage::Pointer message = stamped();
    pack(message);
    sink = sink + message->GetPackSize();
  };
  StringMessage::Pointer words = text();
  const Bytes words_wire = packed(words);
  works["STRING pack"] = [&] {
    pack(words);
    sink = sink + words->GetPackSize();
  };
  works["STRING build and pack"] = [&] {
    StringMessage::Pointer message = text();
    pack(message);
    sink = sink + message->GetPackSize();
  };
  works["STRING unpack"] = [&] {
    StringMessage::Pointer m = unpacked<StringMessage>(words_wire);
    sink = sink + std::strlen(m->GetString());
  };
  works["TDATA 5 build and pack"] = [&] {
    TrackingDataMessage::Pointer message = tools(5);
    pack(message);
    sink = sink + message->GetPackSize();
  };
  works["IMAGE 64x64 u8 build and pack"] = [&] {
    ImageMessage::Pointer message = image(64, 64, 1, 3);
    pack(message);
    sink = sink + message->GetPackSize();
  };
  works["TRANSFORM unpack"] = [&] {
    Matrix4x4 pose;
    unpacked<TransformMessage>(wire)->GetMatrix(pose);
    sink = sink + static_cast<std::uint64_t>(pose[0][3]);
  };
  for (int count : {1, 2, 5, 10, 20, 50, 100, 200})
    {
    add_tools(count);
    }
  for (int side : {64, 128, 256, 512, 1024, 2048, 4096})
    {
    add_image("IMAGE " + std::to_string(side) + "x" + std::to_string(side) + " u8", side, side, 1, 3);
    }
  add_image("IMAGE 640x480 u8", 640, 480, 1, 3);
  add_image("IMAGE 512x512x100 u16", 512, 512, 100, 5);

  add_points(1000);
  add_points(10000);
  add_mesh(50000);
  for (std::size_t size : {48, 1048576, 52428800})
    {
    auto data = std::make_shared<Bytes>(size, 7);
    works["CRC-64 " + std::to_string(size)] = [=] { sink = sink + crc64(data->data(), size, 0); };
    }

  for (std::string line; std::getline(std::cin, line);)
    {
    const auto space = line.rfind(' ');
    const auto found = works.find(line.substr(0, space));
    if (found == works.end())
      {
      std::cout << "-" << std::endl;
      continue;
      }
    const long times = std::stol(line.substr(space + 1));
    const auto begin = std::chrono::steady_clock::now();
    for (long i = 0; i < times; ++i)
      {
      found->second();
      }
    const auto end = std::chrono::steady_clock::now();
    std::cout << std::chrono::duration_cast<std::chrono::nanoseconds>(end - begin).count() << std::endl;
    }
}
