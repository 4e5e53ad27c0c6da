"""What recipes read: latents, texts, buckets."""
