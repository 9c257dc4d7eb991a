"""What blocking and asyncio drivers share about sockets."""
