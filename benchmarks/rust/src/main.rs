//! Times the crate's codec: reads "WORK TIMES" lines, answers with the nanoseconds that took ("-": not here).

use std::collections::HashMap;
use std::hint::black_box;
use std::io::{stdin, BufRead};
use std::panic::{catch_unwind, set_hook, AssertUnwindSafe};
use std::time::Instant;

use openigtlink_rust::protocol::crc::calculate_crc;
use openigtlink_rust::protocol::message::{IgtlMessage, Message};
use openigtlink_rust::protocol::types::*;

type Work = Box<dyn Fn()>;

/// With header version 1: by itself the crate writes 2, without what version 2 has.
fn message<T: Message>(content: T) -> IgtlMessage<T> {
    let mut out = IgtlMessage::new(content, "Probe").expect("a message");
    out.header.version = 1;
    out
}

/// Packing a message that is there, and reading the bytes it packs to.
fn add<T: Message + 'static>(works: &mut HashMap<String, Work>, name: &str, content: T) {
    let reused = message(content);
    let wire = reused.encode().expect("bytes");
    works.insert(format!("{name} pack"), Box::new(move || {
        black_box(reused.encode().expect("bytes"));
    }));
    works.insert(format!("{name} unpack"), Box::new(move || {
        black_box(IgtlMessage::<T>::decode(black_box(&wire)).expect("a message"));
    }));
}

fn pixels(size: [u16; 3], scalar_type: image::ImageScalarType, bytes: usize) -> ImageMessage {
    let count = size.iter().map(|&n| n as usize).product::<usize>() * bytes;
    ImageMessage::new(scalar_type, size, vec![7; count]).expect("an image")
}

fn main() {
    let pose = [[1.0, 0.0, 0.0, 12.5], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
    let mut works: HashMap<String, Work> = HashMap::new();
    add(&mut works, "TRANSFORM", TransformMessage { matrix: pose });
    works.insert("TRANSFORM build and pack".into(), Box::new(move || {
        black_box(message(TransformMessage { matrix: black_box(pose) }).encode().expect("bytes"));
    }));
    for count in [1, 2, 5, 10, 20, 50, 100, 200] {
        let tools = (0..count).map(|k| {
            tdata::TrackingDataElement::new(
                format!("Tool{k}"), tdata::TrackingInstrumentType::Instrument6D, [pose[0], pose[1], pose[2]])
        });
        add(&mut works, &format!("TDATA {count}"), TDataMessage::new(tools.collect()));
    }
    for side in [64, 128, 256, 512, 1024, 2048, 4096] {
        let name = format!("IMAGE {side}x{side} u8");
        add(&mut works, &name, pixels([side, side, 1], image::ImageScalarType::Uint8, 1));
    }
    add(&mut works, "IMAGE 640x480 u8", pixels([640, 480, 1], image::ImageScalarType::Uint8, 1));
    add(&mut works, "IMAGE 512x512x100 u16", pixels([512, 512, 100], image::ImageScalarType::Uint16, 2));
    let points = (0..10000).map(|k| point::PointElement::new(format!("P{k}"), "Fiducial", [k as f32, 2.0, 3.0]));
    add(&mut works, "POINT 10000", PointMessage::new(points.collect()));
    for size in [48, 1048576, 52428800] {
        let data = vec![7u8; size];
        works.insert(format!("CRC-64 {size}"), Box::new(move || {
            black_box(calculate_crc(black_box(&data)));
        }));
    }
    set_hook(Box::new(|_| ())); // what it cannot do is answered with "-"
    for line in stdin().lock().lines() {
        let line = line.expect("a line");
        let (name, times) = line.rsplit_once(' ').expect("WORK TIMES");
        let times: u64 = times.parse().expect("a number");
        let timed = works.get(name).and_then(|work| {
            let begin = Instant::now();
            catch_unwind(AssertUnwindSafe(|| (0..times).for_each(|_| work()))).ok()?;
            Some(begin.elapsed().as_nanos())
        });
        println!("{}", timed.map_or("-".into(), |ns| ns.to_string()));
    }
}
