"""What happens without a request: deliveries from the outbox, and upkeep by a schedule."""
