"""Profiles: what one kind of peer needs, and what harms it."""
