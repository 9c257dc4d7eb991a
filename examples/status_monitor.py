"""A device that reports its state, and a monitor that notices when it falls silent.

You see each change of state once, with the words of the specification, and the alarm at the end.
"""

import argparse
import threading
import time

import igtl
from igtl import StatusCode

STATES = [
    (StatusCode.NOT_READY, "warming up"),
    (StatusCode.OK, ""),
    (StatusCode.OK, ""),
    (StatusCode.OVERFLOW, "too many tools"),
    (StatusCode.OK, ""),
    (StatusCode.HARDWARE_FAILURE, "camera 2"),
]


def device(port: int, interval: float, end: threading.Event) -> None:
    with igtl.connect(port=port) as link:
        for code, text in STATES:
            link.send(igtl.Status(code, 0, code.name, text, device_name="Tracker"))
            time.sleep(interval)
        end.wait()  # it hangs: connected, and silent


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interval", type=float, default=0.2, help="seconds between two reports")
    args = parser.parse_args(argv)
    end, before = threading.Event(), None
    with igtl.listen(port=0) as listener:
        thread = threading.Thread(target=device, args=(listener.port, args.interval, end))
        thread.start()
        with listener.accept(timeout=10) as link:
            while True:
                try:
                    status = link.recv(igtl.Status, timeout=5 * args.interval)
                except TimeoutError:
                    age = link.stats.streams["STATUS", "Tracker"].age
                    print(f"ALARM: nothing for {age:.1f} s")
                    break
                if status.code != before:
                    before = status.code
                    print(
                        "ok" if status.is_ok else "!!", StatusCode(status.code).name, status.message
                    )
            end.set()
        thread.join()


if __name__ == "__main__":
    main()
