"""The comparison of aiomilter with what somebody would take instead; see ``bench/README.md``."""
