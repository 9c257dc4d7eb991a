# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
# cython: embedsignature=True, embedsignature.format=clinic, auto_pickle=False, binding=False
# cython: freethreading_compatible=True
"""The wire codec: CRC-64, text, the plans of declared fields, messages and their bytes.

Layout of this file: memory · CRC-64 · text · Layout (a plan and its two interpreters, `measure` +
`write` and `read`) · rows and Columns · Record (a message's memory) · pack · unpack · Frame ·
rotations · polygon cells · C level. Bytes, numbers and headers are in _wire.h; framing is in
_stream.pyx, runs of messages in _batch.pyx, and both use what _core.pxd lists.

Rules. Everything read from the wire goes through `need`, which checks against what remains
before anything is allocated. Pointer code is `noexcept nogil` where it can be, so that the
compiler refuses Python operations in it. Layouts are compiled once, at class creation.
"""

cimport cython
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_Clear
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from cpython.object cimport Py_TYPE, PyObject, PyTypeObject
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport Py_INCREF, Py_XDECREF, Py_XINCREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.math cimport NAN, isinf, isnan, sqrt
from libc.stdint cimport INT64_MIN, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset
cimport numpy as cnp

from igtl._wire cimport (
    EXTENDED, HEADER, MAX_BLOCK, MAX_NAME, Extended, cells_in, cells_out, get16, get32, get64, get_int,
    little_in, little_out, little_rows_in, little_rows_out, matrix_in, matrix_out, ns_of, put16, put32, put64,
    put_header, put_int, raw_time, read_extended, sign_extend, stream_name, swap_in, swap_out, swap_rows_in,
    swap_rows_out, text_size,
)

import copy
import operator
import os
import struct

import numpy as np

from igtl.errors import BodyError, CRCError, EncodeError, ProtocolError, VersionError
from igtl.fields import REQUIRED, rest as _rest

cnp.import_array()

cdef extern from * nogil:
    """
    #if defined(__linux__)
    #include <sys/mman.h>
    #endif
    /* Memory that is about to be written for the first time: with large pages the system has to
     * hand it out in a few steps, not one for every 4 KiB. */
    static void igtl_large_pages(void *start, size_t size)
    {
    #if defined(__linux__) && defined(MADV_HUGEPAGE)
        uintptr_t first = ((uintptr_t)start + 4095) & ~(uintptr_t)4095;
        uintptr_t last = ((uintptr_t)start + size) & ~(uintptr_t)4095;
        if (first < last)
            madvise((void *)first, last - first, MADV_HUGEPAGE);
    #else
        (void)start;
        (void)size;
    #endif
    }
    """
    void igtl_large_pages(void* start, size_t size)

cdef extern from * nogil:
    """
    #ifdef Py_LIMITED_API
    #define igtl_set_vectorcall(cls, function) ((void)(function))
    #define igtl_init_of(cls) NULL
    #define igtl_new_of(cls) PyType_GetSlot((PyTypeObject *)(cls), Py_tp_new)
    #else
    #define igtl_new_of(cls) ((void *)((PyTypeObject *)(cls))->tp_new)
    static void igtl_set_vectorcall(PyObject *cls, void *function)
    {
        PyTypeObject *meta = Py_TYPE(cls);
        if (meta->tp_call != PyType_Type.tp_call)
            return;
        /* Python before 3.12 does not hand this down from `type` */
        meta->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
        ((PyTypeObject *)cls)->tp_vectorcall = (vectorcallfunc)function;
    }
    #define igtl_init_of(cls) ((void *)((PyTypeObject *)(cls))->tp_init)
    #endif
    /* The interpreter calls a compiled method at once where its class is the very one of the object, and
     * else by way of a search through the bases. */
    static int igtl_own_method(PyObject *cls, PyObject *name, PyObject *inherited)
    {
    #ifndef Py_LIMITED_API
        PyObject *own;
        int done;
        if (!Py_IS_TYPE(inherited, &PyMethodDescr_Type))
            return 0;
        own = PyDescr_NewMethod((PyTypeObject *)cls, ((PyMethodDescrObject *)inherited)->d_method);
        if (own == NULL)
            return -1;
        done = PyObject_SetAttr(cls, name, own);
        Py_DECREF(own);
        return done;
    #else
        return 0;
    #endif
    }
    /* PyVectorcall_NARGS, which older limited APIs lack */
    #define igtl_nargs(n) ((Py_ssize_t)((n) & ~((size_t)1 << (8 * sizeof(size_t) - 1))))
    """
    Py_ssize_t igtl_nargs(size_t)
    void igtl_set_vectorcall(PyObject*, void*)
    void* igtl_init_of(PyObject*)
    void* igtl_new_of(PyObject*)
    int igtl_own_method(object, object, object) except -1

cdef extern from *:
    """
    /* The memory of objects, without a call where the Python API lets it be seen. */
    #ifdef Py_LIMITED_API
    #define igtl_bytes(raw) ((uint8_t *)PyBytes_AsString(raw))
    #define igtl_size(raw) PyBytes_Size(raw)
    #define igtl_item(list, i) PyList_GetItem(list, i)
    #else
    #define igtl_bytes(raw) ((uint8_t *)PyBytes_AS_STRING(raw))
    #define igtl_size(raw) PyBytes_GET_SIZE(raw)
    #define igtl_item(list, i) PyList_GET_ITEM(list, i)
    #endif
    /* The caller knows that there is such an item. */
    static inline void igtl_put_item(PyObject *list, Py_ssize_t i, PyObject *value)
    {
        Py_INCREF(value);
    #if defined(Py_LIMITED_API) || defined(Py_GIL_DISABLED)
        PyList_SetItem(list, i, value);
    #else
        PyObject *old = PyList_GET_ITEM(list, i);
        PyList_SET_ITEM(list, i, value);
        Py_XDECREF(old);
    #endif
    }
    static inline Py_ssize_t igtl_length(PyObject *text)
    {
    #ifndef Py_LIMITED_API
        if (PyUnicode_IS_COMPACT_ASCII(text))
            return PyUnicode_GET_LENGTH(text);
    #endif
        return PyUnicode_GetLength(text);
    }
    static inline const char *igtl_utf8(PyObject *text, Py_ssize_t *n)
    {
    #ifndef Py_LIMITED_API
        if (PyUnicode_IS_COMPACT_ASCII(text)) {
            *n = PyUnicode_GET_LENGTH(text);
            return (const char *)PyUnicode_1BYTE_DATA(text);
        }
    #endif
        return PyUnicode_AsUTF8AndSize(text, n);
    }
    """
    uint8_t* bytes_at "igtl_bytes"(PyObject*) noexcept                      # of bytes
    Py_ssize_t size_of "igtl_size"(PyObject*) noexcept
    PyObject* item_of "igtl_item"(list, Py_ssize_t) noexcept                # borrowed; there is one
    void put_item "igtl_put_item"(list, Py_ssize_t, object) noexcept
    Py_ssize_t length_of_str "igtl_length"(PyObject*) noexcept              # characters
    const char* utf8_of "igtl_utf8"(PyObject*, Py_ssize_t*) except NULL     # of str; it ends with NUL
    const char* utf8_or_error "igtl_utf8"(PyObject*, Py_ssize_t*) noexcept

cdef extern from "Python.h":
    str PyUnicode_FromObject(object)
    PyObject* PyDict_GetItemWithError(object, object) except? NULL
    int64_t PyLong_AsLongLongAndOverflow(object, int*) except? -1
    ctypedef object (*new_function "newfunc")(PyTypeObject*, object, PyObject*)

cdef extern from "numpy/arrayobject.h":
    PyTypeObject PyArray_Type
    object PyArray_NewFromDescr(PyTypeObject*, cnp.dtype, int, cnp.npy_intp*, cnp.npy_intp*, void*, int, PyObject*)

cdef extern from "<time.h>" nogil:
    struct timespec:
        int64_t tv_sec
        long tv_nsec
    int timespec_get(timespec*, int)
    int TIME_UTC

cdef extern from "_crc64.h" nogil:
    ctypedef uint64_t (*igtl_crc64_fn)(const uint8_t *, size_t, uint64_t)
    ctypedef struct igtl_crc64_form:
        const char *name
        igtl_crc64_fn run
    igtl_crc64_fn igtl_crc64
    const igtl_crc64_form *igtl_crc64_used
    const igtl_crc64_form *igtl_crc64_find(const char *)
    uint64_t igtl_crc64_copy(uint8_t *, const uint8_t *, size_t, uint64_t)
    int igtl_crc64_init()

cdef extern from "igtl_capi.h":
    ctypedef struct igtl_capi:
        int version
        uint64_t (*crc64)(const uint8_t*, size_t, uint64_t) noexcept nogil
        int (*pack_header)(uint8_t*, const igtl_capi_header*) noexcept nogil
        int (*unpack_header)(const uint8_t*, size_t, igtl_capi_header*) noexcept nogil
        int (*pack_transform)(uint8_t*, const char*, uint64_t, const float*) noexcept nogil
        int (*unpack_transform)(const uint8_t*, size_t, igtl_capi_header*, float*) noexcept nogil

cdef enum:
    NOGIL_FROM = 5 * 1024       # below this, giving up the GIL costs more than it brings
    APART_FROM = 64 * 1024      # data of this size is sent from where it lies
    LARGE_FROM = 4 << 20        # memory that is worth large pages
    SHORT = 4 * 1024            # characters of a text that keeps its UTF-8 beside it
    LATER_FROM = 64 * 1024      # texts of this size are decoded when they are read
    HEADS = 32                  # streams whose class and name are remembered
    BRIEF = 256                 # bytes of a message that is written in one pass
    MAX_DEPTH = 8               # of messages in messages: each level takes its part of the stack

# ---- memory -----------------------------------------------------------------------------------

@cython.final
cdef class Held:
    """The memory of any contiguous buffer as bytes, which its owner can neither free nor resize for
    as long as this lives."""

    cdef Py_buffer view
    cdef const uint8_t* p
    cdef Py_ssize_t size
    cdef bint fixed

    def __cinit__(self, data):
        self.fixed = is_fixed(data)
        try:
            PyObject_GetBuffer(data, &self.view, PyBUF_SIMPLE)
        except ValueError as error:     # of numpy, whose strided arrays are no such buffer
            raise BufferError(str(error)) from None
        self.p = <const uint8_t*>self.view.buf
        self.size = self.view.len

    def __dealloc__(self):
        PyBuffer_Release(&self.view)

    def __len__(self):
        return self.size

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.view.buf, self.size, self.view.readonly, flags)

cdef object hold(object data, const uint8_t** p, Py_ssize_t* size):
    """A buffer's memory, for as long as what this returns lives."""
    cdef Held held = Held(data)
    p[0] = held.p
    size[0] = held.size
    return held

@cython.final
cdef class Block:
    """Memory of one large frame. Reserved at once, committed by the system as bytes arrive, and
    placed so that the pixels of an IMAGE are 64-byte aligned whatever the header version."""

    cdef uint8_t* base
    cdef uint8_t* p
    cdef Py_ssize_t size

    def __cinit__(self, Py_ssize_t size, Py_ssize_t pixels_at=0):
        cdef uintptr_t start
        if not 0 <= size <= MAX_BLOCK:
            raise ValueError(f"a block of {size} bytes")
        self.size = size
        self.base = <uint8_t*>malloc(size + 64)
        if self.base == NULL:
            raise MemoryError(f"no memory for a message of {size} bytes")
        start = <uintptr_t>self.base
        self.p = self.base + <Py_ssize_t>((64 - (start + pixels_at) % 64) % 64)

    def __dealloc__(self):
        free(self.base)

    def __len__(self):
        return self.size

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.p, self.size, 0, flags)

cdef object new_block(Py_ssize_t size, Py_ssize_t pixels_at, uint8_t** p):
    """A Block, and where its memory begins."""
    cdef Block block = Block(size, pixels_at)
    p[0] = block.p
    return block

# ---- CRC-64 -----------------------------------------------------------------------------------

cdef uint64_t run_crc(const uint8_t* p, Py_ssize_t n, uint64_t crc) noexcept:
    if n < NOGIL_FROM:
        return igtl_crc64(p, n, crc)
    with nogil:
        crc = igtl_crc64(p, n, crc)
    return crc

def crc64(data, uint64_t crc=0, *, str form=None):
    cdef igtl_crc64_fn run = igtl_crc64
    cdef const igtl_crc64_form* named
    cdef Held held = Held(data)
    if form is not None:
        name = form.encode()
        named = igtl_crc64_find(name)
        if named == NULL:
            raise ValueError(f"no CRC form {form!r} on this machine: {', '.join(crc_forms())}")
        run = named.run
    if held.size < NOGIL_FROM:
        return run(held.p, held.size, crc)
    with nogil:
        crc = run(held.p, held.size, crc)
    return crc

def crc_forms():
    return tuple([name for name in ("portable", "clmul", "vpclmul256", "vpclmul512")
                  if igtl_crc64_find(name.encode()) != NULL])

def crc_form():
    return igtl_crc64_used.name.decode()

if igtl_crc64_init() < 0:
    raise ImportError(f"the environment variable IGTL_CRC is {os.environ.get('IGTL_CRC')!r}: "
                      f"this machine has the CRC forms {', '.join(crc_forms())}")

# ---- text -------------------------------------------------------------------------------------

# IANA MIBenum -> Python codec (docs/protocol.md section 1.1)
_ENCODINGS = {
    3: "ascii", 4: "latin-1", 13: "iso8859-10", 17: "shift_jis", 18: "euc_jp", 38: "euc_kr",
    39: "iso2022_jp", 106: "utf-8", 113: "gbk", 114: "gb18030", 1013: "utf-16-be",
    1014: "utf-16-le", 1015: "utf-16", 1017: "utf-32", 2009: "cp850", 2011: "cp437",
    2025: "gb2312", 2026: "big5", 2027: "mac-roman",
}
_ENCODINGS.update({code: f"iso8859-{code - 3}" for code in range(5, 13)})
_ENCODINGS.update({code: f"iso8859-{code - 96}" for code in range(109, 113)})
_ENCODINGS.update({code: f"cp{code - 1000}" for code in range(2250, 2259)})

cpdef str decode_text(bytes raw, int encoding):
    """Text for display: valid UTF-8 as UTF-8 whatever the label says, except UTF-16 and UTF-32."""
    if not 1013 <= encoding <= 1017:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            pass
    name = _ENCODINGS.get(encoding, "utf-8")
    return raw.decode(name if name != "ascii" else "utf-8", "replace")

cpdef bytes encode_text(text, int encoding):
    """Bytes of a text under a MIBenum; 3 (US-ASCII) takes ASCII only, unknown numbers UTF-8."""
    if isinstance(text, (bytes, bytearray, memoryview)):
        return bytes(text)
    return text.encode(_ENCODINGS.get(encoding, "utf-8"))

cdef str utf8_text(const uint8_t* p, Py_ssize_t n):
    """These bytes as text; None where they are no UTF-8."""
    try:
        return PyUnicode_DecodeUTF8(<const char*>p, n, NULL)
    except UnicodeDecodeError:
        return None

cdef str text_of(const uint8_t* p, Py_ssize_t size, bint* exact):
    """Text before the first NUL. *exact: the field holds nothing the text does not show."""
    cdef Py_ssize_t n = text_size(p, size)
    cdef Py_ssize_t i
    cdef str text
    exact[0] = True
    for i in range(n, size):
        if p[i]:
            exact[0] = False
            break
    text = utf8_text(p, n)
    if text is None:
        exact[0] = False
        text = PyUnicode_DecodeUTF8(<const char*>p, n, "replace")
    return text

# ---- what is decoded when it is read ------------------------------------------------------------

@cython.final
cdef class Later:
    """The bytes of a field that were checked but not decoded: as Python objects they may take a
    hundred times as much memory, which only a reader of the field has to pay."""

    cdef readonly object data
    cdef readonly int64_t count     # of a coded field: its count; of a string: its encoding
    cdef readonly int depth         # see Layout.read

    def __init__(self, data, int64_t count, int depth):
        self.data = memoryview(data)
        self.count = count
        self.depth = depth

    def __reduce__(self):
        return Later, (bytes(self.data), self.count, self.depth)

cdef bint is_fixed(data):
    """Whether a buffer is memory that the caller of `unpack` does not write to."""
    if type(data) is memoryview:
        data = data.obj
    return type(data) is bytes or type(data) is Block or type(data) is Held and (<Held>data).fixed

cdef Later later(view, int64_t count, int depth):
    """What the caller of `unpack` may write to is copied."""
    return Later(view if is_fixed(view) else bytes(view), count, depth)

cdef Py_ssize_t elements_of(value) except -1:
    """How many elements a field has, decoded or not."""
    return (<Later>value).count if type(value) is Later else len(value)

# ---- Layout -----------------------------------------------------------------------------------

cdef enum:
    NOT_BRIEF = -2      # of write_briefly

# What a message may carry besides its fields.
cdef enum:
    TYPE            # another one than that of the class
    EXTENSION       # of the extended header
    SURPLUS         # behind the content
    INDEX           # of the metadata
    ENTRIES         # of the metadata
    BESIDE          # how many these are

# What a message is packed from: its values as they were at one instant, each held by a reference, so
# that no other thread can change which memory is measured and which is written.
cdef struct Taken:
    int n
    PyObject* values[MAX_FIELDS]
    Py_ssize_t[MAX_FIELDS] sizes    # bytes on the wire
    Py_ssize_t[MAX_FIELDS] numbers  # what a COUNT of this field says; bytes of a plain text
    PyObject* coded[MAX_FIELDS]     # what had to be encoded to be measured, or NULL; also references
    const char* texts[MAX_FIELDS]   # plain texts: those that stand on the wire as Python has them
    PyObject* beside[BESIDE]        # bytes that few messages have, or NULL; also references

_INTEGERS = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")
_SCALARS_OF = {
    "int": _INTEGERS, "count": _INTEGERS, "size": _INTEGERS, "float": ("f4", "f8"),
    "array": (*_INTEGERS, "f4", "f8"), "matrix": ("f4",), "data": ("u1",),
}
_KINDS = {
    "int": INT, "float": FLOAT, "text": TEXT, "array": ARRAY, "matrix": MATRIX, "data": DATA,
    "texts": TEXTS, "elements": ELEMENTS, "string": STRING, "zero_ended": ZERO_ENDED,
    "count": COUNT, "size": SIZE, "coded": CODED,
}

cdef enum HeaderField:
    DEVICE_NAME = -1
    TIMESTAMP = -2
    MESSAGE_ID = -3
    METADATA = -4

cdef dict _HEADER_FIELDS = {
    "device_name": DEVICE_NAME, "timestamp": TIMESTAMP, "message_id": MESSAGE_ID, "metadata": METADATA,
}

@cython.final
cdef class _Names:
    """The names of a call's arguments, resolved. It is not changed once a Layout keeps it."""

    cdef tuple names
    cdef object unknown                 # the first that is no argument; those before it are resolved
    cdef Py_ssize_t n                   # how many are resolved
    cdef int[MAX_FIELDS + 4] which      # numbers of fields, or HeaderField

@cython.final
cdef class Layout:
    """A compiled field list: what `pack`, `unpack` and attribute access run."""

    cdef Op* ops
    cdef readonly int n
    cdef readonly str owner
    cdef readonly str type_name
    cdef readonly tuple fields
    cdef readonly Py_ssize_t minimum
    cdef Py_ssize_t settled          # bytes of the fields whose size the plan says, see Op.wire
    cdef bint open                   # there are others, to be measured
    cdef bint brief                  # all may be fields that `write_briefly` knows
    cdef readonly dict index
    cdef readonly object check       # cross-field checks of the class, after reading
    cdef readonly object prepare     # and before writing
    cdef readonly bint prefers_v2
    cdef readonly bint columnar      # its fields fit columns, see unpack_run
    cdef readonly bytes wire_type
    cdef tuple dtypes
    cdef readonly tuple columns      # dtypes of an element list's columns
    cdef readonly tuple items        # classes of the element lists
    cdef readonly tuple names
    cdef tuple defaults
    cdef dict arguments              # of the constructor: number of the field, or a HeaderField
    cdef list blank                  # values of a message that has none yet
    cdef list called                 # one _Names: those of the constructor's last call, see _last
    cdef Py_ssize_t native           # bytes of an element's values in memory of its own
    cdef object made                 # the class that it was compiled for, see call_directly

    def __cinit__(self, *args, **kwargs):
        self.ops = NULL

    def __dealloc__(self):
        PyMem_Free(self.ops)

    def __init__(self, str owner, str type_name, fields, *, check=None, prepare=None, bint prefers_v2=False,
                 bint header=True):
        cdef int i
        cdef Op* op
        if self.ops != NULL:
            raise TypeError("a layout is compiled once")
        fields = tuple(fields)
        if len(fields) > MAX_FIELDS:
            raise TypeError(f"{owner}: at most {MAX_FIELDS} fields")
        self.owner = owner
        self.type_name = type_name
        self.called = [None]
        self.wire_type = type_name.encode().ljust(12, b"\0")
        self.fields = fields
        self.check = check
        self.prepare = prepare
        self.prefers_v2 = prefers_v2
        self.ops = <Op*>PyMem_Calloc(len(fields) + 1, sizeof(Op))
        if self.ops == NULL:
            raise MemoryError
        self.n = len(fields)
        self.index = {f.name: k for k, f in enumerate(self.fields)}
        self.names = tuple([f.name for f in self.fields])
        self.arguments = {f.name: k for k, f in enumerate(self.fields) if not f.hidden}
        if header:
            self.arguments.update(_HEADER_FIELDS)
        self.items = tuple([f.item.__columns__ if f.kind == "elements" else None for f in self.fields])
        self.defaults = tuple([f.default for f in self.fields])
        self.dtypes = tuple([np.dtype(f.scalar) if f.scalar else None for f in self.fields])
        self.columns = tuple([
            np.dtype(f"S{f.size}") if f.kind == "text" else dtype
            for f, dtype in zip(self.fields, self.dtypes)
        ])
        self.blank = [f.default if f.hidden and f.kind == "int" else None for f in self.fields]
        self.minimum = self.settled = 0
        self.brief = True
        self.columnar = check is None and self.n > 0
        for i in range(self.n):
            self._compile(i, self.fields[i])
        for i in range(self.n):
            op = &self.ops[i]
            if op.wire >= 0:
                self.settled += op.wire
            else:
                self.open = True
            self.brief = self.brief and not op.optional and not op.constant and op.kind in (
                INT, FLOAT, MATRIX, TEXT, STRING, ZERO_ENDED, SIZE)
            if op.kind != TEXT:
                self.native += (op.itemsize - self.native % op.itemsize) % op.itemsize
            op.place = self.native
            self.native += cell_size(op)
            if op.kind == COUNT:
                self.ops[op.target].counter = i
            elif op.kind == SIZE:
                self.ops[op.target].length = i
        self.ops[self.n].place = self.native
        self.brief = self.brief and HEADER + self.settled <= BRIEF

    cdef int _compile(self, int i, f) except -1:
        cdef Op* op = &self.ops[i]
        counts = (f.count,) if isinstance(f.count, int) else f.count if isinstance(f.count, tuple) else (1,)
        if f.scalar not in _SCALARS_OF.get(f.kind, ("",)):
            raise TypeError(f"{self.owner}.{f.name}: a field of kind {f.kind!r} has no scalar {f.scalar!r}")
        if (min(f.size, f.per, *counts) < 0 or f.kind in ("text", "texts") and not f.size
                or max(f.size, 8) * max(f.per, 1) * max(1, *counts) >= 1 << 31):
            raise TypeError(f"{self.owner}.{f.name}: sizes and counts must be positive, and less than 2 GiB")
        op.kind = _KINDS[f.kind]
        op.counter = op.length = op.target = op.encoding = -1
        op.itemsize = f.size or (self.dtypes[i].itemsize if f.scalar else 1)
        op.signed = f.scalar[:1] == "i"
        op.optional = f.optional
        op.constant = f.constant
        op.nests = getattr(f.item, "nests", False)
        op.little = f.little
        op.hidden = f.hidden
        op.kw_only = f.kw_only
        op.table = f.per > 0
        op.per = f.per or 1
        if f.of:
            if f.of not in self.index:
                raise TypeError(f"{self.owner}.{f.name}: there is no field {f.of!r}")
            op.target = self.index[f.of]
            if op.target <= i:
                raise TypeError(f"{self.owner}.{f.name}: {f.of!r} must be a later field")
        if f.encoding:
            op.encoding = self._earlier(i, f.encoding, "mib")
            if self.ops[op.encoding].kind != INT or self.ops[op.encoding].itemsize != 2:
                raise TypeError(f"{self.owner}.{f.name}: {f.encoding!r} must be a mib field")
            self.ops[op.encoding].target = i
        if isinstance(f.count, int):
            op.fixed = f.count
        elif f.count == _rest:
            op.fixed = REST
        elif isinstance(f.count, tuple):
            op.fixed = BY_FORM
        else:
            op.fixed = BY_FIELD
            if op.kind == ARRAY:
                op.counter = self._earlier(i, f.count, "count")
            else:
                op.length = self._earlier(i, f.count, "size")
        if f.kind in ("zero_ended", "texts", "elements") or op.fixed in (REST, BY_FORM) or op.optional:
            if i != self.n - 1 and not (op.optional and self.fields[i + 1].count == _rest):
                raise TypeError(f"{self.owner}.{f.name}: only the last field can take what remains")
        if op.kind == ZERO_ENDED:
            op.fixed = REST
        op.wire = -1
        if op.kind == MATRIX:
            op.wire = 48
        elif op.kind in (INT, FLOAT, COUNT, SIZE) and not op.optional:
            op.wire = op.itemsize
        if op.kind == ELEMENTS and not f.item.__layout__.minimum:
            raise TypeError(f"{self.owner}.{f.name}: a {f.item.__name__} has no fields")
        if op.kind == CODED:
            self.minimum += getattr(f.item, "minimum", 0)
        elif op.fixed >= 0 and not op.optional:
            self.minimum += op.itemsize * op.fixed * op.per
        self.columnar = self.columnar and not op.optional and op.kind in (
            INT, FLOAT, TEXT, ARRAY, MATRIX, COUNT, ZERO_ENDED, ELEMENTS)

    cdef const Op* op(self, int i) except NULL:
        if not 0 <= i < self.n:
            raise IndexError(f"{self.owner} has no field {i}")
        return &self.ops[i]

    cdef int _earlier(self, int i, str name, str kind) except -1:
        """The field of this name, which stands before field i and is of this kind."""
        cdef int found = self.index.get(name, self.n)
        if found >= i:
            raise TypeError(f"{self.owner}.{self.names[i]}: {name!r} must be an earlier field")
        if kind != "mib" and self.ops[found].kind != _KINDS[kind]:
            raise TypeError(f"{self.owner}.{self.names[i]}: {name!r} must be a {kind}_of field")
        return found

    cdef _Names named(self, tuple names):
        """What the names in a call of the constructor stand for. A call in a program comes with the
        same tuple each time."""
        cdef _Names called = self.called[0]
        cdef PyObject* place
        cdef Py_ssize_t k
        if called is not None and called.names is names:
            return called
        called = _Names()
        called.names = names
        for k in range(len(names)):
            place = PyDict_GetItemWithError(self.arguments, names[k])
            if place == NULL:       # an error, which needs no cache
                called.unknown = names[k]
                return called
            called.which[k] = <object>place
            called.n = k + 1
        self.called[0] = called
        return called

    def need_columns(self):
        """TypeError if its fields do not fit columns."""
        if not self.columnar:
            raise TypeError(f"{self.owner} does not fit columns: its messages go one by one")

    # -- values as the fields hold them

    cdef object coerce(self, int i, object value):
        """What a field keeps of what a user assigned; EncodeError when it cannot be sent."""
        cdef Op* op = &self.ops[i]
        if op.kind == INT:
            if value is None and (op.optional or op.target >= 0):
                return None
            return self._check_int(i, value)
        if op.kind == FLOAT:
            return float(value)
        if op.kind == MATRIX:
            return as_matrix(value, self.owner, self.names[i])
        if op.kind == ARRAY:
            return self._coerce_array(i, value)
        if op.kind in (TEXT, STRING, ZERO_ENDED):
            if not isinstance(value, (str, bytes)):
                raise TypeError(f"{self.owner}.{self.fields[i].name} must be str, not {type(value).__name__}")
            return value
        if op.kind == TEXTS:
            if isinstance(value, (str, bytes)):
                raise TypeError(f"{self.owner}.{self.fields[i].name} must be a list of str, not one")
            return list(value)
        if op.kind == DATA:
            with memoryview(value):
                pass
            return value
        return self.fields[i].item.coerce(value)

    cdef int put(self, int i, uint8_t* p, value) except -1:
        """Check a value of an element and write it natively at p; nothing is written, cut or wrapped
        if it cannot be sent."""
        cdef const Op* op = &self.ops[i]
        cdef Py_ssize_t n
        cdef const char* text
        cdef float[16] m
        cdef double[16] reals
        cdef int64_t number
        cdef tuple items
        if op.kind == TEXT:
            if type(value) is str:
                text = utf8_of(<PyObject*>value, &n)
                if n <= op.itemsize and memchr(text, 0, n) == NULL:
                    memcpy(p, text, n)
                    memset(p + n, 0, op.itemsize - n)
                    return 0
            memcpy(p, PyBytes_AsString(encode_field(value, op.itemsize, self.owner, self.names[i])), op.itemsize)
            return 0
        if op.kind == MATRIX:
            if usual_matrix(value, m, self.owner, self.names[i]):
                memcpy(p, m, 64)
            else:
                memcpy(p, cnp.PyArray_DATA(as_matrix(value, self.owner, self.names[i])), 64)
            return 0
        if op.kind == FLOAT:
            reals[0] = float(value)
            if put_reals(p, reals, 1, op.itemsize):
                return 0
            value = reals[0]            # too large for 32 bits: numpy warns
            memcpy(p, cnp.PyArray_DATA(np.array(value).astype(self.dtypes[i])), op.itemsize)
            return 0
        if op.kind == INT and isinstance(value, int):
            number = integer(value)
            if fits(number, op):
                put_native(p, op.itemsize, number)
                return 0
        elif op.kind == ARRAY and (type(value) is tuple or type(value) is list) and op.fixed <= 16:
            items = tuple(value)
            if len(items) == op.fixed and self._put_few(op, i, p, items, reals):
                return 0
        array = as_numbers(value, self.dtypes[i], self.owner, self.names[i])
        shape = () if op.kind == INT else (op.fixed,)
        if array.shape != shape:
            raise EncodeError(self.owner, self.names[i], f"shape {array.shape}, must be {shape}")
        memcpy(p, cnp.PyArray_DATA(<cnp.ndarray?>array), cell_size(op))

    cdef bint _put_few(self, const Op* op, int i, uint8_t* p, tuple items, double* reals) except -1:
        """Numbers of the usual kinds, each in range. False: numpy has to look at them."""
        cdef bint real = (<cnp.dtype>self.dtypes[i]).kind == c"f"
        cdef int64_t[16] numbers
        cdef Py_ssize_t k
        for k in range(len(items)):
            item = items[k]
            if real and type(item) is float:
                reals[k] = item
                continue
            if type(item) is not int:
                return False
            numbers[k] = integer(item)
            if real:
                if not -(1 << 53) < numbers[k] < 1 << 53:
                    return False
                reals[k] = <double>numbers[k]
            elif not fits(numbers[k], op):
                return False
        if real:
            return put_reals(p, reals, len(items), op.itemsize)
        for k in range(len(items)):
            put_native(p + k * op.itemsize, op.itemsize, numbers[k])
        return True

    cdef object _check_int(self, int i, value):
        if isinstance(value, int):
            if fits(integer(value), &self.ops[i]):
                return value
        else:
            operator.index(value)
        least, most = limits_of(self.dtypes[i])
        if not least <= value <= most:
            raise EncodeError(self.owner, self.fields[i].name, f"{value} is outside {least}..{most}")
        return value

    cdef object _coerce_array(self, int i, value):
        cdef Op* op = &self.ops[i]
        cdef double[16] reals
        cdef cnp.ndarray few
        name = self.fields[i].name
        if (type(value) is tuple or type(value) is list) and 0 <= op.fixed <= 16 and not op.table:
            items = tuple(value)
            few = new_numbers(op, self.dtypes[i], op.fixed)
            if len(items) == op.fixed and self._put_few(op, i, <uint8_t*>cnp.PyArray_DATA(few), items, reals):
                return few
        array = as_numbers(value, self.dtypes[i], self.owner, name)
        if op.table:
            if array.ndim != 2 and array.size == 0:
                array = array.reshape(0, op.per)
            if array.ndim != 2 or array.shape[1] != op.per:
                raise EncodeError(self.owner, name, f"shape {array.shape}, must be (n, {op.per})")
        elif array.ndim != 1:
            raise EncodeError(self.owner, name, f"shape {array.shape}, must be one-dimensional")
        if op.fixed >= 0 and array.shape[0] != op.fixed:
            raise EncodeError(self.owner, name, f"{array.shape[0]} numbers, must be {op.fixed}")
        if op.fixed == BY_FORM and array.shape[0] not in self.fields[i].count:
            raise EncodeError(self.owner, name, f"{array.shape[0]} numbers, must be one of {self.fields[i].count}")
        return array

    # -- reading

    cdef int fail(self, int i, str reason) except -1:
        raise BodyError(self.type_name, self.fields[i].name.lstrip("_"), reason)

    cdef inline int need(self, int i, Py_ssize_t wanted, Py_ssize_t left) except -1:
        return self.short(i, wanted, left) if wanted > left else 0

    cdef int short(self, int i, Py_ssize_t wanted, Py_ssize_t left) except -1:
        self.fail(i, f"needs {wanted} bytes, {left} are left")

    cdef Py_ssize_t number(self, int i, Py_ssize_t left, int64_t* counts) except -1:
        """Number of elements of field i, checked against the bytes left."""
        cdef Op* op = &self.ops[i]
        cdef Py_ssize_t unit = op.itemsize * op.per
        cdef Py_ssize_t n = -1
        if op.fixed >= 0:
            self.need(i, op.fixed * unit, left)
            return op.fixed
        if op.fixed == REST:
            return left // unit
        if op.fixed == BY_FIELD:
            # compared by division: count x unit may not fit 64 bits
            if <uint64_t>counts[op.counter] > <uint64_t>(left // unit):
                self.fail(i, f"{<uint64_t>counts[op.counter]} elements announced, {left} bytes are left")
            return counts[op.counter]
        for form in self.fields[i].count:
            if left == form * unit:
                return form
            n = form
        if left > n * unit:
            return n
        self.fail(i, f"{left} bytes are none of its forms")

    cdef Py_ssize_t read(self, Record r, object owner, const uint8_t* base, const uint8_t* p,
                         Py_ssize_t n, int depth) except -1:
        """Fill r from n content bytes at p inside owner (which starts at base); return bytes used.
        depth: 1 for a message that lies in no other."""
        cdef int64_t counts[MAX_FIELDS]
        cdef Py_ssize_t at = 0, k
        cdef Op* op
        cdef int i, code
        cdef bint exact
        cdef cnp.ndarray array
        cdef list values = r.values
        cdef Columns columns
        cdef double real
        cdef uint64_t bits
        cdef uint32_t bits32
        cdef float* m
        for i in range(self.n):
            op = &self.ops[i]
            if op.kind == MATRIX:
                self.need(i, 48, n - at)
                put_item(values, i, new_matrix(&m))
                matrix_in(m, p + at)
                at += 48
            elif op.kind == INT or op.kind == COUNT or op.kind == SIZE:
                if op.optional and n - at < op.itemsize:
                    values[i] = None
                    continue
                self.need(i, op.itemsize, n - at)
                bits = get_int(p + at, op.itemsize)
                at += op.itemsize
                if op.constant and bits != <uint64_t>self.fields[i].default:
                    self.fail(i, f"is {bits}, must be {self.fields[i].default}")
                if op.kind == INT:
                    put_item(values, i, sign_extend(bits, op.itemsize) if op.signed else bits)
                else:
                    counts[i] = <int64_t>bits
            elif op.kind == FLOAT:
                self.need(i, op.itemsize, n - at)
                if op.itemsize == 4:
                    bits32 = get32(p + at)
                    values[i] = (<float*>&bits32)[0]
                else:
                    bits = get64(p + at)
                    memcpy(&real, &bits, 8)
                    values[i] = real
                at += op.itemsize
            elif op.kind == TEXT:
                self.need(i, op.itemsize, n - at)
                text = text_of(p + at, op.itemsize, &exact)
                put_item(values, i, text)
                if not exact:
                    r.keep(i, text, (p + at)[:op.itemsize])
                at += op.itemsize
            elif op.kind == ARRAY:
                k = self.number(i, n - at, counts)
                array = new_numbers(op, self.dtypes[i], k)
                (little_in if op.little else swap_in)(
                    <uint8_t*>cnp.PyArray_DATA(array), p + at, k * op.per, op.itemsize)
                put_item(values, i, array)
                at += k * op.per * op.itemsize
            elif op.kind == ELEMENTS:
                columns = new_columns(self.items[i])
                k = columns.scatter(p + at, n - at)
                put_item(values, i, columns)
                at += k
            else:
                k = n - at
                if op.fixed == BY_FIELD:
                    if <uint64_t>counts[op.length] > <uint64_t>k:
                        self.fail(i, f"{<uint64_t>counts[op.length]} bytes announced, {k} are left")
                    k = counts[op.length]
                elif op.kind == DATA and op.fixed >= 0:
                    self.need(i, op.fixed, k)
                    k = op.fixed
                if op.kind == DATA:
                    values[i] = memoryview(owner)[p + at - base:p + at - base + k]
                elif op.kind != CODED:
                    if op.kind == TEXTS:
                        k -= k % op.itemsize
                    code = 106 if op.encoding < 0 else values[op.encoding]
                    if k < LATER_FROM:
                        self._take_text(i, r, p + at, k, code)
                    else:
                        values[i] = later(memoryview(owner)[p + at - base:p + at - base + k], code, depth)
                else:
                    k = self._decode(i, r, memoryview(owner)[p + at - base:p + at - base + k],
                                     counts[op.counter] if op.counter >= 0 else -1, depth)
                at += k
        return at

    cdef int _take_text(self, int i, Record r, const uint8_t* p, Py_ssize_t k, int code) except -1:
        """Texts of k bytes at p, and beside them what they do not show."""
        cdef Op* op = &self.ops[i]
        cdef bint exact, all_exact = True
        cdef Py_ssize_t at
        if op.kind == STRING:
            value = utf8_text(p, k) if code == 106 or code == 3 else None
            if value is None or code == 3 and length_of_str(<PyObject*>value) != k:
                raw = p[:k]
                value = decode_text(raw, code)
                all_exact = encodes_to(value, code, raw)
        elif op.kind == ZERO_ENDED:
            value = text_of(p, k, &exact)
            all_exact = exact and memchr(p, 0, k) == p + k - 1
        else:
            value = []
            for at in range(0, k, op.itemsize):
                value.append(text_of(p + at, op.itemsize, &exact))
                all_exact = all_exact and exact
        if not all_exact:
            r.keep(i, value.copy() if op.kind == TEXTS else value, p[:k])
        r.values[i] = value

    cdef Py_ssize_t _decode(self, int i, Record r, view, int64_t count, int depth) except -1:
        codec = self.fields[i].item
        if len(view) < getattr(codec, "minimum", 0):
            self.fail(i, f"needs {codec.minimum} bytes, {len(view)} are left")
        if self.ops[i].nests and depth > MAX_DEPTH:
            self.fail(i, f"lie in more than {MAX_DEPTH} messages, one in the other")
        try:
            if hasattr(codec, "check"):
                if self.ops[i].nests:
                    codec.check(view, count, depth)
                else:
                    codec.check(view, count)
                r.values[i] = later(view, count, depth)
                return len(view)
            value = codec.decode(view, count)
        except ValueError as error:
            self.fail(i, str(error))
        if hasattr(codec, "size"):
            r.values[i] = value
            return codec.size(value)
        self._keep_coded(i, r, value, view)
        r.values[i] = value
        return len(view)

    cdef int _keep_coded(self, int i, Record r, value, view) except -1:
        codec = self.fields[i].item
        try:
            plain = codec.encode(value)
        except ValueError:      # it could not be built, but it came: a copy shows whether it was edited
            r.keep(i, copy.deepcopy(value), bytes(view))
            return 0
        if plain != view:
            r.keep(i, None, view, print_of(plain))

    cdef object value(self, int i, Record r):
        """What field i holds, decoded now if that was left for later."""
        cdef Py_buffer view
        cdef Later coded
        value = r.values[i]
        if type(value) is not Later:
            return value
        coded = value
        if self.ops[i].kind != CODED:
            PyObject_GetBuffer(coded.data, &view, PyBUF_SIMPLE)
            try:
                with cython.critical_section(r):
                    if r.values[i] is coded:
                        self._take_text(i, r, <const uint8_t*>view.buf, view.len, <int>coded.count)
            finally:
                PyBuffer_Release(&view)
            return r.values[i]
        decode = self.fields[i].item.decode
        with cython.critical_section(r):
            if r.values[i] is not coded:
                return r.values[i]
            if self.ops[i].nests:
                value, shown = decode(coded.data, coded.count, coded.depth)
                r.keep(i, None, coded.data, shown)
            else:
                value = decode(coded.data, coded.count)
                self._keep_coded(i, r, value, coded.data)
            if r.values[i] is coded:    # else another thread was faster: its value may be edited already
                r.values[i] = value
        return r.values[i]

    # -- writing

    cdef bint _still_right(self, int i, Later value, Taken* taken, int depth) except -1:
        """Whether the bytes that came are what is to be sent: under the encoding that the message has
        now, no deeper in other messages than they were."""
        cdef Op* op = &self.ops[i]
        if op.nests:
            return depth <= value.depth
        return op.encoding < 0 or <object>taken.values[op.encoding] == value.count

    cdef bytes _encoded(self, int i, Record r, Taken* taken, int depth):
        """Bytes of a field whose size is known only once it is encoded."""
        cdef Op* op = &self.ops[i]
        value = <object>taken.values[i]
        if type(value) is Later:
            if self._still_right(i, <Later>value, taken, depth):
                return bytes((<Later>value).data)
            value = self.value(i, r)
        name = self.fields[i].name
        codec = self.fields[i].item
        kept = None if r.kept is None else r.kept.get(i)
        if kept is not None and type(kept[0]) is type(value) and kept[0] == value:
            return bytes(kept[1])
        try:
            if op.nests:
                if depth > MAX_DEPTH:
                    raise ValueError(f"lie in more than {MAX_DEPTH} messages, one in the other")
                if kept is None or kept[2] != codec.print_of(value, depth):
                    return codec.encode(value, depth)
                return bytes(kept[1])
            elif op.kind == TEXT:
                plain = encode_field(value, op.itemsize, self.owner, name)
            elif op.kind == TEXTS:
                plain = b"".join([encode_field(t, op.itemsize, self.owner, name) for t in value])
            elif op.kind == ZERO_ENDED:
                plain = encode_text(value, 106)
                if b"\0" in plain:
                    raise EncodeError(self.owner, name, "a NUL would end the text")
                plain += b"\0"
            elif op.kind == STRING:
                code = 106 if op.encoding < 0 else <object>taken.values[op.encoding]
                plain = encode_text(value, 106 if code is None else code)
            else:
                plain = codec.encode(value)
        except UnicodeEncodeError as error:
            raise EncodeError(self.owner, name, f"{error.reason}: {error.object[error.start:error.end]!r} "
                                                f"has no bytes in {error.encoding}; set encoding=106 (UTF-8)") from None
        except EncodeError:
            raise
        except ValueError as error:
            raise EncodeError(self.owner, name, str(error)) from None
        if kept is not None and (kept[0] == plain if kept[2] is None else kept[2] == print_of(plain)):
            return bytes(kept[1])
        return plain

    cdef inline bint _plain_text(self, int i, Record r, Taken* taken) except -1:
        """Take the bytes of a short text that stand on the wire as UTF-8 has them, without a copy of
        them. False: `_encoded` has to look at it."""
        cdef Op* op = &self.ops[i]
        cdef PyObject* value = taken.values[i]
        cdef Py_ssize_t n
        cdef const char* text
        if (op.kind != STRING and op.kind != TEXT and op.kind != ZERO_ENDED or type(<object>value) is not str
                or length_of_str(value) > SHORT or r.kept is not None and i in r.kept):
            return False
        text = utf8_or_error(value, &n)
        if text == NULL:            # half of a surrogate pair
            PyErr_Clear()
            return False
        if op.kind == STRING:
            if op.encoding >= 0 and <object>taken.values[op.encoding] is not None:
                code = <object>taken.values[op.encoding]
                if code != 106 and not (code == 3 and n == length_of_str(value)):
                    return False
        elif memchr(text, 0, n) != NULL or op.kind == TEXT and n > op.itemsize:
            return False
        taken.texts[i] = text
        taken.numbers[i] = n
        taken.sizes[i] = op.itemsize if op.kind == TEXT else n + (op.kind == ZERO_ENDED)
        return True

    cdef inline int take(self, Record r, Taken* taken) except -1:
        """All values as they are now: no other thread runs meanwhile. And the sizes that the plan says."""
        cdef int i
        cdef list values = r.values
        taken.n = 0
        for i in range(BESIDE):
            taken.beside[i] = NULL
        if len(values) != self.n:
            raise TypeError(f"{self.owner} has {self.n} fields, not {len(values)}")
        for i in range(self.n):
            taken.values[i] = item_of(values, i)
            Py_XINCREF(taken.values[i])
            taken.coded[i] = NULL
            taken.sizes[i] = self.ops[i].wire
        taken.n = self.n

    cdef Py_ssize_t measure(self, Record r, Taken* taken, int depth) except -1:
        """Sizes of all other fields, and of all together; what has to be encoded to know is left in `coded`."""
        cdef Py_ssize_t total = self.settled, size, number
        cdef int i
        cdef Op* op
        cdef PyObject* value
        cdef bytes coded
        for i in range(self.n):
            op = &self.ops[i]
            if op.wire >= 0:
                continue
            value = taken.values[i]
            number = -1
            if op.kind == INT or op.kind == FLOAT:      # optional
                size = 0 if <object>value is None else op.itemsize
            elif op.kind == ARRAY:
                size = self._array_size(i, <cnp.ndarray?><object>value, taken)
                number = size // (op.itemsize * op.per)
            elif op.kind == ELEMENTS:
                number = (<Columns?><object>value).rows
                size = (<Columns>value).wire_size(number)
            elif op.kind == DATA:
                view = memoryview(<object>value)
                taken.coded[i] = held_by_us(view)
                if not view.c_contiguous:
                    raise EncodeError(self.owner, self.fields[i].name, "must be contiguous in memory")
                size = number = view.nbytes
                if op.fixed >= 0 and size != op.fixed:
                    raise EncodeError(self.owner, self.fields[i].name, f"has {size} bytes, must have {op.fixed}")
            elif self._plain_text(i, r, taken):
                total += taken.sizes[i]
                continue
            else:
                if op.counter >= 0:
                    number = elements_of(<object>value)
                coded = self._encoded(i, r, taken, depth)
                taken.coded[i] = held_by_us(coded)
                if op.counter >= 0 and number != elements_of(<object>value):
                    self._changed(i)
                size = len(coded)
            taken.sizes[i] = size
            taken.numbers[i] = number
            total += size
        return total

    cdef int _changed(self, int i) except -1:
        raise EncodeError(self.owner, self.fields[i].name, "changed while it was packed")

    cdef Py_ssize_t _array_size(self, int i, cnp.ndarray array, Taken* taken) except -1:
        cdef Op* op = &self.ops[i]
        if (array.descr is not self.dtypes[i] and array.dtype != self.dtypes[i]
                or not cnp.PyArray_IS_C_CONTIGUOUS(array) or cnp.PyArray_NDIM(array) != (2 if op.table else 1)):
            raise EncodeError(self.owner, self.fields[i].name, f"must stay contiguous {self.dtypes[i]}")
        if (op.fixed >= 0 and cnp.PyArray_SIZE(array) != op.fixed * op.per
                or op.fixed == BY_FORM and cnp.PyArray_DIM(array, 0) not in self.fields[i].count):
            raise EncodeError(self.owner, self.fields[i].name, "its size was changed")
        if op.fixed == BY_FIELD and self.ops[op.counter].target != i:
            other = elements_of(<object>taken.values[self.ops[op.counter].target])
            if cnp.PyArray_DIM(array, 0) != other:
                raise EncodeError(self.owner, self.fields[i].name,
                                  f"{cnp.PyArray_DIM(array, 0)} elements, but "
                                  f"{self.fields[self.ops[op.counter].target].name} has {other}")
        return cnp.PyArray_NBYTES(array)

    cdef int _put_number(self, uint8_t* p, int i, value) except -1:
        cdef Op* op = &self.ops[i]
        cdef float single
        cdef double real
        cdef uint64_t bits = 0
        cdef uint32_t bits32
        if op.kind == FLOAT:
            if op.itemsize == 4:
                single = value
                memcpy(&bits32, &single, 4)
                put32(p, bits32)
            else:
                real = value
                memcpy(&bits, &real, 8)
                put64(p, bits)
        else:
            put_int(p, op.itemsize, <uint64_t><int64_t>value if op.signed else <uint64_t>value)

    cdef inline int _put_matrix(self, uint8_t* p, int i, cnp.ndarray array) except -1:
        if not (cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT32 and is_4x4(array)
                and cnp.PyArray_IS_C_CONTIGUOUS(array) and cnp.PyArray_ISNOTSWAPPED(array)):
            raise EncodeError(self.owner, self.fields[i].name, "must stay a contiguous 4x4 float32")
        if not matrix_out(p, <float*>cnp.PyArray_DATA(array)):
            raise EncodeError(self.owner, self.fields[i].name, "the fourth row must be 0 0 0 1")

    cdef inline int _put_count(self, uint8_t* p, int i, Taken* taken) except -1:
        cdef Op* op = &self.ops[i]
        cdef uint64_t n = taken.sizes[op.target] if op.kind == SIZE else taken.numbers[op.target]
        if op.itemsize < 8 and n >> (8 * op.itemsize):
            return self._too_many(i, n)
        put_int(p, op.itemsize, n)

    cdef int _too_many(self, int i, uint64_t n) except -1:
        unit = "bytes" if self.ops[i].kind == SIZE else "elements"
        raise EncodeError(self.owner, self.fields[self.ops[i].target].name,
                          f"{n} {unit} do not fit the wire: at most {limits_of(self.dtypes[i])[1]}")

    cdef int write(self, Taken* taken, uint8_t* p, Writer* w) except -1:
        """Write all fields at p."""
        cdef int i
        cdef Op* op
        cdef PyObject* value
        cdef cnp.ndarray array
        cdef Py_buffer view
        for i in range(self.n):
            op = &self.ops[i]
            value = taken.values[i]
            if op.kind == MATRIX:
                self._put_matrix(p, i, <cnp.ndarray?><object>value)
            elif op.kind == INT or op.kind == FLOAT:
                if op.constant:
                    self._put_number(p, i, self.fields[i].default)
                elif op.target >= 0 and <object>value is None:      # encoding of a text, left to us
                    put16(p, 3 if self._is_ascii(op.target, taken) else 106)
                elif taken.sizes[i]:
                    self._put_number(p, i, <object>value)
            elif op.kind == COUNT or op.kind == SIZE:
                self._put_count(p, i, taken)
            elif op.kind == ARRAY:
                array = <cnp.ndarray?><object>value
                if not cnp.PyArray_IS_C_CONTIGUOUS(array) or cnp.PyArray_NBYTES(array) != taken.sizes[i]:
                    self._changed(i)
                (little_out if op.little else swap_out)(
                    p, <uint8_t*>cnp.PyArray_DATA(array), taken.sizes[i] // op.itemsize, op.itemsize)
            elif op.kind == ELEMENTS:
                (<Columns>value).gather(p, taken.numbers[i])
            elif op.kind == DATA:
                PyObject_GetBuffer(<object>taken.coded[i], &view, PyBUF_SIMPLE)
                if w.apart != NULL and taken.sizes[i] >= APART_FROM:
                    sum_apart(w, p, <const uint8_t*>view.buf, view.len)
                    PyBuffer_Release(&view)
                    (<list>w.apart).append((p - w.start, <object>taken.coded[i]))
                    continue
                copy_and_sum(w, p, <const uint8_t*>view.buf, taken.sizes[i])
                PyBuffer_Release(&view)
            elif taken.coded[i] == NULL:        # a plain text
                memcpy(p, taken.texts[i], taken.numbers[i])
                memset(p + taken.numbers[i], 0, taken.sizes[i] - taken.numbers[i])
            else:
                memcpy(p, bytes_at(taken.coded[i]), taken.sizes[i])
            p += taken.sizes[i]

    cdef inline bint _is_ascii(self, int i, Taken* taken) except -1:
        """Whether the text of field i, which was measured, has ASCII characters only."""
        if taken.coded[i] == NULL:
            return taken.numbers[i] == length_of_str(taken.values[i])
        return (<bytes>taken.coded[i]).isascii()

cdef inline const char* ascii_of(PyObject* value, Py_ssize_t* n) noexcept:
    """The characters of a short str. NULL: it is none, or has others than those of ASCII."""
    cdef const char* text
    if type(<object>value) is not str or length_of_str(value) > BRIEF:
        return NULL
    text = utf8_or_error(value, n)
    if text == NULL:            # half of a surrogate pair
        PyErr_Clear()
        return NULL
    return text if n[0] == length_of_str(value) else NULL

cdef inline PyObject* held_by_us(object what) noexcept:
    Py_INCREF(what)
    return <PyObject*>what

cdef inline void let_go(Taken* taken) noexcept:
    cdef int i
    for i in range(taken.n):
        Py_XDECREF(taken.values[i])
        Py_XDECREF(taken.coded[i])
    for i in range(BESIDE):
        Py_XDECREF(taken.beside[i])

cdef cnp.ndarray array_over(uint8_t* p, object owner, cnp.dtype dtype, int nd, cnp.npy_intp* shape):
    """An array of the memory at p, which is owner's."""
    Py_INCREF(dtype)        # the function keeps the one it is given
    array = <cnp.ndarray>PyArray_NewFromDescr(
        &PyArray_Type, dtype, nd, shape, NULL, p, cnp.NPY_ARRAY_CARRAY, NULL)
    cnp.set_array_base(array, owner)
    return array

@cython.final
@cython.freelist(256)
cdef class _Few:
    """Memory of one matrix or a few other numbers, used again soon. That of an array of its own is asked of
    numpy by way of a context variable and two capsules, which costs as much as the rest of the array."""

    cdef float[16] m

cdef cnp.dtype _float32 = np.dtype(np.float32)

cdef cnp.ndarray new_matrix(float** m):
    """A 4x4 array, and its numbers, not yet written."""
    cdef _Few few = _Few.__new__(_Few)
    cdef cnp.npy_intp[2] shape
    shape[0] = shape[1] = 4
    m[0] = few.m
    return array_over(<uint8_t*>few.m, few, _float32, 2, shape)

cdef cnp.ndarray new_numbers(const Op* op, cnp.dtype dtype, Py_ssize_t n):
    """An array of n rows, or of n numbers where a row has one, not yet written."""
    cdef int nd = 2 if op.table else 1
    cdef cnp.npy_intp[2] shape
    cdef _Few few
    shape[0] = n
    shape[1] = op.per
    if op.fixed < 0 or op.itemsize * op.fixed * op.per > 16 * <Py_ssize_t>sizeof(float):
        return cnp.PyArray_EMPTY(nd, shape, dtype.type_num, 0)
    few = _Few.__new__(_Few)
    return array_over(<uint8_t*>few.m, few, dtype, nd, shape)

cdef bytes pad(bytes raw, Py_ssize_t size):
    return raw.ljust(size, b"\0")

def encode_field(value, Py_ssize_t size, str owner, str name):
    """A text for a fixed field, zero-filled; EncodeError when it does not fit or cannot be read back."""
    raw = value.encode() if isinstance(value, str) else bytes(value)
    if len(raw) > size:
        raise EncodeError(owner, name, f"{value!r} has {len(raw)} bytes, {size} fit; igtl.fit() cuts it")
    if b"\0" in raw.rstrip(b"\0") and isinstance(value, str):
        raise EncodeError(owner, name, f"{value!r}: a NUL would end the text")
    return pad(raw, size)

cdef tuple print_of(plain):
    """What shows whether a part was edited, without a copy of it."""
    return len(plain), crc64(plain)

cdef bint encodes_to(str value, int code, bytes raw):
    try:
        return encode_text(value, code) == raw
    except UnicodeEncodeError:
        return False

cdef dict _limits = {}      # dtype of integers -> least and greatest of them

cdef tuple limits_of(dtype):
    """The least and the greatest number; numpy takes long to say."""
    limits = _limits.get(dtype)
    if limits is None:
        info = np.iinfo(dtype)
        limits = _limits[dtype] = (info.min, info.max)
    return limits

def as_numbers(value, dtype, str owner, str name):
    """A contiguous copy of value as dtype. Integers are checked: none is wrapped or cut."""
    array = np.asarray(value)
    if dtype.kind in "iu" and array.dtype != dtype and array.size:
        if array.dtype.kind not in "iub":
            raise EncodeError(owner, name, f"{array.dtype} does not become {dtype} by itself: convert it")
        least, most = limits_of(dtype)
        if array.min() < least or array.max() > most:
            raise EncodeError(owner, name, f"values {array.min()}..{array.max()} do not fit {dtype}")
    elif array.dtype.kind not in "iubf" and array.size:
        raise TypeError(f"{owner}.{name}: {array.dtype} is not a kind of number it takes")
    return np.array(array, dtype=dtype, order="C")

# The least and the greatest integer of 1, 2, 4 bytes; 8 unsigned ones are left to numpy.
cdef inline bint fits(int64_t v, const Op* op) noexcept:
    cdef int bits = 8 * op.itemsize
    if bits == 64:
        return op.signed and v != INT64_MIN     # which `integer` gives for what is larger
    if op.signed:
        return -(<int64_t>1 << (bits - 1)) <= v < <int64_t>1 << (bits - 1)
    return 0 <= v < <int64_t>1 << bits

cdef inline int64_t integer(value) except? -1:
    """An int as 64 bits; the least number for one that does not fit."""
    cdef int over
    cdef int64_t v = PyLong_AsLongLongAndOverflow(value, &over)
    return INT64_MIN if over else v

cdef inline void put_native(uint8_t* p, int size, int64_t v) noexcept nogil:
    if size == 1:
        p[0] = <uint8_t>v
    elif size == 2:
        (<uint16_t*>p)[0] = <uint16_t>v
    elif size == 4:
        (<uint32_t*>p)[0] = <uint32_t>v
    else:
        (<uint64_t*>p)[0] = <uint64_t>v

cdef bint put_reals(uint8_t* p, const double* reals, Py_ssize_t n, int size) noexcept:
    """False: one is too large for 32 bits, and nothing was written."""
    cdef Py_ssize_t k
    if size == 8:
        memcpy(p, reals, 8 * n)
        return True
    for k in range(n):
        if isinf(<float>reals[k]) and not isinf(reals[k]):
            return False
    for k in range(n):
        (<float*>p)[k] = <float>reals[k]
    return True

cdef inline Py_ssize_t cell_size(const Op* op) noexcept:
    """Bytes of one value of an element, natively."""
    return 64 if op.kind == MATRIX else op.itemsize * op.fixed if op.kind == ARRAY else op.itemsize

cdef inline bint is_4x4(cnp.ndarray array) noexcept:
    return cnp.PyArray_NDIM(array) == 2 and cnp.PyArray_DIM(array, 0) == 4 and cnp.PyArray_DIM(array, 1) == 4

cdef bint usual_matrix(value, float* m, str owner, str name) except -1:
    """Take an array of the usual form, without a call into numpy for each step. False: it is none."""
    cdef cnp.ndarray given
    cdef int i, kind
    if not cnp.PyArray_CheckExact(value):
        return False
    given = value
    kind = cnp.PyArray_TYPE(given)
    if not (is_4x4(given)
            and cnp.PyArray_ISCARRAY_RO(given) and (kind == cnp.NPY_FLOAT32 or kind == cnp.NPY_FLOAT64)):
        return False
    if kind == cnp.NPY_FLOAT32:
        memcpy(m, cnp.PyArray_DATA(given), 64)
    else:
        for i in range(16):
            m[i] = <float>(<double*>cnp.PyArray_DATA(given))[i]
    if not (m[12] == 0 and m[13] == 0 and m[14] == 0 and m[15] == 1):
        raise EncodeError(owner, name, "the fourth row must be 0 0 0 1")
    return True

cpdef cnp.ndarray as_matrix(value, str owner="Transform", str name="matrix"):
    """4x4 float32 of a 4x4, 3x4 or 3x3 matrix, or of an object with as_matrix() (scipy)."""
    cdef cnp.ndarray out
    cdef cnp.ndarray given
    cdef float* own
    cdef float[16] m
    if usual_matrix(value, m, owner, name):
        out = new_matrix(&own)
        memcpy(own, m, 64)
        return out
    if isinstance(value, np.ndarray):
        given = value
    else:
        if value is None:
            value = np.eye(4)
        given = np.asarray(value.as_matrix() if hasattr(value, "as_matrix") else value)
    if given.dtype.kind not in "fiub":
        raise TypeError(f"{owner}.{name} must be a matrix of numbers, not of {given.dtype}")
    shape = (<object>given).shape
    if shape not in ((4, 4), (3, 4), (3, 3)):
        raise EncodeError(owner, name, f"shape {shape}, must be (4, 4), (3, 4) or (3, 3)")
    out = new_matrix(&own)
    if shape[0] == 4:
        out[:, :] = given
        if not (given[3, 0] == 0 and given[3, 1] == 0 and given[3, 2] == 0 and given[3, 3] == 1):
            raise EncodeError(owner, name, "the fourth row must be 0 0 0 1")
    else:
        out[:, :] = 0
        out[3, 3] = 1
        out[:3, :shape[1]] = given
    return out

# ---- rows: the fixed fields of one element or message, and the columns they belong to ------------

cdef enum:
    AT_ONCE = 64    # rows that are walked field by field: so many stay in the fastest cache

cdef bint take_rows(const Rows* rows, Py_ssize_t first, Py_ssize_t n, const uint8_t* p) noexcept nogil:
    """n rows from the wire, from row `first` on. False: a field that has no choice holds something else."""
    cdef Py_ssize_t end = first + n, k
    cdef const uint8_t* wire
    cdef const Op* op
    cdef int i
    cdef bint good = True
    while first < end:
        n = min(end - first, AT_ONCE)
        wire = p
        for i in range(rows.n):
            op = &rows.ops[i]
            if rows.at[i] == NULL:
                for k in range(n if op.constant or op.kind == COUNT else 0):
                    good &= get_int(wire + rows.stride * k, op.itemsize) == rows.must[i]
            elif op.kind == MATRIX:
                for k in range(n):
                    matrix_in(<float*>rows.at[i] + 16 * (first + k), wire + rows.stride * k)
            elif op.kind == TEXT:
                cells_in(rows.at[i] + op.itemsize * first, wire, rows.stride, n, op.itemsize)
            else:
                (little_rows_in if op.little else swap_rows_in)(
                    rows.at[i] + op.itemsize * rows.count[i] * first, wire, rows.stride, n, rows.count[i], op.itemsize)
            wire += 48 if op.kind == MATRIX else op.itemsize * rows.count[i]
        p += rows.stride * n
        first += n
    return good

cdef int give_rows(const Rows* rows, Py_ssize_t first, Py_ssize_t n, uint8_t* p) noexcept nogil:
    """The way back. -1, or the field that cannot be sent: a matrix with another fourth row."""
    cdef Py_ssize_t end = first + n, k
    cdef uint8_t* wire
    cdef const Op* op
    cdef int i, bad = -1
    while first < end:
        n = min(end - first, AT_ONCE)
        wire = p
        for i in range(rows.n):
            op = &rows.ops[i]
            if rows.at[i] == NULL:
                for k in range(n):
                    put_int(wire + rows.stride * k, op.itemsize, rows.must[i])
            elif op.kind == MATRIX:
                for k in range(n):
                    if not matrix_out(wire + rows.stride * k, <const float*>rows.at[i] + 16 * (first + k)):
                        bad = i
            elif op.kind == TEXT:
                cells_out(wire, rows.stride, rows.at[i] + op.itemsize * first, n, op.itemsize)
            else:
                (little_rows_out if op.little else swap_rows_out)(
                    wire, rows.stride, rows.at[i] + op.itemsize * rows.count[i] * first, n, rows.count[i], op.itemsize)
            wire += 48 if op.kind == MATRIX else op.itemsize * rows.count[i]
        p += rows.stride * n
        first += n
    return bad

# ---- Columns: the elements of a list message ----------------------------------------------------

@cython.final
@cython.freelist(64)
cdef class _Memory:
    """Memory of all columns of one list, one column behind the other."""

    cdef uint8_t* p

    def __dealloc__(self):
        PyMem_Free(self.p)

cdef inline Py_ssize_t start_of(const Op* op, int i, Py_ssize_t rows) noexcept:
    """Where a column begins among those of so many rows, aligned to 16 bytes."""
    return ((rows * op.place + 15) & ~15) + 16 * i

cdef class Columns:
    """n rows of one element class, kept as one native array per field.

    Text columns are bytes ('S') and so hold what follows a NUL; matrices are (n, 4, 4). They are made
    in one piece of memory, and an array of a column when that is wanted.
    """

    cdef readonly Py_ssize_t rows
    cdef _Memory memory      # None: the columns are what `made` says
    cdef list made          # arrays of the columns; None in place of each that was not wanted yet
    cdef Layout _layout
    __layout__ = None

    def __cinit__(self):
        self._layout = type(self).__layout__

    cdef inline Layout layout(self):
        if self._layout is None:
            raise TypeError("columns belong to an element class")
        return self._layout

    @property
    def arrays(self):
        cdef int i
        if self.memory is not None:
            for i in range(self._layout.n):
                self.array(i)
            self.memory = None      # others may take arrays out of the list
        return self.made

    def allocate(self, Py_ssize_t rows):
        """Room for so many rows, all zero (identity for matrices)."""
        cdef Layout layout = self.layout()
        cdef Py_ssize_t row
        cdef float* m
        cdef int i, k
        self.make(rows)
        for i in range(layout.n):
            memset(self.at(i), 0, cell_size(&layout.ops[i]) * rows)
            if layout.ops[i].kind == MATRIX:
                for row in range(rows):
                    m = <float*>self.at(i) + 16 * row
                    for k in range(4):
                        m[5 * k] = 1

    cdef int make(self, Py_ssize_t rows) except -1:
        """Room for so many rows, not yet written."""
        cdef Layout layout = self.layout()
        cdef _Memory memory = _Memory.__new__(_Memory)
        cdef Py_ssize_t size
        if not 0 <= rows <= MAX_BLOCK // (layout.native + 32):
            raise MemoryError(f"no memory for {rows} elements")
        size = start_of(&layout.ops[layout.n], layout.n, rows)
        memory.p = <uint8_t*>PyMem_Malloc(size)
        if memory.p == NULL:
            raise MemoryError(f"no memory for {rows} elements")
        if size >= LARGE_FROM:
            igtl_large_pages(memory.p, size)
        self.rows = rows
        self.memory = memory
        self.made = None

    cdef inline uint8_t* at(self, int i) noexcept:
        """Where column i lies in the memory that was made for all. NULL: its array has to say that."""
        if self.memory is None or self.made is not None and item_of(self.made, i) != <PyObject*>None:
            return NULL
        return self.memory.p + start_of(&self._layout.ops[i], i, self.rows)

    cpdef cnp.ndarray array(self, int i):
        """Column i."""
        cdef const Op* op = self.layout().op(i)
        cdef uint8_t* p = self.at(i)
        cdef cnp.npy_intp[3] shape
        if p != NULL:
            shape[0] = self.rows
            shape[1] = 4 if op.kind == MATRIX else op.fixed
            shape[2] = 4
            array = array_over(p, self.memory, self._layout.columns[i], dimensions(op), shape)
            if self.made is None:
                self.made = [None] * self._layout.n
            self.made[i] = array
            return array
        if self.made is None or i >= len(self.made):
            raise EncodeError(self._layout.owner, self._layout.names[i], "has no column")
        return <cnp.ndarray?>self.made[i]

    def __setstate__(self, state):
        self.rows, self.made = state
        self.memory = None

    def __getitem__(self, key):
        cdef Py_ssize_t row
        if type(key) is not int:
            return self._chosen(key)
        row = key
        if row < 0:
            row += self.rows
        if not 0 <= row < self.rows:
            raise IndexError(f"element {key} of {self.rows}")
        return element_at(type(self).__item__, self, row)

    cdef uint8_t* cell(self, int i, Py_ssize_t row) except? NULL:
        """Where a value lies. NULL: its column is no longer as it was made, and numpy has to find it."""
        cdef const Op* op = self.layout().op(i)
        cdef uint8_t* p = self.at(i)
        cdef cnp.ndarray array
        if p != NULL:
            return p + cell_size(op) * row if 0 <= row < self.rows else NULL
        if self.made is None or i >= len(self.made) or not cnp.PyArray_CheckExact(self.made[i]):
            return NULL
        array = self.made[i]
        if not (cnp.PyArray_ISCARRAY(array) and is_column(op, array, cnp.PyArray_DIM(array, 0))
                and cnp.PyArray_TYPE(array) == (<cnp.dtype>self._layout.columns[i]).type_num
                and cnp.PyArray_ITEMSIZE(array) == op.itemsize and 0 <= row < cnp.PyArray_DIM(array, 0)):
            return NULL
        return <uint8_t*>cnp.PyArray_DATA(array) + cell_size(op) * row

    def put(self, int i, Py_ssize_t row, value):
        """Check one value and write it; nothing is cut or wrapped."""
        cdef uint8_t* p = self.cell(i, row)
        cdef cnp.ndarray one
        if p != NULL:
            self._layout.put(i, p, value)
            return
        one = np.empty(column_shape(self._layout, i, 1), self._layout.columns[i])
        self._layout.put(i, <uint8_t*>cnp.PyArray_DATA(one), value)
        self.array(i)[row] = one[0]

    def take(self, list elements not None):
        """As many rows as there are elements, with copies of their values."""
        cdef Layout layout = self.layout()
        cdef Rows out
        cdef Row element
        cdef const uint8_t* p
        cdef uint8_t* to
        cdef Py_ssize_t row, n = len(elements), size
        cdef int i
        kind = type(self).__item__
        for item in elements:
            if type(item) is not kind and not isinstance(item, kind):
                raise TypeError(f"{type(item).__name__} in a list of {kind.__name__}")
        self.make(n)
        self.rows_of(&out, n)
        for row in range(n):
            element = elements[row]
            for i in range(layout.n):
                size = cell_size(&layout.ops[i])
                to = out.at[i] + size * row
                p = element.at(i) if element.layout is layout else NULL
                if p != NULL:
                    memcpy(to, p, size)
                else:
                    layout.put(i, to, element.value(i))

    cdef Columns frozen(self):
        """The same arrays; others are not put in their place."""
        cdef Columns other = new_columns(type(self))
        other.rows, other.memory = self.rows, self.memory
        other.made = None if self.made is None else self.made.copy()
        return other

    cdef int rows_of(self, Rows* out, Py_ssize_t rows) except -1:
        """The memory of all columns, which must have so many rows; of elements every field has one."""
        cdef Layout layout = self.layout()
        cdef cnp.ndarray array
        cdef int i
        out.ops = layout.ops
        out.n = layout.n
        out.stride = layout.minimum
        for i in range(layout.n):
            out.count[i] = layout.ops[i].fixed
            out.at[i] = self.at(i)
            if out.at[i] != NULL:
                if rows != self.rows:
                    layout._changed(i)
                continue
            array = self.array(i)
            if not (cnp.PyArray_IS_C_CONTIGUOUS(array) and is_column(&layout.ops[i], array, rows)
                    and cnp.PyArray_ITEMSIZE(array) == layout.ops[i].itemsize):
                layout._changed(i)
            out.at[i] = <uint8_t*>cnp.PyArray_DATA(array)

    cdef Py_ssize_t scatter(self, const uint8_t* p, Py_ssize_t left) except -1:
        """Take all whole rows from the wire; return the bytes used."""
        cdef Rows rows
        self.make(left // self.layout().minimum)
        self.rows_of(&rows, self.rows)
        take_rows(&rows, 0, self.rows, p)
        return self.rows * rows.stride

    cdef Py_ssize_t wire_size(self, Py_ssize_t rows) except -1:
        """Bytes of so many rows on the wire, after a check that all columns are as they should be."""
        cdef Layout layout = self.layout()
        cdef cnp.ndarray array
        cdef int i
        for i in range(layout.n):
            if self.at(i) != NULL:
                continue
            array = self.array(i)
            if not (cnp.PyArray_IS_C_CONTIGUOUS(array) and is_column(&layout.ops[i], array, rows)
                    and (array.descr is layout.columns[i] or array.dtype == layout.columns[i])):
                raise EncodeError(layout.owner, layout.fields[i].name,
                                  f"column must stay contiguous {layout.columns[i]} "
                                  f"{column_shape(layout, i, rows)}")
        return rows * layout.minimum

    cdef int gather(self, uint8_t* p, Py_ssize_t n) except -1:
        """Write the n rows that were measured."""
        cdef Layout layout = self.layout()
        cdef Rows rows
        cdef int bad
        self.rows_of(&rows, n)
        bad = give_rows(&rows, 0, n, p)
        if bad >= 0:
            raise EncodeError(layout.owner, layout.fields[bad].name, "the fourth row must be 0 0 0 1")

    def texts(self, int i):
        """Column i decoded, row by row, each up to its first NUL."""
        cdef const Op* op = self.layout().op(i)
        cdef cnp.ndarray array
        cdef Py_ssize_t size = op.itemsize, j
        cdef bint exact
        cdef const uint8_t* p = self.at(i)
        if p == NULL:
            array = self.array(i)
            if not (cnp.PyArray_IS_C_CONTIGUOUS(array) and cnp.PyArray_ITEMSIZE(array) == size
                    and is_column(op, array, self.rows)):
                raise ValueError("column was reshaped")
            p = <const uint8_t*>cnp.PyArray_DATA(array)
        return [text_of(p + size * j, size, &exact) for j in range(self.rows)]

cdef class Column:
    """Reads one column of an element list; see igtl.codec.elements."""

    cdef readonly int i
    cdef readonly object field

    def __init__(self, int i, field):
        self.i = i
        self.field = field

    def __get__(self, columns, owner):
        if columns is None:
            return self
        if (<Columns?>columns).layout().op(self.i).kind == TEXT:
            return (<Columns>columns).texts(self.i)
        return (<Columns>columns).array(self.i)

cdef const Op* plan_of(object layout, int* n) except NULL:
    """The fields of a Layout, which keeps them."""
    n[0] = (<Layout?>layout).n
    return (<Layout>layout).ops

cdef object new_rows(object cls, Py_ssize_t n, Rows* rows):
    """Columns of this class with room for n rows, not yet written."""
    cdef Columns columns = new_columns(cls)
    columns.make(n)
    columns.rows_of(rows, n)
    return columns

cdef object frozen_rows(object columns, Py_ssize_t* size, Rows* rows):
    """The columns that these are now, their memory, and the bytes of their rows on the wire."""
    cdef Columns frozen = (<Columns?>columns).frozen()
    size[0] = frozen.wire_size(frozen.rows)
    frozen.rows_of(rows, frozen.rows)
    return frozen

cdef tuple column_shape(Layout layout, int i, Py_ssize_t rows):
    cdef Op* op = &layout.ops[i]
    if op.kind == MATRIX:
        return (rows, 4, 4)
    if op.kind == ARRAY:
        return (rows, op.fixed)
    return (rows,)

cdef inline int dimensions(const Op* op) noexcept:
    """Of a column."""
    return 3 if op.kind == MATRIX else 2 if op.kind == ARRAY else 1

cdef bint is_column(const Op* op, cnp.ndarray array, Py_ssize_t rows) noexcept:
    """Whether an array has the shape of this column."""
    if cnp.PyArray_NDIM(array) != dimensions(op) or cnp.PyArray_DIM(array, 0) != rows:
        return False
    if op.kind == MATRIX:
        return cnp.PyArray_DIM(array, 1) == 4 and cnp.PyArray_DIM(array, 2) == 4
    return op.kind != ARRAY or cnp.PyArray_DIM(array, 1) == op.fixed

# ---- Row: one element ---------------------------------------------------------------------------

cdef class Row:
    """One element: its values, natively and one after the other, in memory of its own, or one row of
    columns, which it reads and writes."""

    cdef Layout layout
    cdef uint8_t* own           # is not replaced while it lives: arrays lie in it
    cdef Columns columns
    cdef Py_ssize_t row
    __layout__ = None

    def __cinit__(self):        # without arguments it ignores those of the constructor
        self.layout = layout_of(type(self), _last_row)

    def __dealloc__(self):
        PyMem_Free(self.own)

    def __init__(self, *args, **kwargs):
        cdef PyObject* values[MAX_FIELDS + 4]
        self.take(values, spread(args, kwargs, values, self.layout.owner), tuple(kwargs))

    cdef int take(self, PyObject** values, Py_ssize_t given, tuple names) except -1:
        """The arguments of the constructor: `given` values by position, then those named."""
        cdef Layout layout = self.layout
        cdef PyObject* found[MAX_FIELDS]
        cdef _Names called
        cdef Py_ssize_t k, taken = 0
        cdef int i
        if self.own == NULL:
            self.own = <uint8_t*>PyMem_Calloc(1, layout.native + 1)
            if self.own == NULL:
                raise MemoryError
        self.columns = None
        for i in range(layout.n):
            found[i] = NULL
            if not layout.ops[i].hidden and not layout.ops[i].kw_only:
                if taken < given:
                    found[i] = values[taken]
                taken += 1
        if taken < given:
            positional = [f.name for f in layout.fields if not f.hidden and not f.kw_only]
            raise TypeError(f"{layout.owner}() takes {taken} positional arguments, {given} were given; "
                            f"its fields are {', '.join(positional)}")
        called = layout.named(names)
        for k in range(called.n):
            i = called.which[k]
            if found[i] != NULL:
                raise TypeError(f"{layout.owner}() got {names[k]!r} twice")
            found[i] = values[given + k]
        for i in range(layout.n):
            if layout.ops[i].hidden:
                continue
            value = layout.defaults[i] if found[i] == NULL else <object>found[i]
            if value is REQUIRED:
                raise TypeError(f"{layout.owner}() needs {layout.names[i]!r}")
            layout.put(i, self.own + layout.ops[i].place, value)
        if called.unknown is not None:
            raise TypeError(f"{layout.owner}() has no field {called.unknown!r}; it has {', '.join(layout.arguments)}")

    cdef uint8_t* at(self, int i) except? NULL:
        """Where the value of a field lies, or NULL: see Columns.cell."""
        cdef Columns columns = self.columns
        if columns is not None:
            return columns.cell(i, self.row)
        if self.own == NULL:
            raise TypeError(f"a {self.layout.owner} that was not constructed")
        return self.own + self.layout.op(i).place

    cdef object value(self, int i):
        cdef Columns columns = self.columns
        cdef const Op* op = self.layout.op(i)
        cdef uint8_t* p = self.at(i)
        cdef bint exact
        cdef uint64_t bits
        cdef cnp.npy_intp[2] shape
        if p == NULL:
            cell = columns.array(i)[self.row]
            if op.kind == TEXT:
                return cell.partition(b"\0")[0].decode("utf-8", "replace")
            return cell.item() if op.kind == INT or op.kind == FLOAT else cell
        if op.kind == TEXT:
            return text_of(p, op.itemsize, &exact)
        if op.kind == FLOAT:
            return (<float*>p)[0] if op.itemsize == 4 else (<double*>p)[0]
        if op.kind == INT:
            bits = native(p, op.itemsize)
            return sign_extend(bits, op.itemsize) if op.signed else bits
        shape[0] = 4 if op.kind == MATRIX else op.fixed
        shape[1] = 4
        return array_over(p, self if columns is None else columns.memory if columns.at(i) != NULL else columns.array(i),
                          self.layout.columns[i], dimensions(op) - 1, shape)

    cdef int put(self, int i, value) except -1:
        if self.columns is not None:
            self.columns.put(i, self.row, value)
        else:
            self.layout.put(i, self.at(i), value)

cpdef element_at(cls, Columns columns, Py_ssize_t row):
    """The element that this row of columns is."""
    cdef Row element = <Row?>new_of(cls)
    if columns is None:
        raise TypeError("an element belongs to columns")
    element.columns = columns
    element.row = row
    return element

cdef inline uint64_t native(const uint8_t* p, int size) noexcept nogil:
    if size == 1:
        return p[0]
    if size == 2:
        return (<const uint16_t*>p)[0]
    return (<const uint32_t*>p)[0] if size == 4 else (<const uint64_t*>p)[0]

@cython.final
cdef class Cell:
    """Attribute access to one field of an element."""

    cdef int i
    cdef readonly object field

    def __init__(self, int i, field):
        self.i = i
        self.field = field

    def __get__(self, element, owner):
        if element is None:
            return self
        return (<Row?>element).value(self.i)

    def __set__(self, element, value):
        (<Row?>element).put(self.i, value)

cdef inline Layout layout_of(cls, list last):
    """The layout of a class. last: holds the one that was used last; looking it up is a fifth of unpack."""
    cdef Layout layout = last[0]
    if layout is None or layout.made is not cls:
        layout = cls.__layout__
        if layout is None:
            raise TypeError("messages are subclasses of igtl.Message, elements of igtl.Element")
        last[0] = layout
    return layout

cdef Py_ssize_t spread(tuple args, dict kwargs, PyObject** values, str owner) except -1:
    """The arguments of a call as C arrays have them: values, which stay theirs; how many by position."""
    cdef Py_ssize_t n = 0
    if len(args) + len(kwargs) > MAX_FIELDS + 4:
        raise TypeError(f"{owner}() got {len(args) + len(kwargs)} arguments")
    for value in (*args, *kwargs.values()):
        values[n] = <PyObject*>value
        n += 1
    return len(args)

# ---- Record -----------------------------------------------------------------------------------

# The layout of the message that was made last. One object in one place, which a list keeps whole for all
# threads; that it belongs to a class is written in it, once.
cdef list _last = [None]
cdef list _last_row = [None]    # the same of elements

cdef class Entries

cdef class Record:
    """Memory of one message: header fields, the values of its declared fields, and beside them
    what those cannot show (`kept`), so that an untouched message packs to the bytes it came from.
    """

    cdef Layout layout
    cdef list values
    cdef dict kept
    cdef uint64_t stamp
    cdef uint32_t id
    cdef readonly int header_version
    cdef str _device_name
    cdef Entries _metadata
    cdef double at, at_monotonic, at_kernel     # when it was received; NaN: not known
    cdef public object peer
    cdef public object crc_ok
    __layout__ = None

    def __cinit__(self):        # without arguments it ignores those of the constructor
        self.layout = layout_of(type(self), _last)
        self.values = self.layout.blank[:]
        self._device_name = ""
        self.at = self.at_monotonic = self.at_kernel = NAN

    def __init__(self, *args, **kwargs):
        cdef PyObject* values[MAX_FIELDS + 4]
        self.take(values, spread(args, kwargs, values, self.layout.owner), tuple(kwargs))

    def _init_header(self, dict kwargs):
        """For constructors written by hand: takes the header fields out of kwargs."""
        self.stamp = now()
        if not kwargs:
            return
        for name, which in _HEADER_FIELDS.items():
            value = kwargs.pop(name, REQUIRED)
            if value is not REQUIRED:
                self.set_header(which, value)

    cdef int set_header(self, int which, value) except -1:
        if which == DEVICE_NAME:
            if type(value) is str:
                self._device_name = value
            else:
                self.device_name = value
        elif which == TIMESTAMP:
            self.timestamp = value
        elif which == MESSAGE_ID:
            self.message_id = value
        elif value is not None:
            self.metadata = value
        return 0

    cdef int take(self, PyObject** values, Py_ssize_t given, tuple names) except -1:
        """The arguments of the constructor: `given` values by position, then those named."""
        cdef Layout layout = self.layout
        cdef list own = self.values
        cdef PyObject* found[MAX_FIELDS]
        cdef _Names called
        cdef Py_ssize_t k, taken = 0
        cdef int i, which
        if not layout.type_name:
            raise TypeError(f"{layout.owner} is no message type: a subclass declares one, with type_name=...")
        if len(own) != layout.n:
            raise TypeError(f"{layout.owner} has {layout.n} fields, not {len(own)}")
        for i in range(layout.n):
            found[i] = NULL
            if taken < given and not layout.ops[i].hidden and not layout.ops[i].kw_only:
                found[i] = values[taken]
                taken += 1
        if taken < given:
            raise TypeError(f"{layout.owner}() takes {taken} positional arguments, {given} were given; "
                            f"its fields are {', '.join(layout.arguments)}")
        self.stamp = now()
        called = layout.named(names)
        for k in range(called.n):
            which = called.which[k]
            if which < 0:
                self.set_header(which, <object>values[given + k])
            elif found[which] != NULL:
                raise TypeError(f"{layout.owner}() got {names[k]!r} twice")
            else:
                found[which] = values[given + k]
        if called.unknown is not None:
            raise TypeError(f"{layout.owner}() has no field {called.unknown!r}; it has {', '.join(layout.arguments)}")
        for i in range(layout.n):
            if layout.ops[i].hidden:
                continue
            value = layout.defaults[i] if found[i] == NULL else <object>found[i]
            if value is REQUIRED:
                raise TypeError(f"{layout.owner}() needs {layout.names[i]!r}")
            put_item(own, i, layout.coerce(i, value))
        return 0

    def pack(self, *, version=None, bint crc=True, bint cut_name=False):
        """The whole message, ready to send.

        Args:
            version: header version. Default: the received one, else 2 if the message has
                metadata or an id or is a COMMAND, else 1 (docs/protocol.md section 2.1). Links
                write 1 where there is neither content nor metadata nor id.
            crc: False writes 0 in its place.
            cut_name: cut a device name over 20 bytes at a character, and with header version 2
                send the whole one as metadata IGTL_DEVICE_NAME. Default: EncodeError.

        Raises:
            EncodeError: a field cannot be sent as it is.
        """
        cdef Packing how = packing(version_of(version), crc, cut_name)
        return packed_record(self, &how)

    def pack_into(self, buffer, *, version=None, bint crc=True, bint cut_name=False):
        """As `pack`, into memory that is used again: no allocation for a large message.

        Args:
            buffer: writable and contiguous: a bytearray, memoryview or array. Not memory of the
                message itself.

        Returns:
            Bytes written, from its start.

        Raises:
            EncodeError: as `pack`. ValueError: the buffer is too small; nothing was written.
            BufferError, TypeError: it is no such buffer (ValueError of a strided array).
        """
        cdef Packing how = packing(version_of(version), crc, cut_name)
        cdef Py_buffer view
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            how.into = <uint8_t*>view.buf
            how.room = view.len
            return packed_record(self, &how)
        finally:
            PyBuffer_Release(&view)

    def pack_parts(self, *, version=None, bint crc=True, bint cut_name=False):
        """As `pack`, in parts to be sent one after the other: pixels and other large data are
        not copied, but stand in the list as they lie in memory."""
        cdef Packing how = packing(version_of(version), crc, cut_name)
        how.parts = True
        return packed_record(self, &how)

    @property
    def device_name(self):
        return self._device_name

    @device_name.setter
    def device_name(self, value):
        if not isinstance(value, str):
            raise TypeError(f"device_name must be str, not {type(value).__name__}")
        if self._metadata is not None and value != self._device_name:
            self._metadata.pop("IGTL_DEVICE_NAME", None)    # it would hide the new name
        self._device_name = PyUnicode_FromObject(value)     # of a subclass, its characters
        if self.kept is not None:
            self.kept.pop("device", None)

    @property
    def message_id(self):
        return self.id

    @message_id.setter
    def message_id(self, value):
        if not 0 <= value < 1 << 32:
            raise EncodeError(self.layout.owner, "message_id", f"{value} is outside 0..4294967295")
        self.id = value

    @property
    def timestamp_raw(self):
        return self.stamp

    @timestamp_raw.setter
    def timestamp_raw(self, value):
        if not 0 <= value < 1 << 64:
            raise EncodeError(self.layout.owner, "timestamp_raw", f"{value} does not fit 64 bits")
        self.stamp = value

    @property
    def time_ns(self):
        return time_ns_of(self.stamp) if self.stamp else None

    @time_ns.setter
    def time_ns(self, value):
        self.stamp = 0 if value is None else timestamp_of(value)

    @property
    def timestamp(self):
        return self.stamp / 4294967296.0 if self.stamp else None

    @timestamp.setter
    def timestamp(self, value):
        if not value:
            self.stamp = 0
            return
        raw = round(float(value) * 4294967296.0)
        if not 0 <= raw < 1 << 64:
            raise EncodeError(self.layout.owner, "timestamp", f"{value} s is outside the years 1970 to 2106")
        self.stamp = raw

    @property
    def received(self):
        return None if isnan(self.at) else self.at

    @received.setter
    def received(self, value):
        self.at = NAN if value is None else value

    @property
    def received_monotonic(self):
        return None if isnan(self.at_monotonic) else self.at_monotonic

    @received_monotonic.setter
    def received_monotonic(self, value):
        self.at_monotonic = NAN if value is None else value

    @property
    def received_kernel(self):
        return None if isnan(self.at_kernel) else self.at_kernel

    @received_kernel.setter
    def received_kernel(self, value):
        self.at_kernel = NAN if value is None else value

    cdef int came_from(self, peer, double at) except -1:
        """It has just arrived, at this time of the monotonic clock."""
        cdef timespec t
        timespec_get(&t, TIME_UTC)
        self.peer = peer
        self.at = t.tv_sec + 1e-9 * t.tv_nsec
        self.at_monotonic = at

    cdef int keep(self, int i, shown, raw, print=None) except -1:
        """raw is what stands on the wire for as long as field i has the value `shown`, or encodes to
        the bytes with this print."""
        if self.kept is None:
            self.kept = {}
        self.kept[i] = (shown, raw, print)

    cdef bytes wire_type(self):
        if self.kept is not None and "type" in self.kept:
            return self.kept["type"]
        return self.layout.wire_type

    def _wire_type(self):
        """Twelve type bytes: as received (an alias, an unknown type), else the class's own."""
        return self.wire_type()

    def _set_wire_type(self, bytes raw not None):
        if len(raw) != 12:
            raise ValueError(f"a type has 12 bytes on the wire, not {len(raw)}")
        if self.kept is None:
            self.kept = {}
        self.kept["type"] = raw

    def _cut_surplus(self, str name, Py_ssize_t size):
        """Bytes of a data field behind its real end stay beside the message."""
        cdef int i = self.layout.index[name]
        if self.kept is None:
            self.kept = {}
        self.kept["surplus"] = bytes(self.values[i][size:])
        self.values[i] = self.values[i][:size]

    cdef bytes surplus(self):
        return b"" if self.kept is None else self.kept.get("surplus", b"")

    def _field_values(self):
        """What all fields hold, where none is left to be decoded: one step where attributes take one each."""
        return tuple(self.values)

    def _state(self):
        values = [bytes(v) if isinstance(v, memoryview) else v for v in self.values]
        kept = None if self.kept is None else {
            key: (found[0], bytes(found[1]), found[2]) if type(found) is tuple else found
            for key, found in self.kept.items()}
        return (values, kept, self.timestamp_raw, self.message_id,
                self.header_version, self._device_name, self._metadata, self.peer, self.crc_ok,
                self.received, self.received_monotonic, self.received_kernel)

    def __setstate__(self, state):
        (values, self.kept, self.timestamp_raw, self.message_id, self.header_version,
         self._device_name, self._metadata, self.peer, self.crc_ok,
         self.received, self.received_monotonic, self.received_kernel) = state
        self.values = list(values)
        for key, size in (("type", 12), ("device", 20)):
            if self.kept is not None and len(<bytes?>self.kept.get(key, bytes(size))) != size:
                raise ValueError(f"the {key} of a message has {size} bytes")

    @property
    def _meta(self):
        with cython.critical_section(self):
            return self._metadata

    @_meta.setter
    def _meta(self, value):
        with cython.critical_section(self):
            self._metadata = value

@cython.final
cdef class Slot:
    """Attribute access to one declared field."""

    cdef int i
    cdef readonly object field
    cdef readonly str __doc__

    def __init__(self, int i, field):
        self.i = i
        self.field = field
        self.__doc__ = repr(field)

    def __get__(self, obj, owner):
        cdef Record r
        if obj is None:
            return self
        r = record_of(obj)
        value = r.values[self.i]
        return r.layout.value(self.i, r) if type(value) is Later else value

    def __set__(self, obj, value):
        cdef Record r = <Record?>obj
        r.layout.op(self.i)
        r.values[self.i] = r.layout.coerce(self.i, value)
        if r.kept is not None:
            r.kept.pop(self.i, None)

# A call of a class makes its instance here at once, where the Python API lets a class say so: without
# the tuple and the dict that `tp_new` and `tp_init` want.

cdef object constructed(PyObject* cls, PyObject** args, size_t nargs, PyObject* names):
    cdef Record r
    if igtl_init_of(cls) != igtl_init_of(<PyObject*>Record):    # was replaced
        return called_by_python(cls, args, nargs, names)
    r = new_record(<object>cls)
    r.take(args, igtl_nargs(nargs), () if names == NULL else <tuple>names)
    return r

cdef object constructed_row(PyObject* cls, PyObject** args, size_t nargs, PyObject* names):
    cdef Row element
    if igtl_init_of(cls) != igtl_init_of(<PyObject*>Row):
        return called_by_python(cls, args, nargs, names)
    element = new_of(<object>cls)
    element.take(args, igtl_nargs(nargs), () if names == NULL else <tuple>names)
    return element

cdef object called_by_python(PyObject* cls, PyObject** args, size_t nargs, PyObject* names):
    cdef Py_ssize_t given = igtl_nargs(nargs), k
    cdef tuple named = () if names == NULL else <tuple>names
    kwargs = {named[k]: <object>args[given + k] for k in range(len(named))}
    return type.__call__(<object>cls, *[<object>args[k] for k in range(given)], **kwargs)

def call_directly(cls):
    """Once, when a class of messages or elements is made: its layout is its own from now on, its calls
    go to the functions above, unless it has a constructor of its own, and so do those of `pack`."""
    (<Layout?>cls.__layout__).made = cls
    base = Row if issubclass(cls, Row) else Record
    if cls.__init__ is base.__init__ and cls.__new__ is base.__new__:
        igtl_set_vectorcall(<PyObject*>cls, <void*>&constructed_row if base is Row else <void*>&constructed)
    if base is Record:
        igtl_own_method(cls, "pack", cls.pack)

cdef uint64_t now() noexcept nogil:
    cdef timespec t
    timespec_get(&t, TIME_UTC)
    return raw_time(t.tv_sec, t.tv_nsec)

cdef object new_of(cls):
    """cls.__new__(cls), without looking it up."""
    return (<new_function>igtl_new_of(<PyObject*>cls))(<PyTypeObject*>cls, (), NULL)

cdef inline Record new_record(cls):
    return record_of(new_of(cls))

cdef inline Record record_of(what):
    """A message as one. What is made as every message is made needs no search through its bases."""
    if igtl_new_of(<PyObject*>Py_TYPE(what)) != igtl_new_of(<PyObject*>Record):
        return <Record?>what
    return <Record>what

cdef inline Columns new_columns(cls):
    return new_of(cls)

def timestamp_of(time_ns):
    """Q32.32 seconds of nanoseconds since 1970, rounded to nearest: lossless both ways."""
    seconds, ns = divmod(time_ns, 1_000_000_000)
    if not 0 <= seconds < 1 << 32:
        raise ValueError(f"{time_ns} ns is outside the years 1970 to 2106")
    return raw_time(seconds, ns)

def time_ns_of(uint64_t raw):
    """Nanoseconds since 1970 of Q32.32 seconds, rounded to nearest."""
    return ns_of(raw)

# ---- metadata (docs/protocol.md sections 5.2, 5.3) ------------------------------------------------

LARGEST_METADATA = 65_536   # bytes of keys and values that the official library does not read any more

cdef class Entries:
    """Metadata: keys with the encoding and the bytes of their values, and both sections as they stand
    on the wire. Each is made of the other when it is wanted, and kept until an entry changes."""

    cdef dict entries       # None: not decoded yet
    cdef tuple wire         # None: not encoded since the last change

    cdef dict read(self):
        with cython.critical_section(self):
            if self.entries is None:
                self.entries = {} if self.wire is None else decoded_entries(self.wire[0], self.wire[1])
        return self.entries

    def _read(self):
        return self.read()

    def _set(self, str key, tuple entry):
        cdef dict entries = self.read()
        with cython.critical_section(self):
            entries[key] = entry
            self.wire = None

    def _remove(self, key):
        cdef dict entries = self.read()
        with cython.critical_section(self):
            del entries[key]
            self.wire = None

    def _take(self, Entries other not None):
        """The entries of another one."""
        with cython.critical_section(other):
            self.entries = None if other.entries is None else other.entries.copy()
            self.wire = other.wire

    def to_wire(self, str owner):
        """The metadata header and the metadata."""
        cdef tuple wire = self.wire
        cdef dict entries
        if wire is None:
            entries = self.read()
            with cython.critical_section(self):     # and no bytecode runs within: no entry changes meanwhile
                wire = self.wire = encoded_entries(entries, owner)
        return wire

    def __reduce__(self):
        return type(self), (), (self.read().copy(), self.wire)

    def __setstate__(self, state):
        entries, self.wire = state
        if entries is None:
            raise TypeError("metadata without entries")
        self.entries = entries

cdef inline bint has_entries(Entries e) except -1:
    """Whether there is an entry, without decoding it."""
    if e is None:
        return False
    if e.entries is not None:
        return len(e.entries) > 0
    return e.wire is not None and get16(<const uint8_t*>PyBytes_AsString(e.wire[0])) > 0

cdef dict decoded_entries(bytes head, bytes data):
    cdef const uint8_t* p = <const uint8_t*>PyBytes_AsString(head)
    cdef const char* q = PyBytes_AsString(data)
    cdef Py_ssize_t at = 0, key_size, size, k
    cdef dict entries = {}
    for k in range(get16(p)):
        p += 8 if k else 2
        key_size, size = get16(p), get32(p + 4)
        # surrogateescape: keys that are not UTF-8 stay apart and can be written again
        key = PyUnicode_DecodeUTF8(q + at, key_size, "surrogateescape")
        at += key_size
        entries[key] = get16(p + 2), (q + at)[:size]
        at += size
    return entries

cdef tuple encoded_entries(dict entries, str owner):
    cdef Py_ssize_t size = 0
    cdef bytes key, raw
    found = sorted([(name.encode("utf-8", "surrogateescape"), *entry) for name, entry in entries.items()])
    if len(found) > 8191:
        raise EncodeError(owner, "metadata", f"{len(found)} entries, at most 8191 fit")
    head = [struct.pack(">H", len(found))]
    data = []
    for key, encoding, raw in found:
        if len(key) > 65535:
            raise EncodeError(owner, "metadata", f"a key of {len(key)} bytes, at most 65535 fit")
        head.append(struct.pack(">HHI", len(key), encoding, len(raw)))
        data += key, raw
        size += len(key) + len(raw)
    if size >= LARGEST_METADATA:
        raise EncodeError(owner, "metadata",
                          f"{size} bytes of keys and values; receivers of the official library, 3D Slicer "
                          f"among them, drop a message with {LARGEST_METADATA} or more")
    return b"".join(head), b"".join(data)

# ---- packing ----------------------------------------------------------------------------------

cdef struct Writer:
    uint8_t* start          # of the whole message
    uint8_t* summed         # the CRC covers the body up to here
    uint64_t crc
    bint with_crc
    PyObject* apart         # list of large data, and where they belong in the message; NULL: write them

cdef void copy_and_sum(Writer* w, uint8_t* to, const uint8_t* src, Py_ssize_t n) noexcept:
    cdef uint64_t crc
    if not w.with_crc or n < NOGIL_FROM:
        memcpy(to, src, n)
        return
    crc = igtl_crc64(w.summed, to - w.summed, w.crc)
    with nogil:
        crc = igtl_crc64_copy(to, src, n, crc)
    w.crc = crc
    w.summed = to + n

cdef void sum_apart(Writer* w, uint8_t* to, const uint8_t* src, Py_ssize_t n) noexcept:
    """The same for bytes that belong in front of `to`, but stay where they lie."""
    if w.with_crc:
        w.crc = run_crc(src, n, igtl_crc64(w.summed, to - w.summed, w.crc))
        w.summed = to

cpdef bint needs_v2(object r) except -1:
    """Whether the message carries what only header version 2 can: metadata or a message id."""
    return carries(record_of(r))

cdef inline bint carries(Record r) except -1:
    return r.id != 0 or has_entries(r._metadata)

cdef int version_of(version) except -1:
    if version is None:
        return 0
    if version not in (1, 2):
        raise ValueError(f"header version must be 1 or 2, not {version!r}")
    return version

cdef inline int choose_version(Record r, int version) except -1:
    """The header version: the one asked for, or with 0 that of `Message.pack`."""
    cdef bint needed = carries(r)
    if version == 0:
        return 2 if needed else r.header_version or (2 if r.layout.prefers_v2 else 1)
    if version == 1 and needed:
        raise EncodeError(r.layout.owner, "metadata" if has_entries(r._metadata) else "message_id",
                          "header version 1 cannot carry it: use version 2 or clear it")
    return version

cdef bytes name_bytes(Record r, bint cut):
    """The device name for the header, 20 bytes."""
    cdef bytes raw
    cdef str device_name = r._device_name
    if r.kept is not None and "device" in r.kept:
        return r.kept["device"]
    raw = device_name.encode()
    if len(raw) > 20:
        if not cut:
            raise EncodeError(r.layout.owner, "device_name",
                              f"{device_name!r} has {len(raw)} bytes, 20 fit; cut_name=True cuts it")
        raw = fit(device_name, 20).encode()
    elif b"\0" in raw:
        raise EncodeError(r.layout.owner, "device_name", f"{device_name!r}: a NUL would end the name")
    return pad(raw, 20)

cdef inline int put_name(uint8_t* to, Record r, bint cut) except -1:
    """The same, written; without an object for the usual name."""
    cdef Py_ssize_t n
    cdef const char* text
    if r.kept is None:
        text = utf8_of(<PyObject*>r._device_name, &n)
        if n <= 20 and memchr(text, 0, n) == NULL:
            memset(to, 0, 20)
            memcpy(to, text, n)
            return 0
    memcpy(to, PyBytes_AsString(name_bytes(r, cut)), 20)
    return 0

cpdef bytes stream_key(object what):
    """Type (12 bytes) and device name of a message, a Frame, a packed message or the parts of one:
    32 bytes as in the header, or more for a name that the header cuts."""
    cdef Frame frame
    cdef Record r
    cdef Held first, last
    cdef bytes raw
    cdef const uint8_t* name
    cdef Py_ssize_t n = 20, left
    if isinstance(what, Record):
        r = what
        raw = r._device_name.encode(errors="replace")
        if not 20 < len(raw) <= MAX_NAME or (r.kept is not None and "device" in r.kept and not (
                r._metadata and "IGTL_DEVICE_NAME" in r._metadata)):
            raw = name_bytes(r, True)   # perhaps no text: as it came
        return r.wire_type() + raw
    if type(what) is Frame:
        frame = what
        n = stream_name(frame.head(), frame.size, frame.p + frame.size, frame.size, &name)
        return (frame.p + 2)[:12] + name[:n]
    parts = what if type(what) is list else [what]
    first = last = Held(parts[0])
    if first.size < 34:
        raise ValueError("no message header")
    name = first.p + 14
    if first.size >= HEADER and name[16]:
        left = HEADER + <Py_ssize_t>get64(first.p + 42)
        for part in parts:      # the one with the end of the message has the metadata
            last = Held(part)
            left -= last.size
            if left <= 0:
                break
        if left == 0:
            n = stream_name(first.p, HEADER + <Py_ssize_t>get64(first.p + 42), last.p + last.size, last.size, &name)
    return (first.p + 2)[:12] + name[:n]

def fit(str text, Py_ssize_t size):
    """The longest beginning of text that fits size bytes of UTF-8, no character cut in two."""
    return text.encode()[:size].decode("utf-8", "ignore")

def content(Record r not None, int depth=1):
    """Content section of a message: what a BIND carries, and what `==` compares. depth: see Layout.read."""
    cdef Layout layout = r.layout
    cdef Taken taken
    cdef Py_ssize_t total
    cdef bytes out, surplus
    cdef Writer w
    if layout.prepare is not None:
        layout.prepare(r)
    try:
        layout.take(r, &taken)
        surplus = r.surplus()
        total = layout.measure(r, &taken, depth) if layout.open else layout.settled
        out = PyBytes_FromStringAndSize(NULL, total + len(surplus))
        w.start = w.summed = <uint8_t*>PyBytes_AsString(out)
        w.crc = 0
        w.with_crc = False
        w.apart = NULL
        layout.write(&taken, w.start, &w)
        memcpy(w.start + total, PyBytes_AsString(surplus), len(surplus))
    finally:
        let_go(&taken)
    return out

def packed_for(object r not None, version, *, bint crc=True, bint cut_name=False):
    """As `Message.pack`, for a peer that takes this header version (None: that of `Message.pack`). A
    message without content, message id and metadata is written as version 1 whatever the peer takes:
    nothing is lost, and PLUS stops at several such messages of version 2."""
    cdef Packing how = packing(version_of(version), crc, cut_name)
    how.sending = True
    return packed(r, &how)

cdef Packing packing(int version, bint crc, bint cut_name) noexcept:
    """One bytes object, wherever it goes."""
    cdef Packing how
    how.version = version
    how.crc = crc
    how.cut_name = cut_name
    how.sending = how.parts = False
    how.into = NULL
    how.room = 0
    return how

cdef object packed(object message, const Packing* how):
    """The message as one bytes object, as a list of buffers, or the size of what was written into
    memory that is there: see Packing."""
    return packed_record(<Record?>message, how)

cdef Py_ssize_t write_briefly(Layout layout, list values, uint8_t* start, Py_ssize_t room) except -1:
    """Measure and write all fields in one pass: numbers, matrices and ASCII texts, in at most so many
    bytes. Returns how many these are, or NOT_BRIEF: `measure` and `write` have to look at them."""
    cdef uint8_t* at[MAX_FIELDS]
    cdef uint8_t* p = start
    cdef Py_ssize_t n, size, left = room - layout.settled
    cdef const char* text
    cdef const Op* op
    cdef int i, code
    if len(values) != layout.n:
        return NOT_BRIEF
    for i in range(layout.n):
        op = &layout.ops[i]
        if op.kind == SIZE:             # known when its text is
            at[i] = p
            p += op.wire
            continue
        value = <object>item_of(values, i)
        if op.wire >= 0:
            if op.kind == MATRIX:
                layout._put_matrix(p, i, <cnp.ndarray?>value)
            elif op.target >= 0 and value is None:      # encoding of a text, left to us
                put16(p, 3)
            else:
                layout._put_number(p, i, value)
            at[i] = p
            p += op.wire
            continue
        text = ascii_of(<PyObject*>value, &n)
        if text == NULL:
            return NOT_BRIEF
        if op.kind == STRING:
            code = get16(at[op.encoding]) if op.encoding >= 0 else 106
            if code != 3 and code != 106:
                return NOT_BRIEF
        elif memchr(text, 0, n) != NULL or op.kind == TEXT and n > op.itemsize:
            return NOT_BRIEF
        size = op.itemsize if op.kind == TEXT else n + (op.kind == ZERO_ENDED)
        left -= size
        if left < 0:
            return NOT_BRIEF
        memcpy(p, text, n)
        if size > n:
            memset(p + n, 0, size - n)
        if op.length >= 0:
            put_int(at[op.length], layout.ops[op.length].itemsize, n)
        p += size
    return p - start

cdef object packed_record(Record r, const Packing* how):
    cdef Layout layout = r.layout
    cdef uint8_t[BRIEF] wire
    cdef Py_ssize_t size
    cdef uint64_t crc
    cdef int chosen
    if layout.prepare is not None:
        layout.prepare(r)
    chosen = choose_version(r, how.version)
    put_name(wire + 14, r, how.cut_name)
    if layout.brief and chosen == 1 and r.kept is None:
        size = write_briefly(layout, r.values, wire + HEADER, BRIEF - HEADER)
        if size != NOT_BRIEF:
            crc = igtl_crc64(wire + HEADER, size, 0) if how.crc else 0
            put_header(wire, 1, bytes_at(<PyObject*>layout.wire_type), wire + 14, r.stamp, size, crc)
            if how.into != NULL and HEADER + size <= how.room:
                memcpy(how.into, wire, HEADER + size)
                return HEADER + size
            if how.parts:
                return [PyBytes_FromStringAndSize(<char*>wire, HEADER + size)]
            if how.into == NULL:
                return PyBytes_FromStringAndSize(<char*>wire, HEADER + size)
    return packed_in_steps(r, layout, how, chosen, wire + 14)

cdef object packed_in_steps(Record r, Layout layout, const Packing* how, int chosen, const uint8_t* name20):
    """Any message: all values are taken, then measured, then written where their memory is."""
    cdef Taken taken
    cdef PyObject** beside = taken.beside
    cdef Py_ssize_t content_size, apart_size = 0, total
    cdef Writer w
    cdef uint8_t* p
    cdef uint64_t crc
    cdef bytes out = None
    cdef list apart
    try:
        layout.take(r, &taken)
        if r.kept is not None:
            take_kept(&taken, r)
        content_size = layout.measure(r, &taken, 1) if layout.open else layout.settled
        if chosen == 2:
            take_metadata(&taken, r, how.cut_name)
        if (chosen == 2 and content_size == 0 and (how.sending or how.version == 0 and not r.header_version)
                and r.id == 0 and beside[EXTENSION] == NULL and beside[SURPLUS] == NULL
                and get16(bytes_at(beside[INDEX])) == 0):
            chosen = 1
        w.apart = NULL
        if how.parts:
            apart_size = apart_from(layout, &taken)
            if apart_size:
                apart = []
                w.apart = <PyObject*>apart
        total = HEADER + content_size - apart_size + size_beside(beside[SURPLUS])
        if chosen == 2:
            total += EXTENDED + size_beside(beside[EXTENSION]) + size_of(beside[INDEX]) + size_of(beside[ENTRIES])
        if how.into == NULL or how.parts and (apart_size or total > how.room):
            out = PyBytes_FromStringAndSize(NULL, total)
            w.start = bytes_at(<PyObject*>out)
            if total >= LARGE_FROM:
                igtl_large_pages(w.start, total)
        elif total > how.room:
            raise ValueError(f"{layout.owner} takes {total} bytes, the buffer has {how.room}")
        else:
            w.start = how.into
        w.summed = p = w.start + HEADER
        w.crc = 0
        w.with_crc = how.crc
        if chosen == 2:
            put16(p, <uint16_t>(EXTENDED + size_beside(beside[EXTENSION])))
            put16(p + 2, <uint16_t>size_of(beside[INDEX]))
            put32(p + 4, <uint32_t>size_of(beside[ENTRIES]))
            put32(p + 8, r.id)
            p = put_bytes(p + EXTENDED, beside[EXTENSION])
        layout.write(&taken, p, &w)
        p = put_bytes(p + content_size - apart_size, beside[SURPLUS])
        if chosen == 2:
            p = put_bytes(put_bytes(p, beside[INDEX]), beside[ENTRIES])
        crc = run_crc(w.summed, p - w.summed, w.crc) if how.crc else 0
        put_header(w.start, chosen, bytes_at(<PyObject*>layout.wire_type if beside[TYPE] == NULL else beside[TYPE]),
                   name20, r.stamp, total + apart_size - HEADER, crc)
        if out is None:
            return total
        if not how.parts:
            return out
        return [out] if w.apart == NULL else parted(out, apart)
    finally:
        let_go(&taken)

cdef Py_ssize_t apart_from(Layout layout, Taken* taken) noexcept:
    """Bytes of the data that are large enough to be sent from where they lie."""
    cdef Py_ssize_t size = 0
    cdef int i
    for i in range(layout.n):
        if layout.ops[i].kind == DATA and taken.sizes[i] >= APART_FROM:
            size += taken.sizes[i]
    return size

cdef int take_kept(Taken* taken, Record r) except -1:
    """What came with the message, and its fields cannot show."""
    for key, which in (("extended", EXTENSION), ("surplus", SURPLUS), ("type", TYPE)):
        if key in r.kept:
            taken.beside[<int>which] = held_by_us(<bytes?>r.kept[key])

cdef int take_metadata(Taken* taken, Record r, bint whole_name) except -1:
    """The metadata; whole_name: and in them a device name that the header has to cut."""
    cdef bytes index = b"\0\0", entries = b""
    metadata = r._metadata
    if whole_name:
        metadata = with_whole_name(r, metadata)
    if metadata is not None:
        index, entries = metadata.to_wire(r.layout.owner)
    taken.beside[INDEX] = held_by_us(index)
    taken.beside[ENTRIES] = held_by_us(entries)

cdef object with_whole_name(Record r, metadata):
    cdef bytes raw
    if r.kept is not None and "device" in r.kept:
        return metadata
    raw = r._device_name.encode()
    if len(raw) <= 20:
        return metadata
    if len(raw) > MAX_NAME:
        raise EncodeError(r.layout.owner, "device_name", f"{r._device_name!r} has more than {MAX_NAME} bytes")
    return type(r)._with_full_name(metadata, r._device_name)

cdef inline Py_ssize_t size_beside(PyObject* raw) noexcept:
    return 0 if raw == NULL else size_of(raw)

cdef inline uint8_t* put_bytes(uint8_t* p, PyObject* raw) noexcept:
    """Copy them; where the next ones go."""
    if raw == NULL:
        return p
    memcpy(p, bytes_at(raw), size_of(raw))
    return p + size_of(raw)

cdef list parted(bytes written, list apart):
    """The parts of a message: what was written, and between it the data that lie elsewhere."""
    whole = memoryview(written)
    parts = []
    at = 0
    for split, data in apart:
        parts += [whole[at:split], data.cast("B")]
        at = split
    parts.append(whole[at:])
    return [part for part in parts if len(part)]

# ---- unpacking --------------------------------------------------------------------------------

cdef dict _classes = {}         # type bytes -> class
cdef object _unknown = None
cdef object _no_data = None
cdef object _metadata_class = None

@cython.final
cdef class _Head:
    """What the type and device name of a header say, kept for the stream's next message."""

    cdef uint8_t[32] key
    cdef unsigned long known    # registrations before it looked for the class
    cdef object cls
    cdef str name
    cdef bint exact         # the name's field holds nothing the name does not show

cdef list _heads = [None] * HEADS       # each is replaced whole, never changed
cdef unsigned long _registrations = 0

cdef _Head head_of(const uint8_t* wire):
    cdef uint64_t mixed = (get64(wire + 4) ^ get64(wire + 14) ^ get64(wire + 22)) * 0x9E3779B97F4A7C15U
    cdef int slot = <int>(mixed >> 59)
    cdef _Head head = _heads[slot]
    cdef bint exact
    if head is None or head.known != _registrations or memcmp(head.key, wire + 2, 32):
        head = _Head()
        head.known = _registrations
        memcpy(head.key, wire + 2, 32)
        head.cls = _classes.get(type_bytes(wire), _unknown)
        head.name = text_of(wire + 14, 20, &exact)
        head.exact = exact
        _heads[slot] = head
    return head

def register(bytes type_name, cls):
    global _registrations
    with cython.critical_section(_classes):
        _classes[type_name] = cls
        _registrations += 1

def registered():
    """Type name on the wire -> class, aliases included."""
    return {name.decode(): cls for name, cls in _classes.items()}

def set_special(unknown, no_data, metadata):
    global _unknown, _no_data, _metadata_class
    _unknown, _no_data, _metadata_class = unknown, no_data, metadata

cdef str type_text(const uint8_t* p):
    cdef bint exact
    return text_of(p + 2, 12, &exact)

cdef bytes type_bytes(const uint8_t* p):
    return (p + 2)[:text_size(p + 2, 12)]

cdef bint is_registered(const uint8_t* p) except -1:
    """Whether there is a class for the type of this header."""
    return type_bytes(p) in _classes

cdef int bad_extended(const uint8_t* p, str reason) except -1:
    raise BodyError(type_text(p), "extended header", reason)

cdef object build(object owner, const uint8_t* p, Py_ssize_t n, int policy, const uint64_t* crc):
    """The whole message of n bytes at p, the start of owner's memory. policy: 0 verify, 1 warn, 2 off.
    crc: that of the body, if it is known. (The memory may change while others run: no size is read
    from it twice.)"""
    cdef uint64_t body = n - HEADER, actual, expected
    cdef int version = get16(p)
    cdef const uint8_t* content
    cdef Py_ssize_t size, used, meta_size = 0
    cdef Extended e = Extended(0, 0, 0)
    cdef Record r
    cdef _Head head
    cdef const uint8_t* name
    cdef Py_ssize_t named
    cdef bint exact
    cdef object cls, crc_ok = None
    if version > 2:
        raise VersionError(version)
    if policy < 2:
        expected = get64(p + 50)
        actual = run_crc(p + HEADER, body, 0) if crc == NULL else crc[0]
        crc_ok = actual == expected
        if policy == 0 and actual != expected:
            raise CRCError(expected, actual)
    content = p + HEADER
    size = body
    if version == 2:
        if body < EXTENDED:
            bad_extended(p, f"needs 12 bytes, the body has {body}")
        if not read_extended(content, body, &e):
            bad_extended(p, f"sizes {e.ext} and {e.head}, at least 12 and 2" if e.ext < EXTENDED or e.head < 2
                         else f"sizes {e.ext}, {e.head} and {e.data} exceed the body of {body} bytes")
        meta_size = <Py_ssize_t>e.head + e.data
        size = body - e.ext - meta_size
    head = head_of(p)
    cls = head.cls
    if size == 0 and (<Layout>cls.__layout__).minimum > 0:
        cls = _no_data
    r = new_record(cls)
    r.header_version = 2 if version == 2 else 1
    r.crc_ok = crc_ok
    r.stamp = get64(p + 34)
    r._device_name = head.name
    if not head.exact:
        r.kept = {"device": (p + 14)[:20]}
    if memcmp(<const char*>r.layout.wire_type, p + 2, 12):
        r._set_wire_type((p + 2)[:12])
    if version == 2:
        r.id = get32(content + 8)
        if e.ext > EXTENDED:
            if r.kept is None:
                r.kept = {}
            r.kept["extended"] = (content + EXTENDED)[:e.ext - EXTENDED]
        if meta_size > 2 or get16(content + body - 2):
            r._metadata = read_metadata(p, content + body - meta_size, e.head, e.data)
            named = stream_name(p, n, p + n, n, &name)
            if named > 20:
                if r.kept is None:
                    r.kept = {}
                r.kept["device"] = (p + 14)[:20]
                r._device_name = text_of(name, named, &exact)
        content += e.ext
    used = r.layout.read(r, owner, p, content, size, 1)
    if used < size:
        if r.kept is None:
            r.kept = {}
        r.kept["surplus"] = (content + used)[:size - used]
    if r.layout.check is not None:
        r.layout.check(r)
    return r

cdef object read_metadata(const uint8_t* p, const uint8_t* head, Py_ssize_t mh, uint64_t ms):
    """Check all sizes of the metadata (docs/protocol.md section 5.2) and hand over its bytes."""
    cdef bytes sizes = head[:mh], entries = (head + mh)[:ms]
    cdef Py_ssize_t count, k
    cdef uint64_t total = 0
    cdef Entries found
    head = <const uint8_t*>PyBytes_AsString(sizes)
    count = get16(head)
    if 2 + 8 * count > mh:
        raise BodyError(type_text(p), "metadata", f"{count} entries do not fit a header of {mh} bytes")
    for k in range(count):
        total += get16(head + 2 + 8 * k)
        total += get32(head + 6 + 8 * k)
    if total != ms:
        raise BodyError(type_text(p), "metadata", f"entries take {total} bytes, {ms} are announced")
    found = new_of(_metadata_class)
    found.wire = sizes, entries     # decoded when an entry is wanted
    return found

cdef int policy_of(crc) except -1:
    if crc == "verify":
        return 0
    if crc == "warn":
        return 1
    if crc == "off":
        return 2
    raise ValueError(f"crc must be 'verify', 'warn' or 'off', not {crc!r}")

cdef object unpack_at(object owner, const uint8_t* p, Py_ssize_t n, int policy):
    if n < HEADER:
        raise ProtocolError(f"a message has at least {HEADER} bytes, these are {n}")
    if get64(p + 42) != <uint64_t>(n - HEADER):
        raise ProtocolError(f"header announces {get64(p + 42)} bytes of body, {n - HEADER} follow")
    return build(owner, p, n, policy, NULL)

def unpack(data, *, crc="verify"):
    """The message in these bytes: exactly one, header included.

    Arrays the message can use as they lie (native byte order, aligned) are views of `data`.

    Args:
        data: bytes, or anything else with a contiguous buffer, which is read as bytes. It cannot be
            resized while the message has views of it.
        crc: "verify": CRCError when it is wrong. "warn": the message has crc_ok=False. "off":
            not computed.

    Raises:
        VersionError, CRCError, BodyError, ProtocolError: the bytes are wrong.
        TypeError, BufferError: data is no buffer, or not contiguous.
    """
    cdef int policy = policy_of(crc)
    cdef Held held
    if type(data) is bytes:
        return unpack_at(data, <const uint8_t*>PyBytes_AsString(data), len(<bytes>data), policy)
    if type(data) is Frame:
        return (<Frame>data).build(policy)
    held = Held(data)
    return unpack_at(held, held.p, held.size, policy)

def unpack_content(bytes type_name, data, int depth=2):
    """A message from its content alone (a child of BIND): no header, no CRC. depth: see Layout.read."""
    cdef Held held = Held(data)
    cdef Record r
    cdef Py_ssize_t used
    cdef Layout layout
    cls = _classes.get(type_name.partition(b"\0")[0], _unknown)
    layout = cls.__layout__
    if held.size == 0 and layout.minimum > 0:
        cls = _no_data
    r = new_record(cls)
    r.header_version = 1
    if r.layout.wire_type != pad(type_name, 12):
        r._set_wire_type(pad(type_name, 12))
    used = r.layout.read(r, held, held.p, held.p, held.size, depth)
    if used < held.size:
        if r.kept is None:
            r.kept = {}
        r.kept["surplus"] = (held.p + used)[:held.size - used]
    if r.layout.check is not None:
        r.layout.check(r)
    return r

# ---- Frame ------------------------------------------------------------------------------------

@cython.final
cdef class Frame:
    """One message as it came: header fields readable, body untouched."""

    cdef readonly object data
    cdef const uint8_t* p       # NULL: `of` did not make it
    cdef Py_ssize_t size
    cdef bint summed            # the CRC of its body was computed as it came
    cdef uint64_t sum

    @staticmethod
    cdef Frame of(object data, const uint8_t* p, Py_ssize_t size):
        cdef Frame frame = Frame.__new__(Frame)
        frame.data = data
        frame.p = p
        frame.size = size
        frame.summed = False
        return frame

    def __init__(self):
        raise TypeError("frames come from Decoder or Protocol.frames(), or Frame.from_bytes()")

    @staticmethod
    def from_bytes(data):
        """The frame of one whole message: bytes, or another contiguous buffer, which cannot be
        resized while the frame lives."""
        cdef Held held = Held(data)
        cdef Py_ssize_t body = held.size - HEADER
        if body < 0 or get64(held.p + 42) != <uint64_t>body:
            raise ValueError(f"{held.size} bytes are not one whole message")
        return Frame.of(data if type(data) is bytes else held, held.p, held.size)

    cdef const uint8_t* head(self) except NULL:
        if self.p == NULL:
            raise TypeError("frames come from Decoder or Protocol.frames(), or Frame.from_bytes()")
        return self.p

    cdef object build(self, int policy):
        return build(self.data, self.head(), self.size, policy, &self.sum if self.summed else NULL)

    @property
    def header_version(self):
        return get16(self.head())

    @property
    def type_name(self):
        return type_text(self.head())

    @property
    def device_name(self):
        cdef bint exact
        cdef const uint8_t* name
        cdef Py_ssize_t n = stream_name(self.head(), self.size, self.p + self.size, self.size, &name)
        return text_of(name, n, &exact)

    @property
    def timestamp_raw(self):
        return get64(self.head() + 34)

    @property
    def body_size(self):
        self.head()
        return self.size - HEADER

    @property
    def crc(self):
        return get64(self.head() + 50)

    def unpack(self, crc="verify"):
        return self.build(policy_of(crc))

    def __len__(self):
        return self.size

    def __bytes__(self):
        return bytes(self.data)

    def __repr__(self):
        return f"<Frame {self.type_name} {self.device_name!r} {len(self)} bytes>"

cdef bint is_frame(object what) noexcept:
    return type(what) is Frame

cdef object new_frame(object data, const Whole* whole):
    """The frame of a message that lies in the memory of `data`."""
    cdef Frame frame = Frame.of(data, whole.p, whole.size)
    frame.summed = whole.summed
    frame.sum = whole.sum
    return frame

cdef object whole_of(object frame, Whole* whole):
    """What a frame holds. Returns what keeps the memory."""
    whole.p = (<Frame?>frame).head()
    whole.size = (<Frame>frame).size
    whole.summed = (<Frame>frame).summed
    whole.sum = (<Frame>frame).sum
    return (<Frame>frame).data

cdef const uint8_t* frame_bytes(object frame, Py_ssize_t* size) except NULL:
    size[0] = (<Frame?>frame).size
    return (<Frame>frame).head()

cdef object received(object data, const Whole* whole, int policy, object peer, double at, bint* bad_crc):
    """The message that lies in the memory of `data` and came from this peer, at this time of the monotonic
    clock. *bad_crc: its CRC is wrong, which the policy lets pass."""
    cdef Record r = build(data, whole.p, whole.size, policy, &whole.sum if whole.summed else NULL)
    r.came_from(peer, at)
    bad_crc[0] = r.crc_ok is False
    return r

cdef list values_of(object message):
    """What its fields hold, undecoded."""
    return (<Record?>message).values

cdef bint is_no_data(object message) noexcept:
    return type(message) is _no_data

# ---- rotations (docs/protocol.md section 1.3) ---------------------------------------------------

def matrix_of_quaternion(quaternion):
    """3x3 float64 rotation of a quaternion (x, y, z, w) of any length but zero."""
    cdef double x, y, z, w, n
    x, y, z, w = quaternion
    n = sqrt(x * x + y * y + z * z + w * w)
    if not n > 0:
        raise ValueError("a quaternion of length 0 is no rotation")
    x, y, z, w = x / n, y / n, z / n, w / n
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])

def quaternion_of_matrix(matrix):
    """Quaternion (x, y, z, w), float64, w >= 0, of a rotation matrix (3x3 or larger)."""
    cdef const double[:, :] m = np.asarray(matrix, dtype=np.float64)
    cdef double x, y, z, w, s, trace
    if m.shape[0] < 3 or m.shape[1] < 3:
        raise ValueError(f"shape ({m.shape[0]}, {m.shape[1]}), must be at least (3, 3)")
    trace = m[0, 0] + m[1, 1] + m[2, 2]
    # the largest of the four comes from a root, the others by division: none from a small number
    if trace > 0:
        s = 2 * sqrt(1 + trace)
        x, y, z, w = (m[2, 1] - m[1, 2]) / s, (m[0, 2] - m[2, 0]) / s, (m[1, 0] - m[0, 1]) / s, s / 4
    elif m[0, 0] >= m[1, 1] and m[0, 0] >= m[2, 2]:
        s = 2 * sqrt(1 + m[0, 0] - m[1, 1] - m[2, 2])
        x, y, z, w = s / 4, (m[0, 1] + m[1, 0]) / s, (m[0, 2] + m[2, 0]) / s, (m[2, 1] - m[1, 2]) / s
    elif m[1, 1] >= m[2, 2]:
        s = 2 * sqrt(1 + m[1, 1] - m[0, 0] - m[2, 2])
        x, y, z, w = (m[0, 1] + m[1, 0]) / s, s / 4, (m[1, 2] + m[2, 1]) / s, (m[0, 2] - m[2, 0]) / s
    else:
        s = 2 * sqrt(1 + m[2, 2] - m[0, 0] - m[1, 1])
        x, y, z, w = (m[0, 2] + m[2, 0]) / s, (m[1, 2] + m[2, 1]) / s, s / 4, (m[1, 0] - m[0, 1]) / s
    if w < 0:
        x, y, z, w = -x, -y, -z, -w
    return np.array([x, y, z, w])

# ---- pictures: the part of a whole that a message holds ------------------------------------------

cdef int take_three(cnp.ndarray numbers, uint16_t* out) except -1:
    """Three numbers of a field: along i, j, k."""
    cdef int k
    if cnp.PyArray_TYPE(numbers) == cnp.NPY_UINT16 and cnp.PyArray_ISCARRAY_RO(numbers) and (
            cnp.PyArray_NDIM(numbers) == 1 and cnp.PyArray_DIM(numbers, 0) == 3):
        for k in range(3):
            out[k] = (<uint16_t*>cnp.PyArray_DATA(numbers))[k]
    else:
        out[0], out[1], out[2] = numbers

cdef int64_t take_part(cnp.ndarray size, cnp.ndarray offset, cnp.ndarray sub_size, uint16_t* part) except -2:
    cdef uint16_t[3] whole, at
    cdef int k
    take_three(size, whole)
    take_three(offset, at)
    take_three(sub_size, part)
    for k in range(3):
        if <int>at[k] + part[k] > whole[k]:
            return -1
    return <int64_t>part[0] * part[1] * part[2]

def voxels_in(cnp.ndarray size not None, cnp.ndarray offset not None, cnp.ndarray sub_size not None):
    """How many a part has; -1: it does not lie within the whole."""
    cdef uint16_t[3] part
    return take_part(size, offset, sub_size, part)

cdef bint is_of_code(cnp.dtype dtype, int code) noexcept:
    """Whether numbers of pictures with this code on the wire are of this dtype, whatever its byte order."""
    if code == 10 or code == 11:
        return dtype.kind == c"f" and cnp.PyDataType_ELSIZE(dtype) == 4 << (code - 10)
    return 2 <= code <= 7 and dtype.kind == (c"u" if code & 1 else c"i") and (
        cnp.PyDataType_ELSIZE(dtype) == 1 << (code - 2) // 2)

def describes(array, cnp.ndarray size not None, cnp.ndarray offset not None, cnp.ndarray sub_size not None,
              int components, int code):
    """Whether a picture with these fields has these pixels: a plain array, contiguous, of their shape and
    kind of numbers, the part within the whole. False: the caller has to look at what is the matter."""
    cdef uint16_t[3] part
    cdef cnp.ndarray pixels
    cdef int k, nd = 3 if components == 1 else 4
    if not cnp.PyArray_CheckExact(array) or take_part(size, offset, sub_size, part) < 0:
        return False
    pixels = array
    if cnp.PyArray_NDIM(pixels) != nd or not cnp.PyArray_IS_C_CONTIGUOUS(pixels):
        return False
    for k in range(3):
        if cnp.PyArray_DIM(pixels, k) != part[2 - k]:
            return False
    return (nd == 3 or cnp.PyArray_DIM(pixels, 3) == components) and is_of_code(pixels.descr, code)

def pixels_of(data, cnp.dtype dtype not None, cnp.ndarray sub_size not None, int components):
    """The array (k, j, i) or (k, j, i, components) that these bytes of this dtype are: a view, or a copy
    in native order where they are not, or are not aligned. None: they are fewer or more."""
    cdef Py_buffer view
    cdef uint16_t[3] part
    cdef cnp.npy_intp[4] shape
    cdef cnp.ndarray array
    take_three(sub_size, part)
    shape[0], shape[1], shape[2], shape[3] = part[2], part[1], part[0], components
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if view.len != <int64_t>part[0] * part[1] * part[2] * components * cnp.PyDataType_ELSIZE(dtype):
            return None
        array = array_over(<uint8_t*>view.buf, data.obj if type(data) is memoryview else data, dtype,
                           3 if components == 1 else 4, shape)
        if view.readonly:
            cnp.PyArray_CLEARFLAGS(array, cnp.NPY_ARRAY_WRITEABLE)
    finally:
        PyBuffer_Release(&view)
    return array if cnp.PyArray_ISBEHAVED_RO(array) else array.astype(dtype.newbyteorder("="))

# ---- numbers of any shape (docs/protocol.md section 8.13) ----------------------------------------

def numbers_in(data, Py_ssize_t at, cnp.dtype dtype not None, tuple shape not None):
    """An array of this dtype and shape, of big-endian numbers in these bytes; the caller has counted
    them."""
    cdef const uint8_t* p
    cdef Py_ssize_t size
    cdef cnp.ndarray array = np.empty(shape, dtype)
    cdef int parts = 2 if dtype.kind == c"c" else 1     # of a number
    _held = hold(data, &p, &size)
    if not 0 <= at <= size - cnp.PyArray_NBYTES(array):
        raise ValueError(f"{cnp.PyArray_NBYTES(array)} bytes of numbers, {size - at} are left")
    swap_in(<uint8_t*>cnp.PyArray_DATA(array), p + at, parts * cnp.PyArray_SIZE(array),
            cnp.PyArray_ITEMSIZE(array) // parts)
    return array

def bytes_of_numbers(bytes head not None, cnp.ndarray array not None):
    """The way back, behind these bytes."""
    cdef bytes out
    cdef uint8_t* p
    cdef int parts = 2 if array.descr.kind == c"c" else 1
    if not cnp.PyArray_ISCARRAY_RO(array):
        array = np.array(array, array.dtype.newbyteorder("="), order="C")
    out = PyBytes_FromStringAndSize(NULL, len(head) + cnp.PyArray_NBYTES(array))
    p = bytes_at(<PyObject*>out)
    memcpy(p, bytes_at(<PyObject*>head), len(head))
    swap_out(p + len(head), <uint8_t*>cnp.PyArray_DATA(array), parts * cnp.PyArray_SIZE(array),
             cnp.PyArray_ITEMSIZE(array) // parts)
    return out

# ---- polygon cells (docs/protocol.md section 8.16) -----------------------------------------------

def split_cells(const uint8_t[::1] data not None, int64_t count):
    """Offsets (count + 1, int64) and connectivity (uint32) of cells written as u32 n, n x u32."""
    cdef Py_ssize_t size = data.shape[0], at = 0, n = 0
    cdef const uint8_t* p = &data[0] if size else NULL
    cdef int64_t cell
    cdef uint32_t points
    if size % 4 or count < 0 or count > size // 4:
        raise ValueError(f"{count} cells do not fit {size} bytes")
    offsets = np.empty(count + 1, np.int64)
    connectivity = np.empty(size // 4 - count, np.uint32)
    cdef int64_t[::1] off = offsets
    cdef uint32_t[::1] con = connectivity
    off[0] = 0
    for cell in range(count):
        points = get32(p + at)
        at += 4
        if points > <uint64_t>(con.shape[0] - n):   # of all numbers, count are not indices
            raise ValueError(f"cell {cell} of {count} has {points} points: more than are left")
        for _ in range(points):
            con[n] = get32(p + at)
            n += 1
            at += 4
        off[cell + 1] = n
    if at != size:
        raise ValueError(f"{count} cells take {at} bytes, {size} are announced")
    return offsets, connectivity

def join_cells(const int64_t[::1] offsets not None, const uint32_t[::1] connectivity not None):
    """The way back."""
    cdef Py_ssize_t cells = offsets.shape[0] - 1, cell, k, n = connectivity.shape[0]
    cdef bytes out
    cdef uint8_t* p
    if cells < 0 or offsets[0] != 0 or offsets[cells] != n:
        raise ValueError("offsets must run from 0 to the length of connectivity")
    for cell in range(cells):
        if offsets[cell + 1] < offsets[cell]:
            raise ValueError("offsets must not decrease")
    out = PyBytes_FromStringAndSize(NULL, 4 * (cells + n))
    p = <uint8_t*>PyBytes_AsString(out)
    for cell in range(cells):
        put32(p, <uint32_t>(offsets[cell + 1] - offsets[cell]))
        p += 4
        for k in range(offsets[cell], offsets[cell + 1]):
            put32(p, connectivity[k])
            p += 4
    return out

def check_attributes(const uint8_t[::1] data, int64_t count):
    """ValueError unless these bytes hold so many attributes: heads, names, blocks of floats."""
    cdef Py_ssize_t size = data.shape[0], at, start
    cdef const uint8_t* p = &data[0] if size else NULL
    cdef const uint8_t* end
    cdef int64_t k
    if count < 0 or count > size // 6:
        raise ValueError(f"{count} attributes announced, {size} bytes are left")
    at = start = 6 * count
    for k in range(count):
        # names have at most 255 bytes: no need to search further
        end = <const uint8_t*>memchr(p + at, 0, min(size - at, 256))
        if end == NULL:
            raise ValueError(f"name {k} of {count} has no end")
        at = end - p + 1
    at += (at - start) % 2
    for k in range(count):
        start = at
        at += <Py_ssize_t>4 * p[6 * k + 1] * get32(p + 6 * k + 2)
        if p[6 * k + 1] == 0 or at > size:
            raise ValueError(f"attribute {k} of {count}: {get32(p + 6 * k + 2)} × {p[6 * k + 1]} floats, "
                             f"{max(0, size - start)} bytes are left")

# ---- C level: _core.pxd for Cython, a capsule for C (igtl_capi.h says what each function does) ----

cdef size_t length_of(const char* text, size_t limit) noexcept nogil:
    """Of a text that ends with NUL; limit + 1 when none stands in the first limit + 1 bytes."""
    cdef const char* end = <const char*>memchr(text, 0, limit + 1)
    return limit + 1 if end == NULL else end - text

cdef uint64_t crc64_of(const uint8_t* data, size_t size, uint64_t crc) noexcept nogil:
    return igtl_crc64(data, size, crc)

cdef int pack_header(uint8_t* wire, const igtl_capi_header* header) noexcept nogil:
    cdef uint8_t type12[12]
    cdef uint8_t name20[20]
    cdef size_t n = length_of(header.type_name, 12), m = length_of(header.device_name, 20)
    if n > 12 or m > 20:
        return IGTL_CAPI_NAME
    memset(type12, 0, 12)
    memcpy(type12, header.type_name, n)
    memset(name20, 0, 20)
    memcpy(name20, header.device_name, m)
    put_header(wire, header.version, type12, name20, header.timestamp, header.body_size, header.crc)
    return IGTL_CAPI_OK

cdef int unpack_header(const uint8_t* wire, size_t size, igtl_capi_header* header) noexcept nogil:
    if size < <size_t>HEADER:
        return IGTL_CAPI_SHORT
    header.version = get16(wire)
    memcpy(header.type_name, wire + 2, 12)
    header.type_name[12] = 0
    memcpy(header.device_name, wire + 14, 20)
    header.device_name[20] = 0
    header.timestamp = get64(wire + 34)
    header.body_size = get64(wire + 42)
    header.crc = get64(wire + 50)
    return IGTL_CAPI_OK

cdef int pack_transform(uint8_t* wire, const char* device_name, uint64_t timestamp,
                        const float* matrix) noexcept nogil:
    cdef igtl_capi_header header
    cdef size_t n = length_of(device_name, 20)
    if n > 20:
        return IGTL_CAPI_NAME
    matrix_out(wire + HEADER, matrix)
    header.version = 1
    memcpy(header.type_name, b"TRANSFORM", 10)
    memcpy(header.device_name, device_name, n + 1)
    header.timestamp = timestamp
    header.body_size = 48
    header.crc = igtl_crc64(wire + HEADER, 48, 0)
    return pack_header(wire, &header)

cdef int unpack_transform(const uint8_t* wire, size_t size, igtl_capi_header* header,
                          float* matrix) noexcept nogil:
    cdef igtl_capi_header own
    cdef igtl_capi_header* head = &own if header == NULL else header
    cdef const uint8_t* body = wire + HEADER
    cdef size_t ext = 0
    cdef uint64_t tail = 0
    if unpack_header(wire, size, head) != IGTL_CAPI_OK or head.body_size > size - HEADER:
        return IGTL_CAPI_SHORT
    if memcmp(head.type_name, b"TRANSFORM", 10):
        return IGTL_CAPI_TYPE
    if head.version > 2:
        return IGTL_CAPI_VERSION_UNKNOWN
    if igtl_crc64(body, head.body_size, 0) != head.crc:
        return IGTL_CAPI_CRC
    if head.version == 2:
        if head.body_size < <uint64_t>EXTENDED:
            return IGTL_CAPI_BODY
        ext = get16(body)
        tail = <uint64_t>get16(body + 2) + get32(body + 4)
        if ext < <size_t>EXTENDED or get16(body + 2) < 2:
            return IGTL_CAPI_BODY
    if ext + tail + 48 > head.body_size:
        return IGTL_CAPI_BODY
    matrix_in(matrix, body + ext)
    return IGTL_CAPI_OK

cdef igtl_capi _functions
_functions.version = IGTL_CAPI_VERSION
_functions.crc64 = crc64_of
_functions.pack_header = pack_header
_functions.unpack_header = unpack_header
_functions.pack_transform = pack_transform
_functions.unpack_transform = unpack_transform
_C_API = PyCapsule_New(&_functions, "igtl._core._C_API", NULL)
