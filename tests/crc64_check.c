/* Every form of igtl/_crc64.h that this CPU has, against the bit-by-bit definition.
 * For CPUs other than the one the Python tests run on: ci/crc-arm runs it under emulation. */
#include <stdio.h>
#include <stdlib.h>

#include "../igtl/_crc64.h"

static uint64_t bitwise(const uint8_t *p, size_t n, uint64_t c)
{
    while (n--) {
        c ^= (uint64_t)*p++ << 56;
        for (int k = 0; k < 8; k++)
            c = (c >> 63) ? (c << 1) ^ IGTL_CRC64_POLY : c << 1;
    }
    return c;
}

int main(void)
{
    static const char *const names[] = {"portable", "clmul", "vpclmul"};
    enum { SIZE = 5000 };
    uint8_t *data = malloc(SIZE), *copy = malloc(SIZE);
    uint64_t seed = 88172645463325252ULL;
    int forms = 0;
    for (int i = 0; i < SIZE; i++) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        data[i] = (uint8_t)seed;
    }
    igtl_crc64_init();
    for (int f = 0; f < 3; f++) {
        igtl_crc64_fn run = igtl_crc64_form(names[f]);
        if (run == NULL)
            continue;
        forms++;
        for (size_t n = 0; n < 1200; n++) {
            const uint8_t *p = data + n % 37;
            uint64_t start = n % 3 ? seed * n : 0, want = bitwise(p, n, start);
            if (run(p, n, start) != want) {
                printf("%s: wrong for %zu bytes\n", names[f], n);
                return 1;
            }
        }
        printf("%s: right\n", names[f]);
    }
    if (igtl_crc64_copy(copy, data, SIZE, 7) != bitwise(data, SIZE, 7) || memcmp(copy, data, SIZE))
        return 1;
    enum { LARGE = (8 << 20) + 5000 }; /* copied past the caches, where the CPU can */
    uint8_t *from = malloc(LARGE), *to = malloc(LARGE + 64);
    for (size_t i = 0; i < LARGE; i++)
        from[i] = data[i % SIZE] ^ (uint8_t)(i / SIZE);
    for (size_t at = 0; at < 64; at += 7)
        if (igtl_crc64_copy(to + at, from + at, LARGE - at, 7) !=
                igtl_crc64_portable(from + at, LARGE - at, 7) ||
            memcmp(to + at, from + at, LARGE - at))
            return 1;
    printf("%d passed, 0 failed\n", forms);
    return forms < 2; /* a CPU with carry-less multiplication is expected */
}
