/* CRC-64 of OpenIGTLink (CRC-64/ECMA-182: polynomial 0x42F0E1EBA9EA3693, most significant
 * bit first, initial value 0, no reflection, no final xor; docs/protocol.md section 4).
 *
 * Strategy. Every form takes a running register and returns the next one, so a CRC can be
 * continued over scattered buffers. Three forms, chosen once at run time:
 *
 *   portable   slicing-by-16: sixteen tables, sixteen bytes a step
 *   clmul      folding of four 128-bit lanes by carry-less multiplication
 *              (PCLMULQDQ on x86-64, PMULL on ARMv8: one algorithm, two sets of primitives)
 *   vpclmul    the same over 512-bit registers (VPCLMULQDQ with AVX-512)
 *
 * The folding forms take the odd bytes (length mod 16) first, right-aligned and zero-filled:
 * leading zeros do not change an MSB-first CRC whose register is zero, so there is neither a
 * tail shuffle nor a read past the end. Barrett reduction ends them. Each function carries its
 * own target attribute, so that one object file serves every CPU; a compiler or CPU without
 * the instructions leaves the portable form.
 */
#ifndef IGTL_CRC64_H
#define IGTL_CRC64_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define IGTL_CRC64_POLY 0x42F0E1EBA9EA3693ULL

typedef uint64_t (*igtl_crc64_fn)(const uint8_t *, size_t, uint64_t);

/* ---- portable ------------------------------------------------------------------------- */

static uint64_t igtl_crc64_table[16][256];

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

/* x^k mod P for the distances used below, and the Barrett quotient x^128 / P. */
#define IGTL_X128 0x05f5c3c7eb52fab6ULL
#define IGTL_X192 0x4eb938a7d257740eULL
#define IGTL_X256 0x571bee0a227ef92bULL
#define IGTL_X320 0x44bef2a201b5200cULL
#define IGTL_X384 0x54819d8713758b2cULL
#define IGTL_X448 0x4a6b90073eb0af5aULL
#define IGTL_X512 0x5f6843ca540df020ULL
#define IGTL_X576 0xddf4b6981205b83fULL
#define IGTL_X1024 0x05cf79dea9ac37d6ULL
#define IGTL_X1088 0x001067e571d7d5c2ULL
#define IGTL_X1536 0xd6b62044b4220e89ULL
#define IGTL_X1600 0x5f0e39f4a0ca2d57ULL
#define IGTL_X2048 0x7f52691a60ddc70dULL
#define IGTL_X2112 0x7036b0389f6a0c82ULL
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
#define IGTL_VPCLMUL_TARGET
#define IGTL_CRC64_VPCLMUL 1
#else
#define IGTL_CLMUL_TARGET __attribute__((target("pclmul,ssse3,sse4.1")))
#if defined(__clang__) ? __clang_major__ >= 7 : __GNUC__ >= 8
#define IGTL_VPCLMUL_TARGET \
    __attribute__((target("pclmul,ssse3,sse4.1,avx2,vpclmulqdq,avx512f,avx512bw,avx512vl,avx512dq")))
#define IGTL_CRC64_VPCLMUL 1
#endif
#endif

typedef __m128i igtl_block;
#define IGTL_K(hi, lo) _mm_set_epi64x((long long)(hi), (long long)(lo))
#define IGTL_XOR(a, b) _mm_xor_si128(a, b)
#define IGTL_LOAD(p) \
    _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(p)), \
                     _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))
#define IGTL_MUL_HI(a, b) _mm_clmulepi64_si128(a, b, 0x11)
#define IGTL_MUL_LO(a, b) _mm_clmulepi64_si128(a, b, 0x00)
#define IGTL_LOW(a) ((uint64_t)_mm_cvtsi128_si64(a))
/* Two kilobytes ahead: without it the out-of-order window holds too few loads (7 against 22 GB/s). */
#define IGTL_PREFETCH(p) _mm_prefetch((const char *)(p) + 2048, _MM_HINT_T0)

#elif defined(IGTL_CRC64_ARM)

#include <arm_neon.h>
#if defined(__clang__)
#define IGTL_CLMUL_TARGET __attribute__((target("aes")))
#else
#define IGTL_CLMUL_TARGET __attribute__((target("+crypto")))
#endif

typedef uint64x2_t igtl_block;
#define IGTL_K(hi, lo) vcombine_u64(vcreate_u64(lo), vcreate_u64(hi))
#define IGTL_XOR(a, b) veorq_u64(a, b)
IGTL_CLMUL_TARGET static inline igtl_block igtl_load(const uint8_t *p)
{
    uint8x16_t v = vrev64q_u8(vld1q_u8(p));
    return vreinterpretq_u64_u8(vextq_u8(v, v, 8));
}
IGTL_CLMUL_TARGET static inline igtl_block igtl_mul(uint64_t a, uint64_t b)
{
    return vreinterpretq_u64_p128(vmull_p64((poly64_t)a, (poly64_t)b));
}
#define IGTL_LOAD(p) igtl_load(p)
#define IGTL_MUL_HI(a, b) igtl_mul(vgetq_lane_u64(a, 1), vgetq_lane_u64(b, 1))
#define IGTL_MUL_LO(a, b) igtl_mul(vgetq_lane_u64(a, 0), vgetq_lane_u64(b, 0))
#define IGTL_LOW(a) vgetq_lane_u64(a, 0)
#define IGTL_PREFETCH(p) __builtin_prefetch((p) + 2048)

#endif

#if defined(IGTL_CRC64_X86) || defined(IGTL_CRC64_ARM)
#define IGTL_CRC64_CLMUL 1

/* a, moved ahead by the distance whose constants k holds, plus the data found there */
#define IGTL_FOLD(a, k, d) IGTL_XOR(IGTL_XOR(IGTL_MUL_HI(a, k), IGTL_MUL_LO(a, k)), d)

/* (block * x^64) mod P */
IGTL_CLMUL_TARGET static inline uint64_t igtl_reduce(igtl_block a)
{
    igtl_block t = IGTL_XOR(IGTL_MUL_HI(a, IGTL_K(IGTL_X128, 0)), IGTL_K(IGTL_LOW(a), 0));
    igtl_block q = IGTL_XOR(IGTL_MUL_HI(t, IGTL_K(IGTL_MU, 0)), t);
    igtl_block r = IGTL_XOR(IGTL_MUL_HI(q, IGTL_K(IGTL_CRC64_POLY, 0)), t);
    return IGTL_LOW(r);
}

/* The first n mod 16 bytes with the running register mixed in; what of the register does not
 * fit is left in *carry, to be added to the top of the next block. Advances *pp and *pn. */
IGTL_CLMUL_TARGET static inline igtl_block igtl_head(const uint8_t **pp, size_t *pn, uint64_t crc,
                                                     uint64_t *carry)
{
    const uint8_t *p = *pp;
    size_t r = *pn & 15;
    uint64_t hi = 0, lo = 0;
    *carry = 0;
    if (r == 0) {
        *carry = crc;
    } else if (r < 8) {
        for (size_t i = 0; i < r; i++)
            lo = lo << 8 | p[i];
        lo ^= crc >> (64 - 8 * r);
        *carry = crc << (8 * r);
    } else {
        lo = igtl_be64(p + r - 8);
        if (r == 8) {
            lo ^= crc;
        } else {
            unsigned s = 8 * (unsigned)(r - 8);
            hi = (igtl_be64(p) >> (64 - s)) ^ (crc >> (64 - s));
            lo ^= crc << s;
        }
    }
    *pp += r;
    *pn -= r;
    return IGTL_K(hi, lo);
}

IGTL_CLMUL_TARGET static uint64_t igtl_crc64_clmul(const uint8_t *p, size_t n, uint64_t crc)
{
    uint64_t carry;
    const igtl_block k128 = IGTL_K(IGTL_X192, IGTL_X128);
    igtl_block a = igtl_head(&p, &n, crc, &carry);
    if (n == 0) /* fewer than 16 bytes: for fewer than 8, part of the register stays above them */
        return igtl_reduce(a) ^ carry;
    if (n >= 128) {
        const igtl_block k512 = IGTL_K(IGTL_X576, IGTL_X512);
        igtl_block x0 = IGTL_FOLD(a, k128, IGTL_XOR(IGTL_LOAD(p), IGTL_K(carry, 0)));
        igtl_block x1 = IGTL_LOAD(p + 16), x2 = IGTL_LOAD(p + 32), x3 = IGTL_LOAD(p + 48);
        for (p += 64, n -= 64; n >= 64; p += 64, n -= 64) {
            IGTL_PREFETCH(p);
            x0 = IGTL_FOLD(x0, k512, IGTL_LOAD(p));
            x1 = IGTL_FOLD(x1, k512, IGTL_LOAD(p + 16));
            x2 = IGTL_FOLD(x2, k512, IGTL_LOAD(p + 32));
            x3 = IGTL_FOLD(x3, k512, IGTL_LOAD(p + 48));
        }
        a = IGTL_FOLD(x2, k128, x3);
        a = IGTL_FOLD(x1, IGTL_K(IGTL_X320, IGTL_X256), a);
        a = IGTL_FOLD(x0, IGTL_K(IGTL_X448, IGTL_X384), a);
    } else {
        a = IGTL_FOLD(a, k128, IGTL_XOR(IGTL_LOAD(p), IGTL_K(carry, 0)));
        p += 16;
        n -= 16;
    }
    for (; n; p += 16, n -= 16)
        a = IGTL_FOLD(a, k128, IGTL_LOAD(p));
    return igtl_reduce(a);
}
#endif

#if defined(IGTL_CRC64_VPCLMUL)
#define IGTL_LOADZ(p) _mm512_shuffle_epi8(_mm512_loadu_si512((const void *)(p)), swap)
#define IGTL_FOLDZ(a, k, d) \
    _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(a, k, 0x11), \
                              _mm512_clmulepi64_epi128(a, k, 0x00), d, 0x96)
#define IGTL_KZ(hi, lo) _mm512_broadcast_i32x4(IGTL_K(hi, lo))

IGTL_VPCLMUL_TARGET static uint64_t igtl_crc64_vpclmul(const uint8_t *p, size_t n, uint64_t crc)
{
    if (n < 512 + 16) /* not worth the wide registers */
        return igtl_crc64_clmul(p, n, crc);
    uint64_t carry;
    const __m512i swap = _mm512_broadcast_i32x4(
        _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    const __m512i k512 = IGTL_KZ(IGTL_X576, IGTL_X512), k1024 = IGTL_KZ(IGTL_X1088, IGTL_X1024),
                  k1536 = IGTL_KZ(IGTL_X1600, IGTL_X1536), k2048 = IGTL_KZ(IGTL_X2112, IGTL_X2048);
    const __m128i k128 = IGTL_K(IGTL_X192, IGTL_X128);
    __m128i a = igtl_head(&p, &n, crc, &carry);
    __m128i first = IGTL_FOLD(a, k128, IGTL_K(carry, 0));
    __m512i x0 = _mm512_xor_si512(IGTL_LOADZ(p), _mm512_zextsi128_si512(first));
    __m512i x1 = IGTL_LOADZ(p + 64), x2 = IGTL_LOADZ(p + 128), x3 = IGTL_LOADZ(p + 192);
    for (p += 256, n -= 256; n >= 256; p += 256, n -= 256) {
        IGTL_PREFETCH(p);
        IGTL_PREFETCH(p + 64);
        IGTL_PREFETCH(p + 128);
        IGTL_PREFETCH(p + 192);
        x0 = IGTL_FOLDZ(x0, k2048, IGTL_LOADZ(p));
        x1 = IGTL_FOLDZ(x1, k2048, IGTL_LOADZ(p + 64));
        x2 = IGTL_FOLDZ(x2, k2048, IGTL_LOADZ(p + 128));
        x3 = IGTL_FOLDZ(x3, k2048, IGTL_LOADZ(p + 192));
    }
    __m512i z = IGTL_FOLDZ(x0, k1536, IGTL_FOLDZ(x1, k1024, IGTL_FOLDZ(x2, k512, x3)));
    for (; n >= 64; p += 64, n -= 64)
        z = IGTL_FOLDZ(z, k512, IGTL_LOADZ(p));
    /* lanes 0, 1, 2 are three, two, one block ahead of lane 3 */
    const __m512i ahead = _mm512_set_epi64(
        0, 0, (long long)IGTL_X192, (long long)IGTL_X128, (long long)IGTL_X320,
        (long long)IGTL_X256, (long long)IGTL_X448, (long long)IGTL_X384);
    __m512i m = _mm512_xor_si512(_mm512_clmulepi64_epi128(z, ahead, 0x11),
                                 _mm512_clmulepi64_epi128(z, ahead, 0x00));
    a = _mm_xor_si128(_mm_xor_si128(_mm512_castsi512_si128(m), _mm512_extracti32x4_epi32(m, 1)),
                      _mm_xor_si128(_mm512_extracti32x4_epi32(m, 2),
                                    _mm512_extracti32x4_epi32(z, 3)));
    for (; n; p += 16, n -= 16)
        a = IGTL_FOLD(a, k128, IGTL_LOAD(p));
    uint64_t out = igtl_reduce(a);
    _mm256_zeroupper();
    return out;
}
#endif

/* ---- choice at run time ----------------------------------------------------------------- */

#if defined(IGTL_CRC64_X86)
/* bit 0: PCLMULQDQ and SSE4.1, bit 1: VPCLMULQDQ and the AVX-512 parts used here */
static int igtl_cpu(void)
{
#if defined(_MSC_VER) && !defined(__clang__)
    int r[4], have = 0;
    __cpuid(r, 1);
    const int c1 = r[2];
    if ((c1 >> 1 & 1) && (c1 >> 9 & 1) && (c1 >> 19 & 1))
        have |= 1;
    if ((c1 >> 27 & 1) && (_xgetbv(0) & 0xe6) == 0xe6) {
        __cpuidex(r, 7, 0);
        const int b = r[1];
        if ((r[2] >> 10 & 1) && (b >> 5 & 1) && (b >> 16 & 1) && (b >> 17 & 1) && (b >> 30 & 1) &&
            (b >> 31 & 1))
            have |= 2;
    }
    return have;
#else
    int have = 0;
    __builtin_cpu_init();
    if (__builtin_cpu_supports("pclmul") && __builtin_cpu_supports("ssse3") &&
        __builtin_cpu_supports("sse4.1"))
        have |= 1;
#if defined(IGTL_CRC64_VPCLMUL)
    if (__builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        have |= 2;
#endif
    return have;
#endif
}
#elif defined(IGTL_CRC64_ARM)
#if defined(__linux__)
#include <sys/auxv.h>
static int igtl_cpu(void) { return (getauxval(AT_HWCAP) >> 4) & 1; } /* HWCAP_PMULL */
#else
static int igtl_cpu(void) { return 1; } /* every Apple ARM CPU has PMULL */
#endif
#else
static int igtl_cpu(void) { return 0; }
#endif

/* The form of that name, or NULL where this build or CPU lacks it. */
static igtl_crc64_fn igtl_crc64_form(const char *name)
{
    if (igtl_crc64_table[0][1] == 0)
        igtl_crc64_make_tables();
    if (strcmp(name, "portable") == 0)
        return igtl_crc64_portable;
#if defined(IGTL_CRC64_CLMUL)
    if (strcmp(name, "clmul") == 0 && (igtl_cpu() & 1))
        return igtl_crc64_clmul;
#endif
#if defined(IGTL_CRC64_VPCLMUL)
    if (strcmp(name, "vpclmul") == 0 && (igtl_cpu() & 3) == 3)
        return igtl_crc64_vpclmul;
#endif
    return NULL;
}

static igtl_crc64_fn igtl_crc64 = NULL;

static void igtl_crc64_init(void)
{
    static const char *const best_first[] = {"vpclmul", "clmul", "portable"};
    for (int i = 0; i < 3 && igtl_crc64 == NULL; i++)
        igtl_crc64 = igtl_crc64_form(best_first[i]);
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

/* Copy and CRC in one pass over memory: block by block, the CRC first, so that the copy reads from
 * cache. (Behind it the CRC would wait for what has just been written.) */
static uint64_t igtl_crc64_copy(uint8_t *to, const uint8_t *from, size_t n, uint64_t crc)
{
    const size_t block = 4096, large = (size_t)8 << 20;
    if (n >= large) {
        const size_t head = (64 - (uintptr_t)to % 64) % 64;
        crc = igtl_crc64(from, head, crc);
        memcpy(to, from, head);
        to += head, from += head, n -= head;
        for (; n > block; to += block, from += block, n -= block) {
            crc = igtl_crc64(from, block, crc);
            igtl_copy_streaming(to, from, block);
        }
        _mm_sfence();
    }
    for (; n > block; to += block, from += block, n -= block) {
        crc = igtl_crc64(from, block, crc);
        memcpy(to, from, block);
    }
    crc = igtl_crc64(from, n, crc);
    memcpy(to, from, n);
    return crc;
}

#endif
