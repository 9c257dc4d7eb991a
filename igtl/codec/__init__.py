"""Bytes and objects: how messages are declared, packed, unpacked and shown. No I/O."""
