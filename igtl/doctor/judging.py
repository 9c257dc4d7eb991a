"""What is likely wrong, from what came."""

from __future__ import annotations

import difflib

from igtl.doctor.diagnosis import Diagnosis
from igtl.doctor.reaching import DROPPED
from igtl.doctor.session import Session
from igtl.doctor.stamps import judge_stamps
from igtl.errors import MessageTooLarge
from igtl.session.requests import name_fits


def judge(diagnosis: Diagnosis, session: Session, type_name: str, device_name: str) -> None:
    """Add the findings that follow from what a session has received."""
    if session.foreign is not None:
        cause, what = session.foreign
        diagnosis.found("problem", cause, f"{diagnosis.address} does not speak OpenIGTLink; it is "
                        f"{what}.")  # fmt: skip
        return
    if session.wrong_versions:
        versions = " and ".join(map(str, sorted(session.wrong_versions)))
        diagnosis.found(
            "problem", "version",
            f"It writes header version {versions}, which does not exist (1 and 2 do): such "
            "messages are skipped. Its library is newer, or not of OpenIGTLink.",
        )  # fmt: skip
    if isinstance(session.error, MessageTooLarge):
        diagnosis.found(
            "problem", "large",
            f"A header announces {session.error.size} bytes, over the limit of "
            f"{session.error.limit}: the sender has lost the framing, or is not of OpenIGTLink.",
        )  # fmt: skip
    if not diagnosis.streams:
        if not diagnosis.problems:
            _judge_silence(diagnosis, session)
        return
    _judge_versions(diagnosis, session)
    _judge_content(diagnosis)
    _judge_wanted(diagnosis, type_name, device_name)
    if session.is_plus:
        _judge_plus(diagnosis, session, type_name, device_name)
    _judge_end(diagnosis, session)
    judge_stamps(diagnosis, session)


def _judge_silence(diagnosis: Diagnosis, session: Session) -> None:
    after = session.closed_after
    if session.bytes:
        diagnosis.found(
            "problem", "cut",
            f"{session.bytes} bytes came, but no whole message: the sender stopped within one.",
        )  # fmt: skip
    elif after is not None:
        how = "reset" if session.reset else "closed"
        said = " after it was sent header version 2" if session.hello else (
            " after it was sent a STATUS" if session.probed else ""
        )  # fmt: skip
        hint = (
            "A library of version 1 does that: leave out --hello."
            if session.hello
            else DROPPED
            if session.reset
            else "Does it have its client already, let in certain addresses only, or is it a "
            "tunnel (ssh -L) or a container's port with nothing behind it?"
        )
        cause = "version" if session.hello else "closed"
        diagnosis.found(
            "problem", cause, f"The peer {how} the connection at once{said}, without a word. {hint}"
        )
    else:
        asked = ", not even after it was sent a STATUS" if session.probed else ""
        diagnosis.found(
            "problem", "silent",
            f"Connected, but nothing was said within {diagnosis.seconds:.1f} s{asked}. Either the "
            "peer has nothing to send (PLUS: is the device connected? It says nothing at all while "
            "no transform that it should send is valid. 3D Slicer: is there a node under OUT of "
            "the connector?), or it waits to be asked (igtl dump --start TDATA; igtl query), or it "
            "speaks another protocol.",
        )  # fmt: skip


def _judge_versions(diagnosis: Diagnosis, session: Session) -> None:
    versions = sorted(diagnosis.versions)
    spoken = " and ".join(str(v) for v in versions)
    diagnosis.found("ok", "speaks", f"It speaks OpenIGTLink, header version {spoken}.")
    if versions == [1] and not session.hello:
        diagnosis.found(
            "note", "version 1",
            "Header version 1 has no metadata and no message ids. PLUS, 3D Slicer and igtl write "
            "version 2 to those who offer it: --hello.",
        )  # fmt: skip
    elif session.hello and 2 not in versions:
        diagnosis.found(
            "note", "version 1", "It keeps to header version 1 though it was offered version 2."
        )


def _judge_content(diagnosis: Diagnosis) -> None:
    streams = diagnosis.streams
    count = sum(s.count for s in streams.values())
    wrong = sum(s.wrong_crc for s in streams.values())
    zero = sum(s.zero_crc for s in streams.values())
    if wrong:
        which = ", ".join(f"{k} {d!r}" for (k, d), s in sorted(streams.items()) if s.wrong_crc)
        why = (
            "The sender writes 0 instead of computing them: turn the check off (crc='off')."
            if zero == wrong
            else "The bytes were damaged, or the sender computes it wrongly; receivers drop such "
            "messages without a word."
        )
        diagnosis.found(
            "problem", "crc", f"{wrong} of {count} messages have a wrong CRC ({which}). {why}"
        )
    else:
        diagnosis.found("ok", "crc", "All CRCs are right.")
    for (kind, device), seen in sorted(streams.items()):
        if seen.bad:
            diagnosis.found(
                "problem", "body",
                f"{seen.bad} of {seen.count} {kind} {device!r} cannot be decoded: {seen.reason}.",
            )  # fmt: skip
        if seen.surplus:
            hint = " (A matrix is 12 numbers, column by column.)" if kind == "TRANSFORM" else ""
            diagnosis.found(
                "problem", "body",
                f"{kind} {device!r} is {seen.surplus} bytes longer than its type: receivers ignore "
                f"them, and may read the rest wrongly.{hint}",
            )  # fmt: skip
        if seen.impossible:
            diagnosis.found(
                "problem", "pose",
                f"{seen.impossible} of {seen.count} {kind} {device!r} hold no pose: "
                f"{seen.impossible_reason}.",
            )  # fmt: skip
        elif seen.by_rows:
            diagnosis.found(
                "problem", "pose",
                f"{seen.by_rows} of {seen.count} {kind} {device!r} are rotations and translations "
                "if their 12 numbers are read row by row: the sender writes rows, where a "
                "TRANSFORM holds columns.",
            )  # fmt: skip
        elif seen.distorted:
            diagnosis.found(
                "note", "pose",
                f"{seen.distorted} of {seen.count} {kind} {device!r} "
                f"{'does' if seen.distorted == 1 else 'do'} more than turn and move: "
                f"the axes are {seen.distortion}. Calibrations and images to world do, the poses "
                "of a tool never.",
            )  # fmt: skip
        if seen.is_frozen():
            diagnosis.found(
                "note", "frozen",
                f"All {seen.count} {kind} {device!r} have the same content, to the last bit: a "
                "fixed value, or a sender that repeats what it once got.",
            )  # fmt: skip
        if device != device.strip():
            diagnosis.found(
                "note", "names",
                f"The name {device!r} begins or ends with spaces, which count: who looks for "
                f"{device.strip()!r} finds nothing.",
            )  # fmt: skip


def _judge_wanted(diagnosis: Diagnosis, type_name: str, device_name: str) -> None:
    def fits(kind: str, device: str) -> bool:
        return name_fits(kind, type_name) and name_fits(device, device_name)

    if any(fits(*stream) for stream in diagnosis.streams):
        return
    there = ", ".join(f"{kind} {device!r}" for kind, device in sorted(diagnosis.streams))
    names = sorted({device for _, device in diagnosis.streams})
    asked = f"{type_name} {device_name!r}" if type_name != "*" else repr(device_name)
    hint = ""
    lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(device_name.lower(), lower, n=1, cutoff=0.5)
    encoded = device_name.encode()
    if device_name in names:
        hint = f" The name is right, the type is {_types_of(diagnosis, device_name)}."
    elif len(encoded) > 20 and encoded[:20].decode("utf-8", "ignore") in names:
        hint = " Names are cut to 20 bytes on the wire."
    elif close:
        hint = f" Did you mean {lower[close[0]]!r}? Upper and lower case count."
    diagnosis.found("problem", "names", f"There is no {asked}; there are {there}.{hint}")


def _judge_plus(diagnosis: Diagnosis, session: Session, type_name: str, device_name: str) -> None:
    """Say what the caller can do to get from PLUS what is missing."""
    advice = []
    if 2 not in diagnosis.versions and not session.hello:
        advice.append(
            "It tells statuses, long names and values of replies to clients of header version 2 "
            "only: --hello, or igtl.plus.connect."
        )
    if set(diagnosis.streams) == {("STATUS", "")}:
        advice.append("It sends keep-alives only, so it acquires no frames: is its device on?")
    invalid = [f"{name} {status}" for name, status in session.statuses.items() if status != "OK"]
    if invalid:
        advice.append(f"Not valid: {', '.join(sorted(invalid))}.")
    asked = (type_name, device_name) != ("*", "*")
    there = any(
        name_fits(kind, type_name) and name_fits(device, device_name)
        for kind, device in diagnosis.streams
    )
    if asked and not there:
        advice.append(_selection_of(type_name, device_name))
    diagnosis.found("note" if advice else "ok", "plus", " ".join(["This is PLUS.", *advice]))


def _selection_of(type_name: str, device_name: str) -> str:
    """Return how PLUS is asked for a stream."""
    if type_name in ("TRACKEDFRAME", "TDATA"):
        flag = "tracked_frames" if type_name == "TRACKEDFRAME" else "tracking_data"
        return f"It sends {type_name} to those who ask: --select {type_name} with names, or {flag}."
    if "_" in device_name:
        return (
            f"It sends other images than those of its configuration to those who ask: --select "
            f"{device_name}, or igtl.plus.Select(images=[{device_name!r}])."
        )
    if "To" in device_name and device_name[:1].isupper():
        return (
            f"It sends other transforms than those of its configuration to those who ask: --select "
            f"{device_name}, or igtl.plus.Select(transforms=[{device_name!r}]). If the tool is out "
            'of sight nothing is sent of it, unless the server has SendValidTransformsOnly="FALSE".'
        )
    return "It names transforms XToY (ProbeToTracker), and images Image_Frame (Image_Reference)."


def _types_of(diagnosis: Diagnosis, device_name: str) -> str:
    return " and ".join(sorted(kind for kind, device in diagnosis.streams if device == device_name))


def _judge_end(diagnosis: Diagnosis, session: Session) -> None:
    stopped = [
        f"{kind} {device!r} (at {seen.rate:.0f} Hz, the last {seen.age:.1f} s ago)"
        for (kind, device), seen in sorted(diagnosis.streams.items()) if seen.has_stopped()
    ]  # fmt: skip
    if session.closed_after is not None:
        how = "broke off" if session.reset else "closed"
        within = ", within a message" if session.pending else ""
        diagnosis.found("problem", "stopped", f"The peer {how} the connection after "
                        f"{session.closed_after:.1f} s{within}.")  # fmt: skip
    elif stopped:
        all_of_them = len(stopped) == len(diagnosis.streams)
        hint = (
            "The connection stands, so the sender has stopped, or hangs."
            if all_of_them
            else "The others go on: a tool out of sight is not sent by some trackers."
        )
        diagnosis.found("problem", "stopped", f"No more comes of {', '.join(stopped)}. {hint}")
