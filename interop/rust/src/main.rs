//! The crate `openigtlink-rust` behind the command line of interop/cpp (in its versions `current` and `first`):
//!
//!     pack    tcp PORT | udp PORT TO     JSON descriptions to messages
//!     reflect tcp PORT | udp PORT TO     messages to JSON, and back again
//!     unpack  abilities
//!
//! It sends header version 1: the crate itself writes version 2 without the extended header of that
//! version, which no reader accepts (`"header": "as it comes"` in a description shows that).

use std::io::{BufRead, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::panic::{catch_unwind, AssertUnwindSafe};

use openigtlink_rust::protocol::header::{Header, Timestamp};
use openigtlink_rust::protocol::message::{IgtlMessage, Message};
use openigtlink_rust::protocol::types::*;
use serde_json::{json, Value};

type Answer<T> = Result<T, String>;

// ---- small conversions ------------------------------------------------------------------------

fn text(v: &Value, key: &str) -> Answer<String> {
    v[key].as_str().map(str::to_string).ok_or(format!("{key} is no text"))
}

fn int<T: TryFrom<i64>>(v: &Value, key: &str) -> Answer<T> {
    let number = v[key].as_i64().ok_or(format!("{key} is no integer"))?;
    T::try_from(number).map_err(|_| format!("{key} out of range"))
}

fn list(v: &Value, key: &str) -> Answer<Vec<Value>> {
    v[key].as_array().cloned().ok_or(format!("{key} is no list"))
}

fn floats<const N: usize>(v: &Value) -> Answer<[f32; N]> {
    let all: Vec<f32> = v.as_array().ok_or("no list")?.iter().map(|x| x.as_f64().unwrap_or(0.0) as f32).collect();
    all.try_into().map_err(|_| format!("not {N} numbers"))
}

fn bytes<const N: usize>(v: &Value) -> Answer<[u8; N]> {
    let all: Vec<u8> = v.as_array().ok_or("no list")?.iter().map(|x| x.as_u64().unwrap_or(0) as u8).collect();
    all.try_into().map_err(|_| format!("not {N} numbers"))
}

fn size(v: &Value) -> Answer<[u16; 3]> {
    let all: Vec<u16> = v.as_array().ok_or("no list")?.iter().map(|x| x.as_u64().unwrap_or(0) as u16).collect();
    all.try_into().map_err(|_| "not 3 numbers".into())
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap_or(0)).collect()
}

fn hex(data: &[u8]) -> String {
    data.iter().map(|b| format!("{b:02x}")).collect()
}

fn plain<T>(result: openigtlink_rust::Result<T>) -> Answer<T> {
    result.map_err(|error| error.to_string())
}

// ---- the types: from and to the `content` of a description -------------------------------------

trait Content: Message {
    fn set(content: &Value) -> Answer<Self>;
    fn describe(&self) -> Value;
}

impl Content for TransformMessage {
    fn set(c: &Value) -> Answer<Self> {
        let mut matrix = [[0.0; 4]; 4];
        for r in 0..4 {
            matrix[r] = floats(&c["matrix"][r])?;
        }
        Ok(TransformMessage { matrix })
    }
    fn describe(&self) -> Value {
        json!({ "matrix": self.matrix })
    }
}

impl Content for StatusMessage {
    fn set(c: &Value) -> Answer<Self> {
        Ok(StatusMessage {
            code: int(c, "code")?,
            subcode: text(c, "subcode")?.parse().map_err(|_| "subcode")?,
            error_name: text(c, "error_name")?,
            status_string: text(c, "status_message")?,
        })
    }
    fn describe(&self) -> Value {
        json!({"code": self.code, "subcode": self.subcode.to_string(),
               "error_name": self.error_name, "status_message": self.status_string})
    }
}

impl Content for CapabilityMessage {
    fn set(c: &Value) -> Answer<Self> {
        let types = list(c, "types")?;
        Ok(CapabilityMessage::new(types.iter().map(|t| t.as_str().unwrap_or("").to_string()).collect()))
    }
    fn describe(&self) -> Value {
        json!({ "types": self.types })
    }
}

impl Content for ImageMessage {
    fn set(c: &Value) -> Answer<Self> {
        let wire: [f32; 12] = floats(&c["matrix"])?;
        let mut matrix = [[0.0; 4]; 3];
        for i in 0..12 {
            matrix[i % 3][i / 3] = wire[i];
        }
        Ok(ImageMessage {
            version: 1,
            num_components: int(c, "num_components")?,
            scalar_type: plain(image::ImageScalarType::from_u8(int(c, "scalar_type")?))?,
            endian: plain(image::Endian::from_u8(int(c, "endian")?))?,
            coordinate: plain(image::CoordinateSystem::from_u8(int(c, "coordinate")?))?,
            size: size(&c["subvolume_size"])?,
            matrix,
            data: unhex(&text(c, "pixel_hex")?),
        })
    }
    fn describe(&self) -> Value {
        let wire: Vec<f32> = (0..12).map(|i| self.matrix[i % 3][i / 3]).collect();
        json!({"num_components": self.num_components, "scalar_type": self.scalar_type as u8,
               "endian": self.endian as u8, "coordinate": self.coordinate as u8,
               "size": self.size, "matrix": wire, "pixel_hex": hex(&self.data)})
    }
}

impl Content for PositionMessage {
    fn set(c: &Value) -> Answer<Self> {
        if c["variant"] != "full" {
            return Err("it has the 28-byte form only".into());
        }
        Ok(PositionMessage { position: floats(&c["position"])?, quaternion: floats(&c["quaternion"])? })
    }
    fn describe(&self) -> Value {
        json!({"position": self.position, "quaternion": self.quaternion})
    }
}

impl Content for StringMessage {
    fn set(c: &Value) -> Answer<Self> {
        Ok(StringMessage::with_encoding(int(c, "encoding")?, text(c, "string")?))
    }
    fn describe(&self) -> Value {
        json!({"encoding": self.encoding, "string": self.string})
    }
}

impl Content for QtDataMessage {
    fn set(c: &Value) -> Answer<Self> {
        let mut out = QtDataMessage::empty();
        for e in list(c, "elements")? {
            let kind = match int::<u8>(&e, "type")? {
                1 => qtdata::InstrumentType::Tracker,
                2 => qtdata::InstrumentType::Instrument6D,
                3 => qtdata::InstrumentType::Instrument3D,
                _ => qtdata::InstrumentType::Instrument5D,
            };
            out.add_element(qtdata::TrackingElement::new(
                text(&e, "name")?, kind, floats(&e["position"])?, floats(&e["quaternion"])?));
        }
        Ok(out)
    }
    fn describe(&self) -> Value {
        let elements: Vec<Value> = self.elements.iter().map(|e| json!({
            "name": e.name, "type": e.instrument_type as u8, "position": e.position,
            "quaternion": e.quaternion})).collect();
        json!({ "elements": elements })
    }
}

impl Content for TDataMessage {
    fn set(c: &Value) -> Answer<Self> {
        let mut out = TDataMessage::empty();
        for e in list(c, "elements")? {
            let kind = match int::<u8>(&e, "type")? {
                1 => tdata::TrackingInstrumentType::Tracker,
                2 => tdata::TrackingInstrumentType::Instrument6D,
                3 => tdata::TrackingInstrumentType::Instrument3D,
                _ => tdata::TrackingInstrumentType::Instrument5D,
            };
            let mut matrix = [[0.0; 4]; 3];
            for r in 0..3 {
                matrix[r] = floats(&e["matrix"][r])?;
            }
            out.add_element(tdata::TrackingDataElement::new(text(&e, "name")?, kind, matrix));
        }
        Ok(out)
    }
    fn describe(&self) -> Value {
        let elements: Vec<Value> = self.elements.iter().map(|e| {
            let m = e.matrix;
            json!({"name": e.name, "type": e.instrument_type as u8,
                   "matrix": [m[0], m[1], m[2], [0.0, 0.0, 0.0, 1.0]]})
        }).collect();
        json!({ "elements": elements })
    }
}

impl Content for SensorMessage {
    fn set(c: &Value) -> Answer<Self> {
        let data = list(c, "data")?.iter().map(|x| x.as_f64().unwrap_or(0.0)).collect();
        let unit = text(c, "unit")?;
        let unit = u64::from_str_radix(unit.trim_start_matches("0x"), 16).map_err(|_| "unit")?;
        plain(SensorMessage::with_unit(int(c, "status")?, unit, data))
    }
    fn describe(&self) -> Value {
        json!({"status": self.status, "unit": format!("0x{:016x}", self.unit), "data": self.data})
    }
}

impl Content for PointMessage {
    fn set(c: &Value) -> Answer<Self> {
        let mut out = PointMessage::empty();
        for e in list(c, "elements")? {
            out.add_point(point::PointElement {
                name: text(&e, "name")?,
                group: text(&e, "group")?,
                rgba: bytes(&e["rgba"])?,
                position: floats(&e["position"])?,
                diameter: e["diameter_or_radius"].as_f64().unwrap_or(0.0) as f32,
                owner: text(&e, "owner")?,
            });
        }
        Ok(out)
    }
    fn describe(&self) -> Value {
        let elements: Vec<Value> = self.points.iter().map(|e| json!({
            "name": e.name, "group": e.group, "rgba": e.rgba, "position": e.position,
            "diameter_or_radius": e.diameter, "owner": e.owner})).collect();
        json!({ "elements": elements })
    }
}

impl Content for TrajectoryMessage {
    fn set(c: &Value) -> Answer<Self> {
        let mut out = TrajectoryMessage::empty();
        for e in list(c, "elements")? {
            out.add_trajectory(trajectory::TrajectoryElement {
                name: text(&e, "name")?,
                group_name: text(&e, "group")?,
                trajectory_type: match int::<u8>(&e, "type")? {
                    1 => trajectory::TrajectoryType::EntryOnly,
                    2 => trajectory::TrajectoryType::TargetOnly,
                    _ => trajectory::TrajectoryType::EntryAndTarget,
                },
                rgba: bytes(&e["rgba"])?,
                entry_point: floats(&e["entry"])?,
                target_point: floats(&e["target"])?,
                diameter: e["diameter_or_radius"].as_f64().unwrap_or(0.0) as f32,
                owner_image: text(&e, "owner")?,
            });
        }
        Ok(out)
    }
    fn describe(&self) -> Value {
        let elements: Vec<Value> = self.trajectories.iter().map(|e| json!({
            "name": e.name, "group": e.group_name, "type": e.trajectory_type as u8,
            "rgba": e.rgba, "entry": e.entry_point, "target": e.target_point,
            "diameter_or_radius": e.diameter, "owner": e.owner_image})).collect();
        json!({ "elements": elements })
    }
}

impl Content for NdArrayMessage {
    fn set(c: &Value) -> Answer<Self> {
        use ndarray::ScalarType::*;
        let mut data = Vec::new();
        let values = list(c, "data")?;
        let kind = match int::<u8>(c, "scalar_type")? {
            2 => Int8, 3 => Uint8, 4 => Int16, 5 => Uint16, 6 => Int32, 7 => Uint32,
            10 => Float32, 11 => Float64,
            _ => return Err("it has no complex numbers".into()),
        };
        for v in &values {
            let (i, f) = (v.as_i64().unwrap_or(0), v.as_f64().unwrap_or(0.0));
            match kind {
                Int8 | Uint8 => data.push(i as u8),
                Int16 | Uint16 => data.extend((i as u16).to_be_bytes()),
                Int32 | Uint32 => data.extend((i as u32).to_be_bytes()),
                Float32 => data.extend((f as f32).to_be_bytes()),
                Float64 => data.extend(f.to_be_bytes()),
            }
        }
        let extents = list(c, "size")?.iter().map(|x| x.as_u64().unwrap_or(0) as u16).collect();
        plain(NdArrayMessage::new(kind, extents, data))
    }
    fn describe(&self) -> Value {
        use ndarray::ScalarType::*;
        let width = self.scalar_type.size();
        let data: Vec<Value> = self.data.chunks_exact(width).map(|b| match self.scalar_type {
            Int8 => json!(b[0] as i8),
            Uint8 => json!(b[0]),
            Int16 => json!(i16::from_be_bytes([b[0], b[1]])),
            Uint16 => json!(u16::from_be_bytes([b[0], b[1]])),
            Int32 => json!(i32::from_be_bytes(b.try_into().unwrap())),
            Uint32 => json!(u32::from_be_bytes(b.try_into().unwrap())),
            Float32 => json!(f32::from_be_bytes(b.try_into().unwrap())),
            Float64 => json!(f64::from_be_bytes(b.try_into().unwrap())),
        }).collect();
        json!({"scalar_type": self.scalar_type as u8, "size": self.size, "data": data})
    }
}

impl Content for BindMessage {
    fn set(c: &Value) -> Answer<Self> {
        let mut out = BindMessage::empty(); // its entries are names only, without contents
        for e in list(c, "children")? {
            out.add(text(&e, "type")?, text(&e, "device_name")?);
        }
        Ok(out)
    }
    fn describe(&self) -> Value {
        let children: Vec<Value> = self.entries.iter().map(|e| json!({
            "type": e.message_type, "device_name": e.device_name, "content": {}})).collect();
        json!({ "children": children })
    }
}

impl Content for ColorTableMessage {
    fn set(c: &Value) -> Answer<Self> {
        let colors = list(c, "table")?.iter().map(|row| {
            let part = |i: usize| row.get(i).or(Some(row)).and_then(Value::as_u64).unwrap_or(0) as u8;
            colortable::ColorEntry::new(part(0), part(1), part(2), 255)
        }).collect();
        Ok(ColorTableMessage::new(plain(colortable::IndexType::from_u8(int(c, "index_type")?))?, colors))
    }
    fn describe(&self) -> Value {
        json!({"index_type": self.index_type as u8, "entries": self.len()})
    }
}

impl Content for ImgMetaMessage {
    fn set(c: &Value) -> Answer<Self> {
        let mut out = ImgMetaMessage::empty();
        for e in list(c, "elements")? {
            let (sec, frac): (u32, u32) = (int(&e["timestamp"], "sec")?, int(&e["timestamp"], "frac")?);
            out.add_image(imgmeta::ImageMetaElement {
                name: text(&e, "name")?,
                id: text(&e, "device_name")?,
                modality: text(&e, "modality")?,
                patient_name: text(&e, "patient_name")?,
                patient_id: text(&e, "patient_id")?,
                timestamp: (sec as u64) << 32 | frac as u64,
                size: size(&e["size"])?,
                scalar_type: int(&e, "scalar_type")?,
            });
        }
        Ok(out)
    }
    fn describe(&self) -> Value {
        let elements: Vec<Value> = self.images.iter().map(|e| json!({
            "name": e.name, "device_name": e.id, "modality": e.modality,
            "patient_name": e.patient_name, "patient_id": e.patient_id,
            "timestamp": {"sec": e.timestamp >> 32, "frac": e.timestamp & 0xffff_ffff},
            "size": e.size, "scalar_type": e.scalar_type})).collect();
        json!({ "elements": elements })
    }
}

impl Content for LbMetaMessage {
    fn set(c: &Value) -> Answer<Self> {
        let mut out = LbMetaMessage::empty();
        for e in list(c, "elements")? {
            out.add_label(lbmeta::LabelMetaElement {
                name: text(&e, "name")?,
                id: text(&e, "device_name")?,
                label: int(&e, "label")?,
                rgba: bytes(&e["rgba"])?,
                size: size(&e["size"])?,
                owner: text(&e, "owner")?,
            });
        }
        Ok(out)
    }
    fn describe(&self) -> Value {
        let elements: Vec<Value> = self.labels.iter().map(|e| json!({
            "name": e.name, "device_name": e.id, "label": e.label, "rgba": e.rgba,
            "size": e.size, "owner": e.owner})).collect();
        json!({ "elements": elements })
    }
}

fn cells(v: &Value, key: &str) -> Answer<Vec<u32>> {
    let mut flat = Vec::new(); // count, then that many indices
    for cell in list(v, key)? {
        let cell = cell.as_array().cloned().unwrap_or_default();
        flat.push(cell.len() as u32);
        flat.extend(cell.iter().map(|i| i.as_u64().unwrap_or(0) as u32));
    }
    Ok(flat)
}

fn uncells(flat: &[u32]) -> Value {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < flat.len() {
        let end = (at + 1 + flat[at] as usize).min(flat.len());
        out.push(flat[at + 1..end].to_vec());
        at = end;
    }
    json!(out)
}

impl Content for PolyDataMessage {
    fn set(c: &Value) -> Answer<Self> {
        let points = list(c, "points")?.iter().map(floats).collect::<Answer<Vec<[f32; 3]>>>()?;
        let mut out = PolyDataMessage::new(points)
            .with_vertices(cells(c, "vertices")?)
            .with_lines(cells(c, "lines")?)
            .with_polygons(cells(c, "polygons")?)
            .with_triangle_strips(cells(c, "triangle_strips")?);
        for a in list(c, "attributes")? {
            let kind = if int::<u8>(&a, "type")? < 0x10 { polydata::AttributeType::Point } else { polydata::AttributeType::Cell };
            let data = list(&a, "data")?.iter().map(|x| x.as_f64().unwrap_or(0.0) as f32).collect();
            out.add_attribute(polydata::Attribute::new(kind, int(&a, "ncomponents")?, text(&a, "name")?, data));
        }
        Ok(out)
    }
    fn describe(&self) -> Value {
        json!({"points": self.points, "vertices": uncells(&self.vertices), "lines": uncells(&self.lines),
               "polygons": uncells(&self.polygons), "triangle_strips": uncells(&self.triangle_strips)})
    }
}

impl Content for VideoMessage {
    fn set(c: &Value) -> Answer<Self> {
        let [width, height, _] = size(&c["size"])?;
        Ok(VideoMessage::new(video::CodecType::VP9, width, height, unhex(&text(c, "payload_hex")?)))
    }
    fn describe(&self) -> Value {
        json!({"size": [self.width, self.height, 1], "payload_hex": hex(&self.frame_data)})
    }
}

impl Content for VideoMetaMessage {
    fn set(c: &Value) -> Answer<Self> {
        let [width, height, _] = size(&c["elements"][0]["size"])?;
        Ok(VideoMetaMessage::new(video::CodecType::VP9, width, height, 30, 1))
    }
    fn describe(&self) -> Value {
        json!({"elements": [{"size": [self.width, self.height, 1]}]})
    }
}

impl Content for CommandMessage {
    fn set(c: &Value) -> Answer<Self> {
        Ok(CommandMessage::with_encoding(
            int(c, "command_id")?, text(c, "command_name")?, int(c, "encoding")?, text(c, "command")?))
    }
    fn describe(&self) -> Value {
        json!({"command_id": self.command_id, "command_name": self.command_name,
               "encoding": self.encoding, "command": self.command})
    }
}

impl Content for RtsTDataMessage {
    fn set(c: &Value) -> Answer<Self> {
        // success is 0 on the wire; the crate calls 1 ok
        Ok(if int::<u8>(c, "status")? == 0 { RtsTDataMessage::ok() } else { RtsTDataMessage::error() })
    }
    fn describe(&self) -> Value {
        json!({"status": if *self == RtsTDataMessage::ok() { 0 } else { 1 }})
    }
}

impl Content for StartTDataMessage {
    fn set(c: &Value) -> Answer<Self> {
        let resolution: i32 = int(c, "resolution_ms")?;
        Ok(StartTDataMessage::new(resolution as u32, text(c, "coordinate_name")?))
    }
    fn describe(&self) -> Value {
        json!({"resolution_ms": self.resolution as i32, "coordinate_name": self.coordinate_name})
    }
}

macro_rules! empty {
    ($($kind:ident)*) => {$(
        impl Content for $kind {
            fn set(_: &Value) -> Answer<Self> { Ok($kind) }
            fn describe(&self) -> Value { json!({}) }
        }
    )*};
}
empty! { GetCapabilityMessage GetStatusMessage GetTransformMessage GetImageMessage GetTDataMessage
         GetPointMessage GetImgMetaMessage GetLbMetaMessage StopTDataMessage StopImageMessage
         StopTransformMessage StopPositionMessage StopQtDataMessage StopNdArrayMessage }

// ---- by name ----------------------------------------------------------------------------------

/// Maps the standard's name of a type to the crate's class for it.
macro_rules! kinds {
    ($($name:literal $kind:ident)*) => {
        fn pack(d: &Value) -> Answer<Vec<u8>> {
            match d["type"].as_str().unwrap_or("") {
                $($name => packed::<$kind>(d),)*
                other => Err(format!("no class for {other}")),
            }
        }

        /// Dispatches by the crate's own name of the class.
        fn unpack(name: &str, wire: &[u8]) -> Answer<(Value, Vec<u8>)> {
            $(if name == $kind::message_type() { return unpacked::<$kind>(wire); })*
            Err(format!("unknown type {name}"))
        }

        const NAMES: &[&str] = &[$($name),*];
    };
}
kinds! {
    "TRANSFORM" TransformMessage "STATUS" StatusMessage "CAPABILITY" CapabilityMessage
    "IMAGE" ImageMessage "POSITION" PositionMessage "STRING" StringMessage "QTDATA" QtDataMessage
    "TDATA" TDataMessage "SENSOR" SensorMessage "POINT" PointMessage "TRAJ" TrajectoryMessage
    "NDARRAY" NdArrayMessage "BIND" BindMessage "COLORT" ColorTableMessage "IMGMETA" ImgMetaMessage
    "LBMETA" LbMetaMessage "POLYDATA" PolyDataMessage "VIDEO" VideoMessage
    "VIDEOMETA" VideoMetaMessage "COMMAND" CommandMessage "RTS_TDATA" RtsTDataMessage
    "STT_TDATA" StartTDataMessage "GET_CAPABIL" GetCapabilityMessage "GET_STATUS" GetStatusMessage
    "GET_TRANS" GetTransformMessage "GET_IMAGE" GetImageMessage "GET_TDATA" GetTDataMessage
    "GET_POINT" GetPointMessage "GET_IMGMETA" GetImgMetaMessage "GET_LBMETA" GetLbMetaMessage
    "STP_TDATA" StopTDataMessage "STP_IMAGE" StopImageMessage "STP_TRANS" StopTransformMessage
    "STP_POSITION" StopPositionMessage "STP_QTDATA" StopQtDataMessage "STP_NDARRAY" StopNdArrayMessage
}

fn packed<T: Content>(d: &Value) -> Answer<Vec<u8>> {
    let mut message = plain(IgtlMessage::new(T::set(&d["content"])?, &text(d, "device_name")?))?;
    if d["header"] != "as it comes" {
        message.header.version = 1;
    }
    message.header.timestamp = Timestamp::new(int(&d["timestamp"], "sec")?, int(&d["timestamp"], "frac")?);
    plain(message.encode())
}

fn unpacked<T: Content>(wire: &[u8]) -> Answer<(Value, Vec<u8>)> {
    let message = plain(IgtlMessage::<T>::decode(wire))?;
    let again = plain(message.encode())?;
    Ok((message.content.describe(), again))
}

/// Reports a panic of the crate as an answer.
fn guarded<T>(work: impl FnOnce() -> Answer<T>) -> Answer<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("it panics".into()))
}

// ---- sockets ----------------------------------------------------------------------------------

enum Channel {
    Tcp(TcpStream),
    Udp(UdpSocket, String),
}

impl Channel {
    fn open(arguments: &[String]) -> Channel {
        let address = format!("127.0.0.1:{}", arguments[1]);
        if arguments[0] == "udp" {
            let socket = UdpSocket::bind(address).expect("bind");
            println!("{}", json!({"port": socket.local_addr().unwrap().port()}));
            return Channel::Udp(socket, format!("127.0.0.1:{}", arguments[2]));
        }
        let listener = TcpListener::bind(address).expect("bind");
        println!("{}", json!({"port": listener.local_addr().unwrap().port()}));
        let (stream, _) = listener.accept().expect("accept");
        stream.set_nodelay(true).expect("nodelay");
        Channel::Tcp(stream)
    }

    fn read(&mut self) -> Option<Vec<u8>> {
        match self {
            Channel::Udp(socket, _) => {
                let mut datagram = vec![0; 65536];
                let n = socket.recv(&mut datagram).ok()?;
                datagram.truncate(n);
                (n > 0).then_some(datagram)
            }
            Channel::Tcp(stream) => {
                let mut wire = vec![0; Header::SIZE];
                stream.read_exact(&mut wire).ok()?;
                let size = plain(Header::decode(&wire)).ok()?.body_size as usize;
                wire.resize(Header::SIZE + size, 0);
                stream.read_exact(&mut wire[Header::SIZE..]).ok()?;
                Some(wire)
            }
        }
    }

    fn write(&mut self, wire: &[u8]) {
        match self {
            Channel::Udp(socket, to) => drop(socket.send_to(wire, &*to).expect("send")),
            Channel::Tcp(stream) => stream.write_all(wire).expect("send"),
        }
    }
}

fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments[0].as_str() {
        "unpack" => {
            let types: serde_json::Map<String, Value> =
                NAMES.iter().map(|name| (name.to_string(), json!({}))).collect();
            println!("{}", json!({"library": env!("CARGO_PKG_VERSION"), "header_version": 1, "types": types}));
        }
        "pack" => {
            let mut channel = Channel::open(&arguments[1..]);
            for line in std::io::stdin().lock().lines() {
                let description: Value = serde_json::from_str(&line.expect("input")).expect("JSON");
                match guarded(|| pack(&description)) {
                    Ok(wire) => {
                        channel.write(&wire);
                        println!("{}", json!({"sent": wire.len()}));
                    }
                    Err(why) => println!("{}", json!({"refused": why})),
                }
            }
        }
        _ => {
            let mut channel = Channel::open(&arguments[1..]);
            while let Some(wire) = channel.read() {
                let header = Header::decode(&wire).expect("header");
                let name = header.type_name.as_str().unwrap_or("").to_string();
                let mut description = json!({
                    "type": name, "device_name": header.device_name.as_str().unwrap_or(""),
                    "timestamp": {"sec": header.timestamp.seconds, "frac": header.timestamp.fraction}});
                let back = match guarded(|| unpack(&name, &wire)) {
                    Ok((content, again)) => {
                        description["content"] = content;
                        again
                    }
                    Err(why) => {
                        description["refused"] = json!(why);
                        let mut status = IgtlMessage::new(StatusMessage::error("refused", &why), "peer").unwrap();
                        status.header.version = 1;
                        status.encode().unwrap()
                    }
                };
                println!("{description}");
                channel.write(&back);
            }
        }
    }
}
