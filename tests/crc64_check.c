/* Every form of igtl/_crc64.h that this CPU has, against the bit-by-bit definition: plain, continued
 * and copying, whatever the length and alignment. tests/test_crc.py runs it, under sanitizers;
 * ci/crc-arm runs it under emulation for another CPU. Fails unless at least as many forms ran as its
 * argument says. */
#include <stdio.h>

#include "_crc64.h"

static uint64_t bitwise(const uint8_t *p, size_t n, uint64_t c)
{
    while (n--) {
        c ^= (uint64_t)*p++ << 56;
        for (int k = 0; k < 8; k++)
            c = (c >> 63) ? (c << 1) ^ IGTL_CRC64_POLY : c << 1;
    }
    return c;
}

static uint64_t seed = 88172645463325252ULL;

static uint64_t any(void)
{
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed;
}

static int wrong(const igtl_crc64_form *form, const char *how, size_t n)
{
    printf("%s: wrong for %zu bytes, %s\n", form->name, n, how);
    return 1;
}

/* The n bytes at p, to and from any alignment, in memory that ends with them: a sanitizer sees what
 * is read beyond. */
static int check(const igtl_crc64_form *form, const uint8_t *p, size_t n)
{
    const size_t from = any() % 64, to = any() % 64;
    const uint64_t start = n % 3 ? any() : 0, want = igtl_crc64_portable(p, n, start);
    const size_t split = n ? any() % (n + 1) : 0, guard = 64;
    uint8_t *data = malloc(from + n ? from + n : 1), *copy = malloc(to + n + guard);
    int bad = 0;
    memcpy(data + from, p, n);
    memset(copy, 0xa5, to + n + guard);
    if (form->run(data + from, n, start) != want)
        bad = wrong(form, "whole", n);
    else if (form->run(data + from + split, n - split, form->run(data + from, split, start)) != want)
        bad = wrong(form, "continued", n);
    else if (igtl_crc64_copy_by(form, copy + to, data + from, n, start) != want)
        bad = wrong(form, "copying", n);
    else if (n && memcmp(copy + to, p, n))
        bad = wrong(form, "the copy", n);
    for (size_t i = 0; i < to && !bad; i++)
        if (copy[i] != 0xa5)
            bad = wrong(form, "bytes before the copy", n);
    for (size_t i = to + n; i < to + n + guard && !bad; i++)
        if (copy[i] != 0xa5)
            bad = wrong(form, "bytes behind the copy", n);
    free(data);
    free(copy);
    return bad;
}

#if defined(IGTL_CRC64_X86)
/* What CPUs report of themselves: the choice must fit CPUs that the tests do not run on. */
static int check_cpus(void)
{
    const uint32_t zen3_1 = 0x7ef8320b, zen3_7b = 0x219c97a9, zen3_7c = 0x0040069c;
    const uint32_t avx512_7b = zen3_7b | 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    static const char *const what[] = {
        "Zen 3", "the same, no YMM state saved", "AVX-512", "AVX-512, ZMM state not saved",
        "AVX-512, no VPCLMULQDQ", "AVX-512 without BW", "no AVX2", "no AVX", "no leaf 7", "no SSE4.1"};
    const int want[] = {3, 1, 7, 3, 1, 3, 1, 1, 1, 0};
    const int found[] = {
        igtl_cpu_of(zen3_1, zen3_7b, zen3_7c, 0x07), igtl_cpu_of(zen3_1, zen3_7b, zen3_7c, 0x03),
        igtl_cpu_of(zen3_1, avx512_7b, zen3_7c, 0xe7), igtl_cpu_of(zen3_1, avx512_7b, zen3_7c, 0x07),
        igtl_cpu_of(zen3_1, avx512_7b, zen3_7c & ~(1u << 10), 0xe7),
        igtl_cpu_of(zen3_1, avx512_7b & ~(1u << 30), zen3_7c, 0xe7),
        igtl_cpu_of(zen3_1, zen3_7b & ~(1u << 5), zen3_7c, 0x07),
        igtl_cpu_of(zen3_1 & ~(1u << 28), zen3_7b, zen3_7c, 0x07),
        igtl_cpu_of(zen3_1, 0, 0, 0x07), igtl_cpu_of(zen3_1 & ~(1u << 19), avx512_7b, zen3_7c, 0xe7)};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        if (found[i] != want[i]) {
            printf("CPU: %s taken for %d, not %d\n", what[i], found[i], want[i]);
            return 1;
        }
    return 0;
}
#else
static int check_cpus(void) { return 0; }
#endif

int main(int count, char **arguments)
{
    enum { LARGE = (8 << 20) + 5000 };
    const int forms = (int)(sizeof igtl_crc64_forms / sizeof *igtl_crc64_forms);
    uint8_t *data = malloc(LARGE);
    int ran = 0, bad = check_cpus();
    for (size_t i = 0; i < LARGE; i++)
        data[i] = (uint8_t)(any() >> 24);
    igtl_crc64_init();
    for (size_t n = 0; n < 1200 && !bad; n++) { /* the others are held against it */
        const uint64_t start = n % 3 ? any() : 0;
        if (igtl_crc64_portable(data + n % 37, n, start) != bitwise(data + n % 37, n, start))
            bad = wrong(igtl_crc64_find("portable"), "bit by bit", n);
    }
    for (int f = 0; f < forms && !bad; f++) {
        const igtl_crc64_form *form = igtl_crc64_find(igtl_crc64_forms[f].name);
        if (form == NULL)
            continue;
        for (size_t n = 0; n <= 1024 && !bad; n++)
            for (int k = 0; k < 3 && !bad; k++)
                bad = check(form, data + any() % 1000, n);
        for (int k = 0; k < 200 && !bad; k++)
            bad = check(form, data + any() % 1000, 1024 + any() % (k % 20 ? 20000 : 1000000));
        for (int k = 0; k < 4 && !bad; k++) /* copied past the caches, where the form can */
            bad = check(form, data + any() % 1000, LARGE - 1000 - any() % 1000);
        if (!bad)
            printf("%s: right\n", form->name);
        ran++;
    }
    free(data);
    printf("%d passed, %d not on this CPU\n", ran, forms - ran);
    return bad || ran < (count > 1 ? atoi(arguments[1]) : 1);
}
