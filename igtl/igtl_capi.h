/* C level of igtl for other extensions: CRC-64, header and TRANSFORM without Python objects.
 *
 *     #include <Python.h>
 *     #include "igtl_capi.h"                        // folder: python -c 'import igtl; print(igtl.get_include())'
 *
 *     const igtl_capi *igtl = igtl_capi_import();   // once, with the GIL; NULL: an exception is set
 *     igtl->pack_transform(wire, "Probe", timestamp, matrix);
 *
 * All functions but igtl_capi_import need no GIL and allocate nothing. A Cython module cimports the same
 * from igtl._core (igtl/_core.pxd).
 *
 * Versions. IGTL_CAPI_VERSION grows when functions are added at the end of the table, so a library that
 * is newer than the header serves it; an older one is refused by igtl_capi_import with ImportError. What
 * is there does not change its meaning; if it ever must, the capsule gets another name.
 */
#ifndef IGTL_CAPI_H
#define IGTL_CAPI_H

#include <stddef.h>
#include <stdint.h>

#define IGTL_CAPI_VERSION 1
#define IGTL_CAPI_CAPSULE "igtl._core._C_API"

#define IGTL_CAPI_HEADER_SIZE 58     /* docs/protocol.md, section 2 */
#define IGTL_CAPI_TRANSFORM_SIZE 106 /* header version 1 */

/* What the functions return. */
enum {
    IGTL_CAPI_OK = 0,
    IGTL_CAPI_SHORT = -1,   /* fewer bytes than the message has */
    IGTL_CAPI_NAME = -2,    /* type name over 12, device name over 20 bytes: nothing is cut */
    IGTL_CAPI_TYPE = -3,    /* another type */
    IGTL_CAPI_VERSION_UNKNOWN = -4, /* header version 3 or more */
    IGTL_CAPI_CRC = -5,     /* wrong CRC */
    IGTL_CAPI_BODY = -6     /* body does not hold what its type needs */
};

typedef struct {
    uint16_t version;       /* 1 or 2; 0 is read as 1 */
    char type_name[13];     /* ends with NUL */
    char device_name[21];   /* ends with NUL */
    uint64_t timestamp;     /* 2**-32 s since 1970; 0: not set */
    uint64_t body_size;
    uint64_t crc;
} igtl_capi_header;

typedef struct {
    int version;            /* of the library, at least that of this header */

    /* The register after `size` more bytes; begin with 0. */
    uint64_t (*crc64)(const uint8_t *data, size_t size, uint64_t crc);

    /* 58 bytes. */
    int (*pack_header)(uint8_t *wire, const igtl_capi_header *header);
    int (*unpack_header)(const uint8_t *wire, size_t size, igtl_capi_header *header);

    /* A whole TRANSFORM, header version 1, with its CRC: 106 bytes. matrix: 4x4, row by row, mm; its
     * fourth row is not sent. */
    int (*pack_transform)(uint8_t *wire, const char *device_name, uint64_t timestamp,
                          const float *matrix);

    /* A whole TRANSFORM of either header version, CRC checked. header may be NULL. */
    int (*unpack_transform)(const uint8_t *wire, size_t size, igtl_capi_header *header,
                            float *matrix);
} igtl_capi;

#ifdef Py_PYTHON_H
static inline const igtl_capi *igtl_capi_import(void)
{
    const igtl_capi *api = (const igtl_capi *)PyCapsule_Import(IGTL_CAPI_CAPSULE, 0);
    if (api && api->version < IGTL_CAPI_VERSION) {
        PyErr_Format(PyExc_ImportError, "igtl has version %d of its C level, %d is needed",
                     api->version, IGTL_CAPI_VERSION);
        return NULL;
    }
    return api;
}
#endif

#endif
