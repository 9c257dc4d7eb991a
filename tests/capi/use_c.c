/* What a C extension sees of igtl: test_capi.py compiles it against the installed package. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "igtl_capi.h"

static const igtl_capi *igtl;

static PyObject *crc(PyObject *self, PyObject *args)
{
    Py_buffer data;
    unsigned long long begin;
    uint64_t result;
    if (!PyArg_ParseTuple(args, "y*K", &data, &begin))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    result = igtl->crc64(data.buf, data.len, begin);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLongLong(result);
}

static PyObject *pack(PyObject *self, PyObject *args)
{
    const char *name;
    unsigned long long timestamp;
    float m[16];
    Py_buffer matrix;
    uint8_t wire[IGTL_CAPI_TRANSFORM_SIZE];
    if (!PyArg_ParseTuple(args, "sKy*", &name, &timestamp, &matrix))
        return NULL;
    memcpy(m, matrix.buf, sizeof m);
    PyBuffer_Release(&matrix);
    int code = igtl->pack_transform(wire, name, timestamp, m);
    if (code != IGTL_CAPI_OK)
        return PyLong_FromLong(code);
    return PyBytes_FromStringAndSize((char *)wire, sizeof wire);
}

static PyObject *unpack(PyObject *self, PyObject *args)
{
    Py_buffer wire;
    igtl_capi_header h;
    float m[16];
    if (!PyArg_ParseTuple(args, "y*", &wire))
        return NULL;
    int code = igtl->unpack_transform(wire.buf, wire.len, &h, m);
    PyBuffer_Release(&wire);
    if (code != IGTL_CAPI_OK)
        return PyLong_FromLong(code);
    return Py_BuildValue("HssKy#", h.version, h.type_name, h.device_name,
                         (unsigned long long)h.timestamp, (char *)m, (Py_ssize_t)sizeof m);
}

static PyObject *header(PyObject *self, PyObject *args)
{
    Py_buffer wire;
    igtl_capi_header h;
    uint8_t again[IGTL_CAPI_HEADER_SIZE];
    if (!PyArg_ParseTuple(args, "y*", &wire))
        return NULL;
    int code = igtl->unpack_header(wire.buf, wire.len, &h);
    PyBuffer_Release(&wire);
    if (code == IGTL_CAPI_OK)
        code = igtl->pack_header(again, &h);
    if (code != IGTL_CAPI_OK)
        return PyLong_FromLong(code);
    return Py_BuildValue("ssKKy#", h.type_name, h.device_name, (unsigned long long)h.body_size,
                         (unsigned long long)h.crc, (char *)again, (Py_ssize_t)sizeof again);
}

static PyMethodDef methods[] = {{"crc", crc, METH_VARARGS, NULL},
                                {"pack", pack, METH_VARARGS, NULL},
                                {"unpack", unpack, METH_VARARGS, NULL},
                                {"header", header, METH_VARARGS, NULL},
                                {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "use_c", NULL, -1, methods};

PyMODINIT_FUNC PyInit_use_c(void)
{
    igtl = igtl_capi_import();
    if (!igtl)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddIntConstant(module, "version", igtl->version))
        Py_CLEAR(module);
    return module;
}
