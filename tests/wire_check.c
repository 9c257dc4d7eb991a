/* igtl/_wire.h by itself: numbers against their bytes written out, headers against each other, and no
 * byte read or written beyond what it was given (tests/test_wire.py runs it under AddressSanitizer, where
 * the compiler has that). For CPUs other than the one the Python tests run on: ci/crc-arm. */
#include <stdio.h>
#include <stdlib.h>

#include "_wire.h"

static int failed = 0, passed = 0;
#define CHECK(what)                                                     \
    do {                                                                \
        if (what)                                                       \
            passed++;                                                   \
        else                                                            \
            failed++, printf("line %d: %s\n", __LINE__, #what);         \
    } while (0)

/* Memory of exactly this size, so that a step beyond it is seen. */
static uint8_t *copy_of(const void *bytes, size_t size)
{
    uint8_t *p = malloc(size ? size : 1);
    memcpy(p, bytes, size);
    return p;
}

static void numbers(void)
{
    static const uint8_t wire[] = {0x81, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08};
    CHECK(igtl_get16(wire) == 0x8102);
    CHECK(igtl_get32(wire) == 0x81020304u);
    CHECK(igtl_get64(wire) == 0x8102030405060708ull);
    for (int size = 1; size <= 8; size *= 2) {
        uint8_t out[9] = {0};
        uint64_t v = igtl_get_int(wire, size);
        CHECK(v == igtl_get64(wire) >> (64 - 8 * size));
        igtl_put_int(out, size, v);
        CHECK(memcmp(out, wire, (size_t)size) == 0 && out[size] == 0);
        CHECK(igtl_sign_extend(v, size) < 0);
        CHECK(((uint64_t)igtl_sign_extend(v, size) ^ v) << (64 - 8 * size) == 0);
        CHECK(igtl_sign_extend(v >> 1, size) == (int64_t)(v >> 1));
    }
    CHECK(igtl_sign_extend(0xff, 1) == -1);
    CHECK(igtl_sign_extend(0x8000, 2) == -32768);
}

static void swaps(void)
{
    for (int size = 1; size <= 8; size *= 2)
        for (ptrdiff_t n = 0; n < 20; n++)
            for (int off = 0; off < 8; off++) {
                const size_t bytes = (size_t)(n * size);
                uint8_t *wire = malloc(bytes + 8), *native = malloc(bytes + 1), *back = malloc(bytes + 8);
                int good = 1;
                for (size_t i = 0; i < bytes; i++)
                    wire[off + i] = (uint8_t)(37 * i + 11);
                igtl_swap_in(native, wire + off, n, size);
                for (ptrdiff_t i = 0; i < n; i++) {
                    uint64_t v = 0;
                    uint8_t one = native[i];
                    uint16_t two;
                    uint32_t four;
                    switch (size) {
                    case 1: v = one; break;
                    case 2: memcpy(&two, native + 2 * i, 2), v = two; break;
                    case 4: memcpy(&four, native + 4 * i, 4), v = four; break;
                    default: memcpy(&v, native + 8 * i, 8);
                    }
                    good &= v == igtl_get_int(wire + off + i * size, size);
                }
                igtl_swap_out(back + off, native, n, size);
                CHECK(good && memcmp(back + off, wire + off, bytes) == 0);
                igtl_little_in(native, wire + off, n, size);
                for (ptrdiff_t i = 0; i < n; i++) {
                    uint8_t number[8];
                    igtl_swap_out(number, native + i * size, 1, size);
                    for (int k = 0; k < size; k++)
                        good &= number[k] == wire[off + i * size + size - 1 - k];
                }
                igtl_little_out(back + off, native, n, size);
                CHECK(good && memcmp(back + off, wire + off, bytes) == 0);
                free(wire), free(native), free(back);
            }
}

/* Rows of a table, beside each row by itself; what lies between them on the wire stays as it was. */
static void tables(void)
{
    enum { ROWS = 3, GAP = 5, LARGEST = 8 * 80 };
    static uint8_t wire[ROWS * (LARGEST + GAP)], back[sizeof wire], native[ROWS * LARGEST], row[LARGEST];
    for (size_t i = 0; i < sizeof wire; i++)
        wire[i] = (uint8_t)(37 * i + 11);
    for (int size = 1; size <= 8; size *= 2)
        for (ptrdiff_t n = 1; n <= 80; n++) {
            const ptrdiff_t bytes = n * size, stride = bytes + GAP;
            int good = 1;
            igtl_swap_rows_in(native, wire, stride, ROWS, n, size);
            memset(back, 0, sizeof back);
            igtl_swap_rows_out(back, stride, native, ROWS, n, size);
            for (ptrdiff_t k = 0; k < ROWS; k++) {
                igtl_swap_in(row, wire + stride * k, n, size);
                good &= memcmp(native + bytes * k, row, (size_t)bytes) == 0;
                good &= memcmp(back + stride * k, wire + stride * k, (size_t)bytes) == 0;
                good &= igtl_are_zeros(back + stride * k + bytes, GAP);
            }
            igtl_little_rows_in(native, wire, stride, ROWS, n, size);
            memset(back, 0, sizeof back);
            igtl_little_rows_out(back, stride, native, ROWS, n, size);
            for (ptrdiff_t k = 0; k < ROWS; k++) {
                igtl_little_in(row, wire + stride * k, n, size);
                good &= memcmp(native + bytes * k, row, (size_t)bytes) == 0;
                good &= memcmp(back + stride * k, wire + stride * k, (size_t)bytes) == 0;
                good &= igtl_are_zeros(back + stride * k + bytes, GAP);
            }
            CHECK(good);
        }
}

static void matrices(void)
{
    float m[16], back[16];
    uint8_t *wire = malloc(48);
    for (int i = 0; i < 16; i++)
        m[i] = (float)i / 7;
    CHECK(!igtl_matrix_out(wire, m)); /* the fourth row is no 0 0 0 1 */
    m[12] = m[13] = m[14] = 0;
    m[15] = 1;
    CHECK(igtl_matrix_out(wire, m));
    CHECK(igtl_get32(wire) == 0 && igtl_get32(wire + 4) == 0x3f124925); /* 0, then 4/7: down a column */
    igtl_matrix_in(back, wire);
    CHECK(memcmp(m, back, sizeof m) == 0);
    free(wire);
}

static void times(void)
{
    CHECK(igtl_raw_of(1500000000) == 0x180000000ull);
    for (uint64_t ns = 0; ns < 1000000000u; ns += 99991)
        if (igtl_ns_of(igtl_raw_time(4294967295u, ns)) != 4294967295u * 1000000000ull + ns) {
            CHECK(!"a nanosecond is lost");
            return;
        }
    CHECK(igtl_ns_of(igtl_raw_of(999999999)) == 999999999);
}

/* A message: header, body; the caller frees it. */
static uint8_t *message(int version, const char *type, const char *name, const uint8_t *body, size_t size)
{
    uint8_t type12[12] = {0}, name20[20] = {0}, *p = malloc(IGTL_HEADER + size);
    memcpy(type12, type, strlen(type));
    memcpy(name20, name, strlen(name));
    igtl_put_header(p, version, type12, name20, 5, size, 7);
    memcpy(p + IGTL_HEADER, body, size);
    return p;
}

static void headers(void)
{
    static const uint8_t body[14] = {0, 12, 0, 2}; /* of version 2: nothing but what it must have */
    igtl_content c;
    uint8_t *p = message(2, "STATUS", "Dev", body, 14), *whole;
    CHECK(igtl_get16(p) == 2 && igtl_get64(p + 34) == 5 && igtl_get64(p + 42) == 14 && igtl_get64(p + 50) == 7);
    CHECK(igtl_content_of(p, p + 72, &c) && c.p == p + 70 && c.size == 0 && c.next == p + 72);
    for (ptrdiff_t n = 0; n < 72; n++) {
        whole = copy_of(p, (size_t)n);
        CHECK(!igtl_content_of(whole, whole + n, &c));
        free(whole);
    }
    for (int at = 0; at < 8; at++) { /* each size of the extended header, wrong */
        static const uint8_t bad[8] = {0xff, 11, 0xff, 1, 0x80, 1, 1, 1};
        uint8_t was = p[58 + at];
        p[58 + at] = bad[at];
        CHECK(!igtl_content_of(p, p + 72, &c));
        p[58 + at] = was;
    }
    igtl_put16(p, 3);
    CHECK(!igtl_content_of(p, p + 72, &c));
    igtl_put16(p, 1);
    CHECK(igtl_content_of(p, p + 72, &c) && c.p == p + 58 && c.size == 14);
    CHECK(igtl_is_header(p, 1000) && igtl_can_be_header(p, 1000) && !igtl_can_be_header(p, 71));
    igtl_put64(p + 42, UINT64_MAX);
    CHECK(!igtl_content_of(p, p + 72, &c) && !igtl_is_header(p, 1000));
    free(p);
    CHECK(igtl_is_tls_record((const uint8_t *)"\x16\x03\x01\x02\x00") && !igtl_is_tls_record((const uint8_t *)"\0\1TRA"));
}

static void long_names(void)
{
    static const char name[] = "A device name of more than 20 bytes";
    const size_t n = sizeof name - 1, size = 12 + 10 + 16 + n;
    uint8_t *body = calloc(1, size), *p;
    const uint8_t *found;
    ptrdiff_t whole = (ptrdiff_t)(IGTL_HEADER + size);
    igtl_put16(body, 12);
    igtl_put16(body + 2, 10);
    igtl_put32(body + 4, (uint32_t)(16 + n));
    igtl_put16(body + 12, 1);
    igtl_put16(body + 14, 16);
    igtl_put16(body + 16, 3);
    igtl_put32(body + 18, (uint32_t)n);
    memcpy(body + 22, "IGTL_DEVICE_NAME", 16);
    memcpy(body + 38, name, n);
    p = message(2, "STATUS", "A device name of mor", body, size);
    CHECK(igtl_stream_name(p, whole, p + whole, whole, &found) == (ptrdiff_t)n && memcmp(found, name, n) == 0);
    p[14] = 'B'; /* another name: the header's counts */
    CHECK(igtl_stream_name(p, whole, p + whole, whole, &found) == 20 && found == p + 14);
    p[14] = 'A';
    for (size_t at = IGTL_HEADER; at < IGTL_HEADER + 22; at++) /* whatever its sizes say, it stays inside */
        for (int byte = 0; byte < 256; byte += 5) {
            uint8_t *other = copy_of(p, (size_t)whole);
            ptrdiff_t m;
            other[at] = (uint8_t)byte;
            m = igtl_stream_name(other, whole, other + whole, whole, &found);
            CHECK(m >= 20 && found >= other && found + m <= other + whole);
            free(other);
        }
    free(p), free(body);
}

static void finding(void)
{
    uint8_t noise[200], *p = message(1, "TRANSFORM", "Probe", (const uint8_t *)"body", 4), *all;
    for (int i = 0; i < 200; i++)
        noise[i] = (uint8_t)(i * 7 + 1);
    for (size_t at = 1; at < 60; at++) {
        memcpy(noise + at, p, IGTL_HEADER);
        all = copy_of(noise, at + IGTL_HEADER);
        CHECK(igtl_next_header(all, (ptrdiff_t)at + IGTL_HEADER, 1000) == (ptrdiff_t)at);
        CHECK(igtl_next_header(all, (ptrdiff_t)at + IGTL_HEADER - 1, 1000) == -1);
        free(all);
        noise[at] = 9;
    }
    for (size_t cut = IGTL_HEADER; cut <= 62; cut++) { /* of a message that begins once more, all or in part */
        for (size_t again = 12; again <= 62; again++) {
            all = malloc(cut + again);
            memcpy(all, p, cut);
            memcpy(all + cut, p, again);
            CHECK(igtl_same_header(all, (ptrdiff_t)(cut + again)) == (again > 14 ? (ptrdiff_t)cut : -1));
            free(all);
        }
    }
    free(p);
}

int main(void)
{
    numbers();
    swaps();
    tables();
    matrices();
    times();
    headers();
    long_names();
    finding();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
