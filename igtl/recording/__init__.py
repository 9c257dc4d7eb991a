"""Recordings: every message as it came, with the time of its arrival, in an MCAP file.

    with igtl.Recorder("case.mcap") as recorder, igtl.connect("tracker") as link:
        for frame in link.frames():
            recorder.write(frame, peer=link.peer)

    with igtl.Recording("case.mcap") as recording:
        probe = recording["ProbeToReference"]
        probe.times, probe.matrices                 # (N,) seconds, (N, 4, 4)
        for frame in recording.play(speed=2): link.send(frame)

The file: one channel for each type, device and connection, with the topic "TYPE/device", the
encoding "openigtlink" and no schema; a message of it is the whole frame, header included, whether
its CRC is right or not. The log time is the arrival, the publish time the time stamp of the header
(or the arrival, where that is 0). What happened to the connections is JSON in the channel
"igtl/events". Any reader of MCAP opens it. Needs `pip install "igtl[record]"`.
"""

from igtl.recording.playback import Playback, Recorded
from igtl.recording.reader import RecordedStream, Recording
from igtl.recording.recorder import Recorder

__all__ = ["Playback", "Recorded", "RecordedStream", "Recorder", "Recording"]
