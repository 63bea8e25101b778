"""What every component's shell shares: health and metrics endpoints, Kafka client settings."""
