"""The commands of `relay`, one file per group. Each registers its arguments and runs them; `relay.cli` dispatches."""
