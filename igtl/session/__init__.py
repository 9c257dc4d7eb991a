"""What happens on one connection, without any I/O: no socket, no thread, no task, no sleep."""
