"""`/v1/capabilities`: outcomes, whatever model gives them."""
