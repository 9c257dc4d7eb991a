# C level of igtl for other Cython modules: CRC-64, header and TRANSFORM without Python objects.
#
#     from igtl._core cimport pack_transform          # compile with include_dirs=[igtl.get_include()]
#
# What the functions do, what they return and how they are versioned stands in igtl_capi.h. Importing
# checks every signature.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t

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

# What follows is for _stream.pyx and _batch.pyx, and may change with each version of igtl. Functions
# only, and no class: a module that cimports from here would check the size of every class, used or not.

# ---- memory and text

cdef object hold(object data, const uint8_t** p, Py_ssize_t* size)
cdef object new_block(Py_ssize_t size, Py_ssize_t pixels_at, uint8_t** p)
cdef uint64_t run_crc(const uint8_t* p, Py_ssize_t n, uint64_t crc) noexcept
cdef str text_of(const uint8_t* p, Py_ssize_t size, bint* exact)
cdef str type_text(const uint8_t* p)
cdef bytes type_bytes(const uint8_t* p)
cpdef bytes stream_key(object what)
cdef bint is_registered(const uint8_t* p) except -1

# ---- messages

cdef struct Packing:            # how a message is packed
    int version                 # of the header; 0: see Message.pack
    bint crc                    # False: 0 stands in its place
    bint cut_name               # of a device, where 20 bytes do not hold it; else EncodeError
    bint sending                # what is empty becomes version 1, see packed_for
    bint parts                  # a list of buffers, in which large data stands where it lies
    uint8_t* into               # memory to write to: the result is the size; NULL: a new object, as there is
    Py_ssize_t room             # with `parts` for what does not fit, or has large data

cdef Packing packing(int version, bint crc, bint cut_name) noexcept
cdef object packed(object message, const Packing* how)
cpdef bint needs_v2(object r) except -1
cdef object new_of(cls)
cdef int policy_of(crc) except -1
cdef object unpack_at(object owner, const uint8_t* p, Py_ssize_t n, int policy)
cdef list values_of(object message)
cdef bint is_no_data(object message) noexcept

# ---- frames

cdef struct Whole:              # the bytes of one message, in the memory of some object
    const uint8_t* p
    Py_ssize_t size
    bint summed                 # `sum` is the CRC of its body
    uint64_t sum

cdef bint is_frame(object what) noexcept
cdef object new_frame(object data, const Whole* whole)
cdef object whole_of(object frame, Whole* whole)
cdef const uint8_t* frame_bytes(object frame, Py_ssize_t* size) except NULL
cdef object received(object data, const Whole* whole, int policy, object peer, double at, bint* bad_crc)

# ---- plans, and the rows of columns

cdef enum:
    MAX_FIELDS = 48

cdef enum Kind:
    INT
    FLOAT
    TEXT
    ARRAY
    MATRIX
    DATA
    TEXTS
    ELEMENTS
    STRING
    ZERO_ENDED
    COUNT
    SIZE
    CODED

cdef enum:
    REST = -1           # Op.fixed: all that remains
    BY_FIELD = -2       # as many as the hidden field says
    BY_FORM = -3        # one of several, told by the size

cdef struct Op:         # one field of a plan
    int kind
    int itemsize        # bytes of one number, or of a text field
    bint signed
    Py_ssize_t wire     # bytes of the field, whatever its value; -1: it has to be measured
    Py_ssize_t fixed    # number of elements, or REST, BY_FIELD, BY_FORM
    Py_ssize_t per      # numbers in a row (1 for a flat array)
    bint table          # ARRAY: has rows, that is two dimensions
    int counter         # the op that holds this one's count or size; -1: none
    int length          # the op that holds this one's size in bytes; -1: none
    int target          # COUNT, SIZE: the op described
    int encoding        # STRING: the op with the MIBenum; -1: UTF-8
    bint nests          # CODED: messages within the message
    bint little         # ARRAY: its numbers are little endian on the wire
    bint optional
    bint constant
    bint hidden         # no argument of the constructor
    bint kw_only
    Py_ssize_t place    # of the value among those of an element with memory of its own

cdef struct Rows:               # the fixed fields of an element or message, and their columns
    const Op* ops
    int n
    Py_ssize_t stride           # bytes of all fields together
    uint8_t* at[MAX_FIELDS]     # memory of each column; NULL: on the wire only
    Py_ssize_t[MAX_FIELDS] count    # numbers of an array field
    uint64_t[MAX_FIELDS] must   # what stands on the wire of a field without a column

cdef const Op* plan_of(object layout, int* n) except NULL
cdef object new_rows(object cls, Py_ssize_t n, Rows* rows)
cdef object frozen_rows(object columns, Py_ssize_t* size, Rows* rows)
cdef bint take_rows(const Rows* rows, Py_ssize_t first, Py_ssize_t n, const uint8_t* p) noexcept nogil
cdef int give_rows(const Rows* rows, Py_ssize_t first, Py_ssize_t n, uint8_t* p) noexcept nogil
