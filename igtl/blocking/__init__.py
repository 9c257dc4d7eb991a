"""Links for programs without an event loop: threads and sockets."""
