"""The loop that closes: when a generation opens, what its next step is. Pure decisions; `workers.driver` acts on them."""
