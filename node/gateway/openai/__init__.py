"""OpenAI's dialect: what clients send, decoded and checked, and the answers as they read them."""
