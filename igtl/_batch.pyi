"""Types of _batch.pyx: runs of messages as columns."""

from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from igtl.codec.message import Message
from igtl.options import CRCPolicy

def unpack_run(
    data: Buffer, crc: CRCPolicy = "verify"
) -> tuple[
    type[Message],
    npt.NDArray[np.int64],
    tuple[str, ...],
    npt.NDArray[np.int32],
    npt.NDArray[np.bool_] | None,
    npt.NDArray[np.int64] | None,
    dict[str, Any],
]: ...
def pack_run(
    cls: type[Message],
    time_ns: npt.NDArray[np.int64],
    names: bytes,
    device_ids: npt.NDArray[np.int32],
    columns: dict[str, Any],
    offsets: npt.NDArray[np.int64] | None = None,
    crc: bool = True,
) -> bytes: ...
