"""The measurements of `bench.nodes`, one each."""
