"""Programs that stand on links: relay, transfer, pacing."""
