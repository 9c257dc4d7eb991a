# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True, nonecheck=True
# cython: embedsignature=True, embedsignature.format=clinic, auto_pickle=False, binding=False
# cython: freethreading_compatible=True
"""A stream of messages without I/O: what was counted, how it is cut into frames, both directions.

Layout of this file: the system (clock, sockets) · Stats (counters) · Decoder (framing) · Stream (under
`igtl.Protocol`) · Flow (under the session of a connection) · Line (under `igtl.Link`), and the Lock of it ·
Waiter (of tasks that receive) · Passage (under a connection in asyncio) and Audience (of a server) · Outlet and
Inlet (under the senders and receivers of datagrams). Messages and frames are those of _core.pyx, whose functions do
all that looks into them. Line and Passage move the bytes of a plain socket themselves, and all others by the transport
that they are given; datagrams pass by the functions of _sockets.h.

Rules. An object of these has one owner; only counters and passages take calls from several threads, and
lock for it.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.errno cimport EAGAIN, EBADF, EINTR
from libc.limits cimport INT_MAX
from libc.math cimport INFINITY, ceil, fmax, fmin
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from igtl._core cimport (
    Packing, Whole, frame_bytes, hold, is_frame, is_registered, needs_v2, new_block, new_frame, new_of, packed,
    packing, policy_of, received, run_crc, stream_key, text_of, whole_of,
)
from igtl._wire cimport (
    EXTENDED, HEADER, MAX_BLOCK, begins_message, can_be_header, get16, get32, get64, is_header, is_tls_record,
    next_header, same_header, stream_name, text_size,
)

cdef extern from "pythread.h" nogil:
    ctypedef void* PyThread_type_lock
    ctypedef enum PyLockStatus:
        PY_LOCK_FAILURE
        PY_LOCK_ACQUIRED
        PY_LOCK_INTR
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock)
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock, long long microseconds, int intr_flag)
    void PyThread_release_lock(PyThread_type_lock)

cdef extern from "_sockets.h" nogil:
    Py_ssize_t igtl_recv(int fd, void* to, size_t room)
    Py_ssize_t igtl_recv_now(int fd, void* to, size_t room)
    Py_ssize_t igtl_send(int fd, const void* p, size_t n)
    Py_ssize_t igtl_send_now(int fd, const void* p, size_t n)
    int igtl_poll(int fd, int milliseconds)
    bint igtl_monotonic(double* seconds)
    unsigned long igtl_slack(unsigned long nanoseconds)

import operator
import os
from collections import Counter, deque
from os import strerror
from time import monotonic

from igtl.errors import ConnectionClosed, EncodeError, MessageTooLarge, ProtocolError, VersionError
from igtl.options import LONGEST as _LONGEST, seconds

cdef enum:
    BLOCK_FROM = 32 * 1024      # frames of this size are received into memory of their own
    SMALL = 64 * 1024           # bytes of the buffer that the others pass through, at first
    LARGE_FROM = 4 << 20        # a buffer of this size is given back
    MAX_TRIES = 8               # headers tried, one after the other, where framing was lost
    READ_AHEAD = 256 * 1024     # bytes that may lie undecoded before a driver stops reading
    MAX_STREAMS = 4096          # a peer that invents names shall not fill the memory
    NOGIL_FROM = 5 * 1024       # below this, giving up the GIL for a send that never waits costs more than it brings
    FEW = 32                    # peers to whom a broadcast leaves with the GIL held
    NOT_NOW = -2                # instead of a number of bytes
    LOOK = -1                   # instead of seconds to wait
    PACK_ROOM = 16 * 1024       # messages of at most this size are packed into memory that a link keeps

cdef bytes OTHERS = b"*".ljust(12, b"\0") + b"*".ljust(20, b"\0")

# ---- the system -------------------------------------------------------------------------------

cdef double seconds_now() except? -1:
    """As `time.monotonic`, to the last bit."""
    cdef double now
    return now if igtl_monotonic(&now) else <double>monotonic()

def on_time(sleep, double wait):
    """Call `sleep` with these seconds; the system wakes this thread when they are over. By itself Linux takes up to
    50 us more, to wake several threads at once. Elsewhere nothing is changed."""
    cdef unsigned long slack = igtl_slack(1)
    try:
        sleep(wait)
    finally:
        if slack:
            igtl_slack(slack)

# A socket is given as the function that tells its descriptor, and asked for it before each call of the
# system: the number of a socket that another thread, or the handler of a signal, has closed meanwhile may be
# that of another file by then.

cdef int number_of(descriptor) except -1:
    cdef int fd = descriptor()
    if fd < 0:      # poll would wait for nothing
        raise OSError(EBADF, "the socket was closed")
    return fd

cdef int interrupted(int error) except -1:
    """A call of the system has failed. Returns if a signal has ended it, whose handler has run."""
    if error != EINTR:
        raise OSError(error, strerror(error))
    PyErr_CheckSignals()

# What a call can do without waiting is done with the GIL held, if it is little: a thread that gives it up
# beside one that computes gets it back after the 5 ms that the interpreter lets that one run.

cdef Py_ssize_t receive_now(descriptor, uint8_t* p, Py_ssize_t room) except -1:
    """Take the bytes of a stream socket that are there; 0 at its end. NOT_NOW: there are none, or room for so
    many that others shall run meanwhile."""
    cdef Py_ssize_t n
    if room > SMALL:
        return NOT_NOW
    n = igtl_recv_now(number_of(descriptor), p, room)
    if n < 0 and n != -EAGAIN:
        interrupted(<int>-n)
    return n if n >= 0 else NOT_NOW

cdef Py_ssize_t receive_from(descriptor, uint8_t* p, Py_ssize_t room, timeout) except -1:
    """Wait for bytes of a stream socket, and take what is there; 0 at its end. NOT_NOW: none came within
    these seconds."""
    cdef Py_ssize_t n
    cdef int fd
    if timeout is not None and not can_be_read(descriptor, timeout):
        return NOT_NOW
    while True:
        fd = number_of(descriptor)
        with nogil:
            n = igtl_recv(fd, p, room)
        if n >= 0:
            return n
        interrupted(<int>-n)

cdef bint can_be_read(descriptor, double timeout) except -1:
    """Wait for bytes of a socket, or its end; False: nothing came within these seconds."""
    cdef double end = seconds_now() + timeout
    cdef int fd, n
    while True:
        fd = number_of(descriptor)
        with nogil:
            n = igtl_poll(fd, <int>fmin(ceil(1000 * fmax(timeout, 0)), INT_MAX))
        if n > 0:
            return True
        if n < 0:
            interrupted(-n)
        timeout = end - seconds_now()
        if n == 0 and timeout <= 0:
            return False

cdef int send_to(descriptor, const uint8_t* p, Py_ssize_t n) except -1:
    """Return when the system has taken all of these bytes for a stream socket."""
    cdef Py_ssize_t taken
    cdef int fd
    cdef bint brief = n < NOGIL_FROM
    while n:
        fd = number_of(descriptor)
        if brief:
            brief = False
            taken = igtl_send_now(fd, p, n)
            if taken == -EAGAIN:
                continue
        else:
            with nogil:
                taken = igtl_send(fd, p, n)
        if taken < 0:
            interrupted(<int>-taken)
            continue
        p += taken
        n -= taken
        if n:       # a signal may have cut it short
            PyErr_CheckSignals()

cdef bint is_own(obj, str name, cls) except -1:
    """Whether a method of this object is that of the compiled class: a subclass may have its own."""
    return getattr(obj, name) == getattr(cls, name).__get__(obj)

# ---- counters ---------------------------------------------------------------------------------

@cython.final
cdef class StreamStats:
    """Counters of one (type, device name) of a connection; see Stats."""

    cdef readonly str type_name
    cdef readonly str device_name
    cdef readonly uint64_t received, received_bytes, sent, sent_bytes
    cdef readonly dict lost
    cdef double last, interval, spread
    cdef bytes key                  # see stream_key

    def __init__(self, str type_name, str device_name):
        self.type_name = type_name
        self.device_name = device_name
        self.lost = {}
        self.key = b""

    cdef void arrived(self, uint64_t size, double now) noexcept:
        cdef double gap = now - self.last
        self.received += 1
        self.received_bytes += size
        if self.received == 2:
            self.interval = gap
        elif self.received > 2:     # means of the last 32 or so
            self.interval += (gap - self.interval) / min(self.received - 1, <uint64_t>32)
            self.spread += (abs(gap - self.interval) - self.spread) / min(self.received - 2, <uint64_t>32)
        self.last = now

    @property
    def crc_errors(self):
        return self.lost.get("CRCError", 0)

    @property
    def age(self):
        return seconds_now() - self.last if self.received else None

    @property
    def rate(self):
        return 1 / self.interval if self.interval > 0 else 0.0

    @property
    def jitter(self):
        return self.spread

    def __repr__(self):
        lost = f", lost {self.lost}" if self.lost else ""
        return f"<{self.type_name} {self.device_name!r}: received {self.received}, sent {self.sent}{lost}>"

@cython.final
cdef class Stats:
    """What passed through a connection, what was lost, and why. Kept per (type, device name), of
    which a peer can have MAX_STREAMS; more are counted together, under ("*", "*")."""

    cdef readonly uint64_t received, received_bytes, sent, sent_bytes
    cdef readonly object errors
    cdef readonly object dropped
    cdef dict by_name           # type and device name, 32 bytes as in the header
    cdef StreamStats last       # the one counted last: most often the next one too

    def __cinit__(self):
        self.errors = Counter()
        self.dropped = Counter()
        self.by_name = {}

    cdef StreamStats stream_at(self, const uint8_t* type12, const uint8_t* name, Py_ssize_t n):
        cdef bint exact
        cdef bytes key
        cdef StreamStats stream = self.last
        cdef const uint8_t* p
        if stream is not None and len(stream.key) == 12 + n:
            p = <const uint8_t*>PyBytes_AsString(stream.key)
            if memcmp(p, type12, 12) == 0 and memcmp(p + 12, name, n) == 0:
                return stream
        key = type12[:12] + name[:n]
        found = self.by_name.get(key)
        if found is None:
            if len(self.by_name) >= MAX_STREAMS:
                key = OTHERS
                found = self.by_name.get(key)
            if found is None:
                p = <const uint8_t*>PyBytes_AsString(key)
                found = StreamStats(text_of(p, 12, &exact), text_of(p + 12, len(key) - 12, &exact))
                (<StreamStats>found).key = key
                self.by_name[key] = found
        self.last = found
        return self.last

    cdef StreamStats stream(self, what):
        cdef bytes wire
        cdef const uint8_t* p
        head = what[0] if type(what) is list else what
        if type(head) is bytes and len(<bytes>head) >= HEADER:
            wire = head
            p = <const uint8_t*>PyBytes_AsString(wire)
            if p[14 + 16] == 0 or get16(p) != 2:
                return self.stream_at(p + 2, p + 14, 20)
        wire = stream_key(what)
        p = <const uint8_t*>PyBytes_AsString(wire)
        return self.stream_at(p, p + 12, len(wire) - 12)

    cdef void arrived(self, const uint8_t* p, Py_ssize_t size, double now) except *:
        cdef const uint8_t* name
        cdef Py_ssize_t n = stream_name(p, size, p + size, size, &name)
        with cython.critical_section(self):
            self.received += 1
            self.received_bytes += size
            self.stream_at(p + 2, name, n).arrived(size, now)

    def count_received(self, frame, double now):
        """A whole message arrived: a Frame, or its bytes."""
        cdef const uint8_t* p
        cdef Py_ssize_t size
        if is_frame(frame):
            p = frame_bytes(frame, &size)
        else:
            _held = hold(frame, &p, &size)
            if size < HEADER:
                raise ValueError("no message header")
        self.arrived(p, size, now)

    cpdef count_sent(self, what, uint64_t size, int times=1):
        """A message was handed on: itself, packed, or in parts."""
        cdef StreamStats stream
        with cython.critical_section(self):
            stream = self.stream(what)
            self.sent += times
            self.sent_bytes += times * size
            stream.sent += times
            stream.sent_bytes += times * size

    cdef int left(self, const uint8_t* p, Py_ssize_t size) except -1:
        """As count_sent, of a whole message."""
        cdef const uint8_t* name
        cdef Py_ssize_t n = stream_name(p, size, p + size, size, &name)
        cdef StreamStats stream
        with cython.critical_section(self):
            stream = self.stream_at(p + 2, name, n)
            self.sent += 1
            self.sent_bytes += size
            stream.sent += 1
            stream.sent_bytes += size

    def count_dropped(self, what, str cause, int times=1):
        """A message was given up, for this reason: itself, or as it is packed."""
        cdef StreamStats stream
        with cython.critical_section(self):
            stream = self.stream(what)
            self.dropped[cause] += times
            stream.lost[cause] = stream.lost.get(cause, 0) + times

    def count_error(self, str cause, frame=None):
        """A message could not be used, for this reason."""
        cdef StreamStats stream
        cdef Py_ssize_t size
        if frame is not None:
            frame_bytes(frame, &size)   # TypeError: it is none
        with cython.critical_section(self):
            self.errors[cause] += 1
            if frame is None:           # its header was no good
                self.received += 1
            else:
                stream = self.stream(frame)
                stream.lost[cause] = stream.lost.get(cause, 0) + 1

    @property
    def lost(self):
        return sum(self.errors.values()) + sum(self.dropped.values())

    @property
    def streams(self):
        return {(s.type_name, s.device_name): s for s in self.by_name.values()}

    def __repr__(self):
        errors = f", errors={dict(self.errors)}" if self.errors else ""
        dropped = f", dropped={dict(self.dropped)}" if self.dropped else ""
        return f"<received {self.received}, sent {self.sent}{errors}{dropped}>"

    def _repr_html_(self):
        from igtl import notebook  # for notebooks only

        return notebook.streams(repr(self), self)

cdef class Decoder:
    """Cuts a byte stream into frames; owns whatever has arrived in part.

    Small frames pass through one buffer; a large one is received into memory of its own.
    """

    cdef readonly uint64_t max_size
    cdef public Stats stats             # counts what arrives
    cdef public uint64_t last_size      # of the last frame
    cdef readonly int peer_version      # highest header version so far
    cdef double cut_at                  # time of the last frame, if stats are kept
    cdef object view                    # memoryview of the buffer that small frames pass through
    cdef uint8_t* buffer                # its memory
    cdef Py_ssize_t size
    cdef Py_ssize_t start, end          # of the bytes in it not yet consumed
    cdef object large                   # Block of the frame being received into its own memory
    cdef uint8_t* frame                 # there
    cdef Py_ssize_t frame_size
    cdef Py_ssize_t filled
    cdef Py_ssize_t summed              # of it, in the CRC so far; 0: not wanted
    cdef uint64_t sum
    cdef uint64_t skipping              # body bytes of an unusable header still to drop
    cdef object failed
    cdef readonly bint resync
    cdef bint searching                 # for a header; counted already
    cdef int tries                      # headers found since the last right message
    cdef bytes before                   # last bytes of a wrong message: a header may begin in them

    def __init__(self, max_size=1 << 30, Stats stats=None, bint resync=False):
        if not HEADER <= operator.index(max_size) <= MAX_BLOCK:
            raise ValueError(f"max_size must be {HEADER} to {MAX_BLOCK} bytes, not {max_size}")
        self.max_size = max_size
        self.stats = stats
        self.start = self.end = 0
        self.large = None
        self.skipping = 0
        self.failed = None
        self.resync = resync
        self.searching = False
        self.tries = 0
        self.before = None
        self.use(SMALL)

    cdef int no_buffer(self) except -1:
        raise TypeError(f"{type(self).__name__}.__init__ did not call super().__init__")

    cdef int use(self, Py_ssize_t size) except -1:
        """A new buffer of this size."""
        cdef uint8_t* p
        block = new_block(size, 0, &p)
        self.view = memoryview(block)
        self.buffer = p
        self.size = size

    cdef int found(self, const uint8_t* p, Py_ssize_t size, bint summed, uint64_t sum, Whole* whole) except -1:
        """These bytes are the next message."""
        cdef int version = get16(p)
        whole.p = p
        whole.size = size
        whole.summed = summed
        whole.sum = sum
        self.last_size = size
        if version > self.peer_version:
            self.peer_version = version
        if self.stats is not None:
            self.cut_at = seconds_now()
            self.stats.arrived(p, size, self.cut_at)

    @property
    def at_boundary(self):
        """Whether everything received so far was whole messages."""
        return self.is_whole()

    cdef bint is_whole(self) noexcept:
        return self.start == self.end and self.large is None and not self.skipping

    @property
    def waiting(self):
        """Bytes received behind the message that is arriving: a reader that has more than it can
        use stops reading."""
        return self.behind()

    cdef Py_ssize_t behind(self) noexcept:
        if self.large is None or self.filled < self.frame_size:
            return self.end - self.start
        return self.end - self.start + self.frame_size

    def feed(self, data):
        """Take received bytes (copied)."""
        cdef const uint8_t* p
        cdef Py_ssize_t size
        if type(data) is bytes:
            self.take_in(<const uint8_t*>PyBytes_AsString(data), len(<bytes>data))
        else:
            _held = hold(data, &p, &size)
            self.take_in(p, size)

    cdef int take_in(self, const uint8_t* p, Py_ssize_t n) except -1:
        cdef Py_ssize_t k
        if self.large is not None:
            k = min(n, self.frame_size - self.filled)
            memcpy(self.frame + self.filled, p, k)
            self.grow(k)
            p += k
            n -= k
        self.reserve(n)
        memcpy(self.buffer + self.end, p, n)
        self.end += n

    cdef void grow(self, Py_ssize_t n) noexcept:
        """n more bytes of the large frame are there: they are in the cache, so now is the time for
        their CRC."""
        self.filled += n
        if 0 < self.summed < self.filled:
            self.sum = run_crc(self.frame + self.summed, self.filled - self.summed, self.sum)
            self.summed = self.filled

    cdef int reserve(self, Py_ssize_t n) except -1:
        """Room for n more bytes behind the unconsumed ones."""
        cdef Py_ssize_t pending = self.end - self.start
        if self.view is None:
            self.no_buffer()
        if self.start == self.end:
            self.start = self.end = 0
            if self.resync and self.size >= LARGE_FROM > n:     # a large message was put back
                self.use(SMALL)
        if self.size - self.end >= n:
            return 0
        if pending + n <= self.size // 2:
            memcpy(self.buffer, self.buffer + self.start, pending)
        else:
            return self.replace(self.buffer, 0, n)
        self.start = 0
        self.end = pending

    cdef int replace(self, const uint8_t* p, Py_ssize_t n, Py_ssize_t room) except -1:
        """A new buffer: n bytes at p, those not yet consumed, and room for more."""
        cdef Py_ssize_t pending = self.end - self.start
        cdef uint8_t* old = self.buffer + self.start
        _kept = self.view       # its memory
        self.use(max(SMALL, 2 * (n + pending + room)))
        memcpy(self.buffer, p, n)
        memcpy(self.buffer + n, old, pending)
        self.start = 0
        self.end = n + pending

    def get_buffer(self):
        """Writable memory for the next bytes; tell `received` how many came."""
        return self.room()

    cdef object room(self):
        if self.large is not None and self.filled < self.frame_size:
            return memoryview(self.large)[self.filled:]
        self.reserve(16 * 1024)
        return self.view[self.end:] if self.end else self.view

    cdef object space(self, uint8_t** p, Py_ssize_t* size):
        """As room, without an object for it. Returns what keeps the memory."""
        if self.large is not None and self.filled < self.frame_size:
            p[0] = self.frame + self.filled
            size[0] = self.frame_size - self.filled
            return self.large
        self.reserve(16 * 1024)
        p[0] = self.buffer + self.end
        size[0] = self.size - self.end
        return self.view

    def received(self, Py_ssize_t n):
        """n bytes were written to the start of what get_buffer returned."""
        self.came(n)

    cdef int came(self, Py_ssize_t n) except -1:
        if self.view is None:
            self.no_buffer()
        if n < 0:
            raise ValueError("received a negative number of bytes")
        if self.large is not None and self.filled < self.frame_size:
            if n > self.frame_size - self.filled:
                raise ValueError("more bytes than the buffer holds")
            self.grow(n)
        else:
            if n > self.size - self.end:
                raise ValueError("more bytes than the buffer holds")
            self.end += n

    def next_frame(self):
        """The next whole frame, or None.

        Raises:
            MessageTooLarge: a header announces more than max_size; so does every later call.
            VersionError: a header version that does not exist; its body will be skipped.
        """
        cdef Whole whole
        data = self.cut(False, &whole)
        return None if data is None else new_frame(data, &whole)

    cdef bint is_empty(self) noexcept:
        """Whether `cut` has nothing to say, and nothing to look at."""
        return self.start == self.end and self.large is None and self.failed is None and self.view is not None

    cdef object cut(self, bint sum, Whole* whole):
        """As next_frame; returns what keeps the memory. sum: the caller will want the CRC of its body."""
        cdef Py_ssize_t total, have
        cdef uint64_t body, dropped, actual = 0
        cdef uint8_t* p
        cdef bytes data
        if self.failed is not None:
            raise self.failed
        if self.view is None:
            self.no_buffer()
        if self.resync:
            sum = True
        if self.large is not None:
            if self.filled < self.frame_size:
                return None
            if self.resync and self.lost_step(self.frame, self.frame_size, self.sum):
                return self.cut(sum, whole)
            large = self.large
            self.large = None
            self.found(self.frame, self.frame_size, self.summed > 0, self.sum, whole)
            return large
        if self.skipping:
            dropped = min(self.skipping, <uint64_t>(self.end - self.start))
            self.skipping -= dropped
            self.start += dropped
            if self.skipping:
                return None
        if self.resync and not self.at_header():
            return None
        have = self.end - self.start
        p = self.buffer + self.start
        if self.peer_version == 0 and have >= 5 and is_tls_record(p):
            self.failed = MessageTooLarge(5 + get16(p + 3), self.max_size, "the peer speaks TLS, and this end does not")
            raise self.failed
        if have < HEADER:
            return None
        body = get64(p + 42)
        if body > self.max_size - HEADER:
            self.failed = MessageTooLarge(HEADER + <object>body, self.max_size)
            raise self.failed
        if get16(p) > 2:
            self.start += HEADER
            self.skipping = body
            raise VersionError(get16(p))
        total = HEADER + <Py_ssize_t>body
        if have >= total and total < BLOCK_FROM:
            if self.resync:
                actual = run_crc(p + HEADER, body, 0)
                if self.lost_step(p, total, actual):
                    return self.cut(sum, whole)
            data = PyBytes_FromStringAndSize(<const char*>p, total)
            self.start += total
            self.found(<const uint8_t*>PyBytes_AsString(data), total, self.resync, actual, whole)
            return data
        if total < BLOCK_FROM:
            return None
        self.large = new_block(total, HEADER + 72 + (EXTENDED if get16(p) == 2 else 0), &self.frame)
        self.frame_size = total
        self.filled = 0
        self.summed = HEADER if sum else 0
        self.sum = 0
        memcpy(self.frame, p, min(have, total))
        self.grow(min(have, total))
        self.start += self.filled
        return self.cut(sum, whole)

    cdef int at_header(self) except -1:
        """Make what can be a header stand at the start. False: more bytes must come."""
        cdef const uint8_t* p
        cdef Py_ssize_t have, k, room
        while True:
            have = self.end - self.start
            if have < HEADER:
                return False
            p = self.buffer + self.start
            if (is_header if self.searching else can_be_header)(p, self.max_size):
                self.before = None
                if get64(p + 42) and get64(p + 42) + HEADER <= <uint64_t>have:
                    return True     # its CRC will tell
                if get64(p + 42) and have < HEADER + 13:
                    return False
                for k in range(1, min(HEADER, have - 13)):  # it was cut itself, and begins again
                    if begins_message(p + k) and (memcmp(p + k + 2, p + 2, text_size(p + 2, 12)) == 0
                                                  or is_registered(p + k)):
                        break
                else:
                    return True
                self.count_resync(NULL)
                self.start += k
                continue
            if not self.searching:
                self.count_resync(NULL)
                self.searching = True
            if self.before is not None:
                room = len(self.before)
                self.replace(<const uint8_t*>PyBytes_AsString(self.before), room, 0)
                self.before = None
                p = self.buffer + self.start
                have += room
                if is_header(p, self.max_size):
                    continue
            k = next_header(p, have, self.max_size)
            self.start = self.start + k if k >= 0 else self.end - HEADER + 1
            if k < 0:
                return False

    cdef bint lost_step(self, const uint8_t* p, Py_ssize_t size, uint64_t actual) except -1:
        """Whether the message of this size at p, which is whole, has a wrong CRC and another message
        begins in it: then that stands at the start, and p is no longer valid."""
        cdef Py_ssize_t here = size if self.large is not None else self.end - self.start, k, n
        if actual == get64(p + 50):
            self.searching = False
            self.tries = 0
            return False
        k = -1
        if self.tries < MAX_TRIES:
            here = min(here, size + HEADER - 1)
            with nogil:
                if is_header(p, self.max_size):
                    k = same_header(p, here)
                if k < 0 and get64(p + 50):     # 0: perhaps its sender computes none
                    k = next_header(p, here, self.max_size)
        if not 0 < k < size:
            n = min(size, HEADER - 1)
            self.before = (p + size - n)[:n]
            return False
        self.tries += 1
        self.count_resync(p if k >= HEADER else NULL)
        if self.large is None:
            self.start += k
        else:
            self.replace(p + k, size - k, 0)
            self.large = None
        return True

    cdef int count_resync(self, const uint8_t* p) except -1:
        """p: header of the message that is given up, if it is known."""
        if self.stats is None:
            return 0
        if p == NULL:
            self.stats.dropped["resync"] += 1
        else:
            self.stats.count_dropped(p[:HEADER], "resync")
        return 0

cdef class Stream(Decoder):
    """The part of `igtl.Protocol` that every message passes: both directions, without I/O."""

    cdef public object peer
    cdef public bint peer_takes
    cdef readonly bint cut_names
    cdef int policy             # of the CRC
    cdef readonly int fixed     # header version written; 0: the peer's

    def __init__(self, max_size, Stats stats not None, crc, int fixed, bint cut_names, peer, bint resync=False):
        Decoder.__init__(self, max_size, stats, resync)
        self.policy = policy_of(crc)
        self.fixed = fixed
        self.cut_names = cut_names
        self.peer = peer

    def receive_data(self, data):
        """Take bytes that arrived; they are copied."""
        self.feed(data)

    def next_message(self):
        """The next message, or None while there is no whole one."""
        return self.following()

    cdef object following(self):
        cdef Whole whole
        cdef bint bad_crc = False
        while True:
            try:
                data = self.cut(self.policy < 2, &whole)
                if data is None:
                    return None
                message = self.decode(data, &whole, &bad_crc)
            except ProtocolError as error:
                self._failed(error)     # raises it again, unless bad messages are skipped
            else:
                if bad_crc:
                    self._warn(message)
                return message

    cdef object decode(self, data, const Whole* whole, bint* bad_crc):
        try:
            message = received(data, whole, self.policy, self.peer, self.cut_at, bad_crc)
        except ProtocolError as error:
            self.stats.count_error(type(error).__name__, new_frame(data, whole))
            raise
        if bad_crc[0]:
            self.stats.count_error("CRCError", new_frame(data, whole))
        return message

    def decoded(self, frame not None):
        """The message in a frame of this stream, as `next_message` gives it."""
        cdef Whole whole
        cdef bint bad_crc
        data = whole_of(frame, &whole)
        return self.decode(data, &whole, &bad_crc)

    @property
    def version(self):
        """Header version of what is sent now."""
        return self.current()

    cdef int current(self) noexcept:
        return self.fixed or (2 if self.peer_version == 2 else 1)

    cdef int version_for(self, message) except -1:
        cdef int version = self.current()
        if version == 1 and needs_v2(message):
            raise EncodeError(
                type(message).__name__, "metadata" if message._meta else "message_id",
                "this link still writes header version 1, which cannot carry it: connect with "
                "version=2 (3D Slicer, which answers no hello), or with hello=True and wait for "
                "an answer (PLUS, igtl)")
        return version

    cdef object wire_of(self, message, bint crc, bint parts, uint8_t* into, Py_ssize_t room):
        cdef Packing how = packing(self.version_for(message), crc, self.cut_names)
        how.sending = True
        how.parts = parts
        how.into = into
        how.room = room
        return packed(message, &how)

    def parts(self, message, *, bint crc=True):
        """Buffers to write, one after the other, not counted as sent. Large data is not copied; a
        Frame goes out as it came."""
        cdef Py_ssize_t size
        if is_frame(message):
            frame_bytes(message, &size)     # TypeError: it was not constructed
            return [message.data]
        return self.wire_of(message, crc, True, NULL, 0)

    def pack(self, message, *, bint crc=True):
        """As `parts`, in one piece of its own: for whatever waits in a queue."""
        return self.whole_wire(message, crc)

    cdef bytes whole_wire(self, message, bint crc):
        cdef Py_ssize_t size
        if is_frame(message):
            frame_bytes(message, &size)
            return bytes(message.data)
        return self.wire_of(message, crc, False, NULL, 0)

# ---- between a stream and its driver ------------------------------------------------------------

cdef class Waiting:
    """The part of `igtl.session.inbox.Inbox` at which every message looks."""

    cdef readonly dict streams
    cdef readonly object errors
    cdef public bint raw

    def __cinit__(self):
        self.streams = {}
        self.errors = deque(maxlen=100)

cdef class Flow:
    """The part of `igtl.session.session.Session` that every message passes on its way in."""

    cdef readonly Stream protocol
    cdef public Waiting inbox
    cdef public object close_reason
    cdef public bint ended
    cdef public double heard
    cdef double silent_from     # when this end ceased to listen
    cdef readonly dict requests
    cdef object clock           # None: seconds_now
    cdef object next            # that of the protocol, whose class may have one of its own; None: that of Stream

    def __init__(self, Stream protocol not None, Waiting inbox not None, clock):
        self.protocol = protocol
        self.inbox = inbox
        self.requests = {}
        self.clock = None if clock is monotonic else clock
        self.next = None if is_own(protocol, "next_message", Stream) else protocol.next_message
        self.heard = self.now()

    cdef double now(self) except? -1:
        return seconds_now() if self.clock is None else <double>self.clock()

    def received(self, Py_ssize_t n):
        """n bytes were written to the start of what `get_buffer` returned."""
        self.came(n)

    cdef int came(self, Py_ssize_t n) except -1:
        self.protocol.came(n)
        self.heard = self.now()

    cdef bint fill(self, descriptor, bint waits, timeout) except -1:
        """Take bytes of this socket, or its end. False: neither is there, or came within these seconds."""
        cdef uint8_t* p
        cdef Py_ssize_t n
        _kept = self.protocol.space(&p, &n)
        n = receive_from(descriptor, p, n, timeout) if waits else receive_now(descriptor, p, n)
        if n == NOT_NOW:
            return False
        if n:
            self.came(n)
        else:
            self.received_eof()
        return True

    @property
    def wants_read(self):
        """Whether the driver should go on reading."""
        return bool(self.wants())

    cdef int wants(self) except -1:
        return not self.ended and self.protocol.behind() <= READ_AHEAD

    def listens(self):
        """This end takes bytes from now on. It did not before, so silence was not the peer's."""
        self.begin()

    cdef int begin(self) except -1:
        self.heard += fmax(0, self.now() - fmax(self.silent_from, self.heard))

    def listened(self):
        """This end takes no bytes from now on; it has taken what was there."""
        self.silent_from = self.now()

    def take(self, wanted=None, *, bint fresh=False):
        """The next message, or the next of those that are wanted; None while there is none.

        Args:
            fresh: see `Inbox.take`.

        Raises:
            ProtocolError: a message cannot be used; the next one can be taken. After
                MessageTooLarge the framing is lost, and the session has ended.
        """
        return self.taken(wanted, fresh)

    cdef object taken(self, wanted, bint fresh):
        cdef Waiting inbox = self.inbox
        if inbox.raw:
            self._keep(raw=False)
        if inbox.streams:
            message = inbox.take(wanted, fresh=fresh)
            if message is not None:
                return message
        if inbox.errors:
            raise inbox.errors.popleft()
        if self.next is None and self.protocol.is_empty():
            return None
        while True:
            message = self.following()
            if message is None or wanted is None or wanted.matches(message):
                return message
            inbox.put(message, self.protocol.last_size)

    def next_message(self):
        """The next message off the wire that is not the answer to a request; None while there is none.

        Raises:
            as take.
        """
        return self.following()

    cdef object following(self):
        try:
            while True:
                message = self.protocol.following() if self.next is None else self.next()
                if message is None or not self.requests or not self._answers(message):
                    return message
        except (MessageTooLarge, MemoryError) as error:
            if self.close_reason is not None:   # it was raised before
                return None
            self.lost(error)
            raise

@cython.final
cdef class Lock:
    """As `threading.Lock`. The system is asked only by threads that wait, and for them."""

    cdef PyThread_type_lock gate    # shut; opened for one of those that wait, which shuts it again
    cdef bint held, is_open
    cdef int waiting

    def __cinit__(self):
        self.gate = PyThread_allocate_lock()
        if self.gate == NULL:
            raise MemoryError
        PyThread_acquire_lock_timed(self.gate, 0, 0)

    def __dealloc__(self):
        if self.gate != NULL:
            PyThread_free_lock(self.gate)

    cdef bint take(self, double timeout) except -1:
        """Whether it was free, or became so within these seconds; infinity: wait without end."""
        with cython.critical_section(self):
            if not self.held:
                self.held = True
                return True
        return timeout > 0 and self.wait(timeout)

    cdef bint wait(self, double timeout) except -1:
        cdef double end = seconds_now() + timeout
        cdef int state
        with cython.critical_section(self):
            if not self.held:           # it was given meanwhile
                self.held = True
                return True
            self.waiting += 1
        try:
            while True:
                with nogil:
                    state = PyThread_acquire_lock_timed(
                        self.gate, -1 if timeout == INFINITY else <long long>(1e6 * fmax(timeout, 0)), 1)
                with cython.critical_section(self):
                    if state == PY_LOCK_ACQUIRED:
                        self.is_open = False
                    if not self.held:
                        self.held = True
                        return True
                if state == PY_LOCK_INTR:
                    PyErr_CheckSignals()
                timeout = end - seconds_now()
                if timeout <= 0:
                    return False
        finally:
            with cython.critical_section(self):
                self.waiting -= 1

    cdef int give(self) except -1:
        with cython.critical_section(self):
            if not self.held:
                raise RuntimeError("release unlocked lock")
            self.held = False
            if self.waiting and not self.is_open:
                self.is_open = True
                PyThread_release_lock(self.gate)

    def acquire(self, bint blocking=True, double timeout=-1):
        """See `threading.Lock`."""
        return self.take(0 if not blocking else INFINITY if timeout < 0 else timeout)

    def release(self):
        """See `threading.Lock`."""
        self.give()

    def locked(self):
        """See `threading.Lock`."""
        return self.held

    def __enter__(self):
        return self.take(INFINITY)

    def __exit__(self, *exc):
        self.give()

cdef class Line:
    """The part of `igtl.Link` that every message passes. One thread at a time sends, one receives."""

    cdef public bint closed
    cdef public int _waiting        # threads that wait for an answer while another one receives
    cdef readonly Lock _sending
    cdef readonly Lock _receiving
    cdef Flow flow                  # None: the bytes go another way, and so do all methods
    cdef object transport
    cdef object write_timeout
    cdef object read_timeout
    cdef object descriptor          # of the socket, where moving bytes is all that is to be done; else None
    cdef object block               # memory for small messages that are sent; None: all go in parts
    cdef uint8_t* packed            # there

    def __cinit__(self):
        self._sending = Lock()
        self._receiving = Lock()

    def _begin(self, Flow flow not None, transport, options):
        """Move the messages of this session by this transport, with the time-outs of these options."""
        self.flow = flow
        self.transport = transport
        self.write_timeout = options.write_timeout
        self.read_timeout = options.read_timeout
        self.descriptor = transport.descriptor
        self.block = None
        if self.descriptor is not None and self.write_timeout is None and is_own(flow.protocol, "parts", Stream):
            self.block = new_block(PACK_ROOM, 0, &self.packed)

    # -- sending

    def send(self, message, *, bint crc=True):
        """Send one message; returns when the system has taken all of it. Pixels are not copied.

        Args:
            message: a Frame (see `frames`) is sent on as it came.
            crc: False writes 0 in its place.

        Raises:
            EncodeError: the message cannot be sent; the link is as before.
            ConnectionClosed: the link is closed.
            TimeoutError: the peer took nothing for the link's write_timeout. The link ends, since
                half of the message may be out.
        """
        self._sending.take(INFINITY)
        try:
            if self.block is None:
                self.hand_on(self.flow.protocol.parts(message, crc=crc))
            else:
                self.send_directly(message, crc)
        finally:
            self._sending.give()

    cdef int send_directly(self, message, bint crc) except -1:
        """A message that is small, or packed, leaves without an object for its bytes."""
        cdef Stream stream = self.flow.protocol
        cdef const uint8_t* p = self.packed
        cdef Py_ssize_t size
        if is_frame(message):
            p = frame_bytes(message, &size)
        else:
            made = stream.wire_of(message, crc, True, self.packed, PACK_ROOM)
            if type(made) is list:
                return self.hand_on(made)
            size = made
        if self.closed:
            raise self._over()
        try:
            send_to(self.descriptor, p, size)
        except BaseException as error:
            raise self._unsent(error)
        stream.stats.left(p, size)

    def _write(self, list parts):
        """Send one packed message; `_sending` is held."""
        self.hand_on(parts)

    cdef int hand_on(self, list parts) except -1:
        cdef Py_ssize_t size = 0
        if self.closed:
            raise self._over()
        for part in parts:
            size += len(part)
        whole = parts[0] if len(parts) == 1 else parts.copy()
        try:
            self.transport.send(parts, self.write_timeout)
        except BaseException as error:
            raise self._unsent(error)
        self.flow.protocol.stats.count_sent(whole, size)

    # -- receiving

    def recv(self, kind=None, name="*", *, timeout=None):
        """Receive the next message, or the next of a type and device name.

        Others stay queued, in order, within the bounds of the inbox (see
        `igtl.options.SocketOptions`).

        Args:
            kind: a message class; None: any.
            name: device name, with the wildcards * and ?.
            timeout: seconds; 0 looks at what is there. None: the link's read_timeout.

        Raises:
            TimeoutError: nothing came in time; the text lists what was seen meanwhile.
            ConnectionClosed: the link is closed.
            ProtocolError: a bad message came; the next one can be read (not after
                MessageTooLarge, which closes the link).
            RuntimeError: another thread (in asyncio: another task) is receiving.
        """
        if self.flow is None or kind is not None or name != "*":
            return self._recv(kind, name, timeout)
        return self.wait(None, "message", self.read_timeout if timeout is None else seconds("timeout", timeout))

    def __iter__(self):
        return self

    def __next__(self):
        try:
            if self.flow is not None:
                return self.wait(None, "message", self.read_timeout)
            return self._recv(None, "*", None)
        except (ConnectionClosed, MessageTooLarge) as error:
            if not self.ends_iteration(error):
                raise
        raise StopIteration

    def until(self, take, wanted, timeout):
        """What `take` returns, as soon as it returns something; see `igtl.session.facade.AnyLink`."""
        return self.wait(take, wanted, timeout)

    cdef object wait(self, take, wanted, timeout):
        """As until. take: None for the next message of any kind."""
        try:
            left = timeout
            if not self._receiving.take(0):
                if self.closed:             # it is held by the thread that closes
                    raise self._over()
                left = self._take_turn(timeout)
            try:
                return self.receive_until(take, left)
            finally:
                self._receiving.give()
                if self._waiting:
                    self._tell_turns()
        except Exception as error:
            self.flow.over.tell(self.flow.close_reason)
            if isinstance(error, TimeoutError):
                raise self.flow.unseen(wanted, timeout) from None
            raise

    def _receive_until(self, take, timeout):
        """As `until`, of a thread that has its turn. TimeoutError without text after `timeout` seconds; data
        that is there is looked at first."""
        return self.receive_until(take, timeout)

    cdef object receive_until(self, take, timeout):
        cdef Flow flow = self.flow
        cdef double deadline = INFINITY, now, end
        cdef bint begun = False
        found = flow.taken(None, False) if take is None else take()
        if found is not None:
            return found
        if timeout is not None:
            deadline = seconds_now() + <double>timeout
        left = timeout
        while True:
            if flow.ended:
                raise self._over()
            try:
                if self.descriptor is None or not flow.fill(self.descriptor, False, None):
                    if not begun:
                        begun = True
                        flow.begin()
                    if self.descriptor is None:
                        self.transport.receive(left)
                    elif not flow.fill(self.descriptor, True, left):
                        raise TimeoutError
            except (OSError, ValueError) as error:      # ValueError: polled a closed socket
                self._unread(error)
            try:
                found = flow.taken(None, False) if take is None else take()
            except MessageTooLarge:
                self.transport.shutdown()
                raise
            if found is not None:
                return found
            now = seconds_now()
            if now >= deadline and not flow.ended:
                flow.listened()
                raise TimeoutError
            end = fmin(deadline, flow.next_deadline())
            left = None if end == INFINITY else fmax(0, end - now)

@cython.final
cdef class Waiter:
    """What a task of asyncio awaits that receives, one task at a time, again and again. Once woken, the task
    goes on at once, within the callback that brought the bytes: a Future would wake it a turn of the event
    loop later, with one more look at the sockets."""

    cdef public bint _asyncio_future_blocking
    cdef object loop, resume, context, cancelled
    cdef object done                # a Future: a task takes its result without a call
    cdef bint waits

    def __init__(self, loop):
        self.loop = loop
        self.done = loop.create_future()
        self.done.set_result(None)

    def wake(self):
        """Let the task go on."""
        resume, self.resume = self.resume, None
        if resume is None:
            return
        try:
            self.context.run(resume, self.done)
        except RuntimeError:            # another task runs: one at a time
            self.loop.call_soon(resume, self.done, context=self.context)

    # -- what asyncio wants of an object that a task can wait for, as far as a task uses it

    def __await__(self):
        self.waits = True
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if not self.waits:
            raise StopIteration
        self.waits = False
        self._asyncio_future_blocking = True
        return self

    def get_loop(self):
        return self.loop

    def add_done_callback(self, fn, *, context):
        self.resume = fn
        self.context = context

    def cancel(self, msg=None):
        resume, self.resume = self.resume, None
        if resume is None:
            return False
        from asyncio import CancelledError

        self.cancelled = CancelledError() if msg is None else CancelledError(msg)
        self.loop.call_soon(resume, self, context=self.context)
        return True

    def result(self):
        cancelled, self.cancelled = self.cancelled, None
        if cancelled is not None:
            raise cancelled

# ---- under connections in asyncio ----------------------------------------------------------------

cdef struct Way:
    PyThread_type_lock lock     # of all below
    int fd                      # of the socket; -1: the owner sends by other means
    bint is_open
    int posted                  # messages on their way to the owner, which come first
    int error                   # of the send that failed
    uint64_t handed             # bytes that the system has taken

cdef struct Passing:
    Way* way
    const uint8_t* wire
    Py_ssize_t size, sent

cdef void enter(Way* way) noexcept:
    if PyThread_acquire_lock_timed(way.lock, 0, 0) != PY_LOCK_ACQUIRED:
        with nogil:                     # who holds it may be in a system call
            PyThread_acquire_lock_timed(way.lock, -1, 0)

cdef Py_ssize_t let_pass(Way* way, const uint8_t* wire, Py_ssize_t size, bint post) noexcept nogil:
    """The bytes of this message that have left by this way, which is locked. 0: it is for the owner to send, and is
    counted as on its way there. Fewer than all: the way is shut, and still locked."""
    cdef Py_ssize_t sent = 0
    if way.is_open and way.fd >= 0 and wire != NULL:
        sent = igtl_send_now(way.fd, wire, size)
        if sent < 0:
            if sent != -EAGAIN and sent != -EINTR:
                way.error = <int>-sent
            sent = 0
        way.handed += sent
        way.is_open = sent == size
    if sent == 0:
        way.posted += post
    if sent == 0 or sent == size:
        PyThread_release_lock(way.lock)
    return sent

cdef class Passage:
    """The part of `igtl.aio.transport.Connection` that every message passes on its way in, and those that leave
    while nothing waits: straight to the socket, from any thread. The owner is the thread of the event loop,
    which opens the way out when nothing waits, and shuts it before it sends anything itself."""

    cdef readonly Flow session
    cdef readonly object layer
    cdef public object on_change
    cdef public Waiter waiter
    cdef public bint drains
    cdef public bint _discards  # what comes
    cdef public bint _reads     # the transport does
    cdef public object _later   # a timer: then what waits for the peer's header version leaves
    cdef Stream protocol
    cdef Way way
    cdef tuple begun            # a message that has left in part, and how many bytes of it
    cdef bint ended

    def __cinit__(self):
        self.way.fd = -1
        self.way.lock = PyThread_allocate_lock()
        if self.way.lock == NULL:
            raise MemoryError

    def __init__(self, Flow session not None, layer=None):
        self.session = session
        self.layer = layer
        self.protocol = session.protocol
        self._reads = True

    def __dealloc__(self):
        if self.way.lock != NULL:
            PyThread_free_lock(self.way.lock)

    # -- in

    def get_buffer(self, sizehint):
        """Memory for the next bytes; asyncio calls this."""
        if self._discards or self.layer is not None:
            return self._scratch()
        return self.protocol.room()

    def buffer_updated(self, Py_ssize_t nbytes):
        """Feed the session with what was written to that memory; asyncio calls this."""
        if self._discards:
            return
        if self.layer is None:
            self.session.came(nbytes)
        else:
            self._feed(nbytes)
        self.turn()

    def _turn(self):
        """Something has arrived."""
        self.turn()

    cdef int turn(self) except -1:
        if self.drains or self.session.requests:
            self.session.sort()
        self.on_change()
        self.update()
        if self._later is not None and self.session.wants_write:    # the peer has shown its version
            self.flush()

    def update_reading(self):
        """Read, or stop reading, as the session wants it now."""
        self.update()

    cdef int update(self) except -1:
        cdef bint wanted = self.session.wants()
        if wanted != self._reads:
            self._read(wanted)

    def more(self):
        """Done when bytes have arrived; for one task, which has found nothing to take.

        Raises:
            Exception: why nothing more can arrive.
        """
        if self.session.ended or not self.protocol.is_whole():
            return self._rest()
        self.update()
        return self.waiter

    # -- out

    cdef void enter(self) noexcept:
        enter(&self.way)

    cdef void leave(self) noexcept:
        PyThread_release_lock(self.way.lock)

    @property
    def is_open(self):
        """Whether nothing waits."""
        return self.way.is_open

    @property
    def passed(self):
        """Bytes that the system has taken from here."""
        return self.way.handed

    def open(self, int fd):
        """Let messages pass to this descriptor, unless some are on their way to the owner. Below 0: none passes,
        but nothing waits."""
        self.enter()
        self.way.fd = fd
        self.way.is_open = not self.ended and self.way.posted == 0
        self.leave()

    def shut(self):
        """Let no more messages pass. Returns what has left in part, as its bytes and how many of them, or None.

        Raises:
            OSError: the socket has failed.
        """
        self.enter()
        error, self.way.error = self.way.error, 0
        begun, self.begun = self.begun, None
        self.way.is_open = False
        self.leave()
        if error:
            raise OSError(error, strerror(error))
        return begun

    def stay_shut(self):
        """Do not open again."""
        self.ended = True

    def arrived(self):
        """A message that has not passed is at the owner."""
        self.enter()
        self.way.posted -= 1
        self.leave()

    cdef int keep(self, bytes wire, Py_ssize_t sent) except -1:
        """This message has left in part; the way is locked."""
        self.begun = wire, sent
        self.leave()
        self.resume()

    def pass_now(self, bytes wire not None):
        """Send a packed message, in the owner's thread; whether it has left, or begun to."""
        return self.passes(wire)

    def send_now(self, message, bint crc):
        """Pack a message and send it, in the owner's thread, if nothing waits. Returns None, or what is to be queued
        instead."""
        cdef bytes wire
        if self.protocol.peer_takes:
            return self.session.pack(message, crc=crc)
        wire = self.protocol.whole_wire(message, crc)
        return None if self.passes(wire) or self.put_now(wire) else self._packed(wire)

    cdef bint passes(self, bytes wire) except -1:
        cdef const uint8_t* p = <const uint8_t*>PyBytes_AsString(wire)
        cdef Py_ssize_t size = len(wire), sent
        if not self.way.is_open or self.way.fd < 0:
            return False
        self.enter()
        if size < NOGIL_FROM:
            sent = let_pass(&self.way, p, size, False)
        else:
            with nogil:
                sent = let_pass(&self.way, p, size, False)
        if sent == size:
            self.protocol.stats.count_sent(wire, size)
        elif sent:
            self.keep(wire, sent)
        return sent > 0

cdef class Wire:
    """A message as it was packed, under `igtl.session.packed.Packed`, which makes other forms of it."""

    cdef readonly bytes wire
    cdef readonly int version   # of its header; 0: every peer gets it as it is
    cdef public object other, compressed    # forms, when there are any

    def __init__(self, bytes wire not None, *, bint as_it_is=False):
        self.take(wire, as_it_is)

    cdef int take(self, bytes wire, bint as_it_is) except -1:
        if len(wire) < HEADER:
            raise ValueError("no message header")
        self.wire = wire
        self.version = 0 if as_it_is else get16(<const uint8_t*>PyBytes_AsString(wire)) or 1

    @property
    def size(self):
        return len(self.wire)

cdef class Audience:
    """The part of a server that a broadcast passes while nothing waits, in any thread. The owner is the thread of
    the event loop, where passages join and leave."""

    cdef list there             # replaced, never changed
    cdef type kind
    cdef bint cut_names

    def __init__(self, type kind not None, bint cut_names):
        if not issubclass(kind, Wire):
            raise TypeError("messages are packed as a kind of Wire")
        self.kind = kind
        self.cut_names = cut_names
        self.there = []

    @property
    def passages(self):
        return self.now()

    cdef list now(self):
        with cython.critical_section(self):
            if self.there is None:
                raise TypeError(f"{type(self).__name__}.__init__ did not call super().__init__")
            return self.there

    def join(self, Passage passage not None):
        """From now on it gets what is sent."""
        there = self.now() + [passage]
        with cython.critical_section(self):
            self.there = there

    def leave(self, Passage passage not None):
        """From now on it gets nothing more."""
        there = [each for each in self.now() if each is not passage]
        with cython.critical_section(self):
            self.there = there

    cdef Wire made(self, message, bint crc, list there):
        cdef Wire new
        cdef Packing how
        cdef Passage passage
        if isinstance(message, Wire):
            return message
        new = new_of(self.kind)
        if is_frame(message):
            new.take(bytes(message.data), True)
            return new
        how = packing(2 if there or needs_v2(message) else 1, crc, self.cut_names)
        how.sending = True
        if how.version == 2 and not needs_v2(message):
            for passage in there:
                how.version = min(how.version, passage.protocol.current())
        new.take(packed(message, &how), False)
        return new

    def pack(self, message, bint crc=True):
        """Pack a message in the header version that all write now, 1 for none. What that cannot hold is left out
        when it leaves, for those who cannot read it. A frame stays as it is."""
        return self.made(message, crc, self.now())

    def pass_on(self, message, bint crc=True):
        """Pack a message, unless it is packed, and send it to all for whom nothing waits. Returns None, or as what it
        was packed and who is left; see the function `pass_on`."""
        cdef list there = self.now()
        cdef Wire wire = self.made(message, crc, there)
        cdef list left = pass_on(there, wire)
        return (wire, left) if left else None

cpdef list pass_on(list passages, Wire message):
    """Send a packed message through all of these that are open, in any thread. Returns the others, whose owner is to
    call `arrived` and to send it; what comes later waits for that."""
    cdef Py_ssize_t k = 0, n = len(passages)
    cdef list left = []
    cdef Passage passage
    cdef Passing* each
    cdef bytes wire = message.wire, other = None    # in the other header version; b"": the owner sends it, changed
    cdef const uint8_t* p = <const uint8_t*>PyBytes_AsString(wire)
    cdef const uint8_t* q = NULL
    cdef Py_ssize_t size = len(wire), other_size = 0
    cdef bint brief = n <= FEW and size < NOGIL_FROM
    cdef Passing* all = <Passing*>malloc(max(n, 1) * sizeof(Passing))
    if all == NULL:
        raise MemoryError
    try:
        for k in range(n):
            passage = passages[k]
            each = &all[k]
            each.way = &passage.way
            if message.version == 0 or message.version == passage.protocol.current():
                each.wire = p
                each.size = size
                continue
            if other is None:
                other = message.whole(passage.protocol.current()) or b""
                other_size = len(other)
                q = <const uint8_t*>PyBytes_AsString(other) if other else NULL
            each.wire = q
            each.size = other_size
        k = 0
        while k < n:
            if brief:
                each = &all[k]
                enter(each.way)
                each.sent = let_pass(each.way, each.wire, each.size, True)
                k += 1
            else:
                with nogil:
                    while k < n:
                        each = &all[k]
                        PyThread_acquire_lock_timed(each.way.lock, -1, 0)
                        each.sent = let_pass(each.way, each.wire, each.size, True)
                        k += 1
                        if 0 < each.sent < each.size:
                            break
            if 0 < each.sent < each.size:
                passage = passages[k - 1]
                passage.keep(wire if each.wire == p else other, each.sent)
        for k in range(n):
            passage = passages[k]
            each = &all[k]
            if each.sent == 0:
                left.append(passage)
            elif each.sent == each.size:
                passage.protocol.stats.left(each.wire, each.size)
        return left
    finally:
        free(all)

# ---- datagrams ----------------------------------------------------------------------------------

cdef extern from "_sockets.h" nogil:
    const bint DATAGRAMS "IGTL_DATAGRAMS"   # whether what follows can be called
    enum:
        NOTHING "IGTL_NOTHING"
        SIGNAL "IGTL_SIGNAL"
        REFUSED "IGTL_REFUSED"
        HOST "IGTL_HOST"
    ctypedef struct Address "igtl_address":
        unsigned int size
    bint same_address "igtl_same_address"(const Address* a, const Address* b)
    void put_address "igtl_put_address"(
        Address* to, const void* packed, size_t size, uint16_t port, uint32_t flow, uint32_t scope)
    bint get_address "igtl_get_address"(
        const Address* a, char* host, uint16_t* port, uint32_t* flow, uint32_t* scope)
    Py_ssize_t send_datagram "igtl_sendto"(int fd, const uint8_t* p, size_t size, const Address* to, bint waits)
    Py_ssize_t receive_datagram "igtl_recvmsg"(
        int fd, uint8_t* p, size_t room, double seconds, Address* where, double* stamp)

cdef enum:
    DATAGRAM = 65507            # bytes, the most that IPv4 carries
    MAX_ORDERS = 4096           # streams of which the order is watched
    MAX_LATE = 1000             # datagrams that are no message, after which a receiver that may not wait stops looking

MAX_DATAGRAM = DATAGRAM

cdef double LONGEST = _LONGEST
cdef double LEAVES = 1.0        # seconds in which a thread that was woken leaves a system call

cdef class Socket:
    """What the sending and the receiving side share: a descriptor, which no thread uses while it is
    closed. Its number may be another socket's at once."""

    cdef readonly Stats stats
    cdef readonly object _sock
    cdef public bint _closed
    cdef int fd                 # -1: Python's socket does it all
    cdef Lock using             # held within a system call
    cdef str noun

    def __cinit__(self):
        self.stats = Stats()
        self.using = Lock()
        self.fd = -1

    def _open(self, sock, bint direct):
        """Move datagrams by this socket, which `close` closes. direct: past its methods, if this
        system can do that."""
        self._sock = sock
        self.fd = sock.fileno() if DATAGRAMS and direct else -1

    def close(self):
        """Close the socket."""
        cdef bint left
        self._closed = True
        left = self.using.take(LEAVES)
        self.fd = -1
        try:
            self._sock.close()
        finally:
            if left:
                self.using.give()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    cdef object over(self):
        return ConnectionClosed(f"this {self.noun} was closed")

cdef class Outlet(Socket):
    """The part of `igtl.net.datagrams.Outgoing` that every message passes."""

    cdef readonly object address
    cdef Address to

    def __cinit__(self):
        self.noun = "sender"

    def _aim(self, address, bytes host, uint16_t port, uint32_t flow=0, uint32_t scope=0):
        """Send to this address: as Python's sockets take it, and in parts, the host as its number."""
        self.address = address
        put_address(&self.to, PyBytes_AsString(host), len(host), port, flow, scope)

    def _send(self, message, bint crc):
        """Send one message; waits while the system has no room, if the socket does."""
        for packet in self.datagrams(message, crc):
            self.hand_on(packet)

    def _datagrams(self, message, bint crc):
        """The datagrams of a message, which is counted; ConnectionClosed after `close`."""
        return self.datagrams(message, crc)

    def _hand_on(self, bytes packet not None):
        """Send one datagram. BlockingIOError: the system has no room, and the socket does not wait."""
        self.hand_on(packet)

    cdef list datagrams(self, message, bint crc):
        cdef Packing how
        cdef Py_ssize_t size
        cdef bytes wire
        cdef list packets
        if self._closed:
            raise self.over()
        if is_frame(message):
            frame_bytes(message, &size)     # TypeError: it was not constructed
            wire = bytes(message.data)
        else:
            how = packing(0, crc, False)
            how.sending = True
            wire = packed(message, &how)
            if len(wire) > DATAGRAM and get16(<const uint8_t*>PyBytes_AsString(wire)) != 2:
                wire = message.pack(crc=crc, version=2)     # all that fits the RTP wrapper
        packets = [wire] if len(wire) <= DATAGRAM else self._split(wire)
        self.stats.count_sent(wire, len(wire))
        return packets

    cdef int hand_on(self, bytes packet) except -1:
        cdef const uint8_t* p = <const uint8_t*>PyBytes_AsString(packet)
        cdef Py_ssize_t size = len(packet), n = NOTHING
        self.using.take(INFINITY)
        try:
            if self._closed:
                raise self.over()
            if self.fd >= 0:
                if size < NOGIL_FROM:
                    n = send_datagram(self.fd, p, size, &self.to, False)
                if n == NOTHING:
                    with nogil:
                        n = send_datagram(self.fd, p, size, &self.to, True)
        finally:
            self.using.give()
        if n < 0 and n != REFUSED:      # refused: an earlier one met a closed port
            self._sendto(packet)        # which waits, or raises

@cython.final
cdef class _Order:
    """What came of one stream of one sender."""

    cdef object address
    cdef bytes key              # see stream_key
    cdef uint64_t newest        # time stamp
    cdef uint32_t last          # message id

cdef class Inlet(Socket):
    """The part of `igtl.net.datagrams.Incoming` that every datagram passes."""

    cdef public Py_ssize_t gaps, reordered, duplicates
    cdef readonly object _sources   # of what comes in several datagrams
    cdef int policy             # of the CRC
    cdef uint8_t* room          # what comes is received here
    cdef Address where          # it came from, the last time
    cdef object address         # the same, as Python's sockets show it
    cdef dict orders            # by address and key; the one that was heard first stands first
    cdef _Order order           # the one looked at last: most often the next one too

    def __cinit__(self):
        self.noun = "receiver"
        self.orders = {}
        if DATAGRAMS:
            self.room = <uint8_t*>PyMem_Malloc(DATAGRAM + 1)
            if self.room == NULL:
                raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.room)

    def _begin(self, crc, sources):
        self.policy = policy_of(crc)
        self._sources = sources

    def _receive(self, bint framed, timeout):
        """The next message, or frame, and where it came from; see `igtl.blocking.udp.Receiver.recv`."""
        cdef double limit = limit_of(timeout), deadline = INFINITY, until, now = 0
        cdef int late = 0
        if limit < INFINITY:
            now = seconds_now()
            deadline = now + limit
        while True:
            until = deadline
            if self._sources:
                until = fmin(until, self._expiry())
                now = seconds_now()
            came = self.read(fmax(0, until - now))
            if came is not None:
                found = self.take(came, framed)
                if found is not None:
                    return found
            elif self._sources:
                self._give_up(drained=True)
            if deadline < INFINITY:
                now = seconds_now()
                if now >= deadline:
                    late += 1
                    if came is None or late == MAX_LATE:
                        raise TimeoutError(f"no message within {limit} s")

    def _look(self, bint framed):
        """The same of what is there; None if there is nothing, or MAX_LATE datagrams were none."""
        for _ in range(MAX_LATE):
            came = self.read(LOOK)
            if came is None:
                if self._sources:
                    self._give_up(drained=True)
                return None
            found = self.take(came, framed)
            if found is not None:
                return found
        return None

    cdef tuple read(self, double wait):
        """One datagram, its sender, and when the kernel got it (seconds since 1970) or None. None if
        nothing has come: perhaps before these seconds are over. LOOK: take what is there."""
        cdef Address where
        cdef double stamp = 0
        cdef Py_ssize_t n
        if self._closed:
            raise self.over()
        if not self.using.take(0):      # another thread receives
            if not self.using.take(wait):
                return None
            wait = 0                    # the caller knows what is left of it
        try:
            if self._closed:
                raise self.over()
            if self.fd < 0:
                return self._read(fmax(0, wait))
            n = receive_datagram(self.fd, self.room, DATAGRAM + 1, 0, &where, &stamp)
            if n == NOTHING and wait >= 0:      # of 0 too: others get the GIL
                with nogil:
                    n = receive_datagram(self.fd, self.room, DATAGRAM + 1, wait, &where, &stamp)
            if n >= 0 and where.size:       # without an address, it was shut down
                if not same_address(&where, &self.where):
                    self.address = address_of(&where)
                    self.where = where
                return (PyBytes_FromStringAndSize(<const char*>self.room, n), self.address,
                        stamp if stamp else None)
        finally:
            self.using.give()
        if n == SIGNAL:
            PyErr_CheckSignals()
        elif n < 0 and n != NOTHING and not self._closed:
            raise OSError(-n, os.strerror(-n))
        return None

    cdef tuple take(self, tuple came, bint framed):
        cdef double now = seconds_now()
        cdef bytes data = came[0], wire = data
        cdef Whole whole
        cdef bint is_message = False, bad_crc = False
        address = came[1]
        try:
            if data.startswith(b"\x80"):
                wire = self._whole(data, address)
                if wire is None:
                    return None
            elif self._sources:
                self._give_up(drained=False)
            whole.p = <const uint8_t*>PyBytes_AsString(wire)
            whole.size = len(wire)
            whole.summed = False
            if whole.size < HEADER or get64(whole.p + 42) != <uint64_t>(whole.size - HEADER):
                raise ProtocolError(f"{whole.size} bytes are not one whole message")
            is_message = True
            self.stats.arrived(whole.p, whole.size, now)
            if framed:
                return new_frame(wire, &whole), address
            message = received(wire, &whole, self.policy, address, now, &bad_crc)
        except ProtocolError as error:
            self._bad(error, data, address, new_frame(wire, &whole) if is_message else None)
            return None
        message.received_kernel = came[2]
        if wire is data:
            self.watch(whole.p, whole.size, address)
        if bad_crc:
            self.stats.count_error("CRCError", new_frame(wire, &whole))
        return message, address

    cdef int watch(self, const uint8_t* p, Py_ssize_t size, address) except -1:
        """See what the time stamp of a message says of its place in its stream."""
        cdef uint64_t stamp = get64(p + 34)
        cdef uint32_t number = get32(p + HEADER + 8) if get16(p) == 2 else 0
        cdef const uint8_t* name
        cdef Py_ssize_t n
        cdef _Order order
        if not stamp:
            return 0
        n = stream_name(p, size, p + size, size, &name)
        with cython.critical_section(self):
            order = self.order
            if not (order is not None and order.address is address and is_key(order.key, p + 2, name, n)):
                order = self.order_of(address, (p + 2)[:12] + name[:n])
            if stamp > order.newest:
                order.newest = stamp
            elif stamp < order.newest:
                self.reordered += 1
            elif number == order.last:
                self.duplicates += 1
            order.last = number

    cdef _Order order_of(self, address, bytes key):
        cdef _Order order = self.orders.get((address, key))
        if order is None:
            order = self.orders[address, key] = _Order.__new__(_Order)
            order.key = key
            if len(self.orders) > MAX_ORDERS:
                del self.orders[next(iter(self.orders))]
        order.address = address
        self.order = order
        return order

cdef double limit_of(timeout) except -1:
    """Seconds, checked; infinity: no time-out. Those of most programs without Python code."""
    cdef double limit
    if timeout is None:
        return INFINITY
    if type(timeout) is float or type(timeout) is int:
        limit = timeout
        if 0 <= limit <= LONGEST:
            return limit
    timeout = seconds("timeout", timeout)
    return INFINITY if timeout is None else timeout

cdef bint is_key(bytes key, const uint8_t* type12, const uint8_t* name, Py_ssize_t n) noexcept:
    cdef const uint8_t* p = <const uint8_t*>PyBytes_AsString(key)
    return len(key) == 12 + n and memcmp(p, type12, 12) == 0 and memcmp(p + 12, name, n) == 0

cdef object address_of(const Address* where):
    """As Python's sockets show it."""
    cdef char[HOST] host
    cdef uint16_t port
    cdef uint32_t flow, scope
    cdef bint is_v6 = get_address(where, host, &port, &flow, &scope)
    text = (<bytes>host).decode()
    return (text, port, flow, scope) if is_v6 else (text, port)
