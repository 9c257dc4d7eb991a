# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
# cython: embedsignature=True, embedsignature.format=clinic, auto_pickle=False, binding=False
# cython: freethreading_compatible=True
"""Batches: messages of one type, one behind the other, as columns; see igtl.codec.batch.

Rules. What lies in memory that others may write to is checked where it is read, and not read again: a
run is walked three times (count, shape, rows), each time with all checks.
"""

cimport cython
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
cimport numpy as cnp

from igtl._core cimport (
    ARRAY, COUNT, ELEMENTS, MATRIX, ZERO_ENDED, Op, Rows, crc64_of, frozen_rows, give_rows, hold, is_no_data,
    new_rows, plan_of, policy_of, take_rows, text_of, type_bytes, type_text, unpack_at, values_of,
)
from igtl._wire cimport HEADER, Content, content_of, get64, ns_of, put_header, raw_of

import numpy as np

from igtl.errors import EncodeError, ProtocolError

cnp.import_array()

cdef enum:
    NAMES = 32      # device names that are told apart without a look into a dict

# ---- reading ----------------------------------------------------------------------------------

cdef Py_ssize_t count_run(const uint8_t* p, Py_ssize_t left) except -1:
    """Number of messages in a run that ends where its last one does."""
    cdef const uint8_t* first = p
    cdef Py_ssize_t n = 0
    cdef uint64_t body
    while left:
        body = get64(p + 42) if left >= HEADER else 0
        if left < HEADER or body > <uint64_t>(left - HEADER):
            raise ProtocolError(f"message {n} is cut: {left} bytes are left")
        if memcmp(p + 2, first + 2, 12) and type_bytes(p) != type_bytes(first):
            raise ValueError(f"message {n} is {type_text(p)}, the first is {type_text(first)}")
        left -= HEADER + <Py_ssize_t>body
        p += HEADER + body
        n += 1
    if n == 0:
        raise ValueError("no messages")
    return n

@cython.final
cdef class _Names:
    """Numbers for device names, in the order in which they first came."""

    cdef dict ids
    cdef const uint8_t* seen[NAMES]
    cdef int32_t[NAMES] id_of

    def __cinit__(self):
        self.ids = {}
        memset(self.seen, 0, sizeof(self.seen))

    cdef int32_t id(self, const uint8_t* name) except -1:
        cdef int slot = <int>((get64(name) ^ get64(name + 8)) * 0x9E3779B97F4A7C15U >> 59)
        if self.seen[slot] == NULL or memcmp(self.seen[slot], name, 20):
            self.id_of[slot] = self.ids.setdefault(name[:20], len(self.ids))
            self.seen[slot] = name
        return self.id_of[slot]

cdef struct Run:
    const uint8_t* p
    const uint8_t* end
    Py_ssize_t n
    Rows fields             # of the messages
    Py_ssize_t exact        # content size that all must have, or -1
    Rows items              # of the elements of list messages
    int64_t* offsets        # NULL: no list messages
    int64_t* time_ns
    uint8_t* crc_ok         # NULL: not computed
    bint verify

cdef Py_ssize_t take_run(Run* run) noexcept nogil:
    """All rows of a run. -1, or the first message that is bad or has another shape, which is at
    run.p then."""
    cdef Py_ssize_t k, need = run.fields.stride
    cdef Content content
    for k in range(run.n):
        if not content_of(run.p, run.end, &content):
            return k
        run.time_ns[k] = ns_of(get64(run.p + 34))
        if run.crc_ok != NULL:
            run.crc_ok[k] = (
                crc64_of(run.p + HEADER, content.next - run.p - HEADER, 0) == get64(run.p + 50))
            if run.verify and not run.crc_ok[k]:
                return k
        if run.offsets != NULL:
            need = run.fields.stride + run.items.stride * (run.offsets[k + 1] - run.offsets[k])
        if content.size < need or run.exact >= 0 and content.size != run.exact:
            return k
        if not take_rows(&run.fields, k, 1, content.p):
            return k
        if run.offsets != NULL:
            take_rows(&run.items, run.offsets[k], run.offsets[k + 1] - run.offsets[k], content.p + run.fields.stride)
        run.p = content.next
    return -1

cdef cnp.ndarray new_array(Py_ssize_t n, int kind):
    cdef cnp.npy_intp shape = n
    return cnp.PyArray_EMPTY(1, &shape, kind, 0)

cdef cnp.ndarray new_column(layout, int i, Py_ssize_t rows, const Rows* fields):
    """A column of one field of many messages, not yet written."""
    cdef const Op* op = &fields.ops[i]
    if op.kind == MATRIX:
        return np.empty((rows, 4, 4), np.float32)
    if op.kind == ARRAY and layout.fields[i].per:
        return np.empty((rows, fields.count[i] // op.per, op.per), layout.columns[i])
    if op.kind == ARRAY:
        return np.empty((rows, fields.count[i]), layout.columns[i])
    return np.empty(rows, layout.columns[i])

cdef struct Memory:
    const uint8_t* p
    Py_ssize_t size

cdef int not_alike(object held, Memory run, const uint8_t* p, Py_ssize_t k, int policy) except -1:
    """Say what is wrong with message k at p: as unpack does, or that it is not like the first."""
    cdef Py_ssize_t left = run.size - (p - run.p)
    cdef uint64_t body = get64(p + 42) if left >= HEADER else 0
    try:
        unpack_at(held, p, HEADER + body if body + HEADER <= <uint64_t>left else left, policy)
    except ProtocolError as error:
        error.add_note(f"in message {k} of the run")
        raise
    raise ValueError(f"message {k} does not have the shape of the first: unpack it by itself")

cdef int fixed_fields(layout, list values, Py_ssize_t n, Rows* out) except -1:
    """Sizes of the fields in front of a text or a list of elements, as in n messages with these
    values. True (1): only the size of its content says how long a field is."""
    cdef int i, exact = 0
    cdef const Op* op
    layout.need_columns()
    out.ops = plan_of(layout, &out.n)
    out.stride = 0
    for i in range(out.n):
        op = &out.ops[i]
        if op.kind == ZERO_ENDED or op.kind == ELEMENTS:
            out.n = i
            break
        out.at[i] = NULL
        out.must[i] = layout.fields[i].default if op.constant else 0
        out.count[i] = 1
        if op.kind == ARRAY:
            out.count[i] = cnp.PyArray_SIZE(<cnp.ndarray?>values[i]) // n
            if op.counter >= 0:
                out.must[op.counter] = out.count[i] // op.per
            elif op.fixed < 0:
                exact = 1
        out.stride += 48 if op.kind == MATRIX else op.itemsize * out.count[i]
    return exact

def unpack_run(data, crc="verify"):
    """(class, time_ns, device names, device ids, CRC verdicts, offsets, columns by field); see
    igtl.batch.unpack."""
    cdef int policy = policy_of(crc), i
    cdef Memory memory
    cdef Run run
    cdef int n_fields
    cdef const Op* ops
    cdef cnp.ndarray array, time_ns, device_ids, crc_ok = None, offsets = None
    cdef _Names names = _Names()
    cdef Py_ssize_t k, bad, item_size = 0
    cdef Content content
    cdef const uint8_t* p
    cdef dict columns = {}
    cdef bint exact
    cdef object held = hold(data, &memory.p, &memory.size)
    p = run.p = memory.p
    run.end = p + memory.size
    run.n = count_run(p, memory.size)
    run.offsets = NULL
    run.crc_ok = NULL
    run.verify = policy == 0
    policy = 0 if policy == 0 else 2    # what is not to be raised need not be computed twice
    if not content_of(p, run.end, &content):
        not_alike(held, memory, p, 0, policy)
    first = unpack_at(held, p, content.next - p, policy)
    if is_no_data(first):
        raise ValueError("message 0 has no content")
    layout = type(first).__layout__
    ops = plan_of(layout, &n_fields)
    run.exact = content.size if fixed_fields(layout, values_of(first), 1, &run.fields) else -1
    for i in range(run.fields.n):
        if not ops[i].hidden:
            array = new_column(layout, i, run.n, &run.fields)
            run.fields.at[i] = <uint8_t*>cnp.PyArray_DATA(array)
            columns[layout.names[i]] = array
    time_ns = new_array(run.n, cnp.NPY_INT64)
    run.time_ns = <int64_t*>cnp.PyArray_DATA(time_ns)
    if crc != "off":
        crc_ok = new_array(run.n, cnp.NPY_BOOL)
        run.crc_ok = <uint8_t*>cnp.PyArray_DATA(crc_ok)
    last = layout.names[run.fields.n] if run.fields.n < n_fields else None      # a text, or elements
    if last is not None and ops[run.fields.n].kind == ELEMENTS:
        item_size = layout.items[run.fields.n].__layout__.minimum
        offsets = new_array(run.n + 1, cnp.NPY_INT64)
        run.offsets = <int64_t*>cnp.PyArray_DATA(offsets)
        run.offsets[0] = 0
    device_ids = new_array(run.n, cnp.NPY_INT32)
    for k in range(run.n):
        if not content_of(p, run.end, &content) or content.size < run.fields.stride:
            not_alike(held, memory, p, k, policy)
        (<int32_t*>cnp.PyArray_DATA(device_ids))[k] = names.id(p + 14)
        if item_size:
            content.size -= run.fields.stride
            run.offsets[k + 1] = run.offsets[k] + content.size // item_size
        p = content.next
    if item_size:
        columns[last] = new_rows(layout.items[run.fields.n], run.offsets[run.n], &run.items)
    with nogil:
        bad = take_run(&run)
    if bad >= 0:
        not_alike(held, memory, run.p, bad, policy)
    p = memory.p
    if last is not None and not item_size:
        columns[last] = texts = []
        for _ in range(run.n):
            if not content_of(p, run.end, &content) or content.size < run.fields.stride:
                not_alike(held, memory, p, len(texts), policy)
            texts.append(text_of(content.p + run.fields.stride, content.size - run.fields.stride, &exact))
            p = content.next
    shown = tuple([text_of(name, 20, &exact) for name in names.ids])
    return type(first), time_ns, shown, device_ids, crc_ok, offsets, columns

# ---- writing ----------------------------------------------------------------------------------

cdef struct Giving:
    Rows fields
    Rows items
    const int64_t* offsets      # of elements or bytes of text; NULL: neither
    const uint8_t* text         # NULL: elements
    const int64_t* time_ns
    const int32_t* device_ids
    const uint8_t* names        # 20 bytes each
    const uint8_t* type12
    bint with_crc

cdef int give_run(const Giving* run, uint8_t* p, Py_ssize_t n) noexcept nogil:
    """Write n messages; -1, or the field that cannot be sent (of the elements, if there are any)."""
    cdef Py_ssize_t k, size
    cdef int bad = -1, found
    cdef uint8_t* row
    for k in range(n):
        found = give_rows(&run.fields, k, 1, p + HEADER)
        row = p + HEADER + run.fields.stride
        if run.text != NULL:
            size = run.offsets[k + 1] - run.offsets[k]
            memcpy(row, run.text + run.offsets[k], size)
            row += size
        elif run.offsets != NULL:
            size = run.offsets[k + 1] - run.offsets[k]
            found = max(found, give_rows(&run.items, run.offsets[k], size, row))
            row += run.items.stride * size
        bad = max(bad, found)
        size = row - p - HEADER
        put_header(p, 1, run.type12, run.names + 20 * run.device_ids[k], raw_of(run.time_ns[k]), size,
                   crc64_of(p + HEADER, size, 0) if run.with_crc else 0)
        p = row
    return bad

def pack_run(cls, time_ns, bytes names not None, device_ids, dict columns not None, offsets=None, bint crc=True):
    """The way back. names: 20 bytes each. A text column comes joined, split by `offsets`. What says
    where something lies is copied, and the columns are held: others may go on editing all of it."""
    cdef int64_t[::1] times = np.array(time_ns, np.int64), ends
    cdef int32_t[::1] ids = np.array(device_ids, np.int32)
    cdef Py_ssize_t n = times.shape[0], k, total, size
    cdef int n_fields
    cdef const Op* op
    cdef const Op* ops
    cdef Giving run
    cdef cnp.ndarray array
    cdef bytes out, text, wire_type
    cdef uint8_t* p
    cdef int i, bad
    if n == 0:
        return b""
    layout = faulty = cls.__layout__
    ops = plan_of(layout, &n_fields)
    columns = columns.copy()
    if fixed_fields(layout, [columns.get(name) for name in layout.names], n, &run.fields):
        array = <cnp.ndarray?>columns[layout.names[run.fields.n - 1]]
        if cnp.PyArray_NDIM(array) != 2 or cnp.PyArray_DIM(array, 1) not in layout.fields[run.fields.n - 1].count:
            raise EncodeError(layout.owner, layout.names[run.fields.n - 1],
                              f"shape {(<object>array).shape}: numbers in a row must be one of "
                              f"{layout.fields[run.fields.n - 1].count}")
    total = n * (HEADER + run.fields.stride)
    for i in range(run.fields.n):
        op = &ops[i]
        if op.kind == COUNT and run.fields.must[i] >> (8 * op.itemsize):
            raise EncodeError(layout.owner, layout.names[op.target],
                              f"{run.fields.must[i]} elements do not fit the wire")
        if op.hidden:
            continue
        array = <cnp.ndarray?>columns[layout.names[i]]
        if op.kind == ARRAY and 0 <= op.fixed != run.fields.count[i] // op.per:
            raise EncodeError(layout.owner, layout.names[i],
                              f"{run.fields.count[i]} numbers, must be {op.fixed}")
        k = n * (64 if op.kind == MATRIX else op.itemsize * run.fields.count[i])
        if array.dtype != layout.columns[i] or not cnp.PyArray_IS_C_CONTIGUOUS(array) or cnp.PyArray_NBYTES(array) != k:
            raise EncodeError(layout.owner, layout.names[i], f"must be contiguous {layout.columns[i]}, {n} rows")
        run.fields.at[i] = <uint8_t*>cnp.PyArray_DATA(array)
    run.offsets = NULL
    run.text = NULL
    if run.fields.n < n_fields:
        ends = np.array(() if offsets is None else offsets, np.int64)
        if ends.shape[0] != n + 1 or ends[0]:
            raise ValueError(f"offsets must be {n + 1} numbers, the first of them 0")
        for k in range(n):
            if ends[k + 1] < ends[k]:
                raise ValueError("offsets must not decrease")
        run.offsets = &ends[0]
        if ops[run.fields.n].kind == ELEMENTS:
            elements = frozen_rows(columns[layout.names[run.fields.n]], &size, &run.items)
            faulty = type(elements).__layout__
            k = elements.rows
            total += size
        else:
            text = <bytes?>columns[layout.names[run.fields.n]]
            run.text = <const uint8_t*>PyBytes_AsString(text)
            total += len(text)
            k = len(text)
        if ends[n] != k:
            raise ValueError(f"offsets end at {ends[n]}, there are {k}")
    if ids.shape[0] != n:
        raise ValueError(f"{ids.shape[0]} device ids for {n} messages")
    for k in range(n):
        if not 0 <= ids[k] < len(names) // 20:
            raise ValueError(f"there is no device {ids[k]}")
        if not 0 <= times[k] < (<int64_t>1 << 32) * 1000000000:
            raise EncodeError(layout.owner, "time_ns", f"{times[k]} ns is outside the years 1970 to 2106")
    run.time_ns = &times[0]
    run.device_ids = &ids[0]
    run.names = <const uint8_t*>PyBytes_AsString(names)
    wire_type = layout.wire_type
    run.type12 = <const uint8_t*>PyBytes_AsString(wire_type)
    run.with_crc = crc
    out = PyBytes_FromStringAndSize(NULL, total)
    p = <uint8_t*>PyBytes_AsString(out)
    with nogil:
        bad = give_run(&run, p, n)
    if bad >= 0:
        raise EncodeError(faulty.owner, faulty.names[bad], "the fourth row must be 0 0 0 1")
    return out
