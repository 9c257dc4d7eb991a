"""Commands by text: COMMAND and its reply, and plain STRINGs.

You see the reply of each command: one that is carried out, one that fails, one that is unknown,
and that a slow one does not hold up the others.
"""

import argparse
import threading
import time

import igtl


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slow", type=float, default=1.0, help="seconds that the slow one takes")
    args = parser.parse_args(argv)
    finished = threading.Event()
    with igtl.serve(port=0, start=False) as server:

        @server.command("SetDepth")
        def set_depth(command, peer):
            depth = float(command.text)
            if not 10 <= depth <= 200:
                raise ValueError(f"depth {depth:g} mm is not within 10 … 200")
            return f"<depth>{depth:g}</depth>"

        @server.command("Segment")
        def segment(command, peer):
            time.sleep(args.slow)
            finished.set()
            return "<done/>"

        @server.on(igtl.String)
        def greet(message, peer):
            peer.send(igtl.String(message.string.upper(), device_name=message.device_name))

        server.start()
        with igtl.connect(port=server.port) as link, igtl.connect(port=server.port) as patient:
            waiting = threading.Thread(
                target=patient.command, args=("Segment",), kwargs={"timeout": 60}
            )
            waiting.start()
            print("SetDepth 37:", link.command("SetDepth", "37").text)
            for name, text in (("SetDepth", "9000"), ("Fly", "")):
                try:
                    link.command(name, text)
                except igtl.CommandFailed as error:
                    print(f"{name} failed: {error}")
            link.send(igtl.String("hello", device_name="Note"))
            print("STRING:", link.recv(igtl.String, timeout=5).string)
            print("the slow one is", "done" if finished.is_set() else "still at work")
            waiting.join()


if __name__ == "__main__":
    main()
