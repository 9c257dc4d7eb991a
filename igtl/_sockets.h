/* The system calls that every message passes: what the socket and time modules of Python do too, without an
 * object for what is sent or received. No Python: _stream.pyx includes it.
 *
 * Rules. A negative result is an errno. Nothing is tried again after a signal: the caller has to look what
 * the signal was.
 */
#ifndef IGTL_SOCKETS_H
#define IGTL_SOCKETS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Bytes of a stream. Not on Windows, where the transports use Python's sockets and nothing calls these. */

#if defined(_WIN32)

#define igtl_recv(fd, p, room) (-1)
#define igtl_recv_now(fd, p, room) (-1)
#define igtl_send(fd, p, size) (-1)
#define igtl_send_now(fd, p, size) (-1)
#define igtl_poll(fd, milliseconds) (-1)

#else

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

static inline ptrdiff_t igtl_recv(int fd, void *p, size_t room)
{
    ptrdiff_t n = recv(fd, p, room, 0);
    return n < 0 ? -errno : n;
}

/* As igtl_recv, but it never waits. */
static inline ptrdiff_t igtl_recv_now(int fd, void *p, size_t room)
{
    ptrdiff_t n = recv(fd, p, room, MSG_DONTWAIT);
    return n < 0 ? -errno : n;
}

static inline ptrdiff_t igtl_send(int fd, const void *p, size_t size)
{
    ptrdiff_t n = send(fd, p, size, 0);
    return n < 0 ? -errno : n;
}

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS; Python ignores that signal */
#endif

/* As igtl_send, but it never waits. */
static inline ptrdiff_t igtl_send_now(int fd, const void *p, size_t size)
{
    ptrdiff_t n = send(fd, p, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    return n < 0 ? -errno : n;
}

/* 1: there are bytes to read, or the end; 0: not in this time. */
static inline int igtl_poll(int fd, int milliseconds)
{
    struct pollfd readable = {fd, POLLIN, 0};
    int n = poll(&readable, 1, milliseconds);
    return n < 0 ? -errno : n;
}

#endif

/* Datagrams, with where they came from and when the kernel got them. Only on Linux, where shutdown() wakes a
 * thread that waits for one. Elsewhere IGTL_DATAGRAMS is 0, and nothing else of them is called. And the
 * seconds of time.monotonic(), where they are those of this clock, and how late the system wakes a thread;
 * elsewhere 0. */

enum { IGTL_HOST = 46 }; /* bytes of the longest host as text, and of the NUL behind it */

#if defined(__linux__)

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <time.h>

enum {
    IGTL_DATAGRAMS = 1,
    IGTL_NOTHING = -EAGAIN,     /* came, or could be sent */
    IGTL_SIGNAL = -EINTR,
    IGTL_REFUSED = -ECONNREFUSED
};

static inline int igtl_monotonic(double *seconds)
{
    struct timespec t;
    if (clock_gettime(CLOCK_MONOTONIC, &t))
        return 0;
    *seconds = (double)(t.tv_sec * 1000000000LL + t.tv_nsec) / 1e9;
    return 1;
}

/* The nanoseconds by which the system may wake this thread late, to wake others with it; before. */
static inline unsigned long igtl_slack(unsigned long nanoseconds)
{
    int before = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
    return prctl(PR_SET_TIMERSLACK, nanoseconds, 0, 0, 0) || before < 0 ? 0 : (unsigned long)before;
}

typedef struct {
    socklen_t size; /* 0: none */
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } at;
} igtl_address;

static inline int igtl_same_address(const igtl_address *a, const igtl_address *b)
{
    return a->size == b->size && memcmp(&a->at, &b->at, a->size) == 0;
}

/* packed: the host, 4 or 16 bytes. */
static inline void igtl_put_address(
    igtl_address *to, const void *packed, size_t size, uint16_t port, uint32_t flow, uint32_t scope)
{
    memset(to, 0, sizeof *to);
    if (size == 4) {
        to->size = sizeof to->at.v4;
        to->at.v4.sin_family = AF_INET;
        to->at.v4.sin_port = htons(port);
        memcpy(&to->at.v4.sin_addr, packed, 4);
    } else if (size == 16) {
        to->size = sizeof to->at.v6;
        to->at.v6.sin6_family = AF_INET6;
        to->at.v6.sin6_port = htons(port);
        to->at.v6.sin6_flowinfo = htonl(flow);
        to->at.v6.sin6_scope_id = scope;
        memcpy(&to->at.v6.sin6_addr, packed, 16);
    }
}

/* Whether it has the numbers that only IPv6 has. */
static inline int igtl_get_address(
    const igtl_address *from, char *host, uint16_t *port, uint32_t *flow, uint32_t *scope)
{
    host[0] = 0;
    if (from->at.any.sa_family != AF_INET6) {
        *port = ntohs(from->at.v4.sin_port);
        inet_ntop(AF_INET, &from->at.v4.sin_addr, host, IGTL_HOST);
        return 0;
    }
    *port = ntohs(from->at.v6.sin6_port);
    *flow = ntohl(from->at.v6.sin6_flowinfo);
    *scope = from->at.v6.sin6_scope_id;
    inet_ntop(AF_INET6, &from->at.v6.sin6_addr, host, IGTL_HOST);
    return 1;
}

/* Bytes that were sent, or IGTL_NOTHING. waits: for room, where the socket does. */
static inline ptrdiff_t igtl_sendto(int fd, const uint8_t *p, size_t size, const igtl_address *to, int waits)
{
    ssize_t n = sendto(fd, p, size, waits ? 0 : MSG_DONTWAIT, &to->at.any, to->size);
    return n < 0 ? -errno : n;
}

/* Bytes that came, at most `room`, or IGTL_NOTHING: perhaps before the seconds are over. Infinity waits
 * without end. *stamp: seconds since 1970, or 0. */
static inline ptrdiff_t igtl_recvmsg(
    int fd, uint8_t *p, size_t room, double seconds, igtl_address *from, double *stamp)
{
    const int for_ever = seconds > 1e9;
    struct iovec to = {p, room};
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(2 * sizeof(int64_t))];
    } beside;
    struct msghdr m;
    struct cmsghdr *c;
    ssize_t n;
    memset(&m, 0, sizeof m);
    m.msg_name = &from->at;
    m.msg_iov = &to;
    m.msg_iovlen = 1;
    for (;;) {
        struct pollfd readable = {fd, POLLIN, 0};
        struct timespec left;
        int ready;
        m.msg_namelen = sizeof from->at;
        m.msg_control = &beside;
        m.msg_controllen = sizeof beside;
        n = recvmsg(fd, &m, for_ever ? 0 : MSG_DONTWAIT);
        if (n >= 0)
            break;
        if (errno != EAGAIN || seconds <= 0)
            return -errno;
        left.tv_sec = for_ever ? 0 : (time_t)seconds;
        left.tv_nsec = for_ever ? 0 : (long)(1e9 * (seconds - (double)left.tv_sec));
        ready = ppoll(&readable, 1, for_ever ? NULL : &left, NULL);
        if (ready <= 0)
            return ready ? -errno : IGTL_NOTHING;
        if (!for_ever)
            seconds = 0;
    }
    from->size = m.msg_namelen;
    *stamp = 0;
    for (c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPNS
            && c->cmsg_len == CMSG_LEN(2 * sizeof(int64_t))) {
            int64_t t[2];
            memcpy(t, CMSG_DATA(c), sizeof t);
            *stamp = (double)t[0] + 1e-9 * (double)t[1];
        }
    return n;
}

#else

enum { IGTL_DATAGRAMS = 0, IGTL_NOTHING = -1, IGTL_SIGNAL = -2, IGTL_REFUSED = -3 };
#define igtl_monotonic(seconds) 0
#define igtl_slack(nanoseconds) 0
typedef struct {
    int size;
} igtl_address;
#define igtl_same_address(a, b) 0
#define igtl_put_address(to, packed, size, port, flow, scope) ((void)0)
#define igtl_get_address(from, host, port, flow, scope) 0
#define igtl_sendto(fd, p, size, to, waits) IGTL_NOTHING
#define igtl_recvmsg(fd, p, room, seconds, from, stamp) IGTL_NOTHING

#endif
#endif
