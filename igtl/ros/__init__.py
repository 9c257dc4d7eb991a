"""ROS 2: recordings to bags and back, and live by rclpy.

    igtl.export("case.mcap", "bag/")            # a folder: a bag of ROS 2
    igtl.export("bag/", "case.mcap")            # and back, byte by byte
    for message in igtl.ros.read("bag/"): ...   # the messages of any bag

    with igtl.ros.Node() as node, igtl.connect("tracker") as link:   # where ROS is installed
        for message in link:
            node.publish(message)

Bags need `pip install "igtl[ros]"`, and no ROS. `igtl.ros.Node` needs ROS with its rclpy.
`igtl.ros.mapping` says what becomes what; docs/ros.md has the table.
"""

from igtl.ros.bags import read
from igtl.ros.node import Node

__all__ = ["Node", "read"]
