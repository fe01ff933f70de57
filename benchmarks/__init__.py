"""Side by side with peers, on one machine; see README.md."""
