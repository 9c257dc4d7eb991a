/* Bytes of the wire: loads, stores and swaps of big-endian numbers, matrices, time stamps, the header,
 * and how a header is told from other bytes (docs/protocol.md sections 1, 2 and 5). No Python: the
 * compiled parts of igtl include it by way of _wire.pxd, tests/wire_check.c tests it by itself.
 *
 * Rules. Nothing here allocates or fails but by its result. A pointer to the wire needs no alignment,
 * a pointer to native numbers has theirs. No size is read twice where it matters that it stays the
 * same: the memory may change meanwhile.
 */
#ifndef IGTL_WIRE_H
#define IGTL_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    IGTL_HEADER = 58,   /* bytes */
    IGTL_EXTENDED = 12, /* bytes that every extended header has */
    IGTL_MAX_NAME = 255 /* bytes of a device name in the metadata */
};
#define IGTL_MAX_BLOCK (PTRDIFF_MAX / 2) /* bytes of a message: sums of two of them fit */

/* ---- numbers: shifts, which compilers turn into one access and a byte swap ---- */

static inline uint16_t igtl_get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t igtl_get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline uint64_t igtl_get64(const uint8_t *p)
{
    return (uint64_t)igtl_get32(p) << 32 | igtl_get32(p + 4);
}

/* Stores swap first and write at once: of single bytes one after the other, compilers make neither a
 * swap nor one access where there are several numbers. */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define IGTL_BIG(swapped, v) (v)
#else
#define IGTL_BIG(swapped, v) (swapped)
#endif

static inline uint32_t igtl_swap32(uint32_t v)
{
    return v >> 24 | (v >> 8 & 0xff00u) | (v << 8 & 0xff0000u) | v << 24;
}

static inline void igtl_put16(uint8_t *p, uint16_t v)
{
    v = IGTL_BIG((uint16_t)(v >> 8 | v << 8), v);
    memcpy(p, &v, 2);
}

static inline void igtl_put32(uint8_t *p, uint32_t v)
{
    v = IGTL_BIG(igtl_swap32(v), v);
    memcpy(p, &v, 4);
}

static inline void igtl_put64(uint8_t *p, uint64_t v)
{
    v = IGTL_BIG((uint64_t)igtl_swap32((uint32_t)v) << 32 | igtl_swap32((uint32_t)(v >> 32)), v);
    memcpy(p, &v, 8);
}

/* Of 1, 2, 4 or 8 bytes. */
static inline uint64_t igtl_get_int(const uint8_t *p, int size)
{
    switch (size) {
    case 1: return p[0];
    case 2: return igtl_get16(p);
    case 4: return igtl_get32(p);
    default: return igtl_get64(p);
    }
}

static inline void igtl_put_int(uint8_t *p, int size, uint64_t v)
{
    switch (size) {
    case 1: p[0] = (uint8_t)v; break;
    case 2: igtl_put16(p, (uint16_t)v); break;
    case 4: igtl_put32(p, (uint32_t)v); break;
    default: igtl_put64(p, v);
    }
}

/* The number that these low bytes are in two's complement. */
static inline int64_t igtl_sign_extend(uint64_t v, int size)
{
    const uint64_t sign = (uint64_t)1 << (8 * size - 1);
    return (int64_t)((v ^ sign) - sign);
}

/* n numbers of so many bytes each, from the wire to native order. */
static inline void igtl_swap_in(uint8_t *to, const uint8_t *wire, ptrdiff_t n, int size)
{
    ptrdiff_t i;
    if (size == 1)
        memcpy(to, wire, (size_t)n);
    else if (size == 2)
        for (i = 0; i < n; i++)
            ((uint16_t *)to)[i] = igtl_get16(wire + 2 * i);
    else if (size == 4)
        for (i = 0; i < n; i++)
            ((uint32_t *)to)[i] = igtl_get32(wire + 4 * i);
    else
        for (i = 0; i < n; i++)
            ((uint64_t *)to)[i] = igtl_get64(wire + 8 * i);
}

/* The way back. */
static inline void igtl_swap_out(uint8_t *wire, const uint8_t *native, ptrdiff_t n, int size)
{
    ptrdiff_t i;
    if (size == 1)
        memcpy(wire, native, (size_t)n);
    else if (size == 2)
        for (i = 0; i < n; i++)
            igtl_put16(wire + 2 * i, ((const uint16_t *)native)[i]);
    else if (size == 4)
        for (i = 0; i < n; i++)
            igtl_put32(wire + 4 * i, ((const uint32_t *)native)[i]);
    else
        for (i = 0; i < n; i++)
            igtl_put64(wire + 8 * i, ((const uint64_t *)native)[i]);
}

/* The same for numbers that are little-endian on the wire, whatever the order of this machine. */
static inline void igtl_little_in(uint8_t *to, const uint8_t *wire, ptrdiff_t n, int size)
{
    uint8_t mirrored[8];
    ptrdiff_t i;
    int k;
    for (i = 0; i < n; i++) {
        for (k = 0; k < size; k++)
            mirrored[k] = wire[size * i + size - 1 - k];
        igtl_swap_in(to + size * i, mirrored, 1, size);
    }
}

static inline void igtl_little_out(uint8_t *wire, const uint8_t *native, ptrdiff_t n, int size)
{
    uint64_t number = 0;
    uint8_t *mirrored = (uint8_t *)&number;
    ptrdiff_t i;
    int k;
    for (i = 0; i < n; i++) {
        igtl_swap_out(mirrored, native + size * i, 1, size);
        for (k = 0; k < size; k++)
            wire[size * i + k] = mirrored[size - 1 - k];
    }
}

/* ---- tables: rows that lie `stride` bytes apart on the wire, and without gaps in memory ---- */

/* Without a call where the size is that of a usual field. */
static inline void igtl_copy_cell(uint8_t *to, const uint8_t *from, ptrdiff_t size)
{
    ptrdiff_t k;
    if (size == 1)
        to[0] = from[0];
    else if (size == 4)
        memcpy(to, from, 4);
    else if (size < 16)
        memcpy(to, from, (size_t)size);
    else {
        for (k = 0; k < size - 16; k += 16)
            memcpy(to + k, from + k, 16);
        memcpy(to + size - 16, from + size - 16, 16); /* some of them twice */
    }
}

static inline void igtl_cells_in(uint8_t *to, const uint8_t *wire, ptrdiff_t stride, ptrdiff_t rows,
                                 ptrdiff_t size)
{
    for (ptrdiff_t k = 0; k < rows; k++)
        igtl_copy_cell(to + size * k, wire + stride * k, size);
}

static inline void igtl_cells_out(uint8_t *wire, ptrdiff_t stride, const uint8_t *from, ptrdiff_t rows,
                                  ptrdiff_t size)
{
    for (ptrdiff_t k = 0; k < rows; k++)
        igtl_copy_cell(wire + stride * k, from + size * k, size);
}

/* n numbers of so many bytes each in every row. */
static inline void igtl_swap_rows_in(uint8_t *to, const uint8_t *wire, ptrdiff_t stride, ptrdiff_t rows,
                                     ptrdiff_t n, int size)
{
    if (size == 1)
        igtl_cells_in(to, wire, stride, rows, n);
    else
        for (ptrdiff_t k = 0; k < rows; k++)
            igtl_swap_in(to + size * n * k, wire + stride * k, n, size);
}

static inline void igtl_swap_rows_out(uint8_t *wire, ptrdiff_t stride, const uint8_t *native,
                                      ptrdiff_t rows, ptrdiff_t n, int size)
{
    if (size == 1)
        igtl_cells_out(wire, stride, native, rows, n);
    else
        for (ptrdiff_t k = 0; k < rows; k++)
            igtl_swap_out(wire + stride * k, native + size * n * k, n, size);
}

static inline void igtl_little_rows_in(uint8_t *to, const uint8_t *wire, ptrdiff_t stride,
                                       ptrdiff_t rows, ptrdiff_t n, int size)
{
    for (ptrdiff_t k = 0; k < rows; k++)
        igtl_little_in(to + size * n * k, wire + stride * k, n, size);
}

static inline void igtl_little_rows_out(uint8_t *wire, ptrdiff_t stride, const uint8_t *native,
                                        ptrdiff_t rows, ptrdiff_t n, int size)
{
    for (ptrdiff_t k = 0; k < rows; k++)
        igtl_little_out(wire + stride * k, native + size * n * k, n, size);
}

/* Twelve wire numbers, column by column, to a row-major 4x4 (section 1.2). */
static inline void igtl_matrix_in(float *m, const uint8_t *wire)
{
    for (int c = 0; c < 4; c++)
        for (int r = 0; r < 3; r++)
            ((uint32_t *)m)[4 * r + c] = igtl_get32(wire + 4 * (3 * c + r));
    m[12] = m[13] = m[14] = 0;
    m[15] = 1;
}

/* The way back. 0: the fourth row is not 0 0 0 1. */
static inline int igtl_matrix_out(uint8_t *wire, const float *m)
{
    for (int c = 0; c < 4; c++)
        for (int r = 0; r < 3; r++)
            igtl_put32(wire + 4 * (3 * c + r), ((const uint32_t *)m)[4 * r + c]);
    return m[12] == 0 && m[13] == 0 && m[14] == 0 && m[15] == 1;
}

/* ---- time stamps: Q32.32 seconds, rounded to nearest, which loses no nanosecond ---- */

static inline uint64_t igtl_raw_time(uint64_t seconds, uint64_t ns)
{
    return (seconds << 32) + ((ns << 32) + 500000000u) / 1000000000u;
}

static inline uint64_t igtl_raw_of(uint64_t ns)
{
    return igtl_raw_time(ns / 1000000000u, ns % 1000000000u);
}

static inline uint64_t igtl_ns_of(uint64_t raw)
{
    return (raw >> 32) * 1000000000u + (((raw & 0xffffffffu) * 1000000000u + 0x80000000u) >> 32);
}

/* ---- text ---- */

/* Bytes in front of the first NUL, or all. */
static inline ptrdiff_t igtl_text_size(const uint8_t *p, ptrdiff_t size)
{
    const uint8_t *end = (const uint8_t *)memchr(p, 0, (size_t)size);
    return end == NULL ? size : end - p;
}

static inline int igtl_are_zeros(const uint8_t *p, ptrdiff_t n)
{
    for (ptrdiff_t k = 0; k < n; k++)
        if (p[k])
            return 0;
    return 1;
}

/* Bytes of a character of UTF-8 that begins so. */
static inline int igtl_width_of(uint8_t first)
{
    return first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 1;
}

/* ---- header ---- */

static inline void igtl_put_header(uint8_t *p, int version, const uint8_t *type12,
                                   const uint8_t *name20, uint64_t timestamp, uint64_t body_size,
                                   uint64_t crc)
{
    igtl_put16(p, (uint16_t)version);
    memcpy(p + 2, type12, 12);
    memcpy(p + 14, name20, 20);
    igtl_put64(p + 34, timestamp);
    igtl_put64(p + 42, body_size);
    igtl_put64(p + 50, crc);
}

/* Sizes that an extended header announces, in bytes. */
typedef struct {
    uint16_t ext;  /* of itself */
    uint16_t head; /* of the metadata's index */
    uint32_t data; /* of the metadata */
} igtl_extended;

/* 0: they contradict each other or the body, which has `body` bytes; at least 12 are there. */
static inline int igtl_read_extended(const uint8_t *p, uint64_t body, igtl_extended *out)
{
    out->ext = igtl_get16(p);
    out->head = igtl_get16(p + 2);
    out->data = igtl_get32(p + 4);
    return out->ext >= IGTL_EXTENDED && out->head >= 2 &&
           (uint64_t)out->ext + out->head + out->data <= body;
}

/* Where the content of a message lies. */
typedef struct {
    const uint8_t *p;
    ptrdiff_t size;
    const uint8_t *next; /* message, behind this one */
} igtl_content;

/* Of the message at p, in memory that ends at `end`. 0: it is cut, or its extended header
 * contradicts itself. */
static inline int igtl_content_of(const uint8_t *p, const uint8_t *end, igtl_content *out)
{
    uint64_t body;
    int version;
    igtl_extended e;
    memset(out, 0, sizeof *out);
    if (end - p < IGTL_HEADER)
        return 0;
    body = igtl_get64(p + 42);
    if (body > (uint64_t)(end - p - IGTL_HEADER))
        return 0;
    out->p = p + IGTL_HEADER;
    out->size = (ptrdiff_t)body;
    out->next = out->p + body;
    version = igtl_get16(p);
    if (version < 2)
        return 1;
    if (version > 2 || body < IGTL_EXTENDED || !igtl_read_extended(out->p, body, &e))
        return 0;
    out->p += e.ext;
    out->size -= (ptrdiff_t)((uint64_t)e.ext + e.head + e.data);
    return 1;
}

/* The device name of the message of this size at p, which ends at `end` and of which the last `tail`
 * bytes lie there: 20 bytes of its header; or IGTL_DEVICE_NAME of its metadata, if the header has as
 * much of that as 20 bytes can hold. The result is its size. */
static inline ptrdiff_t igtl_stream_name(const uint8_t *p, ptrdiff_t size, const uint8_t *end,
                                         ptrdiff_t tail, const uint8_t **name)
{
    ptrdiff_t shown = 20, mh, ms, at = 0, found = 0, length, value, count, k;
    const uint8_t *head, *full;
    *name = p + 14;
    /* a shorter name was not cut: it costs no look at the metadata */
    if (p[14 + 16] == 0 || igtl_get16(p) != 2 || size < IGTL_HEADER + IGTL_EXTENDED)
        return 20;
    mh = igtl_get16(p + IGTL_HEADER + 2);
    ms = (ptrdiff_t)igtl_get32(p + IGTL_HEADER + 4);
    if (mh < 10 || IGTL_HEADER + igtl_get16(p + IGTL_HEADER) + mh + ms > size || mh + ms > tail)
        return 20;
    head = end - ms - mh;
    full = end - ms;
    count = igtl_get16(head);
    if (2 + 8 * count > mh)
        return 20;
    for (k = 0; k < count; k++) {
        length = igtl_get16(head + 2 + 8 * k);
        value = (ptrdiff_t)igtl_get32(head + 6 + 8 * k);
        if (length + value > ms - at)
            return 20;
        if (length == 16 && memcmp(full + at, "IGTL_DEVICE_NAME", 16) == 0) {
            *name = full + at + 16;
            found = value;
        }
        at += length + value;
    }
    while (p[14 + shown - 1] == 0)
        shown--;
    if (at == ms && 20 < found && found <= IGTL_MAX_NAME && memcmp(*name, p + 14, (size_t)shown) == 0 &&
        (shown == 20 || shown + igtl_width_of((*name)[shown]) > 20) &&
        memchr(*name, 0, (size_t)found) == NULL)
        return found;
    *name = p + 14;
    return 20;
}

/* ---- headers among other bytes ---- */

/* Whether these 5 bytes begin an alert or a handshake of TLS: no header begins so. */
static inline int igtl_is_tls_record(const uint8_t *p)
{
    return (p[0] == 0x15 || p[0] == 0x16) && p[1] == 3 && p[2] <= 4;
}

/* Capital letters, digits and underscores, a letter first, then zeros. */
static inline int igtl_is_name(const uint8_t *p, ptrdiff_t size)
{
    ptrdiff_t k = 0;
    if (p[0] < 'A' || p[0] > 'Z')
        return 0;
    while (k < size && ((p[k] >= 'A' && p[k] <= 'Z') || (p[k] >= '0' && p[k] <= '9') || p[k] == '_'))
        k++;
    return igtl_are_zeros(p + k, size - k);
}

/* Whether these 14 bytes can be the first ones of a message. */
static inline int igtl_begins_message(const uint8_t *p)
{
    return p[0] == 0 && (p[1] == 1 || p[1] == 2) && igtl_is_name(p + 2, 12);
}

/* Whether these 58 bytes, which stand where a header is expected, can be one. */
static inline int igtl_can_be_header(const uint8_t *p, uint64_t max_size)
{
    ptrdiff_t k = 0;
    while (k < 12 && p[2 + k] > 32 && p[2 + k] < 127)
        k++;
    return k > 0 && igtl_are_zeros(p + 2 + k, 12 - k) && igtl_get16(p) <= 2 &&
           igtl_get64(p + 42) <= max_size - IGTL_HEADER;
}

/* Whether these 58 bytes, which stand anywhere, are a header most likely. */
static inline int igtl_is_header(const uint8_t *p, uint64_t max_size)
{
    ptrdiff_t k = 0;
    while (k < 20 && p[14 + k] >= 32)
        k++;
    return igtl_begins_message(p) && igtl_are_zeros(p + 14 + k, 20 - k) &&
           igtl_get64(p + 42) <= max_size - IGTL_HEADER &&
           (igtl_get64(p + 42) > 0 || igtl_get64(p + 50) == 0);
}

/* Where among these bytes, at least 12, the header at p stands again; if it has come in part, at the
 * end. -1: nowhere. */
static inline ptrdiff_t igtl_same_header(const uint8_t *p, ptrdiff_t size)
{
    const uint8_t *at = p + 3; /* of a type's first letter, which is rarer than the zeros before it */
    const uint8_t *end = p + size - 12;
    while (at < end) {
        ptrdiff_t left;
        at = (const uint8_t *)memchr(at, p[2], (size_t)(end - at));
        if (at == NULL)
            return -1;
        left = p + size - at + 2;
        if (memcmp(at - 2, p, (size_t)(left < IGTL_HEADER ? left : IGTL_HEADER)) == 0)
            return at - 2 - p;
        at++;
    }
    return -1;
}

/* Where behind the first of these bytes a header begins most likely. -1: nowhere. */
static inline ptrdiff_t igtl_next_header(const uint8_t *p, ptrdiff_t size, uint64_t max_size)
{
    for (ptrdiff_t i = 1; i <= size - IGTL_HEADER; i++)
        if (p[i] == 0 && igtl_is_header(p + i, max_size))
            return i;
    return -1;
}

#endif
