# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True, nonecheck=True
# cython: embedsignature=True, embedsignature.format=clinic, auto_pickle=False, binding=False
# cython: freethreading_compatible=True
"""A stream of messages without I/O: what was counted, how it is cut into frames, both directions.

Layout of this file: Stats (counters) · Decoder (framing) · Stream (under `igtl.Protocol`) · Flow (under
the session of a connection) · Line (under `igtl.Link`), and the Lock of it · Waiter (of tasks that
receive) · Passage (past the queue of an asyncio connection). Messages and frames are those of _core.pyx,
whose functions do all that looks into them; bytes are moved by functions that Flow and Line are given,
and by Passage itself.

Rules. An object of these has one owner; only counters and passages take calls from several threads, and
lock for it.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, errno
from libc.math cimport INFINITY, fmax, fmin
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from igtl._core cimport (
    Packing, frame_bytes, hold, is_frame, is_registered, needs_v2, new_block, new_frame, packed, packing,
    policy_of, received, run_crc, stream_key, text_of,
)
from igtl._wire cimport (
    EXTENDED, HEADER, MAX_BLOCK, begins_message, can_be_header, get16, get64, is_header, is_tls_record,
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

cdef extern from *:
    """
    #include <errno.h>
    #ifdef _WIN32
    /* never called: asyncio's sockets are written by the system there */
    static Py_ssize_t igtl_send_now(int fd, const void* bytes, size_t n) { errno = EBADF; return -1; }
    #else
    #include <sys/socket.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0  /* macOS; Python ignores that signal */
    #endif
    static Py_ssize_t igtl_send_now(int fd, const void* bytes, size_t n) {
        return send(fd, bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    #endif
    """
    Py_ssize_t send_now "igtl_send_now"(int fd, const void*, size_t) nogil

import operator
from collections import Counter, deque
from os import strerror
from time import monotonic

from igtl.errors import EncodeError, MessageTooLarge, ProtocolError, VersionError

cdef enum:
    BLOCK_FROM = 32 * 1024      # frames of this size are received into memory of their own
    SMALL = 64 * 1024           # bytes of the buffer that the others pass through, at first
    LARGE_FROM = 4 << 20        # a buffer of this size is given back
    MAX_TRIES = 8               # headers tried, one after the other, where step was lost
    READ_AHEAD = 256 * 1024     # bytes that may lie undecoded before a driver stops reading
    MAX_STREAMS = 4096          # a peer that invents names shall not fill the memory

cdef bytes OTHERS = b"*".ljust(12, b"\0") + b"*".ljust(20, b"\0")

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
        return monotonic() - self.last if self.received else None

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

    cdef int ready(self) except -1:
        if self.view is None:
            raise TypeError(f"{type(self).__name__}.__init__ did not call super().__init__")

    cdef int use(self, Py_ssize_t size) except -1:
        """A new buffer of this size."""
        cdef uint8_t* p
        block = new_block(size, 0, &p)
        self.view = memoryview(block)
        self.buffer = p
        self.size = size

    cdef object found(self, object data, const uint8_t* p, Py_ssize_t size, const uint64_t* crc):
        """The frame that these bytes are. crc: that of its body, or NULL."""
        cdef int version = get16(p)
        self.last_size = size
        if version > self.peer_version:
            self.peer_version = version
        if self.stats is not None:
            self.cut_at = monotonic()
            self.stats.arrived(p, size, self.cut_at)
        return new_frame(data, p, size, crc)

    @property
    def at_boundary(self):
        """Whether everything received so far was whole messages."""
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
        self.ready()
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

    def received(self, Py_ssize_t n):
        """n bytes were written to the start of what get_buffer returned."""
        self.came(n)

    cdef int came(self, Py_ssize_t n) except -1:
        self.ready()
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
        return self.cut(False)

    cdef object cut(self, bint sum):
        """As next_frame. sum: the caller will want the CRC of its body."""
        cdef Py_ssize_t total, have
        cdef uint64_t body, dropped, actual = 0
        cdef uint8_t* p
        cdef bytes data
        if self.failed is not None:
            raise self.failed
        self.ready()
        if self.resync:
            sum = True
        if self.large is not None:
            if self.filled < self.frame_size:
                return None
            if self.resync and self.lost_step(self.frame, self.frame_size, self.sum):
                return self.cut(sum)
            large = self.large
            self.large = None
            return self.found(large, self.frame, self.frame_size, &self.sum if self.summed else NULL)
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
                    return self.cut(sum)
            data = PyBytes_FromStringAndSize(<const char*>p, total)
            self.start += total
            return self.found(data, <const uint8_t*>PyBytes_AsString(data), total, &actual if self.resync else NULL)
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
        return self.cut(sum)

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
        cdef bint bad_crc = False
        while True:
            try:
                frame = self.cut(self.policy < 2)
                if frame is None:
                    return None
                message = self.decode(frame, &bad_crc)
            except ProtocolError as error:
                self._failed(error)     # raises it again, unless bad messages are skipped
            else:
                if bad_crc:
                    self._warn(message)
                return message

    cdef object decode(self, object frame, bint* bad_crc):
        try:
            message = received(frame, self.policy, self.peer, self.cut_at, bad_crc)
        except ProtocolError as error:
            self.stats.count_error(type(error).__name__, frame)
            raise
        if bad_crc[0]:
            self.stats.count_error("CRCError", frame)
        return message

    def decoded(self, frame not None):
        """The message in a frame of this stream, as `next_message` gives it."""
        cdef bint bad_crc
        return self.decode(frame, &bad_crc)

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

    cdef object wire_of(self, message, bint crc, bint parts):
        cdef Packing how = packing(self.version_for(message), crc, self.cut_names)
        how.sending = True
        how.parts = parts
        return packed(message, &how)

    def parts(self, message, *, bint crc=True):
        """Buffers to write, one after the other, not counted as sent. Large data is not copied; a
        Frame goes out as it came."""
        cdef Py_ssize_t size
        if is_frame(message):
            frame_bytes(message, &size)     # TypeError: it was not constructed
            return [message.data]
        return self.wire_of(message, crc, True)

    def pack(self, message, *, bint crc=True):
        """As `parts`, in one piece of its own: for whatever waits in a queue."""
        cdef Py_ssize_t size
        if is_frame(message):
            frame_bytes(message, &size)
            return bytes(message.data)
        return self.wire_of(message, crc, False)

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
    cdef object clock
    cdef object next            # that of the protocol, whose class may have one of its own

    def __init__(self, Stream protocol not None, Waiting inbox not None, clock):
        self.protocol = protocol
        self.inbox = inbox
        self.requests = {}
        self.clock = clock
        self.next = protocol.next_message
        self.heard = clock()

    def received(self, Py_ssize_t n):
        """n bytes were written to the start of what `get_buffer` returned."""
        self.came(n)

    cdef int came(self, Py_ssize_t n) except -1:
        self.protocol.came(n)
        self.heard = self.clock()

    cdef int fill(self, read) except -1:
        """Take what this function reads into a buffer, as a socket's `recv_into` does."""
        cdef Py_ssize_t n = read(self.protocol.room())
        if n:
            self.came(n)
        else:
            self.received_eof()

    @property
    def wants_read(self):
        """Whether the driver should go on reading."""
        return not self.ended and self.protocol.behind() <= READ_AHEAD

    def listens(self):
        """This end takes bytes from now on. It did not before, so silence was not the peer's."""
        self.begin()

    cdef int begin(self) except -1:
        self.heard += fmax(0, <double>self.clock() - fmax(self.silent_from, self.heard))

    def listened(self):
        """This end takes no bytes from now on; it has taken what was there."""
        self.silent_from = self.clock()

    def take(self, wanted=None, *, bint fresh=False):
        """The next message, or the next of those that are wanted; None while there is none.

        Args:
            fresh: see `Inbox.take`.

        Raises:
            ProtocolError: a message cannot be used; the next one can be taken. After
                MessageTooLarge the framing is lost, and the session has ended.
        """
        cdef Waiting inbox = self.inbox
        if inbox.raw:
            self._keep(raw=False)
        if inbox.streams:
            message = inbox.take(wanted, fresh=fresh)
            if message is not None:
                return message
        if inbox.errors:
            raise inbox.errors.popleft()
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
                message = self.next()
                if message is None or not self.requests or not self._answers(message):
                    return message
        except (MessageTooLarge, MemoryError) as error:
            if self.close_reason is not None:   # it was raised before
                return None
            self.lost(error)
            raise

@cython.final
cdef class Lock:
    """As `threading.Lock`. Where it is free, `with` takes a tenth of the instructions."""

    cdef PyThread_type_lock lock
    cdef bint held

    def __cinit__(self):
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    cdef bint take(self, double timeout) except -1:
        """Whether it was free, or became so within these seconds; infinity: wait without end."""
        cdef int state = PyThread_acquire_lock_timed(self.lock, 0, 0)
        cdef double end
        if state != PY_LOCK_ACQUIRED and timeout > 0:
            end = <double>monotonic() + timeout
            while True:
                with nogil:
                    state = PyThread_acquire_lock_timed(
                        self.lock, -1 if timeout == INFINITY else <long long>(1e6 * fmax(timeout, 0)), 1)
                if state != PY_LOCK_INTR:
                    break
                PyErr_CheckSignals()
                timeout = end - <double>monotonic()
        self.held |= state == PY_LOCK_ACQUIRED
        return state == PY_LOCK_ACQUIRED

    cdef int give(self) except -1:
        if not self.held:
            raise RuntimeError("release unlocked lock")
        self.held = False
        PyThread_release_lock(self.lock)

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
    cdef Flow flow
    cdef object transport
    cdef object patience            # the write_timeout
    cdef object read                # the socket's `recv_into` and `sendall`, where they are all that is to be done
    cdef object write

    def __cinit__(self):
        self._sending = Lock()
        self._receiving = Lock()

    def _begin(self, Flow flow not None, transport, patience):
        """Move the messages of this session by this transport."""
        self.flow = flow
        self.transport = transport
        self.patience = patience
        self.read = transport.read
        self.write = transport.write if patience is None else None

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
            self.hand_on(self.flow.protocol.parts(message, crc=crc))
        finally:
            self._sending.give()

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
            if self.write is not None and len(parts) == 1:
                self.write(whole)
            else:
                self.transport.send(parts, self.patience)
        except BaseException as error:
            raise self._unsent(error)
        self.flow.protocol.stats.count_sent(whole, size)

    # -- receiving

    def until(self, take, wanted, timeout):
        """What `take` returns, as soon as it returns something; see `igtl.session.facade.AnyLink`."""
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
        found = take()
        if found is not None:
            return found
        flow.begin()
        if timeout is not None:
            deadline = <double>monotonic() + <double>timeout
        left = timeout
        while True:
            if flow.ended:
                raise self._over()
            try:
                if left is None and self.read is not None:
                    flow.fill(self.read)
                else:
                    self.transport.receive(left)
            except (OSError, ValueError) as error:      # ValueError: polled a closed socket
                self._unread(error)
            try:
                found = take()
            except MessageTooLarge:
                self.transport.shutdown()
                raise
            if found is not None:
                return found
            now = monotonic()
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
    cdef object loop, current_task, resume, context, cancelled
    cdef bint waits

    def __init__(self, loop):
        from asyncio import current_task

        self.loop = loop
        self.current_task = current_task

    def wake(self):
        """Let the task go on."""
        resume, self.resume = self.resume, None
        if resume is None:
            return
        if self.current_task(self.loop) is None:
            self.context.run(resume, self)
        else:                           # one task at a time
            self.loop.call_soon(resume, self, context=self.context)

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

# ---- past the queue of a connection --------------------------------------------------------------

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

cdef Py_ssize_t let_pass(Way* way, const uint8_t* wire, Py_ssize_t size, bint post) noexcept nogil:
    """The bytes of this message that have left. 0: it is for the owner to send, and is counted as on its way
    there. Fewer than all: the way is shut, and still locked."""
    cdef Py_ssize_t sent = 0
    PyThread_acquire_lock_timed(way.lock, -1, 0)
    if way.is_open and way.fd >= 0 and wire != NULL:
        sent = send_now(way.fd, wire, size)
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                way.error = errno
            sent = 0
        way.handed += sent
        way.is_open = sent == size
    if sent == 0:
        way.posted += post
    if sent == 0 or sent == size:
        PyThread_release_lock(way.lock)
    return sent

cdef class Passage:
    """The part of `igtl.aio.transport.Connection` that messages pass while nothing waits: straight to the socket,
    from any thread. The owner is the thread of the event loop, which opens it when nothing waits, and shuts
    it before it sends anything itself."""

    cdef Stream protocol
    cdef Way way
    cdef tuple begun            # a message that has left in part, and how many bytes of it
    cdef bint ended

    def __cinit__(self):
        self.way.fd = -1
        self.way.lock = PyThread_allocate_lock()
        if self.way.lock == NULL:
            raise MemoryError

    def __init__(self, Stream protocol not None):
        self.protocol = protocol

    def __dealloc__(self):
        if self.way.lock != NULL:
            PyThread_free_lock(self.way.lock)

    cdef void enter(self) noexcept:
        with nogil:                     # who holds it may be in a system call
            PyThread_acquire_lock_timed(self.way.lock, -1, 0)

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
        cdef const uint8_t* p = <const uint8_t*>PyBytes_AsString(wire)
        cdef Py_ssize_t size = len(wire), sent
        if not self.way.is_open or self.way.fd < 0:
            return False
        with nogil:
            sent = let_pass(&self.way, p, size, False)
        if sent == size:
            self.protocol.stats.count_sent(wire, size)
        elif sent:
            self.keep(wire, sent)
        return sent > 0

def least_version(list passages not None):
    """The header version that all of these write now; 1 for none."""
    cdef Passage passage
    for passage in passages:
        if passage.protocol.current() == 1:
            return 1
    return 2 if passages else 1

def pass_on(list passages not None, message):
    """Send a packed message through all of these that are open, in any thread. Returns the others, whose owner is to
    call `arrived` and to send it; what comes later waits for that."""
    cdef Py_ssize_t k = 0, n = len(passages)
    cdef list left = []
    cdef Passage passage
    cdef Passing* each
    cdef bytes wire
    cdef list wires = [None, None, None]    # by header version
    cdef list needed = []
    cdef Passing* all = <Passing*>malloc(max(n, 1) * sizeof(Passing))
    if all == NULL:
        raise MemoryError
    try:
        for k in range(n):
            passage = passages[k]
            version = passage.protocol.current()
            if wires[version] is None:
                wires[version] = message.whole(version) or b""  # b"": the owner sends it, changed
            wire = wires[version]
            all[k].way = &passage.way
            all[k].size = len(wire)
            all[k].wire = <const uint8_t*>PyBytes_AsString(wire) if wire else NULL
            needed.append(wire)
        k = 0
        while k < n:
            with nogil:
                while k < n:
                    each = &all[k]
                    each.sent = let_pass(each.way, each.wire, each.size, True)
                    k += 1
                    if 0 < each.sent < each.size:
                        break
            each = &all[k - 1]
            if 0 < each.sent < each.size:
                passage = passages[k - 1]
                passage.keep(needed[k - 1], each.sent)
        for k in range(n):
            passage = passages[k]
            if all[k].sent == 0:
                left.append(passage)
            elif all[k].sent == all[k].size:
                passage.protocol.stats.count_sent(needed[k], all[k].size)
        return left
    finally:
        free(all)
