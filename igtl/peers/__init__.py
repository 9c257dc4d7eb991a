"""Profiles: what one kind of peer needs, and what stops or confuses it."""
