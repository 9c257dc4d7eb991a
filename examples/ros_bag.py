"""A recording as a bag of ROS 2, and back, without ROS.

You see the topics of the bag with their types and numbers, as any reader of bags finds them, a pose of
/tf in metres, and that the recording comes back byte by byte.
Takes `pip install "igtl[record,ros]"`.
"""

import argparse
import tempfile
from pathlib import Path

import igtl
from igtl import simulate


def record(file: Path, seconds: float) -> None:
    """A tracker, a scanner and a robot arm with a force sensor."""
    tracker = simulate.Tracker(["StylusToTracker", "NeedleToTracker"])
    scanner = simulate.Ultrasound(160, 120)
    with igtl.Recorder(file) as recorder:
        for n in range(round(seconds * 60)):
            at = 1_700_000_000 + n / 60
            messages = [tracker.transform(n / 60, k) for k in range(2)]
            messages.append(igtl.Transform(tracker.pose(n / 60), device_name="arm/measured_cp"))
            messages.append(igtl.Sensor([0, 0, 9.81, 0, 0, 0.1], "N", device_name="arm/wrench"))
            if n % 6 == 0:
                messages.append(scanner.image(n / 60))
            for message in messages:
                message.timestamp = at
                recorder.write(message, received=at, peer="tracker:18944")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2, help="of the recording")
    parser.add_argument("--to", type=Path, help="new folder for the bag; default: a temporary one")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bag = args.to or folder / "bag"
        record(folder / "case.mcap", args.seconds)
        igtl.export(folder / "case.mcap", bag)

        from rosbags.highlevel import AnyReader  # knows nothing of igtl

        with AnyReader([bag]) as reader:
            for topic in sorted(reader.topics):
                if not topic.startswith("/openigtlink"):  # the frames as they came
                    found = reader.topics[topic]
                    print(f"{found.msgcount:5} {topic}  {found.msgtype}")
            connection, _, data = next(reader.messages(reader.topics["/tf"].connections))
            moved = reader.deserialize(data, connection.msgtype).transforms[0]
            place = moved.transform.translation
            print(
                f"{moved.child_frame_id} in {moved.header.frame_id}: "
                f"{place.x:.3f} {place.y:.3f} {place.z:.3f} m"
            )

        igtl.export(bag, folder / "again.mcap")
        with (
            igtl.Recording(folder / "case.mcap") as before,
            igtl.Recording(folder / "again.mcap") as after,
        ):
            same = all(
                a.time_ns == b.time_ns and bytes(a.frame.data) == bytes(b.frame.data)
                for a, b in zip(before, after, strict=True)
            )
            print(f"{after.count} messages came back, every byte the same: {same}")
    if args.to:
        print(f"the bag is in {args.to}")


if __name__ == "__main__":
    main()
