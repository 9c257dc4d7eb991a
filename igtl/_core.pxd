# C level of igtl for other Cython modules: CRC-64, header and TRANSFORM without Python objects.
#
#     from igtl._core cimport pack_transform          # compile with include_dirs=[igtl.get_include()]
#
# What the functions do, what they return and how they are versioned stands in igtl_capi.h. Importing
# checks every signature.

from libc.stdint cimport uint8_t, uint16_t, uint64_t

cdef extern from "igtl_capi.h" nogil:
    enum:
        IGTL_CAPI_VERSION
        IGTL_CAPI_HEADER_SIZE
        IGTL_CAPI_TRANSFORM_SIZE
        IGTL_CAPI_OK
        IGTL_CAPI_SHORT
        IGTL_CAPI_NAME
        IGTL_CAPI_TYPE
        IGTL_CAPI_VERSION_UNKNOWN
        IGTL_CAPI_CRC
        IGTL_CAPI_BODY

    ctypedef struct igtl_capi_header:
        uint16_t version
        char type_name[13]
        char device_name[21]
        uint64_t timestamp
        uint64_t body_size
        uint64_t crc

cdef uint64_t crc64_of(const uint8_t* data, size_t size, uint64_t crc) noexcept nogil
cdef int pack_header(uint8_t* wire, const igtl_capi_header* header) noexcept nogil
cdef int unpack_header(const uint8_t* wire, size_t size, igtl_capi_header* header) noexcept nogil
cdef int pack_transform(uint8_t* wire, const char* device_name, uint64_t timestamp,
                        const float* matrix) noexcept nogil
cdef int unpack_transform(const uint8_t* wire, size_t size, igtl_capi_header* header,
                          float* matrix) noexcept nogil
