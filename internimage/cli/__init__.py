"""The command ``internimage``: one file a verb."""
