"""Devices on the desk, without a desk: generated camera pictures, and a rendered film of a marker.

You see what a camera sends to a client, in pictures and as video, or how far the poses of a printed
marker are from the truth. On real hardware: `igtl serve --feed camera:/dev/video0`.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

import igtl

SIZE = 640, 480
FOCAL = 600.0  # pixels
SIDE = 40.0  # mm of the marker
CELLS, BORDER = 400, 80  # pixels of its picture, and of the paper around it


def poses(count: int) -> list[np.ndarray]:
    """4x4 of the marker in the camera, mm: it turns, and moves to and fro."""
    out = []
    for n in range(count):
        tilt = np.pi + 0.5 * np.sin(n / 7), 0.5 * np.cos(n / 9), 0.05 * n
        pose = np.eye(4)
        for axis, angle in enumerate(tilt):
            c, s = np.cos(angle), np.sin(angle)
            turn = np.eye(3)
            i, j = (axis + 1) % 3, (axis + 2) % 3
            turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
            pose[:3, :3] = turn @ pose[:3, :3]
        pose[:3, 3] = 30 * np.sin(n / 6), 20 * np.cos(n / 8), 200 + 50 * np.sin(n / 10)
        out.append(pose)
    return out


def render(folder: Path, truth: list[np.ndarray], number: int = 7) -> tuple[Path, Path]:
    """A lossless film of the marker in these poses, and the calibration of its camera."""
    import av
    import cv2

    matrix = np.array([[FOCAL, 0, SIZE[0] / 2], [0, FOCAL, SIZE[1] / 2], [0, 0, 1]])
    marker = cv2.aruco.generateImageMarker(
        cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50), number, CELLS
    )
    paper = cv2.copyMakeBorder(marker, *[BORDER] * 4, cv2.BORDER_CONSTANT, value=255)
    half = SIDE / 2 * (CELLS + 2 * BORDER) / CELLS
    corners = np.array(
        [[-half, half, 0, 1], [half, half, 0, 1], [half, -half, 0, 1], [-half, -half, 0, 1]]
    )
    edge = CELLS + 2 * BORDER - 0.5  # a pixel reaches half a pixel around its centre
    source = np.array([[-0.5, -0.5], [edge, -0.5], [edge, edge], [-0.5, edge]], np.float32)
    fine = 3  # pixels of the rendering in one of the film, in each direction

    film, calibration = folder / "marker.mkv", folder / "camera.json"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "gray"
        for pose in truth:
            seen = matrix @ (pose @ corners.T)[:3]
            pixels = (seen[:2] / seen[2]).T
            at = ((pixels + 0.5) * fine - 0.5).astype(np.float32)
            large = cv2.warpPerspective(
                paper,
                cv2.getPerspectiveTransform(source, at),
                (fine * SIZE[0], fine * SIZE[1]),
                borderValue=120,
            )
            frame = av.VideoFrame.from_ndarray(
                cv2.resize(large, SIZE, interpolation=cv2.INTER_AREA), "gray"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    calibration.write_text(json.dumps({"camera_matrix": matrix.tolist()}))
    return film, calibration


def camera(frames: int) -> None:
    """Generated pictures behind a server: IMAGE for all clients, VIDEO for the one that asks."""
    source = igtl.devices.open("camera:testsrc=size=320x240:rate=30", name="Endoscope")
    with igtl.serve(port=0, policy="latest") as server, igtl.devices.feed(server, source):
        with igtl.connect(port=server.port, hello=True, read_timeout=10) as link:
            image = link.recv(igtl.Image)
            print(f"IMAGE {image.device_name}: {image.array.shape}")
            decoder = igtl.VideoDecoder()
            with link.stream(igtl.StartVideo(codec="VP90", device_name="Endoscope")) as video:
                shown = 0
                for message in video:
                    shown += decoder.decode(message) is not None
                    if shown == frames:
                        break
            print(
                f"VIDEO {message.device_name}: {shown} frames decoded, {len(message.payload)} bytes the last one"
            )


def marker(frames: int) -> None:
    """A marker on a film: its poses against the truth."""
    truth = poses(frames)
    with tempfile.TemporaryDirectory() as folder:
        film, calibration = render(Path(folder), truth)
        spec = f"aruco:{film}?mm={SIDE},pace=no"
        with igtl.devices.open(spec, calibration=str(calibration)) as device:
            found = [m for m in device if isinstance(m, igtl.Transform)]
    assert found, "no marker was found"
    begun = found[0].timestamp
    errors = []
    for message in found:
        true = truth[round(30 * (message.timestamp - begun))]
        errors.append(np.linalg.norm(message.matrix[:3, 3] - true[:3, 3]))
    print(
        f"{found[0].device_name}: {len(found)} of {len(truth)} frames, error {np.median(errors):.2f} mm, {max(errors):.2f} mm at most"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["camera", "marker"])
    parser.add_argument("--frames", type=int, default=30)
    args = parser.parse_args(argv)
    {"camera": camera, "marker": marker}[args.what](args.frames)


if __name__ == "__main__":
    main()
