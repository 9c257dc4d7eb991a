# cython: language_level=3
"""What a Cython module sees of igtl: test_capi.py compiles it against the installed package."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from igtl._core cimport (
    IGTL_CAPI_HEADER_SIZE, IGTL_CAPI_OK, IGTL_CAPI_TRANSFORM_SIZE, IGTL_CAPI_VERSION,
    crc64_of, igtl_capi_header, pack_header, pack_transform, unpack_header, unpack_transform,
)

version = IGTL_CAPI_VERSION

def crc(const uint8_t[::1] data, uint64_t begin):
    cdef uint64_t result
    with nogil:
        result = crc64_of(&data[0] if data.shape[0] else NULL, data.shape[0], begin)
    return result

def pack(str name, uint64_t timestamp, const uint8_t[::1] matrix):
    cdef uint8_t[106] wire
    cdef float[16] m
    raw = name.encode()
    memcpy(m, &matrix[0], 64)
    code = pack_transform(wire, raw, timestamp, m)
    return code if code != IGTL_CAPI_OK else wire[:IGTL_CAPI_TRANSFORM_SIZE]

def unpack(const uint8_t[::1] wire):
    cdef igtl_capi_header h
    cdef float[16] m
    code = unpack_transform(&wire[0], wire.shape[0], &h, m)
    if code != IGTL_CAPI_OK:
        return code
    return (h.version, h.type_name.decode(), h.device_name.decode(), h.timestamp,
            (<const char*>m)[:64])

def header(const uint8_t[::1] wire):
    cdef igtl_capi_header h
    cdef uint8_t[58] again
    code = unpack_header(&wire[0], wire.shape[0], &h)
    if code == IGTL_CAPI_OK:
        code = pack_header(again, &h)
    if code != IGTL_CAPI_OK:
        return code
    return (h.type_name.decode(), h.device_name.decode(), h.body_size, h.crc,
            again[:IGTL_CAPI_HEADER_SIZE])
