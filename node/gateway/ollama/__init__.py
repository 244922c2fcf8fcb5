"""Ollama's dialect: its requests decoded and checked, and the answers as its clients read them."""
