"""What was learned, looked at from outside: representations, leakage, attribution."""
