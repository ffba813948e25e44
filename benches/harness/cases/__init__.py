"""What is measured: each module has functions `run…(context) -> (cases, ratios)`."""
