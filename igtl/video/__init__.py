"""Video: numpy frames to VIDEO messages and back, and a camera for the clients of a server.

    encoder = igtl.VideoEncoder("VP90", fps=30, device_name="Camera")
    link.send(encoder.encode(frame))                    # (height, width) or (height, width, 3)

    decoder = igtl.VideoDecoder()
    for message in link: frame = decoder.decode(message)    # None until a key frame has come

    camera = igtl.video.Publisher(server, "Camera", fps=30)
    camera.publish(frame)                               # to each client in the codec it asked for

Needs `pip install "igtl[video]"`: FFmpeg's libraries, by PyAV, and simplejpeg.

| codec | what it is | which peers read it |
|---|---|---|
| VP90 | VP9 (default) | every peer built with it |
| H264, X265 | H.264, H.265; encoders under the GPL, if you redistribute them | likewise |
| AV10 | AV1; encoded only on systems with SVT-AV1 | likewise, the official library cannot send it |
| I420 | planar YUV 4:2:0, not compressed: 1.5 bytes a pixel | every peer but 3D Slicer |
| MJPG | one JPEG picture a message | igtl ends only |

The last two need no FFmpeg, and each of their frames can be decoded alone. Where each pixel must
arrive as it is, send an IMAGE. Colours are BT.601, studio range, as OpenIGTLinkIO has them; the
luma of a grey frame is its values, unchanged.
"""

from __future__ import annotations

from igtl.video.codecs import Codec, Order, codecs_here
from igtl.video.decoder import VideoDecoder
from igtl.video.encoder import VideoEncoder
from igtl.video.publisher import Publisher

__all__ = ["Codec", "Order", "Publisher", "VideoDecoder", "VideoEncoder", "codecs_here"]
