/* CRC-64 of OpenIGTLink (CRC-64/ECMA-182: polynomial 0x42F0E1EBA9EA3693, most significant
 * bit first, initial value 0, no reflection, no final xor; docs/protocol.md section 4).
 *
 * Strategy. Every form takes a running register and returns the next one, so a CRC can be
 * continued over scattered buffers. The fastest form that the CPU has is chosen at run time:
 *
 *   portable     slicing-by-16: sixteen tables, sixteen bytes a step
 *   clmul        folding of four 128-bit lanes by carry-less multiplication
 *                (PCLMULQDQ on x86-64, PMULL on ARMv8: one algorithm, two sets of primitives)
 *   vpclmul256   the same over 256-bit registers (VPCLMULQDQ with AVX2)
 *   vpclmul512   the same over 512-bit registers (VPCLMULQDQ with AVX-512)
 *
 * The environment variable IGTL_CRC names another one, for tests and measurements.
 *
 * The folding forms take the odd bytes (length mod 16) first, right-aligned and zero-filled:
 * leading zeros do not change an MSB-first CRC whose register is zero, so there is neither a
 * tail shuffle nor a read past the end. The last blocks, and all of a short message, are each
 * moved over their own distance: multiplications that do not wait for each other. Barrett
 * reduction ends them. Each function carries its own target attribute, so that one object file
 * serves every CPU; a compiler or CPU without the instructions leaves the portable form.
 */
#ifndef IGTL_CRC64_H
#define IGTL_CRC64_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define IGTL_CRC64_POLY 0x42F0E1EBA9EA3693ULL

typedef uint64_t (*igtl_crc64_fn)(const uint8_t *, size_t, uint64_t);
typedef uint64_t (*igtl_crc64_copy_fn)(uint8_t *, const uint8_t *, size_t, uint64_t);

/* Copies of this size and more are written past the caches: none holds them. */
#define IGTL_CRC64_LARGE ((size_t)8 << 20)

/* ---- portable ------------------------------------------------------------------------- */

static uint64_t igtl_crc64_table[16][256];

/* What moves a block ahead by i blocks: x^(128 i) and x^(128 i + 64) mod P. */
#if defined(_MSC_VER) && !defined(__clang__)
__declspec(align(16)) static uint64_t igtl_crc64_far[17][2];
#else
static uint64_t igtl_crc64_far[17][2] __attribute__((aligned(16)));
#endif

static void igtl_crc64_make_tables(void)
{
    for (unsigned i = 0; i < 256; i++) {
        uint64_t c = (uint64_t)i << 56;
        for (int bit = 0; bit < 8; bit++)
            c = (c >> 63) ? (c << 1) ^ IGTL_CRC64_POLY : c << 1;
        igtl_crc64_table[0][i] = c;
    }
    for (int t = 1; t < 16; t++)
        for (int i = 0; i < 256; i++) {
            uint64_t c = igtl_crc64_table[t - 1][i];
            igtl_crc64_table[t][i] = (c << 8) ^ igtl_crc64_table[0][c >> 56];
        }
    uint64_t power = 1; /* of x, mod P */
    for (int k = 0; k < 34; k++) {
        igtl_crc64_far[k / 2][k % 2] = power;
        for (int bit = 0; bit < 64; bit++)
            power = (power >> 63) ? (power << 1) ^ IGTL_CRC64_POLY : power << 1;
    }
}

/* Written with shifts: compilers turn it into one load and a byte swap. */
static inline uint64_t igtl_be64(const uint8_t *p)
{
    return (uint64_t)p[0] << 56 | (uint64_t)p[1] << 48 | (uint64_t)p[2] << 40 |
           (uint64_t)p[3] << 32 | (uint64_t)p[4] << 24 | (uint64_t)p[5] << 16 |
           (uint64_t)p[6] << 8 | p[7];
}

static uint64_t igtl_crc64_portable(const uint8_t *p, size_t n, uint64_t c)
{
    const uint64_t (*t)[256] = (const uint64_t (*)[256])igtl_crc64_table;
    for (; n >= 16; p += 16, n -= 16) {
        uint64_t a = c ^ igtl_be64(p), b = igtl_be64(p + 8);
        c = 0;
        for (int k = 0; k < 8; k++) {
            c ^= t[8 + k][(a >> (8 * k)) & 255];
            c ^= t[k][(b >> (8 * k)) & 255];
        }
    }
    while (n--)
        c = (c << 8) ^ t[0][(c >> 56) ^ *p++];
    return c;
}

/* ---- folding -------------------------------------------------------------------------- */

/* x^128 mod P, and the Barrett quotient x^128 / P. */
#define IGTL_X128 0x05f5c3c7eb52fab6ULL
#define IGTL_MU 0x578d29d06cc4f872ULL

#if !defined(IGTL_CRC64_PORTABLE_ONLY)
#if (defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))) || \
    (defined(_M_X64) && defined(_MSC_VER) && !defined(_M_ARM64EC))
#define IGTL_CRC64_X86 1
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__)) && \
    !defined(__AARCH64EB__) && (defined(__linux__) || defined(__APPLE__))
#define IGTL_CRC64_ARM 1
#endif
#endif

#if defined(IGTL_CRC64_X86)

#include <immintrin.h>
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#define IGTL_CLMUL_TARGET
#define IGTL_VPCLMUL256_TARGET
#define IGTL_VPCLMUL512_TARGET
#define IGTL_CRC64_VPCLMUL 1
#define IGTL_INLINE static __forceinline
#else
#include <cpuid.h>
#define IGTL_INLINE static inline __attribute__((always_inline))
#define IGTL_CLMUL_TARGET __attribute__((target("pclmul,ssse3,sse4.1")))
#if defined(__clang__) ? __clang_major__ >= 7 : __GNUC__ >= 8
#define IGTL_VPCLMUL256_TARGET __attribute__((target("pclmul,ssse3,sse4.1,avx2,vpclmulqdq")))
#define IGTL_VPCLMUL512_TARGET \
    __attribute__((target("pclmul,ssse3,sse4.1,avx2,vpclmulqdq,avx512f,avx512bw,avx512vl,avx512dq")))
#define IGTL_CRC64_VPCLMUL 1
#endif
#endif

typedef __m128i igtl_block;
#define IGTL_K(hi, lo) _mm_set_epi64x((long long)(hi), (long long)(lo))
#define IGTL_XOR(a, b) _mm_xor_si128(a, b)
#define IGTL_SWAP _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define IGTL_LOAD(p) _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(p)), IGTL_SWAP)
#define IGTL_SHUFFLE(a, order) _mm_shuffle_epi8(a, _mm_loadu_si128((const __m128i *)(order)))
#define IGTL_FAR(i) _mm_load_si128((const __m128i *)igtl_crc64_far[i])
#define IGTL_MUL_HI(a, b) _mm_clmulepi64_si128(a, b, 0x11)
#define IGTL_MUL_LO(a, b) _mm_clmulepi64_si128(a, b, 0x00)
#define IGTL_LOW(a) ((uint64_t)_mm_cvtsi128_si64(a))
#define IGTL_PREFETCH(p) _mm_prefetch((const char *)(p), _MM_HINT_T0)

#elif defined(IGTL_CRC64_ARM)

#include <arm_neon.h>
#define IGTL_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define IGTL_CLMUL_TARGET __attribute__((target("aes")))
#else
#define IGTL_CLMUL_TARGET __attribute__((target("+crypto")))
#endif

typedef uint64x2_t igtl_block;
#define IGTL_K(hi, lo) vcombine_u64(vcreate_u64(lo), vcreate_u64(hi))
#define IGTL_XOR(a, b) veorq_u64(a, b)
IGTL_CLMUL_TARGET IGTL_INLINE igtl_block igtl_load(const uint8_t *p)
{
    uint8x16_t v = vrev64q_u8(vld1q_u8(p));
    return vreinterpretq_u64_u8(vextq_u8(v, v, 8));
}
IGTL_CLMUL_TARGET IGTL_INLINE igtl_block igtl_mul(uint64_t a, uint64_t b)
{
    return vreinterpretq_u64_p128(vmull_p64((poly64_t)a, (poly64_t)b));
}
#define IGTL_LOAD(p) igtl_load(p)
#define IGTL_SHUFFLE(a, order) \
    vreinterpretq_u64_u8(vqtbl1q_u8(vreinterpretq_u8_u64(a), vld1q_u8(order)))
#define IGTL_FAR(i) vld1q_u64(igtl_crc64_far[i])
#define IGTL_MUL_HI(a, b) igtl_mul(vgetq_lane_u64(a, 1), vgetq_lane_u64(b, 1))
#define IGTL_MUL_LO(a, b) igtl_mul(vgetq_lane_u64(a, 0), vgetq_lane_u64(b, 0))
#define IGTL_LOW(a) vgetq_lane_u64(a, 0)
#define IGTL_PREFETCH(p) __builtin_prefetch(p)

#endif

#if defined(IGTL_CRC64_X86) || defined(IGTL_CRC64_ARM)
#define IGTL_CRC64_CLMUL 1

/* How far ahead bytes are asked for: without it the out-of-order window holds too few loads (7 against 22 GB/s).
 * The widest registers are as fast as the memory, which such requests only slow down from afar (Zen 4, of 52 MB:
 * 26.6 GB/s so, 20.3 at two kilobytes, 25.7 without), unless they copy as well (Zen 5: 20.0 GB/s at 384 bytes, 22.4
 * at two kilobytes, 23.2 at four). */
enum { IGTL_AHEAD = 2048, IGTL_AHEAD512 = 384, IGTL_AHEAD512_COPY = 4096 };

/* a, moved ahead by the distance whose constants k holds */
#define IGTL_MOVE(a, k) IGTL_XOR(IGTL_MUL_HI(a, k), IGTL_MUL_LO(a, k))
/* the same, plus the data found there */
#define IGTL_FOLD(a, k, d) IGTL_XOR(IGTL_MOVE(a, k), d)

/* (block * x^64) mod P */
IGTL_CLMUL_TARGET IGTL_INLINE uint64_t igtl_reduce(igtl_block a)
{
    igtl_block t = IGTL_XOR(IGTL_MUL_HI(a, IGTL_K(IGTL_X128, 0)), IGTL_K(IGTL_LOW(a), 0));
    igtl_block q = IGTL_XOR(IGTL_MUL_HI(t, IGTL_K(IGTL_MU, 0)), t);
    igtl_block r = IGTL_XOR(IGTL_MUL_HI(q, IGTL_K(IGTL_CRC64_POLY, 0)), t);
    return IGTL_LOW(r);
}

/* The CRC of fewer than 16 bytes. */
IGTL_CLMUL_TARGET IGTL_INLINE uint64_t igtl_few(const uint8_t *p, size_t n, uint64_t crc)
{
    uint64_t hi = 0, lo = 0;
    if (n == 0)
        return crc;
    if (n < 8) { /* part of the register stays above them */
        for (size_t i = 0; i < n; i++)
            lo = lo << 8 | p[i];
        return igtl_reduce(IGTL_K(0, lo ^ crc >> (64 - 8 * n))) ^ crc << (8 * n);
    }
    lo = igtl_be64(p + n - 8);
    if (n == 8) {
        lo ^= crc;
    } else {
        const unsigned s = 8 * (unsigned)(n - 8);
        hi = (igtl_be64(p) ^ crc) >> (64 - s);
        lo ^= crc << s;
    }
    return igtl_reduce(IGTL_K(hi, lo));
}

/* Shifts of a block by bytes: orders for IGTL_SHUFFLE, which makes zero of 0x80. */
static const uint8_t igtl_shift[48] = {
    0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
    0,    1,    2,    3,    4,    5,    6,    7,    8,    9,    10,   11,   12,   13,   14,   15,
    0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80};

/* Of 16 bytes or more, the first n mod 16 with the running register mixed in; what of the register
 * does not fit is left in *carry, to be added to the next block. Advances *pp and *pn. */
IGTL_CLMUL_TARGET IGTL_INLINE igtl_block igtl_head(const uint8_t **pp, size_t *pn, uint64_t crc,
                                                   igtl_block *carry)
{
    const igtl_block running = IGTL_K(crc, 0), first = IGTL_XOR(IGTL_LOAD(*pp), running);
    const size_t r = *pn & 15;
    *pp += r;
    *pn -= r;
    *carry = IGTL_SHUFFLE(running, igtl_shift + 16 - r);
    return IGTL_SHUFFLE(first, igtl_shift + 32 - r);
}

/* The sum of a and of the n / 16 blocks (at least one) at p, each moved to the last one's place. */
IGTL_CLMUL_TARGET IGTL_INLINE igtl_block igtl_gather(igtl_block a, const uint8_t *p, size_t n)
{
    for (; n > 16; p += 16, n -= 16) {
        const igtl_block d = IGTL_LOAD(p), k = IGTL_FAR(n / 16 - 1);
        a = IGTL_XOR(a, IGTL_MOVE(d, k));
    }
    return IGTL_XOR(a, IGTL_LOAD(p));
}

/* The CRC of fewer than 128 bytes. */
IGTL_CLMUL_TARGET IGTL_INLINE uint64_t igtl_short(const uint8_t *p, size_t n, uint64_t crc)
{
    if (n < 16)
        return igtl_few(p, n, crc);
    const size_t blocks = n / 16;
    igtl_block a, first; /* the odd bytes, and what of the register belongs to the first block */
    if (n & 15) {
        a = igtl_head(&p, &n, crc, &first);
        a = IGTL_MOVE(a, IGTL_FAR(blocks));
    } else {
        a = IGTL_K(0, 0);
        first = IGTL_K(crc, 0);
    }
    first = IGTL_XOR(first, IGTL_LOAD(p));
    if (blocks > 1) {
        a = IGTL_XOR(a, IGTL_MOVE(first, IGTL_FAR(blocks - 1)));
        return igtl_reduce(igtl_gather(a, p + 16, n - 16));
    }
    return igtl_reduce(IGTL_XOR(a, first));
}

IGTL_CLMUL_TARGET static uint64_t igtl_crc64_clmul(const uint8_t *p, size_t n, uint64_t crc)
{
    if (n < 128)
        return igtl_short(p, n, crc);
    igtl_block carry, a = igtl_head(&p, &n, crc, &carry);
    const igtl_block k512 = IGTL_FAR(4);
    igtl_block x0 = IGTL_FOLD(a, IGTL_FAR(1), IGTL_XOR(IGTL_LOAD(p), carry));
    igtl_block x1 = IGTL_LOAD(p + 16), x2 = IGTL_LOAD(p + 32), x3 = IGTL_LOAD(p + 48);
    for (p += 64, n -= 64; n >= 64; p += 64, n -= 64) {
        IGTL_PREFETCH(p + IGTL_AHEAD);
        x0 = IGTL_FOLD(x0, k512, IGTL_LOAD(p));
        x1 = IGTL_FOLD(x1, k512, IGTL_LOAD(p + 16));
        x2 = IGTL_FOLD(x2, k512, IGTL_LOAD(p + 32));
        x3 = IGTL_FOLD(x3, k512, IGTL_LOAD(p + 48));
    }
    a = IGTL_XOR(IGTL_XOR(IGTL_MOVE(x0, IGTL_FAR(3)), IGTL_MOVE(x1, IGTL_FAR(2))),
                 IGTL_FOLD(x2, IGTL_FAR(1), x3));
    return igtl_reduce(n ? igtl_gather(IGTL_MOVE(a, IGTL_FAR(n / 16)), p, n) : a);
}
#endif

#if defined(IGTL_CRC64_VPCLMUL)
#define IGTL_MOVEY(a, k) \
    _mm256_xor_si256(_mm256_clmulepi64_epi128(a, k, 0x11), _mm256_clmulepi64_epi128(a, k, 0x00))
#define IGTL_FARY(i) _mm256_broadcastsi128_si256(IGTL_FAR(i))

/* Where the bytes go besides: nowhere, to `to`, or there past the caches. */
enum igtl_way { IGTL_READ, IGTL_COPY, IGTL_COPY_PAST };

/* Past the caches `to` is aligned to 32 bytes. */
IGTL_VPCLMUL256_TARGET IGTL_INLINE __m256i igtl_loady(uint8_t *to, const uint8_t *p, size_t at,
                                                      enum igtl_way way)
{
    const __m256i v = _mm256_loadu_si256((const __m256i *)(p + at));
    if (way == IGTL_COPY)
        _mm256_storeu_si256((__m256i *)(to + at), v);
    if (way == IGTL_COPY_PAST)
        _mm256_stream_si256((__m256i *)(to + at), v);
    return _mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(IGTL_SWAP));
}

/* Of 128 bytes or more; of a multiple of 16 for IGTL_COPY_PAST. */
IGTL_VPCLMUL256_TARGET IGTL_INLINE uint64_t igtl_fold256(uint8_t *to, const uint8_t *p, size_t n,
                                                         uint64_t crc, enum igtl_way way)
{
    if (way == IGTL_COPY) {
        memcpy(to, p, 16); /* the odd bytes; what is more of them is written again */
        to += n & 15;
    }
    const __m256i k1024 = IGTL_FARY(8);
    igtl_block carry, a = igtl_head(&p, &n, crc, &carry);
    a = IGTL_FOLD(a, IGTL_FAR(1), carry);
    __m256i x0 = _mm256_xor_si256(igtl_loady(to, p, 0, way),
                                  _mm256_inserti128_si256(_mm256_setzero_si256(), a, 0));
    __m256i x1 = igtl_loady(to, p, 32, way), x2 = igtl_loady(to, p, 64, way),
            x3 = igtl_loady(to, p, 96, way);
    for (p += 128, n -= 128; n >= 128; p += 128, n -= 128) {
        if (way != IGTL_READ)
            to += 128;
        if (way != IGTL_COPY) { /* what is copied within the caches is mostly in them: 8 % slower */
            IGTL_PREFETCH(p + IGTL_AHEAD);
            IGTL_PREFETCH(p + IGTL_AHEAD + 64);
        }
        x0 = _mm256_xor_si256(IGTL_MOVEY(x0, k1024), igtl_loady(to, p, 0, way));
        x1 = _mm256_xor_si256(IGTL_MOVEY(x1, k1024), igtl_loady(to, p, 32, way));
        x2 = _mm256_xor_si256(IGTL_MOVEY(x2, k1024), igtl_loady(to, p, 64, way));
        x3 = _mm256_xor_si256(IGTL_MOVEY(x3, k1024), igtl_loady(to, p, 96, way));
    }
    if (way != IGTL_READ)
        memcpy(to + 128, p, n);
    x3 = _mm256_xor_si256(
        _mm256_xor_si256(IGTL_MOVEY(x0, IGTL_FARY(6)), IGTL_MOVEY(x1, IGTL_FARY(4))),
        _mm256_xor_si256(IGTL_MOVEY(x2, IGTL_FARY(2)), x3));
    const igtl_block before = _mm256_castsi256_si128(x3), last = _mm256_extracti128_si256(x3, 1);
    if (n) {
        a = IGTL_MOVE(before, IGTL_FAR(n / 16 + 1));
        a = IGTL_XOR(a, IGTL_MOVE(last, IGTL_FAR(n / 16)));
        a = igtl_gather(a, p, n);
    } else {
        a = IGTL_FOLD(before, IGTL_FAR(1), last);
    }
    crc = igtl_reduce(a);
    _mm256_zeroupper();
    return crc;
}

IGTL_VPCLMUL256_TARGET static uint64_t igtl_crc64_vpclmul256(const uint8_t *p, size_t n, uint64_t crc)
{
    return n < 128 ? igtl_short(p, n, crc) : igtl_fold256(NULL, p, n, crc, IGTL_READ);
}

/* Copies while the bytes are in registers. */
IGTL_VPCLMUL256_TARGET static uint64_t igtl_crc64_copy256(uint8_t *to, const uint8_t *p, size_t n,
                                                          uint64_t crc)
{
    if (n >= IGTL_CRC64_LARGE) {
        const size_t head = (32 - (uintptr_t)to % 32) % 32, most = (n - head) / 128 * 128;
        memcpy(to, p, head);
        crc = igtl_crc64_vpclmul256(p, head, crc);
        crc = igtl_fold256(to + head, p + head, most, crc, IGTL_COPY_PAST);
        _mm_sfence();
        to += head + most, p += head + most, n -= head + most;
    }
    if (n >= 128)
        return igtl_fold256(to, p, n, crc, IGTL_COPY);
    memcpy(to, p, n);
    return igtl_crc64_vpclmul256(p, n, crc);
}

#define IGTL_FOLDZ(a, k, d) \
    _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(a, k, 0x11), \
                              _mm512_clmulepi64_epi128(a, k, 0x00), d, 0x96)
#define IGTL_FARZ(i) _mm512_broadcast_i32x4(IGTL_FAR(i))

/* Past the caches `to` is aligned to 64 bytes. */
IGTL_VPCLMUL512_TARGET IGTL_INLINE __m512i igtl_loadz(uint8_t *to, const uint8_t *p, size_t at,
                                                      enum igtl_way way)
{
    const __m512i v = _mm512_loadu_si512((const void *)(p + at));
    if (way == IGTL_COPY)
        _mm512_storeu_si512((void *)(to + at), v);
    if (way == IGTL_COPY_PAST)
        _mm512_stream_si512((__m512i *)(to + at), v);
    return _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(IGTL_SWAP));
}

/* Of 256 + 16 bytes or more; of a multiple of 16 for IGTL_COPY_PAST. */
IGTL_VPCLMUL512_TARGET IGTL_INLINE uint64_t igtl_fold512(uint8_t *to, const uint8_t *p, size_t n,
                                                         uint64_t crc, enum igtl_way way)
{
    if (way == IGTL_COPY) {
        memcpy(to, p, 16); /* the odd bytes; what is more of them is written again */
        to += n & 15;
    }
    const __m512i k512 = IGTL_FARZ(4), k1024 = IGTL_FARZ(8), k1536 = IGTL_FARZ(12), k2048 = IGTL_FARZ(16);
    const __m128i k128 = IGTL_FAR(1);
    __m128i carry, a = igtl_head(&p, &n, crc, &carry);
    const __m128i first = IGTL_FOLD(a, k128, carry);
    __m512i x0 = _mm512_xor_si512(igtl_loadz(to, p, 0, way), _mm512_zextsi128_si512(first));
    __m512i x1 = igtl_loadz(to, p, 64, way), x2 = igtl_loadz(to, p, 128, way),
            x3 = igtl_loadz(to, p, 192, way);
    for (p += 256, n -= 256; n >= 256; p += 256, n -= 256) {
        if (way != IGTL_READ)
            to += 256;
        if (way != IGTL_COPY) /* as in igtl_fold256 */
            for (int line = 0; line < 256; line += 64)
                IGTL_PREFETCH(p + (way == IGTL_READ ? IGTL_AHEAD512 : IGTL_AHEAD512_COPY) + line);
        x0 = IGTL_FOLDZ(x0, k2048, igtl_loadz(to, p, 0, way));
        x1 = IGTL_FOLDZ(x1, k2048, igtl_loadz(to, p, 64, way));
        x2 = IGTL_FOLDZ(x2, k2048, igtl_loadz(to, p, 128, way));
        x3 = IGTL_FOLDZ(x3, k2048, igtl_loadz(to, p, 192, way));
    }
    if (way != IGTL_READ)
        memcpy(to + 256, p, n);
    __m512i z = IGTL_FOLDZ(x0, k1536, IGTL_FOLDZ(x1, k1024, IGTL_FOLDZ(x2, k512, x3)));
    for (; n >= 64; p += 64, n -= 64)
        z = IGTL_FOLDZ(z, k512, igtl_loadz(NULL, p, 0, IGTL_READ));
    /* lanes 0, 1, 2 are three, two, one block ahead of lane 3 */
    __m512i ahead = _mm512_inserti32x4(_mm512_setzero_si512(), IGTL_FAR(3), 0);
    ahead = _mm512_inserti32x4(_mm512_inserti32x4(ahead, IGTL_FAR(2), 1), IGTL_FAR(1), 2);
    __m512i m = _mm512_xor_si512(_mm512_clmulepi64_epi128(z, ahead, 0x11),
                                 _mm512_clmulepi64_epi128(z, ahead, 0x00));
    a = _mm_xor_si128(_mm_xor_si128(_mm512_castsi512_si128(m), _mm512_extracti32x4_epi32(m, 1)),
                      _mm_xor_si128(_mm512_extracti32x4_epi32(m, 2),
                                    _mm512_extracti32x4_epi32(z, 3)));
    for (; n; p += 16, n -= 16)
        a = IGTL_FOLD(a, k128, IGTL_LOAD(p));
    crc = igtl_reduce(a);
    _mm256_zeroupper();
    return crc;
}

IGTL_VPCLMUL512_TARGET static uint64_t igtl_crc64_vpclmul512(const uint8_t *p, size_t n, uint64_t crc)
{
    if (n < 512 + 16) /* not worth the wide registers */
        return igtl_crc64_clmul(p, n, crc);
    return igtl_fold512(NULL, p, n, crc, IGTL_READ);
}

IGTL_VPCLMUL512_TARGET static uint64_t igtl_crc64_copy512(uint8_t *to, const uint8_t *p, size_t n,
                                                          uint64_t crc)
{
    if (n >= IGTL_CRC64_LARGE) {
        const size_t head = (64 - (uintptr_t)to % 64) % 64, most = (n - head) / 256 * 256;
        memcpy(to, p, head);
        crc = igtl_crc64_clmul(p, head, crc);
        crc = igtl_fold512(to + head, p + head, most, crc, IGTL_COPY_PAST);
        _mm_sfence();
        to += head + most, p += head + most, n -= head + most;
    }
    if (n >= 2048) /* below it copying by itself is as fast */
        return igtl_fold512(to, p, n, crc, IGTL_COPY);
    memcpy(to, p, n);
    return igtl_crc64_vpclmul512(p, n, crc);
}
#endif

/* ---- choice at run time ----------------------------------------------------------------- */

/* What the forms need of a CPU, as bits. */
enum { IGTL_NEEDS_CLMUL = 1, IGTL_NEEDS_VPCLMUL256 = 2, IGTL_NEEDS_VPCLMUL512 = 4 };

#if defined(IGTL_CRC64_X86)
/* From ECX of CPUID leaf 1, EBX and ECX of leaf 7, and XCR0, which tells the registers that the
 * operating system saves: a CPU may have AVX where the system, or a virtual machine, has not. */
static int igtl_cpu_of(uint32_t c1, uint32_t b7, uint32_t c7, uint64_t xcr0)
{
    const uint32_t sse = 1u << 1 | 1u << 9 | 1u << 19; /* PCLMULQDQ, SSSE3, SSE4.1 */
    const uint32_t avx2 = 1u << 5, vpclmul = 1u << 10;
    const uint32_t avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    int have = 0;
    if ((c1 & sse) != sse)
        return have;
    have |= IGTL_NEEDS_CLMUL;
    if (!(c1 >> 28 & 1) || (xcr0 & 0x06) != 0x06 || !(b7 & avx2) || !(c7 & vpclmul))
        return have;
    have |= IGTL_NEEDS_VPCLMUL256;
    if ((xcr0 & 0xe6) == 0xe6 && (b7 & avx512) == avx512)
        have |= IGTL_NEEDS_VPCLMUL512;
    return have;
}

static int igtl_cpu(void)
{
    uint32_t c1, b7 = 0, c7 = 0;
    uint64_t xcr0 = 0;
#if defined(_MSC_VER) && !defined(__clang__)
    int r[4];
    __cpuid(r, 0);
    const int leaves = r[0];
    __cpuid(r, 1);
    c1 = (uint32_t)r[2];
    if (leaves >= 7) {
        __cpuidex(r, 7, 0);
        b7 = (uint32_t)r[1], c7 = (uint32_t)r[2];
    }
    if (c1 >> 27 & 1) /* OSXSAVE: XGETBV is there */
        xcr0 = _xgetbv(0);
#else
    uint32_t a, b, d;
    if (!__get_cpuid(1, &a, &b, &c1, &d))
        return 0;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d))
        b7 = c7 = 0;
    if (c1 >> 27 & 1) { /* OSXSAVE: XGETBV is there */
        __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
        xcr0 = (uint64_t)d << 32 | a;
    }
#endif
    return igtl_cpu_of(c1, b7, c7, xcr0);
}
#elif defined(IGTL_CRC64_ARM)
#if defined(__linux__)
#include <sys/auxv.h>
static int igtl_cpu(void)
{
    return (getauxval(AT_HWCAP) >> 4) & 1 ? IGTL_NEEDS_CLMUL : 0; /* HWCAP_PMULL */
}
#else
static int igtl_cpu(void) { return IGTL_NEEDS_CLMUL; } /* every Apple ARM CPU has PMULL */
#endif
#else
static int igtl_cpu(void) { return 0; }
#endif

typedef struct {
    const char *name;
    int needs;
    igtl_crc64_fn run;
    igtl_crc64_copy_fn copy; /* NULL: block by block, see igtl_crc64_copy_by */
} igtl_crc64_form;

/* Of this build, the fastest last. */
static const igtl_crc64_form igtl_crc64_forms[] = {
    {"portable", 0, igtl_crc64_portable, NULL},
#if defined(IGTL_CRC64_CLMUL)
    {"clmul", IGTL_NEEDS_CLMUL, igtl_crc64_clmul, NULL},
#endif
#if defined(IGTL_CRC64_VPCLMUL)
    {"vpclmul256", IGTL_NEEDS_VPCLMUL256, igtl_crc64_vpclmul256, igtl_crc64_copy256},
    {"vpclmul512", IGTL_NEEDS_VPCLMUL512, igtl_crc64_vpclmul512, igtl_crc64_copy512},
#endif
};

/* The form of that name, or the fastest for NULL; NULL where this build or CPU lacks it. */
static const igtl_crc64_form *igtl_crc64_find(const char *name)
{
    const int cpu = igtl_cpu();
    for (size_t i = sizeof igtl_crc64_forms / sizeof *igtl_crc64_forms; i--;) {
        const igtl_crc64_form *form = igtl_crc64_forms + i;
        if ((form->needs & ~cpu) == 0 && (name == NULL || strcmp(name, form->name) == 0))
            return form;
    }
    return NULL;
}

/* In use, after igtl_crc64_init. */
static const igtl_crc64_form *igtl_crc64_used = NULL;
static igtl_crc64_fn igtl_crc64 = NULL;

/* Chooses the form that the environment variable IGTL_CRC names, or the fastest. Returns -1, with
 * the fastest chosen, where this build or CPU lacks the one that is named. */
static int igtl_crc64_init(void)
{
    const char *wanted = getenv("IGTL_CRC");
    igtl_crc64_make_tables();
    igtl_crc64_used = igtl_crc64_find(wanted && *wanted ? wanted : NULL);
    const int found = igtl_crc64_used ? 0 : -1;
    if (found < 0)
        igtl_crc64_used = igtl_crc64_find(NULL);
    igtl_crc64 = igtl_crc64_used->run;
    return found;
}

#if defined(IGTL_CRC64_X86)
/* memcpy past the caches, to memory that is aligned to 16 bytes: what is written whole need not be
 * read first. For copies that no cache holds. */
static void igtl_copy_streaming(uint8_t *to, const uint8_t *from, size_t n)
{
    for (size_t i = 0; i < n; i += 64) {
        const __m128i a = _mm_loadu_si128((const __m128i *)(from + i));
        const __m128i b = _mm_loadu_si128((const __m128i *)(from + i + 16));
        const __m128i c = _mm_loadu_si128((const __m128i *)(from + i + 32));
        const __m128i d = _mm_loadu_si128((const __m128i *)(from + i + 48));
        _mm_stream_si128((__m128i *)(to + i), a);
        _mm_stream_si128((__m128i *)(to + i + 16), b);
        _mm_stream_si128((__m128i *)(to + i + 32), c);
        _mm_stream_si128((__m128i *)(to + i + 48), d);
    }
}
#else
#define igtl_copy_streaming memcpy
#define _mm_sfence() ((void)0)
#endif

/* Copy and CRC in one pass over memory: in registers, where the form does so, else block by block,
 * the CRC first, so that the copy reads from cache. (Behind it the CRC would wait for what has just
 * been written.) */
static uint64_t igtl_crc64_copy_by(const igtl_crc64_form *form, uint8_t *to, const uint8_t *from,
                                   size_t n, uint64_t crc)
{
    const size_t block = 4096;
    const igtl_crc64_fn run = form->run;
    if (form->copy)
        return form->copy(to, from, n, crc);
    if (n >= IGTL_CRC64_LARGE) {
        const size_t head = (64 - (uintptr_t)to % 64) % 64;
        crc = run(from, head, crc);
        memcpy(to, from, head);
        to += head, from += head, n -= head;
        for (; n > block; to += block, from += block, n -= block) {
            crc = run(from, block, crc);
            igtl_copy_streaming(to, from, block);
        }
        _mm_sfence();
    }
    for (; n > block; to += block, from += block, n -= block) {
        crc = run(from, block, crc);
        memcpy(to, from, block);
    }
    crc = run(from, n, crc);
    memcpy(to, from, n);
    return crc;
}

static uint64_t igtl_crc64_copy(uint8_t *to, const uint8_t *from, size_t n, uint64_t crc)
{
    return igtl_crc64_copy_by(igtl_crc64_used, to, from, n, crc);
}

#endif
