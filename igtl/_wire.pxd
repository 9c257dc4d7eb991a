# _wire.h for the compiled parts of igtl, under shorter names. What each does is said there.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "_wire.h" nogil:
    enum:
        HEADER "IGTL_HEADER"
        EXTENDED "IGTL_EXTENDED"
        MAX_NAME "IGTL_MAX_NAME"
    Py_ssize_t MAX_BLOCK "IGTL_MAX_BLOCK"

    uint16_t get16 "igtl_get16"(const uint8_t* p)
    uint32_t get32 "igtl_get32"(const uint8_t* p)
    uint64_t get64 "igtl_get64"(const uint8_t* p)
    uint64_t get_int "igtl_get_int"(const uint8_t* p, int size)
    void put16 "igtl_put16"(uint8_t* p, uint16_t v)
    void put32 "igtl_put32"(uint8_t* p, uint32_t v)
    void put64 "igtl_put64"(uint8_t* p, uint64_t v)
    void put_int "igtl_put_int"(uint8_t* p, int size, uint64_t v)
    int64_t sign_extend "igtl_sign_extend"(uint64_t v, int size)
    void swap_in "igtl_swap_in"(uint8_t* to, const uint8_t* wire, Py_ssize_t n, int size)
    void swap_out "igtl_swap_out"(uint8_t* wire, const uint8_t* native, Py_ssize_t n, int size)
    void little_in "igtl_little_in"(uint8_t* to, const uint8_t* wire, Py_ssize_t n, int size)
    void little_out "igtl_little_out"(uint8_t* wire, const uint8_t* native, Py_ssize_t n, int size)
    void swap_rows_in "igtl_swap_rows_in"(
        uint8_t* to, const uint8_t* wire, Py_ssize_t stride, Py_ssize_t rows, Py_ssize_t n, int size)
    void swap_rows_out "igtl_swap_rows_out"(
        uint8_t* wire, Py_ssize_t stride, const uint8_t* native, Py_ssize_t rows, Py_ssize_t n, int size)
    void little_rows_in "igtl_little_rows_in"(
        uint8_t* to, const uint8_t* wire, Py_ssize_t stride, Py_ssize_t rows, Py_ssize_t n, int size)
    void little_rows_out "igtl_little_rows_out"(
        uint8_t* wire, Py_ssize_t stride, const uint8_t* native, Py_ssize_t rows, Py_ssize_t n, int size)
    void cells_in "igtl_cells_in"(uint8_t* to, const uint8_t* wire, Py_ssize_t stride, Py_ssize_t rows, Py_ssize_t size)
    void cells_out "igtl_cells_out"(
        uint8_t* wire, Py_ssize_t stride, const uint8_t* from_, Py_ssize_t rows, Py_ssize_t size)
    void matrix_in "igtl_matrix_in"(float* m, const uint8_t* wire)
    bint matrix_out "igtl_matrix_out"(uint8_t* wire, const float* m)

    uint64_t raw_time "igtl_raw_time"(uint64_t seconds, uint64_t ns)
    uint64_t raw_of "igtl_raw_of"(uint64_t ns)
    uint64_t ns_of "igtl_ns_of"(uint64_t raw)

    Py_ssize_t text_size "igtl_text_size"(const uint8_t* p, Py_ssize_t size)

    void put_header "igtl_put_header"(
        uint8_t* p, int version, const uint8_t* type12, const uint8_t* name20, uint64_t timestamp,
        uint64_t body_size, uint64_t crc)

    ctypedef struct Extended "igtl_extended":
        uint16_t ext
        uint16_t head
        uint32_t data
    bint read_extended "igtl_read_extended"(const uint8_t* p, uint64_t body, Extended* out)

    ctypedef struct Content "igtl_content":
        const uint8_t* p
        Py_ssize_t size
        const uint8_t* next
    bint content_of "igtl_content_of"(const uint8_t* p, const uint8_t* end, Content* out)

    Py_ssize_t stream_name "igtl_stream_name"(
        const uint8_t* p, Py_ssize_t size, const uint8_t* end, Py_ssize_t tail, const uint8_t** name)

    bint is_tls_record "igtl_is_tls_record"(const uint8_t* p)
    bint begins_message "igtl_begins_message"(const uint8_t* p)
    bint can_be_header "igtl_can_be_header"(const uint8_t* p, uint64_t max_size)
    bint is_header "igtl_is_header"(const uint8_t* p, uint64_t max_size)
    Py_ssize_t same_header "igtl_same_header"(const uint8_t* p, Py_ssize_t size)
    Py_ssize_t next_header "igtl_next_header"(const uint8_t* p, Py_ssize_t size, uint64_t max_size)
