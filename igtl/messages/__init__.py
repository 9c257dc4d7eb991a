"""The message types of OpenIGTLink, one class each, grouped by what they are about."""
