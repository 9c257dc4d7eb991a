"""Scenarios of users of PLUS, against a real PlusServer where there is one."""
