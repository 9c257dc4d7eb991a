"""Programs that use links: relay, transfer, pacing."""
