"""`igtl ros`: what a server sends, as topics of ROS 2."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import click

import igtl
from igtl.cli import arguments
from igtl.cli.arguments import Place
from igtl.cli.sources import Source, receiving
from igtl.cli.terminal import say
from igtl.log import named


@click.command("ros")
@click.argument("origin", type=Place(), default="localhost", metavar="[ADDRESS | FILE]")
@click.option("--node", "node_name", default="igtl", show_default=True, help="Name of the node.")
@click.option(
    "--subscribe", "topics", multiple=True, metavar="TOPIC=TYPE",
    help="Send this topic to the server: /arm/goal=geometry_msgs/PoseStamped.",
)  # fmt: skip
@arguments.loop
@arguments.seconds()
@receiving
def command(
    origin: Path | tuple[str, int],
    node_name: str,
    topics: tuple[str, ...],
    loop: bool,
    seconds: float | None,
    source: Callable[..., Source],
) -> None:
    """Publish what a server sends, or a recording, as topics of ROS 2: tf, poses, images, wrenches.

    Takes ROS 2 with its rclpy, in a shell in which its setup.bash was sourced. docs/ros.md says
    what becomes what.
    """
    if topics and isinstance(origin, Path):
        raise click.UsageError("--subscribe sends to a server, not to a file")
    check: Callable[[], object] = lambda: None  # noqa: E731
    with igtl.ros.Node(node_name) as node:
        if isinstance(origin, Path):
            with igtl.Recording(origin) as recording:
                _run(node, lambda: _play(node, recording, loop), seconds)
        else:
            incoming = source(origin, heal=True)
            for word in topics:
                topic, sign, kind = word.partition("=")
                if not sign:
                    raise click.BadParameter(f"{word!r} is not TOPIC=TYPE", param_hint="subscribe")
                try:
                    node.subscribe(topic, kind, incoming.send)
                except ValueError as error:
                    raise click.BadParameter(str(error), param_hint="subscribe") from None
            say(f"{named(origin)} -> node {node_name!r}, Ctrl-C ends")
            try:
                stopped = _run(node, lambda: _receive(node, incoming), seconds)
            finally:
                incoming.close()
            if not stopped:
                check = incoming.check
        told = "".join(f", {count} {kind} left out" for kind, count in node.left_out.items())
        say(f"{node.published} published{told}{f', {node.bad} damaged' if node.bad else ''}")
    check()


def _run(node: igtl.ros.Node, publish: Callable[[], None], seconds: float | None) -> bool:
    """Publish in a thread, until the time is up, or all is published.

    ROS is served in this thread, until Ctrl-C: returns whether it was pressed. Raises what has
    ended the publishing.
    """
    failed: list[Exception] = []

    def work() -> None:
        try:
            publish()
        except (igtl.IgtlError, OSError, click.ClickException) as error:
            failed.append(error)
        finally:
            node.stop()

    try:
        threading.Thread(target=work, name="igtl ros", daemon=True).start()
        node.spin(seconds)
    except KeyboardInterrupt:
        return True
    if failed:
        raise failed[0]
    return False


def _receive(node: igtl.ros.Node, incoming: Source) -> None:
    with incoming:
        for message in incoming.messages():
            node.publish(message)


def _play(node: igtl.ros.Node, recording: igtl.Recording, loop: bool) -> None:
    for frame in recording.play(loop=loop, restamp=True):
        try:
            message = frame.unpack()
        except igtl.ProtocolError:
            node.bad += 1
            continue
        node.publish(message)
