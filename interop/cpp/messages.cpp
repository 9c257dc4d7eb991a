#include "messages.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <stdexcept>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "igtlBindMessage.h"
#include "igtlCapabilityMessage.h"
#include "igtlColorTableMessage.h"
#include "igtlConfigure.h"
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
#include "igtl_util.h"

#ifndef OpenIGTLink_HEADER_VERSION // protocol 2 libraries do not define it
#define OpenIGTLink_HEADER_VERSION 1
#endif
#if OpenIGTLink_PROTOCOL_VERSION >= 3
#include "igtlCommandMessage.h"
#include "igtlQueryMessage.h"
#if defined(OpenIGTLink_ENABLE_VIDEOSTREAMING)
#include "igtlVideoMessage.h"
#include "igtlVideoMetaMessage.h"
#endif
#endif

namespace
{

typedef igtl::MessageBase::Pointer Any;

// 1.11 writes 28 bytes into its buffer when it packs a POSITION of 12 or 24 bytes.
const bool overruns_short_positions = OpenIGTLink_PROTOCOL_VERSION < 3;

// ---- small conversions --------------------------------------------------------------------------

std::string text(const json& value)
{
  return value.get<std::string>();
}

template <class T, std::size_t N>
void numbers(const json& from, T (&to)[N])
{
  for (std::size_t i = 0; i < N; ++i)
    {
    to[i] = from.at(i).get<T>();
    }
}

template <class T>
json list(const T* values, std::size_t count)
{
  json out = json::array();
  for (std::size_t i = 0; i < count; ++i)
    {
    out.push_back(values[i]);
    }
  return out;
}

// Rows of the manifest's 4x4 `matrix`.
void matrix(const json& rows, igtl::Matrix4x4& to)
{
  for (int r = 0; r < 4; ++r)
    {
    numbers(rows.at(r), to[r]);
    }
}

json matrix(const igtl::Matrix4x4& from)
{
  json rows = json::array();
  for (int r = 0; r < 4; ++r)
    {
    rows.push_back(list(from[r], 4));
    }
  return rows;
}

// The twelve floats of an image's matrix, column by column as on the wire.
void wire_matrix(const json& wire, igtl::Matrix4x4& to)
{
  for (int i = 0; i < 12; ++i)
    {
    to[i % 3][i / 3] = wire.at(i).get<float>();
    }
  for (int c = 0; c < 4; ++c)
    {
    to[3][c] = c == 3;
    }
}

json wire_matrix(const igtl::Matrix4x4& from)
{
  json out = json::array();
  for (int i = 0; i < 12; ++i)
    {
    out.push_back(from[i % 3][i / 3]);
    }
  return out;
}

// Places an image or a video frame as applications do: the spacing apart from the unit vectors.
template <class T>
void set_place(T& m, const json& wire)
{
  igtl::Matrix4x4 values;
  wire_matrix(wire, values);
  float spacing[3], unit[3][3];
  for (int axis = 0; axis < 3; ++axis)
    {
    spacing[axis] = std::sqrt(values[0][axis] * values[0][axis] + values[1][axis] * values[1][axis]
                              + values[2][axis] * values[2][axis]);
    for (int r = 0; r < 3; ++r)
      {
      unit[axis][r] = spacing[axis] == 0 ? 0 : values[r][axis] / spacing[axis];
      }
    }
  m.SetSpacing(spacing);
  m.SetNormals(unit[0], unit[1], unit[2]);
  m.SetOrigin(values[0][3], values[1][3], values[2][3]);
}

template <class T>
json place(T& m)
{
  float spacing[3], unit[3][3], origin[3];
  m.GetSpacing(spacing);
  m.GetNormals(unit[0], unit[1], unit[2]);
  m.GetOrigin(origin);
  igtl::Matrix4x4 values = {};
  for (int r = 0; r < 3; ++r)
    {
    for (int axis = 0; axis < 3; ++axis)
      {
      values[r][axis] = unit[axis][r] * spacing[axis];
      }
    values[r][3] = origin[r];
    }
  return wire_matrix(values);
}

std::vector<unsigned char> bytes(const std::string& hex)
{
  std::vector<unsigned char> out(hex.size() / 2);
  for (std::size_t i = 0; i < out.size(); ++i)
    {
    out[i] = std::stoi(hex.substr(2 * i, 2), nullptr, 16);
    }
  return out;
}

int header_version(const igtl::MessageBase& message)
{
#if OpenIGTLink_HEADER_VERSION >= 2
  return message.GetHeaderVersion();
#else
  return 1;
#endif
}

// ---- the types ----------------------------------------------------------------------------------

// Functions that create a message of a type, set it from the `content` of a description, describe it.
struct Kind
{
  std::function<Any()> make;
  std::function<void(igtl::MessageBase&, const json&)> set;
  std::function<void(igtl::MessageBase&, json&)> describe;
  std::string cannot_unpack; // the reason, if the library's class cannot read its own type
};

std::map<std::string, Kind> kinds;

template <class T>
Kind& add(const char* type, void (*set)(T&, const json&) = nullptr,
          void (*describe)(T&, json&) = nullptr)
{
  Kind& kind = kinds[type];
  kind.make = [] { return Any(T::New().GetPointer()); };
  kind.set = [set](igtl::MessageBase& message, const json& content) {
    if (set)
      {
      set(static_cast<T&>(message), content);
      }
  };
  kind.describe = [describe](igtl::MessageBase& message, json& content) {
    if (describe)
      {
      describe(static_cast<T&>(message), content);
      }
  };
  return kind;
}

// Messages that are a list of elements of class E.
// append, count and get are its member functions; their exact types depend on the library.
template <class T, class E, class Append, class Count, class Get>
Kind& add_list(const char* type, void (*set)(E&, const json&), void (*describe)(E&, json&),
               Append append, Count count, Get get)
{
  Kind& kind = add<T>(type);
  kind.set = [=](igtl::MessageBase& message, const json& content) {
    for (const json& from : content.at("elements"))
      {
      typename E::Pointer element = E::New();
      set(*element, from);
      (static_cast<T&>(message).*append)(element);
      }
  };
  kind.describe = [=](igtl::MessageBase& message, json& content) {
    T& self = static_cast<T&>(message);
    content["elements"] = json::array();
    for (int i = 0; i < (self.*count)(); ++i)
      {
      typename E::Pointer element = E::New();
      (self.*get)(i, element);
      json described;
      describe(*element, described);
      content["elements"].push_back(described);
      }
  };
  return kind;
}

template <class T>
void add_status_byte(const char* type)
{
  add<T>(type, +[](T& m, const json& c) { m.SetStatus(c.at("status").get<int>()); },
         +[](T& m, json& c) { c["status"] = static_cast<int>(m.GetStatus()); });
}

void add_tracking()
{
  using namespace igtl;
  add<TransformMessage>(
    "TRANSFORM",
    +[](TransformMessage& m, const json& c) {
      Matrix4x4 values;
      matrix(c.at("matrix"), values);
      m.SetMatrix(values);
    },
    +[](TransformMessage& m, json& c) {
      Matrix4x4 values;
      m.GetMatrix(values);
      c["matrix"] = matrix(values);
    });

  add<PositionMessage>(
    "POSITION",
    +[](PositionMessage& m, const json& c) {
      const std::string variant = text(c.at("variant"));
      if (overruns_short_positions && variant != "full")
        {
        throw std::runtime_error("1.11 packs it beyond its buffer");
        }
      m.SetPackType(variant == "full"              ? PositionMessage::ALL
                    : variant == "quaternion3"     ? PositionMessage::WITH_QUATERNION3
                                                   : PositionMessage::POSITION_ONLY);
      float position[3];
      numbers(c.at("position"), position);
      m.SetPosition(position);
      float quaternion[4] = {0, 0, 0, 1};
      for (std::size_t i = 0; i < c.at("quaternion").size(); ++i)
        {
        quaternion[i] = c["quaternion"][i].get<float>();
        }
      m.SetQuaternion(quaternion);
    },
    +[](PositionMessage& m, json& c) {
      float position[3];
      m.GetPosition(position);
      c["position"] = list(position, 3);
      float quaternion[4];
      m.GetQuaternion(quaternion);
      const int parts[] = {0, 0, 3, 4}; // by the pack type
      c["quaternion"] = list(quaternion, parts[m.GetPackType()]);
    });

  add_list<TrackingDataMessage, TrackingDataElement>(
    "TDATA",
    +[](TrackingDataElement& e, const json& c) {
      Matrix4x4 values;
      matrix(c.at("matrix"), values);
      e.SetMatrix(values);
      e.SetName(text(c.at("name")).c_str());
      e.SetType(c.at("type").get<int>());
    },
    +[](TrackingDataElement& e, json& c) {
      Matrix4x4 values;
      e.GetMatrix(values);
      c = {{"name", e.GetName()}, {"type", e.GetType()}, {"matrix", matrix(values)}};
    },
    &TrackingDataMessage::AddTrackingDataElement,
    &TrackingDataMessage::GetNumberOfTrackingDataElements,
    &TrackingDataMessage::GetTrackingDataElement);

  add_list<QuaternionTrackingDataMessage, QuaternionTrackingDataElement>(
    "QTDATA",
    +[](QuaternionTrackingDataElement& e, const json& c) {
      float position[3], quaternion[4];
      numbers(c.at("position"), position);
      numbers(c.at("quaternion"), quaternion);
      e.SetPosition(position);
      e.SetQuaternion(quaternion);
      e.SetName(text(c.at("name")).c_str());
      e.SetType(c.at("type").get<int>());
    },
    +[](QuaternionTrackingDataElement& e, json& c) {
      float position[3], quaternion[4];
      e.GetPosition(position);
      e.GetQuaternion(quaternion);
      c = {{"name", e.GetName()},
           {"type", e.GetType()},
           {"position", list(position, 3)},
           {"quaternion", list(quaternion, 4)}};
    },
    &QuaternionTrackingDataMessage::AddQuaternionTrackingDataElement,
    &QuaternionTrackingDataMessage::GetNumberOfQuaternionTrackingDataElements,
    &QuaternionTrackingDataMessage::GetQuaternionTrackingDataElement);

  add<StartTrackingDataMessage>(
    "STT_TDATA",
    +[](StartTrackingDataMessage& m, const json& c) {
      m.SetResolution(c.at("resolution_ms").get<int>());
      m.SetCoordinateName(text(c.at("coordinate_name")).c_str());
    },
    +[](StartTrackingDataMessage& m, json& c) {
      c = {{"resolution_ms", m.GetResolution()}, {"coordinate_name", m.GetCoordinateName()}};
    });
  add<StartQuaternionTrackingDataMessage>(
    "STT_QTDATA",
    +[](StartQuaternionTrackingDataMessage& m, const json& c) {
      m.SetResolution(c.at("resolution_ms").get<int>());
      m.SetCoordinateName(text(c.at("coordinate_name")).c_str());
    },
    +[](StartQuaternionTrackingDataMessage& m, json& c) {
      c = {{"resolution_ms", m.GetResolution()}, {"coordinate_name", m.GetCoordinateName()}};
    });
}

void add_imaging()
{
  using namespace igtl;
  add<ImageMessage>(
    "IMAGE",
    +[](ImageMessage& m, const json& c) {
      int size[3], sub_size[3], offset[3];
      numbers(c.at("size"), size);
      numbers(c.at("subvolume_size"), sub_size);
      numbers(c.at("subvolume_offset"), offset);
      m.SetDimensions(size);
      m.SetScalarType(c.at("scalar_type").get<int>());
      m.SetNumComponents(c.at("num_components").get<int>());
      m.SetEndian(c.at("endian").get<int>());
      m.SetCoordinateSystem(c.at("coordinate").get<int>());
      m.SetSubVolume(sub_size, offset);
      set_place(m, c.at("matrix"));
      m.AllocateScalars();
      const auto pixels = bytes(text(c.at("pixel_hex")));
      if (static_cast<int>(pixels.size()) != m.GetSubVolumeImageSize())
        {
        throw std::runtime_error("pixels do not fit the size");
        }
      std::memcpy(m.GetScalarPointer(), pixels.data(), pixels.size());
    },
    +[](ImageMessage& m, json& c) {
      int size[3], sub_size[3], offset[3];
      m.GetDimensions(size);
      m.GetSubVolume(sub_size, offset);
      c = {{"num_components", m.GetNumComponents()},
           {"scalar_type", m.GetScalarType()},
           {"endian", m.GetEndian()},
           {"coordinate", m.GetCoordinateSystem()},
           {"size", list(size, 3)},
           {"matrix", place(m)},
           {"subvolume_offset", list(offset, 3)},
           {"subvolume_size", list(sub_size, 3)},
           {"pixel_hex", hex(m.GetScalarPointer(), m.GetSubVolumeImageSize())}};
    });

  add_list<ImageMetaMessage, ImageMetaElement>(
    "IMGMETA",
    +[](ImageMetaElement& e, const json& c) {
      e.SetName(text(c.at("name")).c_str());
      e.SetDeviceName(text(c.at("device_name")).c_str());
      e.SetModality(text(c.at("modality")).c_str());
      e.SetPatientName(text(c.at("patient_name")).c_str());
      e.SetPatientID(text(c.at("patient_id")).c_str());
      TimeStamp::Pointer time = TimeStamp::New();
      time->SetTime(c.at("timestamp").at("sec").get<igtlUint32>(),
                    igtl_frac_to_nanosec(c.at("timestamp").at("frac").get<igtlUint32>()));
      e.SetTimeStamp(time);
      igtlUint16 size[3];
      numbers(c.at("size"), size);
      e.SetSize(size);
      e.SetScalarType(c.at("scalar_type").get<int>());
    },
    +[](ImageMetaElement& e, json& c) {
      TimeStamp::Pointer time = TimeStamp::New();
      e.GetTimeStamp(time);
      igtlUint32 seconds, nanoseconds;
      time->GetTimeStamp(&seconds, &nanoseconds);
      igtlUint16 size[3];
      e.GetSize(size);
      c = {{"name", e.GetName()},
           {"device_name", e.GetDeviceName()},
           {"modality", e.GetModality()},
           {"patient_name", e.GetPatientName()},
           {"patient_id", e.GetPatientID()},
           {"timestamp", {{"sec", seconds}, {"frac", igtl_nanosec_to_frac(nanoseconds)}}},
           {"size", list(size, 3)},
           {"scalar_type", e.GetScalarType()}};
    },
    &ImageMetaMessage::AddImageMetaElement, &ImageMetaMessage::GetNumberOfImageMetaElement,
    &ImageMetaMessage::GetImageMetaElement);

  add_list<LabelMetaMessage, LabelMetaElement>(
    "LBMETA",
    +[](LabelMetaElement& e, const json& c) {
      e.SetName(text(c.at("name")).c_str());
      e.SetDeviceName(text(c.at("device_name")).c_str());
      e.SetLabel(c.at("label").get<int>());
      igtlUint8 rgba[4];
      numbers(c.at("rgba"), rgba);
      e.SetRGBA(rgba);
      igtlUint16 size[3];
      numbers(c.at("size"), size);
      e.SetSize(size);
      e.SetOwner(text(c.at("owner")).c_str());
    },
    +[](LabelMetaElement& e, json& c) {
      igtlUint8 rgba[4];
      e.GetRGBA(rgba);
      igtlUint16 size[3];
      e.GetSize(size);
      c = {{"name", e.GetName()},   {"device_name", e.GetDeviceName()}, {"label", e.GetLabel()},
           {"rgba", list(rgba, 4)}, {"size", list(size, 3)},            {"owner", e.GetOwner()}};
    },
    &LabelMetaMessage::AddLabelMetaElement, &LabelMetaMessage::GetNumberOfLabelMetaElement,
    &LabelMetaMessage::GetLabelMetaElement);

  add<ColorTableMessage>(
    "COLORT",
    +[](ColorTableMessage& m, const json& c) {
      m.SetIndexType(c.at("index_type").get<int>());
      m.SetMapType(c.at("map_type").get<int>());
      m.AllocateTable();
      auto* table = static_cast<igtlUint8*>(m.GetTablePointer());
      for (const json& value : c.at("table"))
        {
        switch (m.GetMapType())
          {
          case ColorTableMessage::MAP_UINT8:
            *table++ = value.get<igtlUint8>();
            break;
          case ColorTableMessage::MAP_UINT16:
            *reinterpret_cast<igtlUint16*>(table) = value.get<igtlUint16>();
            table += 2;
            break;
          default: // RGB
            for (const json& channel : value)
              {
              *table++ = channel.get<igtlUint8>();
              }
          }
        }
    },
    +[](ColorTableMessage& m, json& c) {
      const int channels = m.GetMapType() == ColorTableMessage::MAP_RGB ? 3 : 1;
      const std::size_t entries = m.GetIndexType() == ColorTableMessage::INDEX_UINT8 ? 256 : 65536;
      c = {{"index_type", m.GetIndexType()}, {"map_type", m.GetMapType()}, {"entries", entries}};
      if (m.GetMapType() == ColorTableMessage::MAP_UINT16)
        {
        c["table"] = list(static_cast<igtlUint16*>(m.GetTablePointer()), entries);
        return;
        }
      c["table"] = json::array();
      const auto* table = static_cast<igtlUint8*>(m.GetTablePointer());
      for (std::size_t i = 0; i < entries; ++i)
        {
        c["table"].push_back(channels == 1 ? json(table[i]) : list(table + 3 * i, 3));
        }
    });
}

void set_cells(const json& from, igtl::PolyDataCellArray& to)
{
  for (const json& cell : from)
    {
    to.AddCell(cell.get<std::list<igtlUint32>>());
    }
}

json cells(igtl::PolyDataCellArray* from)
{
  json out = json::array();
  for (unsigned int i = 0; from && i < from->GetNumberOfCells(); ++i)
    {
    std::list<igtlUint32> cell;
    from->GetCell(i, cell);
    out.push_back(cell);
    }
  return out;
}

void add_geometry()
{
  using namespace igtl;
  add_list<PointMessage, PointElement>(
    "POINT",
    +[](PointElement& e, const json& c) {
      e.SetName(text(c.at("name")).c_str());
      e.SetGroupName(text(c.at("group")).c_str());
      igtlUint8 rgba[4];
      numbers(c.at("rgba"), rgba);
      e.SetRGBA(rgba);
      igtlFloat32 position[3];
      numbers(c.at("position"), position);
      e.SetPosition(position);
      e.SetRadius(c.at("diameter_or_radius").get<float>());
      e.SetOwner(text(c.at("owner")).c_str());
    },
    +[](PointElement& e, json& c) {
      igtlUint8 rgba[4];
      e.GetRGBA(rgba);
      igtlFloat32 position[3];
      e.GetPosition(position);
      c = {{"name", e.GetName()},           {"group", e.GetGroupName()},
           {"rgba", list(rgba, 4)},         {"position", list(position, 3)},
           {"diameter_or_radius", e.GetRadius()}, {"owner", e.GetOwner()}};
    },
    &PointMessage::AddPointElement, &PointMessage::GetNumberOfPointElement,
    &PointMessage::GetPointElement);

  add_list<TrajectoryMessage, TrajectoryElement>(
    "TRAJ",
    +[](TrajectoryElement& e, const json& c) {
      e.SetName(text(c.at("name")).c_str());
      e.SetGroupName(text(c.at("group")).c_str());
      e.SetType(c.at("type").get<int>());
      igtlUint8 rgba[4];
      numbers(c.at("rgba"), rgba);
      e.SetRGBA(rgba);
      igtlFloat32 position[3];
      numbers(c.at("entry"), position);
      e.SetEntryPosition(position);
      numbers(c.at("target"), position);
      e.SetTargetPosition(position);
      e.SetRadius(c.at("diameter_or_radius").get<float>());
      e.SetOwner(text(c.at("owner")).c_str());
    },
    +[](TrajectoryElement& e, json& c) {
      igtlUint8 rgba[4];
      e.GetRGBA(rgba);
      igtlFloat32 entry[3], target[3];
      e.GetEntryPosition(entry);
      e.GetTargetPosition(target);
      c = {{"name", e.GetName()},   {"group", e.GetGroupName()},
           {"type", e.GetType()},   {"rgba", list(rgba, 4)},
           {"entry", list(entry, 3)}, {"target", list(target, 3)},
           {"diameter_or_radius", e.GetRadius()}, {"owner", e.GetOwner()}};
    },
    &TrajectoryMessage::AddTrajectoryElement, &TrajectoryMessage::GetNumberOfTrajectoryElement,
    &TrajectoryMessage::GetTrajectoryElement);

  add<PolyDataMessage>(
    "POLYDATA",
    +[](PolyDataMessage& m, const json& c) {
      PolyDataPointArray::Pointer points = PolyDataPointArray::New();
      for (const json& point : c.at("points"))
        {
        points->AddPoint(point.at(0).get<float>(), point.at(1).get<float>(),
                         point.at(2).get<float>());
        }
      m.SetPoints(points);
      PolyDataCellArray::Pointer sections[4];
      const char* names[4] = {"vertices", "lines", "polygons", "triangle_strips"};
      for (int i = 0; i < 4; ++i)
        {
        sections[i] = PolyDataCellArray::New();
        set_cells(c.at(names[i]), *sections[i]);
        }
      m.SetVertices(sections[0]);
      m.SetLines(sections[1]);
      m.SetPolygons(sections[2]);
      m.SetTriangleStrips(sections[3]);
      for (const json& from : c.at("attributes"))
        {
        PolyDataAttribute::Pointer attribute = PolyDataAttribute::New();
        attribute->SetType(from.at("type").get<int>(), from.at("ncomponents").get<int>());
        attribute->SetSize(from.at("n").get<int>());
        attribute->SetName(text(from.at("name")).c_str());
        auto data = from.at("data").get<std::vector<igtlFloat32>>();
        attribute->SetData(data.data());
        m.AddAttribute(attribute);
        }
    },
    +[](PolyDataMessage& m, json& c) {
      c["points"] = json::array();
      for (int i = 0; m.GetPoints() && i < m.GetPoints()->GetNumberOfPoints(); ++i)
        {
        igtlFloat32 point[3];
        m.GetPoints()->GetPoint(i, point);
        c["points"].push_back(list(point, 3));
        }
      c["vertices"] = cells(m.GetVertices());
      c["lines"] = cells(m.GetLines());
      c["polygons"] = cells(m.GetPolygons());
      c["triangle_strips"] = cells(m.GetTriangleStrips());
      c["attributes"] = json::array();
      const int count = m.GetNumberOfAttributes();
      for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i)
        {
        PolyDataAttribute* attribute = m.GetAttribute(i); // an int would be a type in 3.1
        std::vector<igtlFloat32> data(attribute->GetNumberOfComponents() * attribute->GetSize());
        attribute->GetData(data.data());
        c["attributes"].push_back({{"type", attribute->GetType()},
                                   {"n", attribute->GetSize()},
                                   {"name", attribute->GetName()},
                                   {"ncomponents", attribute->GetNumberOfComponents()},
                                   {"data", data}});
        }
    });
}

// An element of a complex NDARRAY: the library has no class for it.
struct Complex
{
  double real, imaginary;
};

template <class T>
void set_array(igtl::NDArrayMessage& m, int type, const std::vector<igtlUint16>& size,
               const std::vector<T>& values)
{
  auto* array = new igtl::Array<T>; // the message keeps it
  array->SetSize(size);
  std::vector<T> copy = values;
  array->SetArray(copy.data());
  m.SetArray(type, array);
}

template <class T>
void set_numbers(igtl::NDArrayMessage& m, int type, const std::vector<igtlUint16>& size,
                 const json& data)
{
  set_array<T>(m, type, size, data.get<std::vector<T>>());
}

void add_general()
{
  using namespace igtl;
  add<StatusMessage>(
    "STATUS",
    +[](StatusMessage& m, const json& c) {
      m.SetCode(c.at("code").get<int>());
      m.SetSubCode(std::stoll(text(c.at("subcode"))));
      m.SetErrorName(text(c.at("error_name")).c_str());
      m.SetStatusString(text(c.at("status_message")).c_str());
    },
    +[](StatusMessage& m, json& c) {
      c = {{"code", m.GetCode()},
           {"subcode", std::to_string(m.GetSubCode())},
           {"error_name", std::string(m.GetErrorName(), strnlen(m.GetErrorName(), 20))},
           {"status_message", m.GetStatusString()}};
    });

  add<StringMessage>(
    "STRING",
    +[](StringMessage& m, const json& c) {
      std::string value = text(c.at("string"));
      m.SetEncoding(c.at("encoding").get<int>());
      m.SetString(value);
    },
    +[](StringMessage& m, json& c) { c = {{"encoding", m.GetEncoding()}, {"string", m.GetString()}}; });

  add<CapabilityMessage>(
    "CAPABILITY",
    +[](CapabilityMessage& m, const json& c) {
      m.SetTypes(c.at("types").get<std::vector<std::string>>());
    },
    +[](CapabilityMessage& m, json& c) {
      c["types"] = json::array();
      for (int i = 0; i < m.GetNumberOfTypes(); ++i)
        {
        c["types"].push_back(m.GetType(i));
        }
    });

  add<SensorMessage>(
    "SENSOR",
    +[](SensorMessage& m, const json& c) {
      m.SetLength(c.at("data").size());
      m.SetUnit(static_cast<igtlUnit>(std::stoull(text(c.at("unit")), nullptr, 16)));
      auto data = c.at("data").get<std::vector<igtlFloat64>>();
      m.SetValue(data.data());
    },
    +[](SensorMessage& m, json& c) {
      char unit[19];
      std::snprintf(unit, sizeof unit, "0x%016llx", static_cast<unsigned long long>(m.GetUnit()));
      c = {{"length", m.GetLength()}, {"unit", unit}, {"data", json::array()}};
      for (unsigned int i = 0; i < m.GetLength(); ++i)
        {
        c["data"].push_back(m.GetValue(i));
        }
    });

  add<NDArrayMessage>(
    "NDARRAY",
    +[](NDArrayMessage& m, const json& c) {
      const int type = c.at("scalar_type").get<int>();
      const auto size = c.at("size").get<std::vector<igtlUint16>>();
      const json& data = c.at("data");
      switch (type)
        {
        case 2: return set_numbers<igtlInt8>(m, type, size, data);
        case 3: return set_numbers<igtlUint8>(m, type, size, data);
        case 4: return set_numbers<igtlInt16>(m, type, size, data);
        case 5: return set_numbers<igtlUint16>(m, type, size, data);
        case 6: return set_numbers<igtlInt32>(m, type, size, data);
        case 7: return set_numbers<igtlUint32>(m, type, size, data);
        case 10: return set_numbers<igtlFloat32>(m, type, size, data);
        case 11: return set_numbers<igtlFloat64>(m, type, size, data);
        }
      std::vector<Complex> values;
      for (const json& pair : data)
        {
        values.push_back({pair.at(0).get<double>(), pair.at(1).get<double>()});
        }
      set_array<Complex>(m, type, size, values);
    },
    +[](NDArrayMessage& m, json& c) {
      ArrayBase* array = m.GetArray();
      const auto size = array->GetSize();
      c = {{"scalar_type", m.GetType()}, {"size", size}};
      std::size_t count = 1;
      for (igtlUint16 n : size)
        {
        count *= n;
        }
      const void* raw = array->GetRawArray();
      switch (m.GetType())
        {
        case 2: c["data"] = list(static_cast<const igtlInt8*>(raw), count); break;
        case 3: c["data"] = list(static_cast<const igtlUint8*>(raw), count); break;
        case 4: c["data"] = list(static_cast<const igtlInt16*>(raw), count); break;
        case 5: c["data"] = list(static_cast<const igtlUint16*>(raw), count); break;
        case 6: c["data"] = list(static_cast<const igtlInt32*>(raw), count); break;
        case 7: c["data"] = list(static_cast<const igtlUint32*>(raw), count); break;
        case 10: c["data"] = list(static_cast<const igtlFloat32*>(raw), count); break;
        case 11: c["data"] = list(static_cast<const igtlFloat64*>(raw), count); break;
        default:
          c["data"] = json::array();
          for (std::size_t i = 0; i < count; ++i)
            {
            c["data"].push_back(list(static_cast<const double*>(raw) + 2 * i, 2));
            }
        }
    });

  // the children of BIND are messages of their own
  add<BindMessage>(
    "BIND",
    +[](BindMessage& m, const json& c) {
      static std::vector<Any> children; // the message keeps bare pointers into them until packed
      children.clear();
      for (const json& from : c.at("children"))
        {
        const Kind& kind = kinds.at(text(from.at("type")));
        Any child = kind.make();
        child->SetDeviceName(text(from.at("device_name")).c_str());
        kind.set(*child, from.at("content"));
        child->Pack();
        m.AppendChildMessage(child);
        children.push_back(child);
        }
    },
    +[](BindMessage& m, json& c) {
      c["children"] = json::array();
      for (int i = 0; i < m.GetNumberOfChildMessages(); ++i)
        {
        const std::string type = m.GetChildMessageType(i);
        const Kind& kind = kinds.at(type);
        Any child = kind.make();
        m.GetChildMessage(i, child);
        child->Unpack();
        json content = json::object();
        kind.describe(*child, content);
        c["children"].push_back(
          {{"type", type}, {"device_name", child->GetDeviceName()}, {"content", content}});
        }
    });
  add<GetBindMessage>(
    "GET_BIND", +[](GetBindMessage& m, const json& c) {
      for (const json& child : c.at("children"))
        {
        m.AppendChildMessage(text(child.at("type")).c_str(),
                             text(child.at("device_name")).c_str());
        }
    }).cannot_unpack = "the class reads its own message as a BIND and fails";
  add<StartBindMessage>(
    "STT_BIND", +[](StartBindMessage& m, const json& c) {
      m.SetResolution(std::stoull(text(c.at("resolution"))));
      for (const json& child : c.at("children"))
        {
        m.AppendChildMessage(text(child.at("type")).c_str(),
                             text(child.at("device_name")).c_str());
        }
    }).cannot_unpack = "the class crashes on its own message";
}

void add_queries()
{
  using namespace igtl;
  add<GetTransformMessage>("GET_TRANS");
  add<GetImageMessage>("GET_IMAGE");
  add<GetStatusMessage>("GET_STATUS");
#if OpenIGTLink_PROTOCOL_VERSION < 3
  add<GetCapabilityMessage>("GET_CAPABIL"); // 3.x has no such class
#endif
  add<GetImageMetaMessage>("GET_IMGMETA");
  add<GetLabelMetaMessage>("GET_LBMETA");
  add<GetPointMessage>("GET_POINT");
  add<GetTrajectoryMessage>("GET_TRAJ");
  add<GetColorTableMessage>("GET_COLORT");
  add<GetPolyDataMessage>("GET_POLYDATA");
  add<StopTrackingDataMessage>("STP_TDATA");
  add<StopQuaternionTrackingDataMessage>("STP_QTDATA");
  add<StopBindMessage>("STP_BIND");
  add_status_byte<RTSTrackingDataMessage>("RTS_TDATA");
  add_status_byte<RTSQuaternionTrackingDataMessage>("RTS_QTDATA");
  add_status_byte<RTSBindMessage>("RTS_BIND");
}

#if OpenIGTLink_PROTOCOL_VERSION >= 3

// QUERY's data type: 3.1 declares GetDataType() but does not define it.
struct Query : igtl::QueryMessage
{
  using igtl::QueryMessage::m_DataType;

  static std::string data_type(igtl::QueryMessage& m)
  {
    const auto* name = reinterpret_cast<const char*>(m.*&Query::m_DataType);
    return {name, strnlen(name, IGTL_QUERY_DATE_TYPE_SIZE)};
  }
};

template <class T>
void add_command(const char* type)
{
  add<T>(
    type,
    +[](T& m, const json& c) {
      m.SetCommandId(c.at("command_id").get<igtlUint32>());
      m.SetCommandName(text(c.at("command_name")));
      m.SetContentEncoding(c.at("encoding").get<int>());
      m.SetCommandContent(text(c.at("command")));
    },
    +[](T& m, json& c) {
      c = {{"command_id", m.GetCommandId()},
           {"command_name", m.GetCommandName()},
           {"encoding", m.GetContentEncoding()},
           {"command", m.GetCommandContent()}};
    });
}

void add_protocol_3()
{
  using namespace igtl;
  add<StopImageMessage>("STP_IMAGE");
  add<StopPolyDataMessage>("STP_POLYDATA");
  add<StartPolyDataMessage>("STT_POLYDATA");
  add_status_byte<RTSPolyDataMessage>("RTS_POLYDATA");
  add_command<CommandMessage>("COMMAND");
  add_command<RTSCommandMessage>("RTS_COMMAND");
  add<QueryMessage>( // the id has neither a setter nor a getter
    "QUERY",
    +[](QueryMessage& m, const json& c) {
      m.SetDataType(text(c.at("data_type")));
      m.SetDeviceUID(text(c.at("device_uid")));
    },
    +[](QueryMessage& m, json& c) {
      c = {{"data_type", Query::data_type(m)}, {"device_uid", m.GetDeviceUID()}};
    });
#if defined(OpenIGTLink_ENABLE_VIDEOSTREAMING)
  add<VideoMessage>(
    "VIDEO",
    +[](VideoMessage& m, const json& c) {
      int size[3], sub_size[3], offset[3];
      numbers(c.at("size"), size);
      numbers(c.at("subvolume_size"), sub_size);
      numbers(c.at("subvolume_offset"), offset);
      const auto payload = bytes(text(c.at("payload_hex")));
      m.SetBitStreamSize(payload.size());
      m.AllocateScalars();
      std::memcpy(m.GetPackFragmentPointer(2), payload.data(), payload.size());
      if (m.SetCodecType(text(c.at("codec")).c_str()) != 0)
        {
        throw std::runtime_error("unknown codec");
        }
      m.SetEndian(c.at("endian").get<int>());
      m.SetFrameType(c.at("frame_type").get<int>());
      m.SetDimensions(size);
      m.SetSubVolume(sub_size, offset);
      set_place(m, c.at("matrix"));
    },
    +[](VideoMessage& m, json& c) {
      int size[3], sub_size[3], offset[3];
      m.GetDimensions(size);
      m.GetSubVolume(sub_size, offset);
      c = {{"codec", m.GetCodecType()},
           {"endian", m.GetEndian()},
           {"frame_type", m.GetFrameType()},
           {"size", list(size, 3)},
           {"matrix", place(m)},
           {"subvolume_offset", list(offset, 3)},
           {"subvolume_size", list(sub_size, 3)},
           {"payload_hex", hex(m.GetPackFragmentPointer(2), m.GetBitStreamSize())}};
    });
  add<StartVideoMessage>(
    "STT_VIDEO",
    +[](StartVideoMessage& m, const json& c) {
      m.SetCodecType(text(c.at("codec")).c_str());
      m.SetTimeInterval(c.at("time_interval_ms").get<int>());
    },
    +[](StartVideoMessage& m, json& c) {
      c = {{"codec", m.GetCodecType()}, {"time_interval_ms", m.GetTimeInterval()}};
    });
  add<StopVideoMessage>("STP_VIDEO");
  add<GetVideoMetaMessage>("GET_VMETA");
  add_list<VideoMetaMessage, VideoMetaElement>(
    "VIDEOMETA",
    +[](VideoMetaElement& e, const json& c) {
      e.SetName(text(c.at("name")).c_str());
      e.SetDeviceName(text(c.at("device_name")).c_str());
      e.SetPatientName(text(c.at("patient_name")).c_str());
      e.SetPatientID(text(c.at("patient_id")).c_str());
      e.SetZoomLevel(c.at("zoom_level").get<int>());
      e.SetFocalLength(c.at("focal_length").get<double>());
      igtlUint16 size[3];
      numbers(c.at("size"), size);
      e.SetSize(size[0], size[1], size[2]);
      Matrix4x4 values;
      wire_matrix(c.at("matrix"), values);
      e.SetMatrix(values);
      e.SetScalarType(c.at("scalar_type").get<int>());
    },
    +[](VideoMetaElement& e, json& c) {
      igtlUint16 size[3];
      e.GetSize(size[0], size[1], size[2]);
      c = {{"name", e.GetName()},
           {"device_name", e.GetDeviceName()},
           {"patient_name", e.GetPatientName()},
           {"patient_id", e.GetPatientID()},
           {"zoom_level", e.GetZoomLevel()},
           {"focal_length", e.GetFocalLength()},
           {"size", list(size, 3)},
           {"scalar_type", e.GetScalarType()}};
    },
    &VideoMetaMessage::AddVideoMetaElement, &VideoMetaMessage::GetNumberOfVideoMetaElement,
    &VideoMetaMessage::GetVideoMetaElement);
#endif
}

#endif

const Kind* kind_of(const std::string& type)
{
  if (kinds.empty())
    {
#ifdef __GLIBC__
    // 1.11 reads far beyond the values of RGBA and other attributes: reserve memory behind them
    mallopt(M_TOP_PAD, 1 << 24);
#endif
    add_tracking();
    add_imaging();
    add_geometry();
    add_general();
    add_queries();
#if OpenIGTLink_PROTOCOL_VERSION >= 3
    add_protocol_3();
#endif
    }
  const auto found = kinds.find(type);
  return found == kinds.end() ? nullptr : &found->second;
}

} // namespace

std::string hex(const void* data, std::size_t size)
{
  static const char digits[] = "0123456789abcdef";
  std::string out;
  out.reserve(2 * size);
  for (std::size_t i = 0; i < size; ++i)
    {
    const unsigned char byte = static_cast<const unsigned char*>(data)[i];
    out += {digits[byte >> 4], digits[byte & 15]};
    }
  return out;
}

json abilities()
{
  kind_of("");
  json types = json::object();
  for (const auto& [type, kind] : kinds)
    {
    types[type] = json::object();
    if (!kind.cannot_unpack.empty())
      {
      types[type]["unpack"] = kind.cannot_unpack;
      }
    }
  return {{"library", LIBRARY},
          {"header_version", OpenIGTLink_HEADER_VERSION},
          {"types", types}};
}

igtl::MessageBase::Pointer pack(const json& description)
{
  const std::string type = text(description.at("type"));
  const Kind* kind = kind_of(type);
  if (!kind)
    {
    throw std::runtime_error("no class for " + type);
    }
  Any message = kind->make();
#if OpenIGTLink_HEADER_VERSION >= 2
  message->SetHeaderVersion(description.value("header_version", 1));
  if (description.contains("message_id"))
    {
    message->SetMessageID(description["message_id"].get<igtlUint32>());
    }
  for (const json& entry : description.value("metadata", json::array()))
    {
    const auto value = bytes(text(entry.at("value_hex")));
    message->SetMetaDataElement(text(entry.at("key")),
                                static_cast<IANA_ENCODING_TYPE>(entry.at("encoding").get<int>()),
                                std::string(value.begin(), value.end()));
    }
#else
  if (description.value("header_version", 1) != 1)
    {
    throw std::runtime_error("header version 2 is unknown to this library");
    }
#endif
  message->SetDeviceName(text(description.at("device_name")).c_str());
  message->SetTimeStamp(description.at("timestamp").at("sec").get<unsigned int>(),
                        description.at("timestamp").at("frac").get<unsigned int>());
  kind->set(*message, description.at("content"));
  message->Pack();
  return message;
}

bool read(Channel& channel, Read& result)
{
  result = Read();
  igtl::MessageHeader::Pointer header = igtl::MessageHeader::New();
  header->InitPack();
  if (!channel.read(header->GetPackPointer(), header->GetPackSize()))
    {
    return false; // the end of the stream
    }
  header->Unpack();
  const std::string type = header->GetDeviceType();
  unsigned int seconds, fraction;
  header->GetTimeStamp(&seconds, &fraction);
  json& out = result.description;
  out = {{"type", type},
         {"device_name", header->GetDeviceName()},
         {"timestamp", {{"sec", seconds}, {"frac", fraction}}}};
  const Kind* kind = kind_of(type);
  if (!kind || !kind->cannot_unpack.empty())
    {
    std::vector<char> skipped(header->GetBodySizeToRead());
    out["refused"] = kind ? kind->cannot_unpack : "no class for " + type;
    return channel.read(skipped.data(), skipped.size());
    }
  // Unpack() reports no body where there is no content: a body of 0 bytes, or in header version 2
  // of an extended header (12) and the number of metadata (2).
  const bool empty = header->GetBodySizeToRead() == (header_version(*header) >= 2 ? 14 : 0);
  result.message = kind->make();
  result.message->SetMessageHeader(header);
  result.message->AllocatePack();
  if (!channel.read(result.message->GetPackBodyPointer(), result.message->GetPackBodySize()))
    {
    return false;
    }
  const int unpacked = result.message->Unpack(1);
  if (!empty && !(unpacked & igtl::MessageHeader::UNPACK_BODY))
    {
    out["refused"] = "wrong CRC or content";
    return true;
    }
#if OpenIGTLink_HEADER_VERSION >= 2
  out["header_version"] = result.message->GetHeaderVersion();
  if (result.message->GetHeaderVersion() >= 2)
    {
    out["message_id"] = result.message->GetMessageID();
    out["metadata"] = json::array();
    for (const auto& [key, value] : result.message->GetMetaData())
      {
      out["metadata"].push_back(
        {{"key", key},
         {"encoding", static_cast<int>(value.first)},
         {"value_hex", hex(value.second.data(), value.second.size())}});
      }
    }
#endif
  out["content"] = json::object();
  kind->describe(*result.message, out["content"]);
  result.repack
    = !overruns_short_positions || type != "POSITION" || header->GetBodySizeToRead() == 28;
  return true;
}
