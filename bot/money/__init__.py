"""What the rented machine costs while nobody uses it: a pure decision, and the effects around it."""
